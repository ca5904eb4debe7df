"""The measuring side of a benchmark: students trained on sets and scored on test, and what the texts are like.

``gendistill evaluate`` trains and scores by the same function, ``evaluate``, with the same samples of the test split.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from gendistill.bench.choosing import known_rows
from gendistill.bench.cost import Meter
from gendistill.bench.folder import FULL, Bench, Cell
from gendistill.bench.overlap import SharedRuns
from gendistill.bench.suite import slug
from gendistill.compare import load_set
from gendistill.config import Config
from gendistill.data.load import load_test
from gendistill.evaluate import evaluate, stratified_sample
from gendistill.examples import Example
from gendistill.folder_store import FolderStore
from gendistill.models import load_causal_lm
from gendistill.progress import Silent
from gendistill.soft_labels import KEY, read_soft
from gendistill.students import build_student
from gendistill.students.base import Student
from gendistill.students.encoder import EncoderStudent
from gendistill.teacher import Teacher

if TYPE_CHECKING:
    from torch import Tensor

SEEDS_APART = 1000  # run k of set s trains with seed SEEDS_APART * s + k, on top of the suite's
FLUENT_TEXTS = 20  # of a set, whose perplexity is measured


def first_seed(bench: Bench, cell: Cell) -> int:
    return bench.suite.seed + SEEDS_APART * cell.set


class Examiner:
    """Measures the sets of a task."""

    def __init__(self, bench: Bench, task: str) -> None:
        self.bench, self.task = bench, task
        suite = bench.suite
        self.known = known_rows(bench, task)
        self.classes = len(self.known.label_names)
        self.test = stratified_sample(
            load_test(bench.data(task), self.known.label_names, self.known.label_sets),
            self.classes,
            suite.max_test_rows,
            suite.seed,
        )
        self._students: dict[str, Student] = {}
        self._texts: _Texts | None = None

    def train(self, cell: Cell, student: str) -> dict[str, Any]:
        """Scores on test, in [0, 1], of a student for each run."""
        recipe = self.bench.suite.students[student]
        if student not in self._students:
            self._students[student] = build_student(recipe, self.classes)
        if cell.method == FULL:
            rows, targets, runs = self.known.train, None, 1
        else:
            rows, targets = self._set(cell)
            runs = self.bench.suite.runs
        with Meter() as meter:
            (measured,) = evaluate(
                {cell.method: lambda run: rows},
                self.test,
                self._students[student],
                recipe,
                seeds=runs,
                first_seed=first_seed(self.bench, cell),
                targets={} if targets is None else {cell.method: targets},
                label_sets=self.known.label_sets,
            )
        return {"rows": len(rows), "accuracy": measured.accuracy, "macro_f1": measured.macro_f1, **meter.cost}

    def text(self, cell: Cell) -> dict[str, Any]:
        """How near the texts of a set stand to train and test, and how fluent they are."""
        self._texts = self._texts or _Texts(self.bench, self.task, self.known.train, self.test)
        rows, _ = self._set(cell)
        found = self._texts.overlap(rows)
        fluent = self.bench.suite.fluency
        if fluent and cell.set == 0 and cell.per_class == max(self.bench.suite.budgets(self.task)):
            found["perplexity"] = round(perplexity(fluent, [row.text for row in rows]), 2)
        return found

    def _set(self, cell: Cell) -> tuple[list[Example], Tensor | None]:
        path = self.bench.set_path(cell)
        examples, rows = load_set(path, self.known.label_names)
        soft = KEY in rows[0]
        return examples, read_soft(rows, self.known.label_names, str(path)) if soft else None


class _Texts:
    """Train and test as texts of a set are compared with them."""

    def __init__(self, bench: Bench, task: str, train: Sequence[Example], test: Sequence[Example]) -> None:
        # The encoder that chooses, on the measuring side: where it keeps what it sees of test, choosing does not look.
        config = Config(**bench.suite.config).student
        folder = bench.out / "work" / f"{slug(task)}-measured"
        store = FolderStore(folder)
        student = EncoderStudent(config, len({row.label for row in train}))
        self.encoder = Teacher(config, student, train, store, Silent(), bench.suite.seed)
        with bench.claim("measured features", task, wait=True):
            self.parts = {
                name: (SharedRuns([row.text for row in rows]), self.encoder.embeddings(name, rows))
                for name, rows in (("train", train), ("test", test))
            }

    def overlap(self, rows: Sequence[Example]) -> dict[str, Any]:
        """Of the set as a whole, the largest of its rows: words in a row shared, cosine of embeddings."""
        embeddings = self.encoder.student.embed(rows)
        found: dict[str, Any] = {}
        for name, (runs, known) in self.parts.items():
            found[f"words_{name}"] = max(runs.longest(row.text) for row in rows)
            found[f"cosine_{name}"] = round(float((embeddings @ known.T).max()), 4)
        return found


_models: dict[str, Any] = {}


def perplexity(model: str, texts: Sequence[str]) -> float:
    """exp of the mean negative log-likelihood of a token, over the first ``FLUENT_TEXTS`` texts, each by itself.

    Each text begins after the model's first token (BOS, or EOS where there is none), so its first word counts too.
    """
    if model not in _models:
        _models.clear()
        _models[model] = load_causal_lm(model, torch.float32)
    lm, tokenizer = _models[model]
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    # Spread over the set, which is ordered by class
    step = max(1, len(texts) // FLUENT_TEXTS)
    total, tokens = 0.0, 0
    with torch.inference_mode():
        for text in list(texts)[::step][:FLUENT_TEXTS]:
            ids = tokenizer(text, add_special_tokens=False, truncation=True, max_length=512)["input_ids"]
            row = torch.tensor([[start, *ids]], device=lm.device)
            logits = lm(input_ids=row).logits[0, :-1].float()
            total += float(torch.nn.functional.cross_entropy(logits, row[0, 1:], reduction="sum"))
            tokens += len(ids)
    return math.exp(total / max(tokens, 1))
