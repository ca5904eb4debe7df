"""Candidates from a file: any JSONL, CSV or Parquet of texts and labels, to be scored and chosen from.

Every row of the file is accounted for: it becomes an example, or it is excluded, with a reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gendistill.config import DataConfig
from gendistill.data.labels import Labels, UnknownLabel
from gendistill.data.load import RealData, clean_text, find_columns
from gendistill.data.readers import Source, open_file
from gendistill.errors import DataError
from gendistill.examples import Example
from gendistill.filters import Rejection, text_key

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
    columns: tuple[str, str, str | None]  # of the text, the label, and the label's name

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

    Excluded, by name: ``empty`` (no text), ``too_long`` (over ``config.max_chars``), ``unknown_label`` (none, or not a
    class of the real data), ``duplicate`` (text and label of an earlier row), ``label_conflict`` (the text also stands
    under another label), ``held_out_copy`` (a text of the dev or test rows, but for case and punctuation).

    Columns are those of the real data where the file has them, else found as those of real data are. Labels are names
    where the file has any name of the real data's, else positions in its list of classes.

    :raises DataError: the file cannot be read (with its line), has no row with a known label, or only one class.
    """
    source = open_file(path)
    columns = text_column, label_column, name_column = _columns(source, config)
    read = [(number, dict(values)) for number, values in source.rows(None)]
    names = set(real.label_names)
    named = name_column is not None and any(_is_name(values.get(name_column), names) for _, values in read)
    chosen_column = name_column if named and name_column is not None else label_column
    labels = Labels(real.label_names)
    labels.begin(source)
    held_out = {text_key(example.text) for example in (*real.dev, *real.test)}
    first: dict[tuple[str, int], int] = {}
    labels_of: dict[str, set[int]] = {}
    rows: list[Row] = []
    for number, values in read:
        example: Example | None = None
        excluded: Rejection | None = None
        text, too_long = clean_text(values.get(text_column), config.max_chars, source.at(number))
        try:
            label = labels.index(values.get(chosen_column), None, chosen_column, number)
        except UnknownLabel:
            label = None
        if text is None:
            excluded = Rejection("empty", "no text")
        elif too_long:
            excluded = Rejection("too_long", f"more than {config.max_chars:,} characters")
        elif label is None:
            shown = repr(values.get(chosen_column))[:60]
            excluded = Rejection("unknown_label", f"{shown} is no class of the real data")
        else:
            example = Example((text,), label)
            labels_of.setdefault(text, set()).add(label)
            earlier = first.setdefault((text, label), number)
            if earlier != number:
                excluded = Rejection("duplicate", f"text and label of {source.unit} {earlier}")
            elif text_key(text) in held_out:
                excluded = Rejection("held_out_copy", "a text of the real data's dev or test rows")
        rows.append(Row(number, values, example, excluded))
    rows = [_conflicting(row, labels_of, real.label_names) for row in rows]
    notes = [source.encoding_note] if source.encoding_note else []
    if not named and any(isinstance(values.get(label_column), int) for _, values in read):
        notes.append(f"labels are numbers, taken as places in the list of classes: 0 is {real.label_names[0]}")
    found = CandidateFile(str(path), source.unit, rows, notes, columns)
    _check_usable(found, real.label_names, chosen_column)
    return found


def _columns(source: Source, config: DataConfig) -> tuple[str, str, str | None]:
    present = source.columns or list({key: None for _, values in source.rows(None) for key in values})
    text = config.text_column if config.text_column in present else None
    label = config.label_column if config.label_column in present else None
    if text is None and "text" in present:
        text = "text"
    if label is None:
        label = next((column for column in ("label", "label_name") if column in present and column != text), None)
    return find_columns(source, text, label)


def _is_name(value: object, names: set[str]) -> bool:
    return isinstance(value, str) and value.strip() in names


def _conflicting(row: Row, labels_of: Mapping[str, set[int]], names: Sequence[str]) -> Row:
    """The row, excluded if its text also stands under another label: one of the two is wrong."""
    if row.example is None or row.excluded is not None or len(labels_of[row.example.text]) == 1:
        return row
    listed = ", ".join(names[label] for label in sorted(labels_of[row.example.text]))
    return Row(row.number, row.values, row.example, Rejection("label_conflict", f"its text stands under {listed}"))


def _check_usable(found: CandidateFile, names: Sequence[str], column: str) -> None:
    usable = found.usable
    if not found.rows:
        raise DataError(f"{found.name}: no rows; give a file with a text and a label on each row")
    if not usable:
        reasons = Counter(row.excluded.filter for row in found.rows if row.excluded is not None)
        if set(reasons) == {"unknown_label"}:
            shown = list(dict.fromkeys(repr(row.values.get(column))[:60] for row in found.rows))[:3]
            raise DataError(
                f"{found.name}: none of its {len(found.rows)} rows has a label of the real data; column {column!r} "
                f"says {', '.join(shown)}, the real data has {', '.join(names[:20])}"
            )
        told = ", ".join(f"{filter} {count}" for filter, count in reasons.most_common())
        raise DataError(f"{found.name}: none of its {len(found.rows)} rows can be a candidate ({told})")
    classes = {row.example.label for row in usable if row.example is not None}
    if len(classes) == 1:
        raise DataError(
            f"{found.name}: all {len(usable)} usable rows are of one class, {names[classes.pop()]!r}; "
            "a classifier needs candidates of two or more"
        )
