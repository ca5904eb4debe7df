"""A Ray cluster of two nodes that are processes of this machine, its workers, and what has arrived of a run on it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from gendistill.engines.keeper import FILE


@contextlib.contextmanager
def two_nodes(*paths: Path) -> Iterator[Any]:
    """The head, and one more, of one core each.

    :param paths: where workers find modules besides.
    """
    import ray
    from ray.cluster_utils import Cluster

    from gendistill.engines.ray import ENVIRONMENT

    os.environ.update(ENVIRONMENT)
    os.environ["PYTHONPATH"] = os.pathsep.join([*map(str, paths), os.environ.get("PYTHONPATH", "")])
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def workers(node: int | None = None) -> list[psutil.Process]:
    """Ray's workers that take shards through stages, those that were there longest first; of this process's clusters
    alone, for others may be on the machine.

    :param node: the process of a node's raylet: of that node alone.
    """
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            line = process.cmdline() or [""]
            if line[0].startswith("ray::MapWorker") and node in (None, process.ppid()):
                found.append((process.create_time(), process.pid, process))
    return [process for *_, process in sorted(found)]


def arrived(out: Path) -> set[str]:
    """Ids of the requests whose replies are kept: on their way to a shard, or in one."""
    from pyarrow import parquet

    found: set[str] = set()
    with contextlib.suppress(sqlite3.OperationalError), sqlite3.connect(out / FILE) as db:
        found = {id for (id,) in db.execute("SELECT request_id FROM replies")}
    for path in (out / "shards").glob("round-*/replies/*.parquet"):
        found |= set(parquet.read_table(path, columns=["request"]).column(0).to_pylist())
    return found
