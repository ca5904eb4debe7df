"""The logistic probe that a student's head starts from, and what it and the student are asked to learn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
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
