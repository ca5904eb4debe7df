"""Whole runs on tiny real models: what comes out, that it comes out the same after a kill, and clear refusals."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from tiny import tiny_rows, write_jsonl

from gendistill import Config, distill
from gendistill.errors import GendistillError, GenerationError, RunError
from gendistill.generators.base import Reply, Request
from gendistill.loop import Distilled

FINAL_FILES = ("distilled.jsonl", "README.md", "results.json", "audit.json", "report.html")


def small_config(out: Path, encoder: Path, causal: Path, data: Path, **changes: object) -> Config:
    values: dict = {
        "out": str(out),
        "per_class": 3,
        "rounds": 2,
        "data": {"dataset": str(data)},
        "student": {"model": str(encoder), "steps": 6, "batch_size": 8, "max_tokens": 32, "checkpoints": 2},
        "generator": {
            "model": str(causal),
            "candidates_per_class": 24,
            "samples_per_prompt": 3,
            "exemplars": 3,
            "batch_size": 12,
            "dtype": "float32",
        },
        # The tiny teacher is barely trained: its opinion must not decide whether there is a pool at all.
        "filters": {"teacher_probability": 0.05, "real_copy_similarity": 1.0, "near_duplicate": 1.0},
        "evaluate": {"seeds": 1, "max_test_rows": 20},
    }
    return Config(**{**values, **changes})


@pytest.fixture(scope="module")
def dirs(tiny_encoder_dir: Path, tiny_causal_dir: Path, tiny_jsonl: Path) -> tuple[Path, Path, Path]:
    return tiny_encoder_dir, tiny_causal_dir, tiny_jsonl


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, dirs: tuple[Path, Path, Path]) -> tuple[Config, Distilled]:
    config = small_config(tmp_path_factory.mktemp("runs") / "run", *dirs)
    return config, distill(config)


def final_bytes(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in FINAL_FILES}


def replies_of(out: Path) -> dict[str, tuple]:
    if not (out / "run.db").exists():
        return {}
    with sqlite3.connect(out / "run.db") as db:
        try:
            return {row[0]: row for row in db.execute("SELECT * FROM replies")}
        except sqlite3.OperationalError:  # killed before the tables were made
            return {}


def test_a_run_gives_the_budget_of_readable_rows_and_every_file(finished: tuple[Config, Distilled]) -> None:
    config, result = finished
    rows = [json.loads(line) for line in result.path.read_text(encoding="utf-8").splitlines()]
    assert rows == result.rows
    assert sorted(row["label"] for row in rows) == [0] * 3 + [1] * 3 + [2] * 3
    assert len({row["text"] for row in rows}) == len(rows)
    real = {example.text for example in result.real.train}
    for row in rows:
        assert row["text"].strip() and row["text"] not in real
        assert row["label_name"] == result.label_names[row["label"]]
        assert 0 <= row["scores"]["teacher_probability"] <= 1
        assert row["provenance"]["generator"] == config.generator.model
    for name in ("config.yaml", "run.db", "README.md"):
        assert (config.out / name).exists()
    assert not (config.out / "teacher").exists()


def test_every_reply_is_accounted_for(finished: tuple[Config, Distilled]) -> None:
    config, result = finished
    asked = sum(round.asked for round in result.rounds)
    assert len(replies_of(config.out)) == asked >= 3 * 24
    assert result.filters.seen == result.filters.kept + sum(result.filters.counts.values())
    assert result.filters.kept == result.pool_size


def test_the_objective_never_rises_over_rounds(finished: tuple[Config, Distilled]) -> None:
    losses = [round.loss for round in finished[1].rounds]
    assert len(losses) >= 2
    assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(losses))


def test_parents_of_a_chosen_text_are_of_its_class(finished: tuple[Config, Distilled]) -> None:
    _, result = finished
    label_of = {example.id: example.label for example in result.real.train}
    for row in result.rows:
        known = [label_of[parent] for parent in row["provenance"]["parents"] if parent in label_of]
        assert known and set(known) == {row["label"]}


def test_running_a_finished_run_again_asks_nothing_and_changes_nothing(finished: tuple[Config, Distilled]) -> None:
    config, _ = finished
    before = final_bytes(config.out)

    class Unasked:
        name, chat = config.generator.model, False

        def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
            raise AssertionError("a finished run asked for replies")

    distill(config, generator=Unasked())
    assert final_bytes(config.out) == before


def test_the_config_that_was_written_replays_the_run(finished: tuple[Config, Distilled], tmp_path: Path) -> None:
    from gendistill import load_config

    config, _ = finished
    again = load_config(config.out / "config.yaml", {"out": str(tmp_path / "again")})
    distill(again)
    assert (tmp_path / "again" / "distilled.jsonl").read_bytes() == (config.out / "distilled.jsonl").read_bytes()


class Replay:
    """Gives the replies that another run got."""

    chat = False

    def __init__(self, name: str, replies: dict[str, tuple]) -> None:
        self.name, self.replies = name, replies

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        for request in requests:
            yield Reply(*self.replies[request.id])


def _run(config: Config) -> None:
    import torch

    torch.set_num_threads(1)
    distill(config)


@pytest.mark.timeout(400)
def test_killed_at_random_points_it_loses_nothing_and_ends_with_the_same_bytes(
    tmp_path: Path, dirs: tuple[Path, Path, Path]
) -> None:
    """SIGKILL a real run again and again, each time a little later, until one ends by itself."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gendistill.loop", "transformers", "torch"])
    config = small_config(tmp_path / "killed" / "run", *dirs)
    luck = random.Random(0)
    kills, wait = 0, 0.3
    for _ in range(60):
        before = replies_of(config.out)
        process = context.Process(target=_run, args=(config,))
        process.start()
        process.join(wait * luck.uniform(0.5, 1.5))
        if not process.is_alive():
            assert process.exitcode == 0
            break
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += 1
        wait *= 1.15
        after = replies_of(config.out)
        assert before.items() <= after.items()
        finished = config.out / "distilled.jsonl"
        if finished.exists():
            assert len(finished.read_text(encoding="utf-8").splitlines()) == 9
    else:
        pytest.fail("the run never ended")
    assert kills >= 5
    fresh = config.model_copy(update={"out": tmp_path / "uninterrupted" / "run"})
    replay = Replay(config.generator.model, replies_of(config.out))
    process = context.Process(target=_replay, args=(fresh, replay))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    assert (fresh.out / "distilled.jsonl").read_bytes() == (config.out / "distilled.jsonl").read_bytes()
    ours, theirs = ((run.out / "README.md").read_text(encoding="utf-8") for run in (config, fresh))
    assert ours.replace(str(config.out), "OUT") == theirs.replace(str(fresh.out), "OUT")


