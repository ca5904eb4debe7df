"""The logistic probe that a student's head starts from, and what it and the student are asked to learn."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from threadpoolctl import ThreadpoolController
from torch import Tensor, nn

from gendistill.errors import DataError
from gendistill.examples import Example


def training_targets(examples: Sequence[Example], targets: Tensor | None, num_classes: int) -> Tensor:
    """The soft targets, (n, C) float32, or without any the labels, (n,) int64.

    :raises DataError: no examples, or targets that are not one distribution over the classes for each of them.
    """
    if not examples:
        raise DataError("a student cannot be trained on no examples")
    if targets is None:
        return torch.tensor([example.label for example in examples], dtype=torch.int64)
    wanted = targets.float().cpu()
    if wanted.shape != (len(examples), num_classes):
        raise DataError(
            f"soft targets have the shape {tuple(wanted.shape)}: give one probability a class, "
            f"{(len(examples), num_classes)}"
        )
    if not (wanted >= 0).all() or not torch.allclose(wanted.sum(1), torch.ones(len(wanted)), atol=1e-3):
        raise DataError("soft targets must be probabilities: none negative, each row's sum 1")
    return wanted


def fit_probe(hidden: Tensor, targets: Tensor, num_classes: int, *, decay: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Logistic regression by L-BFGS from zero; deterministic.

    The weights of the optimum lie in the span of the rows, so with fewer rows than dimensions it is looked for there.

    :param hidden: (n, d) float32.
    :param targets: (n,) int64 labels, or (n, C) float32 probabilities.
    :param decay: of the squared norm of the weights, added to the mean cross-entropy.
    :returns: weight (C, d) and bias (C,), float32.
    """
    wanted = targets if targets.is_floating_point() else nn.functional.one_hot(targets, num_classes)
    with _blas().limit(limits=1):
        weight, bias = _fit(hidden.double().numpy(), wanted.double().numpy(), decay)
    return torch.from_numpy(weight).float(), torch.from_numpy(bias).float()


@cache
def _blas() -> Any:
    """NumPy's and SciPy's threads, which lose far more than they gain on problems this small."""
    return ThreadpoolController().select(user_api="blas")


def _fit(data: np.ndarray, goal: np.ndarray, decay: float) -> tuple[np.ndarray, np.ndarray]:
    """(n, d) and (n, C) float64 to (C, d) and (C,)."""
    count, num_classes = goal.shape
    basis = None
    if count < data.shape[1]:
        basis, triangle = np.linalg.qr(data.T)  # data = triangle.T @ basis.T
        data = triangle.T
    weights = num_classes * data.shape[1]

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weight, bias = parameters[:weights].reshape(num_classes, -1), parameters[weights:]
        logits = data @ weight.T + bias
        logits -= logits.max(1, keepdims=True)
        logarithms = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        residual = (np.exp(logarithms) * goal.sum(1, keepdims=True) - goal) / count
        slope = np.concatenate([(residual.T @ data + 2 * decay * weight).ravel(), residual.sum(0)])
        return float(-(goal * logarithms).sum() / count + decay * np.square(weight).sum()), slope

    start = np.zeros(weights + num_classes)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 200, "ftol": 1e-9, "gtol": 1e-6}).x
    weight = found[:weights].reshape(num_classes, -1)
    return weight if basis is None else weight @ basis.T, found[weights:].copy()
