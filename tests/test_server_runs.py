"""Whole runs whose texts a server writes: the same set whatever goes wrong, nothing asked twice, no key anywhere."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from fault_server import Server, serving
from test_run import replies_of, small_config

from gendistill import Config, distill, intake, teacher
from gendistill.batch import export_requests, import_replies
from gendistill.errors import ConfigError, DataError, GenerationError, RunError
from gendistill.loop import Distilled

Dirs = tuple[Path, Path, Path]


@pytest.fixture(scope="module")
def dirs(tiny_encoder_dir: Path, tiny_causal_dir: Path, tiny_jsonl: Path) -> Dirs:
    return tiny_encoder_dir, tiny_causal_dir, tiny_jsonl


def server_config(
    out: Path, dirs: Dirs, *urls: str, kind: str = "server", candidates: int = 40, **server: Any
) -> Config:
    config = small_config(out, *dirs)
    settings = {
        "base_urls": list(urls),
        "choices_per_call": 1,
        "give_up_after": 20.0,
        "timeout": 5.0,
        "tries": 12,
    } | server
    given = config.generator.model_dump() | {
        "kind": kind, "model": "m", "mode": "base", "candidates_per_class": candidates, "server": settings
    }  # fmt: skip
    return Config(**config.model_dump() | {"generator": given})


def texts(result: Distilled) -> list[tuple[str, int]]:
    return [(row["text"], row["label"]) for row in result.rows]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, dirs: Dirs) -> Distilled:
    """A run without any fault."""
    folder = tmp_path_factory.mktemp("plain")
    with serving(folder) as server:
        return distill(server_config(folder / "run", dirs, server.url, price_in=1.0, price_out=2.0))


def test_the_card_says_what_was_asked_and_what_it_cost(plain: Distilled) -> None:
    card = (plain.out / "README.md").read_text(encoding="utf-8")
    prompt, completion = _tokens(plain.out)
    asked = len(replies_of(plain.out))
    assert f"{asked:,} for {asked:,} replies and 0 failures" in card
    assert f"{prompt:,} prompt and {completion:,} completion tokens" in card
    assert f"{(prompt + 2 * completion) / 1e6:.2f} at 1 and 2 a million tokens" in card


def _tokens(out: Path) -> tuple[int, int]:
    rows = replies_of(out).values()
    return sum(row[3] for row in rows), sum(row[4] for row in rows)


def test_a_run_through_faults_ends_with_the_same_set(tmp_path: Path, dirs: Dirs, plain: Distilled) -> None:
    faults = {"500": 0.08, "503": 0.04, "drop": 0.06, "garbage": 0.04, "empty": 0.04, "429": 0.04}
    with serving(tmp_path, faults=faults) as server:
        result = distill(server_config(tmp_path / "run", dirs, server.url))
    assert texts(result) == texts(plain)
    card = (result.out / "README.md").read_text(encoding="utf-8")
    assert re.search(r"[1-9]\d* again after an error, [1-9]\d* refused", card)


def test_cut_and_withheld_texts_are_counted_failures(tmp_path: Path, dirs: Dirs) -> None:
    with serving(tmp_path, cut=0.4) as server:
        result = distill(server_config(tmp_path / "run", dirs, server.url))
    assert result.filters.counts["withheld"] > 5 and result.filters.counts["cut_off"] > 5
    assert result.filters.seen == result.filters.kept + sum(result.filters.counts.values())


def test_a_server_that_stays_down_stops_a_run_that_then_goes_on(tmp_path: Path, dirs: Dirs, plain: Distilled) -> None:
    config = server_config(tmp_path / "run", dirs, "http://127.0.0.1:9/v1", give_up_after=1.0)
    with pytest.raises(GenerationError, match="goes on from here"):
        distill(config)
    with serving(tmp_path) as server:  # at another address
        result = distill(server_config(tmp_path / "run", dirs, server.url), resume="always")
    assert texts(result) == texts(plain)


def test_features_are_computed_while_texts_are_still_being_written(
    tmp_path: Path, dirs: Dirs, plain: Distilled, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (teacher, intake):
        monkeypatch.setattr(module, "CHUNK", 8)
    seen: list[tuple[int, int]] = []  # replies so far, feature files so far

    class Watching:
        def say(self, line: str) -> None:
            pass

        @contextmanager
        def track(self, stage: str, total: int, done: int = 0) -> Iterator[Any]:
            def advance(done: int, note: str = "") -> None:
                if stage == "generate 1":
                    seen.append((done, len(list((tmp_path / "run" / "features").glob("round-1-*")))))

            yield advance

    with serving(tmp_path, delay=0.1) as server:
        result = distill(server_config(tmp_path / "run", dirs, server.url, concurrency=2), reporter=Watching())
    total = seen[-1][0]
    assert any(files >= 2 for done, files in seen if done < total)
    assert [text for text, _ in texts(result)] == [text for text, _ in texts(plain)]


def _run(config: Config) -> None:
    import torch

    torch.set_num_threads(1)
    distill(config)


@pytest.mark.timeout(600)
def test_killed_fifty_times_no_reply_in_the_journal_is_asked_for_again(tmp_path: Path, dirs: Dirs) -> None:
    """What was on its way at a kill is lost with the process; what came is not."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gendistill.loop", "gendistill.generators.server", "transformers", "torch"])
    log, luck = tmp_path / "log", random.Random(0)
    log.touch()
    at_once = 6
    kept: list[tuple[int, set[str]]] = []  # lines of the log at a kill, and what the journal held then
    with serving(tmp_path, delay=0.05, log=str(log)) as server:
        config = server_config(tmp_path / "run", dirs, server.url, candidates=700, concurrency=at_once)
        while len(kept) < 50:
            before = _lines(log)
            process = context.Process(target=_run, args=(config,))
            process.start()
            while _lines(log) == before and process.is_alive():
                time.sleep(0.005)
            time.sleep(luck.uniform(0, 0.3))
            assert process.is_alive() and process.pid is not None, "it ended before it could be killed"
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            time.sleep(0.15)  # what the server was at is finished and logged
            kept.append((_lines(log), set(replies_of(config.out))))
        result = distill(config)
    asked = _prompts(config.out)
    answered = [(row["prompt"], row["seed"]) for row in map(json.loads, log.read_text(encoding="utf-8").splitlines())]
    for lines, journal in kept:
        assert not {asked[id] for id in journal} & set(answered[lines:])
    times = Counter(answered)
    again = sum(count - 1 for count in times.values())
    assert again <= 50 * at_once and len(replies_of(config.out)) == len(asked) == len(times)
    assert len(result.rows) == 9 and len(kept[-1][1]) > 200


