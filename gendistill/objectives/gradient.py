"""Gradient matching: the chosen texts should pull the student's head where the real texts pull it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gendistill.errors import DataError

if TYPE_CHECKING:
    from gendistill.objectives import ObjectiveInputs
    from gendistill.students.base import Features

CHUNK_ROWS = 2048  # features stay float32; only a chunk of them is float64 at any time


def products(features: Tensor, matrix: Tensor, rows: Tensor | None = None) -> Tensor:
    """``[features[rows], 1] @ matrix`` in float64, without a float64 copy of the features.

    features (n, d) float32, matrix (d + 1, k) float64, rows (r,) int64 or None for all; gives (r, k) float64.
    """
    parts = features.split(CHUNK_ROWS) if rows is None else (features[part] for part in rows.split(CHUNK_ROWS))
    results = [part.double() @ matrix[:-1] + matrix[-1] for part in parts]
    return torch.cat(results) if results else matrix.new_zeros(0, matrix.shape[1])


class GradientMatching:
    """``1 - cos(mean real head gradient, mean chosen head gradient)``, averaged over both, in [0, 2].

    Both means are over one class c at one checkpoint t, and the terms are averaged over all (t, c); a class with
    nothing chosen counts 1. This is the matching loss of DiLM (Maekawa et al. 2024, arXiv 2404.00264: the cosine
    distance of class-wise gradients), on the gradient of the cross-entropy by a linear softmax head. It has the closed
    form ``g = (p - y) outer [h; 1]`` with p the probabilities, y the one-hot label and h the input of the head. No
    gradient of a sample is ever formed: ``<g, g'> = (dp . dp') (h . h' + 1)``.

    At a fresh head p is the same for all texts, so that matching is of mean features, which is herding; checkpoints
    along the training are what make this more than that.
    """

    name = "gradient"

    def __init__(self, inputs: ObjectiveInputs) -> None:
        if not inputs.candidate_features:
            raise DataError("the gradient objective needs the student's features at one checkpoint at least, got none")
        self.size = len(inputs.candidate_labels)
        self.num_classes = inputs.num_classes
        self._labels = inputs.candidate_labels.tolist()
        self._rows = [torch.nonzero(inputs.candidate_labels == c).flatten() for c in range(self.num_classes)]
        self._checkpoints = [
            _Checkpoint(real, inputs.feature_labels, candidates, inputs.candidate_labels, self._rows)
            for real, candidates in zip(inputs.real_features, inputs.candidate_features, strict=True)
        ]
        # A class's gains depend on what is chosen of that class only, so a greedy step renews one class.
        self._cache: dict[int, tuple[list[int], Tensor]] = {}

    def loss(self, chosen: Sequence[int]) -> float:
        groups = self._by_class(chosen)
        cosines = [point.cosine(c, group) for point in self._checkpoints for c, group in enumerate(groups)]
        return 1.0 - sum(cosines) / len(cosines)

    def gains(self, chosen: Sequence[int]) -> Tensor:
        """(n,) float64, as the protocol says. O(n C d) a checkpoint, less where classes are as in the last call."""
        gains = torch.empty(self.size, dtype=torch.float64)
        for c, group in enumerate(self._by_class(chosen)):
            cached = self._cache.get(c)
            if cached is None or cached[0] != group:
                total = sum(
                    (
                        point.cosines_with(c, group, self._rows[c]) - point.cosine(c, group)
                        for point in self._checkpoints
                    ),
                    torch.zeros(len(self._rows[c]), dtype=torch.float64),
                )
                cached = self._cache[c] = (group, total / (len(self._checkpoints) * self.num_classes))
            gains[self._rows[c]] = cached[1]
        gains[list(chosen)] = -torch.inf
        return gains

    def _by_class(self, chosen: Sequence[int]) -> list[list[int]]:
        groups: list[list[int]] = [[] for _ in range(self.num_classes)]
        for i in sorted(set(chosen)):  # sorted, so that no bit of a sum depends on the order
            groups[self._labels[i]].append(i)
        return groups


class _Checkpoint:
    """One checkpoint's head gradients, factored. ``dp`` is p - y, (n, C) float64; a gradient is (d + 1, C)."""

    def __init__(
        self, real: Features, real_labels: Tensor, candidates: Features, labels: Tensor, rows: list[Tensor]
    ) -> None:
        self.hidden = candidates.hidden
        self.dp = _residual(candidates.probabilities, labels)
        real_dp = _residual(real.probabilities, real_labels)
        self.to_real = torch.zeros(len(labels), dtype=torch.float64)  # <g_i, unit mean real gradient of i's class>
        for c, own in enumerate(rows):
            mine = real_labels == c
            target = _gradient_sum(real.hidden[mine], real_dp[mine])
            norm = target.norm()
            if norm > 0:  # no real row, or all fitted perfectly: no direction to match, and the cosine stays 0
                self.to_real[own] = (products(self.hidden, target / norm, own) * self.dp[own]).sum(1)
        squared = torch.cat([part.double().square().sum(1) for part in self.hidden.split(CHUNK_ROWS)])
        self.squared_norm = self.dp.square().sum(1) * (squared + 1.0)

    def cosine(self, c: int, chosen: list[int]) -> float:
        """Between the real and the chosen mean gradient of class c; of sums, as a cosine knows no scale."""
        if not chosen:
            return 0.0
        norm = float(_gradient_sum(self.hidden[chosen], self.dp[chosen]).norm())
        return float(self.to_real[chosen].sum()) / norm if norm > 0 else 0.0

    def cosines_with(self, c: int, chosen: list[int], rows: Tensor) -> Tensor:
        """(n_c,): the cosine after adding each of the class's rows to the chosen ones."""
        total = _gradient_sum(self.hidden[chosen], self.dp[chosen])
        cross = (products(self.hidden, total, rows) * self.dp[rows]).sum(1)
        # No cancellation here: within a class every gradient has the same sign, p_c - 1 < 0, at the class's bias.
        norm = (total.square().sum() + 2 * cross + self.squared_norm[rows]).clamp_min(0).sqrt()
        dot = self.to_real[chosen].sum() + self.to_real[rows]
        return torch.where(norm > 0, dot / norm, 0.0)


def _residual(probabilities: Tensor, labels: Tensor) -> Tensor:
    return probabilities.double() - torch.nn.functional.one_hot(labels, probabilities.shape[1])


def _gradient_sum(hidden: Tensor, dp: Tensor) -> Tensor:
    """``sum_i [h_i; 1] outer dp_i``, (d + 1, C)."""
    return torch.cat([hidden.double().T @ dp, dp.sum(0, keepdim=True)])
