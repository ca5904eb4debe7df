"""The page: ``report_html`` turns what was read into one HTML file.

What stands in the page itself goes through Jinja's escaping; what the script shows lies in a block of JSON, and reaches
the page as text only. The policy in its head lets it run its own script and style, and load nothing.
"""

from __future__ import annotations

import base64
import hashlib
import math
import shlex
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from gendistill.report.charts import DotRow, Line, dot_plot, line_plot, share_bar
from gendistill.report.data import Chosen, Measured, Parts, ReportData, RoundData, config_yaml
from gendistill.report.text import script_json, shown
from gendistill.visible import visible

NAME_CHARS = 80  # of a class, a set, a model
LINE_CHARS = 300  # of an example, a reason, a text on the map
SENTENCE_CHARS = 1_000  # of what a check says
TEXT_CHARS = 4_000  # of a chosen or real text in the list, at most
LEAST_CHARS = 200  # ... and at least, however many there are
ALL_CHARS = 5_000_000  # of the texts in the list together, where that leaves them LEAST_CHARS
YAML_CHARS = 60_000
FINDINGS = 20  # of a check
OURS = "distilled"

# What each filter looks for, for a reader who has not read the code
FILTERS = {
    "generation_error": "the generator gave an error in place of a reply",
    "empty": "no text, or none where one was asked for",
    "withheld": "refused, or words of a chat about the task",
    "cut_off": "the text ends in mid-sentence",
    "length": "shorter or longer than real texts are",
    "garbage": "repeats itself, or is made of signs",
    "duplicate": "the same text as one before it",
    "real_copy": "shares a long run of words with a real row, or is one",
    "real_similarity": "its embedding is next to that of a real row",
    "wrong_label": "the teacher does not give it the label that was asked for",
    "near_duplicate": "its embedding is next to that of a candidate before it",
}


@dataclass(frozen=True)
class Row:
    """A line of the table of results, as shown."""

    method: str
    figure: str
    second: str  # macro F1, or exact match
    students: int
    lead: str  # of the distilled set over this one
    ours: bool


def report_html(data: ReportData) -> str:
    """The whole file. The same data give the same bytes."""
    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"name": _name, "line": _line, "sentence": _sentence, "visible": visible, "parts": _joined}
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("style.css", "script.js"))
    limit = text_limit(data)
    return environment.get_template("page.html.j2").render(
        data=data,
        policy="; ".join(
            (
                "default-src 'none'",
                f"style-src '{_hash(style)}'",
                f"script-src '{_hash(script)}'",
                "base-uri 'none'",
                "form-action 'none'",
            )
        ),
        style=Markup(style),
        script=Markup(script),
        block=Markup(script_json(_block(data, limit))),
        limit=limit,
        cut=_cut(data, limit),
        line_chars=LINE_CHARS,
        results=_results(data),
        plot=_plot(data),
        summary=_summary(data),
        margin=_margin(data),
        course=_course(data),
        filters=FILTERS,
        bar=share_bar,
        findings=FINDINGS,
        yaml=shown(config_yaml(data.config), YAML_CHARS),
        command=visible(f"gendistill generate -c config.yaml --out {shlex.quote(data.config['out'] + '-again')}"),
    )


