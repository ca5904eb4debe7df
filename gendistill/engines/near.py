"""Near duplicates looked for by many workers: the rows lie in the storage tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from gendistill.engines.runner import Runner, Step
from gendistill.engines.storage import Storage
from gendistill.engines.tables import array_of, features_table
from gendistill.near_duplicates import FloatArray, Neighbours, Search, neighbours, search_here, tile_of, tiles
from gendistill.progress import Reporter

FOLDER = "near"
ALONE_ROWS = 50_000  # so many among themselves take this process ten seconds, as long as workers take to start


class Near:
    """A stage: the earlier rows near those of one tile.

    :param first: rows before this one are only compared with.
    :param least: cosine from which two rows are near.
    """

    def __init__(self, storage: Storage, first: int, least: float) -> None:
        self.storage, self.first, self.least = storage, first, least

    def __call__(self, number: int) -> dict[str, Any]:
        return {"near": neighbours(number, self._read, self.first, self.least)}

    def _read(self, number: int) -> FloatArray:
        rows: FloatArray = array_of(self.storage.read(_name(number)), "embedding").numpy()
        return rows


def search_by(runner: Runner, storage: Storage, reporter: Reporter) -> Search:
    """The same as ``search_here``, spread over workers where there are many rows."""

    def search(rows: FloatArray, first: int, least: float) -> Iterator[Neighbours]:
        if (len(rows) - first) * len(rows) <= ALONE_ROWS**2:  # a few beside a large pool are little work too
            yield from search_here(rows, first, least)
            return
        numbers = tiles(len(rows), first)
        for number in range(numbers.stop):
            tile = tile_of(rows, number)
            storage.write(_name(number), features_table(range(len(tile)), {"embedding": torch.from_numpy(tile)}, {}))
        try:
            with reporter.track("near duplicates", len(rows) - first) as advance:
                yield from _in_order(runner, partial(Near, storage, first, least), numbers, advance)
        finally:
            storage.drop(FOLDER)

    return search


def _in_order(
    runner: Runner, build: Callable[[], Near], numbers: range, advance: Callable[[int], None]
) -> Iterator[Neighbours]:
    came: dict[int, Neighbours] = {}
    due, done = numbers.start, 0
    # The last tiles are compared with most others; begun first, they leave no worker waiting for them at the end
    for number, told in runner.run([Step(build, "work")], numbers[::-1]):
        came[number] = told["near"]
        done += len(came[number].counts)
        advance(done)
        while due in came:
            yield came.pop(due)
            due += 1


def _name(number: int) -> str:
    return f"{FOLDER}/{number:06d}"
