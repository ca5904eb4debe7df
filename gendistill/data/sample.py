"""A sample of data too large to hold: of each class the rows whose hash is least, found in one pass over shards.

A shard gives a ``Sample``, samples are merged in any order, and the result depends on the rows alone: not on their
order, on how they lie in files or shards, or on how many workers read them. No sample holds more than twice its limit.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from gendistill.config import DataConfig
from gendistill.data.columns import Columns
from gendistill.data.findings import DataReport, usable_rows
from gendistill.data.labels import Labels, checked_names
from gendistill.data.readers import Source
from gendistill.data.sources import Run
from gendistill.errors import ConfigError, DataError
from gendistill.examples import Example

Texts = tuple[str, ...]
_ALL = 2**64  # more than any hash


@dataclass
class Sample:
    """Of each class the rows of least hash, and what was found in all rows that were looked at.

    The largest number n is taken by which at most n rows of each class are at most ``limit`` rows together: classes
    that have fewer are held whole, all others have n. Rows are told apart by their texts.
    """

    limit: int
    seed: int
    labels: Labels
    report: DataReport
    rows: list[dict[Texts, tuple[int, int]]] = field(default_factory=list)  # by class: texts -> hash, times seen
    totals: list[int] = field(default_factory=list)  # usable rows of each class, seen in all
    cuts: list[int] = field(default_factory=list)  # of each class: rows of a greater hash are out for good
    held: int = 0  # rows
    most: int = _ALL  # of a class, at the last trim; more rows can only make it less

    def add(self, texts: Texts, label: int) -> None:
        self._make_room(label)
        self.totals[label] += 1
        order = _order(texts, self.seed)
        if order <= self.cuts[label]:
            self._hold(texts, label, order, 1)

    def adopt(self, other: Sample) -> None:
        """Take in the sample of other rows, by the same limit and seed."""
        places = self.labels.adopt(other.labels)
        self.most = min(self.most, other.most)
        for label, rows in enumerate(other.rows):
            place = places[label]
            self._make_room(place)
            self.totals[place] += other.totals[label]
            self.cuts[place] = min(self.cuts[place], other.cuts[label])
            for texts, (order, times) in rows.items():
                if order <= self.cuts[place]:
                    self._hold(texts, place, order, times)
        self.report.count(other.report)

    def trim(self) -> None:
        """Drop what cannot be among the least any more, whatever rows are still to come."""
        # Never more than before: what was dropped then does not show in the counts
        self.most = min(self.most, fair_level([len(rows) for rows in self.rows], self.limit))
        for label, rows in enumerate(self.rows):
            if len(rows) > self.most:
                kept = heapq.nsmallest(self.most, rows.items(), key=lambda item: (item[1][0], item[0]))
                self.rows[label] = dict(kept)
                self.cuts[label] = kept[-1][1][0] if kept else -1
        self.held = sum(map(len, self.rows))

    def examples(self, source: str) -> list[Example]:
        """The sampled rows in the order of their hashes, without texts that stand under several labels in the sample.

        Fixes the classes and completes the report.

        :raises DataError: there is no usable row.
        :raises ConfigError: the limit is below the number of classes.
        """
        self.trim()
        if not self.held and any(self.totals):
            raise ConfigError(f"data.max_rows: {self.limit} rows are too few for {len(self.totals)} classes")
        if not self.held:
            raise DataError(
                f"{source}: none of {self.report.rows_read} rows has both a text and a label; see --text-column and "
                "--label-column"
            )
        place = self.labels.close()
        under: dict[Texts, list[int]] = {}
        seen: dict[Texts, int] = {}
        for label, rows in enumerate(self.rows):
            for texts, (_, times) in rows.items():
                under.setdefault(texts, []).append(place[label])
                seen[texts] = seen.get(texts, 0) + times
        ordered = sorted(under, key=lambda texts: (_order(texts, self.seed), texts))
        conflicts = [texts for texts in ordered if len(under[texts]) > 1]
        kept = [texts for texts in ordered if len(under[texts]) == 1]
        names, report = self.labels.names, self.report
        report.max_rows = self.limit
        report.unsampled_rows = sum(self.totals) - sum(seen.values())
        report.exact_duplicates = sum(seen[texts] - 1 for texts in kept)
        report.add_conflicts(
            sum(seen[texts] for texts in conflicts),
            [(texts, [names[label] for label in under[texts]]) for texts in conflicts],
        )
        counts = dict(zip(place, self.totals, strict=False))  # given names have no rows perhaps
        report.whole_counts = {name: counts.get(label, 0) for label, name in enumerate(names)}
        return [Example(texts, under[texts][0]) for texts in kept]

    def _make_room(self, label: int) -> None:
        while len(self.rows) <= label:
            self.rows.append({})
            self.totals.append(0)
            self.cuts.append(_ALL)

    def _hold(self, texts: Texts, label: int, order: int, times: int) -> None:
        rows = self.rows[label]
        before = rows.get(texts)
        rows[texts] = (order, times if before is None else before[1] + times)
        if before is None:
            self.held += 1
            if self.held > 2 * self.limit:
                self.trim()


def fair_level(counts: Sequence[int], limit: int) -> int:
    """The largest number n, ``limit`` at most, by which at most n of each come to at most ``limit`` together."""
    left = limit
    ordered = sorted(counts)
    for place, count in enumerate(ordered):
        share = left // (len(ordered) - place)
        if count > share:
            return share
        left -= count
    return limit


def holds_more(source: Source, columns: Columns, rows: int) -> bool:
    """Whether there are more rows than that. No more are read."""
    return next(itertools.islice(source.rows([columns.label]), rows, None), None) is not None


def sample_shard(shard: Source, columns: Columns, config: DataConfig, seed: int) -> Sample:
    """The sample of one shard's rows; ``config.max_rows`` is its limit.

    :raises DataError: the shard cannot be read, lacks a column, or has rows of several labels.
    """
    if config.max_rows is None:
        raise ConfigError("data.max_rows: not set, but it says how many rows a sample has")
    sample = Sample(config.max_rows, seed, Labels(checked_names(config.label_names)), DataReport())
    for texts, label in usable_rows(shard, config, columns, sample.labels, sample.report):
        sample.add(texts, label)
    sample.trim()
    return sample


def merge(samples: Iterable[Sample]) -> Sample:
    """The sample of all rows that these were taken of, in any order and grouping. The first takes the others in.

    :param samples: one or more, of the same limit and seed; held one at a time if they come one at a time.
    :raises DataError: the shards call one label by two names.
    """
    rest = iter(samples)
    first = next(rest)
    first.trim()
    for sample in rest:
        first.adopt(sample)
        first.trim()
        del sample  # before the next is made
    return first


def sample_of(source: Source, columns: Columns, config: DataConfig, seed: int, run: Run) -> Sample:
    """The sample of all rows.

    :param source: its parts are the shards.
    :param run: as ``map``, in any order; best one that gives results as they come.
    """
    return merge(run(partial(sample_shard, columns=columns, config=config, seed=seed), source.parts or [source]))


def _order(texts: Texts, seed: int) -> int:
    """A row's place among all others: 64 bits by its texts, the same on every machine."""
    text = "\x1f".join(texts).encode("utf-8")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8, key=str(seed).encode()).digest(), "big")
