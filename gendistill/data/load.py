"""Real data in: reads a dataset, checks it, and parts it into train, dev and test.

Rows are streamed and only their texts and class indices kept, so that memory stays within a few times the file.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gendistill.config import DataConfig
from gendistill.data.builtin import bbc_news_rows, get_builtin
from gendistill.data.labels import Labels
from gendistill.data.readers import Source, open_file, open_hub, suffix_of
from gendistill.data.split import stratified_split
from gendistill.errors import ConfigError, DataError
from gendistill.examples import Example

TEXT_COLUMNS = ("text", "sentence", "content", "review", "question", "document", "body", "article", "comment", "tweet",
                "utterance", "query", "message", "headline", "abstract", "description")  # fmt: skip
LABEL_COLUMNS = ("label", "labels", "coarse_label", "class", "category", "target", "sentiment", "intent", "topic",
                 "emotion", "label_name", "label_text", "y")  # fmt: skip
NO_TEST = "none"  # in place of a test file or split
_SAMPLE_ROWS = 100  # looked at to find the columns
_SHOWN_CONFLICTS = 5
_CONFLICT = -1
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass
class DataReport:
    """What was found in the real data; JSON-able with ``dataclasses.asdict``."""

    source: str = ""
    rows_read: int = 0  # = kept in train, dev and a carved test + all that the next five count
    exact_duplicates: int = 0
    conflict_rows: int = 0  # rows whose text stands under several labels; none of them is kept
    missing_texts: int = 0  # empty, null or NaN
    missing_labels: int = 0
    leaked_rows: int = 0  # rows that also stood in the given test; dropped from train
    conflict_texts: int = 0  # distinct texts behind conflict_rows
    conflict_examples: list[dict[str, Any]] = field(default_factory=list)  # {"text", "labels"}
    cut_texts: int = 0  # longer than max_chars
    max_chars: int = 0
    encoding_note: str | None = None
    test_source: str = ""  # what test is: a file, a split, or carved
    test_rows_dropped: int = 0  # rows of a given test without text or label
    class_counts: dict[str, dict[str, int]] = field(default_factory=dict)  # "train"/"dev"/"test" -> class -> rows

    def lines(self) -> list[str]:
        """The findings for a reader, the sizes last."""
        found = []
        if self.encoding_note:
            found.append(self.encoding_note)
        for count, what in (
            (self.exact_duplicates, "exact duplicates dropped"),
            (self.missing_texts, "rows without text dropped"),
            (self.missing_labels, "rows without label dropped"),
            (self.leaked_rows, "rows dropped from train because they stand in the test data too"),
            (self.test_rows_dropped, "test rows without text or label dropped"),
            (self.cut_texts, f"texts cut at {self.max_chars:,} characters"),
        ):
            if count:
                found.append(f"{count:,} {what}")
        if self.conflict_rows:
            shown = self.conflict_examples[0]
            found.append(
                f"{self.conflict_rows:,} rows dropped: {self.conflict_texts:,} texts stand under several labels, "
                f"such as {shown['text']!r} ({', '.join(shown['labels'])})"
            )
        sizes = ", ".join(f"{sum(counts.values()):,} {part}" for part, counts in self.class_counts.items())
        return [f"{self.source}: {self.rows_read:,} rows read", *found, f"{sizes}; test is {self.test_source}"]


@dataclass
class RealData:
    """The real data, ready to be distilled. No text stands twice in train, nor in two of train, dev and test."""

    train: list[Example]
    dev: list[Example]
    test: list[Example]
    label_names: list[str]  # by class index
    label_descriptions: dict[str, str]
    description: str
    source: str
    report: DataReport
    fields: tuple[str, ...] = ("text",)


def load_real(config: DataConfig, *, per_class: int, seed: int) -> RealData:
    """Read, check and split the real data.

    Dev is held out of the training rows. Test is the given file or split, else a hub dataset's "test" split if that
    has labels, else carved from the rows. A given test is kept as it is; rows that stand in it leave train. With
    "none" in its place no test is read or carved, and ``test`` is empty: for a choice that must not see any.

    :param per_class: rows that every class must have in train.
    :param seed: of the splits.
    :raises DataError: the data cannot be read or does not suit; says where and what to do.
    :raises MissingExtraError: a built-in dataset's package is not installed.
    :raises ConfigError: names of classes that contradict each other.
    """
    names = _checked_names(config.label_names)
    source, splits = _open(config)
    report = DataReport(source=source.name, max_chars=config.max_chars, encoding_note=source.encoding_note)
    labels = Labels(names)
    examples = _read_unique(source, config, labels, report)
    classes = len(labels.names)
    _check_classes(examples, labels.names, source.name, per_class)

    test = None if config.test == NO_TEST else _read_test(config, source, splits, labels, report)
    if config.test == NO_TEST:
        test, report.test_source = [], "not read"
    elif test is not None:
        known = {example.text for example in test}
        before = len(examples)
        examples = [example for example in examples if example.text not in known]
        report.leaked_rows = before - len(examples)
    else:
        report.test_source = f"{config.test_fraction:.0%} of the rows, held out"
        examples, test = stratified_split(examples, classes, config.test_fraction, seed)
    train, dev = stratified_split(examples, classes, config.dev_fraction, seed + 1)

    for part, rows in (("train", train), ("dev", dev), ("test", test)):
        counts = _count(rows, classes)
        report.class_counts[part] = dict(zip(labels.names, counts, strict=True))
        if not rows and (part, config.test) != ("test", NO_TEST):
            raise DataError(f"{source.name}: too few rows for a {part} part; give three or more rows of each class")
    for name, count in report.class_counts["train"].items():
        if count < per_class:
            raise DataError(
                f"{source.name}: class {name!r} has {count} rows left to train on, after dev and test, for a budget of "
                f"{per_class}; lower --per-class or add rows"
            )
    builtin = get_builtin(config.dataset) if config.dataset.startswith("builtin:") else None
    unknown = [name for name in config.label_descriptions if name not in labels.names]
    if unknown:
        raise ConfigError(f"data.label_descriptions: {unknown[0]!r} is no class; there is {', '.join(labels.names)}")
    own = builtin.label_descriptions if builtin else {}
    return RealData(
        train=train,
        dev=dev,
        test=test,
        label_names=labels.names,
        label_descriptions={name: text for name, text in {**own, **config.label_descriptions}.items()
                            if name in labels.names},
        description=config.description or (builtin.description if builtin else "texts"),
        source=f"{config.dataset}: {builtin.about}" if builtin else source.name,
        report=report,
    )  # fmt: skip


def load_test(config: DataConfig, label_names: Sequence[str]) -> list[Example]:
    """The test rows alone, which must be a file or a split of their own.

    :param label_names: the classes, as ``load_real`` found them.
    :raises DataError: as ``load_real``; or there is no such test.
    """
    source, splits = _open(config)
    test = _read_test(config, source, splits, Labels(list(label_names)), DataReport())
    if test is None:
        raise DataError(f"{source.name}: no test of its own; give a file or a split as test")
    return test


# -- where the rows are -----------------------------------------------------------------------------------------------


def _open(config: DataConfig) -> tuple[Source, list[str] | None]:
    """The training rows; and for a hub dataset, the names of its splits."""
    name = config.dataset
    if name.startswith("builtin:"):
        get_builtin(name)
        rows = [{"text": text, "label": label} for text, label in bbc_news_rows()]
        return Source(name, lambda _: iter(enumerate(rows, 1)), columns=["text", "label"]), None
    path = Path(name).expanduser()
    if path.is_file() or suffix_of(name):
        return open_file(path), None
    if name.startswith((".", "/", "~")) and not path.is_dir():
        raise DataError(f"{name}: no such file or folder")
    return open_hub(str(path) if path.is_dir() else name, config.subset, config.split)


def _read_test(
    config: DataConfig, source: Source, splits: list[str] | None, labels: Labels, report: DataReport
) -> list[Example] | None:
    """The given test rows as they are; None if there are none and a test must be carved."""
    name = config.test
    if name is not None and (splits is None or suffix_of(name) or Path(name).is_file()):
        given = open_file(Path(name).expanduser())
    elif name is not None:
        given, _ = open_hub(config.dataset, config.subset, name)
    elif splits and "test" in splits and not re.search(r"\btest\b", config.split):
        given, _ = open_hub(config.dataset, config.subset, "test")
    else:
        return None
    columns = text_column, label_column, name_column = find_columns(given, config.text_column, config.label_column)
    rows = []
    labels.begin(given)
    for number, row in given.rows([c for c in columns if c]):
        text, _ = clean_text(row.get(text_column), config.max_chars, given.at(number))
        label = labels.index(row.get(label_column), row.get(name_column or ""), label_column, number)
        if text is None or label is None:
            report.test_rows_dropped += 1
        else:
            rows.append(Example((text,), label))
    if not rows:
        if name is None:  # a shared task's test split, its labels kept back
            report.test_rows_dropped = 0
            return None
        raise DataError(f"{given.name}: no row has both a text and a label; give another --test, or none to carve one")
    report.test_source = given.name
    return rows


def find_columns(source: Source, text_column: str | None, label_column: str | None) -> tuple[str, str, str | None]:
    """The columns of the text, of the label, and of the label's name where the label is a number.

    :param text_column: the column if it is known; it must be there. ``label_column`` alike.
    """
    sample = [row for _, row in itertools.islice(source.rows(None), _SAMPLE_ROWS)]
    if not sample:
        raise DataError(f"{source.name}: no rows; give a file with a text and a label on each row")
    columns = source.columns or list(dict.fromkeys(key for row in sample for key in row))
    there = "the columns there are: " + ", ".join(columns)

    def find(given: str | None, usual: Sequence[str], what: str) -> str | None:
        if given is not None:
            if given not in columns:
                raise DataError(f"{source.name}: no column {given!r} for the {what}; {there}; see --{what}-column")
            return given
        present = [column for column in columns if column.lower() in usual]
        exact = [column for column in present if column.lower() == usual[0]]
        if what == "label" and not exact:
            present = [c for c in present if not c.lower().startswith("label_")] or present
        if len(exact or present) > 1:
            raise DataError(
                f"{source.name}: the {what} could be {' or '.join(exact or present)}; choose with --{what}-column"
            )
        return next(iter(exact or present), None)

    text = find(text_column, TEXT_COLUMNS, "text")
    label = find(label_column, LABEL_COLUMNS, "label")
    if len(columns) == 2 and (text is None or label is None):
        prose = [
            c for c in columns if sum(" " in v for row in sample if isinstance(v := row.get(c), str)) * 2 > len(sample)
        ]
        if text is None and (label is not None or len(prose) == 1):
            text = next((c for c in (prose if label is None else columns) if c != label), None)
        if text is not None and label is None:
            label = next((c for c in columns if c != text), None)
    for column, what in ((text, "text"), (label, "label")):
        if column is None:
            raise DataError(f"{source.name}: which column is the {what}? {there}; choose with --{what}-column")
        if columns.count(column) > 1:
            raise DataError(f"{source.name}: two columns are called {column!r}; rename one")
    assert text is not None and label is not None
    if text == label:
        raise DataError(f"{source.name}: column {text!r} cannot be both text and label; {there}")
    companions = [c for c in ("label_name", f"{label}_name", "label_text") if c in columns and c not in (label, text)]
    return text, label, companions[0] if companions else None


# -- what the rows say ------------------------------------------------------------------------------------------------


def _read_unique(source: Source, config: DataConfig, labels: Labels, report: DataReport) -> list[Example]:
    """Every text once, in order, without those that stand under several labels."""
    columns = text_column, label_column, name_column = find_columns(source, config.text_column, config.label_column)
    # The texts are the keys, so that finding duplicates costs no second copy and no hashes.
    found: dict[str, int] = {}
    conflicts: dict[str, set[int]] = {}
    labels.begin(source)
    for number, row in source.rows([c for c in columns if c]):
        report.rows_read += 1
        text, cut = clean_text(row.get(text_column), config.max_chars, source.at(number))
        if text is None:
            report.missing_texts += 1
            continue
        label = labels.index(row.get(label_column), row.get(name_column or ""), label_column, number)
        if label is None:
            report.missing_labels += 1
            continue
        report.cut_texts += cut
        first = found.get(text)
        if first is None:
            found[text] = label
        elif first == label:
            report.exact_duplicates += 1
        else:
            if first != _CONFLICT:
                conflicts[text] = {first}
                found[text] = _CONFLICT
                report.conflict_rows += 1
            conflicts[text].add(label)
            report.conflict_rows += 1
    if not found:
        raise DataError(
            f"{source.name}: none of {report.rows_read} rows has both a text and a label "
            f"(columns {text_column!r} and {label_column!r}); see --text-column and --label-column"
        )
    order = labels.close()
    report.conflict_texts = len(conflicts)
    report.conflict_examples = [
        {"text": text[:80], "labels": sorted(labels.names[order[label]] for label in under)}
        for text, under in list(conflicts.items())[:_SHOWN_CONFLICTS]
    ]
    return [Example((text,), order[label]) for text, label in found.items() if label != _CONFLICT]


def clean_text(value: Any, max_chars: int, where: str) -> tuple[str | None, bool]:
    """A text without the white space around it, and whether it was cut; None if there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None, False
    if not isinstance(value, str):
        if not isinstance(value, (int, float)):
            raise DataError(f"{where}: the text is a {type(value).__name__}, not a string")
        value = str(value)
    text = value.strip()
    cut = len(text) > max_chars
    if cut:
        text = text[:max_chars].rstrip()
    if not text.isascii():
        text = _SURROGATE.sub("\ufffd", text)  # half a character, from a broken JSON escape: no file can hold it
    return text or None, cut


def _checked_names(names: list[str] | None) -> list[str] | None:
    if names is None:
        return None
    names = [name.strip() for name in names]
    if len(set(names)) < len(names) or "" in names:
        raise ConfigError(f"data.label_names: a name is empty or stands twice in {', '.join(map(repr, names))}")
    return names


def _check_classes(examples: list[Example], names: list[str], source: str, per_class: int) -> None:
    counts = _count(examples, len(names))
    if len(names) < 2:
        raise DataError(f"{source}: one class only ({names[0]!r}); a classifier needs two or more; see --label-column")
    for name, count in zip(names, counts, strict=True):
        if not count:
            raise DataError(
                f"{source}: an empty class: no usable row is labelled {name!r}; add some, or drop the class"
            )
        if count < per_class:
            raise DataError(
                f"{source}: {count} rows for a budget of {per_class}: class {name!r} has {count} rows; "
                "lower --per-class or add rows"
            )


def _count(examples: Sequence[Example], classes: int) -> list[int]:
    counts = [0] * classes
    for example in examples:
        counts[example.label] += 1
    return counts
