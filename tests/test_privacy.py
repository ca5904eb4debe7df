"""Private runs: the accounting, the release and its sensitivity, whole tiny runs, and what is refused."""

from __future__ import annotations

import json
import math
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm
from test_run import Replay, replies_of
from tiny import tiny_rows, write_jsonl

import gendistill.privacy.side as side_module
from gendistill import Config, distill, load_config
from gendistill.config import DataConfig
from gendistill.data.split import split_by_row
from gendistill.errors import ConfigError, DataError, GendistillError, MissingExtraError, RunError
from gendistill.examples import Example
from gendistill.filters import TextFilter
from gendistill.generators.base import Reply, Request
from gendistill.loop import Distilled
from gendistill.privacy.accounting import epsilon_spent, noise_multiplier
from gendistill.privacy.model import class_model, usual_lengths
from gendistill.privacy.release import LENGTHS, SHARES, Noise, Sums, exact_sums, noised
from gendistill.privacy.statement import statement

DELTA = 1e-6


# -- accounting -------------------------------------------------------------------------------------------------------


def analytic_delta(multiplier: float, epsilon: float) -> float:
    """Of the Gaussian mechanism (Balle & Wang 2018, theorem 8), in closed form."""
    half, ratio = 1 / (2 * multiplier), epsilon * multiplier
    return float(norm.cdf(half - ratio) - math.exp(epsilon) * norm.cdf(-half - ratio))


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 4.0])
def test_the_noise_is_what_the_closed_form_asks_for_and_no_less(epsilon: float) -> None:
    multiplier = noise_multiplier(epsilon, DELTA)
    assert analytic_delta(multiplier, epsilon) <= DELTA * 1.001
    assert analytic_delta(0.99 * multiplier, epsilon) > DELTA


def test_the_accountant_gives_back_the_epsilon_and_more_for_two_releases() -> None:
    multiplier = noise_multiplier(1.0, DELTA)
    assert epsilon_spent(multiplier, DELTA) == pytest.approx(1.0, rel=1e-3)
    # Two Gaussian releases are one with the noise over the root of 2
    assert epsilon_spent(multiplier, DELTA, releases=2) == pytest.approx(
        epsilon_spent(multiplier / math.sqrt(2), DELTA), rel=1e-3
    )
    assert noise_multiplier("inf", DELTA) == 0 and math.isinf(epsilon_spent(0.0, DELTA))


def test_without_the_package_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    monkeypatch.setitem(sys.modules, "dp_accounting.pld", None)
    with pytest.raises(MissingExtraError, match=r'pip install "gendistill\[dp\]"'):
        distill(Config(out=tmp_path / "run", privacy={"epsilon": 1.0}))
    assert not (tmp_path / "run").exists()


# -- the release ------------------------------------------------------------------------------------------------------


def some_rows(count: int, width: int = 12, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, list[int], list[int]]:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((count, width))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32), rng.integers(classes, size=count).tolist(), rng.integers(1, 300, count).tolist()


def test_one_row_moves_each_part_by_a_length_of_one_at_most_whatever_it_is() -> None:
    rows, labels, lengths = some_rows(200)
    rows[0] *= 1000  # a broken embedder must not break the guarantee
    lengths[1] = 10**9
    whole = exact_sums(rows, labels, lengths, 3)
    for out in range(12):
        rest = [row for row in range(len(rows)) if row != out]
        part = exact_sums(rows[rest], [labels[row] for row in rest], [lengths[row] for row in rest], 3)
        moved = [
            float(np.linalg.norm(whole.moment - part.moment)),
            *(
                float(np.linalg.norm(getattr(whole, name) - getattr(part, name)))
                for name in ("sums", "counts", "lengths")
            ),
        ]
        assert all(0.9 < one <= 1 + 1e-9 for one in moved), moved
        # Of the whole vector, each part over its noise: the sensitivity that the multiplier is of
        noise = Noise.of(1.0)
        scaled = [one / getattr(noise, name) for one, name in zip(moved, SHARES, strict=True)]
        assert np.linalg.norm(scaled) <= 1 + 1e-9
    assert sum(SHARES.values()) == pytest.approx(1)


