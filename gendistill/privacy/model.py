"""What the released sums say of the real rows: a Gaussian of each class, with one covariance within classes.

That is the model of linear discriminant analysis. Nothing here sees a real row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gendistill.privacy.release import LENGTHS, Array, Noise, Sums

SIGNAL = 3.0  # standard deviations of noise that a count must exceed to be believed
USUAL_SHARE = 0.01  # of the rows that a bin of lengths must hold to be usual


@dataclass(frozen=True)
class ClassModel:
    """Unit vectors of class c lie around ``means[c]`` with covariance ``axes.T @ axes``."""

    means: Array  # (C, d)
    axes: Array  # (d, d): rows are principal axes times their standard deviations
    counts: Array  # (C,) rows of each class, 1 at least
    drowned: tuple[int, ...]  # classes whose distance from the mean of all is mostly noise

    def stand_ins(self, per_class: int, seed: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Drawn vectors, equally many of each class: (m, d) float32 of length 1, and their classes, (m,) int64."""
        rng = np.random.default_rng(list(seed))
        classes, width = self.means.shape
        labels = np.repeat(np.arange(classes), per_class)
        rows = self.means[labels] + rng.standard_normal((len(labels), width)) @ self.axes
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        return rows.astype(np.float32), labels


def class_model(released: Sums, noise: Noise) -> ClassModel:
    """The model, with what is noise in the sums taken out as far as it can be told.

    Class means are drawn towards the mean of all as far as noise alone would part them (James & Stein 1961, positive
    part). Of the covariance the eigenvalues that stand out from those of the noise are kept, less what noise adds to
    them; the others share the rest of the trace, which is known, for the rows have length 1. The edge of the noise is
    Wigner's semicircle, and an eigenvalue t beyond it comes out as t + s^2/t (Benaych-Georges & Nadakuditi 2011, arXiv
    0910.2120).
    """
    width = released.sums.shape[1]
    counts = np.maximum(released.counts, 1.0)
    total = float(counts.sum())
    overall = released.sums.sum(0) / total
    apart = released.sums / counts[:, None] - overall
    by_noise = width * (noise.sums / counts) ** 2  # expected squared length of the noise
    squared = np.maximum(np.square(apart).sum(1), 1e-12)
    drowned = tuple(np.flatnonzero(squared < 2 * by_noise).tolist())
    means = overall + np.maximum(1 - by_noise / squared, 0)[:, None] * apart
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1.0)

    shares = counts / total
    within = released.moment / total - (means * shares[:, None]).T @ means
    values, axes = np.linalg.eigh(within)
    spread = math.sqrt(width / 2) * noise.moment / total  # half of the semicircle's radius
    kept = values > 2 * spread
    values = np.where(kept, (values + np.sqrt(np.maximum(values**2 - 4 * spread**2, 0))) / 2, 0.0)
    trace = 1 - float(shares @ np.square(means).sum(1))
    rest = max(trace - float(values.sum()), 0.0) / max(int((~kept).sum()), 1)
    values = np.where(kept, values, rest)
    return ClassModel(means, np.sqrt(values)[:, None] * axes.T, counts, drowned)


def usual_lengths(released: Sums, noise: Noise) -> tuple[int, int]:
    """Least and most units of a text, from the bins that hold more than noise and a hundredth of the rows.

    Of too few rows to tell, every length is usual.
    """
    least = SIGNAL * noise.lengths + USUAL_SHARE * max(float(released.counts.sum()), 0.0)
    held = np.flatnonzero(released.lengths > least)
    if not len(held):
        return LENGTHS[0], LENGTHS[-1]
    ends = (*LENGTHS[1:], 2 * LENGTHS[-1])
    return LENGTHS[held[0]], ends[held[-1]] - 1
