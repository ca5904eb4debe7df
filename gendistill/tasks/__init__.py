"""The tasks: one file each. A new task is a file here and a line in ``TASKS``. Imports nothing heavy."""

from gendistill.tasks.base import Check, Fields, Task
from gendistill.tasks.text_classification import TextClassification

TASKS = {TextClassification.name: TextClassification}

__all__ = ["TASKS", "Check", "Fields", "Task", "TextClassification"]
