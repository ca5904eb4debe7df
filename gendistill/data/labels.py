"""Class indices from whatever a dataset calls its classes: names, numbers, or numbers with names beside them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from gendistill.data.readers import Row, Source
from gendistill.errors import ConfigError, DataError

_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]*))(?:\.0+)?")  # "3", and the "3.0" that a CSV of floats says


class UnknownLabel(DataError):
    """A label that is not one of the classes."""


class Labels:
    """The classes of a dataset. With names given they are fixed; otherwise they are learnt from the rows.

    ``begin(source)``, then ``index`` for each row, then once ``close()`` where they were learnt. After that another
    source (the test data) can only use classes that are known.
    """

    def __init__(self, names: list[str] | None) -> None:
        self.names = list(names or [])  # by index; final after close()
        self._learning = names is None
        self._indices: dict[str, int] = {}
        self._learnt_names: dict[str, str] = {}  # number -> the name beside it
        self._source = Source("", _no_rows)
        self._by_name: bool | None = None
        if names is not None:
            self._fix(names, [str(index) for index in range(len(names))])

    def _fix(self, names: list[str], numbers: list[str]) -> None:
        self._indices = {_key(name): index for index, name in enumerate(names)}
        # Names that are numbers themselves ("1" to "5") leave no room for other numbers: "1" must not mean two classes.
        if not any(_WHOLE.fullmatch(name) for name in names):
            self._indices.update({number: index for index, number in enumerate(numbers)})

    def begin(self, source: Source) -> None:
        """The next rows are those of ``source``."""
        self._source, self._by_name = source, None

    def index(self, value: Any, name: Any, column: str, number: int) -> int | None:
        """The class of a row, or None if it has no label.

        :param value: what stands in the label column.
        :param name: what stands in the column of label names, if there is one.
        :param column: the label column.
        :param number: of the row, for messages.
        """
        named = self._source.class_names.get(column)
        if named and isinstance(value, int):
            if value < 0:  # the hub's sign for a label that is kept back
                return None
            if value >= len(named):
                raise UnknownLabel(f"{self._source.at(number)}: label {value} is not among the {len(named)} names")
            name = named[value]
        key = self._read(value, number)
        if key is None:
            return None
        name = name.strip() if isinstance(name, str) and _WHOLE.fullmatch(key) else None
        if self._learning:
            if name and self._learnt_names.setdefault(key, name) != name:
                raise DataError(
                    f"{self._source.at(number)}: label {key} is called {name!r} here and "
                    f"{self._learnt_names[key]!r} before; choose with --label-column"
                )
            return self._indices.setdefault(key, len(self._indices))
        if name and self._by_name is None:
            self._by_name = _key(name) in self._indices  # else the numbers are all that both sides share
        found = self._indices.get(_key(name) if name and self._by_name else key)
        if found is None:
            shown = repr(name) if name and self._by_name else repr(value)
            raise UnknownLabel(
                f"{self._source.at(number)}: label {shown} is not among the names: {_listed(self.names)}; "
                "see --label-names"
            )
        return found

    def close(self) -> list[int]:
        """Fix the classes learnt, numbers in their order and names in the alphabet's.

        :returns: for each index given out so far, the final one.
        """
        if not self._learning:
            return list(range(len(self.names)))
        self._learning = False
        keys = list(self._indices)
        ordered = sorted(keys, key=int) if all(map(_WHOLE.fullmatch, keys)) else sorted(keys)
        self.names = [self._learnt_names.get(key, key) for key in ordered]
        if len(set(self.names)) < len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise DataError(f"{self._source.name}: two labels are called {twice!r}; choose with --label-column")
        self._fix(self.names, ordered)
        place = {key: index for index, key in enumerate(ordered)}
        return [place[key] for key in keys]

    def adopt(self, other: Labels) -> list[int]:
        """Learn the classes that another learnt of other rows. Neither is closed yet.

        :returns: for each index that the other gave out, the one here.
        :raises DataError: the two call a number by different names.
        """
        if not self._learning:
            return list(range(len(self.names)))
        for key, name in other._learnt_names.items():
            if self._learnt_names.setdefault(key, name) != name:
                raise DataError(
                    f"{other._source.name}: label {key} is called {name!r} here and {self._learnt_names[key]!r} in "
                    "another file; choose with --label-column"
                )
        return [self._indices.setdefault(key, len(self._indices)) for key in other._indices]

    def _read(self, value: Any, number: int) -> str | None:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return None
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, float) and value.is_integer():
            return str(int(value))
        if isinstance(value, (int, str)):
            return _key(str(value)) or None
        raise UnknownLabel(f"{self._source.at(number)}: label {value!r} is neither a name nor a whole number")


def checked_names(names: list[str] | None) -> list[str] | None:
    """Given names of classes, without the white space around them.

    :raises ConfigError: one is empty or stands twice.
    """
    if names is None:
        return None
    names = [name.strip() for name in names]
    if len(set(names)) < len(names) or "" in names:
        raise ConfigError(f"data.label_names: a name is empty or stands twice in {', '.join(map(repr, names))}")
    return names


def _no_rows(columns: list[str] | None) -> Iterator[Row]:
    return iter(())


def _key(label: str) -> str:
    label = label.strip()
    whole = _WHOLE.fullmatch(label)
    return whole[1] if whole else label


def _listed(names: list[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
