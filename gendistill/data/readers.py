"""Rows of a dataset, one at a time, from wherever it is: files by their suffix, or a hub dataset.

Nothing here keeps a row: a file larger than memory can be read. Every error names the file and the line.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import itertools
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from gendistill.data.instructions import LIST_COLUMNS
from gendistill.data.places import SUFFIXES, Place, one_line, suffix_of
from gendistill.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset
    from pyarrow.parquet import ParquetFile

_CHUNK_BYTES = 1 << 20
_BATCH_ROWS = 1000

Row = tuple[int, Mapping[str, Any]]  # line or row number from 1, values by column


@dataclass
class Source:
    """A readable dataset, or a part of one. ``rows(columns)`` starts from the top at each call; ``None`` means all
    columns. Of files it is picklable."""

    name: str  # as messages call it
    rows: Callable[[list[str] | None], Iterator[Row]]
    unit: str = "row"  # what the numbers of rows count: "row" or "line"
    columns: list[str] | None = None  # None: seen in the rows only
    class_names: dict[str, list[str]] = field(default_factory=dict)  # of hub columns with named classes
    encoding_note: str | None = None
    parts: list[Source] = field(default_factory=list)  # of a dataset of several files: each by itself

    def names(self, rows: Iterable[Mapping[str, Any]]) -> list[str]:
        """The columns: as declared, or those that these rows have."""
        return self.columns or list(dict.fromkeys(key for row in rows for key in row))

    def at(self, number: int) -> str:
        """Where a row stands, to begin a message with."""
        return f"{self.name}, {self.unit} {number}"


def open_file(path: Path | Place) -> Source:
    """A file as a source.

    :raises DataError: no such file, a suffix that is not known, an empty file, or bytes that are no text.
    """
    place = path if isinstance(path, Place) else Place(str(path))
    suffix = _known_suffix(place)
    if suffix == ".parquet":
        return _open_parquet(place)
    return _open_text_file(place, suffix, *_find_encoding(place))


def open_files(name: str, places: list[Place]) -> Source:
    """The rows of one file or several, one file after the other.

    :raises DataError: as ``open_file``.
    """
    return joined(name, [open_file(place) for place in places])


def joined(name: str, parts: list[Source]) -> Source:
    """Several sources as one, which has their columns; its numbers count the rows of all."""
    if len(parts) == 1:
        return parts[0]
    declared = [part.columns for part in parts if part.columns is not None]
    columns = list(dict.fromkeys(column for one in declared for column in one)) or None
    note = next((part.encoding_note for part in parts if part.encoding_note), None)
    return Source(name, partial(_chained_rows, parts), "row", columns, parts[0].class_names, note, parts)


def _chained_rows(parts: list[Source], columns: list[str] | None) -> Iterator[Row]:
    number = 0
    for part in parts:
        for _, row in part.rows(columns):
            number += 1
            yield number, row


def _known_suffix(place: Place) -> str:
    suffix = suffix_of(place.name)
    if place.path is not None and not place.path.is_file():
        raise DataError(f"{place}: {'a folder, not a file' if place.path.is_dir() else 'no such file'}")
    if suffix is None:
        given = Path(place.name).suffix or "(none)"
        raise DataError(f"{place}: suffix {given} is not one of those known: {', '.join(SUFFIXES)}")
    return suffix


def _open_text_file(place: Place, suffix: str, encoding: str, note: str | None) -> Source:
    if suffix.startswith(".json"):
        return Source(str(place), partial(_json_rows, place, encoding), "line", None, {}, note)
    delimiter = "\t" if suffix.startswith(".tsv") else ","
    header = _csv_header(place, encoding, delimiter)
    rows = partial(_csv_rows, place, encoding, delimiter, header)
    return Source(str(place), rows, "line", header, encoding_note=note)


# -- parts of files ---------------------------------------------------------------------------------------------------


def open_shards(place: Place, size: int) -> list[Source]:
    """A file in parts of about so many bytes, each read by itself with memory that does not grow with the file.

    Lines of JSON are parted between lines, Parquet by row groups; CSV and what is compressed stays whole. Text must be
    UTF-8, or UTF-16 by its byte-order mark: no file is read to guess at it.

    :raises DataError: as ``open_file``, or one JSON array, which can only be held whole.
    """
    suffix = _known_suffix(place)
    if suffix == ".parquet":
        return _parquet_shards(place, size)
    start = next(_chunks(place), b"")
    if not start:
        raise DataError(f"{place}: an empty file; give one with a text and a label on each row")
    wide = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if suffix.startswith(".json") and ".jsonl" not in suffix and start.lstrip(codecs.BOM_UTF8 + b" \t\r\n")[:1] == b"[":
        raise DataError(f"{place}: one JSON array, which is held whole; for data.max_rows write one object per line")
    if suffix.startswith(".json") and not place.zipped and not wide and (total := place.size()) > size:
        cuts = [*range(0, total, size), total]
        return [
            Source(f"{place}, from byte {begin:,}", partial(_json_range, place, begin, end), "line")
            for begin, end in itertools.pairwise(cuts)
        ]
    return [_open_text_file(place, suffix, "utf-16" if wide else "utf-8-sig", None)]


def _json_range(place: Place, begin: int, end: int, columns: list[str] | None) -> Iterator[Row]:
    """The lines that begin from byte ``begin`` to before byte ``end``; numbers count them."""
    with place.open() as file:
        at = max(begin - 1, 0)
        file.seek(at)
        if begin:
            at += len(file.readline())  # the end of a line that is another part's
        number = 0
        while at < end and (line := file.readline()):
            at += len(line)
            number += 1
            where = f"{place}, from byte {begin:,}, line {number}"
            try:
                text = line.decode("utf-8" if begin or number > 1 else "utf-8-sig")
            except UnicodeError as error:
                raise DataError(f"{where}: not UTF-8 text ({error.args[-1]}); save the file as UTF-8") from error
            if text.strip():
                yield number, _json_object(text, where)


# -- bytes to text ----------------------------------------------------------------------------------------------------


@contextmanager
def _open_bytes(place: Place) -> Iterator[IO[bytes]]:
    """What a file says, unzipped.

    :raises DataError: it cannot be opened, or breaks while it is read.
    """
    with place.open() as file:
        try:
            yield cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if place.zipped else file
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{place}: cannot be read ({error}); is the file damaged?") from error


@contextmanager
def _open_text(place: Place, encoding: str, newline: str | None) -> Iterator[IO[str]]:
    with _open_bytes(place) as file:
        yield io.TextIOWrapper(file, encoding, newline=newline)


def _chunks(place: Place) -> Iterator[bytes]:
    with _open_bytes(place) as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _find_encoding(place: Place) -> tuple[str, str | None]:
    """The encoding of a file and a note for the report, by reading all of it once.

    A byte-order mark decides; else UTF-8 if every byte fits; else a one-byte encoding, in which everything fits.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    line, bad_line, empty = 1, 0, True
    for chunk in _chunks(place):
        if empty and chunk.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16", "read as UTF-16, by its byte-order mark"
        empty = False
        if b"\0" in chunk:
            line += chunk[: chunk.index(b"\0")].count(b"\n")
            raise DataError(f"{place}, line {line}: a NUL byte; save the file as UTF-8 text")
        if not bad_line:
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError as error:
                # The error counts from what was held back of the last chunk: at most three bytes, none a newline.
                bad_line = line + error.object[: error.start].count(b"\n")
        line += chunk.count(b"\n")
    if empty:
        raise DataError(f"{place}: an empty file; give one with a text and a label on each row")
    if not bad_line:
        try:
            decoder.decode(b"", final=True)
            return "utf-8-sig", None
        except UnicodeDecodeError:
            bad_line = line
    # Bytes 80-9F are control characters in Latin-1, which no text has; in Windows' variant they are quotes and dashes.
    used = set().union(*_chunks(place)) & set(range(0x80, 0xA0))
    windows = used and not used & {0x81, 0x8D, 0x8F, 0x90, 0x9D}
    encoding, name = ("cp1252", "Windows-1252 (Latin-1)") if windows else ("latin-1", "Latin-1")
    return encoding, f"read as {name}: line {bad_line} is not UTF-8"