def _hash(source: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def _name(text: str) -> str:
    return shown(text, NAME_CHARS)


def _line(text: str) -> str:
    return shown(text, LINE_CHARS)


def _sentence(text: str) -> str:
    return shown(text, SENTENCE_CHARS)


def _joined(parts: Parts) -> str:
    return _line(" / ".join(f"{name}: {text}" if name else text for name, text in parts))


# -- results -----------------------------------------------------------------------------------


def _key(data: ReportData) -> str:
    return "loss" if data.answers else "accuracy"


def _told(data: ReportData, values: Sequence[float]) -> str:
    """Mean and spread, in per cent or in nats."""
    unit, decimals = (1, 3) if data.answers else (100, 1)
    spread = f" ± {unit * statistics.stdev(values):.{decimals}f}" if len(values) > 1 else ""
    return f"{unit * statistics.fmean(values):.{decimals}f}{spread}"


def _with_figures(data: ReportData) -> list[tuple[Measured, list[float]]]:
    found = [(one, one.values(_key(data))) for one in data.measured]
    return [(one, values) for one, values in found if values]


def _results(data: ReportData) -> list[Row]:
    measured = _with_figures(data)
    ours = next((values for one, values in measured if one.method == OURS), None)
    rows = []
    for one, values in measured:
        second = one.values("exact" if data.answers else "macro_f1")
        lead = ""
        if ours is not None and one.method != OURS:
            difference = statistics.fmean(ours) - statistics.fmean(values)
            lead = f"{difference:+.3f}" if data.answers else f"{100 * difference:+.1f}"
        rows.append(
            Row(
                one.method,
                _told(data, values),
                f"{100 * statistics.fmean(second):.1f}" if second else "",
                len(values),
                lead.replace("-", "\N{MINUS SIGN}"),
                one.method == OURS,
            )
        )
    return rows


def _plot(data: ReportData) -> Markup | None:
    measured = _with_figures(data)
    if not measured:
        return None
    unit = 1 if data.answers else 100
    rows = [
        DotRow(
            _name(one.method),
            [unit * value for value in values],
            unit * statistics.fmean(values),
            unit * statistics.stdev(values) if len(values) > 1 else None,
            _told(data, values),
            one.method == OURS,
        )
        for one, values in measured
    ]
    axis = "loss on held-out answers, nats a token (lower is better)" if data.answers else "accuracy on test rows, %"
    told = "; ".join(f"{row.name} {row.label}" for row in rows)
    return dot_plot(rows, axis, f"Dot plot of the table of results: {told}.")


def _summary(data: ReportData) -> list[tuple[str, str]]:
    """The figures that stand at the top: (figure, what it is)."""
    noun = "conversations" if data.answers else "pairs of texts" if _pairs(data) else "texts"
    found = [(f"{len(data.rows):,}", f"{noun} in {len({row.label for row in data.rows})} {_plural(data)}")]
    if data.real_rows is not None:
        found.append((f"{data.real_rows:,}", "real rows that they stand in for"))
    of = {one.method: values for one, values in _with_figures(data)}
    if OURS in of:
        what = "loss of students trained on them" if data.answers else "accuracy of students trained on them"
        found.append((f"{_told(data, of[OURS])}{'' if data.answers else ' %'}", what))
    if OURS in of and "full data" in of:
        kept = statistics.fmean(of[OURS]) / statistics.fmean(of["full data"])
        found.append((f"{100 * kept:.1f} %", f"of the accuracy of the full data ({_told(data, of['full data'])} %)"))
    elif OURS in of and "random real rows" in of:
        found.append((_told(data, of["random real rows"]), "of as many random real rows"))
    return found


def _pairs(data: ReportData) -> bool:
    return any(len(row.parts) == 2 for row in data.rows) and not data.answers


def _plural(data: ReportData) -> str:
    return "clusters" if data.answers else "classes"


def _margin(data: ReportData) -> str | None:
    """How far the test rows alone leave an accuracy open: 1.96 standard errors of a share, in points."""
    of = {one.method: values for one, values in _with_figures(data)}
    if data.answers or not data.test_rows or OURS not in of:
        return None
    share = statistics.fmean(of[OURS])
    return f"{196 * math.sqrt(share * (1 - share) / data.test_rows):.1f}"


# -- how the choice went -----------------------------------------------------------------------------------


def _course(data: ReportData) -> dict[str, Any]:
    """The charts of the objective and of accuracy, where the journal has what they need."""
    rounds = [one for one in data.rounds if one.loss is not None]
    found: dict[str, Any] = {"rounds": None, "sizes": None, "accuracy": None, "curve": [], "portfolio": False}
    if rounds:
        proposed = [(float(one.round), loss) for one in rounds for _, loss in one.proposed]
        lines = [Line("a set that was proposed", proposed, "mark")] if proposed else []
        lines.append(Line("the choice", [(one.round, one.loss or 0.0) for one in rounds]))
        found["portfolio"] = bool(proposed)
        what = "loss of a probe on held-out real rows" if proposed else "objective"
        found["rounds"] = line_plot(lines, "round", what, "Loss by round.", places=[one.round for one in rounds])
    curve = rounds[-1].curve if rounds else []
    if curve:
        found["curve"] = curve
        sizes = [(point["chosen"], point["objective"]) for point in curve]
        found["sizes"] = line_plot([Line("objective", sizes)], "texts chosen", "objective", "Objective by size.")
        found["accuracy"] = _accuracy(data, curve)
    elif rounds and (history := _greedy_history(rounds, len(data.rows))):
        steps = [(float(number), value) for number, value in enumerate(history, 1)]
        found["sizes"] = line_plot([Line("objective", steps)], "texts chosen", "objective", "Objective by size.")
    return found


def _greedy_history(rounds: Sequence[RoundData], chosen: int) -> list[float]:
    """The objective after each text that greedy selection added, of the last round that began with none."""
    for one in reversed(rounds):
        if len(one.history) >= chosen > 0 and (one is rounds[0]):
            return one.history[:chosen]
    return []


def _accuracy(data: ReportData, curve: Sequence[dict[str, float]]) -> Markup | None:
    points = [(one["per_class"], 100 * one["probe_accuracy"]) for one in curve if "probe_accuracy" in one]
    if not points:
        return None
    lines = [Line("probe, dev rows", points)]
    ours = next((values for one, values in _with_figures(data) if one.method == OURS), None)
    if ours is not None:
        measured = [(curve[-1]["per_class"], 100 * statistics.fmean(ours))]
        lines.append(Line("fine-tuned students, test rows", measured, "measured"))
    return line_plot(lines, "texts of each class", "accuracy, %", "Accuracy by texts of each class.")


# -- what the script shows -----------------------------------------------------------------------------------


def _listed(data: ReportData) -> Iterator[Parts]:
    """Every text that the list shows, once."""
    yield from (row.parts for row in data.rows)
    yield from data.real_texts.values()
    yield from {parent.id: parent.parts for row in data.rows for parent in row.parents}.values()


def text_limit(data: ReportData) -> int:
    """Characters of a text that the list shows: fewer where there are very many texts."""
    lengths = [len(text) for parts in _listed(data) for _, text in parts]
    limit = TEXT_CHARS
    while limit > LEAST_CHARS and sum(min(length, limit) for length in lengths) > ALL_CHARS:
        limit //= 2
    return max(limit, LEAST_CHARS)


def _cut(data: ReportData, limit: int) -> int:
    """How many texts of the list are longer than what is shown of them."""
    return sum(any(len(text) > limit for _, text in parts) for parts in _listed(data))


def _block(data: ReportData, limit: int) -> dict[str, Any]:
    texts: list[list[list[str]]] = []
    places: dict[Parts, int] = {}

    def text(parts: Parts) -> int:
        """Its place in the table of texts; -1 of none."""
        if not parts:
            return -1
        if parts not in places:
            places[parts] = len(texts)
            texts.append([[visible(name), shown(text, limit)] for name, text in parts])
        return places[parts]

    def row(one: Chosen) -> dict[str, Any]:
        return {
            "id": visible(one.id),
            "text": text(one.parts),
            "class": one.label,
            "tags": [_name(tag) for tag in one.tags],
            "scores": {_name(key): value for key, value in one.scores.items()},
            "round": one.round,
            "from": [_name(one.request), _name(one.template), _name(one.generator)],
            "parents": [[visible(parent.id), parent.kind, text(parent.parts)] for parent in one.parents],
            "near": [[text(data.real_texts.get(place, ())), cosine] for place, cosine in one.nearest],
        }

    rows = [row(one) for one in data.rows]
    return {
        "classes": [_name(name) for name in data.label_names],
        "rows": rows,
        "texts": texts,
        "map": None if data.map is None else _points(data),
    }


def _points(data: ReportData) -> dict[str, Any]:
    """The map's points in columns; those of a chosen text name its row, the others have their text."""
    assert data.map is not None
    every = [(number, point) for number, layer in enumerate(data.map.layers) for point in layer.points]
    return {
        "layers": [layer.name for layer in data.map.layers],
        "x": [point.x for _, point in every],
        "y": [point.y for _, point in every],
        "class": [-1 if point.label is None else point.label for _, point in every],
        "layer": [number for number, _ in every],
        "text": [point.row if point.row is not None else _joined(point.parts) for _, point in every],
        "note": {place: _line(point.note) for place, (_, point) in enumerate(every) if point.note},
    }
