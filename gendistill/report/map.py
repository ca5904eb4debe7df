"""The map: every text a point, real rows and candidates on the two main axes of the real rows' embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gendistill.report.vectors import FloatArray

LAYERS = ("real", "turned away", "kept", "chosen")  # drawn in this order
MOST = {"real": 2_000, "turned away": 1_000, "kept": 4_000}  # points of a layer; the chosen are all shown


@dataclass(frozen=True)
class Point:
    """A text on the map. ``row`` is the place among the chosen, of a chosen one."""

    x: float
    y: float
    label: int | None  # None: not known
    parts: tuple[tuple[str, str], ...]  # its texts with their names; none if they are not known
    note: str = ""  # why it was turned away
    row: int | None = None


@dataclass(frozen=True)
class Layer:
    name: str
    total: int  # texts of this kind that have an embedding
    points: list[Point]


@dataclass(frozen=True)
class TextMap:
    """:param explained: shares of the real rows' variance along the two axes."""

    layers: list[Layer]
    explained: tuple[float, float]
    fitted_on: str


@dataclass(frozen=True)
class Axes:
    """A projection to two dimensions."""

    mean: FloatArray  # (d,)
    directions: FloatArray  # (2, d)
    explained: tuple[float, float]

    def project(self, vectors: FloatArray) -> list[tuple[float, float]]:
        places = (vectors - self.mean) @ self.directions.T
        # Rounded: the last bits of a product differ between machines, and the page should not
        return [(round(float(x), 4), round(float(y), 4)) for x, y in places]


def main_axes(vectors: FloatArray) -> Axes | None:
    """The two principal axes of (n, d) vectors; None if they do not span a plane."""
    from sklearn.decomposition import PCA

    if len(vectors) < 3 or vectors.shape[1] < 2 or not np.ptp(vectors, axis=0).any():
        return None
    fitted = PCA(n_components=2, random_state=0).fit(vectors)
    first, second = (round(float(share), 4) for share in fitted.explained_variance_ratio_)
    return Axes(fitted.mean_.astype(np.float32), fitted.components_.astype(np.float32), (first, second))


def sampled(labels: Sequence[int | None], most: int, seed: int) -> list[int]:
    """At most about ``most`` places, ascending: all if there are no more, else a seeded draw in proportion to the
    classes, one of each at least."""
    if len(labels) <= most:
        return list(range(len(labels)))
    groups: dict[int, list[int]] = {}
    for place, label in enumerate(labels):
        groups.setdefault(-1 if label is None else label, []).append(place)
    counts = {label: max(1, most * len(members) // len(labels)) for label, members in groups.items()}
    spare = max(0, most - sum(counts.values()))
    for label in sorted(groups, key=lambda label: (-len(groups[label]), label))[:spare]:
        counts[label] += 1
    rng = np.random.default_rng([seed, 23])
    drawn = [place for label in sorted(groups) for place in rng.permutation(groups[label])[: counts[label]].tolist()]
    return sorted(drawn)


def nearest(vectors: Mapping[int, FloatArray], real: FloatArray, count: int) -> dict[int, list[tuple[int, float]]]:
    """For every vector the ``count`` real rows of the highest cosine: (row, cosine), highest first."""
    found: dict[int, list[tuple[int, float]]] = {}
    places = list(vectors)
    count = min(count, len(real))
    for start in range(0, len(places) if count else 0, 256):
        part = places[start : start + 256]
        cosines = np.stack([vectors[place] for place in part]) @ real.T
        best = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
        for place, rows, values in zip(part, best, cosines, strict=True):
            ordered = sorted(rows.tolist(), key=lambda row: (-values[row], row))
            found[place] = [(row, round(float(values[row]), 3)) for row in ordered]
    return found
