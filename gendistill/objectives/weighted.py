"""Several objectives as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gendistill.errors import ConfigError
from gendistill.objectives.base import Objective


class WeightedSum:
    """``sum_k w_k loss_k(S) / loss_k(empty) / sum_k w_k``.

    Each loss is measured in units of what choosing nothing costs, so weights mean shares whatever the objectives' own
    scales, and the empty set always has loss 1.

    :param parts: (weight, objective) pairs over the same candidates, weights positive.
    """

    name = "weighted"

    def __init__(self, parts: Sequence[tuple[float, Objective]]) -> None:
        if not parts or any(not weight > 0 for weight, _ in parts):
            raise ConfigError("objective.weights: give at least one objective, each a positive weight")
        sizes = {objective.size for _, objective in parts}
        if len(sizes) > 1:
            raise ConfigError(f"objectives over different candidates cannot be added: sizes {sorted(sizes)}")
        self.size = sizes.pop()
        total = sum(weight for weight, _ in parts)
        self._parts = [(weight / total, objective, objective.loss([])) for weight, objective in parts]

    def loss(self, chosen: Sequence[int]) -> float:
        return sum(share * (objective.loss(chosen) / unit) for share, objective, unit in self._parts)

    def gains(self, chosen: Sequence[int]) -> Tensor:
        total = torch.zeros(self.size, dtype=torch.float64)
        for share, objective, unit in self._parts:
            total += objective.gains(chosen) * (share / unit)
        return total
