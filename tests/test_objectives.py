"""Objectives: closed forms against autograd and explicit solves, gains against differences of losses."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from gendistill.errors import ConfigError, DataError
from gendistill.objectives import (
    OBJECTIVES,
    Objective,
    ObjectiveInputs,
    WeightedSum,
    build_objective,
)
from gendistill.students.base import Features


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Problems this small only lose by threads, and badly on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_inputs(seed: int, n: int = 24, m: int = 30, classes: int = 3, d: int = 6, checkpoints: int = 2):
    """Random inputs with imbalanced classes, in which every class occurs."""
    generator = torch.Generator().manual_seed(seed)
    heads = [torch.randn(classes, d, generator=generator) for _ in range(checkpoints)]

    def side(count: int) -> tuple[Tensor, list[Features], Tensor]:
        labels = torch.randint(0, classes, (count,), generator=generator)
        labels[:classes] = torch.arange(classes)
        features = []
        for head in heads:
            hidden = torch.randn(count, d, generator=generator)
            gradient = torch.randn(count, 2 * d, generator=generator) + torch.eye(2 * d)[labels]
            features.append(Features(hidden, torch.softmax(hidden @ head.T, 1), gradient))
        centres = torch.eye(d)[labels]
        embeddings = torch.nn.functional.normalize(centres + torch.randn(count, d, generator=generator), dim=1)
        return labels, features, embeddings

    labels, features, embeddings = side(n)
    real_labels, real_features, real_embeddings = side(m)
    return ObjectiveInputs(labels, real_labels, features, real_features, embeddings, real_embeddings, classes)


def objectives(inputs: ObjectiveInputs) -> list[Objective]:
    return [
        OBJECTIVES["gradient"](inputs),
        OBJECTIVES["meta_model"](inputs),
        build_objective({"gradient": 0.3, "meta_model": 2.0}, inputs),
    ]


def assert_gains_are_loss_differences(objective: Objective, chosen: list[int]) -> None:
    before = objective.loss(chosen)
    gains = objective.gains(chosen)
    assert gains.shape == (objective.size,) and gains.dtype == torch.float64
    for i, gain in enumerate(gains.tolist()):
        if i in chosen:
            assert gain == float("-inf")
        else:
            assert gain == pytest.approx(before - objective.loss([*chosen, i]), abs=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_gains_are_loss_differences(seed):
    inputs = make_inputs(seed)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(seed)).tolist()
    for objective in objectives(inputs):
        # Growing, shrinking, exchanging and starting over: the objectives keep state between calls. 9 chosen are more
        # than the 7 features of the kernel, so that both ways of solving are taken.
        for chosen in ([], order[:1], order[:4], order[:9], order[1:9], order[2:10], order[12:15], order[3:1:-1], []):
            assert_gains_are_loss_differences(objective, chosen)


def test_gains_hold_after_hundreds_of_moves_with_a_small_ridge():
    inputs = dataclasses.replace(make_inputs(1), ridge=1e-4)
    generator = torch.Generator().manual_seed(0)
    objective = OBJECTIVES["meta_model"](inputs)
    chosen = [0, 1, 2, 3, 4]
    for _ in range(300):
        chosen[int(torch.randint(5, (1,), generator=generator))] = int(torch.randint(5, 24, (1,), generator=generator))
        chosen = list(dict.fromkeys([*chosen, 0, 1, 2, 3, 4]))[:5]
        objective.gains(chosen)
    assert_gains_are_loss_differences(objective, chosen)


def test_loss_ignores_order_and_gains_ignore_history():
    inputs = make_inputs(3)
    chosen = [5, 17, 2, 11, 8]
    for objective, fresh in zip(objectives(inputs), objectives(inputs), strict=True):
        assert objective.loss(chosen) == objective.loss(chosen[::-1])
        objective.gains([1, 2, 3])
        objective.gains(chosen)
        torch.testing.assert_close(objective.gains(chosen[::-1]), fresh.gains(chosen), rtol=0, atol=1e-12)


def test_empty_set_costs_one():
    for objective in objectives(make_inputs(0)):
        assert objective.loss([]) == 1.0


def test_choosing_the_real_rows_themselves_costs_nothing_by_gradient_and_less_by_meta_model():
    inputs = make_inputs(4, m=30)
    same = dataclasses.replace(
        inputs,
        candidate_labels=inputs.real_labels,
        candidate_features=inputs.real_features,
        candidate_embeddings=inputs.real_embeddings,
    )
    gradient, meta_model, _ = objectives(same)
    assert gradient.loss(range(30)) == pytest.approx(0, abs=1e-12)
    assert meta_model.loss(range(30)) < 0.8 * meta_model.loss(range(3))


# -- gradient ----------------------------------------------------------------------------------------------------------


def test_gradient_closed_form_equals_autograd():
    """The loss from gradients that torch computes: mean cross-entropy of a class through a real nn.Linear head."""
    generator = torch.Generator().manual_seed(0)
    classes, d, n, m = 3, 5, 9, 14
    labels, real_labels = torch.arange(n) % classes, torch.arange(m) % classes
    chosen = [0, 3, 6, 1, 5, 8]
    candidate_features, real_features, cosines = [], [], []
    for _ in range(2):
        head = torch.nn.Linear(d, classes).double()
        hidden = torch.randn(n, d, generator=generator)
        real_hidden = torch.randn(m, d, generator=generator)

        def mean_gradient(rows: Tensor, targets: Tensor, head: torch.nn.Linear = head) -> Tensor:
            loss = torch.nn.functional.cross_entropy(head(rows.double()), targets)
            weight, bias = torch.autograd.grad(loss, [head.weight, head.bias])
            return torch.cat([weight.flatten(), bias])

        with torch.no_grad():
            candidate_features.append(Features(hidden, head(hidden.double()).softmax(1)))
            real_features.append(Features(real_hidden, head(real_hidden.double()).softmax(1)))
        for c in range(classes):
            mine = [i for i in chosen if labels[i] == c]
            real = mean_gradient(real_hidden[real_labels == c], real_labels[real_labels == c])
            cosines.append(torch.cosine_similarity(mean_gradient(hidden[mine], labels[mine]), real, dim=0))
    unused = torch.zeros(n, 2), torch.zeros(m, 2)
    inputs = ObjectiveInputs(labels, real_labels, candidate_features, real_features, *unused, classes)
    expected = 1 - float(torch.stack(cosines).mean())
    assert OBJECTIVES["gradient"](inputs).loss(chosen) == pytest.approx(expected, abs=1e-12)


def test_gradient_at_a_fresh_head_is_mean_matching():
    """With p constant, the best single text of a class is the one whose [h; 1] points as the real mean does."""
    inputs = make_inputs(5, checkpoints=1)

    def uniform(features: Features) -> Features:
        return Features(features.hidden, torch.full_like(features.probabilities, 1 / 3))

    fresh = dataclasses.replace(
        inputs,
        candidate_features=[uniform(f) for f in inputs.candidate_features],
        real_features=[uniform(f) for f in inputs.real_features],
    )
    gains = OBJECTIVES["gradient"](fresh).gains([])
    for c in range(3):
        mine = torch.nonzero(inputs.candidate_labels == c).flatten()
        extended = torch.nn.functional.pad(inputs.candidate_features[0].hidden[mine].double(), (0, 1), value=1.0)
        real = inputs.real_features[0].hidden[inputs.real_labels == c].double()
        cosines = torch.cosine_similarity(extended, torch.nn.functional.pad(real, (0, 1), value=1.0).mean(0), dim=1)
        torch.testing.assert_close(gains[mine], cosines / 3, rtol=0, atol=1e-12)


def test_gradient_of_perfectly_fitted_rows_is_no_direction():
    inputs = make_inputs(6, checkpoints=1)
    certain = Features(
        inputs.candidate_features[0].hidden, torch.nn.functional.one_hot(inputs.candidate_labels, 3).float()
    )
    objective = OBJECTIVES["gradient"](dataclasses.replace(inputs, candidate_features=[certain]))
    assert objective.loss([0, 1, 2]) == 1.0
    assert torch.equal(objective.gains([]), torch.zeros(24, dtype=torch.float64))


# -- meta-model --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chosen", [[0], [0, 1, 2, 7], list(range(12))])
def test_meta_model_equals_an_explicit_solve(chosen):
    inputs = make_inputs(7)
    kernel = inputs.candidate_embeddings[chosen].double() @ inputs.candidate_embeddings[chosen].double().T + 1
    to_real = inputs.real_embeddings.double() @ inputs.candidate_embeddings[chosen].double().T + 1
    targets = torch.eye(3, dtype=torch.float64)[inputs.candidate_labels[chosen]] - 1 / 3
    real_targets = torch.eye(3, dtype=torch.float64)[inputs.real_labels] - 1 / 3
    ridge = 0.1 * torch.eye(len(chosen), dtype=torch.float64)
    errors = (to_real @ torch.linalg.solve(kernel + ridge, targets) - real_targets).square().sum(1)
    per_class = torch.stack([errors[inputs.real_labels == c].mean() for c in range(3)])
    expected = float(per_class.mean()) / (1 - 1 / 3)
    assert OBJECTIVES["meta_model"](inputs).loss(chosen) == pytest.approx(expected, abs=1e-12)


def test_meta_model_counts_classes_equally():
    inputs = make_inputs(8)
    again = torch.cat([torch.arange(30), *[torch.nonzero(inputs.real_labels == 0).flatten()] * 5])
    imbalanced = dataclasses.replace(
        inputs,
        real_labels=inputs.real_labels[again],
        real_embeddings=inputs.real_embeddings[again],
        real_features=[Features(f.hidden[again], f.probabilities[again]) for f in inputs.real_features],
    )
    chosen = [0, 1, 2, 9]
    assert OBJECTIVES["meta_model"](imbalanced).loss(chosen) == pytest.approx(
        OBJECTIVES["meta_model"](inputs).loss(chosen), abs=1e-12
    )


# -- weighted sum, registry, inputs ------------------------------------------------------------------------------------


def test_weights_are_shares_of_what_nothing_costs():
    inputs = make_inputs(9)
    chosen = [0, 1, 2, 20]
    gradient, meta_model, _ = objectives(inputs)
    expected = 0.25 * gradient.loss(chosen) + 0.75 * meta_model.loss(chosen)
    assert build_objective({"gradient": 1, "meta_model": 3}, inputs).loss(chosen) == pytest.approx(expected, abs=1e-12)

    class Tenfold:
        name, size = "tenfold", 24

        def loss(self, chosen):
            return 10 * meta_model.loss(chosen)

        def gains(self, chosen, rows=None):
            return 10 * meta_model.gains(chosen, rows)

    scaled = WeightedSum([(1, gradient), (3, Tenfold())])
    assert scaled.loss(chosen) == pytest.approx(expected, abs=1e-12)
    assert_gains_are_loss_differences(scaled, chosen)


def test_weight_zero_leaves_an_objective_out():
    inputs = dataclasses.replace(make_inputs(0), candidate_features=[], real_features=[])
    assert build_objective({"gradient": 0, "meta_model": 2}, inputs).loss([0]) == OBJECTIVES["meta_model"](inputs).loss(
        [0]
    )
    with pytest.raises(DataError, match="checkpoint"):
        build_objective({"gradient": 1}, inputs)


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ({"best": 1}, "'best'; there are .*gradient, .*meta_model"),
        ({"gradient": -1}, "positive"),
        ({}, "weight"),
    ],
)
def test_bad_weights_are_configuration_errors(weights, says):
    with pytest.raises(ConfigError, match=says):
        build_objective(weights, make_inputs(0))


def test_registry_builds_under_its_names():
    inputs = make_inputs(0)
    assert {name: build(inputs).name for name, build in OBJECTIVES.items()} == {n: n for n in OBJECTIVES}


def test_bad_inputs_are_data_errors():
    inputs = make_inputs(0)
    broken = inputs.candidate_embeddings.clone()
    broken[3, 2] = float("nan")
    for change, says in (
        ({"candidate_embeddings": broken}, "embeddings of the candidates hold NaN"),
        ({"real_embeddings": inputs.real_embeddings[:-1]}, "embeddings of the real rows"),
        ({"real_labels": inputs.real_labels + 1}, "0..2"),
        ({"real_features": inputs.real_features[:1]}, "same checkpoints"),
    ):
        with pytest.raises(DataError, match=says):
            dataclasses.replace(inputs, **change)


def test_no_candidates_are_no_gains():
    inputs = make_inputs(0)
    none = dataclasses.replace(
        inputs,
        candidate_labels=inputs.candidate_labels[:0],
        candidate_embeddings=inputs.candidate_embeddings[:0],
        candidate_features=[Features(f.hidden[:0], f.probabilities[:0]) for f in inputs.candidate_features],
    )
    for objective in objectives(none):
        assert objective.gains([]).shape == (0,)
        assert objective.loss([]) == 1.0