def _replay(config: Config, replay: Replay) -> None:
    import torch

    torch.set_num_threads(1)
    distill(config, generator=replay)


def test_another_configuration_in_the_same_directory_is_refused_by_key(finished: tuple[Config, Distilled]) -> None:
    config, _ = finished
    with pytest.raises(RunError, match=r"per_class was 3, is 4"):
        distill(config.model_copy(update={"per_class": 4}))


def test_a_run_of_an_older_version_resumes_where_new_keys_have_their_defaults(
    finished: tuple[Config, Distilled], tmp_path: Path
) -> None:
    config, _ = finished
    copy = tmp_path / "run"
    shutil.copytree(config.out, copy)
    with sqlite3.connect(copy / "run.db") as db:
        written = json.loads(db.execute("SELECT value FROM meta WHERE key = 'config'").fetchone()[0])
        del written["selection"]["swap_passes"], written["objective"]
        db.execute("UPDATE meta SET value = ? WHERE key = 'config'", (json.dumps(written),))
    again = config.model_copy(deep=True, update={"out": copy})
    assert distill(again, resume="always").rows == finished[1].rows
    again.selection.swap_passes = 1
    with pytest.raises(RunError, match=r"selection\.swap_passes was 3, is 1\)"):
        distill(again)


def test_a_false_start_does_not_bind_the_directory(tmp_path: Path, dirs: tuple[Path, Path, Path]) -> None:
    """A mistyped column or model is mended and run again in the same place."""
    config = small_config(tmp_path / "run", *dirs)
    wrong = config.model_copy(deep=True)
    wrong.data.text_column = "body"
    with pytest.raises(GendistillError, match="body"):
        distill(wrong)
    wrong = config.model_copy(deep=True)
    wrong.generator.model = str(tmp_path / "no-such-model")
    with pytest.raises(GendistillError, match="no-such-model"):
        distill(wrong)
    assert len(distill(config).rows) == 9


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("selection", "method", "best"),
        ("objective", "weights", {"vibes": 1.0}),
        ("generator", "template", Path("none.j2")),
    ],
)
def test_unknown_names_are_refused_before_anything_is_written(
    section: str, key: str, value: object, tmp_path: Path, dirs: tuple[Path, Path, Path]
) -> None:
    config = small_config(tmp_path / "run", *dirs)
    setattr(getattr(config, section), key, value)
    with pytest.raises(GendistillError):
        distill(config)
    assert not (tmp_path / "run").exists()


