"""From real rows, candidates and a teacher to what the objectives look at. A run and ``gendistill score`` share it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gendistill.config import Config
from gendistill.data import RealData
from gendistill.evaluate import stratified_sample
from gendistill.examples import Example, by_class
from gendistill.objectives import ObjectiveInputs
from gendistill.progress import Reporter
from gendistill.selection import class_budgets
from gendistill.students.base import Features, Segment
from gendistill.students.encoder import EncoderStudent
from gendistill.teacher import Teacher

UNREAD_SAMPLE = 1000  # rows looked at to tell how many are longer than what the student reads
NEED_SEGMENTS = ("trajectory", "trajectory_adam")  # objectives


@dataclass(frozen=True)
class RealSide:
    """The real rows as objectives and filters see them. CPU tensors."""

    examples: list[Example]  # m reference rows: all of the training rows, or a stratified sample of them
    labels: Tensor  # (m,) int64
    embeddings: Tensor  # (m, d) float32, rows of length 1
    target_rows: list[int]  # the k of the m that have features, ascending
    target_features: list[Features]  # of those k, one a checkpoint
    segments: tuple[Segment, ...]  # of the teacher's training; none where no objective asks for them
    num_classes: int
    budgets: list[int]  # texts to choose of each class


def real_side(config: Config, real: RealData, teacher: Teacher) -> RealSide:
    """Embed the real rows, or those of a target, and let the teacher look at some of them at every checkpoint.

    ``data.max_reference_rows`` of them are embedded at most.
    """
    aim, num_classes = real.aim, len(real.label_names)
    rows = stratified_sample(aim, num_classes, config.data.max_reference_rows, config.seed)
    embeddings = teacher.embeddings("real", rows)
    targets = target_rows(rows, num_classes, config.objective.target_rows_per_class, config.seed)
    _, features = teacher.features("target", [rows[row] for row in targets])
    labels = torch.tensor([row.label for row in rows], dtype=torch.int64)
    budgets = class_budgets(real.sizes, config.per_class, config.selection.budget)
    passed = teacher.segments() if needs_segments(config) else ()
    return RealSide(rows, labels, embeddings, targets, features, passed, num_classes, budgets)


def say_unread(student: EncoderStudent, rows: Sequence[Example], reporter: Reporter) -> None:
    """Tell if many of the rows are longer than what the student reads of them."""
    sample = rows[:: -(-len(rows) // UNREAD_SAMPLE)]
    share = student.unread(sample) / max(len(sample), 1)
    if share >= 0.01:
        settings = student.config
        read = f"{settings.chunks} times {settings.max_tokens}" if settings.chunks > 1 else str(settings.max_tokens)
        reporter.say(
            f"{share:.0%} of the real texts are longer than the {read} tokens that the student reads of them; "
            "see student.max_tokens and student.chunks"
        )


def needs_segments(config: Config) -> bool:
    return any(config.objective.weights.get(name, 0) > 0 for name in NEED_SEGMENTS)


def target_rows(examples: Sequence[Example], num_classes: int, limit: int, seed: int) -> list[int]:
    """A seeded sample of at most ``limit`` rows of each class, ascending."""
    rng = np.random.default_rng([seed, 5])
    groups = by_class(examples, num_classes)
    return sorted(row for members in groups for row in rng.permutation(members)[:limit].tolist())


def objective_inputs(
    config: Config, real: RealSide, labels: Tensor, embeddings: Tensor, features: list[Features]
) -> ObjectiveInputs:
    """What objectives and baselines look at.

    :param labels: (n,) int64, of the candidates.
    :param embeddings: (n, d) float32, rows of length 1.
    :param features: of the candidates, one a checkpoint of the teacher.
    :raises DataError: sizes disagree, or a value is not finite.
    """
    return ObjectiveInputs(
        candidate_labels=labels,
        real_labels=real.labels,
        candidate_features=features,
        real_features=real.target_features,
        candidate_embeddings=embeddings,
        real_embeddings=real.embeddings,
        feature_rows=torch.tensor(real.target_rows),
        segments=real.segments,
        num_classes=real.num_classes,
        ridge=config.objective.ridge,
    )
