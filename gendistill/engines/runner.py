"""The seam between a run and what carries it: stages in, what they tell out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from gendistill.data.readers import Source
from gendistill.data.sources import Run
from gendistill.engines.keeper import Keeper
from gendistill.engines.stages import Replies, Stage

T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """A stage, and what it needs: "write" a generator, "look" a student, "work" a core alone.

    :param build: makes the stage, in each process once; picklable.
    """

    build: Callable[[], Stage]
    needs: Literal["write", "look", "work"]


class Runner(Protocol):
    def run(self, steps: Sequence[Step], shards: Sequence[int]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Take every shard through the steps, in their order; shards as they are done, with what the steps told.

        :raises GendistillError: what a stage raised.
        """
        ...

    def keeper(self, path: Path) -> AbstractContextManager[Replies]:
        """One that stages reach from wherever they run."""
        ...


class _Apply:
    """A stage: a function of one of several things."""

    def __init__(self, work: Callable[[Any], Any], things: Sequence[Any]) -> None:
        self.work, self.things = work, things

    def __call__(self, number: int) -> dict[str, Any]:
        return {"made": self.work(self.things[number])}


def over(runner: Runner) -> Run:
    """What a function makes of each of several things, made wherever the runner works, in any order."""

    def run(work: Callable[[Source], T], shards: Sequence[Source]) -> Iterator[T]:
        for _, told in runner.run([Step(partial(_Apply, work, shards), "work")], range(len(shards))):
            yield told["made"]

    return run


class LocalRunner:
    """One shard after the other, in this process."""

    def run(self, steps: Sequence[Step], shards: Sequence[int]) -> Iterator[tuple[int, dict[str, Any]]]:
        stages = [step.build() for step in steps]
        for shard in shards:
            told: dict[str, Any] = {}
            for stage in stages:
                told |= stage(shard)
            yield shard, told

    def keeper(self, path: Path) -> AbstractContextManager[Replies]:
        return closing(Keeper(path))
