"""Files that appear whole or not at all: temporary file in the same folder, fsync, rename, fsync of the folder."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from gendistill.errors import RunError


def atomic_write(path: Path, data: str | bytes) -> None:
    """Replace the contents of ``path``; a crash at any instant leaves the old file or the new one.

    Text is written as UTF-8 with ``\\n`` as it stands. A lone surrogate, which UTF-8 cannot hold, is written as its
    ``\\udXXX`` escape, which is what JSON calls it too.

    :raises RunError: no space, or the folder cannot be written to; the temporary file is gone and ``path`` untouched.
    """
    payload = data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data
    # Named by process: what a killed one left behind is overwritten or inert, and two never share one.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunError(
                f"{path}: no space left to write {len(payload):,} bytes; free some, then run the same command"
            ) from error
        raise RunError(f"{path}: cannot write ({error.strerror or error}); check the folder and its rights") from error
    finally:
        with contextlib.suppress(OSError):  # gone already after a rename, or never made
            temporary.unlink()


def _sync_folder(folder: Path) -> None:
    # Without this a power cut can lose the rename. Windows has no handle for a folder and needs none.
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
