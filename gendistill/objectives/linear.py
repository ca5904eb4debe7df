"""Inner products with many float32 rows: the one thing that objectives do over all candidates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor

CHUNK_ROWS = 512  # a chunk in float64 stays in a core's cache; the features themselves stay float32
ROWS_PER_WORKER = 32 * CHUNK_ROWS  # fewer are not worth handing over

_workers = 1


@contextmanager
def coarse_threads() -> Iterator[None]:
    """Give torch's threads long runs of chunks each instead of a share of every small product.

    Selection is thousands of small products: to split each costs more than it gains, and on a busy machine a product
    waits for the slower half.
    """
    global _workers
    if _workers > 1:  # within another
        yield
        return
    threads = torch.get_num_threads()
    before, _workers = _workers, threads
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        _workers = before


def each_chunk(features: Tensor, work: Callable[[slice, Tensor], None], rows: Tensor | None = None) -> None:
    """``work`` on all that ``chunks`` gives, in any order, by several threads within ``coarse_threads``.

    The chunks are the same however many threads there are, so no bit of a result depends on that.
    """
    count = len(features) if rows is None else len(rows)
    runs = min(_workers, count // ROWS_PER_WORKER)
    if runs < 2:
        for place, part in chunks(features, rows):
            work(place, part)
        return
    length = -(-count // (runs * CHUNK_ROWS)) * CHUNK_ROWS

    def run(begin: int) -> None:
        end = min(begin + length, count)
        some = chunks(features[begin:end]) if rows is None else chunks(features, rows[begin:end])
        for place, part in some:
            work(slice(begin + place.start, begin + place.stop), part)

    with ThreadPoolExecutor(runs) as pool:
        list(pool.map(run, range(0, count, length)))


def chunks(features: Tensor, rows: Tensor | None = None) -> Iterator[tuple[slice, Tensor]]:
    """(place, float64 rows) of ``features[rows]`` a few at a time, in one buffer that the next chunk overwrites.

    :param features: (n, d) float32.
    :param rows: (r,) int64, or None for all.
    """
    count, width = len(features) if rows is None else len(rows), features.shape[1]
    start = 0 if rows is None else _start_of_range(rows)
    size = min(CHUNK_ROWS, count)
    wide = torch.empty(size, width, dtype=torch.float64)
    narrow = torch.empty(size if start is None else 0, width, dtype=features.dtype)
    for begin in range(0, count, CHUNK_ROWS):
        end = min(begin + CHUNK_ROWS, count)
        part = wide[: end - begin]
        if start is not None:
            part.copy_(features[start + begin : start + end])
        else:
            assert rows is not None
            part.copy_(torch.index_select(features, 0, rows[begin:end], out=narrow[: end - begin]))
        yield slice(begin, end), part


def products(features: Tensor, matrix: Tensor, rows: Tensor | None = None) -> Tensor:
    """``matrix @ features[rows].T`` in float64, without a float64 copy of the features.

    :param features: (n, d) float32.
    :param matrix: (k, d) float64, or (k, d + 1), the last column being for a constant feature 1.
    :param rows: (r,) int64, or None for all.
    :return: (k, r) float64.
    """
    width = features.shape[1]
    result = matrix.new_empty(len(matrix), len(features) if rows is None else len(rows))
    left = matrix[:, :width].contiguous()

    def multiply(place: slice, part: Tensor) -> None:
        result[:, place] = left @ part.T

    each_chunk(features, multiply, rows)
    if matrix.shape[1] > width:
        result += matrix[:, width:]
    return result


def _start_of_range(rows: Tensor) -> int | None:
    """The first of rows that lie side by side, which need no gathering; None for others."""
    if len(rows) == 0:
        return 0
    return int(rows[0]) if bool((rows.diff() == 1).all()) else None


def with_constant(rows: Tensor) -> Tensor:
    """(r, d + 1) float64: the rows with a feature 1 after their own."""
    return torch.nn.functional.pad(rows.double(), (0, 1), value=1.0)


def all_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite, without a mask or a copy as large as the values."""
    # One sum in float64 finds any of them: float32 values cannot overflow it.
    return all(bool(torch.isfinite(part.sum(dtype=torch.float64))) for part in values.split(8192))
