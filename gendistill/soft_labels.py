"""Soft labels: the teacher's probabilities beside the hard label, tempered so that a sure teacher still says something.

After knowledge distillation (Hinton et al. 2015, arXiv 1503.02531): ``p^(1/T)``, renormalised, which is the softmax of
the logits over T.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gendistill.errors import DataError

KEY = "probabilities"  # in a row: {label name: probability}
_DECIMALS = 5
_SUM_TOLERANCE = 0.01


def soften(probabilities: Tensor, temperature: float) -> Tensor:
    """``p^(1/T) / sum p^(1/T)``, (n, C) float32; T = 1 changes nothing, a larger T evens out."""
    logs = probabilities.double().clamp_min(torch.finfo(torch.float32).tiny).log()
    return (logs / temperature).softmax(-1).float()


def named(probabilities: Tensor, label_names: Sequence[str]) -> dict[str, float]:
    """One row's probabilities, (C,), as they are written: label name -> probability, 5 decimals."""
    values = probabilities.double().tolist()
    return {name: round(value, _DECIMALS) for name, value in zip(label_names, values, strict=True)}


def read_soft(rows: Sequence[Mapping[str, Any]], label_names: Sequence[str], file: str) -> Tensor:
    """The soft labels of rows of a file, (n, C) float32, rows of sum 1; classes that a row leaves out have 0.

    :raises DataError: a row has none, or they are no probabilities of these classes.
    """
    place = {name: index for index, name in enumerate(label_names)}
    targets = torch.zeros(len(rows), len(label_names), dtype=torch.float64)
    for number, row in enumerate(rows, 1):
        given = row.get(KEY)
        where = f"{file}: row {number}"
        if not isinstance(given, Mapping):
            raise DataError(
                f"{where} has no soft labels ({KEY!r}: a probability for each label name); write some with "
                "gendistill select --labels soft, or use --labels hard"
            )
        for name, value in given.items():
            if value is None:  # what a reader of tables puts where a row has no such key
                continue
            if name not in place:
                raise DataError(f"{where}: {KEY} of {name!r}; the real data has {', '.join(label_names)}")
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise DataError(f"{where}: the probability of {name!r} is {value!r}, not a number from 0 to 1")
            targets[number - 1, place[name]] = value
        total = float(targets[number - 1].sum())
        if not math.isclose(total, 1.0, abs_tol=_SUM_TOLERANCE):
            raise DataError(f"{where}: its {KEY} add up to {total:.3f}, not to 1")
    return (targets / targets.sum(1, keepdim=True)).float()
