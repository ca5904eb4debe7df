"""Meta-model matching in closed form: train kernel ridge regression on the chosen texts, test it on the real ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gendistill.errors import ConfigError
from gendistill.objectives.gradient import CHUNK_ROWS, products

if TYPE_CHECKING:
    from gendistill.objectives import ObjectiveInputs


class KernelRidge:
    """Squared error on the real rows of kernel ridge regression trained on the chosen ones; the empty set has loss 1.

    The loss of KIP (kernel inducing points, Nguyen et al. 2021, arXiv 2011.00050),
    ``|Y_real - K_rs (K_ss + ridge I)^-1 Y_s|^2``, with the support set s picked from the candidates instead of learnt.
    Targets are one-hot minus 1/C. The kernel is ``x . x' + 1`` on the normalised embeddings: the constant feature is
    the bias, under the same penalty as the rest. Real rows are weighted so that each class counts equally, and the
    error is divided by the mean squared norm of the real targets, which is the error of predicting nothing.

    With D = d + 1 features, M = I - X_s^T (K_ss + ridge I)^-1 X_s and S the weighted second moment of the real rows,
    adding x_i changes the prediction by the rank-one ``X_real M x_i e_i / (ridge + x_i^T M x_i)``, e_i being the error
    on i and the divisor the Schur complement. So all gains follow from ``x_i^T M x_i`` and ``x_i^T M S M x_i``. These
    two (n,) vectors are kept and moved from one chosen set to the next by rank-one steps of O(n D), which makes greedy
    and swap cheap; M itself is solved anew, so errors do not build up. Nothing of size n x n or n x m is formed.
    """

    name = "meta_model"

    def __init__(self, inputs: ObjectiveInputs) -> None:
        if not inputs.ridge > 0:
            raise ConfigError(f"objective.ridge must be positive, got {inputs.ridge}")
        self.size = len(inputs.candidate_labels)
        self.ridge = inputs.ridge
        self._embeddings = inputs.candidate_embeddings
        self._targets = _centred_one_hot(inputs.candidate_labels, inputs.num_classes)
        self._real = _with_constant(inputs.real_embeddings)
        self._real_targets = _centred_one_hot(inputs.real_labels, inputs.num_classes)
        counts = torch.bincount(inputs.real_labels, minlength=inputs.num_classes)
        weights = 1.0 / counts[inputs.real_labels].double()
        self._weights = (weights / weights.sum())[:, None]
        self._scale = self._weighted_square(self._real_targets)
        self._moment = self._real.T @ (self._weights * self._real)
        parts = [_with_constant(part) for part in self._embeddings.split(CHUNK_ROWS)]
        nothing = torch.zeros(0, dtype=torch.float64)
        self._empty = (
            torch.cat([nothing, *((part * part).sum(1) for part in parts)]),
            torch.cat([nothing, *((part @ self._moment * part).sum(1) for part in parts)]),
        )
        self._held: set[int] = set()
        self._spread, self._spread_on_real = (vector.clone() for vector in self._empty)

    def loss(self, chosen: Sequence[int]) -> float:
        _, coefficients = self._solve(set(chosen))
        return self._weighted_square(self._real @ coefficients - self._real_targets) / self._scale

    def gains(self, chosen: Sequence[int]) -> Tensor:
        """(n,) float64, as the protocol says. O(n D) for each index that differs from the last call's."""
        self._move_to(set(chosen))
        remaining, coefficients = self._solve(set(chosen))
        error_on_real = self._real @ coefficients - self._real_targets  # (m, C)
        slope = remaining @ (self._real.T @ (self._weights * error_on_real))  # (D, C)
        predictions, slopes = products(self._embeddings, torch.cat([coefficients, slope], dim=1)).tensor_split(2, dim=1)
        step = (self._targets - predictions) / (self.ridge + self._spread.clamp_min(0))[
            :, None
        ]  # e_i / Schur complement
        gains = -(2 * (slopes * step).sum(1) + self._spread_on_real * step.square().sum(1)) / self._scale
        gains[list(chosen)] = -torch.inf
        return gains

    def _weighted_square(self, rows: Tensor) -> float:
        return float((self._weights * rows.square()).sum())

    def _solve(self, chosen: set[int]) -> tuple[Tensor, Tensor]:
        """M (D, D) and the coefficients X_s^T (K_ss + ridge I)^-1 Y_s (D, C), by the smaller of the two systems."""
        rows = sorted(chosen)  # sorted, so that no bit depends on the order
        x, y = _with_constant(self._embeddings[rows]), self._targets[rows]
        eye = torch.eye(x.shape[1], dtype=torch.float64)
        if len(rows) < x.shape[1]:
            system = x @ x.T + self.ridge * torch.eye(len(rows), dtype=torch.float64)
            half = x.T @ torch.cholesky_inverse(torch.linalg.cholesky(system))
            return eye - half @ x, half @ y
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(x.T @ x + self.ridge * eye))
        return self.ridge * inverse, inverse @ (x.T @ y)

    def _move_to(self, target: set[int]) -> None:
        """Bring the two kept vectors from the set they stand for to ``target``."""
        if len(target ^ self._held) > len(target):
            self._held = set()
            self._spread, self._spread_on_real = (vector.clone() for vector in self._empty)
        for index in sorted(self._held - target):
            self._held.remove(index)
            # Undoing an addition, from M without the row, is stable where dividing by ridge - x^T M x would not be.
            self._change(self._solve(self._held)[0], index, -1)
        added = sorted(target - self._held)
        if added:
            remaining, _ = self._solve(self._held)
            for index in added:
                remaining = self._change(remaining, index, +1)
                self._held.add(index)

    def _change(self, remaining: Tensor, index: int, sign: int) -> Tensor:
        """Add (+1) or undo (-1) the effect of adding ``index`` where ``remaining`` is M; returns M with it added."""
        x = _with_constant(self._embeddings[[index]])[0]
        residual = remaining @ x
        residual /= (self.ridge + x @ residual).sqrt()
        on_real = self._moment @ residual
        along, across = products(self._embeddings, torch.stack([residual, remaining @ on_real], dim=1)).unbind(1)
        self._spread -= sign * along.square()
        self._spread_on_real += sign * along * ((residual @ on_real) * along - 2 * across)
        return remaining - torch.outer(residual, residual)


def _with_constant(rows: Tensor) -> Tensor:
    return torch.cat([rows.double(), torch.ones(len(rows), 1, dtype=torch.float64)], dim=1)


def _centred_one_hot(labels: Tensor, num_classes: int) -> Tensor:
    return torch.nn.functional.one_hot(labels, num_classes).double() - 1.0 / num_classes
