"""Diversity: how near two chosen texts of one class may be, with FAISS for the neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import faiss
import numpy as np
import torch
from torch import Tensor

LEAST_DISTANCE = 1e-3  # a class relaxed below this has no distance left worth keeping


class Diversity:
    """A least cosine distance between chosen texts of one class, relaxed for classes that cannot be filled under it.

    The neighbours of a row are searched for when it is first chosen and then kept: memory and time grow with the
    budget, not with the square of the candidates.

    :param embeddings: (n, d) float32, rows of length 1.
    :param labels: (n,) int64.
    :param min_distance: least ``1 - cosine``, 0 to 2; 0 allows everything.
    """

    def __init__(self, embeddings: Tensor, labels: Tensor, min_distance: float) -> None:
        self.min_distance = min_distance
        self.effective = {int(c): min_distance for c in labels.unique()}  # class -> distance in force
        self._labels: list[int] = labels.tolist()
        self._embeddings = np.ascontiguousarray(embeddings.numpy(), dtype=np.float32)
        self._rows = {c: np.flatnonzero(labels.numpy() == c) for c in self.effective}
        self._indexes: dict[int, faiss.IndexFlatIP] = {}
        self._near: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # row -> (rows nearer than min_distance, distances)

    def allowed(self, chosen: Sequence[int]) -> Tensor:
        """(n,) bool: not chosen, and at least the class's distance in force from every chosen row of the class."""
        allowed = np.ones(len(self._labels), dtype=bool)
        for row in chosen:
            distance = self.effective[self._labels[row]]
            if distance > 0:
                near, distances = self._neighbours(row)
                allowed[near[distances < distance]] = False
            allowed[row] = False
        return torch.from_numpy(allowed)

    def relax(self, label: int) -> float:
        """Halve a class's distance, to 0 in the end; returns the new one."""
        half = self.effective[label] / 2
        self.effective[label] = half if half >= LEAST_DISTANCE else 0.0
        return self.effective[label]

    def shortfalls(self, chosen: Sequence[int]) -> dict[int, float]:
        """Class -> least distance between two of its chosen rows, where that is below ``min_distance``."""
        least: dict[int, float] = {}
        if self.min_distance > 0:
            members = set(chosen)
            for row in chosen:
                near, distances = self._neighbours(row)
                for other, distance in zip(near.tolist(), distances.tolist(), strict=True):
                    if other in members and other != row:
                        label = self._labels[row]
                        least[label] = min(least.get(label, 2.0), max(distance, 0.0))
        return least

    def _neighbours(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        if row not in self._near:
            label = self._labels[row]
            if label not in self._indexes:
                self._indexes[label] = faiss.IndexFlatIP(self._embeddings.shape[1])
                self._indexes[label].add(self._embeddings[self._rows[label]])
            _, cosines, found = self._indexes[label].range_search(self._embeddings[[row]], 1.0 - self.min_distance)
            self._near[row] = (self._rows[label][found], 1.0 - cosines)
        return self._near[row]
