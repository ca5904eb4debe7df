"""What stands before anything is generated or chosen: the real data, its task, and a student with its teacher.

A run and ``gendistill select`` share it. Instruction data gets its groups here: clusters of skills by the embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gendistill.clusters import class_clusters
from gendistill.config import Config
from gendistill.data import RealData, load_real
from gendistill.data.load_instructions import load_instructions
from gendistill.data.skills import skill_names
from gendistill.data.sources import Run, tracked
from gendistill.errors import ConfigError
from gendistill.examples import Example, by_class
from gendistill.inputs import say_unread
from gendistill.progress import Reporter
from gendistill.students.causal import CausalStudent
from gendistill.students.encoder import EncoderStudent
from gendistill.tasks import Task, task_of
from gendistill.teacher import Teacher, TeacherStore

WARM_UP_ROWS = 400  # real rows that a causal LM is tuned on to give checkpoints, at most; LESS takes a twentieth
CENTRE_ROWS = 200  # whose mean is taken from a causal LM's own embeddings


@dataclass(frozen=True)
class Prepared:
    """:param student: what is measured; the teacher is one such student trained on real rows."""

    real: RealData
    task: Task
    student: EncoderStudent | CausalStudent
    teacher: Teacher
    centroids: np.ndarray | None = None  # of the groups of instructions, (k, d) float32 of length 1

    def grouped(self, name: str, rows: Sequence[Example]) -> list[Example]:
        """Instructions, each in the group that is nearest.

        :param name: of their embeddings, in the teacher's store.
        """
        assert self.centroids is not None  # classes are not found, but given
        return _labelled(self.teacher, self.centroids, name, rows)


def prepare(config: Config, store: TeacherStore, reporter: Reporter, run: Run = map) -> Prepared:
    """Load the real data and build what looks at it.

    :param run: works through the shards of data that is too large to hold.

    :raises DataError: the data cannot be read, or does not suit the task.
    :raises ConfigError: settings that do not suit the task.
    """
    if config.data.task == "instruction":
        return _instructions(config, store, reporter)
    run = tracked(reporter, "sample", run)
    real = load_real(config.data, per_class=1, seed=config.seed, by_row=config.private, run=run)
    for line in real.report.lines():
        reporter.say(line)
    student = EncoderStudent(config.student, len(real.label_names))
    say_unread(student, real.train, reporter)
    return Prepared(
        real, task_of(real), student, Teacher(config.student, student, real.train, store, reporter, config.seed)
    )


def _instructions(config: Config, store: TeacherStore, reporter: Reporter) -> Prepared:
    if not config.student.gradient_dims:
        raise ConfigError("student.gradient_dims: instructions are matched by gradients; set it to 1024")
    real = load_instructions(config.data, seed=config.seed)
    for line in real.report.lines():
        reporter.say(line)
    student = CausalStudent(config.student)
    student.encode(real.train)
    if student.cut.answers or student.cut.prompts:
        reporter.say(
            f"{student.cut.answers:,} of {student.cut.rows:,} answers are cut to fit student.max_tokens "
            f"{config.student.max_tokens}, and {student.cut.prompts:,} prompts lose their beginning"
        )
    teacher = Teacher(config.student, student, [], store, reporter, config.seed)
    if config.student.embedder is None:
        # Mean states of a decoder point one way (Ethayarajh 2019, arXiv 1909.00512): without their mean they differ.
        teacher.centre = student.embed(real.aim[:: -(-len(real.aim) // CENTRE_ROWS)]).mean(0)
    real, centroids = _clustered(config, real, teacher)
    rows = real.train
    if len(rows) > WARM_UP_ROWS:
        picked = np.random.default_rng([config.seed, 17]).permutation(len(rows))[:WARM_UP_ROWS]
        rows = [rows[row] for row in sorted(picked)]
    teacher.real = rows
    return Prepared(real, task_of(real), student, teacher, centroids)


def _clustered(config: Config, real: RealData, teacher: Teacher) -> tuple[RealData, np.ndarray]:
    """The same data with clusters for labels: those of the rows that are distilled towards, and for every other row
    the nearest of them; and their centroids."""
    embeddings = teacher.embeddings("real", real.aim)
    clusters = class_clusters(embeddings.numpy(), [0] * len(real.aim), 1, config.data.clusters, config.seed)
    centroids = clusters.centroids[0]
    aim = _labelled(teacher, centroids, "real", real.aim)
    train = _labelled(teacher, centroids, "train", real.train) if real.target else aim
    names = skill_names(aim, [row.label for row in aim]) if len(centroids) > 1 else [""]
    names += [f"group {number + 1}" for number in range(len(names), len(centroids))]
    report = replace(
        real.report,
        class_counts={
            part: _counts(rows, names) for part, rows in (("train", train), ("target", aim if real.target else []))
            if rows
        } | {part: real.report.class_counts[part] for part in ("dev", "test") if part in real.report.class_counts},
    )  # fmt: skip
    grouped = replace(
        real,
        train=train,
        target=aim if real.target else [],
        dev=_labelled(teacher, centroids, "dev", real.dev),
        label_names=names,
        report=report,
    )
    return grouped, centroids


def _labelled(teacher: Teacher, centroids: np.ndarray, name: str, rows: Sequence[Example]) -> list[Example]:
    if not rows:
        return []
    nearest = (teacher.embeddings(name, rows).numpy() @ centroids.T).argmax(1)
    return [Example(row.fields, int(label)) for row, label in zip(rows, nearest, strict=True)]


def _counts(rows: Sequence[Example], names: Sequence[str]) -> dict[str, int]:
    return dict(zip(names, map(len, by_class(rows, len(names))), strict=True))
