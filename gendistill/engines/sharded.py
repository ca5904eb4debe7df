"""A run's candidates gathered shard by shard, by whatever engine.

Up to ``engine.held_rows`` requests everything that the shards hold comes into the run directory, and the run goes on
with it as if it had been made here: the same pool, the same journal, the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from gendistill.config import GeneratorConfig, TuneConfig
from gendistill.engines.chunks import Chunks
from gendistill.engines.keeper import FILE
from gendistill.engines.near import search_by
from gendistill.engines.runner import Runner, Step
from gendistill.engines.stages import Job, Look, Read, Write
from gendistill.engines.storage import Storage
from gendistill.engines.tables import candidates_of, replies_of
from gendistill.engines.union import Union
from gendistill.engines.views import View, view_of
from gendistill.errors import GenerationError, RunError
from gendistill.examples import Candidate
from gendistill.filters import Rejection
from gendistill.gathering import ADAPTER, Gathered, Gathering
from gendistill.generators import Generator
from gendistill.inputs import RealSide
from gendistill.near_duplicates import Search
from gendistill.planning import Chosen
from gendistill.pool import GarbageWatch
from gendistill.progress import polled
from gendistill.teacher import FOLDER

RUN = "run.txt"  # in the storage: of which run its shards are
DUPLICATE = Rejection("duplicate", "the same text as an earlier candidate")


def claim(storage: Storage, run: str, shard_rows: int) -> Storage:
    """The storage for a run.

    :param run: what it is (``store.identity``).
    :raises RunError: it holds the shards of another run, or of this one cut in another way.
    """
    run = f"{run} {shard_rows}"
    there = storage.text(RUN)
    if there is None:
        storage.put_text(RUN, run)
    elif there != run:
        raise RunError(
            f"--storage {storage}: holds the shards of another run, or of other engine.shard_rows; give a folder of "
            "its own"
        )
    return storage


@dataclass
class ShardedGathering(Gathering):
    """:param side: the real rows as objectives see them.
    :param given: whether the generator is the caller's own, which is sent to the workers as it is."""

    side: RealSide
    runner: Runner
    storage: Storage
    given: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        self._seen: npt.NDArray[np.uint64] = np.empty(0, dtype=np.uint64)  # keys of texts that passed, sorted
        self._view: View | None = None
        per_text = self.config.generator.candidates_per_class / self.config.per_class
        self.held = per_text * sum(self.side.budgets) <= self.config.engine.held_rows
        self.union = None if self.held else Union(self)

    def round(self, number: int, counts: Sequence[int], chosen: Chosen | None) -> Gathered:
        job = Job(self.plan(number, counts, chosen), self.storage, self.config.engine.shard_rows)
        if self.held:
            self.store.plan(number, job.plan.requests())
        done = {int(name) for name in self.storage.names(job.folder("features"))}
        todo = [shard for shard in range(job.shards) if shard not in done]
        if todo:
            self._work(job, todo)
        if self.union is not None:
            return self.union.add(job, chosen)
        judged = self._bring(job)
        kept, replies = self._judge(judged, f"round-{number}")
        return Gathered(job.plan.size, replies, kept)

    def judge_proposed(self, judged: Sequence[tuple[Candidate, Rejection | None]], name: str) -> None:
        """Add to the pool what shards proposed, near duplicates of one another left out."""
        self._judge(judged, name, counted=False)

    def kept_per_class(self) -> list[int]:
        return super().kept_per_class() if self.union is None else list(self.union.kept)

    def close(self) -> None:
        for folder in (FOLDER, ADAPTER):
            self.storage.drop(folder)
        for path in self.store.folder.glob(f"{FILE}*"):
            path.unlink()

    # -- the work -------------------------------------------------------------------------------------------------

    def _work(self, job: Job, todo: Sequence[int]) -> None:
        """Take shards through all stages."""
        if self._view is None:
            self._view = view_of(self.teacher, self.storage)
        known, names = self.reference.embeddings, self.real.label_names
        watch = GarbageWatch(self.task, self.text_filter.fresh(), self.chat, self.budget.whole)
        written = {int(name) for name in self.storage.names(job.folder("replies"))}
        unwritten = [shard for shard in todo if shard not in written]
        look = [
            Step(partial(Read, job, self.text_filter.fresh()), "work"),
            Step(partial(Look, job, self._view, self.config.filters, known, names, not self.held), "look"),
        ]
        with self.runner.keeper(self.store.folder / FILE) as keeper:
            write = Step(partial(Write, job, keeper, self._generator(), watch), "write")
            what = f"generate {job.plan.round}"
            try:
                if unwritten and self.held:
                    planned = [p for shard in unwritten for p in job.plan.requests(job.groups(shard))]
                    keeper.add([reply for _, reply in self.store.replies(planned)])
                before = self._requests(job, job.shards - len(unwritten))

                def came() -> int:
                    return min(before + keeper.count(), job.plan.size)

                if self._elsewhere:  # cores, GPUs and students are free meanwhile
                    self._run(what, [write, *look], job, todo, came)
                else:
                    self._run(what, [write], job, unwritten, came)
                    self._run(f"features of round-{job.plan.round}", look, job, todo)
            except GenerationError:
                if self.held:  # for the user to look at, and for another engine to go on with
                    self.store.add_replies(keeper.known([p.request.id for p in job.plan.requests()]))
                raise

    @property
    def _elsewhere(self) -> bool:
        """Whether the texts are written by machines that are no part of the cluster."""
        if self.given:
            return bool(getattr(self.generator, "remote", False))
        return self.config.generator.kind == "server"

    def _generator(self) -> Generator | GeneratorConfig:
        generator = self.tuned()
        if self.given:
            return generator
        settings = self.config.generator.model_copy(update={"mode": "chat" if self.chat else "base"})
        folder = self.store.saved_folder(ADAPTER) if settings.tune.steps else None
        if folder is None and settings.adapter is not None:
            folder = Path(settings.adapter)
        if folder is None:
            return settings
        self.storage.send(folder, ADAPTER)
        return settings.model_copy(update={"adapter": ADAPTER, "tune": TuneConfig()})

    def _run(
        self,
        what: str,
        steps: Sequence[Step],
        job: Job,
        shards: Sequence[int],
        came: Callable[[], int] | None = None,
    ) -> None:
        """:param came: requests done so far; without it, those of the shards that are."""
        if not shards:
            return
        done = job.shards - len(shards)
        notices: set[str] = set()
        with ExitStack() as stack:
            before = self._requests(job, done) if came is None else came()
            advance = stack.enter_context(self.reporter.track(what, job.plan.size, done=before))
            if came is not None:
                stack.enter_context(polled(lambda: advance(came())))
            for _, told in self.runner.run(steps, shards):
                done += 1
                if came is None or done == job.shards:
                    advance(self._requests(job, done))
                if told.get("usage"):
                    self.store.add_usage(told["usage"])
                for notice in told.get("notices", []):
                    if notice not in notices:
                        notices.add(notice)
                        self.reporter.say(notice)

    def _requests(self, job: Job, shards: int) -> int:
        """That so many shards have, about."""
        return job.plan.size * shards // job.shards

    def _search(self) -> Search:
        return search_by(self.runner, self.storage, self.reporter)

    # -- what came of it ------------------------------------------------------------------------------------------

    def _bring(self, job: Job) -> list[tuple[Candidate, Rejection | None]]:
        """Everything into the run directory, in the order asked; every candidate with the verdict of the filters on
        text, duplicates over shards and rounds among them."""
        judged: list[tuple[Candidate, Rejection | None]] = []
        features = Chunks(self.teacher, f"round-{job.plan.round}")
        for shard, fresh in enumerate(self.fresh(job)):
            self.store.add_replies(replies_of(self.storage.read(job.name("replies", shard))))
            table = self.storage.read(job.name("candidates", shard))
            came = candidates_of(table, job.plan.round, job.plan.generator_name)
            passed = [row for row, (_, verdict) in enumerate(came) if verdict is None]
            for row, new in zip(passed, fresh, strict=True):
                if not new:
                    came[row] = (came[row][0], DUPLICATE)
            judged += came
            ids = [came[row][0].id for row, new in zip(passed, fresh, strict=True) if new]
            if ids:
                features.add(ids, self.storage.read(job.name("features", shard)), np.flatnonzero(fresh))
        features.close()
        return judged

    def fresh(self, job: Job) -> list[npt.NDArray[np.bool_]]:
        """Of each shard, which of the texts that passed no shard before it and no earlier round has. They count as
        seen from now on."""
        keys = []
        for shard in range(job.shards):
            table = self.storage.read(job.name("candidates", shard), ["key", "filter"])
            keys.append(table.filter(pc.is_null(table.column("filter"))).column("key").to_numpy())
        every = np.concatenate(keys)
        distinct, first = np.unique(every, return_index=True)
        new = np.zeros(len(every), dtype=np.bool_)
        new[first] = ~np.isin(distinct, self._seen, assume_unique=True)
        self._seen = np.union1d(self._seen, distinct)
        return np.split(new, np.cumsum([len(part) for part in keys])[:-1])
