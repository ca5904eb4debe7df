"""What a private run refuses, because real rows would reach it beside the noise. A line each, before anything else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gendistill.choosing import NEED_TRAINING
from gendistill.errors import ConfigError, DataError
from gendistill.privacy.accounting import need_accounting

if TYPE_CHECKING:
    from gendistill.config import Config
    from gendistill.data import RealData


def check_private(config: Config) -> None:
    """:raises ConfigError: a setting that a private run cannot keep to.
    :raises MissingExtraError: dp-accounting is not installed, and there is noise to calibrate.
    """
    stepwise = [name for name in NEED_TRAINING if config.objective.weights.get(name)]
    refused = (
        (config.data.task == "instruction", "data.task: a private run takes texts with one label; not instructions"),
        (config.data.target is not None, "data.target: its rows are real rows too; a private run has no target"),
        (config.generator.exemplars, "generator.exemplars: they are real texts; leave it out of a private run, or 0"),
        (config.generator.tune.steps, "generator.tune.steps: a generator tuned on real rows repeats them; set it to 0"),
        (config.generator.adapter is not None, "generator.adapter: it may have been tuned on real rows; leave it out"),
        (
            config.selection.budget == "proportional",
            "selection.budget: proportional ones are real counts; set it to equal",
        ),
        (config.selection.finalists > 1, "selection.finalists: they are scored on real rows; set it to 1"),
        (stepwise, f"objective.weights: {''.join(stepwise[:1])} needs a teacher trained on real rows; leave it out"),
        (config.further_students, "objective.students: a private run chooses for one student; leave it out"),
        (config.student.gradient_dims, "student.gradient_dims: no teacher is trained to have gradients; set it to 0"),
    )
    for wrong, line in refused:
        if wrong:
            raise ConfigError(f"{line} (privacy.epsilon is set)")
    if config.privacy.epsilon != "inf":
        need_accounting()


def check_data(real: RealData) -> None:
    """:raises DataError: rows of a shape that the release is not made for."""
    if real.shape != "text_classification":
        raise DataError(f"{real.source}: pairs of texts; a private run takes single texts (privacy.epsilon is set)")
    if real.label_sets is not None:
        raise DataError(
            f"{real.source}: several labels a row, whose sets are found in the real rows; a private run takes one "
            "(privacy.epsilon is set)"
        )


def refuse_private(config: Config, command: str) -> None:
    """:raises ConfigError: the configuration is that of a private run, and the command shows or compares real rows."""
    if config.private:
        raise ConfigError(f"privacy.epsilon: {command} looks at real rows as they are; only generate can be private")
