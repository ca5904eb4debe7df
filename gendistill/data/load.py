"""Real data in: reads a dataset, checks it, and parts it into train, dev and test.

Rows are streamed and only their texts and class indices kept, so that memory stays within a few times the file.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gendistill.config import DataConfig
from gendistill.data.builtin import bbc_news_rows, get_builtin
from gendistill.data.columns import Columns, columns_of
from gendistill.data.instructions import PROBLEMS
from gendistill.data.label_file import LabelFile, read_label_file
from gendistill.data.label_sets import LabelSets
from gendistill.data.labels import Labels
from gendistill.data.readers import Source, open_file, open_hub, suffix_of
from gendistill.data.split import split_by_row, stratified_split
from gendistill.errors import ConfigError, DataError
from gendistill.examples import Example

TARGET_DEV = 0.3  # of a target's rows, that choosing among sets is left to
NO_TEST = "none"  # in place of a test file or split
_SAMPLE_ROWS = 100  # looked at to see whether rows have several labels
_SHOWN_CONFLICTS = 5
_CONFLICT = -1
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass
class DataReport:
    """What was found in the real data; JSON-able with ``dataclasses.asdict``."""

    source: str = ""
    rows_read: int = 0  # = kept in train, dev and a carved test + all that the next seven count
    exact_duplicates: int = 0
    conflict_rows: int = 0  # rows whose text stands under several labels; none of them is kept
    missing_texts: int = 0  # empty, null or NaN
    missing_sides: int = 0  # pairs with one text only
    missing_labels: int = 0
    leaked_rows: int = 0  # rows that also stood in the given test or target; dropped from train
    rare_label_sets: int = 0  # multi-label rows whose labels, and any part of them, are too rare to be a class
    conflict_texts: int = 0  # distinct texts behind conflict_rows
    conflict_examples: list[dict[str, Any]] = field(default_factory=list)  # {"text", "labels"}
    reduced_label_sets: int = 0  # multi-label rows filed under a part of their labels
    problems: dict[str, int] = field(default_factory=dict)  # of instruction data: what is wrong -> rows dropped
    cut_texts: int = 0  # longer than max_chars
    max_chars: int = 0
    encoding_note: str | None = None
    target: str = ""  # rows that are distilled towards, if not the real ones
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
            (self.missing_sides, "pairs with one text only dropped"),
            (self.missing_labels, "rows without label dropped"),
            (self.leaked_rows, "rows dropped from train because they stand in the test or target data too"),
            (self.rare_label_sets, "rows dropped: their set of labels, and any part of it, is too rare to be a class"),
            (self.reduced_label_sets, "rows filed under a part of their labels, because the whole set is rare"),
            (self.test_rows_dropped, "test rows without text or label dropped"),
            (self.cut_texts, f"texts cut at {self.max_chars:,} characters"),
        ):
            if count:
                found.append(f"{count:,} {what}")
        found += [f"{count:,} {PROBLEMS[name]}" for name, count in self.problems.items()]
        if self.conflict_rows:
            shown = self.conflict_examples[0]
            found.append(
                f"{self.conflict_rows:,} rows dropped: {self.conflict_texts:,} texts stand under several labels, "
                f"such as {shown['text']!r} ({', '.join(shown['labels'])})"
            )
        sizes = ", ".join(f"{sum(counts.values()):,} {part}" for part, counts in self.class_counts.items())
        target = [f"distilled towards {self.target}"] if self.target else []
        return [f"{self.source}: {self.rows_read:,} rows read", *found, f"{sizes}; test is {self.test_source}", *target]


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
    text_names: tuple[str, ...] = ("text",)  # what a prompt calls the text, or the two of a pair; none of instructions
    system: str = ""  # of instructions: the system message that they share
    label_groups: dict[str, str] = field(default_factory=dict)  # label -> the group that it is of
    label_sets: list[tuple[str, ...]] | None = None  # of multi-label data: the labels that each class stands for
    target: list[Example] = field(default_factory=list)  # rows to distil towards; none: train itself

    @property
    def shape(self) -> str:
        """The task's name."""
        if not self.text_names:
            return "instruction"
        return "text_classification" if len(self.text_names) == 1 else "pair_classification"

    @property
    def aim(self) -> list[Example]:
        """The rows whose distribution a distilled set should have."""
        return self.target or self.train


