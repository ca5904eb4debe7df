"""Baselines that need the real rows or the teacher, against naive forms and on cases with a known answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_objectives import make_inputs

from gendistill.errors import ConfigError, DataError
from gendistill.objectives import ObjectiveInputs
from gendistill.selection import ALL_BASELINES, select, select_baseline
from gendistill.selection.baselines import REWARDED_SETS
from gendistill.students.base import Features


def of_class(inputs: ObjectiveInputs, label: int) -> list[int]:
    return torch.nonzero(inputs.candidate_labels == label).flatten().tolist()


@pytest.mark.parametrize("name", ALL_BASELINES)
def test_any_baseline_fills_each_class_with_distinct_rows_and_repeats_itself(name: str) -> None:
    inputs = make_inputs(3, n=40)
    budgets = [4, 0, 99]
    chosen = select_baseline(name, inputs, budgets, 5)
    assert chosen == select_baseline(name, inputs, budgets, 5)
    assert all(type(row) is int for row in chosen) and len(set(chosen)) == len(chosen)
    sizes = np.bincount(inputs.candidate_labels[chosen], minlength=3).tolist()
    assert sizes == [4, 0, len(of_class(inputs, 2))]
    through_select = select(
        name, None, inputs.candidate_embeddings, inputs.candidate_labels, budgets, seed=5, inputs=inputs
    )
    assert through_select.chosen == chosen


def test_nearest_real_counts_votes() -> None:
    inputs = make_inputs(0, n=50, m=200)
    real, candidates = inputs.real_embeddings.double(), inputs.candidate_embeddings.double()
    for label in range(3):
        rows = of_class(inputs, label)
        votes = dict.fromkeys(rows, 0)
        for row in torch.nonzero(inputs.real_labels == label).flatten().tolist():
            votes[max(rows, key=lambda i: float(candidates[i] @ real[row]))] += 1
        budgets = [0, 0, 0]
        budgets[label] = 3
        chosen = select_baseline("nearest-real", inputs, budgets, 0)
        assert sorted(votes[i] for i in chosen) == sorted(votes.values())[-3:]
        assert votes[chosen[0]] == max(votes.values())


def test_nearest_real_among_the_real_rows_takes_the_typical_ones() -> None:
    few = make_inputs(1, n=60, m=60)
    inputs = ObjectiveInputs(
        few.real_labels, few.real_labels, few.real_features, few.real_features, few.real_embeddings,
        few.real_embeddings, 3,
    )  # fmt: skip
    rows = of_class(inputs, 1)
    mean = inputs.real_embeddings[rows].double().mean(0)
    typical = sorted(rows, key=lambda i: -float(inputs.real_embeddings[i].double() @ mean))
    assert select_baseline("nearest-real", inputs, [0, 4, 0], 0) == typical[:4]


def test_gradient_norm_is_that_of_autograd() -> None:
    inputs = make_inputs(2, n=30, checkpoints=2)
    norms = []
    for row, label in enumerate(inputs.candidate_labels.tolist()):
        total = 0.0
        for features in inputs.candidate_features:
            # A head with zero weights and the logits as its bias says the same probabilities.
            hidden, logits = features.hidden[row].double(), features.probabilities[row].double().log()
            weight = torch.zeros(3, len(hidden), dtype=torch.float64, requires_grad=True)
            bias = logits.clone().requires_grad_()
            loss = torch.nn.functional.cross_entropy((weight @ hidden + bias)[None], torch.tensor([label]))
            gradients = torch.autograd.grad(loss, [weight, bias])
            total += float(torch.cat([g.flatten() for g in gradients]).norm())
        norms.append(total / 2)
    for label in range(3):
        budgets = [0, 0, 0]
        budgets[label] = 4
        expected = sorted(of_class(inputs, label), key=lambda i: -norms[i])[:4]
        assert select_baseline("gradient-norm", inputs, budgets, 0) == expected


def reward(inputs: ObjectiveInputs, chosen: list[int], label: int) -> float:
    probability = inputs.candidate_features[-1].probabilities[chosen, label].double().mean()
    real = inputs.real_embeddings[inputs.real_labels == label].double()
    return float(probability + (real @ inputs.candidate_embeddings[chosen].double().T).max(1).values.mean())


def test_teacher_probability_is_the_best_of_its_random_sets() -> None:
    inputs = make_inputs(4, n=90, m=60)
    for label in range(3):
        budgets = [0, 0, 0]
        budgets[label] = 3
        rewards = sorted(reward(inputs, select_baseline("random", inputs, budgets, seed), label) for seed in range(400))
        sets = [select_baseline("teacher-probability", inputs, budgets, seed) for seed in range(20)]
        assert len({tuple(chosen) for chosen in sets}) > 1  # the seed decides the draws
        # The best of N draws is at quantile N / (N + 1) on average.
        mean = np.mean([reward(inputs, chosen, label) for chosen in sets])
        assert mean > rewards[int(len(rewards) * (1 - 2 / REWARDED_SETS))]


def test_what_is_missing_is_said() -> None:
    inputs = make_inputs(0)
    with pytest.raises(ConfigError, match=r"no baseline 'best'; there are random, .*teacher-probability"):
        select_baseline("best", inputs, [1, 1, 1], 0)
    with pytest.raises(ConfigError, match="gradient-norm needs the inputs"):
        select("gradient-norm", None, inputs.candidate_embeddings, inputs.candidate_labels, [1, 1, 1])
    without: list[Features] = []
    bare = ObjectiveInputs(
        inputs.candidate_labels, inputs.real_labels, without, without, inputs.candidate_embeddings,
        inputs.real_embeddings, 3,
    )  # fmt: skip
    for name in ("gradient-norm", "teacher-probability"):
        with pytest.raises(DataError, match=f"{name} needs the teacher's features"):
            select_baseline(name, bare, [1, 1, 1], 0)
    assert len(select_baseline("nearest-real", bare, [1, 1, 1], 0)) == 3
