"""Gradient matching: the chosen texts should pull the student where the real texts pull it.

At a fresh head p is the same for all texts, so that matching head gradients is matching mean features, which is
herding; checkpoints along the training are what make it more than that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gendistill.errors import DataError
from gendistill.objectives.matching import CosineMatching, MeanMatching, Pair
from gendistill.objectives.vectors import HeadGradients, Plain

if TYPE_CHECKING:
    from torch import Tensor

    from gendistill.objectives import ObjectiveInputs


def gradient(inputs: ObjectiveInputs) -> CosineMatching:
    """Cosine of class-wise mean head gradients at every checkpoint.

    The matching loss of DiLM (Maekawa et al. 2024, arXiv 2404.00264: the cosine distance of class-wise gradients), on
    the gradient by the linear head, in closed form (``HeadGradients``).
    """
    return CosineMatching(
        "gradient", inputs.candidate_labels, inputs.num_classes, _heads("gradient", inputs), inputs.feature_labels
    )


def gradient_l2(inputs: ObjectiveInputs) -> MeanMatching:
    """Squared distance of class-wise mean head gradients, each checkpoint in units of the real means' squared norm.

    Unlike the cosine it asks for gradients of the right size too: it prefers texts that are as hard for the student as
    the real ones. The squared error between gradients is the one that CRAIG (Mirzasoleiman et al. 2020, arXiv
    1906.01827) bounds and GradMatch (Killamsetty et al. 2021, arXiv 2103.00123) minimises.
    """
    return MeanMatching(
        "gradient_l2", inputs.candidate_labels, inputs.num_classes, _heads("gradient_l2", inputs), inputs.feature_labels
    )


def gradient_body(inputs: ObjectiveInputs) -> CosineMatching:
    """As ``gradient``, on the projected gradients by the student's body, ``Features.gradient``."""
    features = gradients("gradient_body", inputs)
    pairs: list[Pair] = [(Plain(candidates), Plain(real)) for candidates, real in features]
    return CosineMatching("gradient_body", inputs.candidate_labels, inputs.num_classes, pairs, inputs.feature_labels)


def gradients(name: str, inputs: ObjectiveInputs) -> list[tuple[Tensor, Tensor]]:
    """Projected body gradients (n, k) of the candidates and (m, k) of the real rows, for each checkpoint.

    :raises DataError: there are none.
    """
    need_features(name, inputs)
    pairs = [
        (candidates.gradient, real.gradient)
        for candidates, real in zip(inputs.candidate_features, inputs.real_features, strict=True)
    ]
    found = [(candidates, real) for candidates, real in pairs if candidates is not None and real is not None]
    if len(found) < len(pairs):
        raise DataError(
            f"the objective {name} needs projected gradients of the student's body, and the features hold none: "
            "set student.gradient_dims above 0"
        )
    return found


def need_features(name: str, inputs: ObjectiveInputs) -> None:
    """:raises DataError: there are no features at any checkpoint."""
    if not inputs.candidate_features:
        raise DataError(f"the objective {name} needs the student's features at one checkpoint at least, got none")


def _heads(name: str, inputs: ObjectiveInputs) -> list[Pair]:
    need_features(name, inputs)
    return [
        (HeadGradients(candidates, inputs.candidate_labels), HeadGradients(real, inputs.feature_labels))
        for candidates, real in zip(inputs.candidate_features, inputs.real_features, strict=True)
    ]
