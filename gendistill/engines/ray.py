"""Ray carries the work: Ray Data takes the shards through the stages, on the processes and machines that it has.

What each process makes goes to the storage by itself, so Ray moves names alone: a lost worker or node loses no shard
that is done, and of one that was under way no reply that has come (``keeper``). Ray starts another worker and gives it
the same shard. https://docs.ray.io/en/latest/data/ (map, ActorPoolStrategy), Ray 2.60
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import socket
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gendistill._version import __version__
from gendistill.config import EngineConfig, GeneratorConfig
from gendistill.engines.keeper import Keeper
from gendistill.engines.runner import Step
from gendistill.engines.stages import Replies
from gendistill.engines.storage import Storage
from gendistill.errors import ConfigError, GendistillError, MissingExtraError, RunError
from gendistill.generators.base import Reply

REACH_S = 10.0  # for an address to answer
PROBE_S = 60.0  # for a node to say what it has
# Ray reports its use to its makers unless told not to, hides the GPUs from a process that asks for none of them, and
# warns of every worker that it may start again
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
SERVER_WRITERS = 2  # that ask servers: one waits for the last replies of its shard while the other is at its best
# For workers: vLLM's engine in the worker's own process, which takes it along however it ends. vLLM's processes do not
# notice that their parent was killed (0.32, https://github.com/vllm-project/vllm/issues/55510): they stay, with their
# memory and GPU, where Ray does not end the worker's children (2.60 does)
WORKERS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
# Of a core, for each worker of a kind: so little that all have a place however they are spread over nodes, and so much
# that students are no more than cores
CORES = {"write": 0.02, "work": 0.02, "look": 0.6}
WAIT_S = 300  # for the cluster to have room for the workers
VAIN = 3  # times that everything may be lost before anything is done, be it one reply


class RayRunner:
    """:param config: how many workers.
    :param generator: says what a writer needs.
    """

    def __init__(self, config: EngineConfig, generator: GeneratorConfig) -> None:
        import ray

        self.ray, self.config, self.generator = ray, config, generator
        self._kept: Callable[[], int] = _nothing  # replies that have come since the keeper was opened
        self._workers()

    def _workers(self) -> dict[str, tuple[int, float, float]]:
        """Of each kind, by what the cluster has now: how many, cores of each, GPUs of each.

        :raises ConfigError: more is asked for than there is.
        """
        total = self.ray.cluster_resources()
        cores, gpus = int(total.get("CPU", 1)), int(total.get("GPU", 0))
        scorers = self.config.scorers or gpus or cores
        kind, each = self.generator.kind, 0
        if kind != "server" and gpus:
            each = self.generator.vllm.tensor_parallel_size if kind == "vllm" else 1
        writers = self.config.writers or (SERVER_WRITERS if kind == "server" else max(1, gpus // each) if each else 1)
        if writers * each > gpus:
            raise ConfigError(
                f"engine.writers: {writers} generators on {each} GPUs each, and the cluster has {gpus}; lower it"
            )
        return {
            "write": (writers, CORES["write"], each),
            "work": (scorers, CORES["work"], 0),
            "look": (scorers, CORES["look"] * _part(cores, scorers), _part(gpus, scorers)),
        }

    def run(self, steps: Sequence[Step], shards: Sequence[int]) -> Iterator[tuple[int, dict[str, Any]]]:
        """As ``Runner.run``. What a lost worker or node had in hand is done again by others, when the rest is done."""
        left, vain = dict.fromkeys(shards), 0
        while left:
            before, reason = (len(left), self._kept()), ""
            try:
                for row in self._pipeline(steps, list(left)).iter_rows():
                    told = pickle.loads(row["told"])
                    if isinstance(told, GendistillError):
                        raise told
                    if row["shard"] in left:  # Ray may do a part again to have what a lost node held
                        del left[row["shard"]]
                        yield int(row["shard"]), told
            except self.ray.exceptions.RayError as error:
                reason = f" ({_last_line(error)})"
            if left:
                _settle(self.ray)
            vain = vain + 1 if (len(left), self._kept()) == before else 0
            if vain == VAIN:
                raise RunError(
                    f"Ray's workers were lost {VAIN} times before anything was done{reason}; look at memory and at "
                    "'ray status'; the same command goes on from here"
                )

    def _pipeline(self, steps: Sequence[Step], shards: Sequence[int]) -> Any:
        data, workers = self.ray.data, self._workers()
        items = [{"shard": shard, "told": pickle.dumps({})} for shard in shards]
        rows = data.from_items(items, override_num_blocks=len(items))
        for step in steps:
            count, cores, gpus = workers[step.needs]
            rows = rows.map(
                _Worker,
                fn_constructor_args=(self.ray.put(step.build), max(1, int(self._cores_of(count)))),
                compute=data.ActorPoolStrategy(size=min(count, len(items))),
                num_cpus=cores,
                num_gpus=gpus or None,
                # Not given to the same worker again: it may wait for a place in the cluster that is no more
                max_task_retries=0,
            )
        return rows

    def _cores_of(self, count: int) -> float:
        return float(self.ray.cluster_resources().get("CPU", 1)) / count

    @contextmanager
    def keeper(self, path: Path) -> Iterator[Replies]:
        """One on this machine, in a process of its own that no other node takes with it."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(self.ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = self.ray.remote(Keeper).options(num_cpus=0, scheduling_strategy=here).remote(path)
        keeper = RemoteKeeper(actor)
        self._kept = keeper.count
        try:
            yield keeper
        finally:
            self._kept = _nothing
            self.ray.kill(actor)