def load_real(config: DataConfig, *, per_class: int, seed: int, by_row: bool = False) -> RealData:
    """Read, check and split the real data.

    Dev is held out of the training rows. Test is the given file or split, else a hub dataset's "test" split if that
    has labels, else carved from the rows. A given test is kept as it is; rows that stand in it leave train. With
    "none" in its place no test is read or carved, and ``test`` is empty: for a choice that must not see any.

    :param per_class: rows that every class must have in train.
    :param seed: of the splits.
    :param by_row: carve test row by row, each by its own content (``split_by_row``).
    :raises DataError: the data cannot be read or does not suit; says where and what to do.
    :raises MissingExtraError: a built-in dataset's package is not installed.
    :raises ConfigError: names of classes that contradict each other.
    """
    source, splits = open_source(config)
    report = DataReport(source=source.name, max_chars=config.max_chars, encoding_note=source.encoding_note)
    columns = columns_of(source, config)
    labels = _labels(config, source, columns)
    examples = _read_unique(source, config, columns, labels, report)
    classes = len(labels.names)
    _check_classes(examples, labels.names, source.name, per_class)

    test = None if config.test == NO_TEST else _read_test(config, source, splits, columns, labels, report)
    if config.test == NO_TEST:
        test, report.test_source = [], "not read"
    elif test is not None:
        examples = _without(examples, test, report)
    else:
        report.test_source = f"{config.test_fraction:.0%} of the rows, held out"
        examples, test = (
            split_by_row(examples, config.test_fraction, seed)
            if by_row
            else stratified_split(examples, classes, config.test_fraction, seed)
        )
    target: list[Example] = []
    if config.target is not None:
        target = _read_target(config, columns, labels, report)
        examples = _without(examples, target, report)
    train, dev = stratified_split(examples, classes, config.dev_fraction, seed + 1)
    if target:
        target, dev = stratified_split(target, classes, TARGET_DEV, seed + 2)

    for part, rows in (("train", train), ("dev", dev), ("test", test), *([("target", target)] if target else [])):
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
    known = labels.labels.names if isinstance(labels, LabelSets) else labels.names
    unknown = [name for name in config.label_descriptions if name not in known]
    if unknown:
        raise ConfigError(f"data.label_descriptions: {unknown[0]!r} is no class; there is {', '.join(known)}")
    said = read_label_file(config.label_file, known) if config.label_file else LabelFile({}, {})
    described = {**(builtin.label_descriptions if builtin else {}), **said.descriptions, **config.label_descriptions}
    return RealData(
        train=train,
        dev=dev,
        test=test,
        label_names=labels.names,
        label_descriptions=_by_class(described, labels),
        description=config.description or (builtin.description if builtin else "texts"),
        source=f"{config.dataset}: {builtin.about}" if builtin else source.name,
        report=report,
        text_names=_text_names(config, columns),
        label_groups=said.groups,
        target=target,
        label_sets=labels.sets if isinstance(labels, LabelSets) else None,
    )


def load_test(
    config: DataConfig, label_names: Sequence[str], label_sets: Sequence[tuple[str, ...]] | None = None
) -> list[Example]:
    """The test rows alone, which must be a file or a split of their own.

    :param label_names: the classes, as ``load_real`` found them; ``label_sets`` alike.
    :raises DataError: as ``load_real``; or there is no such test.
    """
    source, splits = open_source(config)
    labels: Labels | LabelSets = Labels(list(label_names))
    if label_sets is not None:
        labels = LabelSets.fixed(label_sets, config.label_separator)
    test = _read_test(config, source, splits, columns_of(source, config), labels, DataReport())
    if test is None:
        raise DataError(f"{source.name}: no test of its own; give a file or a split as test")
    return test


