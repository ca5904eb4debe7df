"""What a long job tells while it runs. The library says nothing by itself; the command line draws bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from threading import Event, Thread
from typing import Protocol

POLL_S = 2.0


class Advance(Protocol):
    def __call__(self, done: int, note: str = "") -> None:
        """:param done: the number done so far.
        :param note: worth showing beside it, such as a rate.
        """
        ...


class Reporter(Protocol):
    def say(self, line: str) -> None:
        """One line worth knowing."""
        ...

    def track(self, stage: str, total: int, done: int = 0) -> AbstractContextManager[Advance]:
        """A stage of ``total`` units of which ``done`` were there before this process began (they do not count
        towards its rate)."""
        ...


class Silent:
    def say(self, line: str) -> None:
        pass

    @contextmanager
    def track(self, stage: str, total: int, done: int = 0) -> Iterator[Advance]:
        yield lambda done, note="": None


@contextmanager
def polled(look: Callable[[], None]) -> Iterator[None]:
    """Looks every ``POLL_S`` seconds, in a thread, until the block ends."""
    ended = Event()

    def work() -> None:
        while not ended.wait(POLL_S):
            with suppress(Exception):  # it is for show: what cannot be looked at now may be later
                look()

    thread = Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(POLL_S)
