"""Where shards lie: a folder that every node sees, or an object store. Files appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from gendistill.errors import RunError
from gendistill.generators.urls import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

SUFFIX = ".parquet"
_BROUGHT: dict[str, Path] = {}  # folders that this process has brought here


class Storage:
    """A folder of Parquet files. Picklable.

    :param address: a folder, or an address that pyarrow or fsspec opens (``s3://bucket/run``, ``gs://bucket/run``).
    """

    def __init__(self, address: str) -> None:
        self.address = address if "://" in address else str(Path(address).expanduser().resolve())

    def __reduce__(self) -> tuple[Any, ...]:
        return Storage, (self.address,)

    def __str__(self) -> str:
        return shown(self.address) if "://" in self.address else self.address

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine, perhaps one that others see too."""
        return "://" not in self.address or self.address.startswith("file://")

    def within(self, name: str) -> Storage:
        """A folder of it."""
        place, mark, asked = self.address.partition("?")  # s3://bucket/run?endpoint_override=...
        return Storage(f"{place.rstrip('/')}/{name}{mark}{asked}")

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        from pyarrow import ArrowInvalid, fs

        if "://" not in self.address:
            return fs.LocalFileSystem(), self.address
        try:
            return fs.FileSystem.from_uri(self.address)
        except (ArrowInvalid, OSError, NotImplementedError):
            pass  # not one of pyarrow's own
        try:
            import fsspec

            system, path = fsspec.core.url_to_fs(self.address)
            return fs.PyFileSystem(fs.FSSpecHandler(system)), path
        except (ImportError, ValueError, OSError) as error:
            raise RunError(f"--storage {self}: cannot be opened ({_reason(error)})") from error

    def _path(self, name: str) -> str:
        return str(PurePosixPath(self._opened[1]) / name)

    # -- tables ---------------------------------------------------------------------------------------------------

    def write(self, name: str, table: pa.Table) -> None:
        """:raises RunError: it cannot be written."""
        import pyarrow as pa

        system, path = self._opened[0], self._path(name + SUFFIX)
        made = pa.BufferOutputStream()  # first, for what fails half-way leaves a part where a stream is open
        write_parquet(table, made)
        # An object appears when all of it is there; a file of a folder is moved to its name
        written = f"{path}.{uuid.uuid4().hex}.tmp" if self.is_local else path
        with self._errors():
            system.create_dir(str(PurePosixPath(path).parent), recursive=True)
            with system.open_output_stream(written) as stream:
                stream.write(made.getvalue())
            if written != path:
                system.move(written, path)

    def read(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """:raises RunError: it is not there or cannot be read."""
        from pyarrow import parquet

        with self._errors(), self._opened[0].open_input_file(self._path(name + SUFFIX)) as file:
            return parquet.read_table(file, columns=None if columns is None else list(columns))

    def has(self, name: str) -> bool:
        from pyarrow import fs

        with self._errors():
            return self._opened[0].get_file_info(self._path(name + SUFFIX)).type == fs.FileType.File

    def names(self, folder: str) -> set[str]:
        """Of the tables of a folder, without the suffix."""
        from pyarrow import fs

        with self._errors():
            found = self._opened[0].get_file_info(fs.FileSelector(self._path(folder), allow_not_found=True))
        return {info.base_name.removesuffix(SUFFIX) for info in found if info.base_name.endswith(SUFFIX)}

    # -- folders and small files ----------------------------------------------------------------------------------

    def put_text(self, name: str, text: str) -> None:
        with self._errors():
            self._opened[0].create_dir(str(PurePosixPath(self._path(name)).parent), recursive=True)
            with self._opened[0].open_output_stream(self._path(name)) as stream:
                stream.write(text.encode())

    def text(self, name: str) -> str | None:
        """None if there is none."""
        from pyarrow import fs

        with self._errors():
            if self._opened[0].get_file_info(self._path(name)).type != fs.FileType.File:
                return None
            with self._opened[0].open_input_stream(self._path(name)) as stream:
                return str(stream.read().decode("utf-8", "replace"))

    def delete(self, name: str) -> None:
        with self._errors():
            self._opened[0].delete_file(self._path(name))

    def send(self, folder: Path, name: str) -> None:
        """Copy a folder of this machine here."""
        from pyarrow import fs

        with self._errors():
            self._opened[0].create_dir(self._path(name), recursive=True)
            fs.copy_files(str(folder), self._path(name), fs.LocalFileSystem(), self._opened[0])

    def bring(self, name: str) -> Path:
        """That folder on this machine; copied once a process where the storage is none of it."""
        from pyarrow import fs

        if self.is_local:
            return Path(self._path(name))
        key = f"{self.address}/{name}"
        if key not in _BROUGHT:
            target = Path(tempfile.mkdtemp(prefix="gendistill-"))
            with self._errors():
                fs.copy_files(self._path(name), str(target), self._opened[0], fs.LocalFileSystem())
            _BROUGHT[key] = target
        return _BROUGHT[key]

    def drop(self, name: str) -> None:
        """Remove a folder, if it is there."""
        from pyarrow import fs

        with self._errors():
            if self._opened[0].get_file_info(self._path(name)).type == fs.FileType.Directory:
                self._opened[0].delete_dir(self._path(name))

    def check(self) -> None:
        """:raises RunError: nothing can be written here."""
        name = f".probe-{os.getpid()}-{uuid.uuid4().hex}"
        self.put_text(name, "gendistill")
        self.delete(name)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(
                f"--storage {self}: cannot be read or written ({_reason(error)}); give a folder that every node may "
                "write to, or an address such as s3://bucket/run"
            ) from error


def write_parquet(table: pa.Table, stream: Any) -> None:
    """Arrays without dictionaries, for hardly any of their values comes twice."""
    import pyarrow as pa
    from pyarrow import parquet

    repeating = [field.name for field in table.schema if not pa.types.is_fixed_size_list(field.type)]
    repeating += [f"{name}.list.element" for name in repeating]
    parquet.write_table(table, stream, compression="zstd", use_dictionary=repeating)


def _reason(error: BaseException) -> str:
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(said).split())[:200]
