"""Ray carries the work: Ray Data takes the shards through the stages, on the processes and machines that it has.

What each process makes goes to the storage by itself, so Ray moves names alone: a lost worker or node loses no shard
that is done, and of one that was under way no reply that has come (``keeper``). Ray starts another worker and gives it
the same shard. https://docs.ray.io/en/latest/data/ (map, ActorPoolStrategy), Ray 2.60
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gendistill._version import __version__
from gendistill.engines.keeper import Keeper
from gendistill.engines.runner import Step
from gendistill.engines.stages import Replies
from gendistill.engines.storage import Storage
from gendistill.errors import ConfigError, GendistillError, MissingExtraError, RunError
from gendistill.generators.base import Reply
from gendistill.settings import EngineConfig, GeneratorConfig

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
SHARE = 0.01  # of a core that those take which mostly wait


class RayRunner:
    """:param config: the cluster, and how many workers.
    :param generator: says what a writer needs.
    """

    def __init__(self, config: EngineConfig, generator: GeneratorConfig) -> None:
        import ray

        self.ray = ray
        total = ray.cluster_resources()
        self.cores, self.gpus = int(total.get("CPU", 1)), int(total.get("GPU", 0))
        self.writers, self.writer_gpus = self._writers(config, generator)
        self.scorers = config.scorers or max(self.gpus or self.cores, 1)
        if self.gpus and self.writers * self.writer_gpus > self.gpus:
            raise ConfigError(
                f"engine.writers: {self.writers} generators on {self.writer_gpus:g} GPUs each need more than the "
                f"{self.gpus} of the cluster; lower it"
            )

    def _writers(self, config: EngineConfig, generator: GeneratorConfig) -> tuple[int, float]:
        """How many, and GPUs of each."""
        if generator.kind == "server":
            return config.writers or SERVER_WRITERS, 0
        each = generator.vllm.tensor_parallel_size if generator.kind == "vllm" else 1
        if not self.gpus:
            return config.writers or 1, 0
        return config.writers or max(1, self.gpus // each), each

    def run(self, steps: Sequence[Step], shards: Sequence[int]) -> Iterator[tuple[int, dict[str, Any]]]:
        """As ``Runner.run``."""
        data = self.ray.data
        rows = data.from_items(
            [{"shard": shard, "told": pickle.dumps({})} for shard in shards], override_num_blocks=len(shards)
        )
        for step in steps:
            count, cores, gpus = self._needs(step)
            rows = rows.map(
                _Worker,
                fn_constructor_args=(self.ray.put(step.build), max(1, self.cores // count)),
                compute=data.ActorPoolStrategy(size=min(count, len(shards))),
                num_cpus=cores,
                num_gpus=gpus or None,
            )
        try:
            for row in rows.iter_rows():
                told = pickle.loads(row["told"])
                if isinstance(told, GendistillError):
                    raise told
                yield int(row["shard"]), told
        except self.ray.exceptions.RayError as error:
            raise RunError(f"Ray stopped: {_last_line(error)}; the same command goes on from here") from error

    def _needs(self, step: Step) -> tuple[int, float, float]:
        """Workers of a step; cores and GPUs of each."""
        if step.needs == "write":
            return self.writers, SHARE, self.writer_gpus
        if step.needs == "look" and self.gpus:
            return self.scorers, SHARE, min(1.0, self.gpus / self.scorers)
        return self.scorers, SHARE, 0

    @contextmanager
    def keeper(self, path: Path) -> Iterator[Replies]:
        """One on this machine, in a process of its own that no other node takes with it."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(self.ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = self.ray.remote(Keeper).options(num_cpus=0, scheduling_strategy=here).remote(path)
        try:
            yield RemoteKeeper(actor)
        finally:
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


def _get(reference: Any) -> Any:
    import ray

    return ray.get(reference)


class _Worker:
    """A stage in a process of Ray's."""

    def __init__(self, build: Any, threads: int) -> None:
        from gendistill.quiet import quiet_libraries

        quiet_libraries()
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


def _reach(address: str) -> None:
    """:raises RunError: nothing answers at ``host:port`` or ``ray://host:port``."""
    if address in ("auto", "local"):
        return
    parts = urlsplit(address if "://" in address else f"ray://{address}")
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
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _everywhere(ray: Any, storage: str | None = None, probe: str = "") -> list[tuple[str, str, bool]]:
    """(version of gendistill, host, whether a file of the storage is seen), of each node."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

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

    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    task = ray.remote(num_cpus=0, max_retries=0)(about)
    asked = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote() for node in nodes
    ]
    said = []
    for node, reference in zip(nodes, asked, strict=True):
        try:
            said.append(ray.get(reference, timeout=PROBE_S))
        except Exception as error:
            raise RunError(f"--engine ray: node {node[:8]} does not answer ({_last_line(error)})") from error
    return said


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
