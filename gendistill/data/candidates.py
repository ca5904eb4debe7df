"""Candidates from a file: any JSONL, CSV or Parquet of texts and labels, to be scored and chosen from.

Every row of the file is accounted for: it becomes an example, or it is excluded, with a reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gendistill.config import DataConfig
from gendistill.data.columns import Columns, clean_text, find_columns
from gendistill.data.instructions import PROBLEMS, find_shape, prompt_of, read_fields
from gendistill.data.label_sets import LabelSets
from gendistill.data.labels import Labels, UnknownLabel
from gendistill.data.load import RealData
from gendistill.data.readers import Source, open_file
from gendistill.data.rows import columns_for
from gendistill.errors import DataError
from gendistill.examples import Example
from gendistill.filters import Rejection
from gendistill.folding import text_key

_SHOWN_LINES = 5


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the file: an example, or the reason why it is none."""

    number: int  # line or row of the file, from 1
    values: Mapping[str, Any]  # as read
    example: Example | None
    excluded: Rejection | None  # None: it may be scored


@dataclass(frozen=True)
class CandidateFile:
    """A file of candidates as read, in its order."""

    name: str
    unit: str  # what the numbers of rows count: "line" or "row"
    rows: list[Row]
    notes: list[str]  # on how the file was read
    columns: Columns

    @property
    def usable(self) -> list[Row]:
        return [row for row in self.rows if row.excluded is None]

    def lines(self) -> list[str]:
        """What was found, for a reader: how many rows, and each kind of exclusion with the lines of a few."""
        excluded: dict[str, list[Row]] = {}
        for row in self.rows:
            if row.excluded is not None:
                excluded.setdefault(row.excluded.filter, []).append(row)
        told = [f"{self.name}: {len(self.rows):,} rows read, {len(self.usable):,} usable", *self.notes]
        for filter, rows in excluded.items():
            numbers = ", ".join(str(row.number) for row in rows[:_SHOWN_LINES])
            more = ", ..." if len(rows) > _SHOWN_LINES else ""
            reason = rows[0].excluded.reason if rows[0].excluded else ""
            told.append(f"{len(rows):,} excluded as {filter} ({self.unit} {numbers}{more}): {reason}")
        return told


def read_candidates(path: Path, config: DataConfig, real: RealData) -> CandidateFile:
    """Read candidates and exclude what cannot be one.

    Excluded, by name: ``empty`` (no text, or of a pair one only), ``too_long`` (over ``config.max_chars``),
    ``unknown_label`` (none, or not a class of the real data), ``duplicate`` (text and label of an earlier row),
    ``label_conflict`` (the text also stands under another label), ``held_out_copy`` (a text of the dev or test rows,
    but for case and punctuation).

    Columns are those of the real data where the file has them, else found as those of real data are. Labels are names
    where the file has any name of the real data's, else positions in its list of classes.

    :raises DataError: the file cannot be read (with its line), has no row with a known label, or only one class.
    """
    source = open_file(path)
    columns = _columns(source, config, len(real.text_names))
    read = [(number, dict(values)) for number, values in source.rows(None)]
    names = set(real.label_names)
    name_column = columns.label_name
    named = name_column is not None and any(_is_name(values.get(name_column), names) for _, values in read)
    chosen_column = name_column if named and name_column is not None else columns.label
    label_of = _label_reader(source, config, real, read, chosen_column)
    held_out = {text_key(example.text) for example in (*real.dev, *real.test)}
    first: dict[tuple[tuple[str, ...], int], int] = {}
    labels_of: dict[tuple[str, ...], set[int]] = {}
    rows: list[Row] = []
    for number, values in read:
        example: Example | None = None
        excluded: Rejection | None = None
        cleaned = [clean_text(values.get(column), config.max_chars, source.at(number)) for column in columns.texts]
        texts = tuple(text for text, _ in cleaned if text is not None)
        label = label_of(number, values)
        if len(texts) < len(cleaned):
            lacking = [column for column, (text, _) in zip(columns.texts, cleaned, strict=True) if text is None]
            excluded = Rejection("empty", f"no text in {lacking[0]}" if texts else "no text")
        elif any(too_long for _, too_long in cleaned):
            excluded = Rejection("too_long", f"more than {config.max_chars:,} characters")
        elif label is None:
            shown = repr(values.get(chosen_column))[:60]
            excluded = Rejection("unknown_label", f"{shown} is no class of the real data")
        else:
            example = Example(texts, label)
            labels_of.setdefault(texts, set()).add(label)
            earlier = first.setdefault((texts, label), number)
            if earlier != number:
                excluded = Rejection("duplicate", f"text and label of {source.unit} {earlier}")
            elif text_key(example.text) in held_out:
                excluded = Rejection("held_out_copy", "a text of the real data's dev or test rows")
        rows.append(Row(number, values, example, excluded))
    rows = [_conflicting(row, labels_of, real.label_names) for row in rows]
    notes = [source.encoding_note] if source.encoding_note else []
    if not named and any(isinstance(values.get(columns.label), int) for _, values in read):
        notes.append(f"labels are numbers, taken as places in the list of classes: 0 is {real.label_names[0]}")
    found = CandidateFile(str(path), source.unit, rows, notes, columns)
    _check_usable(found, real.label_names, chosen_column)
    return found


