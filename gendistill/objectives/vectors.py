"""Vectors that a row contributes to a sum (its gradient, its embedding), without forming them where that is costly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from gendistill.objectives.linear import chunks, products
from gendistill.students.base import Features


class Vectors(Protocol):
    """One vector a row, in a shape (a, b) of the implementation's choosing."""

    squared_norm: Tensor  # (n,) float64

    def total(self, rows: Sequence[int] | Tensor) -> Tensor:
        """(a, b) float64: the sum of the rows' vectors."""
        ...

    def dots(self, vector: Tensor, rows: Tensor | None = None) -> Tensor:
        """(r,) float64: inner products of the rows' vectors (all if None) with one (a, b) float64."""
        ...


class Plain:
    """Vectors that lie there, (n, d) float32; the shape of a sum is (1, d)."""

    def __init__(self, values: Tensor) -> None:
        self._values = values
        self.squared_norm = torch.empty(len(values), dtype=torch.float64)
        for place, part in chunks(values):
            self.squared_norm[place] = part.square().sum(1)

    def total(self, rows: Sequence[int] | Tensor) -> Tensor:
        result = torch.zeros(1, self._values.shape[1], dtype=torch.float64)
        for _, part in chunks(self._values, torch.as_tensor(rows, dtype=torch.int64)):
            result[0] += part.sum(0)
        return result

    def dots(self, vector: Tensor, rows: Tensor | None = None) -> Tensor:
        return products(self._values, vector, rows)[0]


class HeadGradients:
    """Gradients of the cross-entropy by a linear softmax head, ``dp outer [h; 1]``; the shape of a sum is (C, d + 1).

    dp is p - y, with p the probabilities, y the one-hot label and h the input of the head. No gradient of a row is ever
    formed: ``<g, g'> = (dp . dp') (h . h' + 1)``.

    :param scale: (C, d + 1) float64, multiplied into every gradient (a diagonal preconditioner); None for none.
    """

    def __init__(self, features: Features, labels: Tensor, scale: Tensor | None = None) -> None:
        self._hidden, self._scale = features.hidden, scale
        self.residual = features.probabilities.double()  # dp, (n, C)
        # p - 1 would lose what a float32 p near 1 has rounded away; the other probabilities still know it.
        self.residual.scatter_(1, labels[:, None], 0.0)
        self.residual.scatter_(1, labels[:, None], -self.residual.sum(1, keepdim=True))
        self.squared_norm = torch.empty(len(labels), dtype=torch.float64)
        for place, part in chunks(self._hidden):
            own = self.residual[place].square()
            if scale is None:
                self.squared_norm[place] = own.sum(1) * (part.square().sum(1) + 1.0)
            else:
                weights = scale.square()
                self.squared_norm[place] = (own * (part.square() @ weights[:, :-1].T + weights[:, -1])).sum(1)

    def total(self, rows: Sequence[int] | Tensor) -> Tensor:
        rows = torch.as_tensor(rows, dtype=torch.int64)
        residual = self.residual[rows]
        result = torch.zeros(residual.shape[1], self._hidden.shape[1] + 1, dtype=torch.float64)
        for place, part in chunks(self._hidden, rows):
            result[:, :-1] += residual[place].T @ part
        result[:, -1] = residual.sum(0)
        return result if self._scale is None else result * self._scale

    def dots(self, vector: Tensor, rows: Tensor | None = None) -> Tensor:
        residual = self.residual if rows is None else self.residual[rows]
        along = products(self._hidden, vector if self._scale is None else vector * self._scale, rows)
        return (along * residual.T).sum(0)
