"""Rows of a dataset, one at a time, from wherever it is: a local file by its suffix, or a hub dataset.

Nothing here keeps a row: a file larger than memory can be read. Every error names the file and the line.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from gendistill.data.instructions import LIST_COLUMNS
from gendistill.errors import DataError

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".jsonl.gz", ".json.gz", ".csv.gz", ".tsv.gz")
_CHUNK_BYTES = 1 << 20
_BATCH_ROWS = 1000

Row = tuple[int, Mapping[str, Any]]  # line or row number from 1, values by column


@dataclass
class Source:
    """A readable dataset. ``rows(columns)`` starts from the top at each call; ``None`` means all columns."""

    name: str  # as messages call it
    rows: Callable[[list[str] | None], Iterator[Row]]
    unit: str = "row"  # what the numbers of rows count: "row" or "line"
    columns: list[str] | None = None  # None: seen in the rows only
    class_names: dict[str, list[str]] = field(default_factory=dict)  # of hub columns with named classes
    encoding_note: str | None = None

    def names(self, rows: Iterable[Mapping[str, Any]]) -> list[str]:
        """The columns: as declared, or those that these rows have."""
        return self.columns or list(dict.fromkeys(key for row in rows for key in row))

    def at(self, number: int) -> str:
        """Where a row stands, to begin a message with."""
        return f"{self.name}, {self.unit} {number}"


def suffix_of(name: str) -> str | None:
    """The suffix that says how to read a file, or None."""
    lowered = name.lower()
    return max((suffix for suffix in SUFFIXES if lowered.endswith(suffix)), key=len, default=None)


def open_file(path: Path) -> Source:
    """A local file as a source.

    :raises DataError: no such file, a suffix that is not known, an empty file, or bytes that are no text.
    """
    suffix = suffix_of(path.name)
    if not path.is_file():
        raise DataError(f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}")
    if suffix is None:
        raise DataError(f"{path}: suffix {path.suffix or '(none)'} is not one of those known: {', '.join(SUFFIXES)}")
    if suffix == ".parquet":
        return _open_parquet(path)
    encoding, note = _find_encoding(path)
    if suffix.startswith(".json"):
        return Source(str(path), lambda columns: _json_rows(path, encoding), "line", None, {}, note)
    delimiter = "\t" if suffix.startswith(".tsv") else ","
    header = _csv_header(path, encoding, delimiter)
    return Source(
        str(path), lambda columns: _csv_rows(path, encoding, delimiter, header), "line", header, encoding_note=note
    )


# -- bytes to text ----------------------------------------------------------------------------------------------------


def _open_bytes(path: Path) -> IO[bytes] | gzip.GzipFile:
    try:
        return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def _chunks(path: Path) -> Iterator[bytes]:
    with _open_bytes(path) as file:
        try:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path}: cannot be read ({error}); is the file damaged?") from error


def _find_encoding(path: Path) -> tuple[str, str | None]:
    """The encoding of a file and a note for the report, by reading all of it once.

    A byte-order mark decides; else UTF-8 if every byte fits; else a one-byte encoding, in which everything fits.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    line, bad_line, empty = 1, 0, True
    for chunk in _chunks(path):
        if empty and chunk.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16", "read as UTF-16, by its byte-order mark"
        empty = False
        if b"\0" in chunk:
            line += chunk[: chunk.index(b"\0")].count(b"\n")
            raise DataError(f"{path}, line {line}: a NUL byte; save the file as UTF-8 text")
        if not bad_line:
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError as error:
                # The error counts from what was held back of the last chunk: at most three bytes, none a newline.
                bad_line = line + error.object[: error.start].count(b"\n")
        line += chunk.count(b"\n")
    if empty:
        raise DataError(f"{path}: an empty file; give one with a text and a label on each row")
    if not bad_line:
        try:
            decoder.decode(b"", final=True)
            return "utf-8-sig", None
        except UnicodeDecodeError:
            bad_line = line
    # Bytes 80-9F are control characters in Latin-1, which no text has; in Windows' variant they are quotes and dashes.
    used = set().union(*_chunks(path)) & set(range(0x80, 0xA0))
    windows = used and not used & {0x81, 0x8D, 0x8F, 0x90, 0x9D}
    encoding, name = ("cp1252", "Windows-1252 (Latin-1)") if windows else ("latin-1", "Latin-1")
    return encoding, f"read as {name}: line {bad_line} is not UTF-8"


def _open_text(path: Path, encoding: str, newline: str | None) -> IO[str]:
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, "rt", encoding=encoding, newline=newline)
    return path.open(encoding=encoding, newline=newline)


# -- JSON -------------------------------------------------------------------------------------------------------------


def _json_rows(path: Path, encoding: str) -> Iterator[Row]:
    number = 0
    with _open_text(path, encoding, None) as file:
        try:
            for number, line in enumerate(file, 1):
                if number == 1 and line.lstrip().startswith("[") and ".json" in path.suffixes:
                    yield from _json_array(path, line + file.read())
                    return
                if line.strip():
                    yield number, _json_object(line, f"{path}, line {number}")
        except UnicodeError as error:
            raise DataError(f"{path}, line {number + 1}: not {encoding} text ({error.args[-1]})") from error


