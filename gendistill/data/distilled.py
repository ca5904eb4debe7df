"""A distilled set back from its file, or any file of rows in one of the shapes of ``data.shapes``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gendistill.data.labels import Labels
from gendistill.data.readers import Source, open_file
from gendistill.data.shapes import PAIR, Shape, messages_of, mixed, shape_of
from gendistill.errors import DataError

Row = dict[str, Any]

_OTHERS = "'text_a' and 'text_b', 'messages', 'instruction' and 'output', 'prompt' and 'completion'"


def read_distilled(path: Path) -> tuple[list[Row], list[str]]:
    """Rows of one shape: a distilled.jsonl, or any file that the loader reads with the columns of a shape.

    * classification and pairs: "label" becomes the index into the names, "label_name" the name. Numbered labels keep
      their order, and their numbers where none is left out.
    * multi-label: the names are the single labels, and "labels" lists those of the row; "label" and "label_name", which
      say the combination, stay as they are.
    * instruction: the conversation becomes "messages", whatever it was called. There are no names.

    :returns: the rows with all their other keys, and the names.
    :raises DataError: naming the file and line, if a row lacks a text or a label, if its conversation cannot be trained
        on, if it has another shape than the first, or if there are no rows.
    """
    source = open_file(path)
    labels = Labels(None)
    labels.begin(source)
    shape: Shape | None = None
    rows: list[Row] = []
    for number, values in source.rows(None):
        found = shape_of(values)
        shape = shape or found
        if shape is None:
            raise _no_text(source.at(number), values, f" (nor is there {_OTHERS})")
        rows.append(_read(values, shape, found, labels, source, number))
    if not rows:
        raise DataError(f"{path}: no rows; give a file with a text and a label, or a conversation, on each row")
    if shape == "instruction":
        return rows, []
    order = labels.close()
    for row in rows:
        if shape == "multi-label":
            row["labels"] = [labels.names[order[index]] for index in row["labels"]]
        else:
            row["label"] = order[row["label"]]
            row["label_name"] = labels.names[row["label"]]
    if not labels.names:
        raise DataError(f"{path}: no row has a label in column 'labels'")
    return rows, labels.names


def _read(
    values: Mapping[str, Any], shape: Shape, found: Shape | None, labels: Labels, source: Source, number: int
) -> Row:
    where = source.at(number)
    if found not in (shape, None) and not _unfinished(values, found, shape):
        assert found is not None
        raise mixed(where, found, shape)
    if shape == "instruction":
        if found is None:
            filled = ", ".join(key for key, value in values.items() if value is not None) or "none"
            raise DataError(
                f"{where}: no conversation ('messages', 'instruction' and 'output', or 'prompt' and 'completion'); "
                f"the columns with a value are: {filled}"
            )
        dropped = ("instruction", "input", "output", "system", "history", "prompt", "completion")
        kept = {key: value for key, value in values.items() if key not in dropped}
        return {**kept, "messages": messages_of(values, where)}
    if shape == "pairs":
        for side in PAIR:
            if not _has_text(values.get(side)):
                raise DataError(f"{where}: no text in column {side!r}; a pair needs both {PAIR[0]!r} and {PAIR[1]!r}")
    elif not _has_text(values.get("text")):
        raise _no_text(where, values)
    if shape == "multi-label":
        return {**values, "labels": _indices(values, labels, where, number)}
    name = values.get("label_name")
    value = values.get("label")
    label = labels.index(name if value is None else value, name, "label", number)
    if label is None:
        several = (
            "; 'labels' is no list, so the row is not of several labels" if values.get("labels") is not None else ""
        )
        raise DataError(f"{where}: no label in column 'label' or 'label_name'{several}")
    return {**values, "label": label}


def _unfinished(values: Mapping[str, Any], found: Shape | None, shape: Shape) -> bool:
    """Whether a row among those of several labels has simply none, rather than one label in their place."""
    one = values.get("label") is not None or values.get("label_name") is not None
    return shape == "multi-label" and found == "classification" and not one


def _indices(values: Mapping[str, Any], labels: Labels, where: str, number: int) -> list[int]:
    given = values.get("labels")
    if not isinstance(given, list):
        raise DataError(f"{where}: no list of label names in column 'labels'; it may be empty, but not missing")
    indices = []
    for value in given:
        index = labels.index(value, None, "labels", number)
        if index is None:
            raise DataError(f"{where}: an empty name among the labels in column 'labels'")
        indices.append(index)
    return list(dict.fromkeys(indices))


def _has_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _no_text(where: str, values: Mapping[str, Any], others: str = "") -> DataError:
    there = ", ".join(values) or "none"
    return DataError(f"{where}: no text in column 'text'{others}; the columns there are: {there}")
