"""What a plan knows: figures of a little of the job, really done, or assumed where it could not be.

Seconds are of one process on the device that measured, by whatever clock the measuring was given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gendistill.cost.estimate import NOTHING, Estimate

TAIL = 0.75  # quantile of the lengths of replies from which on they are taken to thin out exponentially


@dataclass(frozen=True)
class RealRows:
    """Rows of the real data."""

    train: int
    dev: int
    test: int
    aim: int  # that are distilled towards


@dataclass(frozen=True)
class BatchSpeed:
    """Of a generator in this process, which decodes a batch token by token.

    :param step_s: of a step of the batch, however many rows it has.
    :param row_s: of a row in a step.
    :param prefill_s: of a token of a prompt, which its samples share.
    """

    step_s: float
    row_s: float
    prefill_s: float

    def seconds(self, steps: float, tokens: float, prompt_tokens: float) -> float:
        """Of a batch that writes so many tokens in so many steps."""
        return steps * self.step_s + tokens * self.row_s + prompt_tokens * self.prefill_s


@dataclass(frozen=True)
class CallSpeed:
    """Of a generator elsewhere: a call takes ``alone_s``, and ``queued_s`` more for each that is under way with it."""

    alone_s: float
    queued_s: float
    at_once: int  # calls at once in the sample
    requests: int = 1  # that a call asks for

    def calls_a_second(self, at_once: float) -> float:
        return at_once / (self.alone_s + self.queued_s * at_once)


@dataclass(frozen=True)
class Written:
    """What the generator did with the requests of the sample.

    :param prompt_tokens: of a prompt, each time that it counts.
    :param shared: requests that a prompt counts once for.
    :param lengths: completion tokens of each reply, ascending.
    :param limit: most tokens of a reply.
    :param reply_bytes: of a reply's text, UTF-8.
    :param speed: None where it was not measured.
    """

    requests: int
    prompt_tokens: Estimate
    shared: float
    completion_tokens: Estimate
    lengths: tuple[int, ...]
    limit: int
    reply_bytes: float
    load_s: float
    speed: BatchSpeed | CallSpeed | None

    @property
    def spread(self) -> float:
        """Standard deviation of the completion tokens between replies."""
        if len(self.lengths) < 2:
            return self.completion_tokens.value / 2
        mean = sum(self.lengths) / len(self.lengths)
        return math.sqrt(sum((length - mean) ** 2 for length in self.lengths) / (len(self.lengths) - 1))

    def longest(self, rows: float) -> float:
        """Expected tokens of the longest of so many replies."""
        if not self.lengths:
            return float(self.limit)
        start = self.lengths[int(TAIL * (len(self.lengths) - 1))]
        beyond = [length - start for length in self.lengths if length > start]
        excess = sum(beyond) / len(beyond) if beyond else 0.0
        return min(float(self.limit), start + excess * math.log(max(1.0, (1 - TAIL) * rows)))


@dataclass(frozen=True)
class ByteSizes:
    """Bytes a row that a run leaves on the disk."""

    journal: float  # a request: itself, its reply, its candidates
    features: float  # a candidate that passed the filters on text
    embedding: float  # a real row
    shard_replies: float  # Parquet, a request
    shard_candidates: float
    shard_features: float  # Parquet, a candidate that passed the filters on text


@dataclass(frozen=True)
class Sample:
    """:param looked_at: share of the requests whose text passes the filters on text, so that features are computed.
    :param kept: share of the requests whose candidate passes every filter.
    :param embed_row_s: of one pass of the student over a real row.
    :param target_row_s: of the features of a real row at every checkpoint, embedded before.
    :param look_row_s: of all features of a candidate; those of further students are ``further_row_s``.
    :param further_real_row_s: of a real row that further students learn from.
    :param choices: (candidates, seconds) of the configured choice, ascending.
    :param pair_s: of comparing two candidates, to find near duplicates.
    :param request_memory: bytes that a planned request takes.
    :param assumed: what was not measured, in words.
    """

    device: str
    on_gpu: bool
    generator: str
    remote: bool
    classes: int
    rows: RealRows
    written: Written
    looked_at: Estimate
    kept: Estimate
    sizes: ByteSizes
    start_s: float
    step_s: float
    embed_row_s: float
    target_row_s: float
    look_row_s: float
    read_row_s: float  # parsing a reply and the filters on text
    further_real_row_s: float
    further_row_s: float
    choices: tuple[tuple[int, float], ...]
    pair_s: float
    memory: float  # bytes of this process with the models in it
    request_memory: float
    took_s: float
    assumed: tuple[str, ...] = ()


def mean_of(values: Sequence[float], groups: Sequence[object] | None = None) -> Estimate:
    """Mean with its standard error.

    :param groups: what each value belongs to, where those of one group are alike: the error is then that of the means
        of groups, or that of values if it is larger.
    """
    if not values:
        return NOTHING
    mean = sum(values) / len(values)
    error = _standard_error(values)
    if groups is not None:
        parts: dict[object, list[float]] = {}
        for group, value in zip(groups, values, strict=True):
            parts.setdefault(group, []).append(value)
        error = max(error, _standard_error([sum(part) / len(part) for part in parts.values()]))
    return Estimate(mean, error)


def _standard_error(values: Sequence[float]) -> float:
    if len(values) < 2:
        return abs(values[0]) / 2
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))


def share_of(hits: int, count: int) -> Estimate:
    """A share with its standard error, by Laplace's rule of succession where it is near 0 or 1."""
    if not count:
        return NOTHING
    likely = (hits + 1) / (count + 2)
    return Estimate(hits / count, math.sqrt(likely * (1 - likely) / count))
