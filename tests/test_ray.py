"""Runs that Ray carries, on a cluster of two nodes: the same set as by this process, whatever is killed meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
import yaml
from fault_server import serving
from test_near_duplicates import clustered
from test_run import final_bytes, replies_of, small_config
from test_server_runs import Dirs, _lines, _prompts, server_config
from tiny import tiny_rows, write_jsonl
from two_nodes import arrived, two_nodes, workers

import gendistill
from gendistill import Config, distill, engines
from gendistill.config import EngineConfig, GeneratorConfig
from gendistill.engines import near
from gendistill.engines.keeper import FILE
from gendistill.engines.ray import VAIN, RayRunner, connected
from gendistill.engines.storage import Storage
from gendistill.errors import ConfigError, MissingExtraError, RunError
from gendistill.generators.base import Reply
from gendistill.loop import Distilled
from gendistill.near_duplicates import near_duplicates
from gendistill.progress import Silent
from gendistill.scoring import score_candidates

Result = TypeVar("Result")
ray = pytest.importorskip("ray")
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def dirs(tiny_encoder_dir: Path, tiny_causal_dir: Path, tiny_jsonl: Path) -> Dirs:
    return tiny_encoder_dir, tiny_causal_dir, tiny_jsonl


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with two_nodes(Path(__file__).parent, Path(__file__).parent.parent) as made:
        yield made


def on_ray(config: Config, cluster: Any, **engine: Any) -> Config:
    given = {"kind": "ray", "address": cluster.address, "shard_rows": 30, **engine}
    return Config(**config.model_dump() | {"engine": given})


def test_ray_and_this_process_choose_the_same_byte_for_byte(tmp_path: Path, dirs: Dirs, cluster: Any) -> None:
    with serving(tmp_path) as server:
        local = distill(server_config(tmp_path / "local" / "run", dirs, server.url))
        far = distill(on_ray(server_config(tmp_path / "ray" / "run", dirs, server.url), cluster))
    assert replies_of(local.out) == replies_of(far.out)
    ours, theirs = final_bytes(local.out), final_bytes(far.out)
    for name in ("distilled.jsonl", "results.json", "audit.json"):
        assert ours[name] == theirs[name], name
    assert local.filters.to_dict() == far.filters.to_dict() and local.filters.counts["duplicate"] >= 0
    assert [round.loss for round in local.rounds] == [round.loss for round in far.rounds]


def _busy(log: Path, lines: int) -> None:
    deadline = time.monotonic() + 600
    while _lines(log) < lines:
        assert time.monotonic() < deadline, "the server was asked nothing"
        time.sleep(0.01)


def _while(config: Config, disturb: Callable[[], None]) -> Distilled:
    return _beside(lambda: distill(config), disturb)


def _beside(job: Callable[[], Result], disturb: Callable[[], None]) -> Result:
    """The job, with something going wrong beside it."""
    trouble: list[BaseException] = []

    def work() -> None:
        try:
            disturb()
        except BaseException as error:
            trouble.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        return job()
    finally:
        thread.join()
        if trouble:
            raise trouble[0]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, dirs: Dirs) -> Distilled:
    """By this process, undisturbed."""
    folder = tmp_path_factory.mktemp("large")
    with serving(folder) as server:
        return distill(server_config(folder / "run", dirs, server.url, candidates=300))


def _moment(log: Path, out: Path) -> tuple[int, set[str]]:
    """How much the server has answered, and what of it is kept; in the other order what lies between would be kept, and
    answered later."""
    kept = arrived(out)
    return _lines(log), kept


def _same_and_nothing_twice(
    result: Distilled, large: Distilled, log: Path, moments: list[tuple[int, set[str]]], at_once: int
) -> None:
    assert (result.out / "distilled.jsonl").read_bytes() == (large.out / "distilled.jsonl").read_bytes()
    asked = _prompts(result.out)
    answered = [(row["prompt"], row["seed"]) for row in map(json.loads, log.read_text(encoding="utf-8").splitlines())]
    assert len(replies_of(result.out)) == len(asked) == len(set(answered))  # nothing lost
    for lines, kept in moments:
        assert not {asked[id] for id in kept if id in asked} & set(answered[lines:])  # nothing that came is asked again
    assert len(answered) - len(set(answered)) <= len(moments) * at_once  # what was on its way, to the keeper too


def test_killed_workers_lose_nothing_and_ask_nothing_twice(
    tmp_path: Path, dirs: Dirs, cluster: Any, large: Distilled
) -> None:
    """SIGKILL to every worker in turn, in the middle of generation and of scoring."""
    log, at_once = tmp_path / "log", 4
    log.touch()
    moments: list[tuple[int, set[str]]] = []
    with serving(tmp_path, delay=0.02, log=str(log)) as server:
        config = on_ray(
            server_config(tmp_path / "run", dirs, server.url, candidates=300, concurrency=at_once),
            cluster,
            writers=1,
            scorers=1,
        )

        def kill() -> None:
            for lines in (60, 300, 600):
                _busy(log, lines)
                for process in workers():
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
                time.sleep(0.3)  # what the server was at is finished and logged
                moments.append(_moment(log, config.out))

        result = _while(config, kill)
    assert len(moments) == 3 and len(moments[-1][1]) > 300
    _same_and_nothing_twice(result, large, log, moments, at_once)


class _Lost:
    """A pipeline whose workers are all lost."""

    def iter_rows(self) -> Iterator[dict[str, Any]]:
        return iter(())


@pytest.mark.parametrize("came", [True, False])
def test_workers_that_are_lost_again_and_again_are_not_in_vain_while_replies_come(
    cluster: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, came: bool
) -> None:
    """A shard may take longer than workers live; what the keeper has is done."""
    ray.init(address=cluster.address, log_to_driver=False)
    with contextlib.closing(_Connection()):
        runner = RayRunner(EngineConfig(kind="ray"), GeneratorConfig(kind="server"))
        with runner.keeper(tmp_path / FILE) as keeper:
            told = {"shard": 0, "told": pickle.dumps({})}
            pipelines = enumerate([*[_Lost()] * 2 * VAIN, ray.data.from_items([told])])

            def pipeline(*_: Any) -> Any:
                number, made = next(pipelines)
                if came:
                    keeper.add([Reply(str(number), "", "stop")])
                return made

            monkeypatch.setattr(runner, "_pipeline", pipeline)
            if came:
                assert list(runner.run([], [0])) == [(0, {})]
            else:
                with pytest.raises(RunError, match=f"lost {VAIN} times before anything was done"):
                    list(runner.run([], [0]))


def _ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class _Connection:
    def close(self) -> None:
        ray.shutdown()


def test_a_node_that_is_lost_takes_nothing_with_it(
    tmp_path: Path, dirs: Dirs, large: Distilled, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody waits for a place on the node that is gone: whoever did would do so until this test is given up
    monkeypatch.setattr(engines.ray, "WAIT_S", 10_000)
    log, at_once = tmp_path / "log", 4
    log.touch()
    moments: list[tuple[int, set[str]]] = []
    # On one machine a process that connects may do so through any node; this one must not be through the one that goes
    ray.init(address=cluster.address, log_to_driver=False)
    lost = cluster.add_node(num_cpus=2)
    raylet = lost.all_processes["raylet"][0].process.pid
    with contextlib.closing(_Connection()), serving(tmp_path, delay=0.02, log=str(log)) as server:
        config = on_ray(
            server_config(tmp_path / "run", dirs, server.url, candidates=300, concurrency=at_once), cluster, scorers=3
        )  # one of three students has a place on that node alone

        def remove() -> None:
            _busy(log, 150)
            deadline = time.monotonic() + 120
            while not (there := workers(raylet)):
                assert time.monotonic() < deadline, "no worker was on the node"
                time.sleep(0.01)
            cluster.remove_node(lost, allow_graceful=False)
            while not all(map(_ended, there)):
                assert time.monotonic() < deadline, "the node's workers go on without it"
                time.sleep(0.05)
            time.sleep(0.3)
            moments.append(_moment(log, config.out))

        result = _while(config, remove)
    assert len(moments) == 1
    _same_and_nothing_twice(result, large, log, moments, 2 * at_once)


def test_an_address_that_does_not_answer(tmp_path: Path, dirs: Dirs) -> None:
    config = Config(**server_config(tmp_path / "run", dirs, "http://127.0.0.1:9/v1").model_dump() | {
        "engine": {"kind": "ray", "address": "127.0.0.1:9"}
    })  # fmt: skip
    with pytest.raises(RunError, match=r"--ray-address 127.0.0.1:9: no answer .*is the cluster up"):
        distill(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "nowhere", "host:port", "http://127.0.0.1"])
def test_an_address_that_is_none(tmp_path: Path, dirs: Dirs, address: str) -> None:
    config = small_config(tmp_path / "run", *dirs, engine={"kind": "ray", "address": address})
    with pytest.raises(RunError, match=f"--ray-address {address}: write host:port"):
        distill(config)


def test_a_scoring_job_survives_its_workers_and_writes_the_same_bytes(tmp_path: Path, dirs: Dirs, cluster: Any) -> None:
    encoder, _, data = dirs
    rows = [{**row, "label": row["label"]} for row in tiny_rows(2000, 3, seed=7)]
    candidates = write_jsonl(tmp_path / "candidates.jsonl", rows)
    config = small_config(tmp_path / "run", encoder, encoder, data)
    here = score_candidates(candidates, config)
    far = on_ray(config, cluster)
    killed: list[int] = []

    def kill() -> None:
        deadline = time.monotonic() + 120
        while len(killed) < 3 and time.monotonic() < deadline:
            for process in workers():
                # Under way: it has taken time of the processor since it began
                with contextlib.suppress(psutil.NoSuchProcess):
                    if process.pid not in killed and sum(process.cpu_times()[:2]) > 0.5:
                        process.kill()
                        killed.append(process.pid)
                        break
            time.sleep(0.05)

    there = _beside(lambda: score_candidates(candidates, far), kill)
    assert killed and here.rows == there.rows and len(here.kept) > 5000


def test_near_duplicates_are_found_by_workers(tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "ALONE_ROWS", 0)
    rows = clustered(20_000, 3_000, 0.3)
    engine = EngineConfig(kind="ray", address=cluster.address)
    with connected(engine):
        search = near.search_by(RayRunner(engine, GeneratorConfig()), Storage(str(tmp_path)), Silent())
        found = near_duplicates(rows, 9_000, 0.9, search)
    assert found == near_duplicates(rows, 9_000, 0.9) and len(found) > 1_000


def test_a_node_with_another_version_is_refused(tmp_path: Path, dirs: Dirs, cluster: Any) -> None:
    package = Path(gendistill.__file__).parent
    shutil.copytree(package, tmp_path / "old" / "gendistill")
    (tmp_path / "old" / "gendistill" / "_version.py").write_text('__version__ = "0.0.1"\n')
    node = cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": str(tmp_path / "old")})
    # A process of its own: what this one has on its path Ray would give to the nodes too
    settings = yaml.safe_dump(
        json.loads(server_config(tmp_path / "run", dirs, "http://127.0.0.1:9/v1").model_dump_json())
    )
    (tmp_path / "run.yaml").write_text(settings)
    command = [sys.executable, "-m", "gendistill", "generate", "-c", str(tmp_path / "run.yaml")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        said = subprocess.run(
            [*command, "--ray-address", cluster.address], capture_output=True, text=True, cwd=tmp_path, env=environment
        )
    finally:
        cluster.remove_node(node)
    told = " ".join(said.stderr.split())
    assert said.returncode == RunError.exit_code and "Traceback" not in told, told
    assert re.search(r"node \S+ has gendistill 0\.0\.1, this process \S+; install the same one everywhere", told), told


def test_a_storage_that_cannot_be_written_is_said_before_anything_is_asked(
    tmp_path: Path, dirs: Dirs, cluster: Any
) -> None:
    (tmp_path / "file").write_text("x")
    config = on_ray(
        server_config(tmp_path / "run", dirs, "http://127.0.0.1:9/v1"), cluster, storage=str(tmp_path / "file" / "x")
    )
    with pytest.raises(RunError, match=r"--storage .*/file/x: cannot be read or written"):
        distill(config)


def test_without_ray_there_is_one_line(tmp_path: Path, dirs: Dirs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    config = server_config(tmp_path / "run", dirs, "http://127.0.0.1:9/v1")
    with pytest.raises(MissingExtraError, match=r"--engine ray needs the package ray .*gendistill\[ray\]"):
        distill(Config(**config.model_dump() | {"engine": {"kind": "ray"}}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"privacy": {"epsilon": 8}, "generator": {}}, "private run"),
        ({"generator": {"kind": "batch", "model": "m", "mode": "chat"}}, "batch files"),
    ],
)
def test_what_ray_does_not_carry(tmp_path: Path, dirs: Dirs, changes: dict[str, Any], said: str) -> None:
    config = small_config(tmp_path / "run", *dirs, engine={"kind": "ray"}, **changes)
    with pytest.raises(ConfigError, match=f"--engine ray: .*{said}"):
        distill(config)
