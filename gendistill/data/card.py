"""The dataset card: README.md beside a distilled set, with the YAML head that the Hugging Face hub reads.

The same values give the same bytes: no dates, no durations. Texts come from a model and from users, so none of them
may end a fence, open a tag, or break the head.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from gendistill.data.shapes import NO_LABEL, PAIR, Shape, common_shape
from gendistill.visible import visible

_SAMPLE_CHARS = 600
_SAMPLE_TURNS = 8  # of a conversation
_SAMPLE_CONVERSATIONS = 6
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_WRITTEN = "A generator LLM wrote the {noun}, a student model scored them against the real data"
_REAL = "The {noun} are rows of the real data, which a student model scored"
_WRITTEN_LIMITS = (
    "A language model that was shown examples of real data wrote the {noun}: the terms of that data and of the model "
    "apply to them. They may state things that are not true, carry the biases of both, and stand close to real ones."
)
_PRIVATE_LIMITS = (
    "A language model that was shown no real text wrote the {noun}: the terms of the model apply to them. They may "
    "state things that are not true, and carry its biases."
)
_REAL_LIMITS = (
    "The {noun} are real rows as they stand: the terms of the real data apply, and its privacy is not protected."
)
_UNNAMED_LICENSE = "terms-of-source-and-generator"  # the hub wants a name where the licence is "other"
_MARKDOWN = re.compile(r"([\\`*_\[\]|~#$!@])")


@dataclass(frozen=True)
class Result:
    """A row of the table of results: accuracy of fresh students, as shares of 1; or their loss."""

    method: str
    mean: float
    spread: float | None  # standard deviation over seeds; None for a single one
    n_seeds: int
    interval: tuple[float, float] | None = None  # 95 %, of the mean


@dataclass(frozen=True)
class _Kind:
    """What a card says of rows of one shape."""

    noun: str
    purpose: str
    task: str = "text-classification"  # as the hub calls it
    tags: tuple[str, ...] = ()


_KINDS: dict[Shape, _Kind] = {
    "classification": _Kind("texts", "training a classifier of these classes"),
    "pairs": _Kind(
        "pairs of texts", "training a classifier of pairs by these classes", tags=("text-pair-classification",)
    ),
    "multi-label": _Kind(
        "texts", "training a classifier that gives a text any of these labels", tags=("multi-label-classification",)
    ),
    "instruction": _Kind(
        "conversations",
        "fine-tuning a language model on instructions like these",
        "text-generation",
        ("instruction-tuning", "conversational"),
    ),
}


@dataclass(frozen=True)
class CardInfo:
    """What a card says. Parts that are empty or None are left out."""

    name: str
    label_names: Sequence[str]  # the classes; for several labels a row the single labels; for instructions none
    rows: Sequence[Mapping[str, Any]]  # of one of the shapes of data.shapes
    description: str = ""  # what the texts are
    source: str = ""  # the real data
    data_file: str = "distilled.jsonl"  # relative to the card
    real_rows: bool = False  # the texts are rows of the real data, not written by a generator
    typed: bool = False  # the file holds texts and labels, or messages, alone: declare what type each column has
    license: str = "other"
    license_name: str | None = None  # of a licence that the hub has no name for
    license_link: str | None = None
    language: Sequence[str] = ()  # ISO 639 codes
    terms: Mapping[str, str] = field(default_factory=dict)  # whose -> their licence or terms
    intended_use: str | None = None
    audit: Sequence[tuple[str, str, str]] = ()  # what was looked for, passed or failed or ..., one sentence
    made_with: Mapping[str, object] = field(default_factory=dict)  # generator, student, ... in the order to show
    filters: Mapping[str, int] = field(default_factory=dict)  # filter -> candidates it turned away
    results: Sequence[Result] = ()
    losses: bool = False  # the results are losses, not accuracies
    results_note: str = ""  # what was measured, on how many test rows
    privacy: str = ""  # of a differentially private set, what is protected and what is not
    command: str | None = None  # to make it again
    samples_per_class: int = 2


def dataset_card(info: CardInfo) -> str:
    """The whole README.md, YAML head included.

    :raises DataError: the rows are of several shapes.
    """
    shape = common_shape(info.rows)
    kind = _KINDS[shape]
    names = _names(info, shape)
    parts = [
        f"---\n{_head(info, shape, names)}---\n",
        f"# {_inline(info.name)}\n",
        _opening(info, shape, names),
    ]
    if info.made_with or info.filters:
        parts.append(_how(info))
    if info.privacy:
        parts.append(f"## Privacy\n\n{_inline(info.privacy)}\n")
    if info.results:
        parts.append(_results(info))
    if info.audit:
        parts.append(_audit(info))
    if shape != "instruction":
        parts.append(_labels(info, shape, names))
    elif not info.typed and any("cluster_name" in row for row in info.rows):
        parts.append(_groups(info))
    if any(info.rows) and info.samples_per_class:
        parts.append(f"## Some of the {kind.noun}\n\n" + "\n".join(_samples(info, shape, names)))
    parts.append(_fields(info, shape))
    if info.command:
        parts.append(f"## Make it again\n\n{_fenced(info.command, 'bash')}")
    parts += [_use(info, kind), _licence(info, kind)]
    return "\n".join(parts)


def _names(info: CardInfo, shape: Shape) -> list[str]:
    """The classes, or the single labels: those in use if the names given are not of them (combinations, say)."""
    if shape != "multi-label":
        return list(info.label_names)
    used = {name for row in info.rows for name in row["labels"]}
    return list(info.label_names) if used <= set(info.label_names) else sorted(used)


def _head(info: CardInfo, shape: Shape, names: Sequence[str]) -> str:
    size = next((name for limit, name in _SIZES if len(info.rows) < limit), "n>1M")
    kind = _KINDS[shape]
    head: dict[str, Any] = {
        **({"language": list(info.language)} if info.language else {}),
        "license": info.license,
        **({"license_name": info.license_name or _UNNAMED_LICENSE} if info.license == "other" else {}),
        **({"license_link": info.license_link} if info.license_link else {}),
        "pretty_name": visible(info.name),
        "task_categories": [kind.task],
        "tags": ["dataset-distillation", *([] if info.real_rows else ["synthetic"]), *kind.tags, "gendistill"],
        "size_categories": [size],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": info.data_file}]}],
    }
    if info.typed:
        head["dataset_info"] = {"features": _features(info, shape, names)}
    # One line a value: a folded one could begin a line with the dashes that end the head.
    return yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=float("inf"))


def _features(info: CardInfo, shape: Shape, names: Sequence[str]) -> list[dict[str, Any]]:
    """The columns' types, as datasets' Features are written in YAML."""
    if shape == "instruction":
        return [{"name": "messages", "list": [{"name": key, "dtype": "string"} for key in ("role", "content")]}]
    classes = {"class_label": {"names": {str(index): name for index, name in enumerate(names)}}}
    texts = [{"name": key, "dtype": "string"} for key in (PAIR if shape == "pairs" else ("text",))]
    if shape == "multi-label":
        return [*texts, {"name": "labels", "list": classes}]
    soft = [{"name": "probabilities", "list": "float32"}] if _soft(info) else []
    return [*texts, {"name": "label", "dtype": classes}, *soft]


def _opening(info: CardInfo, shape: Shape, names: Sequence[str]) -> str:
    noun = _KINDS[shape].noun
    what = f" ({_inline(info.description)})" if info.description else ""
    classes = {"instruction": "", "multi-label": f" with {len(names)} labels, any number to a text"}
    made = (_REAL if info.real_rows else _WRITTEN).format(noun=noun)
    text = (
        f"{len(info.rows):,} {noun}{what}{classes.get(shape, f' in {len(names)} classes')}: a small set that stands in "
        f"for a large one. {made}, and the few that together serve it best were kept. Distilled with gendistill.\n"
    )
    return text + (f"\nReal data: {_inline(info.source)}\n" if info.source else "")


def _how(info: CardInfo) -> str:
    lines = ["## How it was made\n"]
    if info.made_with:
        lines += ["| | |", "|---|---|"]
        lines += [f"| {_inline(key)} | {_inline(str(value))} |" for key, value in info.made_with.items()]
    if info.filters:
        lines += ["", "| filter | candidates turned away |", "|---|---:|"]
        lines += [f"| {_inline(name)} | {count:,} |" for name, count in info.filters.items()]
    return "\n".join(lines) + "\n"


def _results(info: CardInfo) -> str:
    lines = ["## Results\n"]
    if info.results_note:
        lines += [_inline(info.results_note), ""]
    measure, unit, decimals = ("loss (nats a token)", 1, 3) if info.losses else ("accuracy (%)", 100, 1)
    lines += [f"| trained on | {measure} | 95 % interval | seeds |", "|---|---:|---:|---:|"]
    for row in info.results:
        spread = "" if row.spread is None else f" ± {unit * row.spread:.{decimals}f}"
        interval = "" if row.interval is None else " to ".join(f"{unit * end:.{decimals}f}" for end in row.interval)
        lines.append(f"| {_inline(row.method)} | {unit * row.mean:.{decimals}f}{spread} | {interval} | {row.n_seeds} |")
    return "\n".join(lines) + "\n"


def _audit(info: CardInfo) -> str:
    lines = ["## Audit\n", "What `gendistill audit` found; no audit proves that there is nothing more.", ""]
    lines += ["| check | | |", "|---|---|---|"]
    lines += [f"| {' | '.join(map(_inline, check))} |" for check in info.audit]
    return "\n".join(lines) + "\n"


def _use(info: CardInfo, kind: _Kind) -> str:
    asked = f"{_inline(info.intended_use)}\n\n" if info.intended_use else ""
    return (
        f"## Intended use\n\n{asked}The set is made for {kind.purpose}; it was measured for nothing else. It stands in "
        "for the real data as a student learns from it, not as a sample of it: shares of classes, rare cases and facts "
        "are not those of the real data.\n"
    )


def _licence(info: CardInfo, kind: _Kind) -> str:
    limits = _REAL_LIMITS if info.real_rows else _PRIVATE_LIMITS if info.privacy else _WRITTEN_LIMITS
    limits = limits.format(noun=kind.noun)
    terms = "".join(f"* {_inline(whose)}: {_inline(what)}\n" for whose, what in info.terms.items())
    return f"## Licence and limits\n\n{limits}\n" + (f"\n{terms}" if terms else "")


def _labels(info: CardInfo, shape: Shape, names: Sequence[str]) -> str:
    if shape == "multi-label":
        counts = Counter(name for row in info.rows for name in row["labels"])
        lines = ["## Labels\n", "| index | name | texts |", "|---:|---|---:|"]
        lines += [f"| {index} | {_inline(name)} | {counts[name]:,} |" for index, name in enumerate(names)]
        without = sum(not row["labels"] for row in info.rows)
        return "\n".join([*lines, *([f"| | (no label) | {without:,} |"] if without else [])]) + "\n"
    places = Counter(row["label"] for row in info.rows)
    lines = ["## Classes\n", f"| label | name | {'pairs' if shape == 'pairs' else 'texts'} |", "|---:|---|---:|"]
    lines += [f"| {index} | {_inline(name)} | {places[index]:,} |" for index, name in enumerate(names)]
    return "\n".join(lines) + "\n"


def _groups(info: CardInfo) -> str:
    counts = Counter(str(row.get("cluster_name")) for row in info.rows)
    lines = ["## Groups of the real data\n", "| group | conversations |", "|---|---:|"]
    return "\n".join([*lines, *(f"| {_inline(name)} | {count:,} |" for name, count in counts.items())]) + "\n"


def _samples(info: CardInfo, shape: Shape, names: Sequence[str]) -> list[str]:
    """Headings and blocks. Each text has a block of its own: no text can pass for another's part."""
    if shape == "instruction":
        step = max(1, len(info.rows) // _SAMPLE_CONVERSATIONS)
        rows = info.rows[::step][:_SAMPLE_CONVERSATIONS]
        return [line for number, row in enumerate(rows, 1) for line in _conversation(number, row)]
    lines: list[str] = []
    for heading, rows in _by_heading(info, shape, names):
        lines.append(f"**{_inline(heading)}**\n")
        for row in rows:
            if shape == "pairs":
                lines += [part for key in PAIR for part in (f"{_inline(key)}:\n", _fenced(row[key]))]
            else:
                lines.append(_fenced(row["text"]))
    return lines


def _by_heading(info: CardInfo, shape: Shape, names: Sequence[str]) -> list[tuple[str, Sequence[Mapping[str, Any]]]]:
    """For each class its first rows; for several labels each label's first that were not shown yet, by combination."""
    if shape != "multi-label":
        of_class = [[row for row in info.rows if row["label"] == index] for index in range(len(names))]
        return [(name, rows[: info.samples_per_class]) for name, rows in zip(names, of_class, strict=True) if rows]
    shown: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    seen: set[int] = set()
    for name in (*names, None):
        has = [i for i, row in enumerate(info.rows) if (not row["labels"] if name is None else name in row["labels"])]
        wanted = info.samples_per_class - len(seen.intersection(has))
        for index in [index for index in has if index not in seen][: max(0, wanted)]:
            seen.add(index)
            shown.setdefault(tuple(info.rows[index]["labels"]), []).append(info.rows[index])
    return [(", ".join(labels) or NO_LABEL, rows) for labels, rows in shown.items()]


def _conversation(number: int, row: Mapping[str, Any]) -> list[str]:
    turns = row["messages"]
    lines = [f"### {number}\n"]
    for turn in turns[:_SAMPLE_TURNS]:
        lines += [f"**{_inline(turn['role'])}**\n", _fenced(turn["content"])]
    rest = len(turns) - _SAMPLE_TURNS
    return [*lines, f"… and {rest} more messages\n"] if rest > 0 else lines


def _soft(info: CardInfo) -> bool:
    return bool(info.rows) and all("probabilities" in row for row in info.rows)


def _fields(info: CardInfo, shape: Shape) -> str:
    soft = "what the teacher, a model trained on the real data, says of each class: a soft label beside the hard one"
    texts = (
        [("text_a", "the first text"), ("text_b", "the second text")] if shape == "pairs" else [("text", "the text")]
    )
    fields = {
        "classification": [*texts, ("label", "the class, an index into the list above")],
        "pairs": [*texts, ("label", "the class of the pair, an index into the list above")],
        "multi-label": [*texts, ("labels", "the labels" + (", indices into the list above" if info.typed else ""))],
        "instruction": [("messages", "the conversation: role (system, user, assistant) and content of each message")],
    }[shape]
    if info.typed and shape in ("classification", "pairs") and _soft(info):
        fields.append(("probabilities", f"{soft}, in the order of the classes"))
    if not info.typed:
        several = shape == "multi-label"
        fields += [
            *([("label", "the combination of labels, an index")] if several else []),
            ("label_name", "the name of the combination" if several else "the name of the class"),
            ("cluster", "the group of the real data that it stands in for"),
            ("cluster_name", "the name of the group"),
            ("probabilities", f"{soft}, by name"),
            ("id", "hash of the content"),
            ("scores", "what the student, the teacher and the selection say of it"),
            ("provenance", "the request, round and generator it came from"),
        ]
        present = {key for row in info.rows for key in row}
        fields = [pair for pair in fields if pair[0] in present]
    lines = ["## Fields\n", *(f"* `{name}`: {about}" for name, about in fields)]
    return "\n".join(lines) + "\n"


def _inline(text: str) -> str:
    """Text on one line that Markdown, HTML and a table's cells take as it is."""
    return _MARKDOWN.sub(r"\\\1", html.escape(visible(" ".join(text.split())), quote=False))


def _fenced(text: str, language: str = "text") -> str:
    """A code block: nothing inside is interpreted, and its fence is longer than any run of backticks in the text."""
    if len(text) > _SAMPLE_CHARS and language == "text":
        text = text[:_SAMPLE_CHARS].rstrip() + " …"
    text = visible(text)
    fence = "`" * (max([2, *map(len, re.findall("`+", text))]) + 1)
    return f"{fence}{language}\n{text}\n{fence}\n"