def test_the_vector_has_the_length_of_its_parts_and_comes_back() -> None:
    sums = exact_sums(*some_rows(50), 3)
    vector = sums.vector
    assert np.linalg.norm(vector[: 12 * 13 // 2]) == pytest.approx(np.linalg.norm(sums.moment))
    back = Sums.of_vector(vector, 12, 3)
    for name in SHARES:
        np.testing.assert_allclose(getattr(back, name), getattr(sums, name), atol=1e-12)


def test_sums_do_not_depend_on_the_order_of_rows() -> None:
    rows, labels, lengths = some_rows(9000)
    order = np.random.default_rng(1).permutation(len(rows))
    shuffled = exact_sums(rows[order], [labels[row] for row in order], [lengths[row] for row in order], 3)
    np.testing.assert_array_equal(shuffled.vector, exact_sums(rows, labels, lengths, 3).vector)


def test_the_noise_has_the_scale_that_it_says_and_is_drawn_anew() -> None:
    zero = Sums(np.zeros((150, 150)), np.zeros((40, 150)), np.zeros(40), np.zeros(len(LENGTHS)))
    multiplier = 3.0
    released, noise = noised(zero, multiplier), Noise.of(multiplier)
    upper = np.triu_indices(150, 1)
    for found, scale in (
        (released.moment[upper], noise.moment / math.sqrt(2)),  # two entries share one number
        (np.diag(released.moment), noise.moment),
        (released.sums, noise.sums),
        (released.counts, noise.counts),
    ):
        assert abs(np.std(found) / scale - 1) < 5 / math.sqrt(2 * found.size)
        assert abs(np.mean(found)) < 5 * scale / math.sqrt(found.size)
    standard = released.sums.ravel() / noise.sums
    assert np.quantile(standard, 0.975) == pytest.approx(norm.ppf(0.975), abs=0.15)  # the shape of a normal one
    assert not np.array_equal(noised(zero, multiplier).sums, released.sums)
    np.testing.assert_array_equal(noised(zero, 3.0, seed=1).vector, noised(zero, 3.0, seed=1).vector)
    np.testing.assert_array_equal(noised(zero, 0.0).vector, zero.vector)


def test_a_row_is_carved_by_its_own_content_alone() -> None:
    rows = [Example((row["text"],), 0) for row in tiny_rows(300)]
    kept, held = split_by_row(rows, 0.2, seed=0)
    assert 0.15 < len(held) / len(rows) < 0.25
    without, less = split_by_row(rows[1:], 0.2, seed=0)
    assert set(kept) - set(without) | set(held) - set(less) == {rows[0]}
    assert set(without) <= set(kept) and set(less) <= set(held)


# -- the model of it --------------------------------------------------------------------------------------------------


def drawn_rows(counts: list[int], width: int = 24, seed: int = 0) -> tuple[np.ndarray, list[int], np.ndarray]:
    """Unit rows around a mean a class, wide along a few axes; and the means."""
    rng = np.random.default_rng(seed)
    means = 0.5 * np.linalg.qr(rng.standard_normal((width, len(counts))))[0].T
    axes = np.diag(np.r_[np.full(3, 0.3), np.full(width - 3, 0.1)])
    labels = np.repeat(np.arange(len(counts)), counts)
    rows = means[labels] + rng.standard_normal((len(labels), width)) @ axes
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32), labels.tolist(), means


def test_without_noise_the_model_has_the_moments_of_the_rows() -> None:
    rows, labels, _ = drawn_rows([900, 600, 300])
    model = class_model(exact_sums(rows, labels, [5] * len(rows), 3), Noise.of(0.0))
    for label in range(3):
        np.testing.assert_allclose(model.means[label], rows[np.array(labels) == label].mean(0), atol=1e-3)
    centred = rows - np.stack([rows[np.array(labels) == label].mean(0) for label in range(3)])[labels]
    np.testing.assert_allclose(model.axes.T @ model.axes, centred.T @ centred / len(rows), atol=1e-3)
    drawn, classes = model.stand_ins(4000, [0])
    assert np.allclose(np.linalg.norm(drawn, axis=1), 1, atol=1e-5) and np.bincount(classes).tolist() == [4000] * 3
    for label in range(3):
        np.testing.assert_allclose(drawn[classes == label].mean(0), model.means[label], atol=0.03)


def test_what_noise_drowns_is_drawn_to_the_middle_and_what_stands_out_is_kept() -> None:
    rows, labels, _ = drawn_rows([20_000, 20_000, 15])
    exact = exact_sums(rows, labels, [5] * len(rows), 3)
    multiplier = noise_multiplier(1.0, DELTA)
    raw, errors = [], []
    for seed in range(10):
        released = noised(exact, multiplier, seed=seed)
        model = class_model(released, Noise.of(multiplier))
        small = model.means[2] - (released.sums.sum(0) / model.counts.sum())
        assert np.linalg.norm(small) < 0.5 * np.linalg.norm(released.sums[2] / model.counts[2])
        found = model.axes.T @ model.axes
        wanted = class_model(exact, Noise.of(0.0))
        errors.append(np.linalg.norm(found - wanted.axes.T @ wanted.axes))
        moment = released.moment / released.counts.sum() - exact.moment / len(rows)
        raw.append(np.linalg.norm(moment))
        assert np.linalg.norm(model.means[:2] - wanted.means[:2]) < 0.05
        assert model.drowned == (2,) and not wanted.drowned
        assert np.trace(found) + (model.counts / model.counts.sum()) @ np.square(model.means).sum(1) == pytest.approx(
            1, abs=0.02
        )
    assert np.mean(errors) < 1.5 * np.mean(raw)


def test_usual_lengths_are_those_of_bins_that_hold_more_than_noise() -> None:
    rows = exact_sums(some_rows(1000)[0], [0] * 1000, [9] * 500 + [40] * 490 + [3000] * 10, 1)
    assert usual_lengths(rows, Noise.of(0.0)) == (8, 47)
    # Ten rows in a bin are less than the noise of epsilon 1; five hundred are more
    assert usual_lengths(noised(rows, noise_multiplier(1.0, DELTA), seed=0), Noise.of(4.22)) == (8, 47)
    assert usual_lengths(exact_sums(some_rows(5)[0], [0] * 5, [9] * 5, 1), Noise.of(4.22)) == (1, 4096)


def test_a_filter_that_learnt_nothing_still_turns_garbage_away() -> None:
    checked = TextFilter(Config().filters, [], lengths=(3, 20))
    assert checked.check(Example(("The bank raised its rates again on Monday",), 0), "stop") is None
    for text, wanted in (
        ("Too short", "length"),
        ("word " * 30, "length"),
        ("no no no no no no no no no", "garbage"),
        ("*** ### ~~~ ||| a b c ///// %%%%%%", "garbage"),
        ("The bank raised its rates again on Monday", "duplicate"),
    ):
        found = checked.check(Example((text,), 0), "stop")
        assert found is not None and found.filter == wanted, text


# -- whole runs -------------------------------------------------------------------------------------------------------


def private_config(out: Path, encoder: Path, causal: Path, data: Path, **changes: Any) -> Config:
    values: dict[str, Any] = {
        "out": str(out),
        "per_class": 3,
        "rounds": 2,
        "data": {"dataset": str(data), "label_names": ["sport", "music", "food"]},
        "student": {"model": str(encoder), "steps": 6, "batch_size": 8, "max_tokens": 32, "checkpoints": 2},
        "generator": {
            "model": str(causal),
            "candidates_per_class": 24,
            "samples_per_prompt": 3,
            "batch_size": 12,
            "dtype": "float32",
        },
        "filters": {"teacher_probability": 0.02, "near_duplicate": 1.0},
        "evaluate": {"seeds": 0},
        "privacy": {"epsilon": 1.0, "seed": 3},
    }
    return Config(**{**values, **changes})


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("private-data") / "rows.jsonl", tiny_rows(150, 3))


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Path, tiny_causal_dir: Path, rows_file: Path
) -> tuple[Config, Distilled]:
    config = private_config(tmp_path_factory.mktemp("runs") / "run", tiny_encoder_dir, tiny_causal_dir, rows_file)
    return config, distill(config)


