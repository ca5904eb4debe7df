"""How long the stages of a job take, by any clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

from gendistill.progress import Advance, Reporter

Clock = Callable[[], float]


class Stopwatch:
    """A reporter that notes how long each stage took.

    ``stages`` maps a stage to (units, seconds); ``steps`` to the seconds between its reports of progress.
    """

    def __init__(self, reporter: Reporter, clock: Clock) -> None:
        self.reporter, self.clock = reporter, clock
        self.stages: dict[str, tuple[int, float]] = {}
        self.steps: dict[str, list[float]] = {}

    def say(self, line: str) -> None:
        pass  # the run says it again

    @contextmanager
    def track(self, stage: str, total: int, done: int = 0) -> Iterator[Advance]:
        marks = [self.clock()]
        with self.reporter.track(f"sample: {stage}", total, done) as advance:

            def noted(done: int, note: str = "") -> None:
                marks.append(self.clock())
                advance(done, note)

            yield noted
        self.stages[stage] = (total, self.clock() - marks[0])
        self.steps[stage] = [later - earlier for earlier, later in pairwise(marks[1:])]

    def row_s(self, stage: str) -> float:
        """Seconds a unit."""
        total, seconds = self.stages.get(stage, (0, 0.0))
        return seconds / total if total else 0.0
