"""Trajectory matching, first-order: a step on the chosen texts should lead where training on the real data led.

Matching training trajectories (Cazenavette et al. 2022, arXiv 2203.11932) trains a student on the synthetic set from a
checkpoint of an expert and asks how near it comes to the expert's next checkpoint. Here that training is one step on
all of the chosen, and nearness is of direction, as a step has no size of its own; so the loss is a function of the
candidates' gradients at the checkpoints that the teacher kept, and no student is trained for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gendistill.errors import DataError
from gendistill.objectives.gradient import need_features
from gendistill.objectives.vectors import HeadGradients, Plain, Vectors

if TYPE_CHECKING:
    from gendistill.objectives import ObjectiveInputs


def trajectory(inputs: ObjectiveInputs) -> TrajectoryMatching:
    """Steps of plain gradient descent: by the head, and by the body as well where its gradients are at hand."""
    _need_segments("trajectory", inputs)
    legs = []
    for features, segment in zip(inputs.candidate_features, inputs.segments, strict=False):
        leg = [_Part(HeadGradients(features, inputs.candidate_labels), segment.head.T.double())]
        if features.gradient is not None and segment.body is not None:
            leg.append(_Part(Plain(features.gradient), segment.body[None].double()))
        legs.append(leg)
    return TrajectoryMatching("trajectory", inputs.candidate_labels, legs)


def trajectory_adam(inputs: ObjectiveInputs) -> TrajectoryMatching:
    """Steps of Adam, by the head: gradients times ``1 / (sqrt(v) + eps)`` of the real run at the segment's start.

    So does LESS (Xia et al. 2024, arXiv 2402.04333), which compares Adam's steps on training rows with the gradient of
    the target. The head only, as a projected gradient cannot be scaled weight by weight.
    """
    _need_segments("trajectory_adam", inputs)
    legs = []
    for features, segment in zip(inputs.candidate_features, inputs.segments, strict=False):
        if segment.head_scale is None:
            raise DataError(
                "the objective trajectory_adam needs Adam's scale of every segment of the teacher's training"
            )
        scale = segment.head_scale.T.double()
        legs.append([_Part(HeadGradients(features, inputs.candidate_labels, scale), segment.head.T.double())])
    return TrajectoryMatching("trajectory_adam", inputs.candidate_labels, legs)


@dataclass(frozen=True)
class _Part:
    """Some of the student's weights: gradients of the candidates, and where training on the real data moved them."""

    gradients: Vectors
    moved: Tensor


class TrajectoryMatching:
    """``1 - cos(-sum of the chosen's gradients, displacement)``, averaged over the segments of training, in [0, 2].

    The gradients are those at the checkpoint that a segment starts from. Nothing chosen, or gradients that sum to 0,
    is no direction and costs 1.

    :param legs: for each segment the parts of the weights, which are seen as one long vector.
    """

    submodular = False

    def __init__(self, name: str, labels: Tensor, legs: Sequence[Sequence[_Part]]) -> None:
        self.name, self.size = name, len(labels)
        self._legs = legs
        self._towards = torch.zeros(len(legs), self.size, dtype=torch.float64)  # <-g_i, unit displacement>
        for towards, leg in zip(self._towards, legs, strict=True):
            norm = torch.stack([part.moved.square().sum() for part in leg]).sum().sqrt()
            if norm > 0:
                for part in leg:
                    towards -= part.gradients.dots(part.moved / norm)

    def loss(self, chosen: Sequence[int]) -> float:
        rows = sorted(set(chosen))  # sorted, so that no bit depends on the order
        cosines = [self._cosine(t, self._totals(t, rows), rows) for t in range(len(self._legs))]
        return 1.0 - sum(cosines) / len(cosines)

    def gains(self, chosen: Sequence[int], rows: Tensor | None = None) -> Tensor:
        held = sorted(set(chosen))
        wanted = torch.arange(self.size) if rows is None else rows
        rise = torch.zeros(len(wanted), dtype=torch.float64)
        for t, leg in enumerate(self._legs):
            totals = self._totals(t, held)
            squared = torch.zeros(len(wanted), dtype=torch.float64)
            for part, total in zip(leg, totals, strict=True):
                squared += total.square().sum() + 2 * part.gradients.dots(total, rows)
                squared += part.gradients.squared_norm[wanted]
            norm = squared.clamp_min(0).sqrt()
            towards = self._towards[t, held].sum() + self._towards[t, wanted]
            rise += torch.where(norm > 0, towards / norm, 0.0) - self._cosine(t, totals, held)
        gains = rise / len(self._legs)
        gains[torch.isin(wanted, torch.tensor(held, dtype=torch.int64))] = -torch.inf
        return gains

    def _totals(self, t: int, chosen: list[int]) -> list[Tensor]:
        return [part.gradients.total(chosen) for part in self._legs[t]]

    def _cosine(self, t: int, totals: list[Tensor], chosen: list[int]) -> float:
        norm = float(torch.stack([total.square().sum() for total in totals]).sum().sqrt())
        return float(self._towards[t, chosen].sum()) / norm if norm > 0 else 0.0


def _need_segments(name: str, inputs: ObjectiveInputs) -> None:
    need_features(name, inputs)
    if not inputs.segments:
        raise DataError(f"the objective {name} needs the segments of the teacher's training on the real data, got none")
