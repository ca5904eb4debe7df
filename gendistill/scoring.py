"""Score and choose from candidates that are there already: a file of anyone's, or the real rows themselves.

The filters, teacher, objectives and selection are those of a run, without its generator and its directory.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from gendistill.choosing import Held, check_names, choose, gains_within, held_out
from gendistill.chosen import chosen_row
from gendistill.config import Config
from gendistill.data import RealData
from gendistill.data.candidates import CandidateFile, read_candidates, read_instructions
from gendistill.data.copies import copies_of_all
from gendistill.data.rows import columns_for, labels_of, texts_of
from gendistill.data.sources import Run, tracked
from gendistill.engines.open import engine_of
from gendistill.engines.runner import Runner, over
from gendistill.errors import DataError
from gendistill.evaluate import stratified_sample
from gendistill.examples import Example
from gendistill.filters import FilterReport, Rejection, TextFilter
from gendistill.further import further_students, with_further
from gendistill.inputs import RealSide, objective_inputs, real_side
from gendistill.near_duplicates import Search, search_here
from gendistill.objectives import ObjectiveInputs, build_objective
from gendistill.objectives.linear import coarse_threads
from gendistill.pool import DECIMALS, judge
from gendistill.prepare import prepare
from gendistill.privacy.checks import refuse_private
from gendistill.progress import Reporter, Silent
from gendistill.soft_labels import soften
from gendistill.teacher import KeepingStore, MemoryStore

REAL: Literal["real"] = "real"  # in place of a file: the real training rows
_NO_EXAMPLE = Example(("",), 0)  # stands in for a row that is none; it has a verdict already, so no one looks at it


@dataclass(frozen=True, slots=True)
class Given:
    """A row as it was given."""

    number: int | None  # line or row of the file, from 1; None for the real rows
    texts: dict[str, Any]  # by the column that a written row has them in
    label: Any
    extra: dict[str, Any]  # its other columns
    example: Example | None  # None: it cannot be a candidate


@dataclass
class Scored:
    """Every candidate with its verdict, and those that passed with what the objectives say of them."""

    name: str  # the file, or the real data
    real: RealData
    given: list[Given]  # all rows, in their order
    verdicts: list[Rejection | None]  # one a row; None: it passed
    scores: list[dict[str, Any]]  # one a row: teacher_probability, real_similarity, gain_alone, terms; or fewer
    budgets: list[int]  # texts to choose of each class
    kept: list[int]  # rows that passed; candidate i of ``inputs`` is row ``kept[i]``
    inputs: ObjectiveInputs
    held: Held
    report: FilterReport
    teacher_accuracy: float | None  # on the dev part; None for instructions

    @property
    def rows(self) -> list[dict[str, Any]]:
        """As ``gendistill score`` writes them: the verdict, the scores, and after them the file's other columns."""
        rows = []
        for given, verdict, scores in zip(self.given, self.verdicts, self.scores, strict=True):
            row: dict[str, Any] = {**given.texts, **({} if given.label is None else {"label": given.label})}
            if given.example is not None:
                labels = labels_of(given.example, self.real.label_names, self.real.label_sets)
                row = {**texts_of(given.example), **labels, "id": given.example.id}
            row["kept"] = verdict is None
            row["filter"] = None if verdict is None else verdict.filter
            row["reason"] = None if verdict is None else verdict.reason
            row["scores"] = scores
            if given.number is not None:
                row["line"] = given.number
            rows.append(row | {key: value for key, value in given.extra.items() if key not in row})
        return rows


@dataclass(frozen=True)
class Chosen:
    """What ``select_candidates`` chose."""

    rows: list[dict[str, Any]]  # as distilled.jsonl has them
    loss: float  # of the weighted objective, in units of what choosing nothing costs; a portfolio's on held-out rows
    scored: Scored
    notes: list[str] = field(default_factory=list)  # what a user should know: budgets not filled, distances relaxed


