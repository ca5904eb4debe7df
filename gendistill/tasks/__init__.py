"""The tasks: one file each. A new task is a file here and a line in ``task_of``. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gendistill.tasks.base import Check, Fields, Task
from gendistill.tasks.instruction import Instruction
from gendistill.tasks.pair_classification import PairClassification
from gendistill.tasks.text_classification import TextClassification

if TYPE_CHECKING:
    from gendistill.data import RealData

TASKS = {
    TextClassification.name: TextClassification,
    PairClassification.name: PairClassification,
    Instruction.name: Instruction,
}


def task_of(real: RealData, related: Sequence[Sequence[str]] | None = None) -> Task:
    """The task of a dataset.

    :param related: for each class the names of the classes most like it, where there are too many to name in a prompt.
    """
    names = tuple(real.label_names)
    if real.shape == Instruction.name:
        return Instruction(names, real.description or None, real.system)
    if real.shape == PairClassification.name:
        return PairClassification(real.text_names, names, real.label_descriptions, real.description)
    return TextClassification(names, real.label_descriptions, real.description, real.label_groups, related)


__all__ = ["TASKS", "Check", "Fields", "Instruction", "PairClassification", "Task", "TextClassification", "task_of"]
