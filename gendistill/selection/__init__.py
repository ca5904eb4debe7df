"""Selection: which candidates make the distilled set. ``select`` is the way in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from gendistill.errors import ConfigError
from gendistill.objectives.base import Objective
from gendistill.objectives.linear import coarse_threads
from gendistill.selection.baselines import (
    ALL_BASELINES,
    BASELINES,
    INFORMED_BASELINES,
    herding,
    k_center,
    k_means_nearest,
    random_selection,
    select_baseline,
)
from gendistill.selection.budgets import class_budgets, shared_out
from gendistill.selection.diversity import Diversity
from gendistill.selection.greedy import greedy
from gendistill.selection.swap import SwapResult, swap
from gendistill.students.base import Features

if TYPE_CHECKING:
    from gendistill.objectives import ObjectiveInputs

METHODS = ("greedy", *ALL_BASELINES)


@dataclass
class Selection:
    """What was chosen, and how it came about."""

    chosen: list[int]  # by class, then in the order of choice
    loss: float | None  # None where no objective was given
    history: list[float] = field(default_factory=list)  # loss after each candidate chosen, then after each swap
    relaxed: dict[int, float] = field(default_factory=dict)  # class -> least distance, where below the one asked for
    relaxed_gradient: dict[int, float] = field(default_factory=dict)  # the same of gradients


def select(
    method: str,
    objective: Objective | None,
    embeddings: Tensor,
    labels: Tensor,
    budgets: Sequence[int],
    *,
    seed: int = 0,
    swap_passes: int = 3,
    swap_trials: int | None = None,
    min_distance: float = 0.0,
    features: Features | None = None,
    min_gradient_distance: float = 0.0,
    previous: Sequence[int] = (),
    inputs: ObjectiveInputs | None = None,
) -> Selection:
    """Choose up to ``budgets[c]`` candidates of each class c; all there are where a class has fewer.

    "greedy" is greedy and then swap, keeping both distances. With ``previous``, swap also starts from there and the
    set with the lower loss is kept, so over rounds on the same real rows the loss never rises (unless ``previous`` left
    a budget unfilled: it is filled first). ``previous`` may hold texts nearer than ``min_distance``; ``relaxed`` tells.

    Baselines ignore ``previous``, the distances and the objective, which is used to report their loss if given.

    :param method: one of ``METHODS``.
    :param embeddings: (n, d) float32, rows of length 1.
    :param labels: (n,) int64.
    :param seed: for the baselines that draw; greedy is deterministic.
    :param swap_passes: passes over the chosen, at most, that swap makes.
    :param swap_trials: of the chosen, over all passes, how many swap tries to exchange, at most; None for no bound.
    :param min_distance: least cosine distance between two chosen texts of a class.
    :param features: of the candidates at one checkpoint; needed for ``min_gradient_distance`` only.
    :param min_gradient_distance: least cosine distance between the gradients of two chosen texts of a class.
    :param previous: an earlier choice, as indices into the present candidates.
    :param inputs: what the objective was built from; the baselines of ``INFORMED_BASELINES`` need it.
    """
    if method in ALL_BASELINES:
        if inputs is not None:
            chosen = select_baseline(method, inputs, budgets, seed)
        elif method in BASELINES:
            chosen = BASELINES[method](embeddings, labels, budgets, seed)
        else:
            raise ConfigError(f"selection.method {method} needs the inputs of the objectives (select(..., inputs=...))")
        return Selection(chosen, None if objective is None else objective.loss(chosen))
    if method != "greedy":
        raise ConfigError(f"selection.method: no method {method!r}; there are {', '.join(METHODS)}")
    if objective is None:
        raise ConfigError("selection.method greedy needs an objective")
    _check_previous(previous, labels, budgets)

    if min_gradient_distance > 0 and features is None:
        raise ConfigError("selection.min_gradient_distance needs the student's features of the candidates")

    def refine(start: Sequence[int]) -> Selection:
        diversity = None
        if min_distance > 0 or min_gradient_distance > 0:
            diversity = Diversity(embeddings, labels, min_distance, features, min_gradient_distance)
        order = greedy(objective, labels, budgets, diversity=diversity, start=start)
        history = [objective.loss(order[:count]) for count in range(max(len(start), 1), len(order) + 1)]
        refined = swap(objective, order, labels, diversity=diversity, passes=swap_passes, trials=swap_trials)
        # sorted() is stable: the order of choice is kept within a class
        result = Selection(
            sorted(refined.chosen, key=lambda i: int(labels[i])), refined.loss, history + refined.history
        )
        if diversity is not None:
            result.relaxed = diversity.shortfalls(refined.chosen)
            result.relaxed_gradient = diversity.gradient_shortfalls(refined.chosen)
        return result

    with coarse_threads():
        results = [refine(start) for start in ([(), previous] if previous else [()])]
    return min(results, key=lambda result: result.loss if result.loss is not None else float("inf"))


def _check_previous(previous: Sequence[int], labels: Tensor, budgets: Sequence[int]) -> None:
    if len(set(previous)) != len(previous) or any(not 0 <= i < len(labels) for i in previous):
        raise ConfigError(f"previous must be distinct indices of the {len(labels)} candidates")
    for label, count in Counter(int(labels[i]) for i in previous).items():
        budget = budgets[label] if label < len(budgets) else 0
        if count > budget:
            raise ConfigError(f"previous holds {count} candidates of class {label}, over its budget of {budget}")


__all__ = [
    "ALL_BASELINES",
    "BASELINES",
    "INFORMED_BASELINES",
    "METHODS",
    "Diversity",
    "Selection",
    "SwapResult",
    "class_budgets",
    "greedy",
    "herding",
    "k_center",
    "k_means_nearest",
    "random_selection",
    "select",
    "select_baseline",
    "shared_out",
    "swap",
]
