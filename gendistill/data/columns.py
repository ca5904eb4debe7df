"""Which columns of a dataset hold the text (or the two texts of a pair), the label, and the label's name."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gendistill.config import DataConfig
from gendistill.data.instructions import find_shape
from gendistill.data.readers import Row, Source
from gendistill.errors import DataError

TEXT_COLUMNS = ("text", "sentence", "content", "review", "question", "document", "body", "article", "comment", "tweet",
                "utterance", "query", "message", "headline", "abstract", "description")  # fmt: skip
PAIR_COLUMNS = (("premise", "hypothesis"), ("text_a", "text_b"), ("sentence1", "sentence2"), ("question1", "question2"),
                ("text1", "text2"), ("sentence_a", "sentence_b"))  # fmt: skip
LABEL_COLUMNS = ("label", "labels", "coarse_label", "class", "category", "target", "sentiment", "intent", "topic",
                 "emotion", "label_name", "label_text", "y")  # fmt: skip
_SAMPLE_ROWS = 100  # looked at to find the columns
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Columns:
    """What is read of a row."""

    texts: tuple[str, ...]  # one, or the two of a pair
    label: str
    label_name: str | None = None  # where the label is a number

    @property
    def all(self) -> list[str]:
        return [*self.texts, self.label, *([self.label_name] if self.label_name else [])]

    def cleaned(self, row: Mapping[str, Any], max_chars: int, where: str) -> list[tuple[str | None, bool]]:
        """Each text of a row as ``clean_text`` has it."""
        return [clean_text(row.get(column), max_chars, where) for column in self.texts]


def find_columns(
    source: Source, text_column: str | None, label_column: str | None, text_column_b: str | None = None
) -> Columns:
    """The columns of a dataset.

    :param text_column: the column if it is known; it must be there. ``label_column`` and ``text_column_b``, the
        second text of a pair, alike.
    :raises DataError: a column is not there, or there are several that it could be.
    """
    sample = [row for _, row in itertools.islice(source.rows(None), _SAMPLE_ROWS)]
    if not sample:
        raise DataError(f"{source.name}: no rows; give a file with a text and a label on each row")
    columns = source.names(sample)
    there = "the columns there are: " + ", ".join(columns)

    def find(given: str | None, usual: Sequence[str], what: str) -> str | None:
        if given is not None:
            if given not in columns:
                raise DataError(f"{source.name}: no column {given!r} for the {what}; {there}; see --{what}-column")
            return given
        present = [column for column in columns if column.lower() in usual]
        exact = [column for column in present if column.lower() == usual[0]]
        if what == "label" and not exact:
            present = [c for c in present if not c.lower().startswith("label_")] or present
        if len(exact or present) > 1:
            raise DataError(
                f"{source.name}: the {what} could be {' or '.join(exact or present)}; choose with --{what}-column"
            )
        return next(iter(exact or present), None)

    texts = _pair(source, columns, text_column, text_column_b)
    text = texts[0] if texts else find(text_column, TEXT_COLUMNS, "text")
    label = find(label_column, LABEL_COLUMNS, "label")
    if len(columns) == 2 and (text is None or label is None):
        prose = [
            c for c in columns if sum(" " in v for row in sample if isinstance(v := row.get(c), str)) * 2 > len(sample)
        ]
        if text is None and (label is not None or len(prose) == 1):
            text = next((c for c in (prose if label is None else columns) if c != label), None)
        if text is not None and label is None:
            label = next((c for c in columns if c != text), None)
    texts = texts or ((text,) if text is not None else ())
    for column, what in (*((one, "text") for one in texts or (None,)), (label, "label")):
        if column is None:
            hint = "" if find_shape(columns) is None else "; or is it instruction data? then say --task instruction"
            raise DataError(f"{source.name}: which column is the {what}? {there}; choose with --{what}-column{hint}")
        if columns.count(column) > 1:
            raise DataError(f"{source.name}: two columns are called {column!r}; rename one")
    assert text is not None and label is not None
    if label in texts:
        raise DataError(f"{source.name}: column {label!r} cannot be both text and label; {there}")
    companions = [c for c in ("label_name", f"{label}_name", "label_text") if c in columns and c not in (label, *texts)]
    return Columns(texts, label, companions[0] if companions else None)


def columns_of(source: Source, config: DataConfig) -> Columns:
    """The columns by a configuration."""
    return find_columns(source, config.text_column, config.label_column, config.text_column_b)


def rows_with(source: Source, columns: Columns) -> Iterator[Row]:
    """The rows of one file of a dataset, which must have the text and label columns.

    :raises DataError: no row has one of them; or as the file's own reading.
    """
    missing = {*columns.texts, columns.label}
    seen: list[str] = source.columns or []
    missing.difference_update(seen)
    if missing and source.columns is not None:
        raise _lacking(source, missing, seen)
    for number, row in source.rows([column for column in columns.all if source.columns is None or column in seen]):
        if missing:
            missing.difference_update(row)
            seen = list(row)
        yield number, row
    if missing and seen:
        raise _lacking(source, missing, seen)


def _lacking(source: Source, missing: set[str], there: Sequence[str]) -> DataError:
    return DataError(
        f"{source.name}: no column {sorted(missing)[0]!r}, which other files of the dataset have; the columns there "
        f"are: {', '.join(there)}"
    )


def _pair(source: Source, columns: Sequence[str], first: str | None, second: str | None) -> tuple[str, ...]:
    """The two columns of a pair, named or usual; none if the data is one of single texts."""
    there = "the columns there are: " + ", ".join(columns)
    if second is not None:
        if second not in columns:
            raise DataError(f"{source.name}: no column {second!r} for the second text; {there}; see --text-column-b")
        usual = [a for a, b in PAIR_COLUMNS if b == second.lower()]
        first = first or next((column for column in columns if column.lower() in usual), None)
        if first is None:
            raise DataError(f"{source.name}: which column is the first text? {there}; choose with --text-column")
        if first not in columns:
            raise DataError(f"{source.name}: no column {first!r} for the text; {there}; see --text-column")
        if first == second:
            raise DataError(f"{source.name}: column {first!r} cannot be both texts of a pair; {there}")
        return first, second
    if first is not None:
        return ()
    by_name = {column.lower(): column for column in columns}
    found = [(by_name[a], by_name[b]) for a, b in PAIR_COLUMNS if a in by_name and b in by_name]
    if len(found) > 1:
        shown = " or ".join(" and ".join(pair) for pair in found)
        raise DataError(f"{source.name}: the pair could be {shown}; choose with --text-column and --text-column-b")
    return found[0] if found else ()


def clean_text(value: Any, max_chars: int, where: str) -> tuple[str | None, bool]:
    """A text without the white space around it, and whether it was cut; None if there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None, False
    if not isinstance(value, str):
        if not isinstance(value, (int, float)):
            raise DataError(f"{where}: the text is a {type(value).__name__}, not a string")
        value = str(value)
    text = value.strip()
    cut = len(text) > max_chars
    if cut:
        text = text[:max_chars].rstrip()
    if not text.isascii():
        text = _SURROGATE.sub("\ufffd", text)  # half a character, from a broken JSON escape: no file can hold it
    return text or None, cut
