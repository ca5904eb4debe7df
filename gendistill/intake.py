"""The replies of a round become candidates, in the order asked, whatever order they come in.

Where the generator's work is done elsewhere this happens in a thread while others are still being written, features
included: only what the journal holds is looked at, so nothing is kept in memory twice and neither side waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

from gendistill.examples import Candidate, Example
from gendistill.filters import Rejection, TextFilter
from gendistill.generators.base import Reply
from gendistill.pool import parse
from gendistill.store import Planned, Store
from gendistill.tasks import Task
from gendistill.teacher import CHUNK, Teacher

Judged = tuple[Candidate, Rejection | None]
SLICE = 256  # requests looked at together


class Intake:
    """:param planned: the requests of the round.
    :param whole: makes of a reply that was cut off what can be used of it (``TokenBudget.whole``).
    :param text_filter: takes the candidates in the order asked; it belongs to this intake until ``finish``.
    """

    def __init__(
        self,
        store: Store,
        planned: Sequence[Planned],
        task: Task,
        chat: bool,
        text_filter: TextFilter,
        teacher: Teacher,
        *,
        round: int,
        generator_name: str,
        whole: Callable[[Reply], Reply],
    ) -> None:
        self.store, self.planned, self.task, self.chat = store, planned, task, chat
        self.text_filter, self.teacher, self.whole = text_filter, teacher, whole
        self.round, self.generator_name = round, generator_name
        self.name = f"round-{round}"  # of its features
        self.judged: list[Judged] = []
        self._passed: list[Example] = []
        self._chunks = 0  # whose features are there
        self._taken = 0  # planned requests that were looked at
        self._there: set[str] = set()  # ids that came before one that they stand behind
        self._complete = 0  # planned requests up to the first without a reply
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._ended = False
        self._error: BaseException | None = None

    def start(self) -> None:
        """Look at replies in a thread from now on; the teacher must be ready."""
        self._thread = threading.Thread(target=self._work, name="gendistill-intake", daemon=True)
        self._thread.start()

    def came(self, replies: Sequence[Reply]) -> None:
        """These are in the journal."""
        with self._changed:
            self._there.update(reply.request_id for reply in replies)
            while self._complete < len(self.planned) and (id := self.planned[self._complete].request.id) in self._there:
                self._there.discard(id)
                self._complete += 1
            self._changed.notify()

    def finish(self) -> list[Judged]:
        """The candidates of all replies that came, with the verdict of the filters on text."""
        self.stop()
        if self._error is not None:
            raise self._error
        self._take(self.store.replies(self.planned[self._taken :]))
        self._taken = len(self.planned)
        return self.judged

    def stop(self) -> None:
        """End the thread, after the slice that it is at."""
        if self._thread is not None:
            with self._changed:
                self._ended = True
                self._changed.notify()
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        reader = self.store.reader()
        try:
            while True:
                with self._changed:
                    while self._complete <= self._taken and not self._ended:
                        self._changed.wait()
                    if self._ended:
                        return
                    end = min(self._complete, self._taken + SLICE)
                self._take(reader.replies(self.planned[self._taken : end]))
                self._taken = end
                if len(self._passed) >= CHUNK:
                    self.teacher.ahead(self.name, self._chunks, self._passed[:CHUNK])
                    del self._passed[:CHUNK]
                    self._chunks += 1
        except BaseException as error:
            self._error = error
        finally:
            reader.close()

    def _take(self, pairs: Iterator[tuple[Planned, Reply]]) -> None:
        for p, reply in pairs:
            came = texts_of(
                p, self.whole(reply), self.task, self.chat, self.text_filter, self.round, self.generator_name
            )
            self.judged += came
            self._passed += [candidate.example for candidate, verdict in came if verdict is None]


def texts_of(
    p: Planned, reply: Reply, task: Task, chat: bool, text_filter: TextFilter, round: int, generator_name: str
) -> list[Judged]:
    """The candidates of a reply, with what the filters on text say of each."""
    found: list[Judged] = []
    for position, (fields, ended) in enumerate(parse(task, reply, chat)):
        example = Example(fields, p.label)
        candidate = Candidate(example, p.request.id, position, round, generator_name, p.template, p.parents)
        if reply.error is not None:
            verdict: Rejection | None = Rejection("generation_error", reply.error)
        else:
            verdict = text_filter.check(example, ended)
        found.append((candidate, verdict))
    return found
