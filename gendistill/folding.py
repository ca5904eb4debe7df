"""What two texts have in common whatever their case, punctuation and spacing: folded units, keys and hashes of n-grams.

Imports no torch.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

HashArray = npt.NDArray[np.uint64]

# Scripts written without spaces between words: each of their characters counts as a unit of its own.
SPACELESS = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3040, 0x30FF),
    (0x3400, 0x9FFF),
    (0x20000, 0x3FFFF),
)


def is_spaceless(code: int) -> bool:
    return any(low <= code <= high for low, high in SPACELESS)


class _FoldTable(dict[int, "str | int"]):
    """For str.translate: keeps letters, marks and numbers of any script, makes everything else a space."""

    def __missing__(self, code: int) -> str | int:
        if unicodedata.category(chr(code))[0] not in "LMN":
            value: str | int = " "
        else:
            value = f" {chr(code)} " if is_spaceless(code) else code
        self[code] = value
        return value


_FOLD = _FoldTable()


def fold(text: str) -> list[str]:
    """The units of a text, without case, punctuation or spacing: words, or characters in scripts without spaces."""
    return unicodedata.normalize("NFKC", text).casefold().translate(_FOLD).split()


def key_of(text: str, units: Sequence[str]) -> str:
    """What two texts have in common when they differ in case, spacing and punctuation only."""
    return " ".join(units) or text.strip().casefold()


def text_key(text: str) -> str:
    """Equal for two texts that differ in case, spacing and punctuation only."""
    return key_of(text, fold(text))


def key_hashes(texts: Sequence[str]) -> HashArray:
    """(n,) uint64, equal for two texts of one key."""
    return hashes([text_key(text) for text in texts])


def hashes(strings: Sequence[str]) -> HashArray:
    """(n,) uint64, the same in every process and on every machine, which Python's own are not."""
    from pandas.util import hash_array

    values = np.empty(len(strings), dtype=object)
    values[:] = strings
    try:
        return hash_array(values, categorize=False)
    except UnicodeEncodeError:  # half a character, from a broken escape
        values[:] = [text.encode("utf-8", "surrogatepass").decode("utf-8", "replace") for text in strings]
        return hash_array(values, categorize=False)


def ngram_hashes(rows: Sequence[Sequence[str]], n: int) -> HashArray:
    """Hashes of all n-grams of all rows, in order, none across two rows. (total,) uint64."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    words = hashes([unit for row in rows for unit in row])
    if len(words) < n:
        return np.empty(0, dtype=np.uint64)
    # Multilinear hashing modulo 2**64: random odd multiplier per position.
    multipliers = np.random.default_rng(0).integers(0, 2**63, size=n, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    starts = len(words) - n + 1
    grams = np.zeros(starts, dtype=np.uint64)
    for offset, multiplier in enumerate(multipliers):
        grams += words[offset : offset + starts] * multiplier
    row_end = np.repeat(np.cumsum(lengths), lengths)[:starts]
    return grams[np.arange(starts) + n <= row_end]


def contains(sorted_hashes: HashArray, wanted: HashArray) -> npt.NDArray[np.bool_]:
    """Which of the wanted hashes are there. (len(wanted),)"""
    if len(sorted_hashes) == 0:
        return np.zeros(len(wanted), dtype=np.bool_)
    at = np.minimum(np.searchsorted(sorted_hashes, wanted), len(sorted_hashes) - 1)
    return sorted_hashes[at] == wanted


def longest_run(hits: npt.NDArray[np.bool_]) -> int:
    """The most that are true in a row."""
    best = current = 0
    for hit in hits.tolist():
        current = current + 1 if hit else 0
        best = max(best, current)
    return best