def score_candidates(candidates: Path | Literal["real"], config: Config, *, reporter: Reporter | None = None) -> Scored:
    """Filter candidates as a run does, and say what each that passes is worth alone.

    :param candidates: a file with a text and a label on each row, or "real": the real training rows (a stratified
        sample of ``data.max_reference_rows`` of them if there are more), of which copies are not filtered.
    :raises DataError: a file that cannot be read, without known labels, of one class only, or of which nothing passes.
    :raises ConfigError: an objective or method that does not exist.
    """
    scored = _filtered(candidates, config, reporter or Silent())
    objective = build_objective(config.objective.weights, scored.inputs, config.objective.combine)
    with coarse_threads():
        alone = objective.gains([])
        terms = {
            name: build_objective({name: 1.0}, scored.inputs, config.objective.combine).gains([])
            for name, weight in sorted(config.objective.weights.items())
            if weight
        }
    for i, row in enumerate(scored.kept):
        scored.scores[row]["gain_alone"] = round(float(alone[i]), DECIMALS)
        scored.scores[row]["terms"] = {name: round(float(gains[i]), DECIMALS) for name, gains in terms.items()}
    return scored


def select_candidates(
    candidates: Path | Literal["real"], config: Config, *, reporter: Reporter | None = None
) -> Chosen:
    """Choose as a run does: ``config.per_class`` a class (see ``selection.budget``), or all there are if fewer.

    Arguments and errors as in ``score_candidates``; also a DataError if candidates of one class only pass.
    """
    reporter = reporter or Silent()
    scored = _filtered(candidates, config, reporter)
    names, labels = scored.real.label_names, scored.inputs.candidate_labels
    counts = np.bincount(labels.numpy(), minlength=len(names)).tolist()
    if sum(count > 0 for count in counts) < 2:
        only = next(name for name, count in zip(names, counts, strict=True) if count)
        raise DataError(
            f"{scored.name}: only candidates of {only!r} pass the filters ({scored.report.summary()}); "
            "see why with gendistill score"
        )
    notes = [
        f"class {name!r}: {count} candidates for a budget of {budget}, all of them chosen"
        if count
        else f"class {name!r}: no candidate passes, so students will not know it; see why with gendistill score"
        for name, count, budget in zip(names, counts, scored.budgets, strict=True)
        if count < budget
    ]
    with reporter.track("choose", 1) as advance:
        choice = choose(config, scored.inputs, scored.budgets, held=scored.held)
        advance(1)
    selection, objective = choice.selection, choice.objective
    for line in choice.lines():
        reporter.say(line)
    notes += [
        f"class {names[label]!r}: two chosen texts are {distance:.3f} apart, less than the least distance asked for"
        for label, distance in sorted(selection.relaxed.items())
    ]
    soft = None
    if config.selection.labels == "soft":
        soft = soften(scored.inputs.candidate_features[-1].probabilities, config.selection.label_temperature)
    rows = []
    for i, gain in zip(selection.chosen, gains_within(objective, selection.chosen), strict=True):
        given = scored.given[scored.kept[i]]
        assert given.example is not None  # it passed the filters
        scores, came = scored.scores[scored.kept[i]], _provenance(given, scored.name)
        rows.append(chosen_row(given.example, scored.real, scores, gain, came, None if soft is None else soft[i]))
    return Chosen(rows, choice.loss, scored, notes)


def _provenance(given: Given, name: str) -> dict[str, Any]:
    """Where a row came from: what the file itself says of it, and its place there."""
    if given.number is None:
        return {"candidates": REAL, "dataset": name}
    before = given.extra.get("provenance")
    return {**(before if isinstance(before, dict) else {}), "candidates": name, "line": given.number}


def _filtered(candidates: Path | Literal["real"], config: Config, reporter: Reporter) -> Scored:
    """The candidates with the verdict of every filter, scored by the teacher alone."""
    check_names(config)
    refuse_private(config, "gendistill score and select")
    with engine_of(config) as runner:
        return _filtered_by(candidates, config, reporter, runner)


