"""The words of many texts as hashes, and the longest runs of words that two sets of texts share.

Exact but for collisions of 64-bit hashes, in memory that grows with the number of words: 12 bytes each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from gendistill.folding import fold

Hashes = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]

BLOCK_ROWS = 4_096
NONE = np.iinfo(np.int64).max  # no row
_FIRST, _SECOND, _MIX = (np.uint64(odd) for odd in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0xD6E8FEB86659FD93))


@dataclass(frozen=True)
class _Block:
    words: Hashes  # (w,), row after row
    rows: npt.NDArray[np.int32]  # (w,) the row of each word

    def grams(self, n: int) -> tuple[Hashes, Rows]:
        """Hashes of all runs of n words, none across two rows, and the row of each.

        A run of twice the length is hashed from its halves, so that the work grows with the logarithm of n.
        """
        count = len(self.words) - n + 1
        if count <= 0:
            return np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64)
        grams, span = self.words, 1
        while 2 * span <= n:
            grams = _mixed(grams[:-span], grams[span:])
            span *= 2
        if span < n:
            grams = _mixed(grams[:count], grams[n - span : n - span + count])
        inside = self.rows[:count] == self.rows[n - 1 :]
        return grams[inside], self.rows[:count][inside].astype(np.int64)

    def only(self, wanted: npt.NDArray[np.bool_]) -> _Block:
        keep = wanted[self.rows]
        return _Block(self.words[keep], self.rows[keep])


def _mixed(first: Hashes, second: Hashes) -> Hashes:
    mixed = first * _FIRST + second * _SECOND  # wraps around; what is first and what is second matters
    mixed ^= mixed >> np.uint64(32)
    mixed *= _MIX
    return mixed


class WordIndex:
    """The words of texts, folded: without case, punctuation and spacing.

    :param size: number of texts; the rows of an index of some of them keep their numbers.
    """

    def __init__(self, blocks: Sequence[_Block], size: int) -> None:
        self.blocks, self.size = blocks, size

    @classmethod
    def of(cls, texts: Iterable[str]) -> WordIndex:
        # Python's str hash changes from process to process, which is harmless: nothing of it is written anywhere.
        blocks, size, waiting = [], 0, iter(texts)
        while part := list(islice(waiting, BLOCK_ROWS)):
            words = [[hash(word) for word in fold(text)] for text in part]
            flat = np.fromiter((h for row in words for h in row), dtype=np.int64).view(np.uint64)
            rows = np.repeat(np.arange(size, size + len(part), dtype=np.int32), [len(row) for row in words])
            blocks.append(_Block(flat, rows))
            size += len(part)
        return cls(blocks, size)

    def counts(self) -> Rows:
        """(size,) words of each text."""
        totals = np.zeros(self.size, dtype=np.int64)
        for block in self.blocks:
            totals += np.bincount(block.rows, minlength=self.size)
        return totals

    def grams(self, n: int) -> Iterator[tuple[Hashes, Rows]]:
        """Block by block."""
        return (block.grams(n) for block in self.blocks)

    def all_grams(self, n: int) -> tuple[Hashes, Rows]:
        parts = list(self.grams(n)) or [_Block(np.empty(0, np.uint64), np.empty(0, np.int32)).grams(1)]
        return np.concatenate([grams for grams, _ in parts]), np.concatenate([rows for _, rows in parts])

    def only(self, wanted: npt.NDArray[np.bool_]) -> WordIndex:
        """The index of some of the texts: (size,) true for those."""
        blocks = [block.only(wanted) for block in self.blocks]
        return WordIndex([block for block in blocks if len(block.words)], self.size)


def _first_with(ours: WordIndex, real: WordIndex, n: int) -> tuple[Rows, npt.NDArray[np.bool_]]:
    """For each of our texts the first real one that shares n words in a row with it, or ``NONE``; and which real ones
    share as many with any of ours."""
    grams, rows = ours.all_grams(n)
    found, touched = np.full(ours.size, NONE), np.zeros(real.size, dtype=np.bool_)
    if not len(grams):
        return found, touched
    keys, place = np.unique(grams, return_inverse=True)
    first = np.full(len(keys), NONE)
    for theirs, real_rows in real.grams(n):
        at = np.minimum(np.searchsorted(keys, theirs), len(keys) - 1)
        hit = keys[at] == theirs
        touched[real_rows[hit]] = True
        np.minimum.at(first, at[hit], real_rows[hit])
    np.minimum.at(found, rows, first[place])
    return found, touched


def longest_shared(ours: WordIndex, real: WordIndex) -> tuple[Rows, Rows]:
    """The most words in a row that each text shares with any one real text, and with which.

    Runs of 1, 2, 4, ... words are looked for until none is shared, then the lengths between, always among those texts
    alone that can still have one.

    :returns: (size,) lengths, and (size,) rows of ``real``, ``NONE`` where the length is 0.
    """
    lengths, partners = np.zeros(ours.size, dtype=np.int64), np.full(ours.size, NONE)

    def between(texts: WordIndex, theirs: WordIndex, low: int, high: int) -> None:
        """All of these texts share ``low`` words with ``theirs``, none ``high``."""
        if high - low <= 1 or not texts.blocks:
            return
        middle = (low + high) // 2
        found, touched = _first_with(texts, theirs, middle)
        shared = found != NONE
        lengths[shared], partners[shared] = middle, found[shared]
        between(texts.only(~shared), theirs, low, middle)
        between(texts.only(shared), theirs.only(touched), middle, high)

    n = 1
    while ours.blocks:
        found, touched = _first_with(ours, real, n)
        shared = found != NONE
        lengths[shared], partners[shared] = n, found[shared]
        if n > 1:
            between(ours.only(~shared), real, n // 2, n)
        ours, real = ours.only(shared), real.only(touched)
        n *= 2
    return lengths, partners


def overlap(texts: WordIndex, others: WordIndex, n: int) -> npt.NDArray[np.float64]:
    """(size,) the share of each text's runs of n words that any of the others has; 0 for a text of fewer words."""
    keys = np.unique(others.all_grams(n)[0])
    hits, totals = np.zeros(texts.size), np.zeros(texts.size)
    for grams, rows in texts.grams(n):
        totals += np.bincount(rows, minlength=texts.size)
        if len(keys):
            there = keys[np.minimum(np.searchsorted(keys, grams), len(keys) - 1)] == grams
            hits += np.bincount(rows[there], minlength=texts.size)
    return hits / np.maximum(totals, 1)


def rows_with(phrases: Sequence[str], real: WordIndex) -> list[int]:
    """How many real texts each phrase stands in, as whole words."""
    ours = WordIndex.of(phrases)
    sizes = ours.counts()
    counts = np.zeros(len(phrases), dtype=np.int64)
    for n in np.unique(sizes[sizes > 0]).tolist():
        grams, rows = ours.only(sizes == n).all_grams(n)
        keys, place = np.unique(grams, return_inverse=True)
        texts = np.zeros(len(keys), dtype=np.int64)
        for theirs, real_rows in real.grams(n):
            at = np.minimum(np.searchsorted(keys, theirs), len(keys) - 1)
            hit = keys[at] == theirs
            pairs = np.unique(np.stack([at[hit], real_rows[hit]]), axis=1)
            texts += np.bincount(pairs[0], minlength=len(keys))
        counts[rows] = texts[place]
    return counts.tolist()
