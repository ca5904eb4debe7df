"""Replies on their way to a shard: kept from the moment that they come, so that none is asked for twice.

A shard is written when all its replies are there. Whoever writes it may die before; whoever takes its place asks the
keeper first. The keeper lives beside the run's own process, on a disk of that machine.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from gendistill.generators.base import Reply

FILE = "arriving.db"
_SLICE = 500  # names in one statement
_SCHEMA = """
CREATE TABLE IF NOT EXISTS replies (
    request_id TEXT PRIMARY KEY, text TEXT NOT NULL, finish_reason TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, error TEXT);
"""


class Keeper:
    """:param path: of its file, which is made; a file left by an earlier process is gone on with."""

    def __init__(self, path: Path) -> None:
        # An actor's methods come from one thread at a time, but not from the one that made it
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")  # what is committed survives the process
        self._db.executescript(_SCHEMA)
        (self._came,) = self._db.execute("SELECT COUNT(*) FROM replies").fetchone()

    def add(self, replies: Sequence[Reply]) -> None:
        self._db.execute("BEGIN")
        new = self._db.executemany(
            "INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?, ?, ?)",
            [(r.request_id, r.text, r.finish_reason, r.prompt_tokens, r.completion_tokens, r.error) for r in replies],
        )
        self._db.execute("COMMIT")
        self._came += new.rowcount

    def known(self, ids: Sequence[str]) -> list[Reply]:
        """The replies to these requests that are here."""
        found: list[Reply] = []
        for start in range(0, len(ids), _SLICE):
            part = ids[start : start + _SLICE]
            marks = ", ".join("?" * len(part))
            rows = self._db.execute(f"SELECT * FROM replies WHERE request_id IN ({marks})", part)
            found += [Reply(*row) for row in rows]
        return found

    def drop(self, ids: Sequence[str]) -> None:
        """They are in a shard now."""
        self._db.execute("BEGIN")
        self._db.executemany("DELETE FROM replies WHERE request_id = ?", [(id,) for id in ids])
        self._db.execute("COMMIT")

    def count(self) -> int:
        """Replies that came: those that were here at the beginning, and since."""
        return self._came

    def close(self) -> None:
        self._db.close()
