"""Where the real rows are: what a configuration names as a readable source, or as shards of it."""

from __future__ import annotations

import itertools
import multiprocessing
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Protocol, TypeVar

from gendistill.config import DataConfig
from gendistill.data.builtin import bbc_news_rows, get_builtin
from gendistill.data.places import find_files, names_files
from gendistill.data.readers import Row, Source, hub_shards, joined, open_files, open_hub, open_shards
from gendistill.errors import DataError
from gendistill.progress import Reporter

SHARD_BYTES = 64 << 20  # of a file that is read in parts
HUB_ROWS = 500_000  # of a shard of a hub dataset
T = TypeVar("T")


class Run(Protocol):
    """Works through shards as ``map`` does: here, in processes, on a cluster."""

    def __call__(self, work: Callable[[Source], T], shards: Sequence[Source], /) -> Iterable[T]:
        """The results, in any order."""
        ...


def open_source(config: DataConfig, *, in_shards: bool = False) -> tuple[Source, list[str] | None]:
    """The training rows; and for a hub dataset, the names of its splits.

    :param in_shards: its parts are shards of about one size, to be read one at a time; no more than their heads is
        read here. Else its parts are its files, which are read once to find how their text is encoded.
    :raises DataError: there is nothing of this name, or it cannot be read.
    """
    name = config.dataset
    if name.startswith("builtin:"):
        get_builtin(name)
        return Source(name, _builtin_rows, columns=["text", "label"]), None
    path = Path(name).expanduser()
    asked = config.subset is not None or config.split != DataConfig.model_fields["split"].default
    if names_files(name) and not (path.is_dir() and asked):
        places = find_files(name)
        shown = str(places[0]) if len(places) == 1 else name
        if not in_shards:
            return open_files(shown, places), None
        return joined(shown, [shard for place in places for shard in open_shards(place, SHARD_BYTES)]), None
    if name.startswith((".", "/", "~")) and not path.is_dir():
        raise DataError(f"{name}: no such file or folder")
    hub = str(path) if path.is_dir() else name
    source, splits = open_hub(hub, config.subset, config.split)
    if in_shards:
        source = joined(source.name, hub_shards(hub, config.subset, config.split, HUB_ROWS) or [source])
    return source, splits


def data_shards(config: DataConfig) -> list[Source]:
    """The training rows in parts that can be read apart from one another; picklable.

    :raises DataError: as ``open_source``.
    """
    source, _ = open_source(config, in_shards=True)
    return source.parts or [source]


def open_test(config: DataConfig, splits: list[str] | None) -> Source | None:
    """The test rows that are given, or that a hub dataset has; None if a test must be carved."""
    name = config.test
    if name is not None and (splits is None or (names_files(name) and not Path(name).is_dir())):
        return open_named(name)
    if name is not None:
        return open_hub(config.dataset, config.subset, name)[0]
    if splits and "test" in splits and not re.search(r"\btest\b", config.split):
        return open_hub(config.dataset, config.subset, "test")[0]
    return None


def open_named(name: str) -> Source:
    """One file or several, by a path, a pattern or an address.

    :raises DataError: there is none, or one cannot be read.
    """
    return open_files(name, find_files(name))


def in_processes(count: int) -> Run:
    """Works through shards in so many processes of this machine, and gives results as they come."""

    def run(work: Callable[[Source], T], shards: Sequence[Source]) -> Iterable[T]:
        # A forked copy of a process with threads may hang. The work is sent once a process, for it may be large
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(count, context, initializer=_begin, initargs=(work,)) as pool:
            try:
                for done in as_completed([pool.submit(_work_on, shard) for shard in shards]):
                    yield done.result()
            finally:
                pool.shutdown(cancel_futures=True)  # after an error, what has not begun

    return run


def tracked(reporter: Reporter, stage: str, run: Run = map) -> Run:
    """The same, telling how many shards are done."""

    def told(work: Callable[[Source], T], shards: Sequence[Source]) -> Iterable[T]:
        with reporter.track(stage, len(shards)) as advance:
            count = itertools.count(1)
            for result in run(work, shards):
                advance(next(count))
                yield result
                del result  # before the next is made

    return told


_work: Callable[[Source], Any] | None = None  # of a process of in_processes


def _begin(work: Callable[[Source], Any]) -> None:
    global _work
    _work = work


def _work_on(shard: Source) -> Any:
    assert _work is not None  # set when the process began
    return _work(shard)


def _builtin_rows(columns: list[str] | None) -> Iterator[Row]:
    for number, (text, label) in enumerate(bbc_news_rows(), 1):
        yield number, {"text": text, "label": label}
