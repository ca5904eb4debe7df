"""A run's candidates gathered shard by shard, by whatever engine.

Up to ``engine.held_rows`` requests everything that the shards hold comes into the run directory, and the run goes on
with it as if it had been made here: the same pool, the same journal, the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gendistill.engines.keeper import FILE
from gendistill.engines.runner import Runner, Step
from gendistill.engines.stages import Job, Look, Read, Write
from gendistill.engines.storage import Storage
from gendistill.engines.tables import array_names, array_of, candidates_of, replies_of
from gendistill.engines.views import View, view_of
from gendistill.errors import GenerationError, RunError
from gendistill.examples import Candidate
from gendistill.filters import Rejection
from gendistill.gathering import ADAPTER, Gathered, Gathering
from gendistill.generators import Generator
from gendistill.inputs import RealSide
from gendistill.planning import Chosen
from gendistill.pool import GarbageWatch
from gendistill.settings import GeneratorConfig
from gendistill.teacher import CHUNK, FOLDER

RUN = "run.txt"  # in the storage: of which run its shards are
DUPLICATE = Rejection("duplicate", "the same text as an earlier candidate")


def claim(storage: Storage, run: str) -> Storage:
    """The storage for a run.

    :param run: what it is (``store.identity``).
    :raises RunError: it holds the shards of another run.
    """
    there = storage.text(RUN)
    if there is None:
        storage.put_text(RUN, run)
    elif there != run:
        raise RunError(f"--storage {storage}: holds the shards of another run; give a folder of its own")
    return storage


@dataclass
class ShardedGathering(Gathering):
    """:param given: whether the generator is the caller's own, which is sent to the workers as it is."""

    real: RealSide
    runner: Runner
    storage: Storage
    given: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        self._seen: npt.NDArray[np.uint64] = np.empty(0, dtype=np.uint64)  # keys of texts that passed, sorted
        self._view: View | None = None

    def round(self, number: int, counts: Sequence[int], chosen: Chosen | None) -> Gathered:
        job = Job(self.plan(number, counts, chosen), self.storage, self.config.engine.shard_rows)
        self.store.plan(number, job.plan.requests())
        done = {int(name) for name in self.storage.names(job.folder("features"))}
        todo = [shard for shard in range(job.shards) if shard not in done]
        if todo:
            self._work(job, todo)
        judged = self._bring(job)
        kept, replies = self._judge(judged, f"round-{number}")
        return Gathered(job.plan.size, replies, kept)

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
        known = self.reference.embeddings
        watch = GarbageWatch(self.task, self.text_filter.fresh(), self.chat, self.budget.whole)
        written = {int(name) for name in self.storage.names(job.folder("replies"))}
        unwritten = [shard for shard in todo if shard not in written]
        look = [
            Step(partial(Read, job, self.text_filter.fresh()), "work"),
            Step(partial(Look, job, self._view, self.config.filters, known, self.label_names), "look"),
        ]
        with self.runner.keeper(self.store.folder / FILE) as keeper:
            write = Step(partial(Write, job, keeper, self._generator(), watch), "write")
            what = f"generate {job.plan.round}"
            try:
                if unwritten:
                    planned = [p for shard in unwritten for p in job.plan.requests(job.groups(shard))]
                    keeper.add([reply for _, reply in self.store.replies(planned)])
                if getattr(self.generator, "remote", False):  # cores and students are free meanwhile
                    self._run(what, [write, *look], job, todo)
                else:
                    self._run(what, [write], job, unwritten)
                    self._run(f"features of round-{job.plan.round}", look, job, todo)
            except GenerationError:
                # For the user to look at, and for another engine to go on with
                ids = [p.request.id for p in job.plan.requests()]
                self.store.add_replies(keeper.known(ids))
                raise

    def _generator(self) -> Generator | GeneratorConfig:
        generator = self.tuned()
        if self.given:
            return generator
        settings = self.config.generator.model_copy(update={"mode": "chat" if self.chat else "base"})
        folder = self.store.saved_folder(ADAPTER) if settings.tune.steps else None
        if folder is None and settings.adapter is not None:
            from pathlib import Path

            folder = Path(settings.adapter)
        if folder is None:
            return settings
        self.storage.send(folder, ADAPTER)
        return settings.model_copy(update={"adapter": ADAPTER, "tune": type(settings.tune)()})

    def _run(self, what: str, steps: Sequence[Step], job: Job, shards: Sequence[int]) -> None:
        if not shards:
            return
        done = job.shards - len(shards)
        notices: set[str] = set()
        with self.reporter.track(what, job.plan.size, done=self._requests(job, done)) as advance:
            for _, told in self.runner.run(steps, shards):
                done += 1
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

    # -- what came of it ------------------------------------------------------------------------------------------

    def _bring(self, job: Job) -> list[tuple[Candidate, Rejection | None]]:
        """Everything into the run directory, in the order asked; every candidate with the verdict of the filters on
        text, duplicates over shards and rounds among them."""
        judged: list[tuple[Candidate, Rejection | None]] = []
        features = _Chunks(self, f"round-{job.plan.round}")
        for shard in range(job.shards):
            self.store.add_replies(replies_of(self.storage.read(job.name("replies", shard))))
            table = self.storage.read(job.name("candidates", shard))
            came = candidates_of(table, job.plan.round, job.plan.generator_name)
            passed = [row for row, (_, verdict) in enumerate(came) if verdict is None]
            fresh = self._new(table.column("key").to_numpy()[passed])
            for row, new in zip(passed, fresh, strict=True):
                if not new:
                    came[row] = (came[row][0], DUPLICATE)
            judged += came
            features.add(
                [came[row][0].id for row, new in zip(passed, fresh, strict=True) if new],
                self.storage.read(job.name("features", shard)) if passed else None,
                np.flatnonzero(fresh),
            )
        features.close()
        return judged

    def _new(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Which of these were not seen before; they are from now on. All of them differ."""
        at = np.minimum(np.searchsorted(self._seen, keys), max(len(self._seen) - 1, 0))
        new = self._seen[at] != keys if len(self._seen) else np.ones(len(keys), dtype=np.bool_)
        self._seen = np.union1d(self._seen, keys)
        return new


class _Chunks:
    """The features of shards as a teacher keeps those of a round: in chunks of so many rows."""

    def __init__(self, gathering: ShardedGathering, name: str) -> None:
        self.store, self.name = gathering.store, name
        self._ids: list[str] = []
        self._parts: list[dict[str, Tensor]] = []
        self._written = 0

    def add(self, ids: list[str], table: Any, rows: npt.NDArray[np.int64]) -> None:
        """:param rows: those of the table that the ids are of."""
        if not ids:
            return
        index = torch.from_numpy(rows)
        self._parts.append({key: array_of(table, key)[index] for key in array_names(table)})
        self._ids += ids
        while len(self._ids) >= CHUNK:
            self._flush(CHUNK)

    def close(self) -> None:
        if self._ids:
            self._flush(len(self._ids))

    def _flush(self, count: int) -> None:
        whole = {key: torch.cat([part[key] for part in self._parts]) for key in self._parts[0]}
        self.store.save_features(
            f"{self.name}-{self._written:05d}", self._ids[:count], {key: array[:count] for key, array in whole.items()}
        )
        self._written += 1
        self._ids = self._ids[count:]
        self._parts = [{key: array[count:] for key, array in whole.items()}] if self._ids else []
