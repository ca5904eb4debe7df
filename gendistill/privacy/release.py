"""The one release of a private run: sums over the real rows with Gaussian noise.

Each row adds, of its embedding x (of length 1 at most), its class and its length: ``x x^T``, x to the sum of its
class, one to the count of its class, and one to a bin of lengths. Each of the four has an L2 sensitivity of 1 for one
row added or removed, and its share of the guarantee: noise of standard deviation ``multiplier / sqrt(share)`` on each
of the four is the Gaussian mechanism of that multiplier on all of them together (Dwork & Roth 2014, appendix A; for the
calibration Balle & Wang 2018, arXiv 1805.06530).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from gendistill.errors import DataError

Array = npt.NDArray[np.float64]
RandomBytes = Callable[[int], bytes]

# Of the squared budget; they sum to 1. docs/privacy.md has what other shares measured.
SHARES = {"moment": 0.45, "sums": 0.45, "counts": 0.05, "lengths": 0.05}
GRID = 2.0**14  # steps of 1: sums of products of whole numbers are exact in float64, in whatever order they are made
BLOCK = 4096  # rows at once
# Least units (words, or characters in scripts without spaces) of each bin of lengths
LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)


@dataclass(frozen=True)
class Sums:
    """Over all rows; exact, or noised. All float64."""

    moment: Array  # (d, d) symmetric
    sums: Array  # (C, d)
    counts: Array  # (C,)
    lengths: Array  # (len(LENGTHS),)

    @property
    def vector(self) -> Array:
        """All in one: of the moment the upper triangle, what is off its diagonal times the root of 2, so that the
        length of a row's part is that of the matrix."""
        upper = np.triu_indices(len(self.moment))
        scale = np.where(upper[0] == upper[1], 1.0, math.sqrt(2))
        return np.concatenate([self.moment[upper] * scale, self.sums.ravel(), self.counts, self.lengths])

    @staticmethod
    def of_vector(vector: Array, width: int, classes: int) -> Sums:
        """The reverse of ``vector``."""
        upper = np.triu_indices(width)
        ends = np.cumsum(sizes(width, classes))
        triangle, sums, counts, lengths = np.split(vector, ends[:-1])
        moment = np.zeros((width, width))
        moment[upper] = triangle / np.where(upper[0] == upper[1], 1.0, math.sqrt(2))
        moment = np.triu(moment) + np.triu(moment, 1).T
        return Sums(moment, sums.reshape(classes, width), counts, lengths)


@dataclass(frozen=True)
class Noise:
    """Standard deviation of the noise in each part of the vector."""

    moment: float
    sums: float
    counts: float
    lengths: float

    @staticmethod
    def of(multiplier: float) -> Noise:
        return Noise(**{part: multiplier / math.sqrt(share) for part, share in SHARES.items()})


def sizes(width: int, classes: int) -> list[int]:
    """Numbers in each part of the vector."""
    return [width * (width + 1) // 2, classes * width, classes, len(LENGTHS)]


def exact_sums(
    embeddings: npt.NDArray[np.float32], labels: Sequence[int], lengths: Sequence[int], classes: int
) -> Sums:
    """The sums without noise. They do not depend on the order of the rows.

    :param embeddings: (n, d); rows longer than 1 are shortened to 1, and all are rounded towards zero.
    :param labels: (n,) class indices.
    :param lengths: (n,) units of each text.
    :raises DataError: an embedding is not finite.
    """
    width = embeddings.shape[1]
    moment, sums = np.zeros((width, width)), np.zeros((classes, width))
    of_class = np.asarray(labels, dtype=np.int64)
    for start in range(0, len(embeddings), BLOCK):
        rows = embeddings[start : start + BLOCK].astype(np.float64)
        if not np.isfinite(rows).all():
            raise DataError("the embeddings of the real rows hold NaN or infinity: the student or embedder is broken")
        whole = np.trunc(GRID * rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1.0))
        moment += whole.T @ whole
        sums += np.eye(classes)[of_class[start : start + BLOCK]].T @ whole
    bins = np.searchsorted(LENGTHS, np.maximum(lengths, 1), side="right") - 1
    return Sums(
        moment / GRID**2,
        sums / GRID,
        np.bincount(of_class, minlength=classes).astype(np.float64),
        np.bincount(bins, minlength=len(LENGTHS)).astype(np.float64),
    )


def noised(exact: Sums, multiplier: float, seed: int | None = None) -> Sums:
    """What is released. The noise comes from the operating system's randomness, unless a seed is given.

    :param multiplier: standard deviation over sensitivity (``noise_multiplier``); 0 for no noise.
    """
    classes, width = exact.sums.shape
    vector, noise = exact.vector, Noise.of(multiplier)
    source: RandomBytes = os.urandom if seed is None else np.random.default_rng([seed, 23]).bytes
    scales = np.repeat([noise.moment, noise.sums, noise.counts, noise.lengths], sizes(width, classes))
    if multiplier:
        vector = np.rint((vector + scales * gaussian(len(vector), source)) * GRID) / GRID
    return Sums.of_vector(vector, width, classes)


def gaussian(count: int, source: RandomBytes) -> Array:
    """Standard normal numbers from 53 random bits each, by the inverse of the distribution function."""
    bits = np.frombuffer(source(8 * count), dtype=np.uint64) >> np.uint64(11)
    return np.asarray(ndtri((bits.astype(np.float64) + 0.5) / 2.0**53))
