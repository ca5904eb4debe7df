"""FAISS clusters of each real class: exemplars for prompts are drawn from them, and gaps in coverage found by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Clusters:
    """Clusters of m real rows, numbered from 0 within each class; none is empty."""

    labels: IntArray  # (m,)
    assignment: IntArray  # (m,) the row's cluster within its class
    centroids: list[FloatArray]  # per class (k_c, d), unit length; k_c is 0 for a class without rows

    def members(self, label: int, cluster: int) -> IntArray:
        """Row indices of one cluster, ascending."""
        return np.flatnonzero((self.labels == label) & (self.assignment == cluster))

    def sizes(self, label: int) -> IntArray:
        """(k_c,) rows in each cluster of a class."""
        return np.bincount(self.assignment[self.labels == label], minlength=len(self.centroids[label]))


def class_clusters(
    embeddings: FloatArray, labels: Sequence[int] | IntArray, num_classes: int, clusters_per_class: int, seed: int
) -> Clusters:
    """Spherical k-means within each class; the same input and seed give the same clusters.

    :param embeddings: (m, d) float32, rows of unit length.
    :param labels: (m,) class indices.
    :param clusters_per_class: k; fewer where a class has fewer (distinct) rows.
    """
    import faiss

    rows = np.asarray(labels, dtype=np.int64)
    assignment = np.zeros(len(rows), dtype=np.int64)
    centroids: list[FloatArray] = []
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # the order of additions, and so the last bits, must not depend on the machine's load
    try:
        for label in range(num_classes):
            members = np.flatnonzero(rows == label)
            points = np.ascontiguousarray(embeddings[members], dtype=np.float32)
            if len(points) == 0:
                centroids.append(np.zeros((0, embeddings.shape[1]), dtype=np.float32))
                continue
            kmeans = faiss.Kmeans(
                points.shape[1],
                min(clusters_per_class, len(points)),
                niter=20,
                nredo=5,  # k-means starts from random rows; the best of several starts is kept
                seed=seed + label,
                spherical=True,
                min_points_per_centroid=1,
            )
            kmeans.train(points)
            _, nearest = kmeans.index.search(points, 1)
            used, renumbered = np.unique(nearest[:, 0], return_inverse=True)  # drops empty clusters
            assignment[members] = renumbered
            centroids.append(np.asarray(kmeans.centroids)[used])
    finally:
        faiss.omp_set_num_threads(threads)
    return Clusters(rows, assignment, centroids)


def nearest_classes(
    embeddings: FloatArray, labels: Sequence[int] | IntArray, num_classes: int, count: int
) -> list[list[int]]:
    """For each class the ``count`` classes whose mean embedding is nearest to its own by cosine, nearest first.

    :param embeddings: (m, d) float32, rows of unit length.
    """
    rows = np.asarray(labels, dtype=np.int64)
    means = np.stack([embeddings[rows == label].sum(0) for label in range(num_classes)]).astype(np.float64)
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    cosines = means @ means.T
    np.fill_diagonal(cosines, -np.inf)
    return np.argsort(-cosines, axis=1, kind="stable")[:, : min(count, num_classes - 1)].tolist()


def draw_exemplars(
    clusters: Clusters, label: int, count: int, rng: np.random.Generator, weights: Weights | None = None
) -> list[int]:
    """Real row indices of one class, from as many different clusters as there are; all rows if there are too few.

    :param weights: (k,) how much each cluster is wanted (`gap_weights`); by size if absent.
    """
    wanted = np.asarray(clusters.sizes(label) if weights is None else weights, dtype=np.float64)
    left = [rng.permutation(clusters.members(label, cluster)).tolist() for cluster in range(len(wanted))]
    drawn: list[int] = []
    while len(drawn) < count and any(left):
        # Smallest exponential/weight first is drawing without replacement in proportion to the weights
        # (Efraimidis & Spirakis, 2006); a cluster of weight 0 comes last but is not barred.
        order = np.argsort(rng.exponential(size=len(wanted)) / np.maximum(wanted, 1e-12))
        full = [cluster for cluster in order if left[cluster]]
        drawn.extend(left[cluster].pop() for cluster in full[: count - len(drawn)])
    return drawn


def gap_weights(
    clusters: Clusters,
    real_embeddings: FloatArray,
    chosen_embeddings: FloatArray,
    chosen_labels: Sequence[int] | IntArray,
    label: int,
) -> Weights:
    """(k,) how badly the chosen set covers each cluster of a class, summing to 1.

    A cluster's weight is the sum over its rows of ``1 - max cosine to the chosen of the class``, that is, the mean
    gap times the cluster's share. In proportion to size where nothing is chosen, or nothing is left uncovered.

    :param real_embeddings: (m, d) float32, rows of unit length, as given to `class_clusters`.
    :param chosen_embeddings: (s, d) float32, rows of unit length.
    :param chosen_labels: (s,) class indices.
    """
    sizes = clusters.sizes(label).astype(np.float64)
    chosen = chosen_embeddings[np.asarray(chosen_labels, dtype=np.int64) == label]
    members = np.flatnonzero(clusters.labels == label)
    if len(chosen) and len(members):
        gaps = np.clip(1.0 - (real_embeddings[members] @ chosen.T).max(axis=1), 0.0, None)
        weights = np.bincount(clusters.assignment[members], weights=gaps, minlength=len(sizes))
        if weights.sum() > 1e-6 * len(members):
            return weights / weights.sum()
    return sizes / max(sizes.sum(), 1.0)
