"""How good the first few of a choice are: what a report shows against the number of texts of each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gendistill.choosing import Choice
from gendistill.objectives import ObjectiveInputs
from gendistill.objectives.linear import coarse_threads
from gendistill.selection.portfolio import Rows
from gendistill.students.encoder import FEATURE_SCALE
from gendistill.students.probe import fit_probe

POINTS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 75, 100, 150, 200, 300, 500, 1000)  # texts of each class


def curve(choice: Choice, inputs: ObjectiveInputs, dev: Rows | None) -> list[dict[str, Any]]:
    """The first texts of each class, in the order of choice: 1, 2, 3, 5, ... of each, and at last all.

    :param inputs: what the choice was made from.
    :param dev: held-out rows that a probe is scored on; None where there are no classes to be right about.
    :returns: for each size "per_class", "chosen" (texts in all), "objective" (the configured one's loss of them), and
        with ``dev`` "probe_accuracy", a share of 1: of a logistic probe on the embeddings of the student that chooses.
    """
    labels = inputs.candidate_labels[choice.selection.chosen].tolist()
    groups = [
        [index for index, label in zip(choice.selection.chosen, labels, strict=True) if label == wanted]
        for wanted in range(inputs.num_classes)
    ]
    largest = max(map(len, groups), default=0)
    found: list[dict[str, Any]] = []
    with coarse_threads():
        for per_class in [*(size for size in POINTS if size < largest), *([largest] if largest else [])]:
            first = [index for group in groups for index in group[:per_class]]
            point = {"per_class": per_class, "chosen": len(first), "objective": choice.objective.loss(first)}
            if dev is not None:
                point["probe_accuracy"] = _accuracy(inputs, first, dev.embeddings[0], dev.labels)
            found.append(point)
    return found


def _accuracy(inputs: ObjectiveInputs, chosen: Sequence[int], embeddings: Tensor, labels: Tensor) -> float:
    """Of the probe that a student's head starts from, trained on the chosen."""
    rows = torch.tensor(list(chosen))
    train = FEATURE_SCALE * inputs.candidate_embeddings[rows]
    weight, bias = fit_probe(train, inputs.candidate_labels[rows], inputs.num_classes)
    predicted = nn.functional.linear(FEATURE_SCALE * embeddings, weight, bias).argmax(1)
    return float((predicted == labels).double().mean())