def asked(out: Path) -> list[tuple]:
    with sqlite3.connect(out / "run.db") as db:
        return db.execute("SELECT id, label, position, body FROM requests ORDER BY round, position").fetchall()


def test_no_real_text_is_shown_to_the_generator_and_later_prompts_show_chosen_ones(
    finished: tuple[Config, Distilled],
) -> None:
    config, result = finished
    real = [row.text for row in (*result.real.train, *result.real.dev, *result.real.test)]
    prompts = [json.loads(body)["prompt"] for *_, body in asked(config.out)]
    assert len(prompts) > 72 - 1 and not any(text in prompt for prompt in set(prompts) for text in real)
    written = {reply[1].strip() for reply in replies_of(config.out).values()}
    shown = [line.removeprefix("- ") for prompt in prompts for line in prompt.splitlines() if line.startswith("- ")]
    assert shown and set(shown) <= written
    for row in result.rows:
        assert "real_similarity" not in row["scores"] and 0 <= row["scores"]["teacher_probability"] <= 1


def test_a_run_says_what_it_spent(finished: tuple[Config, Distilled]) -> None:
    config, _ = finished
    record = json.loads((config.out / "privacy.json").read_text(encoding="utf-8"))
    assert record["epsilon"] == 1.0 and record["delta"] == DELTA and record["seeded"] and record["releases"] == 1
    assert epsilon_spent(record["multiplier"], DELTA) <= 1.001
    assert record["statement"] == statement(config.privacy, record["multiplier"])
    card = (config.out / "README.md").read_text(encoding="utf-8")
    assert "## Privacy\n\nNo privacy guarantee" in card and "was shown no real text" in card and "LoRA" not in card
    assert "No privacy guarantee" in record["statement"]  # the seed of the noise is in the configuration
    assert "epsilon 1 and delta 1e-06" in statement(Config(privacy={"epsilon": 1}).privacy, record["multiplier"])


