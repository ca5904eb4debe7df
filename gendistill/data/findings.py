"""What is found in real data: the usable rows, and a report that counts all others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from gendistill.config import DataConfig
from gendistill.data.columns import Columns, rows_with
from gendistill.data.instructions import PROBLEMS
from gendistill.data.label_sets import LabelSets
from gendistill.data.labels import Labels
from gendistill.data.readers import Source

_SHOWN_CONFLICTS = 5


@dataclass
class DataReport:
    """What was found in the real data; JSON-able with ``dataclasses.asdict``."""

    source: str = ""
    rows_read: int = 0  # = kept in train, dev and a carved test + all that the next eight count
    exact_duplicates: int = 0
    conflict_rows: int = 0  # rows whose text stands under several labels; none of them is kept
    missing_texts: int = 0  # empty, null or NaN
    missing_sides: int = 0  # pairs with one text only
    missing_labels: int = 0
    leaked_rows: int = 0  # rows that also stood in the given test or target; dropped from train
    rare_label_sets: int = 0  # multi-label rows whose labels, and any part of them, are too rare to be a class
    unsampled_rows: int = 0  # usable rows outside the sample that is held; with one, what is said of duplicates and
    # conflicts is of the sample, all other counts are of the whole data
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
    max_rows: int | None = None  # of a sample
    whole_counts: dict[str, int] = field(default_factory=dict)  # of a sample: class -> usable rows of the whole data

    def count(self, other: DataReport) -> None:
        """Add what was counted in other rows."""
        self.rows_read += other.rows_read
        self.missing_texts += other.missing_texts
        self.missing_sides += other.missing_sides
        self.missing_labels += other.missing_labels
        self.cut_texts += other.cut_texts

    def add_conflicts(self, rows: int, conflicts: Sequence[tuple[tuple[str, ...], Iterable[str]]]) -> None:
        """:param conflicts: each text and the labels that it stands under; ``rows`` rows in all."""
        self.conflict_rows, self.conflict_texts = rows, len(conflicts)
        self.conflict_examples = [
            {"text": "\n".join(texts)[:80], "labels": sorted(set(labels))}
            for texts, labels in conflicts[:_SHOWN_CONFLICTS]
        ]

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
            (
                self.unsampled_rows,
                f"rows are not held: a sample of data.max_rows {self.max_rows or 0:,} is; they count for the shares of "
                "classes and for copies",
            ),
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


def usable_rows(
    source: Source, config: DataConfig, columns: Columns, labels: Labels | LabelSets, report: DataReport
) -> Iterator[tuple[tuple[str, ...], int]]:
    """Texts and provisional class of every row that has both; the report counts all rows.

    :raises DataError: a file of the source cannot be read or lacks a column, or a value is no text or no label.
    """
    for part in source.parts or [source]:
        labels.begin(part)
        for number, row in rows_with(part, columns):
            report.rows_read += 1
            read = columns.cleaned(row, config.max_chars, part.at(number))
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
            yield texts, label
