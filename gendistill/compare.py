"""The baselines that a distilled set is measured beside, and the comparison of any file with them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gendistill.atomic import atomic_write
from gendistill.config import Config, StudentConfig
from gendistill.data import load_real
from gendistill.data.export import read_distilled
from gendistill.data.label_sets import JOINED
from gendistill.data.rows import fields_of
from gendistill.data.shapes import NO_LABEL, common_shape
from gendistill.errors import ConfigError, DataError
from gendistill.evaluate import FULL, Draw, Journal, Measured, evaluate, random_rows, stratified_sample
from gendistill.evaluate_answers import MeasuredAnswers, evaluate_answers
from gendistill.examples import Example, by_class
from gendistill.prepare import Prepared, prepare
from gendistill.progress import Reporter, Silent
from gendistill.selection import shared_out
from gendistill.selection.baselines import k_means_nearest
from gendistill.soft_labels import read_soft
from gendistill.students import build_student
from gendistill.students.base import Student
from gendistill.students.causal import CausalStudent
from gendistill.students.encoder import EncoderStudent
from gendistill.teacher import KeepingStore


def real_baselines(
    train: Sequence[Example],
    reference: Sequence[Example],
    embeddings: Tensor,
    sizes: Sequence[int],
    *,
    seed: int,
) -> dict[str, Draw]:
    """Equal-sized choices of real rows, another draw for every run.

    :param reference: the real rows that have embeddings.
    :param embeddings: (m, d) float32, rows of length 1.
    :param sizes: rows wanted of each class.
    """
    labels = torch.tensor([example.label for example in reference])

    def nearest(run: int) -> list[Example]:
        return [reference[row] for row in k_means_nearest(embeddings, labels, sizes, seed=seed + run)]

    return {
        "random real rows": lambda run: random_rows(train, len(sizes), sizes, seed + run),
        "k-means-nearest real rows": nearest,
    }


def measure(
    config: Config,
    prepared: Prepared,
    distilled: Sequence[Example],
    soft: Tensor | None,
    pool: Sequence[Example],
    reference: Sequence[Example],
    embeddings: Tensor,
    *,
    journal: Journal,
    reporter: Reporter,
) -> list[Measured] | list[MeasuredAnswers]:
    """The table at the end of a run: the set, equal-sized baselines, and of classifiers the full data.

    :param soft: (k, C) soft labels of the set, if it has any.
    :param pool: the candidates that it was chosen from.
    :param reference: the real rows that have embeddings, (m, d) float32.
    """
    settings, real, student = config.evaluate, prepared.real, prepared.student
    classes = len(real.label_names)
    if not settings.seeds or not real.test:
        return []
    sizes = [len(members) for members in by_class(distilled, classes)]
    test = stratified_sample(real.test, classes, settings.max_test_rows, config.seed)
    methods: dict[str, Draw] = {
        "distilled": lambda run: distilled,
        **real_baselines(real.train, reference, embeddings, sizes, seed=config.seed),
        "random of the pool": lambda run: random_rows(pool, classes, sizes, config.seed + run),
    }
    if isinstance(student, CausalStudent):
        return evaluate_answers(
            methods,
            test,
            student,
            config.student,
            settings,
            first_seed=config.first_student_seed,
            journal=journal,
            reporter=reporter,
        )

    def trained() -> Student:
        """The teacher is a student of the full data."""
        teacher = prepared.teacher.prepare()
        assert isinstance(teacher, EncoderStudent)  # as the student is
        return teacher

    return evaluate(
        methods | {FULL: lambda run: real.train},
        test,
        student,
        config.student,
        seeds=settings.seeds,
        once=(FULL,),
        trained={(FULL, 0): trained} if prepared.teacher.available else {},
        first_seed=config.first_student_seed,
        targets={} if soft is None else {"distilled": soft},
        journal=journal,
        reporter=reporter,
        label_sets=real.label_sets,
    )


def compare_file(
    file: Path, config: Config, *, full: bool = True, reporter: Reporter | None = None, json_out: Path | None = None
) -> tuple[list[Measured] | list[MeasuredAnswers], int]:
    """Measure a JSONL file beside equal-sized baselines and, if asked, the full data.

    With ``selection.labels: soft`` in the configuration students are trained on the file's soft labels, and on its hard
    ones in a row of their own, so that the table shows what the soft ones add.

    :returns: the table and the number of test rows it was scored on.
    :raises DataError: the file cannot be read, its labels are not those of the real data, or it lacks soft labels.
    """
    reporter = reporter or Silent()
    if config.data.task == "instruction":
        return _compare_answers(file, config, reporter, json_out)
    real = load_real(config.data, per_class=1, seed=config.seed)
    if not real.test:
        raise ConfigError("data.test: none, but a measurement needs test rows; name a file or a split, or leave it out")
    classes = len(real.label_names)
    given, rows = load_set(file, real.label_names)
    soft = config.selection.labels == "soft"
    targets = {f"{file.name}, soft labels": read_soft(rows, real.label_names, str(file))} if soft else {}
    sizes = [len(members) for members in by_class(given, classes)]
    student = build_student(config.student, classes)
    # Linear students do not embed: the default encoder does it for their baselines.
    embedder = student if isinstance(student, EncoderStudent) else EncoderStudent(StudentConfig(), classes)
    reference = stratified_sample(real.train, classes, config.data.max_reference_rows, config.seed)
    with reporter.track("embed real rows", len(reference)) as advance:
        embeddings = embedder.embed(reference, progress=lambda done, total: advance(done))
    methods: dict[str, Draw] = {name: lambda run: given for name in (*targets, file.name)}
    methods |= real_baselines(real.train, reference, embeddings, sizes, seed=config.seed)
    if full:
        methods[FULL] = lambda run: real.train
    test = stratified_sample(real.test, classes, config.evaluate.max_test_rows, config.seed)
    table = evaluate(
        methods,
        test,
        student,
        config.student,
        seeds=config.evaluate.seeds,
        once=(FULL,),
        first_seed=config.first_student_seed,
        targets=targets,
        reporter=reporter,
        label_sets=real.label_sets,
    )
    if json_out is not None:
        atomic_write(json_out, json.dumps([table_row(row) for row in table], indent=2) + "\n")
    return table, len(test)


def _compare_answers(
    file: Path, config: Config, reporter: Reporter, json_out: Path | None
) -> tuple[list[MeasuredAnswers], int]:
    """``compare_file`` of instructions: real baselines have as many rows of each cluster as the file."""
    prepared = prepare(config, KeepingStore(), reporter)
    real, student = prepared.real, prepared.student
    assert isinstance(student, CausalStudent)  # as instructions are prepared
    if not real.test:
        raise ConfigError("data.test: none, but a measurement needs test rows; name a file or a split, or leave it out")
    rows, _ = read_distilled(file)
    if common_shape(rows) != "instruction":
        raise DataError(f"{file}: rows without a conversation; give messages, or instruction and output, on each row")
    given = [Example(fields_of(row), 0) for row in rows]
    counts = [len(members) for members in by_class(real.train, len(real.label_names))]
    sizes = shared_out(len(given), counts)
    embeddings = prepared.teacher.embeddings("real" if not real.target else "train", real.train)
    methods: dict[str, Draw] = {file.name: lambda run: given}
    methods |= real_baselines(real.train, real.train, embeddings, sizes, seed=config.seed)
    test = stratified_sample(real.test, 1, config.evaluate.max_test_rows, config.seed)
    table = evaluate_answers(
        methods, test, student, config.student, config.evaluate,
        first_seed=config.first_student_seed, reporter=reporter,
    )  # fmt: skip
    if json_out is not None:
        atomic_write(json_out, json.dumps([table_row(row) for row in table], indent=2) + "\n")
    return table, len(test)


def results_json(table: Sequence[Measured] | Sequence[MeasuredAnswers], test_rows: int) -> str:
    """The table at the end of a run, for other programs."""
    return json.dumps({"test_rows": test_rows, "table": [table_row(row) for row in table]}, indent=2) + "\n"


def table_row(row: Measured | MeasuredAnswers) -> dict[str, object]:
    """A row of the table as plain values, one a run: scores in [0, 1], losses in nats a token."""
    if isinstance(row, MeasuredAnswers):
        return {"method": row.method, "rows": row.size, "loss": row.loss, "exact": row.exact}
    return {"method": row.method, "rows": row.size, "accuracy": row.accuracy, "macro_f1": row.macro_f1}


def load_set(file: Path, label_names: Sequence[str]) -> tuple[list[Example], list[dict[str, Any]]]:
    """The examples of a JSONL file, labels matched by name with the real data's, and the rows that they come from.

    :raises DataError: a label that the real data does not have, or rows that are conversations.
    """
    rows, _ = read_distilled(file)
    if (shape := common_shape(rows)) == "instruction":
        raise DataError(f"{file}: rows of {shape}; give a file with a text and a label on each row")
    return labelled(rows, label_names, str(file)), rows


def labelled(rows: Sequence[Mapping[str, Any]], label_names: Sequence[str], name: str) -> list[Example]:
    """The examples of rows as ``read_distilled`` gives them or a run writes them, labels matched by name.

    :param name: of the file, to begin a message with.
    :raises DataError: a label that the real data does not have.
    """
    position = {_labels_in(name): index for index, name in enumerate(label_names)}
    examples = []
    for number, row in enumerate(rows, 1):
        several = row.get("labels")
        label_name = row["label_name"] if several is None else JOINED.join(several) or NO_LABEL
        label = position.get(_labels_in(label_name))
        if label is None:
            raise DataError(
                f"{name}: row {number} has the label {label_name!r}; the real data has {', '.join(label_names)}"
            )
        examples.append(Example(fields_of(row), label))
    return examples


def _labels_in(name: str) -> frozenset[str]:
    """The single labels that the name of a class stands for; of one label, that."""
    return frozenset(name.split(JOINED))
