"""Objectives: set functions over candidates that say how badly a chosen set stands in for the real data.

``build_objective({"meta_model": 1.0, "gradient": 1.0}, inputs)`` is the way in. A new objective is one new function or
class and one line in ``OBJECTIVES``. Every one costs 1 at the empty set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from gendistill.errors import ConfigError, DataError
from gendistill.objectives.base import Objective
from gendistill.objectives.combined import WeightedSum, Worst
from gendistill.objectives.distribution import Coverage, Mmd, mean_matching
from gendistill.objectives.gradient import gradient, gradient_body, gradient_l2
from gendistill.objectives.kernel_ridge import KernelRidge
from gendistill.objectives.linear import all_finite
from gendistill.objectives.meta_model import meta_model, meta_model_gradient, meta_model_trajectory
from gendistill.objectives.trajectory import trajectory, trajectory_adam
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
    ridge: float | Sequence[float] = 0.1  # of the meta-models; of several, the mean of their losses
    feature_rows: Tensor | None = None  # (k,) int64: the real rows that have features, which cost more than embeddings
    segments: tuple[Segment, ...] = ()  # one between each two neighbouring checkpoints, for the trajectory family
    others: tuple[ObjectiveInputs, ...] = ()  # what further students see of the same candidates and the same real rows

    @property
    def students(self) -> tuple[ObjectiveInputs, ...]:
        """One a student, this one first."""
        return self._students if self.others else (self,)

    @cached_property  # asked for with every probe, and a copy is checked anew; itself it must not keep, to be freed
    def _students(self) -> tuple[ObjectiveInputs, ...]:
        return (replace(self, others=()), *self.others)

    @property
    def feature_labels(self) -> Tensor:
        """Labels of the real rows that have features."""
        return self.real_labels if self.feature_rows is None else self.real_labels[self.feature_rows]

    def candidates(self, rows: Tensor) -> ObjectiveInputs:
        """The same for some of the candidates, (k,) int64."""
        return replace(
            self,
            candidate_labels=self.candidate_labels[rows],
            candidate_features=[features.rows(rows) for features in self.candidate_features],
            candidate_embeddings=self.candidate_embeddings[rows],
            others=tuple(other.candidates(rows) for other in self.others),
        )

    def with_ridge(self, ridge: float | Sequence[float]) -> ObjectiveInputs:
        """The same with another ridge, for every student."""
        return replace(self, ridge=ridge, others=tuple(other.with_ridge(ridge) for other in self.others))

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise DataError(f"objectives need at least 1 class, got {self.num_classes}")
        if len(self.candidate_features) != len(self.real_features):
            raise DataError(
                f"features of {len(self.candidate_features)} checkpoints for the candidates but of "
                f"{len(self.real_features)} for the real rows: compute both at the same checkpoints"
            )
        _check(
            "candidates", self.candidate_labels, self.candidate_features, self.candidate_embeddings, self.num_classes
        )
        _check("real rows", self.real_labels, [], self.real_embeddings, self.num_classes)
        _check("real rows", self.feature_labels, self.real_features, None, self.num_classes)
        if len(self.real_labels) == 0:
            raise DataError("objectives need real rows to compare with, got none")
        for other in self.others:
            if not (
                torch.equal(other.candidate_labels, self.candidate_labels)
                and torch.equal(other.real_labels, self.real_labels)
            ):
                raise DataError("the students were shown different rows: give all of them the same, in the same order")
        if self.segments and len(self.segments) != len(self.real_features) - 1:
            raise DataError(
                f"{len(self.segments)} segments of training for {len(self.real_features)} checkpoints: there must be "
                "one between each two neighbours"
            )
        for t, segment in enumerate(self.segments):
            width = (self.real_features[t].hidden.shape[1] + 1, self.num_classes)
            if segment.head.shape != width or (segment.head_scale is not None and segment.head_scale.shape != width):
                raise DataError(f"segment {t} of the training: the head's displacement and scale must be {width}")
            for values in (segment.head, segment.head_scale, segment.body):
                if values is not None and not torch.isfinite(values).all():
                    raise DataError(f"segment {t} of the training holds NaN or infinity: the student is broken")


def _check(what: str, labels: Tensor, features: list[Features], embeddings: Tensor | None, num_classes: int) -> None:
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise DataError(f"labels of the {what} must lie in 0..{num_classes - 1}")
    named = [("embeddings", embeddings)]
    named += [(f"hidden states of checkpoint {t}", f.hidden) for t, f in enumerate(features)]
    named += [(f"probabilities of checkpoint {t}", f.probabilities) for t, f in enumerate(features)]
    named += [(f"gradients of checkpoint {t}", f.gradient) for t, f in enumerate(features)]
    for name, values in named:
        if values is None:
            continue
        if values.ndim != 2 or len(values) != len(labels):
            raise DataError(f"{name} of the {what}: shape {tuple(values.shape)} for {len(labels)} labels")
        if not all_finite(values):
            raise DataError(f"{name} of the {what} hold NaN or infinity: the student or the embedder is broken")


OBJECTIVES: dict[str, Callable[[ObjectiveInputs], Objective]] = {
    "gradient": gradient,
    "gradient_l2": gradient_l2,
    "gradient_body": gradient_body,
    "mean_matching": mean_matching,
    "mmd": Mmd,
    "coverage": Coverage,
    "trajectory": trajectory,
    "trajectory_adam": trajectory_adam,
    "meta_model": meta_model,
    "meta_model_trajectory": meta_model_trajectory,
    "meta_model_gradient": meta_model_gradient,
}


def build_objective(
    weights: Mapping[str, float],
    inputs: ObjectiveInputs,
    combine: Literal["mean", "worst"] = "mean",
) -> Objective:
    """The weighted sum of the named objectives, even of one, so that the empty set always costs 1.

    :param weights: objective name -> weight; objectives with weight 0 are not built.
    :param combine: of several students (``inputs.others``), the mean or the worst of their weighted sums.
    :raises ConfigError: an unknown name, a negative weight or none positive.
    :raises DataError: an objective lacks what it needs.
    """
    for name in weights:
        if name not in OBJECTIVES:
            raise ConfigError(f"objective.weights: no objective {name!r}; there are {', '.join(sorted(OBJECTIVES))}")
    named = [(weight, OBJECTIVES[name]) for name, weight in sorted(weights.items()) if weight != 0]
    sums = [WeightedSum([(weight, build(student)) for weight, build in named]) for student in inputs.students]
    if len(sums) == 1:
        return sums[0]
    return Worst(sums) if combine == "worst" else WeightedSum([(1.0, one) for one in sums], name="students")


__all__ = [
    "OBJECTIVES",
    "KernelRidge",
    "Objective",
    "ObjectiveInputs",
    "WeightedSum",
    "Worst",
    "build_objective",
]
