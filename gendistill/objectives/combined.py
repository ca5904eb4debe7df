"""Several objectives as one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

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

    def __init__(self, parts: Sequence[tuple[float, Objective]], name: str = "weighted") -> None:
        if not parts or any(not weight > 0 for weight, _ in parts):
            raise ConfigError("objective.weights: give at least one objective, each a positive weight")
        self.name = name
        self.size = _same_size([objective for _, objective in parts])
        self.submodular = all(getattr(objective, "submodular", False) for _, objective in parts)
        total = sum(weight for weight, _ in parts)
        self._parts = [(weight / total, objective, objective.loss([])) for weight, objective in parts]

    def expect(self, chosen: Sequence[int], ahead: Sequence[Sequence[int]], rows: Tensor | None = None) -> None:
        """Tell the parts that take hints."""
        for _, objective, _ in self._parts:
            if hasattr(objective, "expect"):
                objective.expect(chosen, ahead, rows)

    def restricted(self, rows: Tensor) -> WeightedSum | None:
        """The same sum over some of the candidates, as ``KernelRidge.restricted``; None if a part cannot be."""
        parts: list[tuple[float, Any, float]] = []
        for share, objective, unit in self._parts:
            restrict = getattr(objective, "restricted", None)
            part = None if restrict is None else restrict(rows)
            if part is None:
                return None
            parts.append((share, part, unit))
        whole = copy.copy(self)
        whole.size, whole._parts = len(rows), parts
        return whole

    def loss(self, chosen: Sequence[int]) -> float:
        return sum(share * (objective.loss(chosen) / unit) for share, objective, unit in self._parts)

    def gains(self, chosen: Sequence[int], rows: Tensor | None = None) -> Tensor:
        total = torch.zeros(self.size if rows is None else len(rows), dtype=torch.float64)
        for share, objective, unit in self._parts:
            total += objective.gains(chosen, rows) * (share / unit)
        return total


class Worst:
    """``max_k loss_k(S) / loss_k(empty)``: no part, for instance no student, may be served badly.

    :param parts: objectives over the same candidates.
    """

    submodular = False

    def __init__(self, parts: Sequence[Objective], name: str = "worst") -> None:
        if not parts:
            raise ConfigError("the worst of no objectives: give one at least")
        self.name = name
        self.size = _same_size(parts)
        self._parts = [(objective, objective.loss([])) for objective in parts]

    def loss(self, chosen: Sequence[int]) -> float:
        return max(objective.loss(chosen) / unit for objective, unit in self._parts)

    def gains(self, chosen: Sequence[int], rows: Tensor | None = None) -> Tensor:
        now = [objective.loss(chosen) / unit for objective, unit in self._parts]
        then = [
            loss - objective.gains(chosen, rows) / unit
            for loss, (objective, unit) in zip(now, self._parts, strict=True)
        ]
        return max(now) - torch.stack(then).amax(0)


def _same_size(parts: Sequence[Objective]) -> int:
    sizes = {objective.size for objective in parts}
    if len(sizes) > 1:
        raise ConfigError(f"objectives over different candidates cannot be combined: sizes {sorted(sizes)}")
    return sizes.pop()
