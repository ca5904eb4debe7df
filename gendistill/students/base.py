"""The student seam: what a model that learns from examples must offer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from gendistill.examples import Example


@dataclass(frozen=True, slots=True)
class Features:
    """What a student says of n examples at one checkpoint; row i belongs to example i. CPU tensors."""

    hidden: Tensor  # (n, d) float32: the input of the head
    probabilities: Tensor  # (n, C) float32, rows sum to 1
    gradient: Tensor | None = None  # (n, k) float32: projected gradient of the own label's loss by the body's weights

    def rows(self, index: Sequence[int] | Tensor) -> Features:
        """The features of some of the examples, in the order given."""
        keep = index if not isinstance(index, Sequence) else list(index)
        gradient = None if self.gradient is None else self.gradient[keep]
        return Features(self.hidden[keep], self.probabilities[keep], gradient)


def joined(parts: Sequence[Features]) -> Features:
    """Rows of several batches as one."""
    import torch

    gradients = [part.gradient for part in parts if part.gradient is not None]
    return Features(
        torch.cat([part.hidden for part in parts]),
        torch.cat([part.probabilities for part in parts]),
        torch.cat(gradients) if len(gradients) == len(parts) else None,
    )


@dataclass(frozen=True, slots=True)
class Segment:
    """What a stretch of training on the real data did to a student, from one checkpoint to the next. CPU tensors.

    A body's displacement goes through the very projection that ``Features.gradient`` goes through, so that inner
    products of the two estimate those of the unprojected ones.
    """

    head: Tensor  # (d + 1, C) float32: displacement of the head's weights, the bias last
    head_scale: Tensor | None = None  # (d + 1, C) float32: Adam's 1 / (sqrt(v_hat) + eps) at the segment's start
    body: Tensor | None = None  # (k,) float32: projected displacement of the body


class Student(Protocol):
    num_classes: int

    @property
    def checkpoints(self) -> int:
        """How many checkpoints the last fit kept; 0 before any fit."""
        ...

    def fit(self, examples: Sequence[Example], *, seed: int, targets: Tensor | None = None) -> None:
        """Train from the pretrained weights (never from an earlier fit).

        :param targets: soft labels to train towards instead of the examples' own, (n, C) float32, rows of sum 1.
        """
        ...

    def predict(self, examples: Sequence[Example]) -> Tensor:
        """Class probabilities at the last checkpoint, (n, C) float32."""
        ...

    def features(self, examples: Sequence[Example], *, checkpoint: int = -1) -> Features:
        """Features at one checkpoint, 0 being the start of training; no dropout, independent of order."""
        ...
