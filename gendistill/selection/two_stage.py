"""Selection in two stages, for more candidates than can be held: each shard proposes some, then all proposals compete.

Stage one, ``propose``, looks at one shard and may run anywhere; stage two, ``choose_among``, is the exact choice
(greedy, swaps, distances) among everything proposed. ``two_stage`` runs both. What is chosen depends on the shards'
names and content only, not on the order in which they are listed or finished.

A shard knows nothing of the others, so it is told what to complete: a *reference*, rows that fill the budgets. At first
these are real rows, chosen by the objective itself; in further rounds the choice so far. By the rule
"exchange", for each place of the reference a shard proposes the candidates of its class that would serve best there,
the rest of the reference staying: what swap would try. The best of every shard hold the best of all, so it matters
little how rows are spread over shards, even if each has one class only. By the rule "greedy" a shard proposes what
greedy would choose of it with a larger budget, rows of the reference standing in for classes that it lacks (GreeDi,
Mirzasoleiman et al. 2013, Distributed Submodular Maximization).

Of a submodular objective (``coverage``), with rows spread at random and the rule "greedy", what the choice gains is in
expectation at least (1 - 1/e) / 2 of the most that can be gained (Barbosa et al. 2015, arXiv 1502.02606, for the better
of the union's choice and that of a shard, which is why the best shard's competes here), distances left aside. Of the
others no bound is known; docs/scaling.md has what was measured.
"""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from gendistill.errors import ConfigError, DataError
from gendistill.objectives import Objective, ObjectiveInputs, build_objective
from gendistill.objectives.linear import coarse_threads
from gendistill.selection import Selection, select
from gendistill.selection.greedy import greedy
from gendistill.selection.shards import Shard, ShardRows, joined_rows
from gendistill.selection.swap import LOOK_AHEAD

Run = Callable[[Callable[[Shard], "Proposal"], Sequence[Shard]], Iterable["Proposal"]]
"""Applies a picklable function to every shard, in any order: ``map``, or a distributed engine's."""


@dataclass(frozen=True)
class Plan:
    """What to choose, and how. Picklable."""

    budgets: Sequence[int]  # of each class
    weights: Mapping[str, float]  # of the objectives
    rule: Literal["exchange", "greedy"] = "exchange"  # of the first round; later ones go by exchange
    factor: int = 64  # a shard proposes up to so many times the budget of each class
    rounds: int = 4  # how often every shard is read, at most; from the second on it is told the choice so far
    worth: float = 0.005  # a round that lowers the loss by a smaller share of it is the last
    swap_passes: int = 3
    swap_trials: int | None = None
    min_distance: float = 0.0  # as of ``select``, in stage two
    min_gradient_distance: float = 0.0

    def __post_init__(self) -> None:
        if self.rule not in ("exchange", "greedy"):
            raise ConfigError(f"two stages: no rule {self.rule!r}; there are exchange, greedy")
        if self.factor < 1 or self.rounds < 1:
            raise ConfigError(f"two stages: factor and rounds are 1 at least, got {self.factor} and {self.rounds}")


@dataclass(frozen=True)
class Proposal:
    """What one shard proposes."""

    shard: str
    rows: Tensor  # (k,) int64, ascending: its rows
    candidates: ShardRows  # those k
    seen: int  # candidates of the shard
    own: Tensor  # (j,) int64: places in ``rows`` of what it would choose alone; none if it cannot fill the budgets


@dataclass(frozen=True)
class TwoStage:
    """What was chosen."""

    picks: list[tuple[str, int]]  # (shard, row), by class, then in the order of choice
    candidates: ShardRows  # the same rows
    loss: float  # by the exact objective, which looks at the chosen and the real rows only
    history: list[float]  # loss after each round
    seen: int  # candidates in all
    proposed: int  # that stage two chose among, in the last round
    settled: bool  # whether the last round changed nothing
    relaxed: dict[int, float] = field(default_factory=dict)  # as of ``Selection``
    relaxed_gradient: dict[int, float] = field(default_factory=dict)


def two_stage(shards: Sequence[Shard], real: ObjectiveInputs, plan: Plan, run: Run = map) -> TwoStage:
    """Choose up to ``plan.budgets[c]`` candidates of each class c from all shards.

    Holds one shard at a time (twice while it is joined with the reference), with ``in_processes`` one in each, and
    what was proposed: at most ``factor`` times the budgets from each shard. The loss never rises over rounds. Where a
    round by "exchange" leaves the choice as it was (``settled``), no exchange of one chosen row for any row of any
    shard lowers the loss, if there is no least distance, no ``swap_trials`` and a factor beyond the budgets.

    :param real: the real side; candidates in it are not looked at.
    :param run: how shards are worked through, ``in_processes(2)`` for instance.
    :raises ConfigError: two shards have one name, budgets do not go with the classes, or there are further students,
        who are not served.
    :raises DataError: labels, shapes or values of a shard that objectives cannot have, or no candidate at all.
    """
    if real.others:
        raise ConfigError("two stages choose for one student: leave objective.students out")
    if len(plan.budgets) != real.num_classes:
        raise ConfigError(f"two stages: {len(plan.budgets)} budgets for {real.num_classes} classes; give one for each")
    names = [shard.name for shard in shards]
    if len(set(names)) < len(names):
        raise ConfigError("two shards have the same name: give each its own")
    reference, result = first_reference(real, plan), None
    for number in range(plan.rounds):
        now = plan if number == 0 else replace(plan, rule="exchange")
        proposals = run(partial(propose, real=_without_candidates(real), reference=reference, plan=now), shards)
        before, result = result, choose_among(list(proposals), real, plan, previous=result)
        if result.settled or (before is not None and result.loss > (1 - plan.worth) * before.loss):
            break
        reference = result.candidates
    assert result is not None  # there is one round at least
    return result


