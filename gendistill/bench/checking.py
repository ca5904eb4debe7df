"""Somebody else's published folder, measured again: do its numbers hold?"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gendistill.bench.folder import Bench, Cell, Only
from gendistill.bench.statistics import estimate
from gendistill.bench.suite import load_suite
from gendistill.errors import DataError
from gendistill.progress import Reporter, Silent

LEAST_TOLERANCE = 1.0  # points: rounding on another machine moves a run by as much now and then


@dataclass(frozen=True)
class Checked:
    """A cell, as it was published and as it is."""

    student: str
    task: str
    per_class: int
    method: str
    sets: int  # that were measured again
    published: float  # of those sets, in per cent
    measured: float
    tolerance: float  # half the published cell's 95 % interval, at least ``LEAST_TOLERANCE``

    @property
    def holds(self) -> bool:
        return abs(self.measured - self.published) <= self.tolerance


def check_folder(
    folder: Path,
    *,
    data_dir: Path | None = None,
    only: Only | None = None,
    sets: int | None = None,
    reporter: Reporter | None = None,
) -> list[Checked]:
    """Train students on the published sets and compare with the published scores. Nothing is chosen anew.

    :param folder: with bench.yaml, sets/ and results/, as ``gendistill bench`` leaves it. Nothing in it is changed.
    :param only: what to measure; all by default.
    :param sets: of each cell, at most, the first ones.
    :raises DataError: the folder is no benchmark, or lacks what is to be measured.
    """
    from gendistill.bench.measuring import Examiner

    reporter = reporter or Silent()
    if not (folder / "bench.yaml").is_file():
        raise DataError(f"{folder}: no bench.yaml; give a folder that gendistill bench made")
    bench = Bench(load_suite(str(folder / "bench.yaml")), folder, data_dir, only)
    units = [
        unit
        for unit in bench.units()
        if unit.kind == "train" and unit.cell.per_class and (sets is None or unit.cell.set < sets)
        if bench.done(unit) and bench.set_path(unit.cell).exists()
    ]
    if not units:
        raise DataError(f"{folder}: no results with their sets among what is to be checked")
    found: dict[tuple[str, str, int, str], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch, reporter.track("check", len(units)) as advance:
        # Features of rows go to a folder of our own: a published one is only read.
        reader = _ReadFrom(bench, Path(scratch))
        examiners: dict[str, Examiner] = {}
        for number, unit in enumerate(sorted(units, key=lambda unit: (unit.cell.task, unit.student)), 1):
            cell = unit.cell
            examiners[cell.task] = examiners.get(cell.task) or Examiner(reader, cell.task)
            again = examiners[cell.task].train(cell, unit.student)["accuracy"]
            before = (bench.result(unit) or {})["accuracy"][: len(again)]
            key = (unit.student, cell.task, cell.per_class, cell.method)
            found.setdefault(key, []).append((100 * float(np.mean(before)), 100 * float(np.mean(again))))
            advance(number)
    checked = []
    for key, pairs in found.items():
        published, measured = np.mean(pairs, axis=0).tolist()
        checked.append(Checked(*key, len(pairs), published, measured, _tolerance(bench, key)))
    return checked


class _ReadFrom(Bench):
    """A benchmark whose sets are read from one folder and whose work goes to another."""

    def __init__(self, published: Bench, scratch: Path) -> None:
        self._published = published
        super().__init__(published.suite, scratch, published.data_dir, published.only)

    def set_path(self, cell: Cell) -> Path:
        return self._published.set_path(cell)


def _tolerance(bench: Bench, key: tuple[str, str, int, str]) -> float:
    student, task, per_class, method = key
    every = bench.whole()
    scores = {
        unit.cell.set: [100 * value for value in (every.result(unit) or {})["accuracy"]]
        for unit in every.units()
        if unit.kind == "train" and unit.student == student and every.done(unit)
        if (unit.cell.task, unit.cell.per_class, unit.cell.method) == (task, per_class, method)
    }
    return max(estimate(scores, np.random.default_rng(0)).half, LEAST_TOLERANCE)


def holds(checked: Sequence[Checked]) -> bool:
    return all(one.holds for one in checked)
