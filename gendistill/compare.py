"""The baselines that a distilled set is measured beside, and the comparison of any file with them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gendistill.atomic import atomic_write
from gendistill.config import Config, StudentConfig
from gendistill.data import load_real
from gendistill.data.export import read_distilled
from gendistill.data.label_sets import JOINED, NONE
from gendistill.data.rows import fields_of
from gendistill.data.shapes import common_shape
from gendistill.errors import ConfigError, DataError
from gendistill.evaluate import FULL, Draw, Measured, evaluate, random_rows, stratified_sample
from gendistill.examples import Example, by_class
from gendistill.progress import Reporter, Silent
from gendistill.selection.baselines import k_means_nearest
from gendistill.soft_labels import read_soft
from gendistill.students import build_student
from gendistill.students.encoder import EncoderStudent


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


def compare_file(
    file: Path, config: Config, *, full: bool = True, reporter: Reporter | None = None, json_out: Path | None = None
) -> tuple[list[Measured], int]:
    """Measure a JSONL file beside equal-sized baselines and, if asked, the full data.

    With ``selection.labels: soft`` in the configuration students are trained on the file's soft labels, and on its hard
    ones in a row of their own, so that the table shows what the soft ones add.

    :returns: the table and the number of test rows it was scored on.
    :raises DataError: the file cannot be read, its labels are not those of the real data, or it lacks soft labels.
    """
    reporter = reporter or Silent()
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


def table_row(row: Measured) -> dict[str, object]:
    """A row of the table as plain values; scores in [0, 1], one a run."""
    return {"method": row.method, "rows": row.size, "accuracy": row.accuracy, "macro_f1": row.macro_f1}


def load_set(file: Path, label_names: Sequence[str]) -> tuple[list[Example], list[dict[str, Any]]]:
    """The examples of a JSONL file, labels matched by name with the real data's, and the rows that they come from.

    :raises DataError: a label that the real data does not have, or rows that are conversations.
    """
    rows, names = read_distilled(file)
    if (shape := common_shape(rows)) == "instruction":
        raise DataError(f"{file}: rows of {shape}; give a file with a text and a label on each row")
    position = {_labels_in(name): index for index, name in enumerate(label_names)}
    examples = []
    for number, row in enumerate(rows, 1):
        name = (JOINED.join(row["labels"]) or NONE) if shape == "multi-label" else names[row["label"]]
        label = position.get(_labels_in(name))
        if label is None:
            raise DataError(f"{file}: row {number} has the label {name!r}; the real data has {', '.join(label_names)}")
        examples.append(Example(fields_of(row), label))
    return examples, rows


def _labels_in(name: str) -> frozenset[str]:
    """The single labels that the name of a class stands for; of one label, that."""
    return frozenset(name.split(JOINED))
