"""Multi-label rows as classes: every set of labels that is frequent enough is one (label powerset).

Rare sets are pruned: a row is filed under the largest frequent subset of its labels, and left out if there is none
(pruned problem transformation; Read 2008, "A pruned problem transformation method for multi-label classification").
So filters, objectives and selection see classes as ever, and a generator is asked for texts with a whole set of labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from gendistill.data.labels import Labels
from gendistill.data.readers import Source
from gendistill.data.shapes import NO_LABEL

JOINED = " + "  # in the name of a class


class LabelSets:
    """The classes of a multi-label dataset; used as ``Labels`` is.

    :param names: the single labels if they are known.
    :param separator: between the labels of a row, where they are one string; None: they are lists.
    :param least: rows that a set must have to be a class.
    :param sets: the classes themselves, fixed, by an earlier reading: other rows are filed under these.
    """

    def __init__(
        self,
        names: list[str] | None,
        separator: str | None,
        least: int,
        sets: Sequence[tuple[str, ...]] | None = None,
    ) -> None:
        self.labels = Labels(names)
        self.separator, self.least = separator, least
        self.sets: list[tuple[str, ...]] = list(sets or [])  # label names of each class; final after close()
        self._classes: list[frozenset[int]] | None = None
        if sets is not None:
            place = {name: index for index, name in enumerate(self.labels.names)}
            self._classes = [frozenset(place[name] for name in labels) for labels in sets]
        self._seen: dict[frozenset[int], int] = {}

    @classmethod
    def fixed(cls, sets: Sequence[tuple[str, ...]], separator: str | None) -> LabelSets:
        """The classes of an earlier reading, for other rows."""
        return cls(single_labels(sets), separator, 1, sets)

    @property
    def names(self) -> list[str]:
        """Of the classes."""
        return [JOINED.join(labels) or NO_LABEL for labels in self.sets]

    def begin(self, source: Source) -> None:
        self.labels.begin(source)

    def index(self, value: Any, name: Any, column: str, number: int) -> int | None:
        """A provisional number of the row's set of labels; None if it has no label.

        :raises DataError: a label that is no name or number, or that is not known.
        """
        labels = self._labels_in(value, column, number)
        return None if labels is None else self._seen.setdefault(labels, len(self._seen))

    def filed(self, value: Any, column: str, number: int) -> int | None:
        """The class of a row, once the classes are fixed; None if it has no label or fits under none.

        :raises DataError: as ``index``.
        """
        labels = self._labels_in(value, column, number)
        return None if labels is None else self._class_of(labels)

    def _labels_in(self, value: Any, column: str, number: int) -> frozenset[int] | None:
        if value is None:
            return None
        if isinstance(value, str) and self.separator is not None:
            value = [part for part in value.split(self.separator) if part.strip()]
        parts = value if isinstance(value, (list, tuple)) else [value]
        found = [self.labels.index(part, None, column, number) for part in parts]
        return frozenset(one for one in found if one is not None)

    def close(self, rows: Counter[int]) -> list[int | None]:
        """Fix the classes, if they are not yet.

        :param rows: how many rows each provisional number has.
        :returns: for each provisional number, the class; None for a set of labels that fits under none.
        """
        order = self.labels.close()
        if self._classes is None:
            self._seen = {frozenset(order[one] for one in labels): index for labels, index in self._seen.items()}
            frequent = [labels for labels, index in self._seen.items() if rows[index] >= self.least]
            self._classes = sorted(frequent, key=lambda labels: (len(labels), sorted(labels)))
            self.sets = [tuple(self.labels.names[one] for one in sorted(labels)) for labels in self._classes]
        return [self._class_of(labels) for labels in self._seen]

    def _class_of(self, labels: frozenset[int]) -> int | None:
        assert self._classes is not None  # fixed
        return self._classes.index(labels) if labels in self._classes else _largest_subset(labels, self._classes)

    def pruned(self, rows: Counter[int]) -> tuple[int, int]:
        """Rows that fit under no class, and rows filed under a part of their labels; after ``close``."""
        order = self.close(rows)
        sizes = [len(names) for names in self.sets]
        dropped = sum(rows[index] for index, place in enumerate(order) if place is None)
        reduced = sum(
            rows[index]
            for index, (labels, place) in enumerate(zip(self._seen, order, strict=True))
            if place is not None and sizes[place] < len(labels)
        )
        return dropped, reduced


def _largest_subset(labels: frozenset[int], classes: Sequence[frozenset[int]]) -> int | None:
    """The class with most of these labels and no other; the empty set stands in for nothing."""
    fitting = [index for index, some in enumerate(classes) if some and some < labels]
    return max(fitting, key=lambda index: (len(classes[index]), -index), default=None)


def single_labels(sets: Sequence[tuple[str, ...]]) -> list[str]:
    """Every label that stands in one of the sets, once, in their order."""
    return list(dict.fromkeys(name for names in sets for name in names))
