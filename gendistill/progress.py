"""What a long job tells while it runs. The library says nothing by itself; the command line draws bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

Advance = Callable[[int], None]  # the number done so far


class Reporter(Protocol):
    def say(self, line: str) -> None:
        """One line worth knowing."""
        ...

    def track(self, stage: str, total: int, done: int = 0) -> _Tracker:
        """A stage of ``total`` units of which ``done`` were there before this process began (they do not count
        towards its rate)."""
        ...


class _Tracker(Protocol):
    def __enter__(self) -> Advance: ...

    def __exit__(self, *exception: object) -> bool | None: ...


class Silent:
    def say(self, line: str) -> None:
        pass

    @contextmanager
    def track(self, stage: str, total: int, done: int = 0) -> Iterator[Advance]:
        yield lambda _done: None
