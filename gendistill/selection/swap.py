"""Swap refinement: local search that exchanges chosen candidates for better ones of the same class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gendistill.objectives.base import Objective
from gendistill.selection.diversity import Diversity
from gendistill.selection.greedy import TIE, best

LOOK_AHEAD = 8  # trials that an objective is told of at once; what a swap makes void is lost work


@dataclass(frozen=True)
class SwapResult:
    chosen: list[int]  # a replacement stands where the replaced one stood
    loss: float
    swaps: int
    history: list[float]  # loss after each swap


def swap(
    objective: Objective,
    chosen: Sequence[int],
    labels: Tensor,
    *,
    diversity: Diversity | None = None,
    passes: int = 3,
    trials: int | None = None,
) -> SwapResult:
    """Exchange each chosen candidate for the best unchosen one of its class where that lowers the loss.

    Goes through the chosen class by class. Only strict improvements (beyond 1e-12) are taken, so the loss never rises.
    Ends when no exchange of one helps (a local optimum), after ``passes`` passes over the chosen, or after ``trials``
    of the chosen were tried, each against all candidates of its class. A replacement keeps the diversity's distance in
    force to all others chosen.

    :param labels: (n,) int64.
    :param trials: a bound on the work, counted over all passes; None for none but ``passes``.
    """
    current = [int(index) for index in chosen]
    loss = objective.loss(current)
    history: list[float] = []
    settled = 0  # positions looked at since the last swap
    gains = torch.full((len(labels),), -torch.inf, dtype=torch.float64)
    positions = sorted(range(len(current)), key=lambda position: int(labels[current[position]]))
    todo = (positions * passes)[:trials]
    expected: list[int] = []  # the positions that the objective was told of, as they are now
    for turn, position in enumerate(todo):
        if settled == len(current):
            break
        settled += 1
        old = current[position]
        rest = current[:position] + current[position + 1 :]
        allowed = labels == labels[old]
        rows = torch.nonzero(allowed).flatten()
        if diversity is not None:
            allowed &= diversity.allowed(rest)
        allowed[current] = False
        if not allowed.any():
            continue
        if hasattr(objective, "expect") and position not in expected:
            expected = [p for p in todo[turn : turn + LOOK_AHEAD] if labels[current[p]] == labels[old]]
            objective.expect(current, [current[:p] + current[p + 1 :] for p in expected], rows)
        gains[rows] = objective.gains(rest, rows)
        new = best(gains, allowed)
        if gains[new] - gains[old] <= TIE:
            continue
        proposal = [*current[:position], new, *current[position + 1 :]]
        new_loss = objective.loss(proposal)
        if new_loss < loss - TIE:
            current, loss, settled, expected = proposal, new_loss, 0, []
            history.append(loss)
    return SwapResult(current, loss, len(history), history)
