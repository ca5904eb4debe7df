"""Meta-model matching: a model trained on the chosen texts, in closed form, should be right about the real ones.

All are ``KernelRidge``; what differs is the features of its kernel. Several ridges count as the mean of their losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch.nn.functional import normalize

from gendistill.errors import ConfigError
from gendistill.objectives.combined import WeightedSum
from gendistill.objectives.gradient import gradients, need_features
from gendistill.objectives.kernel_ridge import KernelRidge

if TYPE_CHECKING:
    from torch import Tensor

    from gendistill.objectives import ObjectiveInputs
    from gendistill.objectives.base import Objective


def meta_model(inputs: ObjectiveInputs) -> Objective:
    """On the embeddings: the student's body is taken as it is, and the head is learnt in closed form."""
    return _mean("meta_model", inputs, [(inputs.candidate_embeddings, inputs.real_embeddings)], inputs.real_labels)


def meta_model_trajectory(inputs: ObjectiveInputs) -> Objective:
    """On the hidden states of every checkpoint, rows of length 1; the mean over checkpoints.

    A student that is fine-tuned whole does not keep its features: those along its own way count as much as the first.
    """
    need_features("meta_model_trajectory", inputs)
    pairs = [
        (normalize(candidates.hidden, dim=1), normalize(real.hidden, dim=1))
        for candidates, real in zip(inputs.candidate_features, inputs.real_features, strict=True)
    ]
    return _mean("meta_model_trajectory", inputs, pairs, inputs.feature_labels)


def meta_model_gradient(inputs: ObjectiveInputs) -> Objective:
    """On the projected gradients of the student's body, rows of length 1: an empirical neural tangent kernel.

    The kernel of Jacot et al. 2018 (arXiv 1806.07572) at each checkpoint, on the gradient of the own label's loss
    instead of that of every output; the mean over checkpoints. Such a gradient knows its row's label, so the losses
    come out lower than those on embeddings and are to be compared with each other only.
    """
    pairs = [
        (normalize(candidates, dim=1), normalize(real, dim=1))
        for candidates, real in gradients("meta_model_gradient", inputs)
    ]
    return _mean("meta_model_gradient", inputs, pairs, inputs.feature_labels)


def _mean(name: str, inputs: ObjectiveInputs, pairs: Sequence[tuple[Tensor, Tensor]], real_labels: Tensor) -> Objective:
    ridges = [inputs.ridge] if isinstance(inputs.ridge, (int, float)) else list(inputs.ridge)
    if not ridges:
        raise ConfigError("objective.ridge: give one at least")
    parts = [
        KernelRidge(candidates, inputs.candidate_labels, real, real_labels, inputs.num_classes, ridge, name)
        for candidates, real in pairs
        for ridge in ridges
    ]
    return parts[0] if len(parts) == 1 else WeightedSum([(1.0, part) for part in parts], name=name)
