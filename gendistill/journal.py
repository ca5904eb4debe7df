"""A run's journal, read without its lock and without changing a byte of the directory."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from gendistill.errors import RunError

SCHEMA_VERSION = 1
# Of a run whose candidates are too many to hold, only those proposed are here, without requests
IN_ORDER = "FROM candidates c LEFT JOIN requests r ON r.id = c.request_id"
ORDER = "ORDER BY c.round, r.position, c.rowid"
SHARDS = "shards"  # the key of what such a run counted where its shards lie
_AT_ONCE = 500  # values of a query


class Row(NamedTuple):
    """A candidate without its text, for there may be a million of them."""

    rowid: int
    id: str
    label: int
    filter: str | None  # that turned it away


class Journal:
    """Queries that change nothing, over any connection; ``open_journal`` opens that of a run.

    Lists are in the order that requests were planned in, whatever order replies came in.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def meta(self, key: str) -> Any:
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def count(self, table: str, where: str = "1") -> int:
        return int(self._db.execute(f"SELECT COUNT(*) FROM {table} WHERE {where}").fetchone()[0])

    def tokens(self) -> tuple[int, int]:
        """Prompt and completion tokens over all replies."""
        shards = self.meta(SHARDS)
        if shards:
            return shards["prompt_tokens"], shards["completion_tokens"]
        row = self._db.execute("SELECT SUM(prompt_tokens), SUM(completion_tokens) FROM replies").fetchone()
        return row[0] or 0, row[1] or 0

    def rounds(self) -> list[tuple[int, float | None, dict[str, Any]]]:
        rows = self._db.execute("SELECT round, loss, result FROM rounds ORDER BY round")
        return [(number, loss, json.loads(result)) for number, loss, result in rows]

    def evaluations(self, seeds: int) -> tuple[dict[str, dict[int, dict[str, float]]], int]:
        """Method -> seed -> scores, the newest of each; and how many older ones there are, of other settings."""
        found: dict[str, dict[int, dict[str, float]]] = {}
        older = 0
        for method, seed, result in self._db.execute("SELECT method, seed, result FROM evaluations ORDER BY rowid"):
            if seed < seeds:
                of_method = found.setdefault(method, {})
                older += seed in of_method
                of_method[seed] = json.loads(result)
        return found, older

    def candidates(self) -> list[Row]:
        return [Row(*row) for row in self._db.execute(f"SELECT c.rowid, c.id, c.label, c.filter {IN_ORDER} {ORDER}")]

    def fields(self, rowids: Sequence[int]) -> dict[int, tuple[tuple[str, ...], str | None]]:
        """rowid -> the candidate's texts, and why it was turned away."""
        found: dict[int, tuple[tuple[str, ...], str | None]] = {}
        for start in range(0, len(rowids), _AT_ONCE):
            part = rowids[start : start + _AT_ONCE]
            marks = ",".join("?" * len(part))
            query = f"SELECT rowid, fields, reason FROM candidates WHERE rowid IN ({marks})"
            for rowid, fields, reason in self._db.execute(query, part):
                found[rowid] = (tuple(json.loads(fields)), reason)
        return found


@contextmanager
def open_journal(run: Path) -> Iterator[Journal]:
    """:raises RunError: no journal, not one of a run, of another version, or broken."""
    path = run / "run.db"
    if not path.is_file():
        raise RunError(
            f"{run}: not a run directory (no run.db); give the folder that 'gendistill generate --out' wrote"
        )
    # A journal that was closed has no log beside it, and opening it must not make one.
    log = path.with_name("run.db-wal")
    mode = "mode=ro" if log.exists() and log.stat().st_size else "immutable=1"
    try:
        db = sqlite3.connect(f"file:{quote(str(path.resolve()))}?{mode}", uri=True)
        try:
            db.execute("PRAGMA query_only=ON")
            journal = Journal(db)
            if journal.meta("schema") != SCHEMA_VERSION:
                raise RunError(f"{path}: written by another version of gendistill; use that version to report on it")
            yield journal
        finally:
            db.close()
    except sqlite3.DatabaseError as error:
        raise RunError(f"{path}: cannot be read ({error}); restore it from a copy, or run again elsewhere") from error
    except json.JSONDecodeError as error:
        raise RunError(f"{path}: holds a value that is not JSON ({error}); restore it from a copy") from error
