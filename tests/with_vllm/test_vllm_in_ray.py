"""vLLM's engine in Ray's workers, on the CPU; run in vLLM's environment, which has gendistill and Ray too."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import vllm_server
import yaml
from small_run import BUDGET, ROOT, SMALL, Journal, gendistill, labels
from two_nodes import arrived, two_nodes, workers

from gendistill import Config, distill
from gendistill.config import VllmConfig
from gendistill.generators.base import Reply, Request
from gendistill.generators.vllm import VllmGenerator

pytest.importorskip("vllm", reason="make test-vllm runs this in vLLM's environment")
ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

MODEL = "builtin:gemma-3-270m"
ENGINE = VllmConfig(dtype="bfloat16", max_model_len=vllm_server.CONTEXT, enforce_eager=True)


class Answers:
    """A generator that has the replies of a run already."""

    name, chat = MODEL, False

    def __init__(self, run: Path) -> None:
        self.replies = Journal(run).replies

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        for request in requests:
            yield Reply(request.id, *self.replies[request.id])


class Noting(VllmGenerator):
    """vLLM, which notes the requests that its engine is given."""

    remote = False  # as by --generator vllm: everything is written first
    log: Path

    def _refused(self, engine: Any, request: Request) -> str | None:
        with self.log.open("a", encoding="utf-8") as file:
            file.write(f"{request.id}\n")
        return super()._refused(engine, request)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run by the command line, on a cluster of this machine."""
    run = tmp_path_factory.mktemp("ray") / "run"
    engine = [f"generator.vllm.{name}={value}" for name, value in ENGINE.model_dump(exclude_defaults=True).items()]
    status, output = gendistill(
        ["generate", *SMALL, "--out", str(run), "--engine", "ray", "--generator", "vllm", "--model", MODEL,
         *(word for setting in [*engine, "engine.shard_rows=16"] for word in ("--set", setting))],
        **vllm_server.environment(),
    )  # fmt: skip
    assert status == 0, output
    return run


def test_a_run_with_vllm_in_rays_workers(finished: Path) -> None:
    journal = Journal(finished)
    assert labels(finished) == BUDGET
    assert len(list((finished / "shards" / "round-1" / "replies").iterdir())) == 3
    assert journal.replies.keys() == journal.asked.keys() and len(journal.asked) == 40
    assert all(error is None and tokens > 0 for *_, tokens, error in journal.replies.values())
    assert journal.meta["generator"]["chat"] is False  # found out without an engine in the process of the run


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    os.environ.update(vllm_server.environment())
    with two_nodes(Path(__file__).parent, ROOT / "scripts", ROOT / "tests", ROOT) as made:
        yield made


def test_killed_workers_leave_no_engine_and_the_set_is_that_of_the_local_engine(
    finished: Path, cluster: Any, tmp_path: Path
) -> None:
    """Two workers with an engine each, both killed when some of the replies have come."""
    out, log = tmp_path / "run", tmp_path / "log"
    log.touch()
    settings = yaml.safe_load((finished / "config.yaml").read_text(encoding="utf-8")) | {"out": str(out)}
    settings["engine"] = {
        "kind": "ray", "address": cluster.address, "shard_rows": 8, "writers": 2, "scorers": 1
    }  # fmt: skip
    generator = Noting(MODEL, mode="base", structured=False, engine=ENGINE)
    generator.log = log
    killed: list[psutil.Process] = []  # and what they had started
    kept: set[str] = set()
    lines = 0  # of the log, when they were killed

    def kill() -> None:
        nonlocal kept, lines
        deadline = time.monotonic() + 400
        while len(arrived(out)) < 8:
            if time.monotonic() > deadline:
                return
            time.sleep(0.02)
        lost = workers()
        killed.extend(process for worker in lost for process in [worker, *worker.children(recursive=True)])
        for worker in lost:
            os.kill(worker.pid, signal.SIGKILL)
        time.sleep(0.5)  # what was handed over is written
        kept, lines = arrived(out), len(log.read_text().splitlines())

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        distill(Config(**settings), generator=generator)
    finally:
        thread.join()
    _, alive = psutil.wait_procs(killed, timeout=20)
    assert len(killed) >= 2 and all(process.status() == psutil.STATUS_ZOMBIE for process in alive)
    journal, asked = Journal(out), log.read_text().splitlines()
    assert labels(out) == BUDGET and journal.replies.keys() == journal.asked.keys()
    assert len(kept) >= 8 and not kept & set(asked[lines:])
    assert set(asked) == set(journal.asked) and len(asked) > len(set(asked))  # what was on its way is asked again
    # The local engine, given the same replies, makes the same files
    del settings["engine"]
    local = distill(Config(**settings | {"out": str(tmp_path / "local")}), generator=Answers(out))
    for name in ("distilled.jsonl", "results.json", "audit.json"):
        assert (local.out / name).read_bytes() == (out / name).read_bytes(), name
