"""What labels mean, from a file: YAML or JSON (``label: description``, or ``label: {description, group}``), or CSV with
the columns ``label``, ``description`` and perhaps ``group``."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gendistill.errors import ConfigError

_KEYS = ("description", "group")


@dataclass(frozen=True)
class LabelFile:
    """By label; a label that the file says nothing of is absent."""

    descriptions: dict[str, str]
    groups: dict[str, str]


def read_label_file(path: Path, label_names: list[str]) -> LabelFile:
    """:param label_names: the labels of the data.
    :raises ConfigError: the file cannot be read, says something else, or names a label that the data does not have.
    """
    path = path.expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); see data.label_file") from error
    if path.suffix.lower() == ".csv":
        said = _from_csv(path, text)
    else:
        try:
            said = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
        except (ValueError, yaml.YAMLError) as error:
            raise ConfigError(f"{path}: no valid {'JSON' if path.suffix == '.json' else 'YAML'}; mend it") from error
    if not isinstance(said, dict):
        raise ConfigError(f"{path}: must say label: description for each label")
    descriptions, groups = {}, {}
    for key, value in said.items():
        name = str(key)
        if name not in label_names:
            shown = ", ".join(label_names[:20]) + (", ..." if len(label_names) > 20 else "")
            raise ConfigError(f"{path}: {name!r} is no label of the data; there is {shown}")
        entry = value if isinstance(value, dict) else {"description": value}
        wrong = [one for one in entry if one not in _KEYS or not isinstance(entry[one], str | None)]
        if wrong:
            raise ConfigError(f"{path}: {name}: {wrong[0]!r} must be a text called description or group")
        if entry.get("description"):
            descriptions[name] = entry["description"].strip()
        if entry.get("group"):
            groups[name] = entry["group"].strip()
    return LabelFile(descriptions, groups)


def _from_csv(path: Path, text: str) -> dict[str, Any]:
    rows = list(csv.DictReader(text.splitlines()))
    if not rows or "label" not in rows[0]:
        raise ConfigError(f"{path}: must have the columns label, description and perhaps group")
    return {str(row["label"]).strip(): {key: row.get(key) or None for key in _KEYS} for row in rows}
