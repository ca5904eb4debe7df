"""Intervals of 95 % and tests, for the figures of an audit. Nothing here draws random numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Z = 1.959964  # two-sided 95 %
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.1%} (95 %: {self.low:.1%} to {self.high:.1%})"

    def figures(self, name: str) -> dict[str, int | float]:
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


def share(hits: int, total: int) -> Interval:
    """Clopper and Pearson's exact binomial interval; of nothing, 0 from 0 to 1."""
    from scipy.stats import beta

    if not total:
        return Interval(0.0, 0.0, 1.0)
    low = 0.0 if hits == 0 else float(beta.ppf(0.025, hits, total - hits + 1))
    high = 1.0 if hits == total else float(beta.ppf(0.975, hits + 1, total - hits))
    return Interval(hits / total, low, high)


def mean(values: FloatArray) -> Interval:
    """Of values in [0, 1] that are independent, by the normal distribution."""
    value = float(values.mean())
    half = Z * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 1.0
    return Interval(value, max(value - half, 0.0), min(value + half, 1.0))


def auc(positive: FloatArray, negative: FloatArray) -> Interval:
    """The chance that a positive scores higher than a negative, ties half; DeLong's interval (Biometrics 44, 1988).

    By midranks, as Sun and Xu do it (IEEE Signal Processing Letters 21, 2014).
    """
    from scipy.stats import rankdata

    m, n = len(positive), len(negative)
    ranks = rankdata(np.concatenate([positive, negative]))
    above = (ranks[:m] - rankdata(positive)) / n  # for each positive, the share of negatives below it
    below = 1 - (ranks[m:] - rankdata(negative)) / m
    value = float(above.mean())
    variance = (above.var(ddof=1) / m if m > 1 else 0.25) + (below.var(ddof=1) / n if n > 1 else 0.25)
    half = Z * math.sqrt(variance)
    return Interval(value, max(value - half, 0.0), min(value + half, 1.0))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted by Holm's step-down rule (Scandinavian Journal of Statistics 6, 1979), in the order given."""
    adjusted = [1.0] * len(p_values)
    so_far = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        so_far = max(so_far, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = so_far
    return adjusted


def rates_differ(hits: int, total: int, other_hits: int, other_total: int) -> float:
    """Two-sided p-value of Fisher's exact test; 1 where there is nothing to compare."""
    from scipy.stats import fisher_exact

    if not total or not other_total:
        return 1.0
    return float(fisher_exact([[hits, total - hits], [other_hits, other_total - other_hits]])[1])
