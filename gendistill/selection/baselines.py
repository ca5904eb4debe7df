"""Baselines: selectors without an objective. All choose per class, from numpy float64 distances.

Those of ``BASELINES`` look at embeddings only and take ``(embeddings (n, d) float32 with rows of length 1, labels (n,)
int64, budgets, seed)``; those of ``INFORMED_BASELINES`` look at the real rows or the teacher too and take ``(inputs,
budgets, seed)``. Each returns distinct indices, class by class; a class with fewer rows than its budget gives all it
has. Rows may be real or generated. ``select_baseline`` runs either kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import faiss
import numpy as np
from torch import Tensor

from gendistill.errors import ConfigError, DataError

if TYPE_CHECKING:
    from gendistill.objectives import ObjectiveInputs
    from gendistill.students.base import Features

Baseline = Callable[[Tensor, Tensor, Sequence[int], int], list[int]]
InformedBaseline = Callable[["ObjectiveInputs", Sequence[int], int], list[int]]

REWARDED_SETS = 10  # random sets that teacher-probability chooses from; CondenseLM's N
_BLOCK_ROWS = 4096  # of features turned into float64 at a time


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


def nearest_real(inputs: ObjectiveInputs, budgets: Sequence[int], seed: int) -> list[int]:
    """Every real row votes for the candidate of its class nearest to it; the candidates with the most votes.

    The nearest-neighbour histogram of Private Evolution (Lin et al. 2024, arXiv 2305.15560). Equal votes are ordered by
    the mean cosine to the class's real rows; so where the candidates are the real rows themselves and each votes for
    itself, those most like their class are chosen. No seed used.
    """
    real = inputs.real_embeddings.numpy()
    chosen: list[int] = []
    for label, rows, points, budget in _classes(inputs.candidate_embeddings, inputs.candidate_labels, budgets):
        mine = np.ascontiguousarray(real[inputs.real_labels.numpy() == label], dtype=np.float32)
        votes, likeness = np.zeros(len(rows), dtype=np.int64), np.zeros(len(rows))
        if len(mine):
            candidates = np.ascontiguousarray(points, dtype=np.float32)
            _, nearest = faiss.knn(mine, candidates, 1, metric=faiss.METRIC_INNER_PRODUCT)
            votes = np.bincount(nearest[:, 0], minlength=len(rows))
            likeness = points @ mine.astype(np.float64).mean(0)
        chosen += rows[np.lexsort((-likeness, -votes))[:budget]].tolist()
    return chosen


def gradient_norm(inputs: ObjectiveInputs, budgets: Sequence[int], seed: int) -> list[int]:
    """The largest gradients of the teacher's head, their norms averaged over its checkpoints. No seed used.

    GraNd (Paul et al. 2021, arXiv 2107.07075) on the last layer, where the gradient is ``(p - y) outer [h; 1]`` and its
    norm ``|p - y| sqrt(|h|^2 + 1)``; the first factor alone is that paper's EL2N.
    """
    labels = inputs.candidate_labels.numpy()
    norms = np.zeros(len(labels))
    for features in _with_features(inputs, "gradient-norm"):
        for start in range(0, len(labels), _BLOCK_ROWS):
            rows = slice(start, start + _BLOCK_ROWS)
            error = features.probabilities[rows].double().numpy()
            error[np.arange(len(error)), labels[rows]] -= 1.0
            squared = np.square(features.hidden[rows].double().numpy()).sum(1)
            norms[rows] += np.sqrt(np.square(error).sum(1) * (squared + 1.0))
    chosen: list[int] = []
    for _, rows_of_class, _, budget in _classes(inputs.candidate_embeddings, inputs.candidate_labels, budgets):
        chosen += rows_of_class[np.argsort(-norms[rows_of_class], kind="stable")[:budget]].tolist()
    return chosen


def teacher_probability(inputs: ObjectiveInputs, budgets: Sequence[int], seed: int) -> list[int]:
    """Of ``REWARDED_SETS`` random sets, the one with the highest reward: representativeness plus coverage.

    After CondenseLM (Shen et al., EMNLP 2025, main.65), whose reward has these two parts. Here representativeness is
    the mean probability that the trained teacher gives to the label, and coverage the mean over the class's real rows
    of the cosine to the nearest chosen text, both in [0, 1] or near it. Class by class, since both are.
    """
    final = _with_features(inputs, "teacher-probability")[-1]
    labels = inputs.candidate_labels.numpy()
    probability = final.probabilities.double().numpy()[np.arange(len(labels)), labels]
    real = inputs.real_embeddings.numpy()
    chosen: list[int] = []
    for label, rows, points, budget in _classes(inputs.candidate_embeddings, inputs.candidate_labels, budgets):
        mine = real[inputs.real_labels.numpy() == label].astype(np.float64)
        rng = np.random.default_rng([seed, label])
        best, highest = np.arange(0), -np.inf
        for _ in range(REWARDED_SETS):
            picks = rng.permutation(len(rows))[:budget]
            coverage = float((mine @ points[picks].T).max(1).mean()) if len(mine) else 0.0
            reward = float(probability[rows[picks]].mean()) + coverage
            if reward > highest:
                best, highest = picks, reward
        chosen += rows[best].tolist()
    return chosen


def select_baseline(method: str, inputs: ObjectiveInputs, budgets: Sequence[int], seed: int) -> list[int]:
    """Choose by any baseline of ``ALL_BASELINES``.

    :param budgets: how many to choose of each class.
    :return: distinct candidate indices, class by class.
    :raises ConfigError: there is no such baseline.
    :raises DataError: it needs the teacher's features and ``inputs`` has none.
    """
    if method in BASELINES:
        return BASELINES[method](inputs.candidate_embeddings, inputs.candidate_labels, budgets, seed)
    if method not in INFORMED_BASELINES:
        raise ConfigError(f"no baseline {method!r}; there are {', '.join(ALL_BASELINES)}")
    return INFORMED_BASELINES[method](inputs, budgets, seed)


def _with_features(inputs: ObjectiveInputs, method: str) -> list[Features]:
    if not inputs.candidate_features:
        raise DataError(f"{method} needs the teacher's features at one checkpoint at least, got none")
    return inputs.candidate_features


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

INFORMED_BASELINES: dict[str, InformedBaseline] = {
    "nearest-real": nearest_real,
    "gradient-norm": gradient_norm,
    "teacher-probability": teacher_probability,
}
ALL_BASELINES = (*BASELINES, *INFORMED_BASELINES)
