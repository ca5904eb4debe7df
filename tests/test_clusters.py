"""Clusters of the real classes, exemplars drawn from them, and the gaps that a chosen set leaves."""

from __future__ import annotations

import numpy as np
import pytest

from gendistill.clusters import Clusters, class_clusters, draw_exemplars, gap_weights


def blobs(sizes: list[int], seed: int = 0) -> np.ndarray:
    """Tight groups of unit vectors around the axes, in order."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(np.eye(len(sizes), 8), sizes, axis=0) + 0.02 * rng.normal(size=(sum(sizes), 8))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture()
def two_classes() -> tuple[np.ndarray, list[int], Clusters]:
    """Class 0: groups of 30, 20 and 10 rows; class 1: two groups of 15."""
    embeddings = np.concatenate([blobs([30, 20, 10]), -blobs([15, 15], seed=1)])
    labels = [0] * 60 + [1] * 30
    return embeddings, labels, class_clusters(embeddings, labels, 2, 3, seed=0)


def test_the_groups_of_a_class_are_found(two_classes: tuple[np.ndarray, list[int], Clusters]) -> None:
    _, _, clusters = two_classes
    found = sorted(clusters.members(0, cluster).tolist() for cluster in range(3))
    assert found == [list(range(30)), list(range(30, 50)), list(range(50, 60))]
    assert sorted(clusters.sizes(0)) == [10, 20, 30]
    assert clusters.sizes(1).sum() == 30
    for cluster in range(len(clusters.centroids[1])):
        assert (clusters.members(1, cluster) >= 60).all()


def test_same_seed_same_clusters(two_classes: tuple[np.ndarray, list[int], Clusters]) -> None:
    rng = np.random.default_rng(3)
    embeddings = rng.normal(size=(900, 24)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    labels = rng.integers(3, size=900)
    first, second, other = (class_clusters(embeddings, labels, 3, 12, seed=seed) for seed in (5, 5, 6))
    assert np.array_equal(first.assignment, second.assignment)
    assert all(np.array_equal(a, b) for a, b in zip(first.centroids, second.centroids, strict=True))
    assert not np.array_equal(first.assignment, other.assignment)


def test_small_and_repeated_and_empty_classes_have_no_empty_clusters() -> None:
    embeddings = np.concatenate([blobs([1, 1]), np.repeat(blobs([1]), 20, axis=0)])
    clusters = class_clusters(embeddings, [0, 0] + [1] * 20, 3, 8, seed=0)
    assert sorted(clusters.sizes(0)) == [1, 1]
    assert clusters.sizes(1).sum() == 20 and (clusters.sizes(1) > 0).all()
    assert clusters.sizes(2).size == 0
    assert draw_exemplars(clusters, 2, 4, np.random.default_rng(0)) == []


def test_exemplars_come_from_different_clusters(two_classes: tuple[np.ndarray, list[int], Clusters]) -> None:
    _, labels, clusters = two_classes
    rng = np.random.default_rng(0)
    for _ in range(20):
        drawn = draw_exemplars(clusters, 0, 3, rng)
        assert sorted(clusters.assignment[drawn]) == [0, 1, 2]
        assert {labels[index] for index in drawn} == {0}
        drawn = draw_exemplars(clusters, 0, 7, rng)
        assert len(set(drawn)) == 7
        assert np.bincount(clusters.assignment[drawn]).min() >= 2
    assert sorted(draw_exemplars(clusters, 1, 100, rng)) == list(range(60, 90))
    seeded = [draw_exemplars(clusters, 0, 4, np.random.default_rng(9)) for _ in range(2)]
    assert seeded[0] == seeded[1]


def test_exemplars_follow_size_or_weights(two_classes: tuple[np.ndarray, list[int], Clusters]) -> None:
    _, _, clusters = two_classes
    rng = np.random.default_rng(0)

    def shares(weights: np.ndarray | None) -> np.ndarray:
        drawn = [draw_exemplars(clusters, 0, 1, rng, weights)[0] for _ in range(2000)]
        return np.bincount(clusters.assignment[drawn], minlength=3) / 2000

    assert shares(None) == pytest.approx(clusters.sizes(0) / 60, abs=0.05)
    assert shares(np.array([0.2, 0.0, 0.8])) == pytest.approx([0.2, 0.0, 0.8], abs=0.05)
    assert len(draw_exemplars(clusters, 0, 3, rng, np.array([0.0, 0.0, 1.0]))) == 3


def test_gaps_are_where_nothing_was_chosen(two_classes: tuple[np.ndarray, list[int], Clusters]) -> None:
    embeddings, _, clusters = two_classes
    by_size = clusters.sizes(0) / 60
    nothing = gap_weights(clusters, embeddings, embeddings[:0], [], 0)
    assert nothing == pytest.approx(by_size)
    # Chosen texts of the other class cover nothing of this one.
    assert gap_weights(clusters, embeddings, embeddings[:1], [1], 0) == pytest.approx(by_size)

    largest, middle, smallest = (clusters.assignment[index] for index in (0, 30, 50))
    weights = gap_weights(clusters, embeddings, embeddings[[0, 60]], [0, 1], 0)
    assert weights.sum() == pytest.approx(1)
    assert weights[largest] < 0.01
    assert weights[middle] == pytest.approx(2 * weights[smallest], rel=0.05)
    assert gap_weights(clusters, embeddings, embeddings[:60], [0] * 60, 0) == pytest.approx(by_size)
