"""A trained teacher that is sent to other processes: its folder lies in the storage, and each loads it once."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from gendistill.config import StudentConfig
from gendistill.engines.storage import Storage
from gendistill.examples import Example
from gendistill.progress import Silent
from gendistill.students.causal import CausalStudent
from gendistill.students.encoder import EncoderStudent
from gendistill.teacher import MemoryStore, Teacher


class _Brought(MemoryStore):
    """Knows the folder of a teacher, and keeps nothing."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def saved_folder(self, name: str) -> Path | None:
        return self.storage.bring(name)


@dataclass
class View:
    """Picklable; the student is loaded at the first use, wherever that is.

    :param folder: of the teacher, in the storage.
    """

    storage: Storage
    folder: str
    config: StudentConfig
    num_classes: int | None  # None: of a causal LM that learns instructions
    seed: int
    centre: Tensor | None

    @property
    def judges_labels(self) -> bool:
        return self.num_classes is not None

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_teacher"}

    @cached_property
    def _teacher(self) -> Teacher:
        student: EncoderStudent | CausalStudent = (
            CausalStudent(self.config) if self.num_classes is None else EncoderStudent(self.config, self.num_classes)
        )
        teacher = Teacher(self.config, student, [], _Brought(self.storage), Silent(), self.seed, name=self.folder)
        teacher.centre = self.centre
        return teacher

    def arrays(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """As ``Teacher.arrays``."""
        return self._teacher.arrays(examples)


def view_of(teacher: Teacher, storage: Storage) -> View:
    """Train the teacher if need be, put it into the storage, and say how to look through it."""
    student = teacher.prepare()
    folder = teacher.store.saved_folder(teacher.folder)
    if folder is not None:
        storage.send(folder, teacher.folder)
    else:  # of a store that keeps nothing
        with tempfile.TemporaryDirectory() as temporary:
            student.save(Path(temporary))
            storage.send(Path(temporary), teacher.folder)
    return View(
        storage,
        teacher.folder,
        teacher.config,
        student.num_classes if isinstance(student, EncoderStudent) else None,
        teacher.seed,
        teacher.centre,
    )
