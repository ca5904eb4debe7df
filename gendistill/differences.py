"""What differs between two finished runs: configuration, data, choice and results."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scipy.stats import norm

from gendistill.finished import Finished
from gendistill.store import differing_keys, value_at

QUIET = ("out",)  # differs between any two runs


@dataclass(frozen=True)
class Line:
    """One thing in both runs, as it is shown; ``difference`` is left empty where there is nothing to say."""

    what: str
    a: str
    b: str
    difference: str = ""


def differences(a: Finished, b: Finished) -> dict[str, list[Line]]:
    """Heading -> lines; headings under which the runs are the same are there, without lines."""
    return {
        "configuration": _configuration(a, b),
        "data": _data(a, b),
        "choice": _choice(a, b),
        "results": _results(a, b),
        "audit": _audit(a, b),
    }


def _configuration(a: Finished, b: Finished) -> list[Line]:
    keys = [key for key in differing_keys(a.config, b.config) if key not in QUIET]
    return [Line(key, _shown(value_at(a.config, key)), _shown(value_at(b.config, key))) for key in keys]


def _data(a: Finished, b: Finished) -> list[Line]:
    """By fingerprint: the same file may hold other rows now."""
    same = a.data == b.data
    lines = (
        [] if same else [Line("real rows", a.config["data"]["dataset"], b.config["data"]["dataset"], "not the same")]
    )
    return lines + ([] if a.generator == b.generator else [Line("generator", a.generator, b.generator)])


def _choice(a: Finished, b: Finished) -> list[Line]:
    ids = [{row["id"] for row in run.rows} for run in (a, b)]
    shared = len(ids[0] & ids[1])
    lines = []
    if ids[0] != ids[1]:
        lines.append(Line("texts chosen", str(len(ids[0])), str(len(ids[1])), f"{shared} in both"))
    counts = [Counter(_group(row) for row in run.rows) for run in (a, b)]
    both = {
        name: sum(_group(row) == name and row["id"] in ids[1] for row in a.rows) for name in {**counts[0], **counts[1]}
    }
    for name, same in both.items():
        if not same == counts[0][name] == counts[1][name]:
            lines.append(Line(f"of {name}", str(counts[0][name]), str(counts[1][name]), f"{same} in both"))
    pools, losses = ([run.rounds[-1][2].get("pool") for run in (a, b)], [run.rounds[-1][1] for run in (a, b)])
    for what, (left, right) in (("candidates in the pool", pools), ("objective at the end", losses)):
        if left != right:
            lines.append(Line(what, _number(left), _number(right)))
    if a.tokens != b.tokens:
        lines.append(Line("tokens in and out", *(" and ".join(f"{n:,}" for n in run.tokens) for run in (a, b))))
    return lines


def _results(a: Finished, b: Finished) -> list[Line]:
    """Every row of either table; the difference of means with a 95 % interval where both runs have several students."""
    tables = [{row["method"]: row for row in run.table} for run in (a, b)]
    lines = []
    for method in {**tables[0], **tables[1]}:
        scores = [_scores(table.get(method)) for table in tables]
        measure, unit = (
            ("loss", 1.0) if any("loss" in table.get(method, {}) for table in tables) else ("accuracy", 100.0)
        )
        shown = [_spread([unit * score for score in one], 3 if unit == 1 else 1) for one in scores]
        rows = [table.get(method, {}).get("rows") for table in tables]
        if scores[0] != scores[1] or rows[0] != rows[1]:
            lines.append(Line(f"{measure}, {method}", shown[0], shown[1], _lead(scores[0], scores[1], unit)))
    return lines


def _audit(a: Finished, b: Finished) -> list[Line]:
    checks = [{check["title"]: check["status"] for check in (run.audit or {}).get("checks", [])} for run in (a, b)]
    names = {**checks[0], **checks[1]}
    shown = [Line(name, checks[0].get(name, "not made"), checks[1].get(name, "not made")) for name in names]
    return [line for line in shown if line.a != line.b]


def _scores(row: Mapping[str, Any] | None) -> list[float]:
    return [] if row is None else list(row.get("accuracy") or row.get("loss") or [])


def _spread(scores: list[float], decimals: int) -> str:
    if not scores:
        return "not measured"
    spread = f" ± {statistics.stdev(scores):.{decimals}f}" if len(scores) > 1 else ""
    return f"{statistics.fmean(scores):.{decimals}f}{spread}"


def _lead(a: list[float], b: list[float], unit: float) -> str:
    """B less A, as Welch has it, by the normal approximation: over students alone."""
    if not a or not b:
        return ""
    decimals = 3 if unit == 1 else 1
    lead = unit * (statistics.fmean(b) - statistics.fmean(a))
    if len(a) < 2 or len(b) < 2:
        return f"{lead:+.{decimals}f}"
    half = unit * norm.ppf(0.975) * math.sqrt(statistics.variance(a) / len(a) + statistics.variance(b) / len(b))
    return f"{lead:+.{decimals}f} [{lead - half:.{decimals}f}, {lead + half:.{decimals}f}]"


def _group(row: Mapping[str, Any]) -> str:
    return str(row.get("cluster_name", row.get("label_name")))


def _shown(value: Any) -> str:
    return "-" if value is None else str(value)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