class RemoteKeeper:
    """A keeper in another process. Picklable."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def add(self, replies: Sequence[Reply]) -> None:
        _get(self._actor.add.remote(list(replies)))  # waited for: then no death of this process loses them

    def known(self, ids: Sequence[str]) -> list[Reply]:
        found: list[Reply] = _get(self._actor.known.remote(list(ids)))
        return found

    def drop(self, ids: Sequence[str]) -> None:
        _get(self._actor.drop.remote(list(ids)))

    def count(self) -> int:
        """0 if it is lost itself."""
        import ray

        try:
            return int(_get(self._actor.count.remote()))
        except ray.exceptions.RayError:
            return 0


def _nothing() -> int:
    return 0


def _part(total: float, count: int) -> float:
    """Of each, in the thousandths that Ray counts by, and no more than one."""
    return min(1.0, math.floor(1000 * total / count) / 1000)


def _get(reference: Any) -> Any:
    import ray

    return ray.get(reference)


class _Worker:
    """A stage in a process of Ray's."""

    def __init__(self, build: Any, threads: int) -> None:
        from gendistill.quiet import quiet_libraries

        quiet_libraries()
        for name, value in WORKERS.items():
            os.environ.setdefault(name, value)
        import torch

        torch.set_num_threads(threads)
        self.stage = _get(build)()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        told = pickle.loads(row["told"])
        if not isinstance(told, GendistillError):
            try:
                told |= self.stage(int(row["shard"]))
            except GendistillError as error:  # one line for the user, without Ray's traceback
                told = error
            except Exception as error:  # not Ray's to do again: it would end in the same way
                told = RunError(f"a worker failed: {type(error).__name__}: {_last_line(error)}")
        return {"shard": row["shard"], "told": pickle.dumps(told)}


# -- the cluster ------------------------------------------------------------------------------------------------------


