"""Where files are: paths of this machine, or addresses with a scheme, such as ``s3://bucket/rows.parquet``.

Addresses are opened by fsspec, or by pyarrow where fsspec lacks the driver of a store.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from gendistill.errors import DataError

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".jsonl.gz", ".json.gz", ".csv.gz", ".tsv.gz")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://")
# A folder with one of these is a dataset of the library `datasets`, which knows better what is in it
_DATASET_MARKS = ("README.md", "dataset_infos.json", "dataset_info.json", "dataset_dict.json")
_OTHER_SPLIT = re.compile(r"(^|[-_.])(test|testing|eval|evaluation|dev|val|valid|validation)([-_.]|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Place:
    """A file that can be opened anywhere: picklable, and open only while it is read."""

    address: str

    def __str__(self) -> str:
        return self.address

    @property
    def name(self) -> str:
        return self.address.replace("\\", "/").rsplit("/", 1)[-1]

    @property
    def path(self) -> Path | None:
        """Of a file of this machine; None of an address."""
        return None if is_address(self.address) else Path(self.address)

    @property
    def zipped(self) -> bool:
        return self.name.lower().endswith(".gz")

    def open(self) -> IO[bytes]:
        """:raises DataError: it is not there or may not be read."""
        if self.path is not None:
            try:
                return self.path.open("rb")
            except OSError as error:
                raise DataError(f"{self}: cannot be read ({error.strerror or error})") from error
        files, path = file_system(self.address)
        try:
            opened: IO[bytes] = files.open(path, "rb")
            return opened
        except Exception as error:  # drivers raise errors of their own
            raise DataError(f"{self}: cannot be read ({one_line(error)})") from error

    def size(self) -> int:
        """In bytes.

        :raises DataError: it is not there or may not be read.
        """
        with self.open() as file:
            return file.seek(0, 2)


def is_address(name: str) -> bool:
    return _SCHEME.match(name.lower()) is not None


def file_system(address: str) -> tuple[Any, str]:
    """The fsspec file system of an address, and its path there.

    :raises DataError: nothing that is installed opens it, or it holds a password.
    """
    import fsspec

    scheme = address.split("://")[0]
    if urlsplit(address).password is not None:
        raise DataError(
            f"{scheme}: an address with a password in it, which would stand in the run's configuration and card; give "
            "credentials as the store's own environment variables or files have them"
        )
    try:
        files, path = fsspec.core.url_to_fs(address)
        return files, str(path)
    except ImportError as lacking:
        return _arrow_file_system(address, lacking)
    except Exception as error:  # drivers raise errors of their own
        raise DataError(f"{address}: cannot be opened ({one_line(error)})") from error


def _arrow_file_system(address: str, lacking: ImportError) -> tuple[Any, str]:
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow import ArrowException
    from pyarrow.fs import FileSystem

    try:
        files, path = FileSystem.from_uri(address)
    except (ArrowException, OSError, ValueError) as error:
        raise DataError(f"{address}: cannot be opened ({one_line(lacking)}; {one_line(error)})") from error
    return ArrowFSWrapper(files), str(path)


def suffix_of(name: str) -> str | None:
    """The suffix that says how to read a file, or None."""
    lowered = name.lower()
    return max((suffix for suffix in SUFFIXES if lowered.endswith(suffix)), key=len, default=None)


def names_files(name: str) -> bool:
    """Whether a dataset's name is of files: of one, a pattern, an address, or a plain folder of them.

    A folder is plain if rows lie in files right in it, no file name says that it is of another split than train, and
    there is no README.md or other sign of a dataset of the library ``datasets``.
    """
    path = Path(name).expanduser()
    if path.is_dir() and not is_address(name):
        files = _in_folder(path)
        marked = any((path / mark).exists() for mark in _DATASET_MARKS)
        return bool(files) and not marked and not any(map(_of_other_split, files))
    return is_address(name) or path.is_file() or suffix_of(name) is not None or _is_pattern(name)


def find_files(name: str) -> list[Place]:
    """The files of a dataset's name, in the order of their names; all of one kind.

    :param name: a file, a folder of files, a pattern such as ``rows/*.parquet``, or an address of any of these.
    :raises DataError: there is none, they are of several kinds, or their folder cannot be read.
    """
    if is_address(name):
        places = _at_address(name)
    else:
        path = Path(name).expanduser()
        if path.is_dir():
            places = [Place(str(path / file)) for file in _in_folder(path)]
        elif _is_pattern(name) and not path.is_file():
            found = Path(path.anchor).glob(str(path.relative_to(path.anchor)))
            places = [Place(str(file)) for file in sorted(found) if file.is_file() and not _beside(file.name)]
        else:
            return [Place(str(path))]
    if not places:
        raise DataError(f"{name}: no file there; give files that end in {', '.join(SUFFIXES)}")
    kinds = sorted({(suffix_of(place.name) or "another suffix").removesuffix(".gz") for place in places})
    if len(kinds) > 1:
        raise DataError(f"{name}: files of several kinds, {' and '.join(kinds)}; give a pattern, such as *{kinds[0]}")
    return places


def _at_address(address: str) -> list[Place]:
    if address.lower().startswith("http") and suffix_of(address):
        return [Place(address)]  # to ask whether it is a folder would be to read it
    files, path = file_system(address)
    try:
        if "*" in address:
            base = address[: address.index("*")].rpartition("/")[0]
            before = file_system(base)[1]
            found = sorted(file for file in files.glob(path) if not files.isdir(file))
            places = [Place(f"{base}/{str(file).removeprefix(before).lstrip('/')}") for file in found]
            return [place for place in places if not _beside(place.name)]
        if not files.isdir(path):
            if not files.exists(path):
                raise DataError(f"{address}: no such file or folder")
            return [Place(address)]
        entries = files.ls(path, detail=True)
    except DataError:
        raise
    except Exception as error:  # drivers raise errors of their own
        raise DataError(f"{address}: cannot be read ({one_line(error)})") from error
    found = sorted(str(entry["name"]).rstrip("/").rsplit("/", 1)[-1] for entry in entries if entry["type"] == "file")
    found = [file for file in found if _holds_rows(file)]
    other = next(filter(_of_other_split, found), None)
    if other is not None:
        raise DataError(f"{address}: {other} is of another split; give a pattern of those to distil, such as train*")
    return [Place(f"{address.rstrip('/')}/{file}") for file in found]


def _in_folder(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if _holds_rows(entry.name) and entry.is_file())


def _holds_rows(file: str) -> bool:
    return suffix_of(file) is not None and not _beside(file)


def _beside(file: str) -> bool:
    """Whether it is what writers leave beside their rows, such as ``_SUCCESS`` or ``.part.crc``."""
    return file.startswith((".", "_"))


def _of_other_split(file: str) -> bool:
    return _OTHER_SPLIT.search(file) is not None


def _is_pattern(name: str) -> bool:
    return any(mark in name for mark in "*?[")


def one_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
