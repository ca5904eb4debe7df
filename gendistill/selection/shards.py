"""Shards: candidates that are read a part at a time, because all of them together are too many to hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from gendistill.errors import DataError
from gendistill.students.base import Features, joined

SUFFIXES = (".parquet", ".safetensors")
SHARD_ROWS = 250_000  # of 384 dimensions 0.4 GB


@dataclass(frozen=True)
class ShardRows:
    """Some candidates as objectives see them. CPU tensors."""

    labels: Tensor  # (n,) int64
    embeddings: Tensor  # (n, d) float32, rows of length 1
    features: tuple[Features, ...] = ()  # one a checkpoint, for objectives that look at them

    def rows(self, index: Tensor) -> ShardRows:
        """Some of them, (k,) int64, in the order given."""
        features = tuple(part.rows(index) for part in self.features)
        return ShardRows(self.labels[index], self.embeddings[index], features)


class Shard(Protocol):
    """A part of the candidates; picklable where it is read in another process."""

    @property
    def name(self) -> str:
        """Another for every shard. Shards count in the order of their names, however they are listed."""
        ...

    def read(self) -> ShardRows:
        """The same rows in the same order, whenever it is asked."""
        ...


@dataclass(frozen=True)
class FileShard:
    """Rows ``begin`` to ``end`` of a file that has an embedding and a label on every row.

    In safetensors the tensors ``embeddings`` (n, d) and ``labels`` (n,), in Parquet the columns ``embedding`` (lists of
    one length) and ``label`` (integers); floats of 16 or 64 bits become float32. Only these rows are read (of Parquet,
    the row groups that hold them).
    """

    path: Path
    begin: int
    end: int

    @property
    def name(self) -> str:
        return f"{self.path.name}:{self.begin:012d}"

    def read(self) -> ShardRows:
        """:raises DataError: a tensor or column is missing, or its shape or type is not as said above."""
        read = _read_parquet if self.path.suffix == ".parquet" else _read_safetensors
        labels, embeddings = read(self.path, self.begin, self.end)
        if labels.is_floating_point() or labels.ndim != 1:
            raise DataError(f"{self.path}: labels must be integers, one a row: the places of the classes, from 0")
        if embeddings.ndim != 2 or len(embeddings) != len(labels):
            raise DataError(f"{self.path}: embeddings of shape {tuple(embeddings.shape)} for {len(labels)} labels")
        return ShardRows(labels.long(), embeddings.float())


def file_shards(folder: Path, rows: int = SHARD_ROWS) -> list[FileShard]:
    """The files of a folder, or one file, in shards of at most so many rows. Only their heads are read.

    :raises DataError: there is no file of ``SUFFIXES``, or one cannot be read.
    """
    files = [folder] if folder.is_file() else sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    if not files or files[0].suffix not in SUFFIXES:
        raise DataError(f"{folder}: no file that ends in {' or '.join(SUFFIXES)}")
    shards = []
    for path in files:
        count = _count(path)
        shards += [FileShard(path, begin, min(begin + rows, count)) for begin in range(0, count, rows)]
    return shards


def joined_rows(parts: Sequence[ShardRows]) -> ShardRows:
    """All rows of one or more parts, one part after the other.

    :raises DataError: parts of different widths, or with features of different checkpoints.
    """
    if len(parts) == 1:
        return parts[0]
    if len({part.embeddings.shape[1] for part in parts}) > 1:
        widths = sorted({part.embeddings.shape[1] for part in parts})
        raise DataError(f"embeddings of different numbers of dimensions, {widths}: embed all rows with one student")
    if len({len(part.features) for part in parts}) > 1:
        raise DataError("features of different numbers of checkpoints: give all shards those that the real rows have")
    checkpoints = zip(*(part.features for part in parts), strict=True)
    return ShardRows(
        torch.cat([part.labels for part in parts]),
        torch.cat([part.embeddings for part in parts]),
        tuple(joined(features) for features in checkpoints),
    )


def _count(path: Path) -> int:
    if path.suffix == ".parquet":
        from pyarrow.parquet import ParquetFile

        with ParquetFile(path) as file:
            return int(file.metadata.num_rows)
    with _opened(path) as file:
        return int(file.get_slice("labels").get_shape()[0])


def _read_safetensors(path: Path, begin: int, end: int) -> tuple[Tensor, Tensor]:
    with _opened(path) as file:
        return file.get_slice("labels")[begin:end], file.get_slice("embeddings")[begin:end]


def _opened(path: Path) -> Any:
    from safetensors import safe_open

    file = safe_open(path, framework="pt")
    missing = {"embeddings", "labels"} - set(file.keys())
    if missing:
        raise DataError(f"{path}: no tensor {sorted(missing)[0]!r}; there are {', '.join(sorted(file.keys()))}")
    return file


def _read_parquet(path: Path, begin: int, end: int) -> tuple[Tensor, Tensor]:
    from pyarrow import ArrowInvalid
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        missing = {"embedding", "label"} - set(file.schema_arrow.names)
        if missing:
            raise DataError(
                f"{path}: no column {sorted(missing)[0]!r}; there are {', '.join(sorted(file.schema_arrow.names))}"
            )
        groups: list[int] = []
        first, seen = begin, 0
        for number in range(file.num_row_groups):
            count = file.metadata.row_group(number).num_rows
            if seen < end and seen + count > begin:
                first = first if groups else seen
                groups.append(number)
            seen += count
        table = file.read_row_groups(groups, columns=["embedding", "label"]).slice(begin - first, end - begin)
    try:
        lists = table.column("embedding").combine_chunks()
        flat = torch.from_numpy(lists.flatten().to_numpy(zero_copy_only=False).copy())
        embeddings = flat.view(len(lists), -1) if len(lists) else flat.view(0, 0)
        labels = torch.from_numpy(table.column("label").to_numpy().copy())
    except (ArrowInvalid, AttributeError, RuntimeError, TypeError) as error:
        raise DataError(
            f"{path}: the column embedding must hold lists of one length, and label integers ({error})"
        ) from None
    return labels, embeddings
