"""The objective seam: a set function over candidates, lower is better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Objective(Protocol):
    """How badly a chosen set of candidates stands in for the real data.

    An objective whose gains never grow as the set grows may say so with ``submodular = True``; greedy selection then
    evaluates few of them a step. One that can prepare gains at several sets together may have
    ``expect(chosen, ahead, rows)``, a hint that gains at ``chosen`` and the sets ``ahead`` may be asked for next, and
    ``restricted(rows)``, the same objective over a few candidates, among which greedy then foresees its next steps.
    """

    name: str
    size: int  # number of candidates n; indices run from 0 to n - 1

    def loss(self, chosen: Sequence[int]) -> float:
        """The loss of a set. Order does not matter; the empty set has a finite, positive loss."""
        ...

    def gains(self, chosen: Sequence[int], rows: Tensor | None = None) -> Tensor:
        """``loss(chosen) - loss(chosen + [i])`` for every i in ``rows``; -inf for i already chosen.

        :param rows: (r,) int64, the candidates to evaluate, distinct and in rising order; None for all.
        :return: (r,) or (n,) float64.
        """
        ...
