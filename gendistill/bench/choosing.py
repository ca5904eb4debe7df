"""The choosing side of a benchmark: real rows without test, candidates, and the set of a cell.

Nothing here can read a test split: the data is loaded with ``test: none``, and ``load_test`` is not imported (a test
holds this).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gendistill.atomic import atomic_write
from gendistill.bench.cost import Meter
from gendistill.bench.folder import Bench, Cell
from gendistill.bench.pools import read_pool
from gendistill.bench.suite import REAL, blind, slug
from gendistill.choosing import choose, held_out
from gendistill.config import Config
from gendistill.data import load_real
from gendistill.data.export import json_line
from gendistill.data.rows import labels_of, texts_of
from gendistill.errors import DataError
from gendistill.evaluate import stratified_sample
from gendistill.examples import Example, by_class, content_hash
from gendistill.folder_store import FolderStore
from gendistill.further import EMBEDDINGS_ALONE, further_students, with_further
from gendistill.inputs import RealSide, needs_segments, objective_inputs, target_rows
from gendistill.progress import Reporter, Silent
from gendistill.selection import INFORMED_BASELINES, class_budgets
from gendistill.soft_labels import KEY, named, soften
from gendistill.students.base import Features
from gendistill.students.encoder import EncoderStudent
from gendistill.teacher import MemoryStore, Teacher


@dataclass(frozen=True)
class Known:
    """A task's real rows, as everybody sees them."""

    train: list[Example]
    dev: list[Example]
    label_names: list[str]
    label_sets: list[tuple[str, ...]] | None = None  # of multi-label data


def known_rows(bench: Bench, task: str) -> Known:
    """:raises DataError: the data cannot be read."""
    suite = bench.suite
    real = load_real(blind(bench.data(task)), per_class=1, seed=suite.seed)
    classes = len(real.label_names)
    return Known(
        stratified_sample(real.train, classes, suite.max_train_rows, suite.seed),
        stratified_sample(real.dev, classes, suite.max_dev_rows, suite.seed),
        real.label_names,
        real.label_sets,
    )


