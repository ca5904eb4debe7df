"""The longest run of words that a text shares with any of many texts."""

from __future__ import annotations

import re
from collections.abc import Sequence

LEAST = 4  # words; a shorter run says nothing and counts as 0
_WORD = re.compile(r"\w+")


class SharedRuns:
    """An index of texts by their runs of ``LEAST`` words; case and punctuation do not count."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._words: list[list[str]] = [words(text) for text in texts]
        self._places: dict[int, list[tuple[int, int]]] = {}
        for row, found in enumerate(self._words):
            for start in range(len(found) - LEAST + 1):
                self._places.setdefault(hash(tuple(found[start : start + LEAST])), []).append((row, start))

    def longest(self, text: str) -> int:
        """Words of the longest run shared with one of the texts; 0 if it is shorter than ``LEAST``."""
        given, best = words(text), 0
        for start in range(len(given) - LEAST + 1):
            for row, place in self._places.get(hash(tuple(given[start : start + LEAST])), ()):
                best = max(best, _run(given, start, self._words[row], place))
        return best


def words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _run(a: Sequence[str], start: int, b: Sequence[str], place: int) -> int:
    length = 0
    while start + length < len(a) and place + length < len(b) and a[start + length] == b[place + length]:
        length += 1
    return length if length >= LEAST else 0
