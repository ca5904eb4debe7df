"""``audit.json`` as the report shows it; whatever the file holds, these are strings."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gendistill.finished import AUDIT

STATUSES = ("passed", "failed", "noted", "skipped")


@dataclass(frozen=True)
class Finding:
    row: str  # line of the set, from 1
    level: str
    message: str
    excerpt: str
    real: str  # the nearest real text; empty if there is none


@dataclass(frozen=True)
class Check:
    title: str
    status: str  # one of STATUSES
    summary: str
    figures: list[tuple[str, str]]
    findings: list[Finding]


@dataclass(frozen=True)
class Audit:
    rows: str
    real_rows: str
    checks: list[Check]


def read_audit(run: Path) -> Audit | None:
    """The audit beside a run's result; None if there is none.

    :raises ValueError: a file that is no audit.
    """
    path = run / AUDIT
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(str(error)) from error
    if not isinstance(found, dict) or not isinstance(found.get("checks"), list):
        raise ValueError("no list of checks")
    checks = [_check(one) for one in found["checks"] if isinstance(one, dict)]
    return Audit(_text(found, "rows"), _text(found, "real_rows"), checks)


def _check(values: dict[str, Any]) -> Check:
    figures, findings, status = values.get("figures"), values.get("findings"), values.get("status")
    return Check(
        title=_text(values, "title") or _text(values, "name"),
        status=status if status in STATUSES else "noted",
        summary=_text(values, "summary"),
        figures=[(str(key), str(value)) for key, value in figures.items()] if isinstance(figures, dict) else [],
        findings=[_finding(one) for one in findings if isinstance(one, dict)] if isinstance(findings, list) else [],
    )


def _finding(values: dict[str, Any]) -> Finding:
    return Finding(*(_text(values, key) for key in ("row", "level", "message", "excerpt", "real")))


def _text(values: dict[str, Any], key: str) -> str:
    value = values.get(key)
    return "" if value is None else str(value)
