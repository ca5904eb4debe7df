"""Diversity: how near two chosen texts of one class may be, with FAISS for the neighbours."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import faiss
import numpy as np
import torch
from torch import Tensor

from gendistill.objectives.vectors import HeadGradients
from gendistill.students.base import Features

LEAST_DISTANCE = 1e-3  # a class relaxed below this has no distance left worth keeping
Near = tuple[np.ndarray, np.ndarray]  # rows nearer than a distance, and how near


class Diversity:
    """A least cosine distance between chosen texts of one class, relaxed for classes that cannot be filled under it.

    Distances are those of the texts' embeddings and, where asked for, of their gradients, which must both be kept: two
    texts that teach a student the same may be worded differently. The neighbours of a row are searched for when it is
    first chosen and then kept: memory and time grow with the budget, not with the square of the candidates.

    :param embeddings: (n, d) float32, rows of length 1.
    :param labels: (n,) int64.
    :param min_distance: least ``1 - cosine``, 0 to 2; 0 allows everything.
    :param features: of the candidates at one checkpoint, for their gradients: those by the student's body where there
        are any, else those by its head.
    :param min_gradient_distance: as ``min_distance``, of gradients; needs ``features``.
    """

    def __init__(
        self,
        embeddings: Tensor,
        labels: Tensor,
        min_distance: float,
        features: Features | None = None,
        min_gradient_distance: float = 0.0,
    ) -> None:
        self.min_distance = min_distance
        self.min_gradient_distance = min_gradient_distance
        classes = [int(c) for c in labels.unique()]
        self.effective = dict.fromkeys(classes, min_distance)  # class -> distance in force
        self.effective_gradient = dict.fromkeys(classes, min_gradient_distance)
        self._labels = labels
        rows = {c: np.flatnonzero(labels.numpy() == c) for c in classes}
        self._text = _Kept(_faiss_search(embeddings, labels, rows, min_distance))
        self._gradient: _Kept | None = None
        if min_gradient_distance > 0:
            if features is None:
                raise ValueError("min_gradient_distance needs features")
            if features.gradient is not None:
                unit = torch.nn.functional.normalize(features.gradient, dim=1)
                self._gradient = _Kept(_faiss_search(unit, labels, rows, min_gradient_distance))
            else:
                self._gradient = _Kept(_head_search(features, labels, rows, min_gradient_distance))

    def allowed(self, chosen: Sequence[int]) -> Tensor:
        """(n,) bool: not chosen, and at least the class's distances in force from every chosen row of the class."""
        allowed = np.ones(len(self._labels), dtype=bool)
        for row in chosen:
            label = int(self._labels[row])
            for kept, effective in ((self._text, self.effective), (self._gradient, self.effective_gradient)):
                if kept is not None and effective[label] > 0:
                    near, distances = kept.neighbours(row)
                    allowed[near[distances < effective[label]]] = False
            allowed[row] = False
        return torch.from_numpy(allowed)

    def relax(self, label: int) -> float:
        """Halve a class's distances, to 0 in the end; returns the new distance of texts."""
        for effective in (self.effective, self.effective_gradient):
            half = effective[label] / 2
            effective[label] = half if half >= LEAST_DISTANCE else 0.0
        return self.effective[label]

    def shortfalls(self, chosen: Sequence[int]) -> dict[int, float]:
        """Class -> least distance between two of its chosen texts, where that is below ``min_distance``."""
        return self._shortfalls(self._text if self.min_distance > 0 else None, chosen)

    def gradient_shortfalls(self, chosen: Sequence[int]) -> dict[int, float]:
        """The same of gradients and ``min_gradient_distance``."""
        return self._shortfalls(self._gradient, chosen)

    def _shortfalls(self, kept: _Kept | None, chosen: Sequence[int]) -> dict[int, float]:
        least: dict[int, float] = {}
        members = set(chosen)
        for row in chosen if kept is not None else ():
            assert kept is not None
            near, distances = kept.neighbours(row)
            for place in np.flatnonzero(np.isin(near, list(members - {row}))):
                label = int(self._labels[row])
                least[label] = min(least.get(label, 2.0), max(float(distances[place]), 0.0))
        return least


class _Kept:
    """A search for near rows whose answers are kept."""

    def __init__(self, search: Callable[[int], Near]) -> None:
        self._search = search
        self._near: dict[int, Near] = {}

    def neighbours(self, row: int) -> Near:
        if row not in self._near:
            self._near[row] = self._search(row)
        return self._near[row]


def _faiss_search(
    vectors: Tensor, labels: Tensor, rows: dict[int, np.ndarray], distance: float
) -> Callable[[int], Near]:
    """Rows of the same class nearer than ``distance``; vectors (n, d) float32 of length 1."""
    points = np.ascontiguousarray(vectors.numpy(), dtype=np.float32)
    indexes: dict[int, faiss.IndexFlatIP] = {}

    def search(row: int) -> Near:
        label = int(labels[row])
        if label not in indexes:
            indexes[label] = faiss.IndexFlatIP(points.shape[1])
            indexes[label].add(points[rows[label]])
        _, cosines, found = indexes[label].range_search(points[[row]], 1.0 - distance)
        return rows[label][found], 1.0 - cosines

    return search


def _head_search(
    features: Features, labels: Tensor, rows: dict[int, np.ndarray], distance: float
) -> Callable[[int], Near]:
    """The same of gradients by the head, which are never formed: each has (d + 1) C values."""
    gradients = HeadGradients(features, labels)
    lengths = gradients.squared_norm.sqrt().clamp_min(torch.finfo(torch.float64).tiny)

    def search(row: int) -> Near:
        own = torch.from_numpy(rows[int(labels[row])])
        cosines = gradients.dots(gradients.total([row]) / lengths[row], own) / lengths[own]
        near = cosines > 1.0 - distance
        return own[near].numpy(), 1.0 - cosines[near].numpy()

    return search
