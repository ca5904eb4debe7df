"""Seeded, stratified splits of the real data."""

from __future__ import annotations

import random
from collections.abc import Sequence

from gendistill.examples import Example, by_class, content_hash


def stratified_split(
    examples: Sequence[Example], num_classes: int, fraction: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """Hold out a share of every class.

    Both parts keep the original order, and the same arguments give the same parts on every machine. A class of three
    rows or more gives up at least one; no class ever gives up its last. Drop duplicates first: equal texts are split
    like any others.

    :param fraction: share to hold out, between 0 and 1.
    :returns: ``(kept, held_out)``.
    """
    held = bytearray(len(examples))
    rng = random.Random(seed)
    for members in by_class(examples, num_classes):
        count = round(fraction * len(members))
        if len(members) >= 3:
            count = max(count, 1)
        count = min(count, len(members) - 1)
        for index in rng.sample(members, max(count, 0)):
            held[index] = 1
    kept = [example for example, out in zip(examples, held, strict=True) if not out]
    return kept, [example for example, out in zip(examples, held, strict=True) if out]


def split_by_row(examples: Sequence[Example], fraction: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Hold out about a share of the rows, each by a hash of its own content: no row moves another.

    That is what a private run needs: data that differs in one row must differ in one row after the split too.

    :param fraction: share to hold out, between 0 and 1.
    :returns: ``(kept, held_out)``.
    """
    held = [int(content_hash(seed, example.id)[:12], 16) < fraction * 16**12 for example in examples]
    kept = [example for example, out in zip(examples, held, strict=True) if not out]
    return kept, [example for example, out in zip(examples, held, strict=True) if out]
