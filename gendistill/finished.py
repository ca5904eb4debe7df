"""A run directory, read without its lock: by what shows runs and compares them, never by what makes them."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gendistill.data.distilled import read_distilled
from gendistill.errors import DataError, RunError
from gendistill.store import SCHEMA_VERSION, with_defaults

RESULTS = "results.json"
AUDIT = "audit.json"


@dataclass(frozen=True)
class Finished:
    """What a finished run left."""

    folder: Path
    config: dict[str, Any]
    meta: dict[str, Any]  # what the journal remembers of the whole run, by name
    rows: list[dict[str, Any]]  # of distilled.jsonl
    rounds: list[dict[str, Any]]  # loss, asked, replies, kept, pool, filters, ...
    tokens: tuple[int, int]  # of prompts and completions
    results: dict[str, Any] | None  # test_rows and table; None: measured by an older version, or not at all
    audit: dict[str, Any] | None


def read_finished(folder: Path) -> Finished:
    """:raises RunError: no run, none that has finished, or one that cannot be read."""
    if not (folder / "run.db").is_file():
        raise RunError(f"{folder}: not a run directory; give the --out of a finished run")
    if not (folder / "distilled.jsonl").is_file():
        raise RunError(f"{folder}: the run has not finished; the same generate command goes on with it")
    try:
        config = with_defaults(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))
        # A reader of a journal in the write-ahead mode makes files beside it, unless it is told that nobody writes.
        with sqlite3.connect(f"{(folder / 'run.db').resolve().as_uri()}?{_mode(folder)}", uri=True) as db:
            meta = {key: json.loads(value) for key, value in db.execute("SELECT key, value FROM meta")}
            rounds = [
                {**json.loads(result), "round": number, "loss": loss}
                for number, loss, result in db.execute("SELECT round, loss, result FROM rounds ORDER BY round")
            ]
            spent = db.execute("SELECT SUM(prompt_tokens), SUM(completion_tokens) FROM replies").fetchone()
        db.close()
        rows, _ = read_distilled(folder / "distilled.jsonl")
        results, audit = _json(folder / RESULTS), _json(folder / AUDIT)
    except (sqlite3.Error, yaml.YAMLError, ValueError, OSError, DataError) as error:
        raise RunError(f"{folder}: cannot be read ({error}); make the run anew") from error
    if meta.get("schema") != SCHEMA_VERSION:
        raise RunError(f"{folder}: written by another version of gendistill")
    return Finished(folder, config, meta, rows, rounds, (spent[0] or 0, spent[1] or 0), results, audit)


def _mode(folder: Path) -> str:
    return "mode=ro" if (folder / "run.db-wal").exists() else "mode=ro&immutable=1"


def _json(file: Path) -> dict[str, Any] | None:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
