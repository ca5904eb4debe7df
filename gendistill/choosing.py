"""The step from candidates to a choice, as a run and ``gendistill select`` both take it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from gendistill.config import Config
from gendistill.errors import ConfigError
from gendistill.examples import Example
from gendistill.inputs import NEED_SEGMENTS
from gendistill.objectives import OBJECTIVES, Objective, ObjectiveInputs, build_objective
from gendistill.selection import BASELINES, METHODS, Selection, select
from gendistill.selection.diversity import Diversity
from gendistill.selection.portfolio import Judged, Member, Rollout, Rows, combined, default_members, portfolio
from gendistill.students import STUDENTS, build_student
from gendistill.students.base import Student
from gendistill.students.frozen import NoBlocksError

# Exchanges bring a large set little, and each costs more: of sets beyond this size only so many are tried by default
LARGE_SET, LARGE_TRIALS = 200, 60
PORTFOLIO = "portfolio"
NEED_BODY_GRADIENTS = ("gradient_body", "meta_model_gradient")  # objectives
# Objectives that part rows into groups, but do not ask a student to tell the groups apart
FOR_INSTRUCTIONS = ("gradient_body", "mean_matching", "mmd", "coverage")
NEED_TRAINING = (*NEED_SEGMENTS, *NEED_BODY_GRADIENTS)


def check_names(config: Config) -> None:
    """:raises ConfigError: an objective or method that cannot be had, said before anything is paid for."""
    unknown = [name for name in config.objective.weights if name not in OBJECTIVES]
    if unknown:
        raise ConfigError(f"objective.weights: no objective {unknown[0]!r}; there are {', '.join(OBJECTIVES)}")
    body = [name for name in NEED_BODY_GRADIENTS if config.objective.weights.get(name)]
    if body and not config.student.gradient_dims:
        raise ConfigError(f"objective.weights: {body[0]} needs gradients of the body; set student.gradient_dims to 512")
    linear = [name for name in config.further_students if name.partition(":")[0] in STUDENTS]
    stepwise = [name for name in NEED_TRAINING if config.objective.weights.get(name)]
    if linear and stepwise:
        raise ConfigError(
            f"objective.students: {linear[0]} is not trained step by step, which {stepwise[0]} needs; leave one out"
        )
    if config.data.task == "instruction":
        _check_instructions(config)
        return
    if config.student.model in config.further_students:
        raise ConfigError(f"objective.students: {config.student.model} is the student that chooses already")
    if config.student.model.partition(":")[0] in STUDENTS:
        raise ConfigError(
            f"student.model: {config.student.model} can be measured (gendistill evaluate), but it cannot choose; "
            "name an encoder"
        )
    if config.selection.method not in (PORTFOLIO, *METHODS):
        raise ConfigError(
            f"selection.method: no method {config.selection.method!r}; there are {', '.join((PORTFOLIO, *METHODS))}"
        )


def _check_instructions(config: Config) -> None:
    """What looks at classes has nothing to look at."""
    classwise = [n for n, w in config.objective.weights.items() if w and n not in FOR_INSTRUCTIONS]
    if classwise:
        raise ConfigError(
            f"objective.weights: {classwise[0]} needs classes, which instructions lack; there are "
            f"{', '.join(FOR_INSTRUCTIONS)}"
        )
    if config.selection.method not in ("greedy", *BASELINES):
        raise ConfigError(
            f"selection.method: {config.selection.method} needs classes; for instructions there are "
            f"{', '.join(('greedy', *BASELINES))}"
        )
    if config.further_students:
        raise ConfigError("objective.students: instructions are chosen for one student; leave it out")
    if config.selection.labels == "soft":
        raise ConfigError("selection.labels: instructions have no labels that could be soft")
    if config.student.model.partition(":")[0] in STUDENTS:
        raise ConfigError(f"student.model: {config.student.model} writes no answers; name a causal LM")


@dataclass(frozen=True)
class Held:
    """Held-out real rows, and how to train a student on some candidates and score it on them."""

    rows: Rows
    rollout: Rollout
    what: str = "held-out rows"


def held_out(
    config: Config,
    dev: Sequence[Example],
    embeddings: Sequence[Tensor],
    candidates: Sequence[Example],
    num_classes: int,
) -> Held:
    """Dev as a portfolio needs it.

    :param embeddings: one a student, (m, d) float32 of the dev rows, of length 1.
    :param candidates: those that roll-outs train on.
    """
    rows = Rows(
        tuple(embeddings), torch.tensor([row.label for row in dev], dtype=torch.int64), config.objective.combine
    )
    served = (config.student.model, *config.further_students)
    students: list[Student] = []  # built when first needed, and of their own: the teacher's keep their checkpoints

    def rollout(chosen: Sequence[int], seed: int) -> Tensor:
        if not students:
            students.extend(cheap_student(config, model, num_classes) for model in served)
        losses = []
        for student in students:
            student.fit([candidates[index] for index in chosen], seed=seed)
            probabilities = student.predict(dev).double()
            losses.append(nn.functional.nll_loss(probabilities.clamp_min(1e-12).log(), rows.labels, reduction="none"))
        return combined(losses, rows.combine)

    return Held(rows, rollout)


def cheap_student(config: Config, model: str, num_classes: int) -> Student:
    """One for roll-outs: the lower blocks of its body frozen (if it has blocks), and no gradients of the body."""
    recipe = config.student.model_copy(update={"model": model, "gradient_dims": 0})
    share = max(config.student.frozen_share, config.selection.rollout_frozen_share)
    try:
        return build_student(recipe.model_copy(update={"frozen_share": share}), num_classes)
    except NoBlocksError:
        return build_student(recipe, num_classes)


@dataclass(frozen=True)
class Choice:
    """What was chosen, by which objective, and, of a portfolio, what held-out rows said of every set proposed."""

    objective: Objective
    selection: Selection
    winner: Judged | None = None
    judged: list[Judged] = field(default_factory=list)
    judges: str = "held-out rows"

    @property
    def loss(self) -> float:
        """What a run reports after a round, and which never rises: the objective's loss of the choice, or the least
        loss on held-out rows of a portfolio's probes."""
        if self.judged:
            return min(one.loss for one in self.judged)
        return self.objective.loss(self.selection.chosen)

    def lines(self) -> list[str]:
        """For a reader: which set of a portfolio won, by what, against what."""
        if self.winner is None:
            return []
        losses = sorted(one.loss for one in self.judged)
        by = f"{self.winner.runs} fine-tuned students each" if self.winner.runs else "a probe each"
        return [
            f"portfolio: {self.winner.name} wins, of {len(self.judged)} sets judged on {self.judges} by {by} "
            f"(probes' losses {losses[0]:.4f} to {losses[-1]:.4f})"
        ]


