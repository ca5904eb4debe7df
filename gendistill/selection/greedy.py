"""Greedy selection under class budgets, for any objective; lazy where the objective is submodular."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gendistill.objectives.base import Objective
from gendistill.selection.diversity import Diversity

TIE = 1e-12  # gains this near are equal: rounding, which differs between machines, must not choose
FORESEE_FROM = 20_000  # candidates
FORESEEN = 8  # steps that are foreseen at once, for objectives that take hints
FORESIGHT_ROWS = 100  # candidates of a class, the best now, among which they are foreseen
LAZY_ROWS = 64  # gains renewed at once, doubled while that does not settle the step


def best(gains: Tensor, allowed: Tensor) -> int:
    """The allowed index with the largest gain, the lowest of equals. At least one must be allowed."""
    gains = gains.masked_fill(~allowed, -torch.inf)
    return int(torch.nonzero(gains >= gains.max() - TIE)[0])


def greedy(
    objective: Objective,
    labels: Tensor,
    budgets: Sequence[int],
    *,
    diversity: Diversity | None = None,
    start: Sequence[int] = (),
    steps: int | None = None,
) -> list[int]:
    """Add the candidate with the largest gain among the classes not yet full, until all budgets or candidates are used.

    A budget is to be filled, so candidates are added even when every gain is negative. Where diversity leaves a class
    nothing to choose from, its distance is relaxed (``Diversity.relax``). Only candidates of classes with room are
    evaluated, and of a submodular objective only those whose last known gain, which cannot have grown, may still be the
    largest (Minoux 1978, accelerated greedy); the choice is the same.

    :param labels: (n,) int64.
    :param budgets: how many to choose of each class, ``start`` included; labels beyond its length have none.
    :param start: indices already chosen.
    :param steps: how many to add at most; None for no bound but the budgets.
    :return: indices in the order they were chosen, ``start`` first.
    """
    chosen = [int(index) for index in start]
    unchosen = torch.ones(len(labels), dtype=torch.bool)
    unchosen[chosen] = False
    room = list(budgets)
    for index in chosen:
        room[int(labels[index])] -= 1
    lazy = getattr(objective, "submodular", False)
    gains = torch.full((len(labels),), -torch.inf, dtype=torch.float64)
    known = False
    foreseen: list[int] = []
    while steps is None or len(chosen) < len(start) + steps:
        spread = unchosen if diversity is None else diversity.allowed(chosen)
        allowed, still_open = torch.zeros_like(unchosen), torch.zeros_like(unchosen)
        for label, left in enumerate(room):
            mine = labels == label
            if left <= 0 or not (mine & unchosen).any():
                continue
            while diversity is not None and not (mine & spread).any():
                diversity.relax(label)
                spread = diversity.allowed(chosen)
            allowed |= mine & spread
            still_open |= mine
        if not allowed.any():
            return chosen
        if lazy and known:
            index = _lazy_best(objective, chosen, gains, allowed)
        else:
            rows = torch.nonzero(still_open).flatten()
            if known and not foreseen and len(rows) >= FORESEE_FROM and hasattr(objective, "restricted"):
                foreseen = _foresee(objective, labels, budgets, chosen, gains.masked_fill(~allowed, -torch.inf), rows)
            gains[rows] = objective.gains(chosen, rows)
            known = True
            index = best(gains, allowed)
        foreseen = foreseen[1:] if foreseen[:1] == [index] else []
        chosen.append(index)
        unchosen[index] = False
        room[int(labels[index])] -= 1
    return chosen


def _foresee(
    objective: Any, labels: Tensor, budgets: Sequence[int], chosen: list[int], gains: Tensor, rows: Tensor
) -> list[int]:
    """The next steps as they look among the few candidates that are best now, told to the objective as a hint."""
    short = torch.zeros(len(labels), dtype=torch.bool)
    short[chosen] = True
    for label in range(len(budgets)):
        own = gains.masked_fill(labels != label, -torch.inf)
        short[own.topk(min(FORESIGHT_ROWS, len(own))).indices] = True
    few = torch.nonzero(short).flatten()
    part = objective.restricted(few)
    if part is None:
        return []
    start = torch.searchsorted(few, torch.tensor(chosen, dtype=torch.int64)).tolist()
    order = greedy(part, labels[few], budgets, start=start, steps=FORESEEN)
    steps = few[order[len(chosen) :]].tolist()
    objective.expect(chosen, [chosen + steps[:count] for count in range(1, len(steps))], rows)
    return steps


def _lazy_best(objective: Objective, chosen: Sequence[int], bounds: Tensor, allowed: Tensor) -> int:
    """As ``best``, renewing in ``bounds`` (gains at earlier, smaller sets) only what may hold the largest gain."""
    fresh = torch.zeros_like(allowed)
    count = LAZY_ROWS
    while True:
        known = bounds.masked_fill(~(allowed & fresh), -torch.inf)
        rivals = torch.nonzero(allowed & ~fresh & (bounds >= known.max() - TIE)).flatten()
        if len(rivals) == 0:
            return best(bounds, allowed & fresh)
        rivals = rivals[torch.topk(bounds[rivals], min(count, len(rivals))).indices].sort().values
        bounds[rivals] = objective.gains(chosen, rivals)
        fresh[rivals] = True
        count *= 2
