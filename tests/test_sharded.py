"""Runs gathered shard by shard, without Ray: the same as at once while all is held, and proposals beyond that."""

from __future__ import annotations

import json
import random
import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fault_server import serving
from test_run import final_bytes, replies_of
from test_server_runs import Dirs, server_config
from tiny import CLASS_NAMES, tiny_rows, write_jsonl

from gendistill import Config, distill
from gendistill.engines.runner import LocalRunner
from gendistill.engines.storage import Storage
from gendistill.errors import RunError
from gendistill.folding import key_hashes
from gendistill.generators.base import Reply, Request
from gendistill.journal import Journal
from gendistill.loop import Distilled
from gendistill.progress import Advance, Silent


@pytest.fixture(scope="module")
def dirs(tiny_encoder_dir: Path, tiny_causal_dir: Path, tiny_jsonl: Path) -> Dirs:
    return tiny_encoder_dir, tiny_causal_dir, tiny_jsonl


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards are worked through here, one after the other: everything but Ray's part."""

    @contextmanager
    def engine_of(config: Config) -> Iterator[LocalRunner | None]:
        yield LocalRunner() if config.engine.kind == "ray" else None

    def open_storage(config: Config) -> Storage:
        return Storage(config.engine.storage or str(config.out / "shards"))

    monkeypatch.setattr("gendistill.engines.near.ALONE_ROWS", 0)
    monkeypatch.setattr("gendistill.loop.engine_of", engine_of)
    monkeypatch.setattr("gendistill.loop.storage_of", open_storage)


def in_shards(config: Config, **engine: Any) -> Config:
    return Config(**config.model_dump() | {"engine": {"kind": "ray", "shard_rows": 30, **engine}})


@pytest.fixture(scope="module")
def at_once(tmp_path_factory: pytest.TempPathFactory, dirs: Dirs) -> Distilled:
    folder = tmp_path_factory.mktemp("at-once")
    with serving(folder) as server:
        return distill(server_config(folder / "run", dirs, server.url, candidates=120))


@pytest.mark.parametrize("rows", [3, 30, 10_000])
def test_shards_of_any_size_give_the_same_run(tmp_path: Path, dirs: Dirs, at_once: Distilled, rows: int) -> None:
    with serving(tmp_path) as server:
        result = distill(in_shards(server_config(tmp_path / "run", dirs, server.url, candidates=120), shard_rows=rows))
    ours, theirs = final_bytes(at_once.out), final_bytes(result.out)
    for name in ("distilled.jsonl", "results.json", "audit.json"):  # the others tell the speed of the server
        assert ours[name] == theirs[name], name
    assert replies_of(at_once.out) == replies_of(result.out)
    assert at_once.filters.to_dict() == result.filters.to_dict()
    assert at_once.filters.counts["duplicate"] == 0 or rows < 10_000


class _Few:
    """Writes a few sentences again and again, in other words of case and punctuation."""

    name, chat, remote = "few", False, True

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        sentences = {
            name: [row["text"] for row in tiny_rows(40, 3, seed=5) if row["label"] == name] for name in CLASS_NAMES[:3]
        }
        for request in requests:
            rng = random.Random(request.seed)
            name = next(name for name in CLASS_NAMES if (request.prompt or "").rfind(f": {name}") >= 0)
            text = rng.choice(sentences[name])
            yield Reply(request.id, rng.choice([text, text.upper()]), "stop", 10, 5)


def test_texts_that_several_shards_have_are_duplicates_of_the_first(tmp_path: Path, dirs: Dirs) -> None:
    config = server_config(tmp_path / "one" / "run", dirs, "http://127.0.0.1:9/v1", candidates=60)
    here = distill(config, generator=_Few())
    far = distill(
        in_shards(config.model_copy(update={"out": tmp_path / "two" / "run"}), shard_rows=9), generator=_Few()
    )
    assert here.filters.counts["duplicate"] > 40
    assert here.filters.to_dict() == far.filters.to_dict()
    assert here.rows == far.rows


def test_near_duplicates_of_other_shards_and_rounds_are_turned_away(tmp_path: Path, dirs: Dirs) -> None:
    with serving(tmp_path) as server:
        config = server_config(tmp_path / "one" / "run", dirs, server.url, candidates=120)
        config = Config(**config.model_dump() | {"filters": config.filters.model_dump() | {"near_duplicate": 0.8}})
        here = distill(config)
        far = distill(in_shards(config.model_copy(update={"out": tmp_path / "two" / "run"})))
    assert here.filters.counts["near_duplicate"] > 100 and len(here.rounds) == 2
    assert here.filters.to_dict() == far.filters.to_dict()
    assert here.rows == far.rows


