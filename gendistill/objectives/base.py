"""The objective seam: a set function over candidates, lower is better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Objective(Protocol):
    """How badly a chosen set of candidates stands in for the real data."""

    name: str
    size: int  # number of candidates n; indices run from 0 to n - 1

    def loss(self, chosen: Sequence[int]) -> float:
        """The loss of a set. Order does not matter; the empty set has a finite loss."""
        ...

    def gains(self, chosen: Sequence[int]) -> Tensor:
        """(n,) float64: ``loss(chosen) - loss(chosen + [i])`` for every i; -inf for i already chosen."""
        ...
