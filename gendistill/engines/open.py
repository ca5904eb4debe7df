"""The engine that a configuration names, opened before anything costs time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gendistill.config import Config
from gendistill.engines.runner import Runner
from gendistill.engines.storage import Storage
from gendistill.errors import ConfigError


@contextmanager
def engine_of(config: Config) -> Iterator[Runner | None]:
    """A connection to what carries the work; None where that is this process.

    :raises ConfigError: what this engine cannot do.
    :raises RunError: it cannot be reached, or a node lacks what it needs.
    """
    if config.engine.kind == "local":
        yield None
        return
    if config.private:
        raise ConfigError("--engine ray: a private run has few real rows to look at; it runs by --engine local")
    if config.generator.kind == "batch":
        raise ConfigError("--engine ray: batch files are answered elsewhere; use --engine local with them")
    from gendistill.engines.ray import RayRunner, connected

    with connected(config.engine):
        yield RayRunner(config.engine, config.generator)


def storage_of(config: Config) -> Storage:
    """Where the shards of a run lie, seen by every node.

    :raises RunError: it cannot be written, or a node does not see it.
    """
    return opened(Storage(config.engine.storage or str(config.out / "shards")))


def opened(storage: Storage) -> Storage:
    """:raises RunError: it cannot be written, or a node does not see it."""
    from gendistill.engines.ray import seen_everywhere

    storage.check()
    seen_everywhere(storage)
    return storage
