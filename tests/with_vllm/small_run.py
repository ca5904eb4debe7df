"""A small run on BBC News by the command line, and what it left."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
# One round on BBC News, a student that is hardly trained; so little is asked of the teacher's opinion.
SMALL = [
    "--dataset", "builtin:bbc-news", "--per-class", "2", "--rounds", "1", "--candidates", "8", "--eval-seeds", "0",
    "--student", "builtin:minilm", "--set", "generator.samples_per_prompt=4", "--set", "data.max_reference_rows=150",
    "--set", "student.steps=8", "--set", "student.epochs=0", "--set", "objective.target_rows_per_class=20", "--set",
    "filters.teacher_probability=0.1",
]  # fmt: skip
BUDGET = [label for label in range(5) for _ in range(2)]


def gendistill(arguments: Sequence[str], timeout_s: float = 400.0, **environment: str) -> tuple[int, str]:
    """(exit status, what it printed) of the command line, in this interpreter's environment."""
    done = subprocess.run(
        [sys.executable, "-m", "gendistill", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        cwd=ROOT, timeout=timeout_s, env=os.environ | environment,
    )  # fmt: skip
    return done.returncode, done.stdout


class Journal:
    """What a run's journal holds."""

    def __init__(self, run: Path) -> None:
        with sqlite3.connect(run / "run.db") as db:
            self.asked = {id: json.loads(body) for id, body in db.execute("SELECT id, body FROM requests")}
            columns = "request_id, text, finish_reason, prompt_tokens, completion_tokens, error"
            rows = db.execute(f"SELECT {columns} FROM replies").fetchall()
            self.meta: dict[str, Any] = {
                key: json.loads(value) for key, value in db.execute("SELECT key, value FROM meta")
            }
        self.replies = {row[0]: row[1:] for row in rows}
        self.prompt_tokens = sum(row[3] for row in rows)
        self.completion_tokens = sum(row[4] for row in rows)


def labels(run: Path) -> list[int]:
    """Of the distilled set, in order."""
    return [json.loads(line)["label"] for line in (run / "distilled.jsonl").read_text(encoding="utf-8").splitlines()]
