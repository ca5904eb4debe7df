"""Candidates on their way: the texts of a reply, a watch for garbage, the filters, the pool of those that passed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from gendistill.config import FilterConfig
from gendistill.errors import DataError, GenerationError
from gendistill.examples import Candidate, Example
from gendistill.filters import FilterReport, Rejection, TextFilter, feature_filter
from gendistill.generators.base import Reply
from gendistill.near_duplicates import Search, search_here
from gendistill.students.base import Features, joined
from gendistill.tasks import Fields, Task
from gendistill.teacher import Teacher

DECIMALS = 5  # of the scores that are written, for readers
GARBAGE_CHECK_AFTER = 64  # replies before a generator may be judged
GARBAGE_SHARE = 0.02  # fewer usable replies than this share: stop asking


@dataclass
class Pool:
    """The candidates that passed every filter so far, with everything the objectives look at."""

    candidates: list[Candidate] = field(default_factory=list)
    scores: list[dict[str, float]] = field(default_factory=list)
    embeddings: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    features: list[Features] = field(default_factory=list)  # one a checkpoint

    @property
    def examples(self) -> list[Example]:
        return [candidate.example for candidate in self.candidates]

    @property
    def labels(self) -> Tensor:
        return torch.tensor([example.label for example in self.examples], dtype=torch.int64)

    def extend(
        self,
        candidates: Sequence[Candidate],
        scores: Sequence[dict[str, float]],
        embeddings: Tensor,
        features: Sequence[Features],
    ) -> None:
        """Add the candidates of a round that passed."""
        first = not self.candidates
        self.candidates += candidates
        self.scores += scores
        if first:
            self.embeddings, self.features = embeddings, list(features)
        else:
            self.embeddings = torch.cat([self.embeddings, embeddings])
            self.features = [joined(parts) for parts in zip(self.features, features, strict=True)]


@dataclass(frozen=True)
class Judgement:
    """What the filters and the teacher say of n examples; the tensors are of the k that passed every filter."""

    verdicts: list[Rejection | None]  # (n,)
    scores: list[dict[str, float]]  # (n,): empty for those that the teacher was not asked about
    kept: list[int]  # the k, as indices into the n
    embeddings: Tensor  # (k, d) float32, rows of length 1
    features: list[Features]  # one a checkpoint; empty if the teacher was asked about none


def judge(
    config: FilterConfig,
    examples: Sequence[Example],
    verdicts: Sequence[Rejection | None],
    teacher: Teacher,
    name: str,
    *,
    real_embeddings: np.ndarray,
    label_names: Sequence[str],
    kept_embeddings: np.ndarray | None = None,
    search: Search = search_here,
) -> Judgement:
    """Ask the teacher about the examples that no filter has turned away yet, and apply the filters on features.

    :param verdicts: (n,), of the filters so far.
    :param name: of the features, in the teacher's store.
    :param real_embeddings: (m, d) float32; with no rows there is no filter for copies and no similarity to score.
    :param kept_embeddings: (k, d) of candidates that passed in earlier rounds.
    :param search: how near duplicates are looked for.
    """
    passed = [row for row, verdict in enumerate(verdicts) if verdict is None]
    scores: list[dict[str, float]] = [{} for _ in examples]
    if not passed:
        return Judgement(list(verdicts), scores, [], torch.empty(0, 0), [])
    asked = [examples[row] for row in passed]
    embeddings, features = teacher.features(name, asked)
    for values in (embeddings, *(f.probabilities for f in features)):
        if not torch.isfinite(values.sum(dtype=torch.float64)):
            raise DataError(f"the features of {name} hold NaN or infinity: the student or the embedder is broken")
    probabilities = features[-1].probabilities
    checked = feature_filter(
        config,
        texts=[example.text for example in asked],
        labels=[example.label for example in asked],
        embeddings=embeddings.numpy(),
        real_embeddings=real_embeddings,
        probabilities=probabilities.numpy() if teacher.judges_labels else None,
        kept_embeddings=kept_embeddings,
        label_names=label_names,
        search=search,
    )
    final = list(verdicts)
    for i, row in enumerate(passed):
        final[row] = checked.rejections[i]
        if teacher.judges_labels:
            scores[row]["teacher_probability"] = round(float(probabilities[i, asked[i].label]), DECIMALS)
        if len(real_embeddings):
            scores[row]["real_similarity"] = round(float(checked.real_similarity[i]), DECIMALS)
    rows = [i for i, rejection in enumerate(checked.rejections) if rejection is None]
    kept = [part.rows(rows) for part in features]
    return Judgement(final, scores, [passed[i] for i in rows], embeddings[rows], kept)


class GarbageWatch:
    """Stops a generator that writes nothing usable long before its whole pool has been paid for."""

    def __init__(self, task: Task, text_filter: TextFilter, chat: bool, whole: Callable[[Reply], Reply]) -> None:
        self.task, self.filter, self.chat, self.whole = task, text_filter, chat, whole
        self.report, self.replies, self.usable = FilterReport(), 0, 0

    def fresh(self) -> GarbageWatch:
        """The same, before any reply."""
        return GarbageWatch(self.task, self.filter.fresh(), self.chat, self.whole)

    def see(self, label: int, reply: Reply) -> None:
        self.replies += 1
        reply = self.whole(reply)
        good = False
        for fields, ended in parse(self.task, reply, self.chat):
            example = Example(fields, label)
            verdict = (
                Rejection("generation_error", reply.error)
                if reply.error is not None
                else self.filter.check(example, ended)
            )
            self.report.add(example.text, verdict)
            good = good or verdict is None
        self.usable += good

    def check(self) -> None:
        """:raises GenerationError: enough replies were seen and next to none is usable."""
        if self.replies >= GARBAGE_CHECK_AFTER and self.usable < GARBAGE_SHARE * self.replies:
            errors = self.report.examples.get("generation_error", [])
            said = f", such as {errors[0][1]!r}" if errors else ""
            raise GenerationError(
                f"the generator writes nothing usable: {self.usable} of its first {self.replies} replies passed "
                f"({self.report.summary()}{said}); the replies are kept; look at them, then try another generator or "
                "template"
            )


def parse(task: Task, reply: Reply, chat: bool) -> list[tuple[Fields, str]]:
    """The candidates of a reply, each with why its text ended. A reply without any counts as an empty or cut-off one,
    so that nothing vanishes."""
    found = task.candidates(reply.text, reply.finish_reason, chat)
    if not found:
        return [((reply.text.strip() if reply.finish_reason == "length" else "",), reply.finish_reason)]
    ended = "stop" if task.whole_when_cut and reply.finish_reason == "length" else reply.finish_reason
    return [(fields, ended) for fields in found]
