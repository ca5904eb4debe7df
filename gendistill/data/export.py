"""A distilled set in the format that a trainer reads: whole files of what ``data.formats`` makes of each row."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gendistill.atomic import atomic_write
from gendistill.data.card import CardInfo, dataset_card
from gendistill.data.distilled import read_distilled
from gendistill.data.formats import (
    FORMATS,
    LLAMA_FACTORY_INFO,
    LLAMA_FACTORY_NAME,
    TEXT_NAMES,
    Format,
    Wording,
    find_format,
)
from gendistill.data.readers import suffix_of
from gendistill.data.shapes import common_shape, in_turn, messages_of
from gendistill.errors import DataError, RunError

__all__ = ["FORMATS", "Format", "export", "export_file", "json_line", "read_distilled"]

# JSON lets these stand unescaped, but many a reader of lines (str.splitlines among them) ends a line at one.
_LINE_SEPARATORS = re.compile("[\x85\u2028\u2029]")

Rows = Sequence[dict[str, Any]]


def json_line(value: dict[str, Any]) -> str:
    """One JSON object on one line, line end included, whatever line separators its texts hold."""
    line = json.dumps(value, ensure_ascii=False)
    return _LINE_SEPARATORS.sub(lambda match: f"\\u{ord(match[0]):04x}", line) + "\n"


def export(
    rows: Rows,
    format: str,
    out: Path,
    label_names: Sequence[str],
    description: str = "",
    text_names: Sequence[str] = TEXT_NAMES,
) -> Path:
    """Write rows in one of ``FORMATS``; each file appears whole or not at all.

    Soft labels ("probabilities") go along where the format has a place for them, if every row has them.

    :param rows: of one shape, as ``read_distilled`` gives them; keys that the format has no place for are left out.
    :param out: the file; or the folder for "hub-folder" (data/train.jsonl and README.md) and "llama-factory"
        (train.jsonl and dataset_info.json).
    :param label_names: the classes that "label" is an index into; for several labels a row the single labels; for
        instructions none.
    :param description: what the texts are, for the question that is asked of each.
    :param text_names: what the two texts of a pair are called there.
    :returns: ``out``.
    :raises ConfigError: an unknown format, or one that has no place for rows of this shape.
    :raises DataError: rows of several shapes, a label that is not among the names, or a conversation in which somebody
        speaks twice in a row for a format whose readers would skip it.
    :raises RunError: ``out`` cannot be written.
    """
    shape = common_shape(rows)
    found = find_format(format, shape)
    _check_out(out, format, found)
    if not all(isinstance(row.get("probabilities"), dict) for row in rows):
        rows = [{key: value for key, value in row.items() if key != "probabilities"} for row in rows]
    wording = Wording(shape, list(label_names), description, text_names)
    if shape == "instruction":
        rows = [{**row, "messages": messages_of(row, f"row {number}")} for number, row in enumerate(rows, 1)]
        _check_turns(rows, format, found)
        wording = Wording(
            shape,
            [],
            histories=any(sum(message["role"] != "system" for message in row["messages"]) > 2 for row in rows),
            systems=any(row["messages"][0]["role"] == "system" for row in rows),
        )
    elif shape == "multi-label":
        _check_labels(rows, label_names)
    data = "".join(json_line(found.convert(row, wording)) for row in rows)
    if format == "llama-factory":
        atomic_write(out / found.data_file, data)
        atomic_write(out / "dataset_info.json", json.dumps(LLAMA_FACTORY_INFO, indent=2) + "\n")
    elif format == "hub-folder":
        card = CardInfo(name=out.resolve().name, label_names=wording.label_names, rows=rows, description=description,
                        data_file=found.data_file, typed=True, real_rows=all(map(_is_real, rows)))  # fmt: skip
        atomic_write(out / found.data_file, data)
        atomic_write(out / "README.md", dataset_card(card))
    else:
        atomic_write(out, data)
    return out


def export_file(
    source: Path,
    format: str,
    out: Path | None = None,
    description: str = "",
    text_names: Sequence[str] = TEXT_NAMES,
) -> tuple[Path, int]:
    """``export`` from a file: ``source`` is a file of rows of one shape, or a run directory.

    :param out: beside the source if None, named after the format.
    :returns: what was written, and the number of rows.
    """
    found = find_format(format)
    file = source / "distilled.jsonl" if source.is_dir() else source
    if source.is_dir() and not file.is_file():
        raise DataError(f"{source}: a folder without a distilled.jsonl; is the run finished?")
    rows, label_names = read_distilled(file)
    if out is None:
        stem = file.name[: -len(suffix_of(file.name) or "")]
        out = file.with_name(f"{stem}-{format}" + ("" if found.data_file else ".jsonl"))
    if (out / found.data_file).resolve() == file.resolve():
        raise RunError(f"{file}: would write over what is being read; give another --out")
    try:
        return export(rows, format, out, label_names, description, text_names), len(rows)
    except DataError as error:  # it knows the row, and only here the file is known
        raise DataError(f"{file}, {error}") from error


def _check_out(out: Path, format: str, found: Format) -> None:
    """Refuse a place that is of the other kind, or a folder whose own card or list would be lost."""
    if not found.data_file:
        if out.is_dir():
            raise RunError(f"{out}: a folder; {format} writes one file, so give a file name")
        return
    if out.is_file():
        raise RunError(f"{out}: a file; {format} writes a folder, so give another name")
    if format == "hub-folder" and (out / "README.md").exists() and not (out / found.data_file).exists():
        raise RunError(f"{out}: has a README.md that is not an export's; give a folder of its own")
    info = out / "dataset_info.json"
    if format == "llama-factory" and info.exists():
        try:
            others = set(json.loads(info.read_text(encoding="utf-8"))) != {LLAMA_FACTORY_NAME}
        except (OSError, ValueError, TypeError):
            others = True
        if others:
            raise RunError(f"{info}: lists other datasets and would be lost; give a folder of its own")


def _check_turns(rows: Rows, format: str, found: Format) -> None:
    able = ", ".join(name for name, other in FORMATS.items() if "instruction" in other.shapes and not other.in_turn)
    for number, row in enumerate(rows, 1):
        if found.in_turn and not in_turn(row["messages"]):
            roles = ", ".join(message["role"] for message in row["messages"])
            raise DataError(
                f"row {number}: {format} takes user and assistant in turn, and these are {roles}; choose {able}"
            )


def _check_labels(rows: Rows, label_names: Sequence[str]) -> None:
    names = set(label_names)
    for number, row in enumerate(rows, 1):
        unknown = [name for name in row["labels"] if name not in names]
        if unknown:
            raise DataError(f"row {number}: label {unknown[0]!r} is not among the names: {', '.join(label_names)}")


def _is_real(row: Mapping[str, Any]) -> bool:
    """Whether ``gendistill select`` chose the row among the real ones."""
    provenance = row.get("provenance")
    return isinstance(provenance, dict) and provenance.get("candidates") == "real"