def test_changed_data_is_refused(finished: tuple[Config, Distilled], tmp_path: Path, tiny_jsonl: Path) -> None:
    config, _ = finished
    copy = tmp_path / "run"
    shutil.copytree(config.out, copy)
    original = tiny_jsonl.read_text(encoding="utf-8")
    try:
        write_jsonl(tiny_jsonl, tiny_rows(40, 3, seed=5))
        with pytest.raises(RunError, match="real data has changed"):
            distill(config.model_copy(update={"out": copy}))
    finally:
        tiny_jsonl.write_text(original, encoding="utf-8")


def test_resume_never_and_always(finished: tuple[Config, Distilled], tmp_path: Path) -> None:
    config, _ = finished
    with pytest.raises(RunError, match="already here"):
        distill(config, resume="never")
    with pytest.raises(RunError, match="no run to resume"):
        distill(config.model_copy(update={"out": tmp_path / "none"}), resume="always")


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path, dirs: tuple[Path, Path, Path]) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(RunError, match="not empty"):
        distill(small_config(tmp_path, *dirs))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thesis.txt"]


def _hold(config: Config, ready: multiprocessing.synchronize.Event) -> None:
    from gendistill.store import Store

    with Store(config.out, config):
        ready.set()
        time.sleep(60)


def test_two_processes_cannot_share_a_directory_and_a_dead_one_leaves_no_lock(
    tmp_path: Path, dirs: tuple[Path, Path, Path]
) -> None:
    from gendistill.store import Store

    config = small_config(tmp_path / "run", *dirs)
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(config, ready))
    holder.start()
    try:
        assert ready.wait(60)
        with pytest.raises(RunError, match="another process"), Store(config.out, config):
            pass
    finally:
        assert holder.pid is not None
        os.kill(holder.pid, signal.SIGKILL)
        holder.join()
    with Store(config.out, config):
        pass


class Garbage:
    """Writes the same nonsense whatever it is asked."""

    name, chat = "garbage", False

    def __init__(self) -> None:
        self.asked = 0

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        for request in requests:
            self.asked += 1
            yield Reply(request.id, "}{ ][ )( " * 6, "stop", 10, 10)


def test_a_generator_of_garbage_is_stopped_early_and_its_texts_are_kept(
    tmp_path: Path, dirs: tuple[Path, Path, Path]
) -> None:
    config = small_config(tmp_path / "run", *dirs)
    config.generator.candidates_per_class = 200
    garbage = Garbage()
    with pytest.raises(GenerationError, match=r"nothing usable: 0 of its first 64 replies passed \(\w+ \d+"):
        distill(config, generator=garbage)
    assert garbage.asked == 64
    with sqlite3.connect(config.out / "run.db") as db:
        kept = db.execute("SELECT COUNT(*), COUNT(filter), COUNT(reason) FROM candidates").fetchone()
    assert kept == (64, 64, 64)
    assert not (config.out / "distilled.jsonl").exists()
    with pytest.raises(GenerationError, match="nothing usable"):  # and nothing more is asked the second time
        distill(config, generator=garbage)
    assert garbage.asked == 64


