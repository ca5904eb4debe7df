"""Scoring and choosing without generation, on tiny real models: from a file, from the real rows, and bad inputs."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_rows, write_jsonl

from gendistill.config import Config
from gendistill.data import load_real
from gendistill.errors import ConfigError, DataError
from gendistill.scoring import Chosen, Scored, score_candidates, select_candidates
from gendistill.selection import METHODS


def settings(encoder: Path, data: Path, **changes: Any) -> Config:
    values: dict[str, Any] = {
        "per_class": 4,
        "data": {"dataset": str(data)},
        "student": {"model": str(encoder), "steps": 6, "batch_size": 8, "max_tokens": 32, "checkpoints": 2},
        # The tiny teacher is barely trained: its opinion must not decide whether there is a pool at all.
        "filters": {"teacher_probability": 0.05, "real_copy_similarity": 1.0, "near_duplicate": 1.0},
        "selection": {"min_distance": 0.1},  # ten candidates a class, and they lie close
    }
    return Config(**{**values, **changes})


@pytest.fixture(scope="module")
def config(tiny_encoder_dir: Path, tiny_jsonl: Path) -> Config:
    return settings(tiny_encoder_dir, tiny_jsonl)


@pytest.fixture(scope="module")
def candidates(tmp_path_factory: pytest.TempPathFactory, config: Config) -> Path:
    """30 rows that stand up to the filters, and one of each kind that does not."""
    real = load_real(config.data, per_class=1, seed=0)
    texts = {row.text for row in (*real.train, *real.dev, *real.test)}
    fresh = [{**row, "source": "me", "provenance": {"generator": "mine"}} for row in tiny_rows(14, 3, seed=41)]
    fresh = [row for row in fresh if row["text"] not in texts][:30]
    copies = (real.train[0], real.test[0])
    bad = [
        {"text": "", "label": "food"},
        {"text": "The fog was good today.", "label": "weather"},
        {"text": fresh[0]["text"], "label": fresh[0]["label"]},
        {"text": "}{ }{ }{ }{ }{", "label": "food"},
        *({"text": row.text, "label": real.label_names[row.label]} for row in copies),
    ]
    return write_jsonl(tmp_path_factory.mktemp("candidates") / "c.jsonl", [*fresh, *bad])


@pytest.fixture(scope="module")
def scored(candidates: Path, config: Config) -> Scored:
    return score_candidates(candidates, config)


@pytest.fixture(scope="module")
def chosen(candidates: Path, config: Config) -> Chosen:
    return select_candidates(candidates, config)


def test_every_row_comes_back_in_order_with_a_verdict(scored: Scored, candidates: Path) -> None:
    given = [json.loads(line) for line in candidates.read_text(encoding="utf-8").splitlines()]
    rows = scored.rows
    assert [row["text"] for row in rows] == [row["text"] for row in given]
    assert [row["line"] for row in rows] == list(range(1, len(given) + 1))
    assert [row["filter"] for row in rows[30:]] == [
        "empty", "unknown_label", "duplicate", "cut_off", "real_copy", "held_out_copy",
    ]  # fmt: skip
    assert all((row["filter"] is None) == row["kept"] == (row["reason"] is None) for row in rows)
    assert rows[0]["source"] == "me"  # what else a row says is handed on
    assert rows[31]["label"] == "weather" and "label_name" not in rows[31]
    assert scored.report.seen == len(rows) == scored.report.kept + sum(scored.report.counts.values())
    assert scored.report.kept == len(scored.kept) == sum(row["kept"] for row in rows)


def test_scores_are_the_teachers_and_the_objectives(scored: Scored, config: Config) -> None:
    from gendistill.objectives import build_objective

    objective = build_objective(config.objective.weights, scored.inputs)
    empty = objective.loss([])
    for i, row in enumerate(scored.kept):
        scores = scored.rows[row]["scores"]
        label = scored.rows[row]["label"]
        probability = float(scored.inputs.candidate_features[-1].probabilities[i, label])
        assert scores["teacher_probability"] == pytest.approx(probability, abs=1e-5)
        cosines = scored.inputs.real_embeddings @ scored.inputs.candidate_embeddings[i]
        assert scores["real_similarity"] == pytest.approx(float(cosines.max()), abs=2e-5)
        assert scores["gain_alone"] == pytest.approx(empty - objective.loss([i]), abs=2e-5)
        assert scores["terms"] == {"meta_model": scores["gain_alone"]}  # one term: it is the whole


def test_terms_of_a_sum_add_up(candidates: Path, config: Config) -> None:
    both = config.model_copy(deep=True)
    both.objective.weights = {"meta_model": 3.0, "gradient": 1.0}
    rows = [row for row in score_candidates(candidates, both).rows if row["kept"]]
    assert set(rows[0]["scores"]["terms"]) == {"meta_model", "gradient"}
    for row in rows:
        terms = row["scores"]["terms"]
        assert row["scores"]["gain_alone"] == pytest.approx(
            0.75 * terms["meta_model"] + 0.25 * terms["gradient"], abs=5e-5
        )


def test_the_choice_is_the_budget_of_kept_rows_with_provenance(
    chosen: Chosen, scored: Scored, candidates: Path
) -> None:
    assert [row["label"] for row in chosen.rows] == [0] * 4 + [1] * 4 + [2] * 4
    kept = {row["text"]: row for row in scored.rows if row["kept"]}
    for row in chosen.rows:
        same = kept[row["text"]]
        assert (row["label_name"], row["id"]) == (same["label_name"], same["id"])
        assert row["scores"]["teacher_probability"] == same["scores"]["teacher_probability"]
        assert row["provenance"] == {"generator": "mine", "candidates": str(candidates), "line": same["line"]}
        assert "probabilities" not in row
    assert 0 < chosen.loss < 1
    assert chosen.notes == []
    assert any(row["scores"]["gain"] > 0 for row in chosen.rows)


def test_it_chooses_what_a_fresh_objective_says_is_better_than_any_baseline(candidates: Path, config: Config) -> None:
    losses = {}
    for method in METHODS:
        other = config.model_copy(deep=True)
        other.selection.method = method
        result = select_candidates(candidates, other)
        assert len(result.rows) == 12
        losses[method] = result.loss
    assert losses["greedy"] == min(losses.values()) < losses["random"]


def test_the_real_rows_are_candidates_of_which_copies_are_not_filtered(config: Config) -> None:
    real = load_real(config.data, per_class=1, seed=0)
    result = select_candidates("real", config)
    train = {row.text for row in real.train}
    assert len(result.rows) == 12 and {row["text"] for row in result.rows} <= train
    assert not {"real_copy", "real_similarity"} & {name for name, n in result.scored.report.counts.items() if n}
    assert result.rows[0]["provenance"] == {"candidates": "real", "dataset": config.data.dataset}
    assert "line" not in result.scored.rows[0]
    assert "real_similarity" not in result.rows[0]["scores"]


def test_a_file_of_the_real_rows_is_turned_away_with_a_hint(config: Config, tiny_jsonl: Path) -> None:
    with pytest.raises(DataError, match=r"none of 120 candidates passes .*real_copy \d+.*give the word real"):
        select_candidates(tiny_jsonl, config)


def test_a_budget_above_the_candidates_takes_all_and_says_so(candidates: Path, config: Config) -> None:
    big = config.model_copy(deep=True, update={"per_class": 25})
    result = select_candidates(candidates, big)
    assert len(result.rows) == len(result.scored.kept)
    assert len(result.notes) >= 3
    assert "for a budget of 25, all of them chosen" in result.notes[0]


def test_proportional_budgets_and_gradient_distances_reach_the_choice(
    candidates: Path, config: Config, chosen: Chosen, tmp_path: Path
) -> None:
    rows = tiny_rows(40, 3)
    uneven = config.model_copy(deep=True)
    few = [row for i, row in enumerate(rows) if row["label"] != "food" or i % 9 == 2]
    uneven.data.dataset = str(write_jsonl(tmp_path / "uneven.jsonl", few))
    uneven.selection.budget = "proportional"
    labels = [row["label_name"] for row in select_candidates(candidates, uneven).rows]
    assert len(labels) == 12 and labels.count("food") < 3 < labels.count("sport")

    apart = config.model_copy(deep=True)
    apart.selection.min_gradient_distance = 0.5
    assert [row["id"] for row in select_candidates(candidates, apart).rows] != [row["id"] for row in chosen.rows]


def test_a_class_without_a_candidate_is_said(candidates: Path, tmp_path: Path, config: Config) -> None:
    rows = [json.loads(line) for line in candidates.read_text(encoding="utf-8").splitlines()][:30]
    two = write_jsonl(tmp_path / "c.jsonl", [row for row in rows if row["label"] != "music"])
    result = select_candidates(two, config)
    assert {row["label_name"] for row in result.rows} == {"food", "sport"}
    assert result.notes[0].startswith("class 'music': no candidate passes")


def test_soft_labels_are_the_tempered_opinion_of_the_teacher(candidates: Path, config: Config, chosen: Chosen) -> None:
    soft = config.model_copy(deep=True)
    soft.selection.labels, soft.selection.label_temperature = "soft", 3.0
    result = select_candidates(candidates, soft)
    assert [row["text"] for row in result.rows] == [row["text"] for row in chosen.rows]
    index = {result.scored.given[row].texts["text"]: i for i, row in enumerate(result.scored.kept)}
    for row in result.rows:
        given = result.scored.inputs.candidate_features[-1].probabilities[index[row["text"]]].tolist()
        powers = [p ** (1 / 3.0) for p in given]
        assert list(row["probabilities"]) == result.scored.real.label_names
        for p, said in zip(powers, row["probabilities"].values(), strict=True):
            assert said == pytest.approx(p / math.fsum(powers), abs=1e-5)
            assert said == round(said, 5)


def test_only_one_class_left_after_the_filters(candidates: Path, tmp_path: Path, config: Config) -> None:
    rows = [json.loads(line) for line in candidates.read_text(encoding="utf-8").splitlines()][:30]
    rows = [row if row["label"] == "food" else {**row, "text": f"}}{{ ][ {i}"} for i, row in enumerate(rows)]
    with pytest.raises(DataError, match=r"only candidates of 'food' pass the filters \(\w+ \d+"):
        select_candidates(write_jsonl(tmp_path / "c.jsonl", rows), config)


def test_every_objective_can_score_and_choose(candidates: Path, config: Config) -> None:
    """Each gets what it needs of the teacher: gradients of the body, segments of its training."""
    from gendistill.objectives import OBJECTIVES

    every = config.model_copy(deep=True)
    every.student.gradient_dims = 16
    every.objective.weights = dict.fromkeys(OBJECTIVES, 1.0)
    rows = [row["scores"] for row in score_candidates(candidates, every).rows if row["kept"]]
    assert all(set(scores["terms"]) == set(OBJECTIVES) for scores in rows)
    for name in OBJECTIVES:
        assert len({scores["terms"][name] for scores in rows}) > 1, name
        mean = sum(sum(scores["terms"].values()) / len(OBJECTIVES) - scores["gain_alone"] for scores in rows)
        assert abs(mean / len(rows)) < 1e-4
    every.student.gradient_dims = 0
    with pytest.raises(ConfigError, match=r"gradient_body needs .* student\.gradient_dims"):
        score_candidates(candidates, every)


def test_unknown_names_are_refused_before_the_data_is_read(config: Config) -> None:
    for section, key, value in (("selection", "method", "best"), ("objective", "weights", {"vibes": 1.0})):
        wrong = config.model_copy(deep=True)
        wrong.data.dataset = "./none.jsonl"
        setattr(getattr(wrong, section), key, value)
        with pytest.raises(ConfigError, match=r"best|vibes"):
            select_candidates("real", wrong)


def test_features_that_are_no_numbers_are_an_error_not_a_verdict(
    candidates: Path, config: Config, tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(tiny_encoder_dir, broken)
    weights = load_file(broken / "model.safetensors")
    name = next(key for key in weights if key.endswith("word_embeddings.weight"))
    weights[name] = torch.full_like(weights[name], torch.nan)
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    bad = config.model_copy(deep=True)
    bad.student.model = str(broken)
    with pytest.raises(DataError, match="NaN or infinity: the student or the embedder is broken"):
        score_candidates(candidates, bad)