def choose(
    config: Config,
    inputs: ObjectiveInputs,
    budgets: Sequence[int],
    previous: Sequence[int] = (),
    *,
    held: Held,
    finals: bool = True,
) -> Choice:
    """The configured choice of candidates.

    :param budgets: how many of each class.
    :param previous: an earlier choice, as indices into the present candidates.
    :param finals: whether finalists of a portfolio may be trained on, which is what takes time.
    """
    objective = build_objective(config.objective.weights, inputs, config.objective.combine)
    method = config.selection.method
    if method == PORTFOLIO and not len(inputs.candidate_labels):
        method = "greedy"  # of no candidates: every filter turned all of a first round away
    if method != PORTFOLIO:
        return Choice(objective, _select(config, method, objective, inputs, budgets, config.seed, previous))

    def member_choice(member: Member, part: ObjectiveInputs, earlier: Sequence[int]) -> Selection:
        own = None
        if member.method == "greedy":
            own = build_objective(member.weights, part.with_ridge(member.ridge), config.objective.combine)
        return _select(config, member.method, own, part, budgets, member.seed, earlier)

    large = sum(budgets) > LARGE_SET
    winner, judged = portfolio(
        inputs,
        held.rows,
        default_members(config.objective.weights, config.objective.ridge, config.seed, large=large),
        member_choice,
        previous=previous,
        diversity=_diversity(config, inputs),
        trials=min(config.selection.probe_trials, LARGE_TRIALS) if large else config.selection.probe_trials,
        finalists=config.selection.finalists if finals else 1,
        rollout=held.rollout,
        runs=config.selection.rollout_runs,
        seed=config.seed,
    )
    return Choice(objective, winner.selection, winner, judged, held.what)


def _select(
    config: Config,
    method: str,
    objective: Objective | None,
    inputs: ObjectiveInputs,
    budgets: Sequence[int],
    seed: int,
    previous: Sequence[int],
) -> Selection:
    settings = config.selection
    trials = settings.swap_trials
    if trials is None and sum(budgets) > LARGE_SET:
        trials = LARGE_TRIALS
    return select(
        method,
        objective,
        inputs.candidate_embeddings,
        inputs.candidate_labels,
        budgets,
        seed=seed,
        swap_passes=settings.swap_passes,
        swap_trials=trials,
        min_distance=settings.min_distance,
        features=inputs.candidate_features[-1] if inputs.candidate_features else None,
        min_gradient_distance=settings.min_gradient_distance,
        previous=previous,
        inputs=inputs,
    )


def _diversity(config: Config, inputs: ObjectiveInputs) -> Diversity | None:
    settings = config.selection
    if settings.min_distance <= 0 and settings.min_gradient_distance <= 0:
        return None
    return Diversity(
        inputs.candidate_embeddings,
        inputs.candidate_labels,
        settings.min_distance,
        inputs.candidate_features[-1] if inputs.candidate_features else None,
        settings.min_gradient_distance,
    )


def gains_within(objective: Objective, chosen: Sequence[int]) -> list[float]:
    """What each chosen candidate adds to the others: the loss without it, less the loss of the whole set."""
    whole = objective.loss(chosen)
    return [objective.loss([other for other in chosen if other != index]) - whole for index in chosen]
