"""``distill``: the only place that knows the order of things (docs/architecture.md has the picture).

real data -> teacher -> [prompts -> replies -> candidates -> filters -> features -> objective -> choice] x rounds
-> distilled set -> measured table -> card. All state that must survive a kill lives in the store; everything else is
computed again from it, by functions of their arguments, so that a resumed run ends with the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gendistill.audit import audit_rows
from gendistill.card import Spent, run_card
from gendistill.choosing import Choice, check_names, choose, gains_within, held_out
from gendistill.chosen import chosen_row
from gendistill.clusters import class_clusters, nearest_classes
from gendistill.compare import measure, results_json
from gendistill.config import Config
from gendistill.curve import curve
from gendistill.data import RealData
from gendistill.data.export import json_line
from gendistill.data.sources import Run
from gendistill.engines.open import engine_of, storage_of
from gendistill.engines.runner import Runner, over
from gendistill.engines.sharded import ShardedGathering, claim
from gendistill.errors import ConfigError, DataError, GenerationError
from gendistill.evaluate import Measured, stratified_sample
from gendistill.evaluate_answers import MeasuredAnswers
from gendistill.examples import Example
from gendistill.filters import FilterReport, TextFilter
from gendistill.finished import AUDIT, RESULTS
from gendistill.further import FurtherStudent, file_name, further_students, with_further
from gendistill.gathering import Gathering
from gendistill.generators import Generator, build_generator, loading_line
from gendistill.inputs import RealSide, objective_inputs, real_side
from gendistill.objectives import Objective
from gendistill.planning import Chosen, Reference, requests_per_class, token_budget
from gendistill.pool import Pool
from gendistill.prepare import prepare
from gendistill.privacy import PrivateSide, check_private
from gendistill.progress import Reporter, Silent
from gendistill.prompts import load_template
from gendistill.report import write_report
from gendistill.selection import Selection
from gendistill.soft_labels import soften
from gendistill.store import Resume, Store, fingerprint, identity
from gendistill.tasks import TextClassification, task_of
from gendistill.teacher import FOLDER

MANY_CLASSES = 12  # more than a prompt names
RELATED_CLASSES = 6  # that it names then: those most like the one to write for
SHORTEST = 4  # tokens of a budget for each word that a text must have at least
MAX_TOP_UPS = 2  # extra rounds for classes whose pool is smaller than the budget


@dataclass(frozen=True)
class Round:
    """What a round did: losses are the objective of the choice at its end, over all candidates so far."""

    round: int
    asked: int
    replies: int
    kept: int
    pool: int
    loss: float
    relaxed: dict[int, float]


@dataclass(frozen=True)
class Distilled:
    """The result of a run."""

    out: Path
    rows: list[dict[str, Any]]  # as in distilled.jsonl
    label_names: list[str]
    table: list[Measured] | list[MeasuredAnswers]
    rounds: list[Round]
    filters: FilterReport
    teacher_accuracy: float | None  # on the dev part; None for instructions
    pool_size: int
    real: RealData
    privacy: str = ""  # of a private run, what is protected and what is not

    @property
    def path(self) -> Path:
        return self.out / "distilled.jsonl"


def distill(
    config: Config | None = None,
    *,
    resume: Resume = "if-possible",
    reporter: Reporter | None = None,
    generator: Generator | None = None,
) -> Distilled:
    """Distil a real dataset into a small readable one.

    :param config: the run; the defaults are the demo.
    :param resume: what to do if the run directory holds a run ("never", "always", "if-possible").
    :param reporter: told of progress; silent by default.
    :param generator: a generator of your own instead of the configured one.
    :raises GendistillError: anything a user can mend; what was journalled stays.
    """
    config = config or Config()
    check_names(config)
    if config.private:
        check_private(config)
    if config.generator.template is not None:
        load_template(config.generator.template)
    with engine_of(config) as runner, Store(config.out, config, resume) as store:
        return _Run(config, store, reporter or Silent(), generator, runner).go()


class _Run:
    """The values that the steps of one run share."""

    def __init__(
        self, config: Config, store: Store, reporter: Reporter, generator: Generator | None, runner: Runner | None
    ) -> None:
        self.config, self.store, self.reporter, self.runner = config, store, reporter, runner
        storage = None if runner is None else storage_of(config)
        if generator is not None and config.generator.tune.steps:
            raise ConfigError("generator.tune: a generator of your own is tuned by you; set generator.tune.steps to 0")
        self.generator = generator or build_generator(config.generator)  # it loads nothing yet
        self.given = generator is not None
        self.run: Run = map if runner is None else over(runner)
        self.prepared = prepare(config, store, reporter, self.run)
        self.real, self.task, self.teacher = self.prepared.real, self.prepared.task, self.prepared.teacher
        self.num_classes = len(self.real.label_names)
        if not config.private:
            self._say_small_classes()
        parts = (self.real.train, self.real.dev, self.real.test, self.real.target)
        data = fingerprint([row for part in parts for row in part])
        store.remember("real data", data)
        self.storage = None if storage is None else claim(storage, identity(config, data), config.engine.shard_rows)
        # Whether it chats is asked of the store first: only the generator itself, loaded, can tell otherwise.
        known = store.meta("generator")
        if not known:
            reporter.say(loading_line(config.generator))
        self.chat: bool = known["chat"] if known else self.generator.chat
        if runner is not None and not self.given and hasattr(self.generator, "unload"):
            self.generator.unload()  # workers hold one each, perhaps on this very GPU
        if config.generator.tune.steps:
            self.generator.name += ", tuned on the real rows"
        store.remember("generator", {"name": self.generator.name, "chat": self.chat})
        self.private = PrivateSide(config, self.prepared, store, reporter) if config.private else None
        if self.private:
            self.teacher, self.text_filter = self.private.teacher, self.private.text_filter
            self.budget = self.private.budget
        else:
            known = [*self.real.train, *self.real.target]
            self.text_filter = TextFilter(config.filters, known, extra=self.task.checks(known))
            self.budget = token_budget(config, self.real.aim)
        if self.budget.short:
            # A few whole sentences of the budget may be shorter than any real text
            self.text_filter.min_length = min(self.text_filter.min_length, self.budget.tokens // SHORTEST)
            reporter.say(
                f"texts of {self.budget.tokens} tokens, fewer than the real ones take: prompts show beginnings of real "
                "texts, and what is stopped at the limit keeps its whole sentences"
            )

    def go(self) -> Distilled:
        real = self.private.real if self.private else real_side(self.config, self.real, self.teacher)
        reference = self._reference(real)
        others = further_students(self.config, real, self.real.train, self.real.dev, self.store, self.reporter)
        dev: list[Tensor] = []
        if not self.private:
            dev = [self.teacher.embeddings("dev", self.real.dev), *(other.dev for other in others)]
        self.gathering = gathering = self._gathering(real, reference, others)
        teacher_accuracy = self._teacher_accuracy()
        rounds: list[Round] = []
        choice: Choice | None = None
        for number in range(1, self.config.rounds + MAX_TOP_UPS + 1):
            counts = requests_per_class(self.config, number, real.budgets, gathering.kept_per_class(), gathering.asked)
            if not any(counts):
                break
            came = gathering.round(number, counts, self._chosen(choice))
            self._must_have_every_class(number)
            inputs = objective_inputs(self.config, real, self.pool.labels, self.pool.embeddings, self.pool.features)
            if self.pool.candidates:
                inputs = with_further(inputs, gathering.others)
            with self.reporter.track(f"choose {number}", 1) as advance:
                held = (
                    self.private.held
                    if self.private
                    else held_out(self.config, self.real.dev, dev, self.pool.examples, self.num_classes)
                )
                last = number >= self.config.rounds
                before = choice.selection.chosen if choice else gathering.start
                choice = choose(self.config, inputs, real.budgets, before, held=held, finals=last)
                advance(1)
            relaxed = dict(choice.selection.relaxed)
            rounds.append(
                Round(number, came.asked, came.replies, came.kept, len(self.pool.candidates), choice.loss, relaxed)
            )
            dev_rows = held.rows if self.teacher.judges_labels else None
            self._write_round(rounds[-1], choice, curve(choice, inputs, dev_rows))
            self.reporter.say(
                f"round {number}: {came.asked} asked, {came.kept} of {came.replies} texts kept, "
                f"pool {len(self.pool.candidates)}, objective {choice.loss:.4f}"
            )
            for line in choice.lines():
                self.reporter.say(line)
        assert choice is not None  # the first round always asks
        selection = choice.selection
        for name, kept, budget in zip(self.real.label_names, gathering.kept_per_class(), real.budgets, strict=True):
            if kept < budget:
                self.reporter.say(f"class {name!r}: only {kept} candidates passed the filters, fewer than the budget")
        soft = self._soft_labels(selection)
        rows = self._rows(selection, choice.objective, soft)
        self.store.write("distilled.jsonl", "".join(json_line(row) for row in rows))
        table = self._measure([self.pool.examples[i] for i in selection.chosen], soft, reference)
        self.store.write(RESULTS, results_json(table, self.config.evaluate.test_size(len(self.real.test))))
        audit = self._audit(rows)
        result = Distilled(
            out=self.config.out,
            rows=rows,
            label_names=self.real.label_names,
            table=table,
            rounds=rounds,
            filters=gathering.report,
            teacher_accuracy=teacher_accuracy,
            pool_size=len(self.pool.candidates),
            real=self.real,
            privacy=self.private.statement if self.private else "",
        )
        spent = Spent(*self.store.tokens(), usage=self.store.meta("usage"))
        self.store.write("README.md", run_card(self.config, result, self.generator.name, spent, audit))
        write_report(self.config.out, real=self.real)
        for folder in (FOLDER, *map(file_name, self.config.further_students)):
            self.store.drop_folder(folder)  # large, and every feature that came of it is kept
        gathering.close()
        return result

    def _gathering(self, real: RealSide, reference: Reference, others: list[FurtherStudent]) -> Gathering:
        parts = (
            self.config,
            self.store,
            self.reporter,
            self.generator,
            self.chat,
            self.task,
            self.teacher,
            self.text_filter,
            self.budget,
            reference,
            self.real,
            others,
            self.run,
        )
        if self.runner is None or self.storage is None:
            return Gathering(*parts)
        return ShardedGathering(*parts, real, self.runner, self.storage, self.given)

    # -- the real side --------------------------------------------------------------------------------------------

    def _reference(self, real: RealSide) -> Reference:
        embeddings, labels = real.embeddings.numpy(), real.labels.numpy()
        # At least as many clusters as exemplars, so that those of a prompt can come from different ones.
        count = max(self.config.generator.exemplars, self.config.per_class, 2)
        clusters = class_clusters(embeddings, labels, self.num_classes, count, self.config.seed)
        if self.num_classes > MANY_CLASSES and self.real.shape == TextClassification.name:
            near = nearest_classes(embeddings, labels, self.num_classes, RELATED_CLASSES)
            names = self.real.label_names
            self.task = task_of(self.real, [[names[other] for other in others] for others in near])
        return Reference(real.examples, embeddings, labels, clusters)

    def _say_small_classes(self) -> None:
        """A class may have fewer real rows than the budget: the generator writes more of it."""
        counts = self.real.report.class_counts["train"]
        if not self.teacher.judges_labels:
            return  # clusters are not classes that a student must know
        small = {name: count for name, count in counts.items() if count < self.config.per_class}
        if len(small) == self.num_classes:
            raise DataError(
                f"{self.real.source}: no class has {self.config.per_class} rows left to train on, after dev and test, "
                f"so a budget of {self.config.per_class} would distil nothing; lower --per-class or add rows"
            )
        if small:
            shown = ", ".join(f"{name!r} ({count})" for name, count in list(small.items())[:5])
            self.reporter.say(
                f"{len(small)} classes have fewer real rows to learn from than the budget of {self.config.per_class}, "
                f"such as {shown}; baselines of real rows take what there is"
            )

    def _teacher_accuracy(self) -> float | None:
        """On dev; None of a causal LM, which has no classes to be right about, and of a private run."""
        if self.private or not self.teacher.judges_labels:
            return None
        known = self.store.meta("teacher dev accuracy")
        if known is None:
            known = self.teacher.accuracy(self.real.dev)
            self.store.remember("teacher dev accuracy", known)
        self.reporter.say(f"teacher: {known:.1%} of {len(self.real.dev)} held-out real rows right")
        return known

    # -- a round --------------------------------------------------------------------------------------------------

    @property
    def pool(self) -> Pool:
        return self.gathering.pool

    def _must_have_every_class(self, number: int) -> None:
        """After the last round that a class without candidates can get any in; of many classes a few may have none."""
        empty = [self.real.label_names[c] for c, kept in enumerate(self.gathering.kept_per_class()) if not kept]
        few = self.num_classes > MANY_CLASSES and len(empty) * 5 < self.num_classes
        if empty and not few and number >= self.config.rounds + MAX_TOP_UPS:
            raise GenerationError(
                f"no candidate of {', '.join(map(repr, empty[:3]))} passed the filters "
                f"({self.gathering.report.summary()}); all are kept in {self.config.out}/run.db; try a stronger "
                "--model or clearer label descriptions"
            )

    def _chosen(self, choice: Choice | None) -> Chosen | None:
        if choice is None:
            return None
        examples, rows = self.pool.examples, choice.selection.chosen
        return Chosen([examples[i] for i in rows], self.pool.embeddings[rows].numpy())

    def _write_round(self, round: Round, choice: Choice, points: list[dict[str, Any]]) -> None:
        selection = choice.selection
        result = {
            "asked": round.asked,
            "replies": round.replies,
            "kept": round.kept,
            "pool": round.pool,
            "history": selection.history,
            "curve": points,
            "portfolio": [{"set": one.name, "loss": one.loss} for one in choice.judged],
            "filters": self.gathering.report.to_dict(),
        }
        self.store.add_round(round.round, round.loss, [self.pool.candidates[i].id for i in selection.chosen], result)

    # -- the result -----------------------------------------------------------------------------------------------

    def _soft_labels(self, selection: Selection) -> Tensor | None:
        """(k, C) of the chosen, if they were asked for."""
        if self.config.selection.labels == "hard":
            return None
        return soften(self.pool.features[-1].probabilities[selection.chosen], self.config.selection.label_temperature)

    def _rows(self, selection: Selection, objective: Objective, soft: Tensor | None) -> list[dict[str, Any]]:
        rows = []
        gains = gains_within(objective, selection.chosen)
        for i, (index, gain) in enumerate(zip(selection.chosen, gains, strict=True)):
            candidate = self.pool.candidates[index]
            came = {
                "generator": candidate.generator,
                "template": candidate.template,
                "round": candidate.round,
                "request": candidate.request_id,
                "parents": list(candidate.parents),
            }
            label = None if soft is None else soft[i]
            rows.append(chosen_row(candidate.example, self.real, self.pool.scores[index], gain, came, label))
        return rows

    def _audit(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
        """What the audit found, for the card. That of a private run stays beside the set: it looks at real rows."""
        if not self.config.audit.enabled:
            return None
        audit = audit_rows(rows, self.real, self.config, embed=self.teacher.embeddings, reporter=self.reporter)
        self.reporter.say(audit.line())
        found = audit.to_json()
        self.store.write(AUDIT, json.dumps(found, indent=2, ensure_ascii=False) + "\n")
        return None if self.config.private else found

    def _measure(
        self, distilled: list[Example], soft: Tensor | None, reference: Reference
    ) -> list[Measured] | list[MeasuredAnswers]:
        rows, embeddings = reference.examples, torch.from_numpy(reference.embeddings)
        if self.private and self.config.evaluate.seeds:
            # Stand-ins have no texts. The set is written by now: what is measured beside it changes nothing.
            rows = stratified_sample(
                self.real.train, self.num_classes, self.config.data.max_reference_rows, self.config.seed
            )
            embeddings = self.teacher.embeddings("baselines", rows)
        return measure(
            self.config,
            self.prepared,
            distilled,
            soft,
            self.pool.examples,
            rows,
            embeddings,
            journal=self.store,
            reporter=self.reporter,
        )
