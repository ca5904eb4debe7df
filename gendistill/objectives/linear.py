"""Inner products with many float32 rows: the one thing that objectives do over all candidates."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK_ROWS = 512  # a chunk in float64 stays in a core's cache; the features themselves stay float32


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
    for place, part in chunks(features, rows):
        result[:, place] = matrix[:, :width] @ part.T
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
