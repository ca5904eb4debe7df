"""A predicted figure with how far off it may be."""

from __future__ import annotations

import math
from dataclasses import dataclass

DEVIATIONS = 1.96  # standard deviations to either side that hold 95 % of a normal distribution


@dataclass(frozen=True)
class Estimate:
    """:param value: what is expected.
    :param error: its standard error, in the same unit.
    """

    value: float
    error: float = 0.0

    @property
    def low(self) -> float:
        """Of the 95 % interval; no figure here is below zero."""
        return max(0.0, self.value - DEVIATIONS * self.error)

    @property
    def high(self) -> float:
        return self.value + DEVIATIONS * self.error

    @property
    def relative(self) -> float:
        return self.error / self.value if self.value else 0.0

    def __add__(self, other: Estimate) -> Estimate:
        """Errors add up as if both were off the same way: figures of one plan rest on the same sample."""
        return Estimate(self.value + other.value, self.error + other.error)

    def __mul__(self, other: Estimate | float) -> Estimate:
        """Two factors are measured apart, so their relative errors are added in squares."""
        if not isinstance(other, Estimate):
            return Estimate(self.value * other, self.error * abs(other))
        value = self.value * other.value
        return Estimate(value, math.hypot(self.error * other.value, other.error * self.value))

    def to_json(self) -> dict[str, float]:
        return {"expected": self.value, "low": self.low, "high": self.high}


NOTHING = Estimate(0.0)


def largest(*estimates: Estimate) -> Estimate:
    """Of things done side by side, what ends last."""
    return max(estimates, key=lambda one: one.value)