def _json_object(line: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where}: no JSON ({error.msg.removesuffix(' at')} at column {error.colno}); one object per line"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: no readable JSON ({error})") from error
    if not isinstance(value, dict):
        raise DataError(f"{where}: a JSON {_json_kind(value)}, not an object with a text and a label")
    return value


def _json_array(path: Path, text: str) -> Iterator[Row]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {error.lineno}: no JSON ({error.msg.removesuffix(' at')} at column {error.colno})"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: no readable JSON ({error})") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DataError(f"{path}, item {number}: a JSON {_json_kind(row)}, not an object with a text and a label")
        yield number, row


def _json_kind(value: object) -> str:
    if isinstance(value, list):
        return "array"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return "string" if isinstance(value, str) else "number"


# -- CSV --------------------------------------------------------------------------------------------------------------


def _csv_records(path: Path, encoding: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Records with the line that each begins on; blank lines are skipped."""
    csv.field_size_limit(max(csv.field_size_limit(), 2**31 - 1))  # a text may be longer than the default 128 KiB
    with _open_text(path, encoding, "") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        start = 1
        try:
            for record in reader:
                if record:
                    yield start, record
                start = reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"{path}, line {start}: no readable row ({error}); check its quotation marks") from error
        except UnicodeError as error:
            raise DataError(f"{path}, line {start}: not {encoding} text ({error.args[-1]})") from error


def _csv_header(path: Path, encoding: str, delimiter: str) -> list[str]:
    for _, record in _csv_records(path, encoding, delimiter):
        return [name.strip() for name in record]
    raise DataError(f"{path}: an empty file; give one with a text and a label on each row")


def _csv_rows(path: Path, encoding: str, delimiter: str, header: list[str]) -> Iterator[Row]:
    records = _csv_records(path, encoding, delimiter)
    next(records)
    for number, record in records:
        if len(record) != len(header):
            raise DataError(
                f"{path}, line {number}: {len(record)} columns where the header has {len(header)}; "
                "quote texts that hold the delimiter"
            )
        # What pandas writes for a missing value where it is not simply empty.
        yield number, {k: None if v in ("", "nan", "NaN") else v for k, v in zip(header, record, strict=True)}


# -- Parquet and the hub ----------------------------------------------------------------------------------------------


def _open_parquet(path: Path) -> Source:
    import pyarrow
    import pyarrow.parquet

    try:
        columns = list(pyarrow.parquet.ParquetFile(path).schema_arrow.names)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: no readable Parquet file ({_one_line(error)})") from error

    def rows(wanted: list[str] | None) -> Iterator[Row]:
        number = 0
        try:
            for batch in pyarrow.parquet.ParquetFile(path).iter_batches(_BATCH_ROWS, columns=wanted):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{path}, row {number + 1}: cannot be read ({_one_line(error)})") from error

    return Source(str(path), rows, "row", columns)


def open_hub(name: str, subset: str | None, split: str) -> tuple[Source, list[str]]:
    """A split of a hub dataset (or of a local dataset folder), and the names of all its splits.

    :raises DataError: no such dataset, subset or split, or no network.
    """
    import datasets

    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # tells nobody what is being distilled
    shown = f"{name} ({subset})" if subset else name
    try:
        everything = datasets.load_dataset(name, subset)
        if split in everything:
            data = everything[split]
        elif any(mark in split for mark in "[+"):
            data = datasets.load_dataset(name, subset, split=split)
        else:
            raise DataError(f"{shown}: no split {split!r}; there is {', '.join(map(str, everything))}; see --split")
    except ConnectionError as error:
        raise DataError(
            f"{shown}: cannot reach the hub and it is not in the local cache ({_one_line(error)}); "
            "check the network, or give a local .jsonl, .csv or .parquet file"
        ) from error
    except FileNotFoundError as error:  # datasets' DatasetNotFoundError is one
        raise DataError(f"{shown}: no file and no hub dataset of this name ({_one_line(error)})") from error
    except (ValueError, RuntimeError, OSError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"{shown}: cannot be loaded ({_one_line(error)}); see --subset and --split") from error
    # Images, audio and the like are neither text nor label, and decoding them would cost.
    plain = [column for column, feature in data.features.items() if _is_plain(column, feature)]
    inner = {column: getattr(feature, "feature", feature) for column, feature in data.features.items()}
    class_names = {c: list(f.names) for c, f in inner.items() if isinstance(f, datasets.ClassLabel)}

    def rows(wanted: list[str] | None) -> Iterator[Row]:
        columns = plain if wanted is None else wanted
        number = 0
        for batch in data.select_columns(columns).iter(_BATCH_ROWS):
            for values in zip(*(batch[column] for column in columns), strict=True):
                number += 1
                yield number, dict(zip(columns, values, strict=True))

    return Source(f"{shown}, split {split}", rows, "row", plain, class_names), [str(s) for s in everything]


def _is_plain(column: str, feature: Any) -> bool:
    """Whether a column of a hub dataset is text, a number or a class, a list of such, or may hold messages."""
    import datasets

    if isinstance(feature, (datasets.Image, datasets.Audio)):
        return False
    inner = getattr(feature, "feature", feature)  # of a list
    return isinstance(inner, (datasets.Value, datasets.ClassLabel)) or column.lower() in LIST_COLUMNS


def _one_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
