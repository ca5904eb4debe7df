"""A distilled set in the shape that a trainer reads. One entry in ``FORMATS`` is one shape."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gendistill.atomic import atomic_write
from gendistill.data.card import CardInfo, dataset_card
from gendistill.data.labels import Labels
from gendistill.data.readers import open_file, suffix_of
from gendistill.errors import ConfigError, DataError, RunError

# JSON lets these stand unescaped, but many a reader of lines (str.splitlines among them) ends a line at one.
_LINE_SEPARATORS = re.compile("[\x85\u2028\u2029]")

Rows = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Format:
    """A shape to export to: ``convert(row, label_names, description)`` makes the JSON object of one row."""

    about: str  # one line, for help
    convert: Callable[[dict[str, Any], list[str], str], dict[str, Any]]
    folder: bool = False  # a folder with a card rather than one file


def json_line(value: dict[str, Any]) -> str:
    """One JSON object on one line, line end included, whatever line separators its texts hold."""
    line = json.dumps(value, ensure_ascii=False)
    return _LINE_SEPARATORS.sub(lambda match: f"\\u{ord(match[0]):04x}", line) + "\n"


def _question(label_names: list[str], description: str) -> str:
    what = f" ({description})" if description else ""
    classes = ", ".join(label_names)
    return f"Classify the text{what} into exactly one of these classes: {classes}. Answer with the class only."


def _text_label(row: dict[str, Any], names: list[str], description: str) -> dict[str, Any]:
    shape = {"text": row["text"], "label": row["label"], "label_name": names[row["label"]]}
    return shape | {"probabilities": row["probabilities"]} if "probabilities" in row else shape


def _openai(row: dict[str, Any], names: list[str], description: str) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "system", "content": _question(names, description)},
            {"role": "user", "content": row["text"]},
            {"role": "assistant", "content": names[row["label"]]},
        ]
    }


def _trl(row: dict[str, Any], names: list[str], description: str) -> dict[str, Any]:
    # The space belongs to the completion: tokenizers join it to the word that follows.
    return {
        "prompt": f"{_question(names, description)}\n\nText: {row['text']}\nClass:",
        "completion": f" {names[row['label']]}",
    }


def _alpaca(row: dict[str, Any], names: list[str], description: str) -> dict[str, Any]:
    return {"instruction": _question(names, description), "input": row["text"], "output": names[row["label"]]}


def _sharegpt(row: dict[str, Any], names: list[str], description: str) -> dict[str, Any]:
    return {
        "conversations": [
            {"from": "human", "value": f"{_question(names, description)}\n\n{row['text']}"},
            {"from": "gpt", "value": names[row["label"]]},
        ]
    }


def _hub_row(row: dict[str, Any], names: list[str], description: str) -> dict[str, Any]:
    shape = {"text": row["text"], "label": row["label"]}
    if "probabilities" in row:  # a list, since a reader of tables would make a column of every class's name
        shape["probabilities"] = [float(row["probabilities"].get(name) or 0.0) for name in names]
    return shape


FORMATS: dict[str, Format] = {
    "text-label": Format("JSONL with text, label and label_name", _text_label),
    "openai": Format("JSONL of chat messages: the classes, the text, the class", _openai),
    "trl": Format("JSONL with prompt and completion, for TRL's SFTTrainer", _trl),
    "alpaca": Format("JSONL with instruction, input and output", _alpaca),
    "sharegpt": Format("JSONL of conversations between human and gpt", _sharegpt),
    "hub-folder": Format("a folder with a card, for datasets.load_dataset or an upload", _hub_row, folder=True),
}


def export(rows: Rows, format: str, out: Path, label_names: Sequence[str], description: str = "") -> Path:
    """Write rows in one of ``FORMATS``; each file appears whole or not at all.

    Soft labels ("probabilities") go along where the format has a place for them, if every row has them.

    :param rows: with "text" and "label" (index into ``label_names``); other keys are left out.
    :param out: the file; or the folder for "hub-folder", where data/train.jsonl and README.md are written.
    :param description: what the texts are, for the instructions.
    :returns: ``out``.
    :raises ConfigError: an unknown format.
    :raises RunError: ``out`` cannot be written.
    """
    shape = _format(format)
    names = list(label_names)
    if not all(isinstance(row.get("probabilities"), dict) for row in rows):
        rows = [{key: value for key, value in row.items() if key != "probabilities"} for row in rows]
    data = "".join(json_line(shape.convert(row, names, description)) for row in rows)
    if not shape.folder:
        if out.is_dir():
            raise RunError(f"{out}: a folder; {format} writes one file, so give a file name")
        atomic_write(out, data)
        return out
    if out.is_file():
        raise RunError(f"{out}: a file; {format} writes a folder, so give another name")
    card = CardInfo(name=out.resolve().name, label_names=names, rows=rows, description=description,
                    data_file="data/train.jsonl", typed=True, real_rows=all(map(_is_real, rows)))  # fmt: skip
    atomic_write(out / "data" / "train.jsonl", data)
    atomic_write(out / "README.md", dataset_card(card))
    return out


def _is_real(row: Mapping[str, Any]) -> bool:
    """Whether ``gendistill select`` chose the row among the real ones."""
    provenance = row.get("provenance")
    return isinstance(provenance, dict) and provenance.get("candidates") == "real"


def export_file(source: Path, format: str, out: Path | None = None, description: str = "") -> tuple[Path, int]:
    """``export`` from a file: ``source`` is a JSONL with texts and labels, or a run directory.

    :param out: beside the source if None, named after the format.
    :returns: what was written, and the number of rows.
    """
    shape = _format(format)
    file = source / "distilled.jsonl" if source.is_dir() else source
    rows, label_names = read_distilled(file)
    if out is None:
        stem = file.name[: -len(suffix_of(file.name) or "")]
        out = file.with_name(f"{stem}-{format}" + ("" if shape.folder else ".jsonl"))
    if out.resolve() == file.resolve():
        raise RunError(f"{out}: would write over what is being read; give another --out")
    return export(rows, format, out, label_names, description), len(rows)


def read_distilled(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows with a text and a label: a distilled.jsonl, or any file that the loader reads with those columns.

    :returns: the rows with all their keys, "label" being the index into the names that come second and "label_name"
        the name. Numbered labels keep their order, and their numbers where none is left out.
    :raises DataError: naming the file and line, if a row has no text or no label, or if there are no rows.
    """
    source = open_file(path)
    labels = Labels(None)
    labels.begin(source)
    rows: list[dict[str, Any]] = []
    for number, values in source.rows(None):
        row = dict(values)
        text = row.get("text")
        if not isinstance(text, str) or not text.strip():
            there = ", ".join(row) or "none"
            raise DataError(f"{source.at(number)}: no text in column 'text'; the columns there are: {there}")
        name = row.get("label_name")
        label = labels.index(name if row.get("label") is None else row["label"], name, "label", number)
        if label is None:
            raise DataError(f"{source.at(number)}: no label in column 'label' or 'label_name'")
        rows.append({**row, "label": label})
    if not rows:
        raise DataError(f"{path}: no rows; give a file with a text and a label on each row")
    order = labels.close()
    for row in rows:
        row["label"] = order[row["label"]]
        row["label_name"] = labels.names[row["label"]]
    return rows, labels.names


def _format(name: str) -> Format:
    if name not in FORMATS:
        raise ConfigError(f"no format {name!r}; there is {', '.join(FORMATS)}")
    return FORMATS[name]
