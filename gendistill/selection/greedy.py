"""Greedy selection under class budgets, for any objective."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gendistill.objectives.base import Objective
from gendistill.selection.diversity import Diversity

TIE = 1e-12  # gains this near are equal: rounding, which differs between machines, must not choose


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
) -> list[int]:
    """Add the candidate with the largest gain among the classes not yet full, until all budgets or candidates are used.

    A budget is to be filled, so candidates are added even when every gain is negative. Where diversity leaves a class
    nothing to choose from, its distance is relaxed (``Diversity.relax``).

    :param labels: (n,) int64.
    :param budgets: how many to choose of each class, ``start`` included; labels beyond its length have none.
    :param start: indices already chosen.
    :return: indices in the order they were chosen, ``start`` first.
    """
    chosen = [int(index) for index in start]
    unchosen = torch.ones(len(labels), dtype=torch.bool)
    unchosen[chosen] = False
    room = list(budgets)
    for index in chosen:
        room[int(labels[index])] -= 1
    while True:
        allowed = torch.zeros(len(labels), dtype=torch.bool)
        spread = unchosen if diversity is None else diversity.allowed(chosen)
        for label, left in enumerate(room):
            mine = labels == label
            if left <= 0 or not (mine & unchosen).any():
                continue
            while diversity is not None and not (mine & spread).any():
                diversity.relax(label)
                spread = diversity.allowed(chosen)
            allowed |= mine & spread
        if not allowed.any():
            return chosen
        index = best(objective.gains(chosen), allowed)
        chosen.append(index)
        unchosen[index] = False
        room[int(labels[index])] -= 1