def test_a_run_begun_at_once_goes_on_in_shards_and_asks_nothing_twice(
    tmp_path: Path, dirs: Dirs, at_once: Distilled
) -> None:
    log = tmp_path / "log"
    with serving(tmp_path, log=str(log)) as server:
        config = server_config(tmp_path / "run", dirs, server.url, candidates=120)
        with pytest.raises(_Enough):
            distill(config, reporter=_Stops("choose 1"))
        result = distill(in_shards(config))
    assert (result.out / "distilled.jsonl").read_bytes() == (at_once.out / "distilled.jsonl").read_bytes()
    lines = log.read_text().splitlines()
    assert len(lines) == len(set(lines)) == len(replies_of(result.out))


class _Enough(Exception):
    pass


class _Stops:
    """A reporter that ends the run at a stage."""

    def __init__(self, stage: str) -> None:
        self.stage = stage

    def say(self, line: str) -> None:
        pass

    @contextmanager
    def track(self, stage: str, total: int, done: int = 0) -> Iterator[Any]:
        if stage == self.stage:
            raise _Enough
        yield lambda *_: None


def test_stopped_anywhere_it_goes_on_from_its_shards(tmp_path: Path, dirs: Dirs, at_once: Distilled) -> None:
    log = tmp_path / "log"
    with serving(tmp_path, log=str(log)) as server:
        config = in_shards(server_config(tmp_path / "run", dirs, server.url, candidates=120))
        for stage in ("generate 1", "choose 1", "generate 2", "choose 2", "measure"):
            with pytest.raises(_Enough):
                distill(config, reporter=_Stops(stage))
        result = distill(config)
    assert (result.out / "distilled.jsonl").read_bytes() == (at_once.out / "distilled.jsonl").read_bytes()
    assert len(log.read_text().splitlines()) == len(replies_of(result.out))


def test_shards_of_another_run_are_refused(tmp_path: Path, dirs: Dirs) -> None:
    with serving(tmp_path) as server:
        config = in_shards(server_config(tmp_path / "run", dirs, server.url), storage=str(tmp_path / "shards"))
        distill(config)
        other = config.model_copy(update={"seed": 1, "out": tmp_path / "other"})
        with pytest.raises(RunError, match="holds the shards of another run"):
            distill(other)
        # The same run again, its directory lost: nothing is asked
        again = config.model_copy(update={"out": tmp_path / "again" / "run"})
        asked = _calls(server.url)
        assert distill(again).rows == distill(config).rows
        assert _calls(server.url) == asked


def _calls(url: str) -> int:
    import urllib.request

    with urllib.request.urlopen(f"{url}/stats") as answer:
        return int(json.loads(answer.read())["calls"])


def test_more_than_can_be_held_is_proposed(tmp_path: Path, dirs: Dirs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gendistill.engines.proposals.GROUP_ROWS", 120)
    with serving(tmp_path, cut=0.1) as server:
        plain = server_config(tmp_path / "whole" / "run", dirs, server.url, candidates=200)
        plain = Config(**plain.model_dump() | {"rounds": 1, "selection": {"method": "greedy"}})
        whole = distill(plain)
        config = in_shards(plain.model_copy(update={"out": tmp_path / "parts" / "run"}), held_rows=500)
        parts = distill(config)
        assert distill(config).rows == parts.rows  # a finished run is the same again
    assert sorted(row["label"] for row in parts.rows) == [0] * 3 + [1] * 3 + [2] * 3
    # Everything is counted, and a part of it is in the pool
    assert parts.filters.seen == whole.filters.seen == 600
    assert parts.filters.counts == whole.filters.counts and sum(parts.filters.counts.values()) > 10
    assert parts.rounds[0].kept == whole.rounds[0].kept > parts.pool_size > 9
    # By the same objective, after two passes over the groups, no worse than the choice from everything at once
    assert parts.rounds[0].loss <= 1.01 * whole.rounds[0].loss
    ours, theirs = (_told(one.out) for one in (whole, parts))
    assert ours["tokens"] == theirs["tokens"] and ours["tokens"] in (parts.out / "README.md").read_text("utf-8")
    funnel = (parts.out / "report.html").read_text(encoding="utf-8")
    assert re.search(r"\b600\b", funnel) and re.search(rf"\b{parts.rounds[0].kept}\b", funnel)


def _told(out: Path) -> dict[str, str]:
    prompt, completion = Journal(sqlite3.connect(out / "run.db")).tokens()
    return {"tokens": f"{prompt:,} prompt and {completion:,} completion tokens"}


@pytest.mark.parametrize("weights", [{"gradient": 1.0}, {"meta_model": 1.0, "coverage": 0.5}])
def test_proposals_by_objectives_that_look_along_training(
    tmp_path: Path, dirs: Dirs, monkeypatch: pytest.MonkeyPatch, weights: dict[str, float]
) -> None:
    monkeypatch.setattr("gendistill.engines.proposals.GROUP_ROWS", 60)
    with serving(tmp_path) as server:
        plain = server_config(tmp_path / "run", dirs, server.url, candidates=60)
        given = {"selection": {"method": "greedy"}, "objective": {"weights": weights}}
        result = distill(in_shards(Config(**plain.model_dump() | given), held_rows=60))
    assert sorted(row["label"] for row in result.rows) == [0] * 3 + [1] * 3 + [2] * 3
    assert result.rounds[1].loss <= result.rounds[0].loss


def test_keys_are_those_of_any_process() -> None:
    assert key_hashes(["The Goal!", "the goal", "a \ud800 half"]).tolist()[:2] == [key_hashes(["the  GOAL"])[0]] * 2
    import subprocess
    import sys

    code = "from gendistill.folding import key_hashes; print(key_hashes(['the goal'])[0])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert np.uint64(said.strip()) == key_hashes(["the goal"])[0]


def test_a_storage_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match=r"--storage .*/file/x: cannot be read or written"):
        Storage(str(tmp_path / "file" / "x")).check()
    with pytest.raises(RunError, match=r"--storage nope://x: cannot be opened"):
        Storage("nope://x").check()