def _filtered_by(
    candidates: Path | Literal["real"], config: Config, reporter: Reporter, runner: Runner | None
) -> Scored:
    run: Run = map if runner is None else over(runner)
    prepared = prepare(config, KeepingStore(), reporter, run)
    real, teacher = prepared.real, prepared.teacher
    # "real" is no Path, so the type checker knows what is left.
    if isinstance(candidates, Path) and not teacher.judges_labels:
        file: CandidateFile | None = read_instructions(candidates, config.data, real, prepared.grouped)
    else:
        file = read_candidates(candidates, config.data, real) if isinstance(candidates, Path) else None
    if file is not None:
        for line in file.lines():
            reporter.say(line)
    side = real_side(config, real, teacher)
    accuracy = None
    if teacher.judges_labels:
        accuracy = teacher.accuracy(real.dev)
        reporter.say(f"teacher: {accuracy:.1%} of {len(real.dev)} held-out real rows right")

    name, given, verdicts = _from_real(config, real, side) if file is None else _from_file(file)
    if file is None and len(given) < len(real.train):
        reporter.say(f"candidates: {len(given):,} of the real training rows; see data.max_reference_rows")
    text_filter = TextFilter(
        config.filters, real.train, copies=file is not None, extra=prepared.task.checks(real.train)
    )
    for i, row in enumerate(given):
        if verdicts[i] is None and row.example is not None:
            verdicts[i] = text_filter.check(row.example, "stop")
    if file is not None:
        left = [row.example for row, verdict in zip(given, verdicts, strict=True) if row.example and verdict is None]
        copied = copies_of_all(config, real, left, tracked(reporter, "copies", run))
        verdicts = [
            copied.get(row.example.id) if row.example and verdict is None else verdict
            for row, verdict in zip(given, verdicts, strict=True)
        ]
    examples = [row.example or _NO_EXAMPLE for row in given]
    embeddings = side.embeddings.numpy()
    with ExitStack() as stack:
        search: Search = search_here
        if runner is not None:
            from gendistill.engines.near import search_by
            from gendistill.engines.spread import fill, passing_storage

            passed = [example for example, verdict in zip(examples, verdicts, strict=True) if verdict is None]
            storage = stack.enter_context(passing_storage(config))
            fill(runner, storage, teacher, "candidates", passed, reporter)
            search = search_by(runner, storage, reporter)
        result = judge(
            config.filters,
            examples,
            verdicts,
            teacher,
            "candidates",
            real_embeddings=embeddings[:0] if file is None else embeddings,
            label_names=real.label_names,
            search=search,
        )
    report = FilterReport()
    for row, verdict in zip(given, result.verdicts, strict=True):
        report.add("\n".join(str(text) for text in row.texts.values() if text), verdict)
    if not result.kept:
        copies = report.counts["real_copy"] + report.counts["real_similarity"] + report.counts.get("held_out_copy", 0)
        hint = "; most are real rows: to choose among those, give the word real instead of a file"
        raise DataError(
            f"{name}: none of {len(given)} candidates passes the filters ({report.summary()})"
            + (hint if 2 * copies > len(given) else "")
        )
    labels = torch.tensor([examples[row].label for row in result.kept], dtype=torch.int64)
    kept = [examples[row] for row in result.kept]
    others = further_students(config, side, real.train, real.dev, MemoryStore(), reporter)
    for other in others:
        other.see("candidates", kept)
    inputs = with_further(objective_inputs(config, side, labels, result.embeddings, result.features), others)
    dev = [teacher.embeddings("dev", real.dev), *(other.dev for other in others)]
    held = held_out(config, real.dev, dev, kept, len(real.label_names))
    reporter.say(f"{len(result.kept):,} of {len(given):,} candidates pass; turned away: {report.summary()}")
    scores: list[dict[str, Any]] = [dict(values) for values in result.scores]
    return Scored(name, real, given, result.verdicts, scores, side.budgets, result.kept, inputs, held, report, accuracy)


def _from_real(config: Config, real: RealData, side: RealSide) -> tuple[str, list[Given], list[Rejection | None]]:
    rows = side.examples
    if real.target:
        rows = stratified_sample(real.train, side.num_classes, config.data.max_reference_rows, config.seed)
    given = [Given(None, texts_of(row), row.label, {}, row) for row in rows]
    return config.data.dataset, given, [None] * len(given)


def _from_file(file: CandidateFile) -> tuple[str, list[Given], list[Rejection | None]]:
    columns = file.columns
    given = []
    for row in file.rows:
        read = (*columns.texts, columns.label)
        extra = {key: value for key, value in row.values.items() if key not in read}
        texts = {column: row.values.get(column) for column in columns.texts}
        if columns.label:  # by the names that they are written under
            texts = dict(zip(columns_for(len(columns.texts)), texts.values(), strict=True))
        given.append(Given(row.number, texts, row.values.get(columns.label), extra, row.example))
    return file.name, given, [row.excluded for row in file.rows]
