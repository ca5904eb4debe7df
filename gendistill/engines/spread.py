"""A teacher's features of rows at hand, computed by many workers instead of this process."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from gendistill.config import Config
from gendistill.engines.open import opened
from gendistill.engines.runner import Runner, Step
from gendistill.engines.storage import Storage
from gendistill.engines.views import View, view_of
from gendistill.examples import Example
from gendistill.progress import Reporter
from gendistill.teacher import CHUNK, Teacher


class Fill:
    """A stage: the features of one chunk of rows, told as arrays."""

    def __init__(self, view: View, chunks: Sequence[Sequence[Example]]) -> None:
        self.view, self.chunks = view, chunks

    def __call__(self, shard: int) -> dict[str, Any]:
        arrays = self.view.arrays(self.chunks[shard])
        return {"arrays": {name: values.contiguous().numpy() for name, values in arrays.items()}}


def fill(
    runner: Runner, storage: Storage, teacher: Teacher, name: str, rows: Sequence[Example], reporter: Reporter
) -> None:
    """Put the features of the rows into the teacher's store, where ``Teacher.features`` of that name finds them."""
    chunks = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
    view = view_of(teacher, storage)
    done = 0
    with reporter.track(f"features of {name}", len(rows)) as advance:
        for shard, told in runner.run([Step(partial(Fill, view, chunks), "look")], range(len(chunks))):
            arrays = {key: torch.from_numpy(values) for key, values in told["arrays"].items()}
            teacher.store.save_features(teacher.file_of(name, shard), [row.id for row in chunks[shard]], arrays)
            done += len(chunks[shard])
            advance(done)


@contextmanager
def passing_storage(config: Config) -> Iterator[Storage]:
    """A storage for the time of one command: a folder of its own, in the one that is configured or on this machine.

    :raises RunError: it cannot be written, or a node does not see it.
    """
    base = Storage(config.engine.storage or tempfile.gettempdir())
    storage = opened(base.within(f"gendistill-{uuid.uuid4().hex}"))
    try:
        yield storage
    finally:
        storage.drop("")