# -- where the rows are -----------------------------------------------------------------------------------------------


def open_source(config: DataConfig) -> tuple[Source, list[str] | None]:
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


def open_test(config: DataConfig, splits: list[str] | None) -> Source | None:
    """The test rows that are given, or that a hub dataset has; None if a test must be carved."""
    name = config.test
    if name is not None and (splits is None or suffix_of(name) or Path(name).is_file()):
        return open_file(Path(name).expanduser())
    if name is not None:
        return open_hub(config.dataset, config.subset, name)[0]
    if splits and "test" in splits and not re.search(r"\btest\b", config.split):
        return open_hub(config.dataset, config.subset, "test")[0]
    return None


def _read_test(
    config: DataConfig,
    source: Source,
    splits: list[str] | None,
    columns: Columns,
    labels: Labels | LabelSets,
    report: DataReport,
) -> list[Example] | None:
    """The given test rows as they are; None if there are none and a test must be carved."""
    name = config.test
    given = open_test(config, splits)
    if given is None:
        return None
    rows, report.test_rows_dropped = _read_known(given, config, columns, labels)
    if not rows:
        if name is None:  # a shared task's test split, its labels kept back
            report.test_rows_dropped = 0
            return None
        raise DataError(f"{given.name}: no row has both a text and a label; give another --test, or none to carve one")
    report.test_source = given.name
    return rows


def _read_target(config: DataConfig, columns: Columns, labels: Labels | LabelSets, report: DataReport) -> list[Example]:
    """The rows to distil towards, each once."""
    given = open_file(Path(config.target or "").expanduser())
    rows, dropped = _read_known(given, config, columns, labels)
    rows = list({row.id: row for row in rows}.values())
    counts = _count(rows, len(labels.names))
    lacking = [name for name, count in zip(labels.names, counts, strict=True) if count < 2]
    if lacking:
        raise DataError(
            f"{given.name}: a target needs two rows of each class or more, and {lacking[0]!r} has fewer; add some"
        )
    report.target = f"{given.name}, {len(rows):,} rows" + (f" ({dropped:,} without text or label)" if dropped else "")
    return rows


def _read_known(
    given: Source, config: DataConfig, columns: Columns, labels: Labels | LabelSets
) -> tuple[list[Example], int]:
    """Rows under classes that are known, and how many lack a text or a label."""
    own = columns_of(given, config)
    if len(own.texts) != len(columns.texts):
        shown = " and ".join(own.texts)
        raise DataError(f"{given.name}: has {shown} for texts where the real data has {' and '.join(columns.texts)}")
    labels.begin(given)
    rows: list[tuple[tuple[str, ...], int]] = []
    dropped = 0
    for number, row in given.rows(own.all):
        texts = [clean_text(row.get(column), config.max_chars, given.at(number))[0] for column in own.texts]
        label = labels.index(row.get(own.label), row.get(own.label_name or ""), own.label, number)
        if label is None or not all(texts):
            dropped += 1
        else:
            rows.append((tuple(text for text in texts if text), label))
    order = _final(labels, Counter(label for _, label in rows))
    found = [Example(texts, place) for texts, label in rows if (place := order(label)) is not None]
    return found, dropped + len(rows) - len(found)


# -- what the rows say ------------------------------------------------------------------------------------------------


