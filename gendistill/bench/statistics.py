"""Honest statistics of nested runs: students within sets within a method.

Intervals resample sets and then the runs of each (a two-stage bootstrap); methods are compared in pairs of sets with
the same number, which were chosen from the same rows and trained with the same seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 2000
Runs = Sequence[float]
Sets = Mapping[int, Runs]  # set -> scores of its runs


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float
    sets: int  # of the cell with the fewest; one alone has no interval

    @property
    def half(self) -> float:
        return (self.high - self.low) / 2

    @property
    def differs(self) -> bool:
        """Of a difference: whether there is an interval, and it leaves 0 out."""
        return self.sets > 1 and (self.low > 0 or self.high < 0)


def estimate(sets: Sets, rng: np.random.Generator) -> Estimate:
    """Mean of the per-set means. With one set of one run the interval has no width and says nothing."""
    means = [float(np.mean(runs)) for runs in sets.values()]
    draws = _resampled([list(runs) for runs in sets.values()], rng)
    low, high = np.percentile(draws, [2.5, 97.5])
    return Estimate(float(np.mean(means)), float(low), float(high), len(means))


def lead(
    ours: Mapping[str, Sets], others: Mapping[str, Sets], rng: np.random.Generator, *, paired: bool = True
) -> Estimate | None:
    """Mean over cells of the difference of two methods.

    :param ours: cell -> sets; ``others`` alike. Cells that only one has do not count.
    :param paired: whether sets of the same number belong together; sets that were made elsewhere do not.
    :return: None where they share no cell.
    """
    means, draws, counts = [], [], []
    for cell in sorted(ours.keys() & others.keys()):
        shared = sorted(ours[cell].keys() & others[cell].keys()) if paired else []
        if shared:
            pairs = [_differences(ours[cell][number], others[cell][number]) for number in shared]
            draws.append(_resampled(pairs, rng))
            means.append(np.mean([np.mean(runs) for runs in pairs]))
            counts.append(len(shared))
        elif not paired and ours[cell] and others[cell]:
            mine, theirs = (_resampled([list(runs) for runs in one[cell].values()], rng) for one in (ours, others))
            draws.append(mine - theirs)
            means.append(_mean(ours[cell]) - _mean(others[cell]))
            counts.append(min(len(ours[cell]), len(others[cell])))
    if not means:
        return None
    low, high = np.percentile(np.mean(draws, axis=0), [2.5, 97.5])
    return Estimate(float(np.mean(means)), float(low), float(high), min(counts))


def best_of(methods: Mapping[str, Mapping[str, Sets]]) -> dict[str, Sets]:
    """Cell -> sets of the method with the highest mean there. The choice favours those methods, not ours."""
    cells = {cell for one in methods.values() for cell in one}
    best: dict[str, Sets] = {}
    for cell in cells:
        there = [one[cell] for one in methods.values() if one.get(cell)]
        best[cell] = max(there, key=_mean)
    return best


def _mean(sets: Sets) -> float:
    return float(np.mean([np.mean(runs) for runs in sets.values()]))


def _differences(a: Runs, b: Runs) -> list[float]:
    """Run by run: run k of both had the same seed."""
    count = min(len(a), len(b))
    return [a[k] - b[k] for k in range(count)]


def _resampled(sets: Sequence[Runs], rng: np.random.Generator) -> np.ndarray:
    """(DRAWS,) means of sets drawn with replacement, of each as many runs drawn as it has."""
    width = max(len(runs) for runs in sets)
    values = np.full((len(sets), width), np.nan)
    for row, runs in enumerate(sets):
        values[row, : len(runs)] = runs
    counts = np.array([len(runs) for runs in sets])
    picked = rng.integers(len(sets), size=(DRAWS, len(sets)))
    run = (rng.random((DRAWS, len(sets), width)) * counts[picked][..., None]).astype(int)
    drawn = values[picked[..., None], run]
    used = np.arange(width) < counts[picked][..., None]
    return ((drawn * used).sum(2) / used.sum(2)).mean(1)
