"""What training did to a student between its checkpoints, for objectives of the trajectory family."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from torch import Tensor

from gendistill.students.base import Segment, Student
from gendistill.students.encoder import EncoderStudent
from gendistill.students.gradients import BodyGradients

ADAM_EPSILON = 1e-8  # torch's default, which training uses


def segments(student: Student) -> tuple[Segment, ...]:
    """One between each two neighbouring checkpoints of the last fit, in order; none where training has no steps.

    ``head_scale`` is Adam's ``1 / (sqrt(v_hat) + eps)`` as in LESS (Xia et al. 2024, arXiv 2402.04333), v_hat being the
    bias-corrected second moment. Training starts with none, so the first segment has that of its end, which after so
    few steps is close to the mean squared gradient over the segment.

    Displacements are weights after minus weights before. With ``gradient_dims`` in the configuration the body's goes
    through the projection of ``Features.gradient``, and so covers the weights of its linear layers.
    """
    if not isinstance(student, EncoderStudent):
        return ()
    states = student.states
    return tuple(_segment(before, after, student.gradients) for before, after in itertools.pairwise(states))


def _segment(before: Mapping[str, Tensor], after: Mapping[str, Tensor], gradients: BodyGradients | None) -> Segment:
    moments = before if "adam.weight" in before else after
    body = None
    if gradients is not None:
        names = {layer: f"encoder.{layer}.weight" for layer in gradients.maps}
        body = gradients.project({layer: after[name].double() - before[name] for layer, name in names.items()})
    return Segment(
        head=_with_bias_last(after, "head") - _with_bias_last(before, "head"),
        head_scale=1 / (_with_bias_last(moments, "adam").sqrt() + ADAM_EPSILON),
        body=body,
    )


def _with_bias_last(state: Mapping[str, Tensor], prefix: str) -> Tensor:
    """(d + 1, C)."""
    return torch.cat([state[f"{prefix}.weight"].T, state[f"{prefix}.bias"][None]])
