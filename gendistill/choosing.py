"""The step from candidates to a choice, as a run and ``gendistill select`` both take it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from gendistill.config import Config
from gendistill.errors import ConfigError
from gendistill.objectives import OBJECTIVES, Objective, ObjectiveInputs, build_objective
from gendistill.selection import METHODS, Selection, select

NEED_BODY_GRADIENTS = ("gradient_body", "meta_model_gradient")  # objectives


def check_names(config: Config) -> None:
    """:raises ConfigError: an objective or method that cannot be had, said before anything is paid for."""
    unknown = [name for name in config.objective.weights if name not in OBJECTIVES]
    if unknown:
        raise ConfigError(f"objective.weights: no objective {unknown[0]!r}; there are {', '.join(OBJECTIVES)}")
    body = [name for name in NEED_BODY_GRADIENTS if config.objective.weights.get(name)]
    if body and not config.student.gradient_dims:
        raise ConfigError(f"objective.weights: {body[0]} needs gradients of the body; set student.gradient_dims to 512")
    if config.selection.method not in METHODS:
        raise ConfigError(f"selection.method: no method {config.selection.method!r}; there are {', '.join(METHODS)}")


def choose(
    config: Config, inputs: ObjectiveInputs, budgets: Sequence[int], previous: Sequence[int] = ()
) -> tuple[Objective, Selection]:
    """The configured choice of candidates, and the objective that it was made by.

    :param budgets: how many of each class.
    :param previous: an earlier choice, as indices into the present candidates.
    """
    objective = build_objective(config.objective.weights, inputs)
    with one_thread():
        selection = select(
            config.selection.method,
            objective,
            inputs.candidate_embeddings,
            inputs.candidate_labels,
            budgets,
            seed=config.seed,
            swap_passes=config.selection.swap_passes,
            swap_trials=config.selection.swap_trials,
            min_distance=config.selection.min_distance,
            features=inputs.candidate_features[-1] if inputs.candidate_features else None,
            min_gradient_distance=config.selection.min_gradient_distance,
            previous=previous,
            inputs=inputs,
        )
    return objective, selection


def gains_within(objective: Objective, chosen: Sequence[int]) -> list[float]:
    """What each chosen candidate adds to the others: the loss without it, less the loss of the whole set."""
    whole = objective.loss(chosen)
    return [objective.loss([other for other in chosen if other != index]) - whole for index in chosen]


@contextmanager
def one_thread() -> Iterator[None]:
    """Selection is thousands of small products: handing each to several threads costs more than it gains."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
