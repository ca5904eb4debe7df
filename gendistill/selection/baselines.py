"""Baselines: selectors that look at embeddings only. All choose per class, from numpy float64 distances.

Each takes ``(embeddings (n, d) float32 with rows of length 1, labels (n,) int64, budgets, seed)`` and returns distinct
indices, class by class; a class with fewer rows than its budget gives all it has. Rows may be real or generated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import faiss
import numpy as np
from torch import Tensor

Baseline = Callable[[Tensor, Tensor, Sequence[int], int], list[int]]


def random_selection(embeddings: Tensor, labels: Tensor, budgets: Sequence[int], seed: int) -> list[int]:
    """Uniformly at random."""
    chosen: list[int] = []
    for label, rows, _, budget in _classes(embeddings, labels, budgets):
        chosen += np.random.default_rng([seed, label]).permutation(rows)[:budget].tolist()
    return chosen


def herding(embeddings: Tensor, labels: Tensor, budgets: Sequence[int], seed: int) -> list[int]:
    """Herding (Welling 2009): each row brings the running mean nearest to the class mean. No seed used."""
    chosen: list[int] = []
    for _, rows, points, budget in _classes(embeddings, labels, budgets):
        mean = points.mean(0)
        weight = mean.copy()
        free = np.ones(len(rows), dtype=bool)
        for _ in range(budget):
            pick = int(np.argmax(np.where(free, points @ weight, -np.inf)))
            free[pick] = False
            weight += mean - points[pick]
            chosen.append(int(rows[pick]))
    return chosen


def k_means_nearest(embeddings: Tensor, labels: Tensor, budgets: Sequence[int], seed: int) -> list[int]:
    """The row nearest to each centroid of k-means with k = budget; what the distillation literature calls K-centers."""
    chosen: list[int] = []
    for _, rows, points, budget in _classes(embeddings, labels, budgets):
        if budget == len(rows):
            chosen += rows.tolist()
            continue
        points32 = np.ascontiguousarray(points, dtype=np.float32)
        kmeans = faiss.Kmeans(points.shape[1], budget, niter=25, seed=seed, min_points_per_centroid=1)
        kmeans.train(points32)
        index = faiss.IndexFlatL2(points.shape[1])
        index.add(points32)
        taken: set[int] = set()
        # Of a centroid's `budget` nearest rows, the others can have taken all but one.
        for neighbours in index.search(np.asarray(kmeans.centroids), budget)[1].tolist():
            pick = next(row for row in neighbours if row not in taken)
            taken.add(pick)
            chosen.append(int(rows[pick]))
    return chosen


def k_center(embeddings: Tensor, labels: Tensor, budgets: Sequence[int], seed: int) -> list[int]:
    """Greedy k-center (Gonzalez 1985, farthest first), from the row nearest to the class mean. No seed used."""
    chosen: list[int] = []
    for _, rows, points, budget in _classes(embeddings, labels, budgets):
        pick = int(np.argmin(np.square(points - points.mean(0)).sum(1)))
        distances = np.full(len(rows), np.inf)
        for _ in range(budget):
            chosen.append(int(rows[pick]))
            distances = np.minimum(distances, np.square(points - points[pick]).sum(1))
            distances[pick] = -1.0  # below any distance, so that equal rows are still chosen once each
            pick = int(np.argmax(distances))
    return chosen


def _classes(
    embeddings: Tensor, labels: Tensor, budgets: Sequence[int]
) -> Iterator[tuple[int, np.ndarray, np.ndarray, int]]:
    """(label, rows, (n_c, d) float64 points, budget cut to the rows there are) of each class to choose from."""
    for label, budget in enumerate(budgets):
        rows = np.flatnonzero(labels.numpy() == label)
        if min(budget, len(rows)) > 0:
            yield label, rows, embeddings.numpy()[rows].astype(np.float64), min(budget, len(rows))


BASELINES: dict[str, Baseline] = {
    "random": random_selection,
    "herding": herding,
    "k-means-nearest": k_means_nearest,
    "k-center": k_center,
}