def first_reference(real: ObjectiveInputs, plan: Plan) -> ShardRows:
    """The real rows that greedy would choose, of those that have features where only some have."""
    rows = ShardRows(real.feature_labels, real.real_embeddings, tuple(real.real_features))
    if real.feature_rows is not None:
        rows = ShardRows(rows.labels, rows.embeddings[real.feature_rows], rows.features)
    with coarse_threads():
        objective = build_objective(plan.weights, with_candidates(real, rows))
        return rows.rows(torch.tensor(greedy(objective, rows.labels, plan.budgets), dtype=torch.int64))


def propose(shard: Shard, real: ObjectiveInputs, reference: ShardRows, plan: Plan) -> Proposal:
    """Stage one, of one shard: a pure function of picklable arguments.

    A class of which the shard has no more than ``factor`` times the budget is proposed whole.

    :param real: the real side; candidates in it are not looked at.
    :param reference: rows that fill the budgets.
    """
    both = joined_rows([shard.read(), reference])
    count = len(both.labels) - len(reference.labels)
    with_candidates(real, both)  # labels, shapes and values are looked at before anything is counted by them
    counts = torch.bincount(both.labels[:count], minlength=real.num_classes).tolist()
    limits = [plan.factor * budget for budget in plan.budgets]
    proposed = torch.zeros(count, dtype=torch.bool)
    large = []
    for label, (own, limit) in enumerate(zip(counts, limits, strict=True)):
        if own > limit > 0:
            large.append(label)
        else:
            proposed |= (both.labels[:count] == label) & (limit > 0)
    alone: list[int] = []
    with coarse_threads():
        if large and plan.rule == "exchange":
            objective = build_objective(plan.weights, with_candidates(real, both))
            _propose_exchanges(objective, both.labels, count, large, plan.factor, proposed)
        elif plan.rule == "greedy" and count:
            alone = _propose_greedily(real, both, count, counts, plan, proposed)
    rows = torch.nonzero(proposed).flatten()
    own_choice = torch.searchsorted(rows, torch.tensor(alone, dtype=torch.int64))
    return Proposal(shard.name, rows, both.rows(rows), count, own_choice)


def choose_among(
    proposals: Iterable[Proposal], real: ObjectiveInputs, plan: Plan, previous: TwoStage | None = None
) -> TwoStage:
    """Stage two: the exact choice among what all shards proposed, in any order.

    :param previous: a choice of the round before; its rows are among those to choose from, and the loss is no higher.
    """
    parts = sorted(proposals, key=lambda part: part.shard)
    if not sum(part.seen for part in parts):
        raise DataError("no shard has a candidate to choose from")
    keys = [(part.shard, row) for part in parts for row in part.rows.tolist()]
    rows = [part.candidates for part in parts]
    place = {key: index for index, key in enumerate(keys)}
    if previous is not None:
        lost = [index for index, pick in enumerate(previous.picks) if pick not in place]
        keys += [previous.picks[index] for index in lost]
        rows.append(previous.candidates.rows(torch.tensor(lost, dtype=torch.int64)))
        order = sorted(range(len(keys)), key=lambda index: keys[index])  # as if they had been proposed
        union = joined_rows(rows).rows(torch.tensor(order, dtype=torch.int64))
        keys = [keys[index] for index in order]
        place = {key: index for index, key in enumerate(keys)}
    else:
        union = joined_rows(rows)
    inputs = with_candidates(real, union)
    objective = build_objective(plan.weights, inputs)
    starts = [[place[pick] for pick in previous.picks]] if previous is not None else _own_choices(parts)
    best = min(starts, key=objective.loss) if starts else []
    selection = _exact(plan, objective, inputs, best)
    chosen = torch.tensor(selection.chosen, dtype=torch.int64)
    picks = [keys[index] for index in selection.chosen]
    loss = objective.loss(selection.chosen)
    return TwoStage(
        picks,
        union.rows(chosen),
        loss,
        [*(previous.history if previous else []), loss],
        sum(part.seen for part in parts),
        len(keys),
        previous is not None and set(picks) == set(previous.picks),
        selection.relaxed,
        selection.relaxed_gradient,
    )


