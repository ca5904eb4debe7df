"""Objectives against naive forms: autograd, explicit solves, loops over pairs."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from objective_inputs import make_inputs
from torch import Tensor

from gendistill.errors import DataError
from gendistill.objectives import OBJECTIVES, ObjectiveInputs
from gendistill.objectives.distribution import Coverage, Mmd
from gendistill.students.base import Features, Segment

# -- gradients by the head ---------------------------------------------------------------------------------------------


class Linear:
    """A real nn.Linear head at two checkpoints over random hidden states, and gradients that torch computes."""

    def __init__(self, n: int = 9, m: int = 14, classes: int = 3, d: int = 5) -> None:
        generator = torch.Generator().manual_seed(0)
        self.classes, self.d = classes, d
        self.labels, self.real_labels = torch.arange(n) % classes, torch.arange(m) % classes
        self.heads = [torch.nn.Linear(d, classes).double() for _ in range(2)]
        self.hidden = [torch.randn(n, d, generator=generator) for _ in self.heads]
        self.real_hidden = [torch.randn(m, d, generator=generator) for _ in self.heads]
        with torch.no_grad():
            features, real_features = (
                [Features(h, head(h.double()).softmax(1)) for h, head in zip(hidden, self.heads, strict=True)]
                for hidden in (self.hidden, self.real_hidden)
            )
        self.segment = Segment(
            head=torch.randn(d + 1, classes, generator=generator),
            head_scale=torch.rand(d + 1, classes, generator=generator),
        )
        unused = torch.zeros(n, 2), torch.zeros(m, 2)
        self.inputs = ObjectiveInputs(
            self.labels, self.real_labels, features, real_features, *unused, classes, segments=(self.segment,)
        )

    def gradient(self, t: int, hidden: Tensor, labels: Tensor) -> Tensor:
        """(d + 1, C): of the mean cross-entropy."""
        head = self.heads[t]
        loss = torch.nn.functional.cross_entropy(head(hidden.double()), labels)
        weight, bias = torch.autograd.grad(loss, [head.weight, head.bias])
        return torch.cat([weight, bias[:, None]], dim=1).T

    def class_gradients(self, chosen: list[int]) -> list[list[tuple[Tensor, Tensor]]]:
        """(chosen mean, real mean) for each checkpoint and class."""
        pairs = []
        for t in range(2):
            pairs.append([])
            for c in range(self.classes):
                mine = [i for i in chosen if self.labels[i] == c]
                real = self.real_labels == c
                pairs[t].append(
                    (
                        self.gradient(t, self.hidden[t][mine], self.labels[mine]),
                        self.gradient(t, self.real_hidden[t][real], self.real_labels[real]),
                    )
                )
        return pairs


CHOSEN = [0, 3, 6, 1, 5, 8]


def test_gradient_equals_autograd():
    linear = Linear()
    pairs = [pair for checkpoint in linear.class_gradients(CHOSEN) for pair in checkpoint]
    cosines = [torch.cosine_similarity(mine.flatten(), real.flatten(), dim=0) for mine, real in pairs]
    expected = 1 - float(torch.stack(cosines).mean())
    assert OBJECTIVES["gradient"](linear.inputs).loss(CHOSEN) == pytest.approx(expected, abs=1e-12)


def test_gradient_l2_equals_autograd():
    linear = Linear()
    expected = 0.0
    for checkpoint in linear.class_gradients(CHOSEN):
        apart = sum(float((mine - real).square().sum()) for mine, real in checkpoint)
        expected += apart / sum(float(real.square().sum()) for _, real in checkpoint) / 2
    assert OBJECTIVES["gradient_l2"](linear.inputs).loss(CHOSEN) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["trajectory", "trajectory_adam"])
def test_trajectory_equals_autograd(name):
    linear = Linear()
    step = -linear.gradient(0, linear.hidden[0][CHOSEN], linear.labels[CHOSEN])
    if name == "trajectory_adam":
        step = step * linear.segment.head_scale.double()
    expected = 1 - float(torch.cosine_similarity(step.flatten(), linear.segment.head.double().flatten(), dim=0))
    assert OBJECTIVES[name](linear.inputs).loss(CHOSEN) == pytest.approx(expected, abs=1e-12)


def test_trajectory_sees_head_and_body_as_one_vector():
    inputs, chosen = make_inputs(2, checkpoints=3), [0, 4, 5, 11]
    cosines = []
    for features, segment in zip(inputs.candidate_features, inputs.segments, strict=False):
        # p - y with p_y = 1 - the others, which float32 probabilities themselves hold only to their rounding
        own = torch.eye(3)[inputs.candidate_labels].bool()
        others = features.probabilities.double().masked_fill(own, 0.0)
        residual = torch.where(own, -others.sum(1, keepdim=True), others)
        extended = torch.nn.functional.pad(features.hidden.double(), (0, 1), value=1.0)
        head = sum(torch.outer(extended[i], residual[i]) for i in chosen)
        step = -torch.cat([head.flatten(), features.gradient[chosen].double().sum(0)])
        moved = torch.cat([segment.head.flatten(), segment.body]).double()
        cosines.append(torch.cosine_similarity(step, moved, dim=0))
    expected = 1 - float(torch.stack(cosines).mean())
    assert OBJECTIVES["trajectory"](inputs).loss(chosen) == pytest.approx(expected, abs=1e-12)


def test_training_on_a_texts_own_step_is_on_the_trajectory():
    """A student that was moved against the gradient of one candidate was moved by that candidate."""
    inputs = make_inputs(3)
    features = inputs.candidate_features[0]
    residual = features.probabilities[7] - torch.eye(3)[inputs.candidate_labels[7]]
    head = -torch.outer(torch.nn.functional.pad(features.hidden[7], (0, 1), value=1.0), residual)
    moved = Segment(head=0.1 * head, head_scale=None, body=-0.1 * features.gradient[7])
    objective = OBJECTIVES["trajectory"](dataclasses.replace(inputs, segments=(moved,)))
    assert objective.loss([7]) == pytest.approx(0, abs=1e-6)
    assert int(objective.gains([]).argmax()) == 7


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


@pytest.mark.parametrize("name", ["gradient", "gradient_l2", "trajectory"])
def test_perfectly_fitted_rows_are_no_direction(name):
    inputs = make_inputs(6)
    certain = [
        Features(f.hidden, torch.nn.functional.one_hot(inputs.candidate_labels, 3).float())
        for f in inputs.candidate_features
    ]
    objective = OBJECTIVES[name](dataclasses.replace(inputs, candidate_features=certain))
    assert objective.loss([0, 1, 2]) == pytest.approx(1.0, abs=1e-12)
    torch.testing.assert_close(objective.gains([]), torch.zeros(24, dtype=torch.float64), rtol=0, atol=1e-12)


def test_real_rows_that_are_fitted_perfectly_leave_nothing_to_match():
    inputs = make_inputs(6)
    certain = [
        Features(f.hidden, torch.nn.functional.one_hot(inputs.real_labels, 3).float()) for f in inputs.real_features
    ]
    fitted = dataclasses.replace(inputs, real_features=certain)
    for name in ("gradient", "gradient_l2"):
        assert OBJECTIVES[name](fitted).loss([0, 1, 2]) == 1.0


# -- body gradients ----------------------------------------------------------------------------------------------------


def test_gradient_body_is_the_cosine_of_mean_projected_gradients():
    inputs, chosen = make_inputs(1), [0, 1, 2, 9, 10, 11]
    cosines = []
    for candidates, real in zip(inputs.candidate_features, inputs.real_features, strict=True):
        for c in range(3):
            mine = [i for i in chosen if inputs.candidate_labels[i] == c]
            means = candidates.gradient[mine].double().mean(0), real.gradient[inputs.real_labels == c].double().mean(0)
            cosines.append(torch.cosine_similarity(*means, dim=0))
    expected = 1 - float(torch.stack(cosines).mean())
    assert OBJECTIVES["gradient_body"](inputs).loss(chosen) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gradient_body", "projected gradients"),
        ("meta_model_gradient", "projected gradients"),
        ("trajectory", "segments"),
        ("trajectory_adam", "segments"),
    ],
)
def test_what_an_objective_lacks_is_said(name, says):
    inputs = make_inputs(0)
    without = [
        [Features(f.hidden, f.probabilities) for f in side]
        for side in (inputs.candidate_features, inputs.real_features)
    ]
    plain = dataclasses.replace(inputs, candidate_features=without[0], real_features=without[1], segments=())
    with pytest.raises(DataError, match=f"{name} needs .*{says}"):
        OBJECTIVES[name](plain)


def test_trajectory_adam_without_adams_scale_says_so():
    inputs = make_inputs(0)
    plain = dataclasses.replace(inputs, segments=(Segment(inputs.segments[0].head),))
    with pytest.raises(DataError, match="Adam's scale"):
        OBJECTIVES["trajectory_adam"](plain)


# -- distribution ------------------------------------------------------------------------------------------------------


def test_mean_matching_is_the_distance_of_class_means():
    inputs, chosen = make_inputs(4), [0, 1, 2, 9, 10, 11]
    apart = whole = 0.0
    for c in range(3):
        mine = [i for i in chosen if inputs.candidate_labels[i] == c]
        real = inputs.real_embeddings[inputs.real_labels == c].double().mean(0)
        apart += float((inputs.candidate_embeddings[mine].double().mean(0) - real).square().sum())
        whole += float(real.square().sum())
    assert OBJECTIVES["mean_matching"](inputs).loss(chosen) == pytest.approx(apart / whole, abs=1e-12)


def test_mmd_equals_loops_over_pairs():
    inputs, chosen = make_inputs(4), [0, 1, 2, 9, 10, 11]
    total = unit = 0.0
    for c in range(3):
        real = inputs.real_embeddings[inputs.real_labels == c].double()
        mine = inputs.candidate_embeddings[[i for i in chosen if inputs.candidate_labels[i] == c]].double()
        pairs = [(real[i] - real[j]).norm() for i in range(len(real)) for j in range(len(real)) if i != j]
        sigma = float(torch.stack(pairs).median())

        def kernel(a: Tensor, b: Tensor, sigma: float = sigma) -> float:
            return sum(math.exp(-float((x - y).square().sum()) / (2 * sigma**2)) for x in a for y in b) / (
                len(a) * len(b)
            )

        total += kernel(real, real) - 2 * kernel(real, mine) + kernel(mine, mine)
        unit += kernel(real, real)
    assert Mmd(inputs).loss(chosen) == pytest.approx(total / unit, abs=1e-12)


def test_coverage_equals_a_loop_over_real_rows():
    inputs, chosen = make_inputs(4), [0, 1, 2, 9, 10, 11]
    shares = []
    for c in range(3):
        mine = inputs.candidate_embeddings[[i for i in chosen if inputs.candidate_labels[i] == c]].double()
        real = inputs.real_embeddings[inputs.real_labels == c].double()
        shares.append(sum(max(0.0, *(float(x @ s) for s in mine)) for x in real) / len(real))
    assert Coverage(inputs).loss(chosen) == pytest.approx(1 - sum(shares) / 3, abs=1e-12)


@pytest.mark.parametrize("build", [Mmd, Coverage])
def test_a_sample_of_the_real_rows_stands_in_for_all(build):
    inputs, chosen = make_inputs(2, n=30, m=1500), [0, 1, 2, 5, 6, 7]
    sampled, whole = build(inputs, target=200), build(inputs)
    assert sampled.loss(chosen) != whole.loss(chosen)
    assert sampled.loss(chosen) == pytest.approx(whole.loss(chosen), abs=0.05)
    assert sampled.loss(chosen) == build(inputs, target=200).loss(chosen)


def test_coverage_is_submodular():
    inputs = make_inputs(5)
    objective = OBJECTIVES["coverage"](inputs)
    assert objective.submodular
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0)).tolist()
    before = objective.gains([])
    for count in range(1, 12):
        after = objective.gains(order[:count])
        assert bool((after <= before + 1e-12).all())
        before = after


# -- meta-model --------------------------------------------------------------------------------------------------------


def explicit(rows: Tensor, labels: Tensor, real: Tensor, real_labels: Tensor, ridge: float) -> float:
    rows, real, eye = rows.double(), real.double(), torch.eye(3, dtype=torch.float64)
    kernel = rows @ rows.T + 1 + ridge * torch.eye(len(rows), dtype=torch.float64)
    wrong = (real @ rows.T + 1) @ torch.linalg.solve(kernel, eye[labels] - 1 / 3) - (eye[real_labels] - 1 / 3)
    errors = wrong.square().sum(1)
    return float(torch.stack([errors[real_labels == c].mean() for c in range(3)]).mean()) / (1 - 1 / 3)


@pytest.mark.parametrize("chosen", [[0], [0, 1, 2, 7], list(range(12))])
def test_meta_model_equals_an_explicit_solve(chosen):
    inputs = make_inputs(7)
    expected = explicit(
        inputs.candidate_embeddings[chosen],
        inputs.candidate_labels[chosen],
        inputs.real_embeddings,
        inputs.real_labels,
        0.1,
    )
    assert OBJECTIVES["meta_model"](inputs).loss(chosen) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("name", "what"), [("meta_model_trajectory", "hidden"), ("meta_model_gradient", "gradient")])
def test_meta_models_along_the_training_are_means_of_explicit_solves(name, what):
    inputs, chosen = dataclasses.replace(make_inputs(7), ridge=[0.1, 2.0]), [0, 1, 2, 7]
    losses = []
    for features, real in zip(inputs.candidate_features, inputs.real_features, strict=True):
        rows, targets = (torch.nn.functional.normalize(getattr(f, what), dim=1) for f in (features, real))
        for ridge in (0.1, 2.0):
            labels = inputs.candidate_labels[chosen]
            losses.append(explicit(rows[chosen], labels, targets, inputs.real_labels, ridge))
    assert OBJECTIVES[name](inputs).loss(chosen) == pytest.approx(sum(losses) / 4, abs=1e-12)


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
    expected = OBJECTIVES["meta_model"](inputs).loss(chosen)
    assert OBJECTIVES["meta_model"](imbalanced).loss(chosen) == pytest.approx(expected, abs=1e-12)
