"""What a report says, read from a run directory: ``read_report`` gives a ``ReportData`` of plain values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from gendistill.config import Config, load_config
from gendistill.data.rows import fields_of, texts_of
from gendistill.data.shapes import NO_LABEL
from gendistill.errors import GendistillError, RunError
from gendistill.evaluate import FULL
from gendistill.evaluate_answers import UNTRAINED
from gendistill.examples import Example
from gendistill.filters import FUNNEL
from gendistill.generators.meter import cost
from gendistill.generators.urls import shown as shown_url
from gendistill.journal import SHARDS, Journal, Row, open_journal
from gendistill.report.audit import Audit, read_audit
from gendistill.report.map import LAYERS, MOST, Axes, Layer, Point, TextMap, main_axes, nearest, sampled
from gendistill.report.vectors import FloatArray, Vectors
from gendistill.store import fingerprint

if TYPE_CHECKING:
    from gendistill.data import RealData

Parts = tuple[tuple[str, str], ...]  # an example's texts with their names: the name of a single text is empty

NEIGHBOURS = 3
EXAMPLES = 3  # of what each filter turned away
_METHODS = ("distilled", "random real rows", "k-means-nearest real rows", "random of the pool", FULL, UNTRAINED)
NOT_JOURNALLED = (
    "The journal of this run has no figures by the number of texts: an older version of gendistill wrote it."
)


@dataclass(frozen=True)
class Measured:
    """What fresh students trained on one set reached: scores by seed, as the journal has them."""

    method: str
    scores: list[dict[str, float]]

    def values(self, key: str) -> list[float]:
        return [one[key] for one in self.scores if _number(one.get(key))]


@dataclass(frozen=True)
class RoundData:
    round: int
    loss: float | None
    proposed: list[tuple[str, float]]  # the sets of a portfolio and their losses; none of another method
    curve: list[dict[str, float]]  # by texts of each class; see ``gendistill.curve``
    history: list[float]


@dataclass(frozen=True)
class Rejected:
    """What a filter turned away: examples are (class, texts, reason)."""

    filter: str
    count: int
    examples: list[tuple[int, Parts, str]]


@dataclass(frozen=True)
class Funnel:
    asked: int
    replies: int
    failed: int  # replies that are errors
    parsed: int  # texts read from the replies
    rejected: list[Rejected]
    pool: int
    chosen: int


@dataclass(frozen=True)
class Parent:
    """A text that a prompt showed."""

    id: str
    kind: str  # "real row", "candidate", "not known any more"
    parts: Parts


@dataclass(frozen=True)
class Chosen:
    """A row of distilled.jsonl, with the real rows nearest to it: (place in ``ReportData.real_texts``, cosine)."""

    id: str
    parts: Parts
    label: int
    tags: list[str]  # the name of its class, or its labels
    scores: dict[str, float]
    round: int | None
    request: str
    template: str
    generator: str
    parents: list[Parent]
    nearest: list[tuple[int, float]]


@dataclass(frozen=True)
class Spending:
    prompt_tokens: int
    completion_tokens: int
    usage: dict[str, float] | None  # of servers
    price: float | None


@dataclass(frozen=True)
class ReportData:
    """Everything that the page is made from. ``notes`` say what is missing, and why."""

    name: str
    source: str
    config: dict[str, Any]
    seed: int
    answers: bool  # the table holds losses of answers, not accuracies
    groups: str  # what a class is called: "class", or "cluster" for instructions
    label_names: list[str]
    rows: list[Chosen]
    real_texts: dict[int, Parts]  # reference rows that are shown, by their place
    real_rows: int | None
    test_rows: int | None
    measured: list[Measured]
    teacher_accuracy: float | None
    rounds: list[RoundData]
    funnel: Funnel
    map: TextMap | None
    spending: Spending
    audit: Audit | None
    notes: list[str] = field(default_factory=list)


def read_report(run: Path, real: RealData | None = None) -> ReportData:
    """Read a finished run. Nothing in the directory is changed, and its lock is not taken.

    :param real: the run's real data, if at hand; loaded by the run's configuration if None, and left out, with a note,
        if it cannot be loaded or is not what the run saw.
    :raises RunError: not a run directory, not finished, or its journal or result cannot be read.
    """
    with open_journal(run) as journal:
        notes: list[str] = []
        config = _config(run, journal)
        written = _distilled(run, config)
        rows = journal.candidates()
        data = _real(config, journal.meta("real data"), real, notes)
        vectors = Vectors(run)
        real_ids, real_vectors = vectors.real()
        texts = {} if data is None else {row.id: row for row in (*data.train, *data.target)}
        known = [texts.get(id) for id in real_ids]
        chosen_ids = [str(row["id"]) for row in written]
        answers = config.data.task == "instruction" or any("messages" in row for row in written)
        names = _names(written, rows, data, answers)
        drawn = _drawn(rows, set(chosen_ids), vectors, config.seed)
        found = vectors.of({*chosen_ids, *(row.id for _, part in drawn.values() for row in part)})
        place_of = {place: found[id] for place, id in enumerate(chosen_ids) if id in found}
        near = nearest(place_of, real_vectors, NEIGHBOURS)
        chosen = _chosen(journal, written, rows, texts, near)
        shown = sorted({place for row in near.values() for place, _ in row})
        if real_ids and not place_of:
            notes.append("No embedding of a chosen text is left: there are no nearest real rows.")
        axes = main_axes(real_vectors)
        text_map = None
        if axes is None:
            notes.append("There is no map: the run directory has no embeddings of real rows that span a plane.")
        else:
            labels = [None if row is None or answers else row.label for row in known]
            layers = [_real_layer(axes, real_vectors, labels, known, config.seed)]
            layers += [_candidates(axes, journal, name, *drawn[name], found) for name in LAYERS[1:3]]
            text_map = TextMap([*layers, _chosen_layer(axes, chosen, found)], axes.explained, "real rows")
        if vectors.broken:
            notes.append(f"Feature files that cannot be read are left out: {', '.join(sorted(vectors.broken))}.")
        measured, older = _measured(journal, config)
        if older:
            notes.append(
                f"The journal also holds {older} older measurements under other settings; the newest are shown."
            )
        rounds = [_round(*one) for one in journal.rounds()]
        if rounds and not rounds[-1].curve:
            notes.append(NOT_JOURNALLED)
        prompt, completion = journal.tokens()
        return ReportData(
            name=config.out.name or run.resolve().name,
            source=config.data.dataset if data is None else data.source,
            config=_without_credentials(json.loads(config.model_dump_json())),
            seed=config.seed,
            answers=answers,
            groups="cluster" if answers else "class",
            label_names=names,
            rows=chosen,
            real_texts={place: _parts_of(row.fields) for place in shown if (row := known[place]) is not None},
            real_rows=None if data is None else len(data.train),
            test_rows=None if data is None else config.evaluate.test_size(len(data.test)),
            measured=measured,
            teacher_accuracy=journal.meta("teacher dev accuracy"),
            rounds=rounds,
            funnel=_funnel(journal, rows, len(written)),
            map=text_map,
            spending=Spending(
                prompt, completion, journal.meta("usage"), cost(prompt, completion, config.generator.server)
            ),
            audit=_audit(run, notes),
            notes=notes,
        )


# -- the files -----------------------------------------------------------------------------------


def _config(run: Path, journal: Journal) -> Config:
    if (run / "config.yaml").is_file():
        return load_config(run / "config.yaml")
    try:
        return Config(**(journal.meta("config") or {}))
    except ValueError as error:
        raise RunError(f"{run}: no config.yaml, and run.db holds no configuration that this version reads") from error


def _distilled(run: Path, config: Config) -> list[dict[str, Any]]:
    path = run / "distilled.jsonl"
    if not path.is_file():
        raise RunError(
            f"{run}: the run is not finished (no distilled.jsonl); 'gendistill generate -c {run}/config.yaml' goes on "
            "with it, and writes the report at its end"
        )
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            fields_of(row), row["id"], row["label"] if "label" in row else row["cluster"]
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            raise RunError(
                f"{path}: line {number} is not a row that a run wrote; run the same command again"
            ) from error
        rows.append(row)
    return rows


def _audit(run: Path, notes: list[str]) -> Audit | None:
    try:
        return read_audit(run)
    except ValueError:
        notes.append("audit.json is there but cannot be read; 'gendistill audit' writes it again.")
        return None


def _real(config: Config, expected: str | None, real: RealData | None, notes: list[str]) -> RealData | None:
    """The real data, if it can still be had and is what the run saw."""
    if real is None:
        try:
            if config.data.task == "instruction":
                from gendistill.data.load_instructions import load_instructions

                real = load_instructions(config.data, seed=config.seed)
            else:
                from gendistill.data import load_real

                real = load_real(config.data, per_class=1, seed=config.seed, by_row=config.private)
        except GendistillError as error:
            notes.append(f"The real data cannot be loaded any more, so real texts are left out: {error}")
            return None
    parts = (real.train, real.dev, real.test, real.target)
    if expected is not None and fingerprint([row for part in parts for row in part]) != expected:
        notes.append("The real data is not what this run saw (it has changed since), so real texts are left out.")
        return None
    return real


def _without_credentials(config: dict[str, Any]) -> dict[str, Any]:
    server = config["generator"]["server"]
    server["base_urls"] = [shown_url(url) for url in server["base_urls"]]
    return config


def config_yaml(config: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)


# -- texts -----------------------------------------------------------------------------------


def _parts_of(fields: Sequence[str]) -> Parts:
    """The texts of an example with the names of their columns or speakers."""
    columns = texts_of(Example(tuple(fields), 0)) if fields else {}
    if "messages" in columns:
        return tuple((turn["role"], turn["content"]) for turn in columns["messages"])
    return tuple(("" if len(columns) == 1 else name, text) for name, text in columns.items())


def _names(
    written: Sequence[Mapping[str, Any]], rows: Sequence[Row], real: RealData | None, answers: bool
) -> list[str]:
    """Of every class that there is a candidate of, by its index."""
    found = {_label(row): str(row.get("label_name", row.get("cluster_name", ""))) for row in written}
    if real is not None and not answers:
        found |= dict(enumerate(real.label_names))
    count = 1 + max([-1, *found, *(row.label for row in rows)])
    kind = "group" if answers else "class"
    return [found.get(label) or f"{kind} {label + 1}" for label in range(count)]


def _label(row: Mapping[str, Any]) -> int:
    return int(row["label"] if "label" in row else row["cluster"])


def _chosen(
    journal: Journal,
    written: Sequence[Mapping[str, Any]],
    rows: Sequence[Row],
    real: Mapping[str, Example],
    near: Mapping[int, list[tuple[int, float]]],
) -> list[Chosen]:
    parents = {id for row in written for id in row.get("provenance", {}).get("parents", ())}
    of_run = {row.id: row.rowid for row in rows if row.id in parents and row.id not in real and row.filter is None}
    fields = journal.fields(list(of_run.values()))

    def parent(id: str) -> Parent:
        if id in real:
            return Parent(id, "real row", _parts_of(real[id].fields))
        if id in of_run:
            return Parent(id, "candidate", _parts_of(fields[of_run[id]][0]))
        return Parent(id, "not known any more", ())

    found = []
    for place, row in enumerate(written):
        came = row.get("provenance", {})
        several = row.get("labels")
        name = str(row.get("label_name", row.get("cluster_name", "")))
        scores = {str(key): float(value) for key, value in row.get("scores", {}).items() if _number(value)}
        found.append(
            Chosen(
                id=str(row["id"]),
                parts=_parts_of(fields_of(row)),
                label=_label(row),
                tags=[name] if several is None else [str(one) for one in several] or [NO_LABEL],
                scores=scores,
                round=came.get("round"),
                request=str(came.get("request", "")),
                template=str(came.get("template", "")),
                generator=str(came.get("generator", "")),
                parents=[parent(str(id)) for id in came.get("parents", ())],
                nearest=near.get(place, []),
            )
        )
    return found


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")


# -- the map -----------------------------------------------------------------------------------


def _drawn(rows: Sequence[Row], chosen: set[str], vectors: Vectors, seed: int) -> dict[str, tuple[int, list[Row]]]:
    """layer -> how many candidates there are of it, and those that the map shows.

    Only those with an embedding count, and a text that was kept once is not turned away as well.
    """
    known = vectors.candidate_ids() - chosen
    passed = {row.id for row in rows if row.filter is None}
    groups: dict[str, list[Row]] = {name: [] for name in LAYERS[1:3]}
    for row in rows:
        if row.id in known and (row.filter is None or row.id not in passed):
            groups["kept" if row.filter is None else "turned away"].append(row)
    return {
        name: (len(group), [group[place] for place in sampled([row.label for row in group], MOST[name], seed)])
        for name, group in groups.items()
    }


def _real_layer(
    axes: Axes, vectors: FloatArray, labels: Sequence[int | None], known: Sequence[Example | None], seed: int
) -> Layer:
    places = sampled(labels, MOST["real"], seed)
    points = [
        Point(x, y, labels[place], () if (row := known[place]) is None else _parts_of(row.fields))
        for place, (x, y) in zip(places, axes.project(vectors[places]), strict=True)
    ]
    return Layer("real", len(vectors), points)


def _candidates(
    axes: Axes, journal: Journal, name: str, total: int, rows: Sequence[Row], found: Mapping[str, FloatArray]
) -> Layer:
    rows = [row for row in rows if row.id in found]
    fields = journal.fields([row.rowid for row in rows])
    points = []
    for row in rows:
        texts, reason = fields[row.rowid]
        ((x, y),) = axes.project(found[row.id][None])
        note = "" if row.filter is None else f"{row.filter}: {reason or ''}"
        points.append(Point(x, y, row.label, _parts_of(texts), note))
    return Layer(name, total, points)


def _chosen_layer(axes: Axes, chosen: Sequence[Chosen], found: Mapping[str, FloatArray]) -> Layer:
    points = []
    for place, row in enumerate(chosen):
        if row.id in found:
            ((x, y),) = axes.project(found[row.id][None])
            points.append(Point(x, y, row.label, row.parts, row=place))
    return Layer("chosen", len(chosen), points)


# -- what was counted and measured -----------------------------------------------------------------------------------


def _funnel(journal: Journal, rows: Sequence[Row], chosen: int) -> Funnel:
    of_filter: dict[str, list[Row]] = {}
    for row in rows:
        if row.filter is not None:
            of_filter.setdefault(row.filter, []).append(row)
    order = [*sorted(of_filter.keys() - set(FUNNEL)), *(name for name in FUNNEL if name in of_filter)]
    fields = journal.fields([row.rowid for name in order for row in of_filter[name][:EXAMPLES]])
    rejected = [
        Rejected(
            name,
            len(of_filter[name]),
            [
                (row.label, _parts_of(fields[row.rowid][0]), fields[row.rowid][1] or "")
                for row in of_filter[name][:EXAMPLES]
            ],
        )
        for name in order
    ]
    shards = journal.meta(SHARDS)
    if shards:  # the journal holds what was proposed, and each round what was counted
        turned_away = journal.rounds()[-1][2]["filters"]
        shown = turned_away["examples"]
        rejected = [
            Rejected(name, count, [(0, _parts_of((one["text"],)), one["reason"]) for one in shown.get(name, ())])
            for name, count in turned_away["rejected"].items()
            if count
        ]
        kept = turned_away["kept"]
        return Funnel(shards["asked"], shards["replies"], shards["failed"], turned_away["seen"], rejected, kept, chosen)
    return Funnel(
        asked=journal.count("requests"),
        replies=journal.count("replies"),
        failed=journal.count("replies", "error IS NOT NULL"),
        parsed=len(rows),
        rejected=rejected,
        pool=len(rows) - sum(one.count for one in rejected),
        chosen=chosen,
    )


def _measured(journal: Journal, config: Config) -> tuple[list[Measured], int]:
    found, older = journal.evaluations(config.evaluate.seeds)
    order = [*(name for name in _METHODS if name in found), *sorted(found.keys() - set(_METHODS))]
    return [Measured(name, [found[name][seed] for seed in sorted(found[name])]) for name in order], older


def _round(number: int, loss: float | None, result: Mapping[str, Any]) -> RoundData:
    return RoundData(
        round=number,
        loss=loss if _number(loss) else None,
        proposed=[(str(one["set"]), float(one["loss"])) for one in result.get("portfolio", []) if _number(one["loss"])],
        curve=[dict(point) for point in result.get("curve", []) if _number(point["objective"])],
        history=[float(value) for value in result.get("history", []) if _number(value)],
    )