def test_a_chat_generator_works_too(
    tmp_path: Path, tiny_encoder_dir: Path, tiny_chat_dir: Path, tiny_jsonl: Path
) -> None:
    config = small_config(tmp_path / "run", tiny_encoder_dir, tiny_chat_dir, tiny_jsonl)
    config.evaluate.seeds = 0
    try:
        result = distill(config)
    except GenerationError as error:  # a model this small may fail a class, but only for what it wrote
        assert "passed the filters" in str(error) or "nothing usable" in str(error)
    else:
        assert all(row["provenance"]["template"] == "text_classification.chat" for row in result.rows)
    with sqlite3.connect(config.out / "run.db") as db:
        bodies = [json.loads(row[0]) for row in db.execute("SELECT body FROM requests")]
    assert bodies and all(body["prompt"] is None and body["messages"][-1][0] == "user" for body in bodies)


def test_row_text_reaches_the_prompt_as_typed(tmp_path: Path, dirs: tuple[Path, Path, Path]) -> None:
    rows = tiny_rows(40, 3)
    for row in rows:
        row["text"] += " {{ 7*7 }} {% raw %}"
    config = small_config(tmp_path / "run", dirs[0], dirs[1], write_jsonl(tmp_path / "rows.jsonl", rows))
    garbage = Garbage()
    with pytest.raises(GendistillError):
        distill(config, generator=garbage)
    with sqlite3.connect(config.out / "run.db") as db:
        prompts = [json.loads(row[0])["prompt"] for row in db.execute("SELECT body FROM requests")]
    assert prompts and all("{{ 7*7 }} {% raw %}" in prompt for prompt in prompts)


def test_soft_labels_can_be_asked_for_later_and_cost_no_reply(
    finished: tuple[Config, Distilled], tmp_path: Path
) -> None:
    config, result = finished
    copy = tmp_path / "run"
    shutil.copytree(config.out, copy)
    soft = config.model_copy(deep=True, update={"out": copy})
    soft.selection.labels = "soft"
    rows = distill(soft, generator=Replay(config.generator.model, {})).rows
    for row, hard in zip(rows, result.rows, strict=True):
        probabilities = row.pop("probabilities")
        assert row == hard
        assert list(probabilities) == result.label_names and sum(probabilities.values()) == pytest.approx(1, abs=1e-4)
        # Tempering with 2 takes the square roots: their order is the teacher's, their spread is smaller.
        shares = [p**2 for p in probabilities.values()]
        said = hard["scores"]["teacher_probability"]
        assert shares[row["label"]] / sum(shares) == pytest.approx(said, abs=1e-3)
    card = (copy / "README.md").read_text(encoding="utf-8")
    assert "temperature 2 beside the label" in card and "* `probabilities`: " in card
    assert "probabilities" not in (config.out / "README.md").read_text(encoding="utf-8")


def test_the_teachers_trajectory_outlives_the_teacher(finished: tuple[Config, Distilled], tmp_path: Path) -> None:
    config, _ = finished
    replay = Replay(config.generator.model, replies_of(config.out))
    other = config.model_copy(deep=True, update={"out": tmp_path / "run", "rounds": 1})
    other.objective.weights = {"trajectory": 1.0, "trajectory_adam": 1.0}
    other.evaluate.seeds = 0
    other.generator.candidates_per_class = 12  # the first round of the finished run
    rows = distill(other, generator=replay).rows
    assert len(rows) == 9
    assert not (other.out / "teacher").exists()
    assert distill(other, generator=replay).rows == rows
    assert not (other.out / "teacher").exists()  # it was not trained again


def test_baselines_run_as_methods(finished: tuple[Config, Distilled], tmp_path: Path) -> None:
    config, result = finished
    replay = Replay(config.generator.model, replies_of(config.out))
    other = config.model_copy(deep=True, update={"out": tmp_path / "run", "rounds": 1})
    other.selection.method = "k-center"
    other.evaluate.seeds = 0
    other.generator.candidates_per_class = 12  # the first round of the finished run
    chosen = distill(other, generator=replay)
    assert len(chosen.rows) == len(result.rows)
