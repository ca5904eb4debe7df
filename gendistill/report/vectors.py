"""Embeddings from the feature files of a run directory, one file in memory at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

# Of the student that chooses; a further student's files have its name before this
_CANDIDATES = re.compile(r"round-(\d+)-(\d+)\.safetensors")
_REAL = re.compile(r"(real)-(\d+)\.safetensors")


class Vectors:
    """The feature files of a run's candidates and of its reference rows.

    :ivar broken: names of files that cannot be read; what they hold counts as absent.
    """

    def __init__(self, run: Path) -> None:
        self._folder, self.broken = run / "features", set[str]()
        names = sorted(path.name for path in self._folder.iterdir()) if self._folder.is_dir() else []
        self._ids = {name: self._read_ids(name) for name in names if _CANDIDATES.fullmatch(name)}
        self._real = {name: self._read_ids(name) for name in names if _REAL.fullmatch(name)}

    def real(self) -> tuple[list[str], FloatArray]:
        """Ids and unit embeddings (m, d) of the reference rows; (0, 0) if there are none."""
        ids: list[str] = []
        parts: list[FloatArray] = []
        for name, keys in self._real.items():
            part = self._embeddings(name, len(keys))
            if part is not None and (not parts or part.shape[1] == parts[0].shape[1]):
                ids += keys
                parts.append(part)
        return ids, np.concatenate(parts) if parts else np.empty((0, 0), np.float32)

    def candidate_ids(self) -> set[str]:
        """Ids of all candidates that have an embedding."""
        return {id for ids in self._ids.values() for id in ids}

    def of(self, wanted: Collection[str]) -> dict[str, FloatArray]:
        """id -> its unit embedding (d,), of the candidates wanted that have one."""
        found: dict[str, FloatArray] = {}
        for name, ids in self._ids.items():
            places = [place for place, id in enumerate(ids) if id in wanted and id not in found]
            part = self._embeddings(name, len(ids)) if places else None
            if part is not None:
                # Copies: a row of the file would keep all of it in memory
                found.update({ids[place]: part[place].copy() for place in places})
        return found

    def _read_ids(self, name: str) -> list[str]:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._folder / name, framework="np") as file:
                ids = json.loads((file.metadata() or {}).get("ids", "[]"))
                return [str(id) for id in ids] if "embedding" in file.keys() else []  # noqa: SIM118 - not a dict
        except (SafetensorError, OSError, ValueError):
            self.broken.add(name)
            return []

    def _embeddings(self, name: str, rows: int) -> FloatArray | None:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._folder / name, framework="np") as file:
                found = np.asarray(file.get_tensor("embedding"), np.float32) if rows else np.empty((0, 0), np.float32)
        except (SafetensorError, OSError):
            self.broken.add(name)
            return None
        if found.ndim != 2 or len(found) != rows or not np.isfinite(found).all():
            self.broken.add(name)
            return None
        return found if rows else None
