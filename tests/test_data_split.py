"""Splits: stratified, seeded, nothing lost."""

from gendistill.data import stratified_split
from gendistill.examples import Example

ROWS = [Example((f"text {i}",), 0 if i % 10 else 1) for i in range(200)]  # 180 of class 0, 20 of class 1


def test_parts_are_disjoint_whole_and_in_order() -> None:
    kept, held = stratified_split(ROWS, 2, 0.25, seed=3)
    assert sorted(kept + held, key=ROWS.index) == ROWS
    assert kept == [row for row in ROWS if row in kept]
    assert held == [row for row in ROWS if row in held]


def test_every_class_gives_its_share() -> None:
    _, held = stratified_split(ROWS, 2, 0.25, seed=3)
    assert [sum(row.label == c for row in held) for c in (0, 1)] == [45, 5]


def test_same_seed_same_split_other_seed_other_split() -> None:
    assert stratified_split(ROWS, 2, 0.25, seed=3) == stratified_split(ROWS, 2, 0.25, seed=3)
    assert stratified_split(ROWS, 2, 0.25, seed=3) != stratified_split(ROWS, 2, 0.25, seed=4)


def test_small_classes() -> None:
    def held(count: int, fraction: float) -> int:
        rows = [Example((str(i),), 0) for i in range(count)]
        return len(stratified_split(rows, 1, fraction, seed=0)[1])

    assert held(3, 0.01) == 1  # three rows: one held out, however small the share
    assert held(2, 0.01) == 0
    assert held(2, 0.9) == 1  # never the last one
    assert held(1, 0.9) == 0
    assert held(0, 0.5) == 0
