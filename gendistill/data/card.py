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

_SAMPLE_CHARS = 600
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_WRITTEN = "A generator LLM wrote the texts, a student model scored them against the real data"
_REAL = "The texts are rows of the real data, which a student model scored"
_WRITTEN_LIMITS = (
    "A language model that was shown examples of real data wrote the texts: the terms of that data and of the model "
    "apply to them. They may state things that are not true, carry the biases of both, and stand close to real texts."
)
_REAL_LIMITS = (
    "The texts are real rows as they stand: the terms of the real data apply, and its privacy is not protected."
)
_MARKDOWN = re.compile(r"([\\`*_\[\]|~#$!@])")


@dataclass(frozen=True)
class Result:
    """A row of the table of results: accuracy of fresh students, as shares of 1."""

    method: str
    mean: float
    spread: float | None  # standard deviation over seeds; None for a single one
    n_seeds: int


@dataclass(frozen=True)
class CardInfo:
    """What a card says. Parts that are empty or None are left out."""

    name: str
    label_names: Sequence[str]
    rows: Sequence[Mapping[str, Any]]  # with "text" and "label"
    description: str = ""  # what the texts are
    source: str = ""  # the real data
    data_file: str = "distilled.jsonl"  # relative to the card
    real_rows: bool = False  # the texts are rows of the real data, not written by a generator
    typed: bool = False  # the file holds text and label alone: declare label as named classes
    license: str = "other"
    made_with: Mapping[str, object] = field(default_factory=dict)  # generator, student, ... in the order to show
    filters: Mapping[str, int] = field(default_factory=dict)  # filter -> candidates it turned away
    results: Sequence[Result] = ()
    results_note: str = ""  # what was measured, on how many test rows
    command: str | None = None  # to make it again
    samples_per_class: int = 2


def dataset_card(info: CardInfo) -> str:
    """The whole README.md, YAML head included."""
    parts = [f"---\n{_head(info)}---\n", f"# {_inline(info.name)}\n", _opening(info)]
    if info.made_with or info.filters:
        parts.append(_how(info))
    if info.results:
        parts.append(_results(info))
    parts.append(_labels(info))
    if any(info.rows) and info.samples_per_class:
        parts.append(_samples(info))
    parts.append(_fields(info))
    if info.command:
        parts.append(f"## Make it again\n\n{_fenced(info.command, 'bash')}")
    limits = _REAL_LIMITS if info.real_rows else _WRITTEN_LIMITS
    parts.append(
        f"## Licence and limits\n\n{limits} The set is made for training a classifier of these classes; it was "
        "measured for nothing else.\n"
    )
    return "\n".join(parts)


def _head(info: CardInfo) -> str:
    size = next((name for limit, name in _SIZES if len(info.rows) < limit), "n>1M")
    head: dict[str, Any] = {
        "license": info.license,
        "pretty_name": info.name,
        "task_categories": ["text-classification"],
        "tags": ["dataset-distillation", *([] if info.real_rows else ["synthetic"]), "gendistill"],
        "size_categories": [size],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": info.data_file}]}],
    }
    if info.typed:
        names = {str(index): name for index, name in enumerate(info.label_names)}
        head["dataset_info"] = {
            "features": [
                {"name": "text", "dtype": "string"},
                {"name": "label", "dtype": {"class_label": {"names": names}}},
                *([{"name": "probabilities", "list": "float32"}] if _soft(info) else []),
            ]
        }
    # One line a value: a folded one could begin a line with the dashes that end the head.
    return yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=float("inf"))


def _opening(info: CardInfo) -> str:
    what = f" ({_inline(info.description)})" if info.description else ""
    text = (
        f"{len(info.rows):,} texts{what} in {len(info.label_names)} classes: a small set that stands in for a large "
        f"one. {_REAL if info.real_rows else _WRITTEN}, and the few that together serve it best were kept. "
        "Distilled with gendistill.\n"
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
    lines += ["| trained on | accuracy (%) | seeds |", "|---|---:|---:|"]
    for row in info.results:
        spread = "" if row.spread is None else f" ± {100 * row.spread:.1f}"
        lines.append(f"| {_inline(row.method)} | {100 * row.mean:.1f}{spread} | {row.n_seeds} |")
    return "\n".join(lines) + "\n"


def _labels(info: CardInfo) -> str:
    counts = Counter(row["label"] for row in info.rows)
    lines = ["## Classes\n", "| label | name | texts |", "|---:|---|---:|"]
    lines += [f"| {index} | {_inline(name)} | {counts[index]:,} |" for index, name in enumerate(info.label_names)]
    return "\n".join(lines) + "\n"


def _samples(info: CardInfo) -> str:
    lines = ["## Some of the texts\n"]
    for index, name in enumerate(info.label_names):
        texts = [row["text"] for row in info.rows if row["label"] == index][: info.samples_per_class]
        if texts:
            lines += [f"**{_inline(name)}**\n", *map(_fenced, texts)]
    return "\n".join(lines)


def _soft(info: CardInfo) -> bool:
    return bool(info.rows) and all("probabilities" in row for row in info.rows)


def _fields(info: CardInfo) -> str:
    fields = [("text", "the text"), ("label", "the class, an index into the list above")]
    soft = "what the teacher, a model trained on the real data, says of each class: a soft label beside the hard one"
    if info.typed and _soft(info):
        fields.append(("probabilities", f"{soft}, in the order of the classes"))
    if not info.typed:
        fields += [
            ("label_name", "the name of the class"),
            ("probabilities", f"{soft}, by the name of the class"),
            ("id", "hash of text and label"),
            ("scores", "what the student, the teacher and the selection say of it"),
            ("provenance", "the request, round and generator it came from"),
        ]
        present = {key for row in info.rows for key in row}
        fields = [pair for pair in fields if pair[0] in present]
    lines = ["## Fields\n", *(f"* `{name}`: {about}" for name, about in fields)]
    return "\n".join(lines) + "\n"


def _inline(text: str) -> str:
    """Text on one line that Markdown, HTML and a table's cells take as it is."""
    return _MARKDOWN.sub(r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _fenced(text: str, language: str = "text") -> str:
    """A code block: nothing inside is interpreted, and its fence is longer than any run of backticks in the text."""
    if len(text) > _SAMPLE_CHARS and language == "text":
        text = text[:_SAMPLE_CHARS].rstrip() + " …"
    fence = "`" * (max([2, *map(len, re.findall("`+", text))]) + 1)
    return f"{fence}{language}\n{text}\n{fence}\n"
