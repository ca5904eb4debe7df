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
from gendistill.students.base import Features

SIZES = (50, 200, 800)  # candidates, as long as there is time
STOP_AFTER_S = 8.0  # no larger size is tried when one took so long
NOISE = 0.7  # length of what is added to an embedding of length 1
PAIR_ROWS = 3000


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
    seen = [replace(sized, embeddings=_like(one.real.embeddings, side.labels, sized.labels, rng)) for one in others]
    dev_labels = torch.tensor([row.label for row in real.dev])
    dev = [_like(part.embeddings, side.labels, dev_labels, rng) for part in (side, *(one.real for one in others))]
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
            held = held_out(config, real.dev, dev, [], classes)
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
    labels = side.labels[torch.from_numpy(rng.integers(0, len(side.labels), count))]
    targets = min(count, side.num_classes * config.objective.target_rows_per_class)
    return replace(
        side,
        labels=labels,
        embeddings=_like(side.embeddings, side.labels, labels, rng),
        target_rows=list(range(targets)),
        target_features=_features_like(side, labels[:targets], rng),
    )


def _inputs(config: Config, side: RealSide, labels: Tensor, rng: np.random.Generator) -> ObjectiveInputs:
    embeddings = _like(side.embeddings, side.labels, labels, rng)
    return objective_inputs(config, side, labels, embeddings, _features_like(side, labels, rng))


def _features_like(side: RealSide, labels: Tensor, rng: np.random.Generator) -> list[Features]:
    rows = _rows_like(side.labels[side.target_rows], labels, rng)
    return [features.rows(rows) for features in side.target_features]


def _like(embeddings: Tensor, labels: Tensor, wanted: Tensor, rng: np.random.Generator) -> Tensor:
    """(n, d) float32 of length 1: for each label wanted a row of that label, moved in a direction of its own."""
    rows = embeddings[_rows_like(labels, wanted, rng)]
    noise = torch.from_numpy(rng.normal(size=tuple(rows.shape)).astype(np.float32))
    return nn.functional.normalize(rows + NOISE * nn.functional.normalize(noise, dim=1), dim=1)


def _rows_like(labels: Tensor, wanted: Tensor, rng: np.random.Generator) -> Tensor:
    """(n,) rows with the labels wanted, or any where there is none with that."""
    rows = torch.from_numpy(rng.integers(0, len(labels), len(wanted)))
    for label in wanted.unique():
        own, places = torch.nonzero(labels == label).flatten(), torch.nonzero(wanted == label).flatten()
        if len(own):
            rows[places] = own[torch.from_numpy(rng.integers(0, len(own), len(places)))]
    return rows


def pair_seconds(config: Config, side: RealSide, clock: Clock) -> float:
    """Of comparing two candidates."""
    rng = np.random.default_rng([config.seed, 23])
    labels = torch.arange(PAIR_ROWS) % side.num_classes
    rows = _like(side.embeddings, side.labels, labels, rng).numpy()
    began = clock()
    feature_filter(config.filters, [""] * PAIR_ROWS, [0] * PAIR_ROWS, rows, rows[:0], None)
    return (clock() - began) / (PAIR_ROWS**2 / 2)
