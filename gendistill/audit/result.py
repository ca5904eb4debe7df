"""What an audit says: checks with their figures, and findings at rows. Plain values, the same for the same input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Level = Literal["error", "warning", "note"]
Status = Literal["passed", "failed", "noted", "skipped"]
Number = int | float

VERSION = 1
LEVELS: tuple[Level, ...] = ("error", "warning", "note")  # the gravest first
DECIMALS = 4  # of figures


@dataclass(frozen=True)
class Finding:
    """Something at a row. Its texts are masked and short."""

    row: int  # line of the file, from 1
    id: str
    level: Level
    message: str
    excerpt: str
    real: str | None = None  # the nearest real text, masked


@dataclass(frozen=True)
class Check:
    name: str
    title: str
    status: Status
    summary: str  # one plain sentence with the figures
    figures: dict[str, Number] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True)
class Audit:
    """:param file: the file that was looked at, as it was named.
    :param real: where the real data is from; ``real_rows`` of it were compared with.
    """

    file: str
    rows: int
    real: str
    real_rows: int
    checks: list[Check]

    def to_json(self) -> dict[str, Any]:
        """The content of an audit.json."""
        return {
            "version": VERSION,
            "file": self.file,
            "rows": self.rows,
            "real": self.real,
            "real_rows": self.real_rows,
            "checks": [
                {
                    "name": check.name,
                    "title": check.title,
                    "status": check.status,
                    "summary": check.summary,
                    "figures": {key: _rounded(value) for key, value in check.figures.items()},
                    "findings": [
                        {
                            "row": finding.row,
                            "id": finding.id,
                            "level": finding.level,
                            "message": finding.message,
                            "excerpt": finding.excerpt,
                            "real": finding.real,
                        }
                        for finding in check.findings
                    ],
                }
                for check in self.checks
            ],
        }

    def to_sarif(self) -> dict[str, Any]:
        """The findings as SARIF 2.1.0, for viewers of code scanning."""
        from gendistill.audit.sarif import sarif

        return sarif(self)

    def line(self) -> str:
        """The checks by their status, the gravest first."""
        told = []
        for status in ("failed", "noted", "skipped", "passed"):
            names = [check.name for check in self.checks if check.status == status]
            if names:
                told.append(f"{status} {', '.join(names)}")
        return "audit: " + ("; ".join(told) or "no check was made")

    def failing(self, wanted: Sequence[str]) -> list[str]:
        """What is as grave as was said, in words; empty if nothing is.

        :param wanted: names of checks, which must not have failed; or a level, at which no finding may be, nor above.
            A check that failed without a finding of its own counts as an error, one that is noted as a note.
        """
        lines = []
        for check in self.checks:
            for name in wanted:
                if name == check.name and check.status == "failed":
                    lines.append(f"{check.name} failed")
                elif name in LEVELS and (worst := _worst(check)) is not None and worst <= LEVELS.index(name):
                    lines.append(f"{check.name}: {LEVELS[worst]}")
        return list(dict.fromkeys(lines))


def _worst(check: Check) -> int | None:
    """The place among ``LEVELS`` of the gravest thing that a check says."""
    places = [LEVELS.index(finding.level) for finding in check.findings]
    places += {"failed": [0], "noted": [2]}.get(check.status, [])
    return min(places, default=None)


def _rounded(value: Number) -> Number:
    return value if isinstance(value, int) else round(float(value), DECIMALS)
