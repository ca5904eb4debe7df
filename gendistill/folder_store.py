"""A folder that keeps what was computed: arrays by example id, folders and files that appear whole or not at all."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gendistill.atomic import atomic_write
from gendistill.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor


class FolderStore:
    """A ``TeacherStore`` in a folder; a run directory is one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, data: str | bytes) -> Path:
        """Write a file of the run whole or not at all."""
        with storage_errors(self.folder):
            atomic_write(self.folder / name, data)
        return self.folder / name

    def save_features(self, name: str, ids: Sequence[str], tensors: dict[str, Tensor]) -> None:
        """Arrays whose row i belongs to ``ids[i]``, as ``features/<name>.safetensors``."""
        from safetensors.torch import save

        contiguous = {key: tensor.contiguous() for key, tensor in tensors.items()}
        self.write(f"features/{name}.safetensors", save(contiguous, metadata={"ids": json.dumps(list(ids))}))

    def load_features(self, name: str, ids: Sequence[str]) -> dict[str, Tensor] | None:
        """What ``save_features`` wrote for exactly these ids, or None."""
        from safetensors import safe_open

        path = self.folder / "features" / f"{name}.safetensors"
        if not path.exists():
            return None
        with safe_open(path, framework="pt") as file:
            if json.loads((file.metadata() or {}).get("ids", "null")) != list(ids):
                return None
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict

    def saved_folder(self, name: str) -> Path | None:
        """The folder that ``save_folder`` made, or None."""
        folder = self.folder / name
        return folder if folder.is_dir() else None

    def save_folder(self, name: str, write: Callable[[Path], None]) -> None:
        """A folder filled by ``write``, which takes its name when that has ended without an error."""
        temporary, final = self.folder / f".{name}.tmp", self.folder / name
        shutil.rmtree(temporary, ignore_errors=True)
        with storage_errors(self.folder):
            temporary.mkdir(parents=True)
            write(temporary)
            shutil.rmtree(final, ignore_errors=True)
            temporary.rename(final)

    def drop_folder(self, name: str) -> None:
        shutil.rmtree(self.folder / name, ignore_errors=True)


@contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Turns a full disk or a broken database into one line; everything journalled before it stays."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise RunError(
            f"{folder}/run.db: {error}; free some space or check the disk, then run the same command"
        ) from error
    except OSError as error:
        raise RunError(f"{folder}: {error.strerror or error}; free some space, then run the same command") from error
    except Exception as error:
        if "No space left" in str(error):  # safetensors has an exception of its own
            raise RunError(f"{folder}: no space left; free some, then run the same command") from error
        raise
