"""The configured choice, and the search for near duplicates, made among synthetic candidates: real rows moved a bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from gendistill.choosing import choose, held_out
from gendistill.config import Config
from gendistill.cost.watch import Clock, Stopwatch
from gendistill.data import RealData
from gendistill.filters import feature_filter
from gendistill.further import FurtherStudent
from gendistill.inputs import RealSide, objective_inputs
from gendistill.objectives import ObjectiveInputs

SIZES = (50, 200, 800, 3200)  # candidates, as long as there is time
STOP_AFTER_S = 6.0  # no larger size is tried when one took so long
NOISE = 0.7  # length of what is added to an embedding of length 1
PAIR_ROWS = 1500


def time_choices(
    config: Config,
    side: RealSide,
    others: Sequence[FurtherStudent],
    real: RealData,
    budgets: Sequence[int],
    watch: Stopwatch,
    clock: Clock,
) -> tuple[tuple[int, float], ...]:
    """(candidates, seconds) of the choice from synthetic pools, finalists aside, beside as many real rows as the run
    looks at."""
    rng = np.random.default_rng([config.seed, 19])
    classes = side.num_classes
    sized = _enlarged(config, side, len(real.aim), rng)
    seen = [replace(sized, embeddings=_like(one.real.embeddings, len(sized.labels), rng)) for one in others]
    dev_labels = rng.integers(0, classes, len(real.dev))
    dev_rows = [replace(row, label=int(label)) for row, label in zip(real.dev, dev_labels, strict=True)]
    dev = [_like(part.embeddings, len(dev_rows), rng) for part in (sized, *seen)]
    found: list[tuple[int, float]] = []
    with watch.track("choose", len(SIZES)) as advance:
        for size in SIZES:
            size = max(size, sum(budgets) + classes)
            if found and size <= found[-1][0]:
                continue
            labels = torch.arange(size) % classes
            inputs = _inputs(config, sized, labels, rng)
            if others:
                inputs = replace(inputs, others=tuple(_inputs(config, part, labels, rng) for part in seen))
            held = held_out(config, dev_rows, dev, [], classes)
            began = clock()
            choose(config, inputs, budgets, held=held, finals=False)
            found.append((size, clock() - began))
            advance(len(found))
            if found[-1][1] > STOP_AFTER_S:
                break
    return tuple(found)


def _enlarged(config: Config, side: RealSide, rows: int, rng: np.random.Generator) -> RealSide:
    """Synthetic real rows, as many as the run has."""
    count = min(rows, config.data.max_reference_rows)
    targets = min(count, side.num_classes * config.objective.target_rows_per_class)
    like = rng.integers(0, len(side.target_rows), targets)
    return replace(
        side,
        labels=torch.arange(count) % side.num_classes,
        embeddings=_like(side.embeddings, count, rng),
        target_rows=list(range(targets)),
        target_features=[features.rows(torch.from_numpy(like)) for features in side.target_features],
    )


def _inputs(config: Config, side: RealSide, labels: Tensor, rng: np.random.Generator) -> ObjectiveInputs:
    like = torch.from_numpy(rng.integers(0, len(side.target_rows), len(labels)))
    features = [part.rows(like) for part in side.target_features]
    return objective_inputs(config, side, labels, _like(side.embeddings, len(labels), rng), features)


def _like(embeddings: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    """(count, d) float32 of length 1: rows of these, each moved in a direction of its own."""
    rows = embeddings[torch.from_numpy(rng.integers(0, len(embeddings), count))]
    noise = torch.from_numpy(rng.normal(size=tuple(rows.shape)).astype(np.float32))
    return nn.functional.normalize(rows + NOISE * nn.functional.normalize(noise, dim=1), dim=1)


def pair_seconds(config: Config, side: RealSide, clock: Clock) -> float:
    """Of comparing two candidates."""
    rng = np.random.default_rng([config.seed, 23])
    rows = _like(side.embeddings, PAIR_ROWS, rng).numpy()
    began = clock()
    feature_filter(config.filters, [""] * PAIR_ROWS, [0] * PAIR_ROWS, rows, rows[:0], None)
    return (clock() - began) / PAIR_ROWS**2
