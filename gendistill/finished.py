"""A finished run as plain values, for what compares runs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gendistill.data.distilled import read_distilled
from gendistill.errors import DataError, RunError
from gendistill.journal import open_journal
from gendistill.store import with_defaults

RESULTS = "results.json"
AUDIT = "audit.json"


@dataclass(frozen=True)
class Finished:
    """What a finished run left."""

    folder: Path
    config: dict[str, Any]
    data: str | None  # fingerprint of the real rows
    generator: str
    rows: list[dict[str, Any]]  # of distilled.jsonl
    rounds: list[tuple[int, float | None, dict[str, Any]]]  # number, objective, and what it did
    tokens: tuple[int, int]  # of prompts and completions
    table: list[dict[str, Any]]  # method, rows, and scores one a student
    audit: dict[str, Any] | None


def read_finished(folder: Path) -> Finished:
    """Nothing in the directory is changed, and its lock is not taken.

    :raises RunError: no run, none that has finished, or one that cannot be read.
    """
    with open_journal(folder) as journal:
        if not (folder / "distilled.jsonl").is_file():
            raise RunError(f"{folder}: the run has not finished; the same generate command goes on with it")
        try:
            config = with_defaults(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))
            rows, _ = read_distilled(folder / "distilled.jsonl")
            results, audit = _json(folder / RESULTS), _json(folder / AUDIT)
        except (yaml.YAMLError, ValueError, OSError, DataError) as error:
            raise RunError(f"{folder}: cannot be read ({error}); make the run anew") from error
        return Finished(
            folder,
            config,
            journal.meta("real data"),
            (journal.meta("generator") or {}).get("name", ""),
            rows,
            journal.rounds(),
            journal.tokens(),
            [] if results is None else results["table"],
            audit,
        )


def _json(file: Path) -> dict[str, Any] | None:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
