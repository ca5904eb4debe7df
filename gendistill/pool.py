"""Candidates on their way: the texts of a reply, a watch for garbage, the pool of those that passed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gendistill.errors import GenerationError
from gendistill.examples import Candidate, Example
from gendistill.filters import FilterReport, Rejection, TextFilter
from gendistill.generators.base import Reply
from gendistill.students.base import Features
from gendistill.tasks import TextClassification

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
        rows: Sequence[int],
        candidates: Sequence[Candidate],
        scores: Sequence[dict[str, float]],
        embeddings: Tensor,
        features: Sequence[Features],
    ) -> None:
        """Add the given rows of a round."""
        first = not self.candidates
        picked = list(rows)
        self.candidates += [candidates[row] for row in picked]
        self.scores += [scores[row] for row in picked]
        self.embeddings = embeddings[picked] if first else torch.cat([self.embeddings, embeddings[picked]])
        new = [_rows_of(part, picked) for part in features]
        self.features = new if first else [_joined(a, b) for a, b in zip(self.features, new, strict=True)]


def _rows_of(features: Features, rows: list[int]) -> Features:
    gradient = None if features.gradient is None else features.gradient[rows]
    return Features(features.hidden[rows], features.probabilities[rows], gradient)


def _joined(a: Features, b: Features) -> Features:
    gradient = None if a.gradient is None or b.gradient is None else torch.cat([a.gradient, b.gradient])
    return Features(torch.cat([a.hidden, b.hidden]), torch.cat([a.probabilities, b.probabilities]), gradient)


class GarbageWatch:
    """Stops a generator that writes nothing usable long before its whole pool has been paid for."""

    def __init__(self, task: TextClassification, text_filter: TextFilter, chat: bool) -> None:
        self.task, self.filter, self.chat = task, text_filter, chat
        self.report, self.replies, self.usable = FilterReport(), 0, 0

    def see(self, label: int, reply: Reply) -> None:
        self.replies += 1
        good = False
        for text in parse(self.task, reply, self.chat):
            verdict = (
                Rejection("generation_error", reply.error)
                if reply.error is not None
                else self.filter.check(Example((text,), label), reply.finish_reason)
            )
            self.report.add(text, verdict)
            good = good or verdict is None
        self.usable += good

    def check(self) -> None:
        """:raises GenerationError: enough replies were seen and next to none is usable."""
        if self.replies >= GARBAGE_CHECK_AFTER and self.usable < GARBAGE_SHARE * self.replies:
            raise GenerationError(
                f"the generator writes nothing usable: {self.usable} of its first {self.replies} replies passed "
                f"({self.report.summary()}); the replies are kept; look at them, then try another generator or template"
            )


def parse(task: TextClassification, reply: Reply, chat: bool) -> list[str]:
    """The texts of a reply; a reply without any counts as one empty or cut-off text, so that nothing vanishes."""
    cut = reply.text.strip() if reply.finish_reason == "length" else ""
    return task.parse_reply(reply.text, reply.finish_reason, chat) or [cut]