def _lines(log: Path) -> int:
    return log.read_bytes().count(b"\n")


def _prompts(out: Path) -> dict[str, tuple[str, int]]:
    """id -> (prompt, seed as it is sent) of every request."""
    import sqlite3

    with sqlite3.connect(out / "run.db") as db:
        rows = {id: json.loads(body) for id, body in db.execute("SELECT id, body FROM requests")}
    return {id: (body["prompt"], body["seed"] % 2**31) for id, body in rows.items()}


# -- keys -------------------------------------------------------------------------------------------------------------

CANARY = "canary-5f1d0c9b7e"


@pytest.mark.parametrize("right", [True, False])
def test_a_key_is_in_no_file_no_line_and_no_process_listing(right: bool, tmp_path: Path, dirs: Dirs) -> None:
    encoder, _, data = dirs
    with serving(tmp_path / "server", key=CANARY if right else "another", delay=0.02) as server:
        arguments = [
            sys.executable, "-m", "gendistill", "generate", "--dataset", str(data), "--per-class", "2", "--rounds", "1",
            "--generator", "server", "--base-url", server.url,
            "--model", "m", "--mode", "base", "--candidates", "20", "--student", str(encoder), "--eval-seeds", "0",
            "--api-key-env", "MY_KEY", "--out", str(tmp_path / "run"), "--set", "filters.teacher_probability=0.01",
            "--set", "student.steps=4", "--set", "student.checkpoints=2", "--debug",
        ]  # fmt: skip
        process = subprocess.Popen(
            arguments, env=os.environ | {"MY_KEY": CANARY}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        listings = []
        while process.poll() is None:
            listings.append("\n".join(" ".join(one.info["cmdline"] or []) for one in psutil.process_iter(["cmdline"])))
            time.sleep(0.2)
        output = process.communicate()[0]
    assert (process.returncode == 0) == right, output
    assert "MY_KEY" in output or right
    assert CANARY not in output and len(listings) > 3
    assert not any(CANARY in listing for listing in listings)
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {"run.db", "config.yaml"} <= {path.name for path in files}
    for path in files:
        assert CANARY.encode() not in path.read_bytes(), path


def test_credentials_in_an_address_are_used_and_not_written(tmp_path: Path, dirs: Dirs) -> None:
    with serving(tmp_path / "server") as server:
        address = server.url.replace("http://", f"http://me:{CANARY}@") + f"?token={CANARY}"
        config = server_config(tmp_path / "run", dirs, address)
        distill(config)
    assert CANARY not in repr(config)
    written = (tmp_path / "run" / "config.yaml").read_text(encoding="utf-8")
    assert f"{server.url}?token=***" in written
    for path in (tmp_path / "run").rglob("*"):
        assert not path.is_file() or CANARY.encode() not in path.read_bytes(), path


# -- batch files ------------------------------------------------------------------------------------------------------


def answers(files: list[Path], **plan: Any) -> list[dict[str, Any]]:
    """What a batch service would write for these files."""
    service = Server(plan)
    rows = []
    for line in (line for file in files for line in file.read_text(encoding="utf-8").splitlines()):
        request = json.loads(line)
        assert request.keys() == {"custom_id", "method", "url", "body"} and request["method"] == "POST"
        body = json.loads(service._text(request["body"]))
        rows.append(
            {
                "id": "b",
                "custom_id": request["custom_id"],
                "response": {"status_code": 200, "body": body},
                "error": None,
            }
        )
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_batch_files_bring_a_run_to_the_same_set(tmp_path: Path, dirs: Dirs, plain: Distilled) -> None:
    config = server_config(tmp_path / "run", dirs, kind="batch")
    luck = random.Random(0)
    for number in range(config.rounds):
        with pytest.raises(GenerationError, match=r"60 requests wait .*gendistill batch export-requests"):
            distill(config)
        exported = export_requests(config.out, tmp_path / "out.jsonl", most_requests=25)
        assert exported.requests == 60
        assert [file.name for file in exported.files] == ["out-001.jsonl", "out-002.jsonl", "out-003.jsonl"]
        rows = answers(exported.files)
        luck.shuffle(rows)
        errors = [
            row | {"response": {"status_code": 500, "body": {"error": {"message": "overloaded"}}}} for row in rows[:3]
        ]
        strange = [{"custom_id": "nobody", "response": rows[5]["response"]}]
        first = write(tmp_path / "first.jsonl", [*errors, *rows[10:30], *rows[20:40], *strange])
        with first.open("a") as file:
            file.write(json.dumps(rows[50])[:90])  # torn off
        found = import_replies(config.out, [first])
        assert (found.replies, found.known, found.unknown, found.missing) == (30, 10, ["nobody"], 30)
        assert found.failed == {"500 overloaded": 3} and len(found.unreadable) == 1
        assert export_requests(config.out, tmp_path / "rest.jsonl").requests == 30  # the missing ones only
        found = import_replies(config.out, [write(tmp_path / "second.jsonl", rows)])
        assert (found.replies, found.known, found.missing) == (30, 30, 0)
        assert not export_requests(config.out, tmp_path / "none.jsonl").files
        if number + 1 == config.rounds:
            assert texts(distill(config)) == texts(plain)


def test_a_file_is_never_larger_than_a_service_takes(tmp_path: Path, dirs: Dirs) -> None:
    config = server_config(tmp_path / "run", dirs, kind="batch")
    with pytest.raises(GenerationError):
        distill(config)
    exported = export_requests(config.out, tmp_path / "out.jsonl", most_bytes=6000, as_chat=True, model="theirs")
    lines = [line for file in exported.files for line in file.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 60 and len(exported.files) > 3
    assert all(file.stat().st_size <= 6000 for file in exported.files)
    assert {json.loads(line)["url"] for line in lines} == {"/v1/chat/completions"}
    assert {json.loads(line)["body"]["model"] for line in lines} == {"theirs"}


def test_a_request_that_the_service_refuses_is_a_failed_candidate(tmp_path: Path, dirs: Dirs) -> None:
    config = server_config(tmp_path / "run", dirs, kind="batch")
    with pytest.raises(GenerationError):
        distill(config)
    rows = answers(export_requests(config.out, tmp_path / "out.jsonl").files)
    refused = rows[0] | {"response": {"status_code": 400, "body": {"error": {"message": "too long"}}}}
    expired = rows[1] | {"response": None, "error": {"code": "batch_expired", "message": "This request expired."}}
    found = import_replies(config.out, [write(tmp_path / "x.jsonl", [refused, expired, *rows[2:]])])
    assert (found.replies, found.missing) == (59, 1) and found.failed == {"This request expired.": 1}
    assert replies_of(config.out)[rows[0]["custom_id"]][5] == "400 too long"


def test_what_is_wrong_with_batch_files_is_said(tmp_path: Path, dirs: Dirs) -> None:
    with pytest.raises(RunError, match="no run here"):
        export_requests(tmp_path, tmp_path / "x.jsonl")
    config = server_config(tmp_path / "run", dirs, kind="batch")
    with pytest.raises(GenerationError):
        distill(config)
    with pytest.raises(DataError, match="cannot be read"):
        import_replies(config.out, [tmp_path / "nowhere.jsonl"])
    noise = tmp_path / "noise.jsonl"
    noise.write_bytes(b'\xff\xfe\n[]\n{"custom_id": 7}\n\n"x"\n{"custom_id": "a"')
    found = import_replies(config.out, [noise])
    assert len(found.unreadable) == 5 and found.replies == 0 and found.missing == 60


def test_settings_that_do_not_fit_are_refused(tmp_path: Path, dirs: Dirs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ConfigError, match="--base-url: where is the server"):
        distill(server_config(tmp_path / "a", dirs))
    with pytest.raises(ConfigError, match="tune and adapter are for kind transformers"):
        Config(generator={"kind": "server", "tune": {"steps": 3}})
    with pytest.raises(ConfigError, match="--model: name the model"):
        distill(
            Config(
                out=tmp_path / "b",
                dataset=str(dirs[2]),
                generator={"kind": "server", "server": {"base_urls": ["http://x"]}},
            )
        )