def test_storage_by_address(tmp_path: Path) -> None:
    import pyarrow as pa

    table = pa.table({"a": [1, 2, 3]})
    for address in (str(tmp_path / "plain"), f"file://{tmp_path}/address", "memory://shards/run"):
        storage = Storage(address)
        storage.check()
        storage.write("round-1/x", table)
        assert storage.has("round-1/x") and not storage.has("round-1/y")
        assert storage.names("round-1") == {"x"} and storage.names("round-2") == set()
        assert storage.read("round-1/x", ["a"]).equals(table)
        storage.put_text("run.txt", "mine")
        assert storage.text("run.txt") == "mine" and storage.text("other.txt") is None
        (tmp_path / "folder").mkdir(exist_ok=True)
        (tmp_path / "folder" / "f").write_text("inside")
        storage.send(tmp_path / "folder", "teacher")
        assert (storage.bring("teacher") / "f").read_text() == "inside"
        storage.drop("teacher")
        storage.drop("teacher")


def test_a_copy_of_a_real_row_that_is_not_held_is_turned_away(tmp_path: Path, dirs: Dirs) -> None:
    """Real data of which a sample is held: what is written is a real row outside of it."""
    encoder, causal, _ = dirs
    rows = tiny_rows(60, 3, seed=9) + tiny_rows(40, 3, seed=5)[:60]
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    config = server_config(tmp_path / "run", (encoder, causal, data), "http://127.0.0.1:9/v1", candidates=60)
    config = Config(**config.model_dump() | {"data": {"dataset": str(data), "max_rows": 60}})
    here = distill(config, generator=_Few())
    assert here.filters.counts["real_copy"] > 20 and here.pool_size > 9
    known = set(key_hashes([row["text"] for row in rows]).tolist())
    assert not known & set(key_hashes([row["text"] for row in here.rows]).tolist())
    far = distill(in_shards(config.model_copy(update={"out": tmp_path / "far" / "run"})), generator=_Few())
    assert far.rows == here.rows and far.filters.to_dict() == here.filters.to_dict()


class _Watches(Silent):
    """Remembers how far generating was, each time that it was told."""

    def __init__(self) -> None:
        self.told: list[int] = []

    @contextmanager
    def track(self, stage: str, total: int, done: int = 0) -> Iterator[Advance]:
        yield lambda done, note="": self.told.append(done) if stage == "generate 1" else None


def test_replies_are_progress_before_their_shard_is_done(
    tmp_path: Path, dirs: Dirs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gendistill.progress.POLL_S", 0.02)
    watches = _Watches()
    with serving(tmp_path, delay=0.05) as server:
        config = server_config(tmp_path / "run", dirs, server.url, candidates=120, concurrency=4)
        distill(in_shards(config, shard_rows=10_000), reporter=watches)
    assert watches.told == sorted(watches.told) and watches.told[-1] == 180
    assert len({done for done in watches.told if 0 < done < 180}) > 3, watches.told