def _read_unique(
    source: Source, config: DataConfig, columns: Columns, labels: Labels | LabelSets, report: DataReport
) -> list[Example]:
    """Every text (or pair) once, in order, without those that stand under several labels."""
    # The texts are the keys, so that finding duplicates costs no second copy and no hashes.
    found: dict[tuple[str, ...], int] = {}
    conflicts: dict[tuple[str, ...], set[int]] = {}
    labels.begin(source)
    for number, row in source.rows(columns.all):
        report.rows_read += 1
        read = [clean_text(row.get(column), config.max_chars, source.at(number)) for column in columns.texts]
        texts = tuple(text for text, _ in read if text is not None)
        if len(texts) < len(read):
            report.missing_texts += not texts
            report.missing_sides += bool(texts)
            continue
        label = labels.index(row.get(columns.label), row.get(columns.label_name or ""), columns.label, number)
        if label is None:
            report.missing_labels += 1
            continue
        report.cut_texts += any(cut for _, cut in read)
        first = found.get(texts)
        if first is None:
            found[texts] = label
        elif first == label:
            report.exact_duplicates += 1
        else:
            if first != _CONFLICT:
                conflicts[texts] = {first}
                found[texts] = _CONFLICT
                report.conflict_rows += 1
            conflicts[texts].add(label)
            report.conflict_rows += 1
    if not found:
        shown = " and ".join(map(repr, (*columns.texts, columns.label)))
        wanted = "both a text and a label" if len(columns.texts) == 1 else "two texts and a label"
        sides = f", {report.missing_sides} have one text only" if report.missing_sides else ""
        raise DataError(
            f"{source.name}: none of {report.rows_read} rows has {wanted} "
            f"(columns {shown}{sides}); see --text-column and --label-column"
        )
    counts = Counter(label for label in found.values() if label != _CONFLICT)
    order = _final(labels, counts)
    if isinstance(labels, LabelSets) and not labels.sets:
        raise DataError(
            f"{source.name}: no set of labels has {config.min_label_set_rows} rows, the most frequent has "
            f"{max(counts.values(), default=0)}; lower data.min_label_set_rows"
        )
    if isinstance(labels, LabelSets):
        report.rare_label_sets, report.reduced_label_sets = labels.pruned(counts)
    report.conflict_texts = len(conflicts)
    report.conflict_examples = [
        {"text": "\n".join(texts)[:80], "labels": sorted({_named(labels, order(label)) for label in under})}
        for texts, under in list(conflicts.items())[:_SHOWN_CONFLICTS]
    ]
    return [
        Example(texts, place)
        for texts, label in found.items()
        if label != _CONFLICT and (place := order(label)) is not None
    ]


def _labels(config: DataConfig, source: Source, columns: Columns) -> Labels | LabelSets:
    """Classes, or where rows have several labels each, sets of labels as classes."""
    names = _checked_names(config.label_names)
    several = config.label_separator is not None or any(
        isinstance(row.get(columns.label), (list, tuple))
        for _, row in itertools.islice(source.rows([columns.label]), _SAMPLE_ROWS)
    )
    return LabelSets(names, config.label_separator, config.min_label_set_rows) if several else Labels(names)


def _final(labels: Labels | LabelSets, rows: Counter[int]) -> Callable[[int], int | None]:
    """The final class of each provisional one."""
    order: list[int | None] = labels.close(rows) if isinstance(labels, LabelSets) else [*labels.close()]
    return lambda label: order[label]


def _named(labels: Labels | LabelSets, label: int | None) -> str:
    return "(too rare)" if label is None else labels.names[label]


def _by_class(described: dict[str, str], labels: Labels | LabelSets) -> dict[str, str]:
    """The descriptions of the classes; of a set of labels, those of its labels."""
    if not isinstance(labels, LabelSets):
        return {name: text for name, text in described.items() if name in labels.names}
    texts = ("; ".join(described[one] for one in single if one in described) for single in labels.sets)
    return {name: text for name, text in zip(labels.names, texts, strict=True) if text}


def _text_names(config: DataConfig, columns: Columns) -> tuple[str, ...]:
    if config.text_names is not None and len(columns.texts) == 1:
        raise ConfigError("data.text_names: the rows are single texts; they are for pairs (see --text-column-b)")
    if len(columns.texts) == 1:
        return ("text",)
    return tuple(config.text_names or (column.replace("_", " ") for column in columns.texts))


def _without(examples: list[Example], other: Sequence[Example], report: DataReport) -> list[Example]:
    """The examples whose texts do not stand in the other rows."""
    known = {example.fields for example in other}
    kept = [example for example in examples if example.fields not in known]
    report.leaked_rows += len(examples) - len(kept)
    return kept


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
