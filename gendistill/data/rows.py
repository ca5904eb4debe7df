"""An example's texts as a row of a file has them, and back. The number of fields says what it is: one text, a pair, or
a conversation (system, user, assistant, ...). Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gendistill.data.instructions import as_messages, from_messages
from gendistill.data.shapes import PAIR
from gendistill.examples import Example

TEXT = "text"


def columns_for(texts: int) -> tuple[str, ...]:
    """The columns of a written row with so many texts."""
    return (TEXT,) if texts == 1 else PAIR


def texts_of(example: Example) -> dict[str, Any]:
    """The text columns of a row."""
    if len(example.fields) > len(PAIR):
        return {"messages": as_messages(example.fields)}
    return dict(zip(columns_for(len(example.fields)), example.fields, strict=True))


def fields_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The texts of a row that gendistill wrote."""
    if "messages" in row:
        found = from_messages(row["messages"])
        assert not isinstance(found, str)  # gendistill wrote it, or has checked it
        return found
    return (row[TEXT],) if TEXT in row else tuple(row[column] for column in PAIR)


def labels_of(example: Example, names: Sequence[str], sets: Sequence[tuple[str, ...]] | None) -> dict[str, Any]:
    """The label columns of a row; of multi-label data the single labels too, of instructions the cluster."""
    if len(example.fields) > len(PAIR):
        return {"cluster": example.label, "cluster_name": names[example.label]}
    several = {} if sets is None else {"labels": list(sets[example.label])}
    return {**several, "label": example.label, "label_name": names[example.label]}