@contextmanager
def connected(config: EngineConfig) -> Iterator[None]:
    """A connection to the cluster; one that is there already is used and left.

    :raises MissingExtraError: Ray is not installed.
    :raises RunError: the address does not answer, or its nodes have another version of gendistill.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError(
            f"--engine ray needs the package ray ({error}): pip install 'gendistill[ray]'"
        ) from error
    ours = not ray.is_initialized()
    if ours:
        address = config.address or os.environ.get("RAY_ADDRESS")
        if address:
            _reach(address)
        try:
            with _no_stderr():
                ray.init(
                    address=address or "local",
                    include_dashboard=None if address else False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
        except Exception as error:  # several kinds, by what is wrong
            raise RunError(f"--ray-address {address or 'local'}: Ray does not start ({_last_line(error)})") from error
    try:
        _quiet(ray)
        _same_version(ray)
        yield
    finally:
        if ours:
            ray.shutdown()


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Ray's C++ parts write there whatever the level of logging; what is wrong comes as an exception."""
    sys.stderr.flush()
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def _reach(address: str) -> None:
    """:raises RunError: nothing answers at ``host:port``."""
    if address in ("auto", "local"):
        return
    if "://" in address:
        raise RunError(
            f"--ray-address {address}: write host:port, on a machine that is a node of the cluster; a client from "
            "outside is not enough, because what arrives is kept beside the run"
        )
    parts = urlsplit(f"ray://{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port:
        raise RunError(f"--ray-address {address}: write host:port, as 'ray start' says it, or auto")
    try:
        socket.create_connection((host, port), timeout=REACH_S).close()
    except OSError as error:
        raise RunError(
            f"--ray-address {address}: no answer ({error.strerror or error}); is the cluster up? 'ray status' says so"
        ) from error


def _quiet(ray: Any) -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.wait_for_min_actors_s = WAIT_S
    context.max_errored_blocks = -1  # a lost worker's part is done again, and is no reason to stop
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # Of max_task_retries, which has no other place yet (Ray 2.60)
    warnings.filterwarnings("ignore", message=".*ray_remote_args", category=DeprecationWarning)


def _everywhere(ray: Any, storage: str | None = None, probe: str = "") -> list[tuple[str, str, bool]]:
    """(version of gendistill, host, whether a file of the storage is seen), of each node."""

    def about() -> tuple[str, str, bool]:
        # Sent by value, so that a node with another gendistill, or none, can say so
        import socket

        try:
            from gendistill._version import __version__
        except ImportError:
            return "none", socket.gethostname(), True
        if storage is None:
            return __version__, socket.gethostname(), True
        from gendistill.engines.storage import Storage

        return __version__, socket.gethostname(), Storage(storage).text(probe) is not None

    said = []
    for node, reference in _ask_nodes(ray, about).items():
        try:
            said.append(ray.get(reference, timeout=PROBE_S))
        except Exception as error:
            raise RunError(f"--engine ray: node {node[:8]} does not answer ({_last_line(error)})") from error
    return said


def _ask_nodes(ray: Any, about: Callable[[], Any]) -> dict[str, Any]:
    """A reference to what the function gives on each node that Ray takes for alive, by the node's name."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(about)
    return {
        node: task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote()
        for node in (node["NodeID"] for node in ray.nodes() if node["Alive"])
    }


def _settle(ray: Any) -> None:
    """Wait until each node has answered, or Ray has seen that it is gone: until then it counts a lost node's cores, and
    workers meant for them would wait for a place that is no more."""
    asked = list(_ask_nodes(ray, _nothing).values())
    ray.wait(asked, num_returns=len(asked), timeout=PROBE_S, fetch_local=False)


def _same_version(ray: Any) -> None:
    """:raises RunError: a node has another version of gendistill."""
    for version, host, _ in _everywhere(ray):
        if version != __version__:
            raise RunError(
                f"--engine ray: node {host} has gendistill {version}, this process {__version__}; install the same one "
                "everywhere"
            )


def seen_everywhere(storage: Storage) -> None:
    """:raises RunError: a node does not see what is written here."""
    import ray

    probe = f".seen-{uuid.uuid4().hex}"
    storage.put_text(probe, "gendistill")
    try:
        blind = [host for _, host, seen in _everywhere(ray, storage.address, probe) if not seen]
    finally:
        storage.delete(probe)
    if blind:
        raise RunError(
            f"--storage {storage}: node {blind[0]} does not see it; give a folder that every node has, or an address "
            "such as s3://bucket/run"
        )


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