def test_running_it_again_draws_no_noise_and_gives_the_same_bytes(
    finished: tuple[Config, Distilled], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = finished
    before = [(config.out / name).read_bytes() for name in ("distilled.jsonl", "privacy.json")]

    def never(*_: Any) -> Any:
        raise AssertionError("a resumed run looked at the real rows again")

    monkeypatch.setattr(side_module, "_release", never)
    distill(config)
    assert [(config.out / name).read_bytes() for name in ("distilled.jsonl", "privacy.json")] == before


def test_with_fresh_noise_a_run_that_stopped_goes_on_with_the_release_it_made(
    tmp_path: Path, tiny_encoder_dir: Path, tiny_causal_dir: Path, rows_file: Path
) -> None:
    config = private_config(
        tmp_path / "run", tiny_encoder_dir, tiny_causal_dir, rows_file, privacy={"epsilon": 2.0}, rounds=1
    )

    class Dies:
        name, chat = str(tiny_causal_dir), False

        def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(config, generator=Dies())
    with sqlite3.connect(config.out / "run.db") as db:
        made = db.execute("SELECT value FROM meta WHERE key = 'private release'").fetchone()
    result = distill(config)
    with sqlite3.connect(config.out / "run.db") as db:
        assert db.execute("SELECT value FROM meta WHERE key = 'private release'").fetchone() == made
    assert len(result.rows) == 9 and not json.loads(made[0])["seeded"]
    with pytest.raises(RunError, match=r"privacy.epsilon was 2.0, is 3.0"):
        distill(load_config(config.out / "config.yaml", {"out": str(config.out), "privacy.epsilon": 3.0}))


@pytest.mark.parametrize("change", ["one row less", "other data altogether"])
def test_with_the_release_given_the_real_rows_change_no_byte(
    change: str,
    finished: tuple[Config, Distilled],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neighbours, and other rows under other classes: prompts, sampling seeds and the result are the same."""
    config, result = finished
    with sqlite3.connect(config.out / "run.db") as db:
        release = json.loads(db.execute("SELECT value FROM meta WHERE key = 'private release'").fetchone()[0])
    rows = tiny_rows(150, 3)
    others = [
        {"text": f"{row['text']} Or so they say, at length.", "label": ("sport", "sport", "music", "food")[number % 4]}
        for number, row in enumerate(tiny_rows(70, 6, seed=9))
    ]
    data = write_jsonl(tmp_path / "rows.jsonl", rows[1:] if change == "one row less" else others)
    monkeypatch.setattr(side_module, "_release", lambda *_: release)
    other = load_config(config.out / "config.yaml", {"out": str(tmp_path / "run"), "data.dataset": str(data)})
    again = distill(other, generator=Replay(config.generator.model, replies_of(config.out)))
    assert {row.id for row in again.real.train} != {row.id for row in result.real.train}
    assert asked(other.out) == asked(config.out)
    assert (other.out / "distilled.jsonl").read_bytes() == (config.out / "distilled.jsonl").read_bytes()
    assert (other.out / "privacy.json").read_bytes() == (config.out / "privacy.json").read_bytes()


def test_without_noise_and_with_a_table_the_run_is_whole(
    tmp_path: Path, tiny_encoder_dir: Path, tiny_causal_dir: Path, rows_file: Path
) -> None:
    config = private_config(
        tmp_path / "run", tiny_encoder_dir, tiny_causal_dir, rows_file, rounds=1,
        privacy={"epsilon": math.inf}, evaluate={"seeds": 1, "max_test_rows": 20}, selection={"labels": "soft"},
    )  # fmt: skip
    result = distill(config)
    assert result.table[0].method == "distilled" and len(result.table) == 5
    assert load_config(config.out / "config.yaml").privacy.epsilon == "inf"
    assert "epsilon is inf" in json.loads((config.out / "privacy.json").read_text())["statement"]
    assert all(sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-3) for row in result.rows)


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"privacy": {"epsilon": 0}}, "privacy.epsilon: must be positive"),
        ({"privacy": {"epsilon": -1.0}}, "privacy.epsilon: must be positive"),
        ({"privacy": {"epsilon": math.nan}}, "privacy.epsilon: must be positive"),
        ({"privacy": {"epsilon": "-3"}}, "privacy.epsilon: must be positive"),
        ({"privacy": {"epsilon": "some"}}, "privacy.epsilon: must be positive"),
        ({"privacy": {"epsilon": 1, "delta": 0}}, "privacy.delta"),
        ({"privacy": {"epsilon": 1, "delta": 1}}, "privacy.delta"),
        ({"privacy": {"delta": 1e-5}}, "say nothing alone"),
        ({"generator": {"exemplars": 4}}, "generator.exemplars"),
        ({"generator": {"tune": {"steps": 10}}}, "generator.tune.steps"),
        ({"generator": {"adapter": "somewhere"}}, "generator.adapter"),
        ({"data": {"task": "instruction"}}, "data.task"),
        ({"data": {"target": "rows.jsonl"}}, "data.target"),
        ({"selection": {"budget": "proportional"}}, "selection.budget"),
        ({"selection": {"finalists": 3}}, "selection.finalists"),
        ({"objective": {"students": ["tfidf"]}}, "objective.students"),
        ({"objective": {"weights": {"trajectory": 1.0}}}, "trajectory needs a teacher"),
        ({"student": {"gradient_dims": 8}}, "student.gradient_dims"),
    ],
)
def test_what_a_private_run_cannot_keep_to_is_refused_in_a_line(
    values: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        distill(Config(**{"out": tmp_path / "run", "privacy": {"epsilon": 1.0}, **values}))
    assert "\n" not in str(refused.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text_a": "a match", "text_b": "a goal", "label": "sport"}, "pairs of texts"),
        ({"text": "a match", "label": ["sport", "music"]}, "several labels a row"),
    ],
)
def test_pairs_and_several_labels_are_refused(
    row: dict[str, Any], said: str, tmp_path: Path, tiny_encoder_dir: Path, tiny_causal_dir: Path
) -> None:
    rows = []
    for number, given in enumerate(tiny_rows(60, 2)):
        text = "text_a" if "text_a" in row else "text"
        label = [given["label"]] if isinstance(row["label"], list) else given["label"]
        rows.append({**row, text: f"{given['text']} {number}", "label": label})
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    plain = private_config(tmp_path / "run", tiny_encoder_dir, tiny_causal_dir, data)
    config = plain.model_copy(update={"data": DataConfig(dataset=str(data))})
    with pytest.raises(DataError, match=said) as refused:
        distill(config)
    assert "\n" not in str(refused.value)


def test_select_and_score_are_never_private(tmp_path: Path) -> None:
    from gendistill.scoring import select_candidates

    with pytest.raises(GendistillError, match="only generate can be private"):
        select_candidates("real", Config(out=tmp_path / "run", privacy={"epsilon": 1.0}))


def test_a_delta_that_protects_nobody_is_told(
    tmp_path: Path, tiny_encoder_dir: Path, tiny_causal_dir: Path, rows_file: Path
) -> None:
    said: list[str] = []

    class Listens:
        def say(self, line: str) -> None:
            said.append(line)

        def track(self, *_: Any, **__: Any) -> Any:
            from contextlib import nullcontext

            return nullcontext(lambda *_: None)

    config = private_config(
        tmp_path / "run", tiny_encoder_dir, tiny_causal_dir, rows_file, rounds=1, privacy={"epsilon": 1, "delta": 0.01}
    )
    distill(config, reporter=Listens())
    assert any("privacy.delta 0.01 is not below 1 over the rows" in line for line in said)
