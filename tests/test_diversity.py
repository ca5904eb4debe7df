"""Diversity of gradients: what is allowed against direct computation, relaxing, what select keeps."""

from __future__ import annotations

import pytest
import torch
from objective_inputs import make_inputs

from gendistill.errors import ConfigError
from gendistill.objectives import OBJECTIVES
from gendistill.selection import Diversity, select
from gendistill.students.base import Features


def unit_gradients(features: Features, labels: torch.Tensor) -> torch.Tensor:
    """(n, .) float64 of length 1: by the body if there, else by the head, formed row by row."""
    if features.gradient is not None:
        gradients = features.gradient.double()
    else:
        residual = features.probabilities.double() - torch.eye(3)[labels]
        extended = torch.nn.functional.pad(features.hidden.double(), (0, 1), value=1.0)
        gradients = torch.stack([torch.outer(h, dp).flatten() for h, dp in zip(extended, residual, strict=True)])
    return torch.nn.functional.normalize(gradients, dim=1)


@pytest.fixture(params=["head", "body"])
def problem(request):
    inputs = make_inputs(0, n=90, d=8)
    features = inputs.candidate_features[0]
    if request.param == "head":
        features = Features(features.hidden, features.probabilities)
    return inputs, features, unit_gradients(features, inputs.candidate_labels)


def test_allowed_is_what_a_direct_computation_allows(problem):
    inputs, features, gradients = problem
    labels, embeddings = inputs.candidate_labels, inputs.candidate_embeddings
    diversity = Diversity(embeddings, labels, 0.2, features, 0.6)
    chosen = [0, 1, 9, 21]
    near = (1 - embeddings.double() @ embeddings[chosen].double().T < 0.2) | (1 - gradients @ gradients[chosen].T < 0.6)
    expected = ~(near & (labels[:, None] == labels[chosen][None])).any(1)
    assert torch.equal(diversity.allowed(chosen), expected)
    text_only = Diversity(embeddings, labels, 0.2).allowed(chosen)
    assert 0 < int(expected.sum()) < int(text_only.sum())


def test_select_keeps_the_distance_of_gradients(problem):
    inputs, features, gradients = problem
    labels, objective = inputs.candidate_labels, OBJECTIVES["meta_model"](inputs)

    def least(chosen):
        apart = (1 - gradients[chosen] @ gradients[chosen].T)[labels[chosen][:, None] == labels[chosen]]
        return float(apart[apart > 1e-9].min())

    free = select("greedy", objective, inputs.candidate_embeddings, labels, [4, 4, 4])
    options = {"features": features, "min_gradient_distance": 0.6}
    wide = select("greedy", objective, inputs.candidate_embeddings, labels, [4, 4, 4], **options)
    assert least(free.chosen) < 0.6 <= least(wide.chosen) + 1e-6
    assert wide.relaxed == wide.relaxed_gradient == {} and len(wide.chosen) == 12


def test_gradients_that_cannot_be_far_apart_are_relaxed_and_told(problem):
    inputs, features, gradients = problem
    labels, objective = inputs.candidate_labels, OBJECTIVES["meta_model"](inputs)
    options = {"features": features, "min_gradient_distance": 2.0}  # only opposite ones are so far apart
    result = select("greedy", objective, inputs.candidate_embeddings, labels, [3, 3, 3], **options)
    assert len(result.chosen) == 9 and set(result.relaxed_gradient) == {0, 1, 2}
    for c, distance in result.relaxed_gradient.items():
        rows = [i for i in result.chosen if labels[i] == c]
        apart = 1 - gradients[rows] @ gradients[rows].T
        assert distance == pytest.approx(float(apart[~torch.eye(3, dtype=torch.bool)].min()), abs=1e-5)


def test_a_distance_of_gradients_needs_features():
    inputs = make_inputs(0)
    objective = OBJECTIVES["meta_model"](inputs)
    with pytest.raises(ConfigError, match="features"):
        select(
            "greedy",
            objective,
            inputs.candidate_embeddings,
            inputs.candidate_labels,
            [1, 1, 1],
            min_gradient_distance=0.1,
        )
