"""Further students that a choice must serve, beside the one that chooses (``objective.students``).

Each looks at the same candidates and the same real rows with features of its own: an encoder or causal LM with those
that it was pretrained to see, and, where an objective asks for features along training, with those of a teacher of its
own; a linear student with those that it is linear in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn

from gendistill.config import Config
from gendistill.examples import Example
from gendistill.inputs import RealSide, needs_segments, objective_inputs
from gendistill.objectives import ObjectiveInputs
from gendistill.progress import Reporter
from gendistill.students import build_student
from gendistill.students.base import Features, Segment, Student, joined
from gendistill.students.encoder import EncoderStudent
from gendistill.teacher import Teacher, TeacherStore

EMBEDDINGS_ALONE = ("mean_matching", "mmd", "coverage", "meta_model")  # objectives that look at no other features


class Eyes(Protocol):
    """What a student that knows the real data sees of rows; ``name`` says under what it may be kept."""

    def embeddings(self, name: str, examples: Sequence[Example]) -> Tensor: ...

    def features(self, name: str, examples: Sequence[Example]) -> tuple[Tensor, list[Features]]: ...

    def segments(self) -> tuple[Segment, ...]: ...


class LinearEyes:
    """A linear student's, trained on the real data. It is done in a moment, so nothing is kept."""

    def __init__(self, student: Student, train: Sequence[Example], seed: int) -> None:
        self.student = student
        student.fit(train, seed=seed)

    def embeddings(self, name: str, examples: Sequence[Example]) -> Tensor:
        return self.features(name, examples)[0]

    def features(self, name: str, examples: Sequence[Example]) -> tuple[Tensor, list[Features]]:
        features = self.student.features(examples)
        return nn.functional.normalize(features.hidden, dim=1), [features]

    def segments(self) -> tuple[Segment, ...]:
        return ()


class FurtherStudent:
    """One of them: its view of the real rows, of dev, and of the candidates that it was shown so far."""

    def __init__(
        self,
        model: str,
        config: Config,
        real: RealSide,
        train: Sequence[Example],
        dev: Sequence[Example],
        store: TeacherStore,
        reporter: Reporter,
    ) -> None:
        recipe = config.student.model_copy(update={"model": model, "embedder": None})
        wanted = [name for name, weight in config.objective.weights.items() if weight > 0]
        self.config = config
        self.with_features = any(name not in EMBEDDINGS_ALONE for name in wanted)
        student = build_student(recipe, real.num_classes)
        self.eyes: Eyes = (
            Teacher(recipe, student, train, store, reporter, config.seed, name=file_name(model))
            if isinstance(student, EncoderStudent)
            else LinearEyes(student, train, config.seed)
        )
        self.real = replace(
            real,
            embeddings=self.eyes.embeddings("real", real.examples),
            target_features=self._look("target", [real.examples[row] for row in real.target_rows])[1],
            segments=self.eyes.segments() if needs_segments(config) else (),
        )
        self.dev = self.eyes.embeddings("dev", dev)
        self._embeddings: list[Tensor] = []
        self._features: list[list[Features]] = []

    def see(self, name: str, candidates: Sequence[Example]) -> None:
        """Look at more candidates; they come after those seen before."""
        embeddings, features = self._look(name, candidates)
        self._embeddings.append(embeddings)
        self._features.append(features)

    def inputs(self, labels: Tensor) -> ObjectiveInputs:
        """:param labels: (n,) int64, of all candidates seen."""
        features = [joined(parts) for parts in zip(*self._features, strict=True)]
        return objective_inputs(self.config, self.real, labels, torch.cat(self._embeddings), features)

    def _look(self, name: str, rows: Sequence[Example]) -> tuple[Tensor, list[Features]]:
        return self.eyes.features(name, rows) if self.with_features else (self.eyes.embeddings(name, rows), [])


def further_students(
    config: Config,
    real: RealSide,
    train: Sequence[Example],
    dev: Sequence[Example],
    store: TeacherStore,
    reporter: Reporter,
) -> list[FurtherStudent]:
    """Those that the configuration names."""
    return [FurtherStudent(model, config, real, train, dev, store, reporter) for model in config.further_students]


def with_further(inputs: ObjectiveInputs, students: Sequence[FurtherStudent]) -> ObjectiveInputs:
    """What all of them see, the one that chooses first."""
    return replace(inputs, others=tuple(one.inputs(inputs.candidate_labels) for one in students))


def file_name(model: str) -> str:
    """Of its teacher's folder, and before the names of its features."""
    return "teacher-" + re.sub(r"[^A-Za-z0-9.]+", "-", model).strip("-.")
