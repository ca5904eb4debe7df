"""The logistic probe that a student's head starts from."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def fit_probe(hidden: Tensor, targets: Tensor, num_classes: int, *, decay: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Logistic regression by L-BFGS from zero; deterministic.

    :param hidden: (n, d) float32.
    :param targets: (n,) int64 labels, or (n, C) float32 probabilities.
    :returns: weight (C, d) and bias (C,), float32.
    """
    data = hidden.double().clone()
    wanted = targets.double() if targets.is_floating_point() else targets
    weight = torch.zeros(num_classes, data.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(num_classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(data @ weight.T + bias, wanted) + decay * weight.pow(2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach().float(), bias.detach().float()
