"""A second opinion on labels, by a model of another kind than the student's teacher, trained on real rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from gendistill.config import StudentConfig
from gendistill.evaluate import stratified_sample
from gendistill.examples import Example
from gendistill.students.encoder import FEATURE_SCALE
from gendistill.students.linear import TfidfStudent
from gendistill.students.probe import fit_probe

Probabilities = npt.NDArray[np.float32]


def tfidf_opinion(
    real: Sequence[Example], asked: Sequence[Sequence[Example]], num_classes: int, limit: int, seed: int
) -> list[Probabilities]:
    """(n, C) of each group of rows, by the TF-IDF student trained on at most ``limit`` real rows."""
    student = TfidfStudent(StudentConfig(model="tfidf"), num_classes)
    student.fit(stratified_sample(real, num_classes, limit, seed), seed=seed)
    return [student.predict(rows).numpy() for rows in asked]


def probe_opinion(
    embeddings: npt.NDArray[np.float32],
    labels: Sequence[int],
    asked: Sequence[npt.NDArray[np.float32]],
    num_classes: int,
    limit: int,
) -> list[Probabilities]:
    """(n, C) of each group of embeddings, by a logistic probe on those of at most ``limit`` real rows."""
    step = -(-len(labels) // limit)
    hidden = torch.from_numpy(embeddings[::step]) * FEATURE_SCALE
    weight, bias = fit_probe(hidden, torch.tensor(list(labels[::step])), num_classes)
    return [
        torch.nn.functional.linear(torch.from_numpy(rows) * FEATURE_SCALE, weight, bias).softmax(-1).numpy()
        for rows in asked
    ]
