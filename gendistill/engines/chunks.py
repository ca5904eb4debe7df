"""The features of shards, as a teacher keeps those of a round in the run directory."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gendistill.engines.tables import array_names, array_of
from gendistill.teacher import CHUNK, Teacher


class Chunks:
    """In chunks of so many rows, whatever shards they come from."""

    def __init__(self, teacher: Teacher, name: str) -> None:
        self.teacher, self.name = teacher, name
        self._ids: list[str] = []
        self._parts: list[dict[str, Tensor]] = []
        self._written = 0

    def add(self, ids: list[str], table: Any, rows: npt.NDArray[np.int64]) -> None:
        """:param rows: those of the table that the ids are of."""
        index = torch.from_numpy(rows)
        self._parts.append({key: array_of(table, key)[index] for key in array_names(table)})
        self._ids += ids
        while len(self._ids) >= CHUNK:
            self._flush(CHUNK)

    def close(self) -> None:
        if self._ids:
            self._flush(len(self._ids))

    def _flush(self, count: int) -> None:
        whole = {key: torch.cat([part[key] for part in self._parts]) for key in self._parts[0]}
        file = self.teacher.file_of(self.name, self._written)
        self.teacher.store.save_features(file, self._ids[:count], {key: array[:count] for key, array in whole.items()})
        self._written += 1
        self._ids = self._ids[count:]
        self._parts = [{key: array[count:] for key, array in whole.items()}] if self._ids else []
