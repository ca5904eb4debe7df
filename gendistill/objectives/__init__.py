"""Objectives: set functions over candidates that say how badly a chosen set stands in for the real data.

``build_objective({"meta_model": 1.0, "gradient": 1.0}, inputs)`` is the way in. A new objective is one new file and one
line in ``OBJECTIVES``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gendistill.errors import ConfigError, DataError
from gendistill.objectives.base import Objective
from gendistill.objectives.gradient import GradientMatching
from gendistill.objectives.meta_model import KernelRidge
from gendistill.objectives.weighted import WeightedSum
from gendistill.students.base import Features, Segment


@dataclass(frozen=True)
class ObjectiveInputs:
    """What objectives may look at, for n candidates and m real rows. CPU tensors.

    Raises DataError where sizes disagree, a label is out of range or a value is not finite.
    """

    candidate_labels: Tensor  # (n,) int64
    real_labels: Tensor  # (m,) int64
    candidate_features: list[Features]  # one per checkpoint
    real_features: list[Features]  # the same checkpoints, of all real rows or of those in feature_rows
    candidate_embeddings: Tensor  # (n, d) float32, rows of length 1
    real_embeddings: Tensor  # (m, d) float32, rows of length 1
    num_classes: int
    ridge: float = 0.1
    feature_rows: Tensor | None = None  # (k,) int64: the real rows that have features, which cost more than embeddings
    segments: tuple[Segment, ...] = ()  # one between each two neighbouring checkpoints, for the trajectory family

    @property
    def feature_labels(self) -> Tensor:
        """Labels of the real rows that have features."""
        return self.real_labels if self.feature_rows is None else self.real_labels[self.feature_rows]

    def __post_init__(self) -> None:
        if self.num_classes < 2:
            raise DataError(f"objectives need at least 2 classes, got {self.num_classes}")
        if len(self.candidate_features) != len(self.real_features):
            raise DataError(
                f"features of {len(self.candidate_features)} checkpoints for the candidates but of "
                f"{len(self.real_features)} for the real rows: compute both at the same checkpoints"
            )
        _check(
            "candidates", self.candidate_labels, self.candidate_features, self.candidate_embeddings, self.num_classes
        )
        _check("real rows", self.real_labels, [], self.real_embeddings, self.num_classes)
        width = self.real_embeddings.shape[1]
        unused = self.real_embeddings.new_zeros(len(self.feature_labels), width)
        _check("real rows", self.feature_labels, self.real_features, unused, self.num_classes)
        if len(self.real_labels) == 0:
            raise DataError("objectives need real rows to compare with, got none")


def _check(what: str, labels: Tensor, features: list[Features], embeddings: Tensor, num_classes: int) -> None:
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise DataError(f"labels of the {what} must lie in 0..{num_classes - 1}")
    named = [("embeddings", embeddings)]
    named += [(f"hidden states of checkpoint {t}", f.hidden) for t, f in enumerate(features)]
    named += [(f"probabilities of checkpoint {t}", f.probabilities) for t, f in enumerate(features)]
    for name, values in named:
        if values.ndim != 2 or len(values) != len(labels):
            raise DataError(f"{name} of the {what}: shape {tuple(values.shape)} for {len(labels)} labels")
        # One sum finds any NaN or infinity without a mask as large as the features.
        if not torch.isfinite(values.sum(dtype=torch.float64)):
            raise DataError(f"{name} of the {what} hold NaN or infinity: the student or the embedder is broken")


OBJECTIVES: dict[str, Callable[[ObjectiveInputs], Objective]] = {
    "gradient": GradientMatching,
    "meta_model": KernelRidge,
}


def build_objective(weights: Mapping[str, float], inputs: ObjectiveInputs) -> WeightedSum:
    """The weighted sum of the named objectives; a ``WeightedSum`` even for one, so that the empty set always costs 1.

    Objectives with weight 0 are not built. Raises ConfigError for an unknown name, a negative weight or none positive.
    """
    for name in weights:
        if name not in OBJECTIVES:
            raise ConfigError(f"objective.weights: no objective {name!r}; there are {', '.join(sorted(OBJECTIVES))}")
    return WeightedSum([(weight, OBJECTIVES[name](inputs)) for name, weight in sorted(weights.items()) if weight != 0])


__all__ = [
    "OBJECTIVES",
    "GradientMatching",
    "KernelRidge",
    "Objective",
    "ObjectiveInputs",
    "WeightedSum",
    "build_objective",
]