class Chooser:
    """Chooses the sets of a task. What it computes of rows is kept in the folder, for every process and later ones."""

    def __init__(self, bench: Bench, task: str, reporter: Reporter | None = None) -> None:
        self.bench, self.task, self.reporter = bench, task, reporter or Silent()
        self.known = known_rows(bench, task)
        self.classes = len(self.known.label_names)
        self.config = Config(**bench.suite.config)
        folder = bench.out / "work" / slug(task)
        student = EncoderStudent(self.config.student, self.classes)
        self.teacher = Teacher(
            self.config.student, student, self.known.train, FolderStore(folder), self.reporter, bench.suite.seed
        )
        self.targets = target_rows(
            self.known.train, self.classes, self.config.objective.target_rows_per_class, bench.suite.seed
        )
        self._pools: dict[tuple[str, bool], list[Example]] = {}

    def choose(self, cell: Cell) -> dict[str, Any]:
        """Write the set of a cell; returns what its ``.choice.json`` says."""
        suite, method = self.bench.suite, self.bench.suite.methods[cell.method]
        config = suite.choice(cell.method, cell.per_class, cell.set)
        informed = looks_at_features(config)
        with self.bench.claim("features", self.task, wait=True):  # computed once, by whoever comes first
            rows, name = self._source(method.candidates, method.filtered)
            embeddings = self.teacher.embeddings(name, rows)
            train = self.teacher.embeddings("train", self.known.train)
            dev = self.teacher.embeddings("dev", self.known.dev)
            features = self.teacher.features(f"{name}-features", rows)[1] if informed else []
            at_targets = (
                self.teacher.features("targets", [self.known.train[row] for row in self.targets])[1] if informed else []
            )
            segments = self.teacher.segments() if needs_segments(config) else ()
        with Meter() as meter:
            seed = suite.seed + cell.set
            index = drawn(rows, self.classes, suite.pool_rows if name == "train" else suite.pool_share, seed)
            pool = [rows[row] for row in index]
            side = self._real_side(config, train, at_targets, segments, seed)
            inputs = objective_inputs(
                config,
                side,
                torch.tensor([row.label for row in pool], dtype=torch.int64),
                embeddings[index],
                [part.rows(index) for part in features],
            )
            others = further_students(config, side, self.known.train, self.known.dev, MemoryStore(), Silent())
            for other in others:
                other.see("candidates", pool)
            seen = [dev, *(other.dev for other in others)]
            held = held_out(config, self.known.dev, seen, pool, self.classes)
            choice = choose(config, with_further(inputs, others), side.budgets, held=held)
            chosen = [pool[row] for row in choice.selection.chosen]
        text = "".join(map(json_line, self._rows(config, chosen, method.candidates)))
        atomic_write(self.bench.set_path(cell), text)
        return {
            "config": content_hash(config.model_dump(mode="json"))[:12],
            "seed": config.seed,
            "candidates": len(pool),
            "won": choice.winner.name if choice.winner else None,
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            **meter.cost,
        }

    def _source(self, candidates: str, filtered: bool) -> tuple[list[Example], str]:
        """The rows that sets are drawn from, and the name that their features are kept under."""
        if candidates == REAL:
            return self.known.train, "train"
        if (candidates, filtered) not in self._pools:
            rows = read_pool(self.bench, candidates, self.task, self.known.label_names, filtered=filtered)
            counts = [len(members) for members in by_class(rows, self.classes)]
            if counts.count(0) * 5 >= self.classes:  # of many classes a few may have none
                lacking = self.known.label_names[counts.index(0)]
                raise DataError(f"{self.task}: no candidate of {candidates!r} in the class {lacking!r}")
            self._pools[candidates, filtered] = rows
        return self._pools[candidates, filtered], f"pool-{slug(candidates)}" + ("" if filtered else "-unfiltered")

    def _real_side(
        self, config: Config, train: torch.Tensor, at_targets: list[Features], segments: Any, seed: int
    ) -> RealSide:
        """The real rows that a set is judged by: a draw of its own, and the targets, whose features are known."""
        rows = self.known.train
        index = drawn(rows, self.classes, self.bench.suite.pool_rows, seed)
        place = {row: position for position, row in enumerate(index)}
        for row in self.targets:
            if row not in place:
                place[row] = len(index)
                index.append(row)
        examples = [rows[row] for row in index]
        order = [place[row] for row in self.targets]
        counts = [len(members) for members in by_class(rows, self.classes)]
        return RealSide(
            examples,
            torch.tensor([row.label for row in examples], dtype=torch.int64),
            train[index],
            order,
            at_targets,
            segments,
            self.classes,
            class_budgets(counts, config.per_class, config.selection.budget),
        )

    def _rows(self, config: Config, chosen: Sequence[Example], candidates: str) -> list[dict[str, Any]]:
        names = self.known.label_names
        soft = None
        if config.selection.labels == "soft":
            teacher = self.teacher.prepare()
            assert isinstance(teacher, EncoderStudent)  # made so above
            soft = soften(teacher.predict(chosen), config.selection.label_temperature)
        return [
            {
                **texts_of(row),
                **labels_of(row, names, self.known.label_sets),
                **({} if soft is None else {KEY: named(soft[position], names)}),
                "id": row.id,
                "provenance": {"candidates": candidates},
            }
            for position, row in enumerate(chosen)
        ]


def looks_at_features(config: Config) -> bool:
    """Whether a choice needs the teacher's view of the candidates, beside their embeddings."""
    wanted = [name for name, weight in config.objective.weights.items() if weight]
    informed = config.selection.method in INFORMED_BASELINES or config.selection.min_gradient_distance > 0
    chooses = config.selection.method in ("greedy", "portfolio")
    return informed or (chooses and any(name not in EMBEDDINGS_ALONE for name in wanted))


def drawn(rows: Sequence[Example], classes: int, size: float, seed: int) -> list[int]:
    """Positions of a seeded stratified sample; a size up to 1 is a share."""
    limit = int(size * len(rows)) if size <= 1 else int(size)
    position = {row.id: index for index, row in enumerate(rows)}
    return [position[row.id] for row in stratified_sample(rows, classes, limit, seed)]
