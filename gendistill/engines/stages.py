"""What is done to the shards of a round, one stage after the other: write, read, look. No engine is known here.

A shard is a part of a round's requests, named by its number. Each stage reads what the one before it left in the
storage and leaves one file more, which appears whole; a stage that finds its file does nothing. So any process may do
any shard at any time, again if need be, and what is done is never lost with the process that did it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from gendistill.config import FilterConfig, GeneratorConfig
from gendistill.engines.storage import Storage
from gendistill.engines.tables import candidates_of, candidates_table, features_table, replies_of, replies_table
from gendistill.engines.views import View
from gendistill.examples import Candidate, Example
from gendistill.filters import Rejection, TextFilter, feature_filter
from gendistill.folding import key_hashes
from gendistill.generators import Generator, arrivals, build_generator
from gendistill.generators.base import Reply
from gendistill.intake import texts_of
from gendistill.near_duplicates import search_here
from gendistill.planning import RoundPlan
from gendistill.pool import DECIMALS, GarbageWatch

KEEP_EVERY = 64  # replies that are handed over together, at most


class Stage(Protocol):
    def __call__(self, shard: int, /) -> dict[str, Any]:
        """Do the shard; what the run should know of it, in few bytes."""
        ...


class Replies(Protocol):
    """A keeper, or what stands for one in another process."""

    def add(self, replies: Sequence[Reply]) -> None: ...

    def known(self, ids: Sequence[str]) -> list[Reply]: ...

    def drop(self, ids: Sequence[str]) -> None: ...

    def count(self) -> int: ...


@dataclass(frozen=True)
class Job:
    """A round, and how it is cut into shards."""

    plan: RoundPlan
    storage: Storage
    shard_rows: int  # requests of a shard; prompts are not cut

    @property
    def groups_each(self) -> int:
        return max(1, self.shard_rows // self.plan.config.generator.samples_per_prompt)

    @property
    def shards(self) -> int:
        return -(-self.plan.groups // self.groups_each)

    def groups(self, shard: int) -> range:
        return range(shard * self.groups_each, min((shard + 1) * self.groups_each, self.plan.groups))

    def folder(self, kind: str) -> str:
        return f"round-{self.plan.round}/{kind}"

    def name(self, kind: str, shard: int) -> str:
        return f"{self.folder(kind)}/{shard:06d}"


class Write:
    """Stage 1: ask the generator for what nobody has answered yet. Leaves ``replies``.

    :param generator: how to build one, its adapter a folder in the storage; or one, which is sent to wherever the
        stage runs.
    :raises GenerationError: it writes nothing usable, or has stopped.
    """

    def __init__(self, job: Job, keeper: Replies, generator: GeneratorConfig | Generator, watch: GarbageWatch) -> None:
        self.job, self.keeper, self.watch, self.generator = job, keeper, watch, generator

    def __call__(self, shard: int) -> dict[str, Any]:
        name = self.job.name("replies", shard)
        if self.job.storage.has(name):
            return {}
        planned = self.job.plan.requests(self.job.groups(shard))
        ids = [p.request.id for p in planned]
        replies = {reply.request_id: reply for reply in self.keeper.known(ids)}
        missing = [p.request for p in planned if p.request.id not in replies]
        usage: dict[str, float] = {}
        notices: list[str] = []
        if missing:
            generator = self._build()
            labels = {p.request.id: p.label for p in planned}
            watch = self.watch.fresh()
            before = asdict(generator.usage) if hasattr(generator, "usage") else {}
            for came in _some(arrivals(generator, missing)):
                self.keeper.add(came)
                for reply in came:
                    replies[reply.request_id] = reply
                    watch.see(labels[reply.request_id], reply)
                watch.check()
            if hasattr(generator, "usage"):
                usage = {key: value - before[key] for key, value in asdict(generator.usage).items()}
            notices = list(getattr(generator, "notices", []))
        self.job.storage.write(name, replies_table(planned, replies))
        self.keeper.drop(ids)
        return {"usage": usage, "notices": notices}

    def _build(self) -> Generator:
        if isinstance(self.generator, GeneratorConfig):
            config = self.generator
            if config.adapter is not None:
                config = config.model_copy(update={"adapter": str(self.job.storage.bring(config.adapter))})
            self.generator = build_generator(config)
        return self.generator


def _some(replies: Iterator[list[Reply]]) -> Iterator[list[Reply]]:
    """The same in lists of at most ``KEEP_EVERY``."""
    for came in replies:
        for start in range(0, len(came), KEEP_EVERY):
            yield came[start : start + KEEP_EVERY]


class Read:
    """Stage 2: the texts of the replies, and the filters that need no model. Leaves ``candidates``.

    A text that another shard has too passes here, for this one cannot know.
    """

    def __init__(self, job: Job, text_filter: TextFilter) -> None:
        self.job, self.text_filter = job, text_filter

    def __call__(self, shard: int) -> dict[str, Any]:
        name = self.job.name("candidates", shard)
        if not self.job.storage.has(name):
            plan = self.job.plan
            replies = replies_of(self.job.storage.read(self.job.name("replies", shard)))
            by_id = {reply.request_id: reply for reply in replies}
            text_filter = self.text_filter.fresh()
            judged: list[tuple[Candidate, Rejection | None]] = []
            for p in plan.requests(self.job.groups(shard)):
                reply = plan.budget.whole(by_id[p.request.id])
                judged += texts_of(p, reply, plan.task, plan.chat, text_filter, plan.round, plan.generator_name)
            keys = key_hashes([candidate.example.text for candidate, _ in judged])
            self.job.storage.write(name, candidates_table(judged, keys.tolist()))
        return {}


class Look:
    """Stage 3: what the student sees of the texts, and the filters that look at one text's features. Leaves
    ``features``.

    :param real_embeddings: (m, d) of the reference rows; with none there is no filter for copies.
    :param near_duplicates: whether those within the shard are turned away, because nobody will see all shards at once.
    """

    def __init__(
        self,
        job: Job,
        view: View,
        config: FilterConfig,
        real_embeddings: np.ndarray,
        label_names: Sequence[str],
        near_duplicates: bool,
    ) -> None:
        self.job, self.view, self.config, self.near_duplicates = job, view, config, near_duplicates
        self.real_embeddings, self.label_names = real_embeddings, list(label_names)

    def __call__(self, shard: int) -> dict[str, Any]:
        name = self.job.name("features", shard)
        if not self.job.storage.has(name):
            table = self.job.storage.read(self.job.name("candidates", shard))
            judged = candidates_of(table, self.job.plan.round, self.job.plan.generator_name)
            rows = [row for row, (_, verdict) in enumerate(judged) if verdict is None]
            self.job.storage.write(name, self._features(rows, [judged[row][0].example for row in rows]))
        return {}

    def _features(self, rows: Sequence[int], examples: Sequence[Example]) -> pa.Table:
        if not rows:
            return features_table([], {}, {name: pa.array([], kind) for name, kind in _VERDICT.items()})
        arrays = self.view.arrays(examples)
        last = f"probs.{max(int(key.split('.')[1]) for key in arrays if key.startswith('probs.'))}"
        probabilities = arrays[last].numpy() if self.view.judges_labels else None
        labels = [example.label for example in examples]
        checked = feature_filter(
            self.config,
            texts=[example.text for example in examples],
            labels=labels,
            embeddings=arrays["embedding"].numpy(),
            real_embeddings=self.real_embeddings,
            probabilities=probabilities,
            label_names=self.label_names,
            search=search_here if self.near_duplicates else None,
        )
        right = None if probabilities is None else probabilities[np.arange(len(labels)), labels]
        found = checked.rejections
        columns = {
            "filter": pa.array([None if v is None else v.filter for v in found], pa.string()),
            "reason": pa.array([None if v is None else v.reason for v in found], pa.string()),
            "label": pa.array(labels, pa.int32()),
            "teacher_probability": _scores(right, len(labels)),
            "real_similarity": _scores(checked.real_similarity if len(self.real_embeddings) else None, len(labels)),
        }
        return features_table(rows, arrays, columns)


_VERDICT = {
    "filter": pa.string(),
    "reason": pa.string(),
    "label": pa.int32(),
    "teacher_probability": pa.float64(),
    "real_similarity": pa.float64(),
}


def _scores(values: np.ndarray | None, count: int) -> pa.Array:
    if values is None:
        return pa.array([None] * count, pa.float64())
    return pa.array([round(float(value), DECIMALS) for value in values], pa.float64())
