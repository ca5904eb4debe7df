"""Between the event loop of a generator, in a thread of its own, and the loop of whoever takes its replies."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from gendistill.generators.base import Reply

T = TypeVar("T")

JOIN_S = 10.0


class Exchange:
    """Replies on their way; ``put`` and ``behind`` belong to the event loop, ``taken`` to the other thread."""

    def __init__(self, on_room: Callable[[], None]) -> None:
        """:param on_room: called in the taking thread when it is done with what it took."""
        self._ready: list[Sequence[Reply]] = []
        self._changed = threading.Condition()
        self._behind = 0
        self._ended = False
        self._on_room = on_room

    @property
    def behind(self) -> int:
        """Calls whose replies have come and are not yet kept: whoever takes them asks for more when that is done."""
        return self._behind

    def put(self, replies: Sequence[Reply]) -> None:
        """Those of one call."""
        with self._changed:
            self._ready.append(replies)
            self._behind += 1
            self._changed.notify()

    def end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()

    def taken(self) -> Iterator[list[Reply]]:
        """All that is there, again and again, until the end."""
        while True:
            with self._changed:
                while not self._ready and not self._ended:
                    self._changed.wait()
                calls, self._ready = self._ready, []
            if not calls:
                return
            yield [reply for replies in calls for reply in replies]
            with self._changed:
                self._behind -= len(calls)
            self._on_room()


def in_thread(work: Callable[[Exchange, asyncio.Event], Coroutine[Any, Any, None]]) -> Iterator[list[Reply]]:
    """Replies that a coroutine puts into an exchange, those at hand together; what it raises comes after them.

    Closing the iterator, or an exception in its caller, cancels the coroutine.

    :param work: is given the exchange, and an event that is set whenever what was taken is kept.
    """
    loop = asyncio.new_event_loop()
    wake = asyncio.Event()

    def on_room() -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(wake.set)

    exchange = Exchange(on_room)
    errors: list[BaseException] = []
    task = loop.create_task(work(exchange, wake))

    def run() -> None:
        try:
            loop.run_until_complete(task)
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            errors.append(error)
        finally:
            try:
                loop.run_until_complete(loop.shutdown_asyncgens())
                loop.close()
            finally:
                exchange.end()

    thread = threading.Thread(target=run, name="gendistill-generator", daemon=True)
    thread.start()
    try:
        yield from exchange.taken()
    finally:
        if thread.is_alive():
            with contextlib.suppress(RuntimeError):  # it may just have ended by itself
                loop.call_soon_threadsafe(task.cancel)
            thread.join(JOIN_S)
    if errors:
        raise errors[0]


def apart(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine gives, run in a thread of its own: the caller's may have a loop already, as notebooks do."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
