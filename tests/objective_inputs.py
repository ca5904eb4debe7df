"""Random inputs for objectives, in which every class occurs and everything that any of them needs is there."""

from __future__ import annotations

import torch
from torch import Tensor

from gendistill.objectives import ObjectiveInputs
from gendistill.students.base import Features, Segment


def make_inputs(seed: int, n: int = 24, m: int = 30, classes: int = 3, d: int = 6, checkpoints: int = 2):
    """Inputs with imbalanced classes; body gradients have 2 d dimensions."""
    generator = torch.Generator().manual_seed(seed)
    heads = [torch.randn(classes, d, generator=generator) for _ in range(checkpoints)]

    def side(count: int) -> tuple[Tensor, list[Features], Tensor]:
        labels = torch.randint(0, classes, (count,), generator=generator)
        labels[:classes] = torch.arange(classes)
        features = []
        for head in heads:
            hidden = torch.randn(count, d, generator=generator)
            gradient = torch.randn(count, 2 * d, generator=generator) + torch.eye(2 * d)[labels]
            features.append(Features(hidden, torch.softmax(hidden @ head.T, 1), gradient))
        centres = torch.eye(d)[labels]
        embeddings = torch.nn.functional.normalize(centres + torch.randn(count, d, generator=generator), dim=1)
        return labels, features, embeddings

    labels, features, embeddings = side(n)
    real_labels, real_features, real_embeddings = side(m)
    segments = tuple(
        Segment(
            head=torch.randn(d + 1, classes, generator=generator),
            head_scale=torch.rand(d + 1, classes, generator=generator) + 0.1,
            body=torch.randn(2 * d, generator=generator),
        )
        for _ in range(checkpoints - 1)
    )
    return ObjectiveInputs(
        labels, real_labels, features, real_features, embeddings, real_embeddings, classes, segments=segments
    )
