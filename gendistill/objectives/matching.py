"""Matching of class means: by direction (cosine) or by place (squared distance), of any kind of vectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gendistill.objectives.classwise import ClassWise
from gendistill.objectives.vectors import Vectors

Pair = tuple[Vectors, Vectors]  # of the candidates, of the real rows; one pair for each checkpoint


class CosineMatching(ClassWise):
    """``1 - cos(mean real vector, mean chosen vector)`` of a class, averaged over classes and checkpoints, in [0, 2].

    A class with nothing chosen counts 1, and so does one whose real mean is no direction: there is no real row of it,
    or all are fitted perfectly.
    """

    def __init__(self, name: str, labels: Tensor, num_classes: int, pairs: Sequence[Pair], real_labels: Tensor) -> None:
        super().__init__(labels, num_classes)
        self.name = name
        self._points = [candidates for candidates, _ in pairs]
        self._to_real = torch.zeros(len(pairs), self.size, dtype=torch.float64)  # with the unit mean of the own class
        for to_real, (candidates, real) in zip(self._to_real, pairs, strict=True):
            for c, own in enumerate(self.rows):
                target = real.total(torch.nonzero(real_labels == c).flatten())
                norm = target.norm()
                if norm > 0:
                    to_real[own] = candidates.dots(target / norm, own)

    def class_loss(self, c: int, chosen: list[int]) -> float:
        cosines = [self._cosine(t, points.total(chosen), chosen) for t, points in enumerate(self._points)]
        return 1.0 - sum(cosines) / len(cosines)

    def class_gains(self, c: int, chosen: list[int], rows: Tensor) -> Tensor:
        rise = torch.zeros(len(rows), dtype=torch.float64)
        for t, points in enumerate(self._points):
            total = points.total(chosen)
            # Head gradients do not cancel here: within a class all have the same sign, p_c - 1 < 0, at its bias.
            squared = total.square().sum() + 2 * points.dots(total, rows) + points.squared_norm[rows]
            norm = squared.clamp_min(0).sqrt()
            dot = self._to_real[t, chosen].sum() + self._to_real[t, rows]
            rise += torch.where(norm > 0, dot / norm, 0.0) - self._cosine(t, total, chosen)
        return rise / len(self._points)

    def _cosine(self, t: int, total: Tensor, chosen: list[int]) -> float:
        """Of sums, as a cosine knows no scale."""
        norm = float(total.norm())
        return float(self._to_real[t, chosen].sum()) / norm if norm > 0 else 0.0


class MeanMatching(ClassWise):
    """``sum_c |mean real vector - mean chosen vector|^2 / sum_c |mean real vector|^2``, averaged over checkpoints.

    The mean of nothing is 0, so the empty set costs 1. A class without real rows has nothing to match and costs
    nothing; a checkpoint at which every real mean is 0 has no unit and costs 1.
    """

    def __init__(self, name: str, labels: Tensor, num_classes: int, pairs: Sequence[Pair], real_labels: Tensor) -> None:
        super().__init__(labels, num_classes)
        self.name = name
        self._points = [candidates for candidates, _ in pairs]
        mine = [torch.nonzero(real_labels == c).flatten() for c in range(num_classes)]
        self._means = [[real.total(rows) / max(len(rows), 1) for rows in mine] for _, real in pairs]
        # A class's loss is divided by the mean over classes of what nothing costs, as the losses are averaged after.
        self._units = [float(sum(m.square().sum() for m in means)) / num_classes for means in self._means]
        self._real = [len(rows) > 0 for rows in mine]

    def class_loss(self, c: int, chosen: list[int]) -> float:
        if not self._real[c]:
            return 0.0
        losses = []
        for points, means, unit in zip(self._points, self._means, self._units, strict=True):
            mean = points.total(chosen) / max(len(chosen), 1)
            losses.append(float((means[c] - mean).square().sum()) / unit if unit > 0 else 1.0)
        return sum(losses) / len(losses)

    def class_gains(self, c: int, chosen: list[int], rows: Tensor) -> Tensor:
        gains = torch.zeros(len(rows), dtype=torch.float64)
        if not self._real[c]:
            return gains
        share = 1 / (len(chosen) + 1)
        for points, means, unit in zip(self._points, self._means, self._units, strict=True):
            if unit > 0:
                total = points.total(chosen)
                now = (means[c] - total / max(len(chosen), 1)).square().sum()
                left = means[c] - share * total
                then = left.square().sum() - 2 * share * points.dots(left, rows)
                gains += (now - then - share**2 * points.squared_norm[rows]) / unit
        return gains / len(self._points)
