"""Near duplicates: the earliest of those that are near one another stays, however the work is cut or spread."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from gendistill import near_duplicates as module
from gendistill.engines import near
from gendistill.engines.runner import LocalRunner
from gendistill.engines.storage import Storage
from gendistill.near_duplicates import Search, near_duplicates, search_here
from gendistill.progress import Silent

Rows = npt.NDArray[np.float32]


def clustered(count: int, centres: int, spread: float, width: int = 16) -> Rows:
    rng = np.random.default_rng(count)
    rows = rng.normal(size=(centres, width))[rng.integers(centres, size=count)]
    rows += spread * rng.normal(size=rows.shape)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def by_hand(rows: Rows, first: int, least: float) -> dict[int, int]:
    """Row turned away -> the earliest that stays and is near it, one row after the other."""
    cosines = rows.astype(np.float64) @ rows.T.astype(np.float64)
    stays = np.ones(len(rows), dtype=np.bool_)
    found = {}
    for row in range(first, len(rows)):
        near = np.flatnonzero((cosines[row, :row] >= least - module.EQUAL) & stays[:row])
        if len(near):
            stays[row], found[row] = False, int(near[0])
    return found


@pytest.fixture(params=[(8192, 512, 32), (64, 16, 32), (64, 16, 1), (96, 96, 3)])
def cut(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(("TILE", "BLOCK", "MOST"), request.param, strict=True):
        monkeypatch.setattr(module, name, value)


@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize("first", [0, 100, 128, 1300])
def test_the_same_as_row_by_row_however_it_is_cut(first: int) -> None:
    rows = clustered(1300, 40, 0.3)
    found = near_duplicates(rows, first, 0.9)
    assert {row: earlier for row, (earlier, _) in found.items()} == by_hand(rows, first, 0.9)
    assert first == 1300 or len(found) > 500
    for row, (earlier, cosine) in found.items():
        assert cosine == pytest.approx(float(rows[row] @ rows[earlier]), abs=1e-6)


@pytest.mark.usefixtures("cut")
def test_rows_of_which_no_noted_neighbour_stays() -> None:
    # Along an arc, nearer and nearer: each row has many neighbours, and most of them do not stay
    angles = np.cumsum(np.full(400, 0.01))
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert {row: at for row, (at, _) in near_duplicates(rows, 0, 0.999).items()} == by_hand(rows, 0, 0.999)


def test_the_limit_does_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = clustered(600, 600, 0.0, width=384)
    cosines = np.sort((rows.astype(np.float64) @ rows.T.astype(np.float64))[np.tril_indices(600, -1)])
    for least in cosines[-200::50] + module.EQUAL:  # each is the cosine of a pair, to the last figure of float32
        found = []
        for tile, block in ((8192, 512), (7, 7), (50, 10)):
            monkeypatch.setattr(module, "TILE", tile)
            monkeypatch.setattr(module, "BLOCK", block)
            found.append(near_duplicates(rows, 0, float(least)))
        assert found[0] == found[1] == found[2] and found[0]


def test_nothing_to_look_at() -> None:
    rows = clustered(10, 10, 0.0)
    assert near_duplicates(rows, 10, 0.5) == {}
    assert near_duplicates(rows[:0], 0, 0.5) == {}
    assert near_duplicates(rows[:1], 0, 0.5) == {}
    assert near_duplicates(np.repeat(rows[:1], 2, axis=0), 1, 0.5) == {1: (0, pytest.approx(1.0))}


def test_everything_the_same_takes_little_memory() -> None:
    rows = np.repeat(clustered(1, 1, 0.0, width=8), 20_000, axis=0)
    parts = list(search_here(rows, 0, 0.95))
    assert sum(len(part.rows) for part in parts) <= module.MOST * len(rows)
    assert len(near_duplicates(rows, 0, 0.95)) == len(rows) - 1


@pytest.mark.usefixtures("cut")
def test_the_same_spread_over_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "ALONE_ROWS", 0)
    rows = clustered(700, 30, 0.3)
    search: Search = near.search_by(LocalRunner(), Storage(str(tmp_path)), Silent())
    for first in (0, 150, 699):
        assert near_duplicates(rows, first, 0.9, search) == near_duplicates(rows, first, 0.9) != {}
    assert not (tmp_path / near.FOLDER).exists()
