"""Students: models that learn from examples. ``build_student`` is the way in.

A new student is one new file and one line in ``STUDENTS``. Each is imported when it is first built.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gendistill.config import StudentConfig

if TYPE_CHECKING:
    from gendistill.students.base import Student


def _encoder(config: StudentConfig, num_classes: int) -> Student:
    from gendistill.students.encoder import EncoderStudent

    return EncoderStudent(config, num_classes)


def _static(config: StudentConfig, num_classes: int) -> Student:
    from gendistill.students.linear import StaticStudent

    return StaticStudent(config, num_classes)


def _tfidf(config: StudentConfig, num_classes: int) -> Student:
    from gendistill.students.linear import TfidfStudent

    return TfidfStudent(config, num_classes)


STUDENTS: dict[str, Callable[[StudentConfig, int], Student]] = {
    "tfidf": _tfidf,
    "static": _static,
}


def build_student(config: StudentConfig, num_classes: int) -> Student:
    """The student that ``config.model`` names: ``tfidf``, ``static:<model>``, or a model that is fine-tuned.

    :param num_classes: C.
    :raises ModelError: the model cannot be found or loaded.
    """
    kind, _, _ = config.model.partition(":")
    return STUDENTS.get(kind, _encoder)(config, num_classes)


__all__ = ["STUDENTS", "build_student"]
