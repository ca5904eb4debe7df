"""Selection: greedy and swap against brute force, diversity, baselines against naive forms, rounds."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
import torch

from gendistill.errors import ConfigError
from gendistill.objectives import ObjectiveInputs, build_objective
from gendistill.selection import BASELINES, Diversity, greedy, select, swap
from gendistill.students.base import Features


def make_problem(seed: int, n: int = 60, classes: int = 3, d: int = 8, m: int = 40):
    """(objective, embeddings, labels) over clustered random points."""
    generator = torch.Generator().manual_seed(seed)
    head = torch.randn(classes, d, generator=generator)

    def side(count: int):
        labels = torch.arange(count) % classes
        points = torch.eye(d)[labels] + 0.6 * torch.randn(count, d, generator=generator)
        embeddings = torch.nn.functional.normalize(points, dim=1)
        hidden = torch.randn(count, d, generator=generator) + head[labels]
        return labels, [Features(hidden, torch.softmax(hidden @ head.T, 1))], embeddings

    labels, features, embeddings = side(n)
    real_labels, real_features, real_embeddings = side(m)
    inputs = ObjectiveInputs(labels, real_labels, features, real_features, embeddings, real_embeddings, classes)
    return build_objective({"gradient": 1, "meta_model": 1}, inputs), embeddings, labels


def counts(chosen, labels, classes):
    return np.bincount(labels.numpy()[chosen], minlength=classes).tolist()


# -- greedy and swap ---------------------------------------------------------------------------------------------------


def test_greedy_and_swap_against_brute_force():
    optimal = 0
    for seed in range(20):
        objective, _, labels = make_problem(seed, n=8, classes=2, m=20)
        groups = [[i for i in range(8) if labels[i] == c] for c in range(2)]
        sets = [[*a, *b] for a, b in product(combinations(groups[0], 2), combinations(groups[1], 1))]
        optimum = min(objective.loss(chosen) for chosen in sets)

        order = greedy(objective, labels, [2, 1])
        assert counts(order, labels, 2) == [2, 1]
        assert objective.loss(order[:1]) == min(objective.loss([i]) for i in range(8))

        result = swap(objective, order, labels, passes=20)
        assert result.loss == objective.loss(result.chosen) <= objective.loss(order)
        assert counts(result.chosen, labels, 2) == [2, 1]
        for position, old in enumerate(result.chosen):  # a local optimum: no exchange of one improves it
            for new in groups[int(labels[old])]:
                if new not in result.chosen:
                    other = [*result.chosen[:position], new, *result.chosen[position + 1 :]]
                    assert objective.loss(other) >= result.loss - 1e-9
        optimal += result.loss <= optimum + 1e-9
    assert optimal >= 14


def test_swap_reports_every_step_and_improves_a_poor_start():
    objective, _, labels = make_problem(1)
    start = [index for c in range(3) for index in torch.nonzero(labels == c).flatten().tolist()[:3]]
    result = swap(objective, start, labels)
    assert result.swaps == len(result.history) > 0
    assert [objective.loss(start), *result.history] == sorted([objective.loss(start), *result.history], reverse=True)
    assert result.history[-1] == result.loss == objective.loss(result.chosen)
    assert len(set(result.chosen)) == 9 and counts(result.chosen, labels, 3) == [3, 3, 3]
    unmoved = swap(objective, start, labels, passes=0)
    assert unmoved.chosen == start and unmoved.loss == objective.loss(start) and unmoved.swaps == 0


def test_greedy_fills_the_budget_when_every_gain_is_negative():
    class Costly:
        name, size = "costly", 6

        def loss(self, chosen):
            return float(len(set(chosen)))

        def gains(self, chosen, rows=None):
            gains = torch.full((6,), -1.0, dtype=torch.float64)
            gains[list(chosen)] = -torch.inf
            return gains if rows is None else gains[rows]

    labels = torch.tensor([1, 0, 0, 1, 0, 1])
    assert greedy(Costly(), labels, [2, 1]) == [0, 1, 2]  # ties go to the lowest index
    assert greedy(Costly(), labels, [9, 0], start=[4]) == [4, 1, 2]  # a class smaller than its budget


# -- diversity ---------------------------------------------------------------------------------------------------------


def least_distance(embeddings, labels, chosen, label):
    rows = embeddings[[i for i in chosen if labels[i] == label]].double()
    distances = 1 - rows @ rows.T
    return float(distances[~torch.eye(len(rows), dtype=torch.bool)].min())


def test_allowed_is_what_a_direct_computation_allows():
    _, embeddings, labels = make_problem(0)
    diversity = Diversity(embeddings, labels, 0.2)
    chosen = [0, 1, 9, 21]
    distances = 1 - embeddings.double() @ embeddings[chosen].double().T
    same_class = labels[:, None] == labels[chosen][None]
    expected = ~((distances < 0.2) & same_class).any(1)
    assert torch.equal(diversity.allowed(chosen), expected)
    assert 0 < int(expected.sum()) < 56  # it turned away more than the chosen themselves


def test_distance_is_kept_where_it_can_be():
    objective, embeddings, labels = make_problem(2, n=90)
    free = select("greedy", objective, embeddings, labels, [5, 5, 5])
    wide = select("greedy", objective, embeddings, labels, [5, 5, 5], min_distance=0.3)
    assert min(least_distance(embeddings, labels, free.chosen, c) for c in range(3)) < 0.3
    assert all(least_distance(embeddings, labels, wide.chosen, c) >= 0.3 - 1e-6 for c in range(3))
    assert wide.relaxed == {} and len(wide.chosen) == 15


def test_distance_is_relaxed_only_for_the_class_that_cannot_be_filled():
    objective, embeddings, labels = make_problem(3, n=60)
    embeddings = embeddings.clone()
    crowded = torch.nonzero(labels == 1).flatten()
    embeddings[crowded] = embeddings[int(crowded[0])].clone()  # one text twenty times
    result = select("greedy", objective, embeddings, labels, [3, 3, 3], min_distance=0.2)
    assert counts(result.chosen, labels, 3) == [3, 3, 3]
    assert list(result.relaxed) == [1] and result.relaxed[1] == pytest.approx(0, abs=1e-6)
    assert all(least_distance(embeddings, labels, result.chosen, c) >= 0.2 - 1e-6 for c in (0, 2))


def test_relaxing_stops_at_the_first_distance_that_fits():
    angles = torch.tensor([0.0, 0.5, 1.0])  # cosine distances 0.122 between neighbours, 0.460 between the ends
    embeddings, labels = torch.stack([angles.cos(), angles.sin()], dim=1), torch.zeros(3, dtype=torch.int64)
    diversity = Diversity(embeddings, labels, 0.4)
    objective, _, _ = make_problem(0, n=3, classes=3)
    assert sorted(greedy(objective, labels, [3], diversity=diversity)) == [0, 1, 2]
    assert diversity.effective == {0: 0.1}
    assert diversity.shortfalls([0, 1, 2])[0] == pytest.approx(0.1224, abs=1e-4)
    assert diversity.shortfalls([0, 2]) == {}


# -- baselines ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_are_repeatable_distinct_and_fill_each_class(name):
    _, embeddings, labels = make_problem(4, n=62)
    budgets = [4, 0, 30]  # class 2 has 20 rows only
    chosen = BASELINES[name](embeddings, labels, budgets, 7)
    assert chosen == BASELINES[name](embeddings, labels, budgets, 7)
    assert all(type(i) is int for i in chosen) and len(set(chosen)) == len(chosen)
    assert counts(chosen, labels, 3) == [4, 0, 20]
    result = select(name, None, embeddings, labels, budgets, seed=7)
    assert result.chosen == chosen and result.loss is None


def test_random_depends_on_the_seed():
    _, embeddings, labels = make_problem(4)
    draws = {tuple(BASELINES["random"](embeddings, labels, [3, 3, 3], seed)) for seed in range(10)}
    assert len(draws) == 10


def test_k_center_is_farthest_first():
    _, embeddings, labels = make_problem(5)
    rows = [i for i in range(60) if labels[i] == 1]
    points = embeddings.double()
    mean = points[rows].mean(0)
    expected = [min(rows, key=lambda i: float((points[i] - mean).norm()))]
    while len(expected) < 6:
        expected.append(max(rows, key=lambda i: min(float((points[i] - points[j]).norm()) for j in expected)))
    assert BASELINES["k-center"](embeddings, labels, [0, 6], 0) == expected


def test_k_center_takes_equal_rows_once_each():
    embeddings = torch.tensor([[1.0, 0.0]]).repeat(4, 1)
    labels = torch.zeros(4, dtype=torch.int64)
    assert sorted(BASELINES["k-center"](embeddings, labels, [3], 0)) == [0, 1, 2]


def test_herding_stands_in_for_the_mean_better_than_random():
    _, embeddings, labels = make_problem(6, n=300)

    def error(chosen):
        parts = [[i for i in chosen if labels[i] == c] for c in range(3)]
        return sum(float((embeddings[p].mean(0) - embeddings[labels == c].mean(0)).norm()) for c, p in enumerate(parts))

    random = [error(BASELINES["random"](embeddings, labels, [8] * 3, seed)) for seed in range(20)]
    assert error(BASELINES["herding"](embeddings, labels, [8] * 3, 0)) < min(random)


def test_k_means_nearest_takes_one_of_each_cluster():
    generator = torch.Generator().manual_seed(0)
    cluster = torch.arange(60) % 4
    embeddings = torch.nn.functional.normalize(
        torch.eye(8)[cluster] + 0.02 * torch.randn(60, 8, generator=generator), dim=1
    )
    labels = torch.zeros(60, dtype=torch.int64)
    for seed in range(3):
        chosen = BASELINES["k-means-nearest"](embeddings, labels, [4], seed)
        assert sorted(cluster[chosen].tolist()) == [0, 1, 2, 3]


# -- select ------------------------------------------------------------------------------------------------------------


def test_select_reports_loss_order_and_history():
    objective, embeddings, labels = make_problem(7)
    result = select("greedy", objective, embeddings, labels, [4, 2, 3])
    assert [int(labels[i]) for i in result.chosen] == [0] * 4 + [1] * 2 + [2] * 3
    assert result.loss == pytest.approx(objective.loss(result.chosen), abs=1e-12)
    assert len(result.history) >= 9 and result.history[-1] == result.loss
    assert result.chosen == select("greedy", objective, embeddings, labels, [4, 2, 3]).chosen
    for name in BASELINES:
        assert select(name, objective, embeddings, labels, [4, 2, 3]).loss > result.loss


@pytest.mark.parametrize("min_distance", [0.0, 0.3])
def test_loss_never_rises_over_rounds(min_distance):
    kept = 0
    for seed in range(12):
        objective, embeddings, labels = make_problem(seed, n=45)
        early = labels.clone()
        early[15:] = 3  # an earlier round saw the first 15 only: what follows is of a class without a budget
        earlier = swap(objective, greedy(objective, early, [2, 2, 2]), early)
        options = {"swap_passes": 0, "min_distance": min_distance}
        alone = select("greedy", objective, embeddings, labels, [2, 2, 2], **options)
        result = select("greedy", objective, embeddings, labels, [2, 2, 2], previous=earlier.chosen, **options)
        assert result.loss == min(alone.loss, earlier.loss)
        assert counts(result.chosen, labels, 3) == [2, 2, 2]
        kept += result.loss < alone.loss
    assert kept > 0  # greedy from nothing alone would have risen


def test_previous_that_left_a_budget_open_is_filled():
    objective, embeddings, labels = make_problem(8)
    result = select("greedy", objective, embeddings, labels, [3, 3, 3], previous=[0, 1])
    assert counts(result.chosen, labels, 3) == [3, 3, 3]


def test_fewer_candidates_than_the_budget_are_all_chosen():
    objective, embeddings, labels = make_problem(9, n=7)
    for method in ("greedy", *BASELINES):
        assert sorted(select(method, objective, embeddings, labels, [50] * 3, min_distance=0.5).chosen) == list(
            range(7)
        )


@pytest.mark.parametrize(
    ("method", "previous", "says"),
    [
        ("best", (), "'best'; there are greedy, random, herding, k-means-nearest, k-center"),
        ("greedy", (0, 3, 6), "3 candidates of class 0, over its budget of 2"),
        ("greedy", (0, 60), "distinct indices of the 60"),
    ],
)
def test_bad_requests_are_configuration_errors(method, previous, says):
    objective, embeddings, labels = make_problem(0)
    with pytest.raises(ConfigError, match=says):
        select(method, objective, embeddings, labels, [2, 2, 2], previous=previous)
