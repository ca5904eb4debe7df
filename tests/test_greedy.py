"""Greedy and swap over every objective: brute force, lazy evaluation, budgets, bounds on the work."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from objective_inputs import make_inputs

from gendistill.config import Config, ObjectiveConfig
from gendistill.errors import ConfigError
from gendistill.objectives import OBJECTIVES
from gendistill.selection import class_budgets, greedy, select, swap


class Counting:
    """An objective that counts the candidates evaluated, and may hide that it is submodular."""

    def __init__(self, objective, submodular: bool) -> None:
        self.name, self.size, self.submodular = objective.name, objective.size, submodular
        self.loss, self._gains, self.evaluated = objective.loss, objective.gains, 0

    def gains(self, chosen, rows=None):
        self.evaluated += self.size if rows is None else len(rows)
        return self._gains(chosen, rows)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_greedy_takes_the_best_of_all_at_every_step(name):
    for seed in range(3):
        inputs = make_inputs(seed, n=12, m=20)
        objective, labels = OBJECTIVES[name](inputs), inputs.candidate_labels
        order = greedy(objective, labels, [2, 1, 2])
        room = [2, 1, 2]
        for step, index in enumerate(order):
            open_rows = [i for i in range(12) if room[int(labels[i])] and i not in order[:step]]
            losses = {i: objective.loss([*order[:step], i]) for i in open_rows}
            assert losses[index] == pytest.approx(min(losses.values()), abs=1e-12)
            room[int(labels[index])] -= 1
        assert len(order) == sum(min(b, int((labels == c).sum())) for c, b in enumerate([2, 1, 2]))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_swap_ends_where_no_exchange_helps(name):
    inputs = make_inputs(1, n=12, m=20)
    objective, labels = OBJECTIVES[name](inputs), inputs.candidate_labels
    start = [int(torch.nonzero(labels == c)[0]) for c in range(3)]
    result = swap(objective, start, labels, passes=20)
    assert result.loss == objective.loss(result.chosen) <= objective.loss(start)
    for position, old in enumerate(result.chosen):
        for new in torch.nonzero(labels == labels[old]).flatten().tolist():
            if new not in result.chosen:
                other = [*result.chosen[:position], new, *result.chosen[position + 1 :]]
                assert objective.loss(other) >= result.loss - 1e-9


def test_coverage_by_greedy_is_near_the_optimum():
    """Nemhauser, Wolsey & Fisher 1978: within 1 - 1/e of the best set."""
    for seed in range(5):
        inputs = make_inputs(seed, n=24, m=40)
        objective = OBJECTIVES["coverage"](inputs)
        mine = torch.nonzero(inputs.candidate_labels == 0).flatten().tolist()
        optimum = min(objective.loss(pick) for pick in combinations(mine, 3))
        covered = 1 - objective.loss(greedy(objective, inputs.candidate_labels, [3]))
        assert covered >= (1 - 1 / 2.7182) * (1 - optimum)


@pytest.mark.parametrize("seed", range(4))
def test_lazy_greedy_chooses_as_plain_greedy_and_evaluates_fewer(seed):
    inputs = make_inputs(seed, n=900, m=60, d=8)
    labels, objective = inputs.candidate_labels, OBJECTIVES["coverage"](inputs)
    lazy, plain = Counting(objective, True), Counting(objective, False)
    orders = [greedy(one, labels, [12, 9, 6], start=[4]) for one in (lazy, plain)]
    assert orders[0] == orders[1] and len(orders[0]) == 27
    assert lazy.evaluated < plain.evaluated / 2


def test_lazy_greedy_takes_the_lowest_of_equals_and_keeps_the_distance():
    inputs = make_inputs(0, n=300, m=60, d=8)
    twice = torch.arange(300).repeat(2)  # every candidate has its double
    labels, embeddings = inputs.candidate_labels[twice], inputs.candidate_embeddings[twice]

    class Doubled:
        name, size, submodular = "doubled", 600, True
        coverage = OBJECTIVES["coverage"](inputs)

        def loss(self, chosen):
            return self.coverage.loss([i % 300 for i in chosen])

        def gains(self, chosen, rows=None):
            every = self.coverage.gains([i % 300 for i in chosen])[twice]
            every[list(chosen)] = -torch.inf
            return every if rows is None else every[rows]

    for distance in (0.0, 0.2):
        options = {"swap_passes": 0, "min_distance": distance}
        lazy = select("greedy", Doubled(), embeddings, labels, [6, 6, 6], **options)
        plain = select("greedy", Counting(Doubled(), False), embeddings, labels, [6, 6, 6], **options)
        assert lazy.chosen == plain.chosen and max(lazy.chosen) < 300


def test_closed_classes_are_not_evaluated():
    inputs = make_inputs(2, n=60)
    objective = Counting(OBJECTIVES["meta_model"](inputs), False)
    sizes = torch.bincount(inputs.candidate_labels).tolist()
    greedy(objective, inputs.candidate_labels, [2, 0, 0])
    assert objective.evaluated == 2 * sizes[0]
    objective.evaluated = 0
    swap(objective, [int(torch.nonzero(inputs.candidate_labels == 1)[0])], inputs.candidate_labels, passes=1)
    assert objective.evaluated == sizes[1]


@pytest.mark.parametrize("trials", [0, 1, 4])
def test_trials_bound_the_work_of_swap(trials):
    inputs = make_inputs(3, n=60)
    objective = Counting(OBJECTIVES["meta_model"](inputs), False)
    labels = inputs.candidate_labels
    start = [i for c in range(3) for i in torch.nonzero(labels == c).flatten().tolist()[:3]]
    result = swap(objective, start, labels, trials=trials)
    assert objective.evaluated == sum(int((labels == labels[i]).sum()) for i in start[:trials])
    assert result.swaps <= trials and result.chosen[trials:] == start[trials:]
    assert result.loss <= objective.loss(start)


# -- budgets -----------------------------------------------------------------------------------------------------------


def test_equal_budgets_are_the_same_for_all():
    assert class_budgets([5, 1000, 3], 7) == [7, 7, 7]


@pytest.mark.parametrize(
    ("counts", "per_class", "expected"),
    [
        ([100, 100, 100], 5, [5, 5, 5]),
        ([60, 30, 10], 10, [18, 9, 3]),
        ([999_990, 5, 5], 2, [4, 1, 1]),  # every class that there is has one
        ([50, 0, 50], 3, [5, 0, 4]),  # a class that there is not has none; ties to the lower class
        ([1, 1, 2], 1, [1, 1, 1]),
    ],
)
def test_proportional_budgets_share_the_same_total(counts, per_class, expected):
    budgets = class_budgets(counts, per_class, "proportional")
    assert budgets == expected and sum(budgets) == per_class * len(counts)


def test_proportional_budgets_are_within_one_of_their_shares():
    counts = [86, 1250, 1223, 1162, 896, 835]  # TREC
    budgets = class_budgets(counts, 20, "proportional")
    assert sum(budgets) == 120
    assert all(abs(b - 120 * n / sum(counts)) < 1 for b, n in zip(budgets, counts, strict=True))


def test_bad_budgets_are_configuration_errors():
    with pytest.raises(ConfigError, match="at least 1"):
        class_budgets([5, 5], 0)
    with pytest.raises(ConfigError, match="needs real rows"):
        class_budgets([0, 0], 3, "proportional")


# -- configuration -----------------------------------------------------------------------------------------------------


def test_ridges_of_the_configuration_are_one_or_several_and_positive():
    assert Config().objective.ridge == 0.3
    assert ObjectiveConfig(ridge=[0.1, 1]).ridge == [0.1, 1.0]
    for bad in (0, [], [1.0, -1.0]):
        with pytest.raises(ConfigError, match=r"objective\.ridge"):
            Config(objective={"ridge": bad})