# -- JSON -------------------------------------------------------------------------------------------------------------


def _json_rows(place: Place, encoding: str, columns: list[str] | None) -> Iterator[Row]:
    number = 0
    with _open_text(place, encoding, None) as file:
        try:
            for number, line in enumerate(file, 1):
                if number == 1 and line.lstrip().startswith("[") and ".json" in Path(place.name).suffixes:
                    yield from _json_array(place, line + file.read())
                    return
                if line.strip():
                    yield number, _json_object(line, f"{place}, line {number}")
        except UnicodeError as error:
            raise DataError(f"{place}, line {number + 1}: not {encoding} text ({error.args[-1]})") from error


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


def _json_array(place: Place, text: str) -> Iterator[Row]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{place}, line {error.lineno}: no JSON ({error.msg.removesuffix(' at')} at column {error.colno})"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: no readable JSON ({error})") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DataError(f"{place}, item {number}: a JSON {_json_kind(row)}, not an object with a text and a label")
        yield number, row


def _json_kind(value: object) -> str:
    if isinstance(value, list):
        return "array"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return "string" if isinstance(value, str) else "number"


# -- CSV --------------------------------------------------------------------------------------------------------------


def _csv_records(place: Place, encoding: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Records with the line that each begins on; blank lines are skipped."""
    csv.field_size_limit(max(csv.field_size_limit(), 2**31 - 1))  # a text may be longer than the default 128 KiB
    with _open_text(place, encoding, "") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        start = 1
        try:
            for record in reader:
                if record:
                    yield start, record
                start = reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"{place}, line {start}: no readable row ({error}); check its quotation marks") from error
        except UnicodeError as error:
            raise DataError(f"{place}, line {start}: not {encoding} text ({error.args[-1]})") from error


def _csv_header(place: Place, encoding: str, delimiter: str) -> list[str]:
    for _, record in _csv_records(place, encoding, delimiter):
        return [name.strip() for name in record]
    raise DataError(f"{place}: an empty file; give one with a text and a label on each row")


def _csv_rows(
    place: Place, encoding: str, delimiter: str, header: list[str], columns: list[str] | None
) -> Iterator[Row]:
    records = _csv_records(place, encoding, delimiter)
    next(records)
    for number, record in records:
        if len(record) != len(header):
            raise DataError(
                f"{place}, line {number}: {len(record)} columns where the header has {len(header)}; "
                "quote texts that hold the delimiter"
            )
        # What pandas writes for a missing value where it is not simply empty.
        yield number, {k: None if v in ("", "nan", "NaN") else v for k, v in zip(header, record, strict=True)}


# -- Parquet and the hub ----------------------------------------------------------------------------------------------


def _open_parquet(place: Place) -> Source:
    with _parquet(place) as file:
        return _parquet_source(place, file, str(place), 0, file.num_row_groups)


def _parquet_shards(place: Place, size: int) -> list[Source]:
    """Parts of whole row groups."""
    with _parquet(place) as file:
        cuts, held = [0], 0
        for group in range(file.num_row_groups):
            held += file.metadata.row_group(group).total_byte_size
            if held >= size or group == file.num_row_groups - 1:
                cuts.append(group + 1)
                held = 0
        shown = str(place)
        return [_parquet_source(place, file, shown, begin, end) for begin, end in itertools.pairwise(cuts)]


def _parquet_source(place: Place, file: ParquetFile, name: str, begin: int, end: int) -> Source:
    before = sum(file.metadata.row_group(group).num_rows for group in range(begin))
    return Source(name, partial(_parquet_rows, place, begin, end, before), "row", list(file.schema_arrow.names))


@contextmanager
def _parquet(place: Place) -> Iterator[ParquetFile]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    with ExitStack() as stack:
        try:
            # A path, not a file of Python's, which pyarrow would ask for every piece
            file = stack.enter_context(ParquetFile(place.path or stack.enter_context(place.open())))
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{place}: no readable Parquet file ({one_line(error)})") from error
        yield file


def _parquet_rows(place: Place, begin: int, end: int, before: int, columns: list[str] | None) -> Iterator[Row]:
    """Of row groups ``begin`` to before ``end``; ``before`` rows are in the groups before them."""
    import pyarrow

    number = before
    with _parquet(place) as file:
        try:
            for batch in file.iter_batches(_BATCH_ROWS, row_groups=range(begin, end), columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{place}, row {number + 1}: cannot be read ({one_line(error)})") from error


def open_hub(name: str, subset: str | None, split: str) -> tuple[Source, list[str]]:
    """A split of a hub dataset (or of a local dataset folder), and the names of all its splits.

    :raises DataError: no such dataset, subset or split, or no network.
    """
    data, splits = _load_hub(name, subset, split)
    return _hub_source(_hub_name(name, subset, split), data, 0, len(data)), splits


def hub_shards(name: str, subset: str | None, split: str, rows: int) -> list[Source]:
    """A split of a hub dataset in parts of so many rows, read from the library's cache on this machine.

    :raises DataError: as ``open_hub``.
    """
    data, _ = _load_hub(name, subset, split)
    shown = _hub_name(name, subset, split)
    return [_hub_source(shown, data, begin, min(begin + rows, len(data))) for begin in range(0, len(data), rows)]


def _hub_name(name: str, subset: str | None, split: str) -> str:
    return f"{name} ({subset}), split {split}" if subset else f"{name}, split {split}"


def _load_hub(name: str, subset: str | None, split: str) -> tuple[Dataset, list[str]]:
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
            f"{shown}: cannot reach the hub and it is not in the local cache ({one_line(error)}); "
            "check the network, or give a local .jsonl, .csv or .parquet file"
        ) from error
    except FileNotFoundError as error:  # datasets' DatasetNotFoundError is one
        raise DataError(f"{shown}: no file and no hub dataset of this name ({one_line(error)})") from error
    except (ValueError, RuntimeError, OSError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"{shown}: cannot be loaded ({one_line(error)}); see --subset and --split") from error
    return data, [str(one) for one in everything]


def _hub_source(name: str, data: Dataset, begin: int, end: int) -> Source:
    import datasets

    # Images, audio and the like are neither text nor label, and decoding them would cost.
    plain = [column for column, feature in data.features.items() if _is_plain(column, feature)]
    inner = {column: getattr(feature, "feature", feature) for column, feature in data.features.items()}
    class_names = {c: list(f.names) for c, f in inner.items() if isinstance(f, datasets.ClassLabel)}
    return Source(name, partial(_hub_rows, data, plain, begin, end), "row", plain, class_names)


def _hub_rows(data: Dataset, plain: list[str], begin: int, end: int, wanted: list[str] | None) -> Iterator[Row]:
    columns = plain if wanted is None else wanted
    number = begin
    for batch in data.select_columns(columns).select(range(begin, end)).iter(_BATCH_ROWS):
        for values in zip(*(batch[column] for column in columns), strict=True):
            number += 1
            yield number, dict(zip(columns, values, strict=True))


def _is_plain(column: str, feature: Any) -> bool:
    """Whether a column of a hub dataset is text, a number or a class, a list of such, or may hold messages."""
    import datasets

    if isinstance(feature, (datasets.Image, datasets.Audio)):
        return False
    inner = getattr(feature, "feature", feature)  # of a list
    return isinstance(inner, (datasets.Value, datasets.ClassLabel)) or column.lower() in LIST_COLUMNS
