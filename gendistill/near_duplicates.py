"""Near duplicates: of candidates whose embeddings are nearly the same, the earliest stays.

Two steps, so that the first, which is nearly all of the work, can be spread over processes: it knows nothing of what
stays, and finds for each tile of candidates the earlier rows that are near its rows (`neighbours`). The second goes
through the candidates in their order and turns away each that has a neighbour which stays (`near_duplicates`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

TILE = 8192  # rows that are read at once
BLOCK = 1024  # of them compared with so many at once; it divides TILE
MOST = 32  # neighbours that are noted of a row. More are looked for only if none of these stays
ROUNDING = 1e-5  # of a cosine in float32, which depends on the shape of the batch; nearer to the limit float64 decides
EQUAL = 1e-6  # the cosine of two equal rows may come out so much below 1


@dataclass(frozen=True)
class Neighbours:
    """Of the rows ``start, start + 1, ...``: the first ``MOST`` of the rows before each that are near it."""

    start: int
    counts: npt.NDArray[np.int32]  # of each row
    rows: npt.NDArray[np.int32]  # of all of them, one row after the other, ascending within each


Search = Callable[[FloatArray, int, float], Iterable[Neighbours]]
"""(n, d) rows of length 1, the number of those at the beginning that stay in any case, least cosine -> the neighbours
of all others, tile by tile in their order."""


def tiles(total: int, first: int) -> range:
    """Numbers of the tiles that have any of the rows from ``first`` on."""
    return range(first // TILE, -(-total // TILE)) if total > first else range(0)


def tile_of(rows: FloatArray, number: int) -> FloatArray:
    """At most ``TILE`` of the rows."""
    return rows[number * TILE : (number + 1) * TILE]


def neighbours(number: int, read: Callable[[int], FloatArray], first: int, least: float) -> Neighbours:
    """The earlier rows near those of one tile. It does not depend on how the work is cut.

    :param read: the rows of a tile, (at most TILE, d) float32 of length 1; asked for this tile and those before it.
    :param first: rows before this one are not looked at, only compared with.
    :param least: cosine from which two rows are near.
    """
    start = max(first, number * TILE)
    own = read(number)
    queries = own[start - number * TILE :]
    counts = np.zeros(len(queries), dtype=np.int32)
    owners, found = ([np.empty(0, dtype=np.int64)] for _ in range(2))  # of a first row alone nothing comes
    for begin in range(0, start + len(queries), BLOCK):
        if begin % TILE == 0:
            base = own if begin == number * TILE else read(begin // TILE)
        among = base[begin % TILE :][:BLOCK]
        wanting = np.flatnonzero((counts < MOST) & (np.arange(start, start + len(queries)) > begin))
        for at in range(0, len(wanting), BLOCK):
            block = wanting[at : at + BLOCK]
            owner, row = _near(queries[block], among, least)
            owner, row = block[owner], begin + row
            earlier = row < start + owner
            owner, row = owner[earlier], row[earlier]
            few = _place_within(owner) < MOST - counts[owner]
            owners.append(owner[few])
            found.append(row[few])
            counts += np.bincount(owner[few], minlength=len(counts)).astype(np.int32)
    # Of one owner the rows came ascending
    order = np.argsort(np.concatenate(owners), kind="stable")
    return Neighbours(start, counts, np.concatenate(found)[order].astype(np.int32))


def search_here(rows: FloatArray, first: int, least: float) -> Iterator[Neighbours]:
    """A ``Search`` in this process."""
    for number in tiles(len(rows), first):
        yield neighbours(number, partial(tile_of, rows), first, least)


def near_duplicates(
    rows: FloatArray, first: int, least: float, search: Search = search_here
) -> dict[int, tuple[int, float]]:
    """Row that is turned away -> the earliest row that stays and is near it, and their cosine.

    :param rows: (n, d) float32 of length 1.
    :param first: so many rows at the beginning stay in any case.
    :param least: cosine from which two rows are near.
    """
    stays = np.ones(len(rows), dtype=np.bool_)
    found: dict[int, tuple[int, float]] = {}
    for part in search(rows, first, least):
        ends = np.cumsum(part.counts)
        for place in np.flatnonzero(part.counts).tolist():
            row, end = part.start + place, int(ends[place])
            near = part.rows[end - int(part.counts[place]) : end]
            left = near[stays[near]]
            earliest = int(left[0]) if len(left) else None
            if earliest is None and len(near) == MOST:
                earliest = _earliest(rows, stays, int(near[-1]) + 1, row, least)
            if earliest is not None:
                stays[row] = False
                found[row] = earliest, float(cosines(rows[row : row + 1], rows[earliest : earliest + 1])[0])
    return found


def _near(queries: FloatArray, base: FloatArray, least: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(query, row of the base) of all that are near, by query and row."""
    rounded = queries @ base.T
    owners, rows = np.nonzero(rounded >= least - EQUAL - ROUNDING)
    unsure = np.flatnonzero(rounded[owners, rows] < least - EQUAL + ROUNDING)
    near = np.ones(len(rows), dtype=np.bool_)
    near[unsure] = cosines(queries[owners[unsure]], base[rows[unsure]]) >= least - EQUAL
    return owners[near], rows[near]


def cosines(left: FloatArray, right: FloatArray) -> npt.NDArray[np.float64]:
    """(n,), row by row, of rows of length 1; in float64, for BLAS rounds by the shape of the batch."""
    return np.einsum("nd,nd->n", left.astype(np.float64), right.astype(np.float64))


def _place_within(owners: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Of sorted owners, how many of the same owner come before each."""
    return np.arange(len(owners)) - np.searchsorted(owners, owners)


def _earliest(rows: FloatArray, stays: npt.NDArray[np.bool_], begin: int, end: int, least: float) -> int | None:
    """Of the rows from ``begin`` to ``end`` that stay, the first that is near row ``end``."""
    for start in range(begin, end, TILE):
        among = start + np.flatnonzero(stays[start : min(start + TILE, end)])
        _, near = _near(rows[end : end + 1], rows[among], least)
        if len(near):
            return int(among[near[0]])
    return None
