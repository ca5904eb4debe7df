"""Budgets: how many texts of each class to choose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from gendistill.errors import ConfigError


def class_budgets(
    real_counts: Sequence[int], per_class: int, mode: Literal["equal", "proportional"] = "equal"
) -> list[int]:
    """A budget for each class; the sum is ``per_class`` times the number of classes in either mode.

    "proportional" shares the total out as the real data has the classes, by largest remainders (ties to the lower
    class), and gives every class that the real data has one at least.

    :param real_counts: real rows of each class.
    :raises ConfigError: the budget is below 1, or proportional shares are asked for and there are no real rows.
    """
    if per_class < 1:
        raise ConfigError(f"per_class must be at least 1, got {per_class}")
    if mode == "equal":
        return [per_class] * len(real_counts)
    if sum(real_counts) <= 0:
        raise ConfigError("selection.budget proportional needs real rows to share the budget out by, got none")
    return shared_out(per_class * len(real_counts), real_counts, least=1)


def shared_out(total: int, counts: Sequence[int], *, least: int = 0) -> list[int]:
    """``total`` shared out in proportion to the counts, by largest remainders, ties to the lower index.

    :param least: what each that has any gets at least.
    """
    rows = sum(counts)
    budgets = [least if count > 0 else 0 for count in counts]
    # Largest remainders, one at a time: the class that is furthest below its share is served next.
    for _ in range(total - sum(budgets)):
        behind = [count * total - budget * rows for count, budget in zip(counts, budgets, strict=True)]
        budgets[behind.index(max(behind))] += 1
    return budgets