def read_instructions(
    path: Path, config: DataConfig, real: RealData, grouped: Callable[[str, Sequence[Example]], list[Example]]
) -> CandidateFile:
    """Read instructions as candidates and exclude what cannot be one.

    Excluded, by name: what ``data.instructions.PROBLEMS`` lists, ``duplicate`` (prompt and answer of an earlier row)
    and ``held_out_copy`` (a prompt of the dev or test rows).

    :param grouped: gives each its cluster.
    :raises DataError: the file cannot be read, is no instruction data, or no row of it can be a candidate.
    """
    source = open_file(path)
    read = [(number, dict(values)) for number, values in source.rows(None)]
    shape = find_shape(source.names(values for _, values in read))
    if shape is None:
        raise DataError(f"{path}: no instruction data; give messages, or instruction and output, on each row")
    held_out = {prompt_of(example.fields) for example in (*real.dev, *real.test)}
    first: dict[tuple[str, ...], int] = {}
    rows: list[Row] = []
    for number, values in read:
        fields = read_fields(values, shape, config.max_chars)
        if isinstance(fields, str):
            rows.append(Row(number, values, None, Rejection(fields, PROBLEMS[fields].removeprefix("rows dropped: "))))
            continue
        excluded = None
        earlier = first.setdefault(fields, number)
        if earlier != number:
            excluded = Rejection("duplicate", f"prompt and answer of {source.unit} {earlier}")
        elif prompt_of(fields) in held_out:
            excluded = Rejection("held_out_copy", "asks what the real data's dev or test rows ask")
        rows.append(Row(number, values, Example(fields, 0), excluded))
    labelled = iter(grouped("candidates", [row.example for row in rows if row.example is not None]))
    rows = [row if row.example is None else replace(row, example=next(labelled)) for row in rows]
    notes = [source.encoding_note] if source.encoding_note else []
    found = CandidateFile(str(path), source.unit, rows, notes, Columns(shape.columns, ""))
    if not found.usable:
        raise _none_usable(found)
    return found


def _columns(source: Source, config: DataConfig, texts: int) -> Columns:
    """The real data's columns where the file has them, else those that gendistill writes, else the usual ones.

    :param texts: of a row: one, or the two of a pair.
    """
    present = source.names(values for _, values in source.rows(None))
    wanted = (config.text_column, config.text_column_b)[:texts]
    if not all(column in present for column in wanted):
        written = columns_for(texts)
        wanted = written if all(column in present for column in written) else (None,) * texts
    label = config.label_column if config.label_column in present else None
    if label is None:
        usual = ("label", "label_name")
        label = next((column for column in usual if column in present and column not in wanted), None)
    first, second = (*wanted, None)[:2]
    found = find_columns(source, first, label, second)
    if len(found.texts) != texts:
        kind = "pairs of texts" if texts == 2 else "single texts"
        raise DataError(f"{source.name}: has the texts {', '.join(found.texts)}, but the real data are {kind}")
    return found


def _label_reader(
    source: Source,
    config: DataConfig,
    real: RealData,
    read: Sequence[tuple[int, Mapping[str, Any]]],
    column: str,
) -> Callable[[int, Mapping[str, Any]], int | None]:
    """A row's class, None if it has none that is known. Lists of labels are sets of them, where the data has such."""
    labels = Labels(real.label_names)
    labels.begin(source)

    def single(number: int, values: Mapping[str, Any]) -> int | None:
        try:
            return labels.index(values.get(column), None, column, number)
        except UnknownLabel:
            return None

    if real.label_sets is None or not any(isinstance(values.get("labels"), list) for _, values in read):
        return single
    sets = LabelSets.fixed(real.label_sets, config.label_separator)
    sets.begin(source)

    def several(number: int, values: Mapping[str, Any]) -> int | None:
        try:
            return sets.filed(values.get("labels"), "labels", number)
        except UnknownLabel:
            return None

    return several


def _is_name(value: object, names: set[str]) -> bool:
    return isinstance(value, str) and value.strip() in names


def _conflicting(row: Row, labels_of: Mapping[tuple[str, ...], set[int]], names: Sequence[str]) -> Row:
    """The row, excluded if its text also stands under another label: one of the two is wrong."""
    if row.example is None or row.excluded is not None or len(labels_of[row.example.fields]) == 1:
        return row
    listed = ", ".join(names[label] for label in sorted(labels_of[row.example.fields]))
    return Row(row.number, row.values, row.example, Rejection("label_conflict", f"its text stands under {listed}"))


def _check_usable(found: CandidateFile, names: Sequence[str], column: str) -> None:
    usable = found.usable
    if not found.rows:
        raise DataError(f"{found.name}: no rows; give a file with a text and a label on each row")
    if not usable:
        if all(row.excluded is not None and row.excluded.filter == "unknown_label" for row in found.rows):
            shown = list(dict.fromkeys(repr(row.values.get(column))[:60] for row in found.rows))[:3]
            raise DataError(
                f"{found.name}: none of its {len(found.rows)} rows has a label of the real data; column {column!r} "
                f"says {', '.join(shown)}, the real data has {', '.join(names[:20])}"
            )
        raise _none_usable(found)
    classes = {row.example.label for row in usable if row.example is not None}
    if len(classes) == 1:
        raise DataError(
            f"{found.name}: all {len(usable)} usable rows are of one class, {names[classes.pop()]!r}; "
            "a classifier needs candidates of two or more"
        )


def _none_usable(found: CandidateFile) -> DataError:
    """The error of a file without a candidate: how many rows there are, and why none is one."""
    reasons = Counter(row.excluded.filter for row in found.rows if row.excluded is not None)
    told = ", ".join(f"{filter} {count}" for filter, count in reasons.most_common())
    return DataError(f"{found.name}: none of its {len(found.rows)} rows can be a candidate ({told or 'no rows'})")
