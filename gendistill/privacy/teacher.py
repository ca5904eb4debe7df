"""The teacher of a private run: frozen embeddings and a head that was fitted on stand-ins."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from gendistill.config import StudentConfig
from gendistill.examples import Example
from gendistill.progress import Reporter
from gendistill.students.base import Features
from gendistill.students.encoder import FEATURE_SCALE, EncoderStudent
from gendistill.teacher import Teacher, TeacherStore


class PrivateTeacher(Teacher):
    """Never trained on real rows, so it is never ``available`` as a student of theirs, and has one checkpoint.

    :param head: weight (C, d) and bias (C,), of the scaled embeddings.
    """

    def __init__(
        self,
        config: StudentConfig,
        student: EncoderStudent,
        store: TeacherStore,
        reporter: Reporter,
        seed: int,
        head: tuple[Tensor, Tensor],
    ) -> None:
        super().__init__(config, student, [], store, reporter, seed)
        self.head = head

    @property
    def available(self) -> bool:
        return False

    def prepare(self) -> EncoderStudent:
        assert isinstance(self.student, EncoderStudent)  # as it was given
        return self.student

    def features(self, name: str, examples: Sequence[Example]) -> tuple[Tensor, list[Features]]:
        embeddings = self.embeddings(name, examples)
        return embeddings, [self.seen(embeddings)]

    def seen(self, embeddings: Tensor) -> Features:
        """What the head makes of embeddings, (n, d) float32."""
        hidden = FEATURE_SCALE * embeddings
        return Features(hidden, nn.functional.linear(hidden, *self.head).softmax(-1))

    def _everything(self, rows: Sequence[Example], tick: Callable[[float], None]) -> dict[str, Tensor]:
        return self._embedding_alone(rows, tick)
