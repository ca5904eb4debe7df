"""Shares of a learning rate by step: up over a warm-up, then down to nothing."""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[int], float]


def linear(warmup: int, steps: int) -> Schedule:
    """Down in a line; ``warmup`` of the ``steps`` go up."""
    return lambda step: min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))


def cosine(warmup: int, steps: int) -> Schedule:
    """Down in half a cosine."""

    def share(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return share