def one_stage(candidates: ShardRows, real: ObjectiveInputs, plan: Plan) -> Selection:
    """The choice from everything at once, where that can be held: what two stages are measured against."""
    inputs = with_candidates(real, candidates)
    return _exact(plan, build_objective(plan.weights, inputs), inputs, [])


def loss_of(chosen: ShardRows, real: ObjectiveInputs, weights: Mapping[str, float]) -> float:
    """The loss of any set by the exact objective; 1 is what choosing nothing costs."""
    return build_objective(weights, with_candidates(real, chosen)).loss(range(len(chosen.labels)))


def with_candidates(real: ObjectiveInputs, rows: ShardRows) -> ObjectiveInputs:
    """The real side with these rows for candidates.

    :raises DataError: shapes that do not fit together, labels out of range, or values that are not finite.
    """
    return replace(
        real,
        candidate_labels=rows.labels,
        candidate_embeddings=rows.embeddings,
        candidate_features=list(rows.features),
    )


def in_processes(count: int) -> Run:
    """Works through shards in so many processes of one thread each, which hold one shard each."""

    def run(work: Callable[[Shard], Proposal], shards: Sequence[Shard]) -> Iterable[Proposal]:
        # A forked copy of a process with threads may hang. Bytes, not tensors, which torch would send by shared memory
        with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as pool:
            done = pool.map(partial(_work_on, pickle.dumps(work)), [pickle.dumps(shard) for shard in shards])
            return [pickle.loads(proposal) for proposal in done]

    return run


def _work_on(work: bytes, shard: bytes) -> bytes:
    torch.set_num_threads(1)
    return pickle.dumps(pickle.loads(work)(pickle.loads(shard)))


def _without_candidates(real: ObjectiveInputs) -> ObjectiveInputs:
    """So that none are sent along with it."""
    none = torch.empty(0, dtype=torch.int64)
    return real.candidates(none)


def _exact(plan: Plan, objective: Objective, inputs: ObjectiveInputs, previous: Sequence[int]) -> Selection:
    return select(
        "greedy",
        objective,
        inputs.candidate_embeddings,
        inputs.candidate_labels,
        plan.budgets,
        swap_passes=plan.swap_passes,
        swap_trials=plan.swap_trials,
        min_distance=plan.min_distance,
        features=inputs.candidate_features[-1] if inputs.candidate_features else None,
        min_gradient_distance=plan.min_gradient_distance,
        previous=previous,
    )


def _own_choices(parts: Sequence[Proposal]) -> list[list[int]]:
    """What shards would choose alone, as places in the union."""
    choices, before = [], 0
    for part in parts:
        if len(part.own):
            choices.append((part.own + before).tolist())
        before += len(part.rows)
    return choices


def _propose_exchanges(
    objective: Objective, labels: Tensor, count: int, classes: Sequence[int], each: int, proposed: Tensor
) -> None:
    """Mark the best ``each`` candidates for every place of the reference, which are the rows from ``count`` on."""
    reference = list(range(count, len(labels)))
    for end in range(LOOK_AHEAD, len(reference) + 1, LOOK_AHEAD):
        # Leads objectives that go on from the set asked for last to the reference, with all classes at once
        objective.gains(reference[:end])
    for label in classes:
        rows = torch.nonzero(labels == label).flatten()
        own = rows[rows < count]
        sets = [[other for other in reference if other != place] for place in rows[rows >= count].tolist()]
        if not sets:  # of no real row there is no place: what each adds to the reference
            sets = [reference]
        for turn, rest in enumerate(sets):
            if turn % LOOK_AHEAD == 0 and hasattr(objective, "expect"):
                objective.expect(reference, sets[turn : turn + LOOK_AHEAD], rows)
            gains = objective.gains(rest, rows)[: len(own)]
            proposed[own[gains.topk(min(each, len(own))).indices]] = True


def _propose_greedily(
    real: ObjectiveInputs, both: ShardRows, count: int, counts: Sequence[int], plan: Plan, proposed: Tensor
) -> list[int]:
    """Mark what greedy chooses of the first ``count`` rows with ``factor`` times the budgets; what it chooses alone."""
    kept, budgets = [torch.arange(count)], []
    for label, budget in enumerate(plan.budgets):
        lacking = max(0, budget - counts[label])
        places = torch.nonzero(both.labels[count:] == label).flatten()[:lacking] + count
        kept.append(places)
        budgets.append(min(counts[label], plan.factor * budget) + len(places))
    rows = torch.cat(kept)
    part = both.rows(rows) if len(rows) < len(both.labels) else both
    objective = build_objective(plan.weights, with_candidates(real, part))
    chosen = [i for i in greedy(objective, part.labels, budgets, start=range(count, len(rows))) if i < count]
    proposed[chosen] = True
    room, alone = list(plan.budgets), []
    for index in chosen:
        label = int(both.labels[index])
        if room[label] > 0:
            room[label] -= 1
            alone.append(index)
    return [] if any(room) else alone
