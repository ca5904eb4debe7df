"""Which candidates copy a real row, where the real data is too large to hold: its rows are streamed past them.

The verdicts are those that ``filters.TextFilter`` would give if it held every row. Memory is bounded by the candidates.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from gendistill.config import Config
from gendistill.data.columns import Columns, columns_of
from gendistill.data.load import RealData
from gendistill.data.readers import Source
from gendistill.data.sources import Run, data_shards
from gendistill.examples import Example
from gendistill.filters import Rejection, copy_length, same_as_real, shared_with_real
from gendistill.folding import (
    HashArray,
    contains,
    fold,
    hashes,
    key_of,
    longest_run,
    ngram_hashes,
)

BLOCK_ROWS = 4_096
Found = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Wanted:
    """What copies of the candidates are known by: hashes that hold on every machine, each once and ascending."""

    keys: HashArray  # (k,) uint64, of whole texts
    grams: HashArray  # (g,) uint64, of so many units in a row
    ngram: int


@dataclass(frozen=True)
class Seen:
    """Which of the wanted hashes some real rows have, as bits in their order."""

    keys: npt.NDArray[np.uint8]  # (ceil(k / 8),)
    grams: npt.NDArray[np.uint8]  # (ceil(g / 8),)


def copies_of_all(config: Config, real: RealData, examples: Sequence[Example], run: Run = map) -> dict[str, Rejection]:
    """The candidates that copy a row of the whole real data, where only a sample of it is held; none otherwise.

    :param examples: candidates; those that the text filters turned away need not be among them.
    :param run: works through the shards of the data.
    :returns: by the id of each that has a real row's text or, in ``filters.real_copy_ngram`` words or more, its words.
    :raises DataError: the data cannot be read.
    """
    if not real.report.unsampled_rows or not examples:
        return {}
    shards = data_shards(config.data)
    columns = columns_of(shards[0], config.data)
    unit, ngram = copy_length(config.filters, [*real.train, *real.target])
    wanted = wanted_of(examples, ngram)
    work = partial(seen_in, wanted=wanted, columns=columns, max_chars=config.data.max_chars)
    return verdicts(examples, wanted, merge(run(work, shards)), unit)


def wanted_of(examples: Iterable[Example], ngram: int) -> Wanted:
    """:param ngram: units in a row that make a copy."""
    keys, grams = [], []
    for block in _blocks(example.text for example in examples):
        rows = [fold(text) for text in block]
        keys.append(_keys(block, rows))
        grams.append(np.unique(ngram_hashes(rows, ngram)))
    return Wanted(np.unique(np.concatenate(keys)), np.unique(np.concatenate(grams)), ngram)


def seen_in(shard: Source, wanted: Wanted, columns: Columns, max_chars: int) -> Seen:
    """What of the wanted stands in a shard's rows, with a label or without.

    :raises DataError: the shard cannot be read.
    """
    keys, grams = _Marks(wanted.keys), _Marks(wanted.grams)
    for block in _blocks(_texts(shard, columns, max_chars)):
        rows = [fold(text) for text in block]
        keys.mark(_keys(block, rows))
        grams.mark(ngram_hashes(rows, wanted.ngram))
    return Seen(np.packbits(keys.found), np.packbits(grams.found))


def merge(parts: Iterable[Seen]) -> Seen:
    """What was seen in any of one or more parts, in any order."""
    rest = iter(parts)
    first = next(rest)
    keys, grams = first.keys.copy(), first.grams.copy()
    for part in rest:
        keys |= part.keys
        grams |= part.grams
    return Seen(keys, grams)


class _Marks:
    """Which of some hashes were met."""

    def __init__(self, hashes: HashArray) -> None:
        """:param hashes: (n,), each once and ascending."""
        self.hashes = hashes
        self.found: Found = np.zeros(len(hashes), dtype=np.bool_)
        # Nearly all of what comes is not wanted: a table by the last bits says so in one look, a search takes twenty
        self.last_bits = np.uint64((1 << max(4 * len(hashes), 1).bit_length()) - 1)
        self.table = np.zeros(int(self.last_bits) + 1, dtype=np.bool_)
        self.table[hashes & self.last_bits] = True

    def mark(self, met: HashArray) -> None:
        likely = met[self.table[met & self.last_bits]]
        there = likely[contains(self.hashes, likely)]
        self.found[np.searchsorted(self.hashes, there)] = True


def verdicts(examples: Sequence[Example], wanted: Wanted, seen: Seen, unit: str) -> dict[str, Rejection]:
    """By the id of each candidate of which something was seen.

    :param wanted: of these candidates.
    :param unit: what texts are counted in (``filters.copy_length``).
    """
    keys = wanted.keys[np.unpackbits(seen.keys, count=len(wanted.keys)).astype(np.bool_)]
    grams = wanted.grams[np.unpackbits(seen.grams, count=len(wanted.grams)).astype(np.bool_)]
    found: dict[str, Rejection] = {}
    for start in range(0, len(examples), BLOCK_ROWS):
        block = examples[start : start + BLOCK_ROWS]
        rows = [fold(example.text) for example in block]
        same = contains(keys, _keys([example.text for example in block], rows))
        hits = contains(grams, ngram_hashes(rows, wanted.ngram))
        end = 0
        for place, (example, row) in enumerate(zip(block, rows, strict=True)):
            begin, end = end, end + max(len(row) - wanted.ngram + 1, 0)
            if same[place]:
                found[example.id] = same_as_real(len(row), unit)
            elif hits[begin:end].any():
                found[example.id] = shared_with_real(wanted.ngram + longest_run(hits[begin:end]) - 1, unit)
    return found


def _keys(texts: Sequence[str], rows: Sequence[Sequence[str]]) -> HashArray:
    return hashes([key_of(text, row) for text, row in zip(texts, rows, strict=True)])


def _texts(shard: Source, columns: Columns, max_chars: int) -> Iterator[str]:
    for number, row in shard.rows(list(columns.texts)):
        read = columns.cleaned(row, max_chars, shard.at(number))
        texts = tuple(text for text, _ in read if text is not None)
        if texts:
            yield Example(texts, 0).text


def _blocks(texts: Iterable[str]) -> Iterator[list[str]]:
    block: list[str] = []
    for text in texts:
        block.append(text)
        if len(block) == BLOCK_ROWS:
            yield block
            block = []
    if block:
        yield block
