"""Measured proof: fresh students trained on a set, scored on the split that is only for reporting."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student_t

from gendistill.config import StudentConfig
from gendistill.data.label_sets import single_labels
from gendistill.examples import Example, by_class, content_hash
from gendistill.progress import Reporter, Silent

if TYPE_CHECKING:
    from torch import Tensor

    from gendistill.evaluate_answers import MeasuredAnswers
    from gendistill.students.base import Student

FULL = "full data"  # the row of students trained on all of it
Draw = Callable[[int], Sequence[Example]]  # the training set of a run, from the run's number


class Journal(Protocol):
    """Where finished runs are kept, so that none is done twice. ``Store`` is one."""

    def evaluation(self, method: str, seed: int, key: str) -> dict | None: ...

    def add_evaluation(self, method: str, seed: int, key: str, result: dict) -> None: ...


@dataclass(frozen=True)
class Measured:
    """One row of the table: the scores of the students trained for a method, one a seed."""

    method: str
    size: int  # rows of the training set
    accuracy: list[float]
    macro_f1: list[float]

    @property
    def runs(self) -> int:
        return len(self.accuracy)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.accuracy)

    @property
    def spread(self) -> float | None:
        """Standard deviation over runs; None for a single run."""
        return statistics.stdev(self.accuracy) if len(self.accuracy) > 1 else None


def interval(row: Measured | MeasuredAnswers, test_rows: int) -> tuple[float, float] | None:
    """95 % interval of a row's mean: of which students were trained, by Student's t over runs, and, of an accuracy, of
    which rows were tested, by the binomial's normal approximation; the two added in squares.

    A single student tells nothing of the first, and a loss nothing of the second; None where there is neither.
    """
    halves = []
    if row.spread is not None:
        halves.append(student_t.ppf(0.975, row.runs - 1) * row.spread / math.sqrt(row.runs))
    if isinstance(row, Measured):
        halves.append(norm.ppf(0.975) * math.sqrt(row.mean * (1 - row.mean) / test_rows))
    if not halves:
        return None
    half = math.hypot(*halves)
    low, high = row.mean - half, row.mean + half
    return (max(low, 0.0), min(high, 1.0)) if isinstance(row, Measured) else (low, high)


def evaluate(
    methods: Mapping[str, Draw],
    test: Sequence[Example],
    student: Student,
    recipe: StudentConfig,
    *,
    seeds: int,
    once: Collection[str] = (),
    first_seed: int = 0,
    targets: Mapping[str, Tensor] | None = None,
    trained: Mapping[tuple[str, int], Callable[[], Student]] | None = None,
    journal: Journal | None = None,
    reporter: Reporter | None = None,
    label_sets: Sequence[tuple[str, ...]] | None = None,
) -> list[Measured]:
    """Train ``seeds`` students for every method and score each on ``test``.

    Run k of every method uses the same training seed, so that methods may be compared in pairs.

    :param methods: name -> function from the run's number to the training set.
    :param once: methods that get one student whatever ``seeds`` says: those whose training takes long.
    :param targets: soft labels, (n, C) float32, of methods that draw the same rows for every run.
    :param trained: students at hand that were trained on just the set, recipe and seed of a (method, run).
    :param label_sets: of multi-label data, the labels that each class stands for; F1 is then one a label.
    :param recipe: names the training recipe in the journal, so that another recipe is measured anew.
    """
    reporter = reporter or Silent()
    runs = {name: range(min(seeds, 1) if name in once else seeds) for name in methods}
    sets = {(name, run): draw(run) for name, draw in methods.items() for run in runs[name]}
    test_key = content_hash([example.id for example in test])
    results: dict[tuple[str, int], dict] = {}
    keys: dict[tuple[str, int], str] = {}
    for (name, run), rows in sets.items():
        parts: list[object] = [recipe.model_dump(), test_key, first_seed + run, [row.id for row in rows]]
        if targets and name in targets:
            parts.append(targets[name].tolist())
        keys[name, run] = content_hash(*parts)
        if journal is not None and (known := journal.evaluation(name, run, keys[name, run])):
            results[name, run] = known
    with reporter.track("measure", len(sets), done=len(results)) as advance:
        # The ready ones first: the student that is trained next may be the same object.
        for name, run in sorted(sets, key=lambda item: item not in (trained or {})):
            rows = sets[name, run]
            if (name, run) in results:
                continue
            if trained and (name, run) in trained:
                ready = trained[name, run]()
            else:
                ready = student
                if targets and name in targets:
                    ready.fit(rows, seed=first_seed + run, targets=targets[name])
                else:
                    ready.fit(rows, seed=first_seed + run)
            results[name, run] = score(ready.predict(test).argmax(1).numpy(), test, student.num_classes, label_sets)
            if journal is not None:
                journal.add_evaluation(name, run, keys[name, run], results[name, run])
            advance(len(results))
    return [
        Measured(
            name,
            len(sets[name, 0]),
            [results[name, run]["accuracy"] for run in runs[name]],
            [results[name, run]["macro_f1"] for run in runs[name]],
        )
        for name in methods
        if seeds
    ]


def score(
    predicted: np.ndarray,
    test: Sequence[Example],
    num_classes: int,
    label_sets: Sequence[tuple[str, ...]] | None = None,
) -> dict[str, float]:
    """Accuracy and macro-averaged F1 over the classes (or single labels) that occur, each in [0, 1].

    :param label_sets: of multi-label data, the labels of each class. Accuracy is then the share of rows with just the
        right set, and F1 is averaged over the single labels.
    """
    actual = np.array([example.label for example in test])
    if label_sets is None:
        has = np.eye(num_classes, dtype=bool)
    else:
        singles = single_labels(label_sets)
        has = np.array([[name in names for name in singles] for names in label_sets], dtype=bool)
    f1 = []
    for of_class in has.T:
        hits = int((of_class[predicted] & of_class[actual]).sum())
        relevant = int(of_class[predicted].sum()) + int(of_class[actual].sum())
        if relevant:
            f1.append(2 * hits / relevant)
    return {"accuracy": float((predicted == actual).mean()), "macro_f1": float(np.mean(f1))}


def stratified_sample(examples: Sequence[Example], num_classes: int, limit: int, seed: int) -> list[Example]:
    """At most ``limit`` examples, each class in proportion but with one at least, in their order; by seed."""
    if len(examples) <= limit:
        return list(examples)
    rng = np.random.default_rng([seed, 7])
    rows: list[int] = []
    for members in by_class(examples, num_classes):
        count = max(1, round(limit * len(members) / len(examples)))
        rows += rng.permutation(members)[:count].tolist()
    return [examples[row] for row in sorted(rows)]


def random_rows(examples: Sequence[Example], num_classes: int, per_class: Sequence[int], seed: int) -> list[Example]:
    """``per_class[c]`` random examples of class c."""
    rng = np.random.default_rng([seed, 11])
    rows: list[int] = []
    for members, count in zip(by_class(examples, num_classes), per_class, strict=True):
        rows += rng.permutation(members)[:count].tolist()
    return [examples[row] for row in rows]
