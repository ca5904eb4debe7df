"""Real data in: reads a dataset, checks it, and parts it into train, dev and test.

Rows are streamed and only their texts and class indices kept, so that memory stays within a few times the file; or of
data too large for that, those of a sample (``data.sample``).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gendistill.config import DataConfig
from gendistill.data.builtin import get_builtin
from gendistill.data.columns import Columns, columns_of
from gendistill.data.findings import DataReport, usable_rows
from gendistill.data.label_file import LabelFile, read_label_file
from gendistill.data.label_sets import LabelSets
from gendistill.data.labels import Labels, checked_names
from gendistill.data.readers import Source
from gendistill.data.sample import holds_more, sample_of
from gendistill.data.sources import Run, open_named, open_source, open_test
from gendistill.data.split import split_by_row, stratified_split
from gendistill.errors import ConfigError, DataError
from gendistill.examples import Example

TARGET_DEV = 0.3  # of a target's rows, that choosing among sets is left to
NO_TEST = "none"  # in place of a test file or split
_SAMPLE_ROWS = 100  # looked at to see whether rows have several labels
_CONFLICT = -1


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

    @property
    def sizes(self) -> list[int]:
        """Rows of each class among those; where they are a sample, among all rows that it is of."""
        if self.report.whole_counts and not self.target:
            return [self.report.whole_counts[name] for name in self.label_names]
        return _count(self.aim, len(self.label_names))


def load_real(config: DataConfig, *, per_class: int, seed: int, by_row: bool = False, run: Run = map) -> RealData:
    """Read, check and split the real data.

    Dev is held out of the training rows. Test is the given file or split, else a hub dataset's "test" split if that
    has labels, else carved from the rows. A given test is kept as it is; rows that stand in it leave train. With
    "none" in its place no test is read or carved, and ``test`` is empty: for a choice that must not see any.

    Of more rows than ``data.max_rows`` a sample stands for all (``data.sample``).

    :param per_class: rows that every class must have in train.
    :param seed: of the splits and of a sample.
    :param by_row: carve test row by row, each by its own content (``split_by_row``).
    :param run: works through the shards of data that is sampled.
    :raises DataError: the data cannot be read or does not suit; says where and what to do.
    :raises MissingExtraError: a built-in dataset's package is not installed.
    :raises ConfigError: names of classes that contradict each other, or a sample of what cannot be sampled.
    """
    if config.max_rows is not None and by_row:
        raise ConfigError("data.max_rows: a private run reads all rows, for in a sample one row moves another")
    source, splits = open_source(config, in_shards=config.max_rows is not None)
    columns = columns_of(source, config)
    sampled = config.max_rows is not None and holds_more(source, columns, config.max_rows)
    if config.max_rows is not None and not sampled:
        source, splits = open_source(config)
    labels = _labels(config, source, columns)
    report = DataReport()
    if sampled:
        if isinstance(labels, LabelSets):
            raise ConfigError("data.max_rows: rows of several labels each are not sampled; leave it out")
        sample = sample_of(source, columns, config, seed, run)
        examples, labels, report = sample.examples(source.name), sample.labels, sample.report
    else:
        examples = _read_unique(source, config, columns, labels, report)
    report.source, report.max_chars, report.encoding_note = source.name, config.max_chars, source.encoding_note
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


# -- what there is to read ---------------------------------------------------------------------------------------------


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
    given = open_named(config.target or "")
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
    found = DataReport()
    rows = list(usable_rows(given, config, own, labels, found))
    order = _final(labels, Counter(label for _, label in rows))
    known = [Example(texts, place) for texts, label in rows if (place := order(label)) is not None]
    return known, found.rows_read - len(known)


# -- what the rows say ------------------------------------------------------------------------------------------------


def _read_unique(
    source: Source, config: DataConfig, columns: Columns, labels: Labels | LabelSets, report: DataReport
) -> list[Example]:
    """Every text (or pair) once, in order, without those that stand under several labels."""
    # The texts are the keys, so that finding duplicates costs no second copy and no hashes.
    found: dict[tuple[str, ...], int] = {}
    conflicts: dict[tuple[str, ...], set[int]] = {}
    for texts, label in usable_rows(source, config, columns, labels, report):
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
    named = [(texts, [_named(labels, order(label)) for label in under]) for texts, under in conflicts.items()]
    report.add_conflicts(report.conflict_rows, named)
    return [
        Example(texts, place)
        for texts, label in found.items()
        if label != _CONFLICT and (place := order(label)) is not None
    ]


def _labels(config: DataConfig, source: Source, columns: Columns) -> Labels | LabelSets:
    """Classes, or where rows have several labels each, sets of labels as classes."""
    names = checked_names(config.label_names)
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
