"""How fast features are, beside what a plain pass of the same model over the same rows costs.

    python scripts/feature_speed.py                          # BBC News, 256 rows; about two minutes on two cores
    python scripts/feature_speed.py --data rows.csv --threads 1

Every contestant runs once in each repetition, in turn, so that whatever else the machine does falls on all of them
alike. A ratio is taken within a repetition; the table has the median over repetitions and the range.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from typing import Literal

import torch
from torch import nn

from gendistill.config import DataConfig, StudentConfig
from gendistill.data import load_real
from gendistill.students.encoder import EncoderStudent, alike
from gendistill.students.gradients import BodyGradients, linear_layers, random_maps
from gendistill.students.pieces import flat, pieces


class Bench:
    """:param loop_rows: rows of the loops over single rows, which are too slow for all of them."""

    def __init__(self, config: StudentConfig, data: str, rows: int, loop_rows: int) -> None:
        real = load_real(DataConfig(dataset=data), per_class=1, seed=0)
        self.rows = random.Random(0).sample(real.train, min(rows, len(real.train)))
        self.student = EncoderStudent(config, len(real.label_names))
        self.student.fit(self.rows, seed=0)
        assert self.student.gradients is not None
        self.gradients = self.student.gradients
        self.encoded = self.student._encode(self.rows)
        self.labels = torch.tensor([row.label for row in self.rows])
        self.batches = list(alike([flat(one) for one in self.encoded], self.student.batch_tokens))
        in_order = [row for batch in self.batches for row in batch]
        self.singles = [[row] for row in in_order[:: max(1, len(in_order) // loop_rows)]]

    def loss(self, batch: list[int]) -> torch.Tensor:
        texts = [self.encoded[row] for row in batch]
        pooled = self.student._pool(self.student._pad(pieces(texts)), texts)
        return nn.functional.cross_entropy(self.student.head(pooled), self.labels[batch])

    def forward(self) -> int:
        with torch.inference_mode():
            for batch in self.batches:
                texts = [self.encoded[row] for row in batch]
                self.student._pool(self.student._pad(pieces(texts)), texts)
        return len(self.rows)

    def head_features(self) -> int:
        self.student.gradients = None
        self.student.features(self.rows)
        return len(self.rows)

    def body_features(self) -> int:
        self.student.gradients = self.gradients
        self.student.features(self.rows)
        return len(self.rows)

    def backward(self, batches: list[list[int]] | None = None) -> int:
        batches = batches or self.batches
        for batch in batches:
            self.student.encoder.zero_grad(set_to_none=True)
            self.student.head.zero_grad(set_to_none=True)
            self.loss(batch).backward()
        return sum(len(batch) for batch in batches)

    def loop(self) -> int:
        return self.backward(self.singles)

    def projected_loop(self) -> int:
        """Single rows too, but linear weights only, their gradients projected: the numbers of body_features."""
        for batch in self.singles:
            matrices = self.matrices(batch)
            sides = {name: self.gradients.maps[name] for name in matrices}
            torch.stack([sides[name].outputs.T @ matrices[name] @ sides[name].inputs for name in sides]).sum(0)
        return len(self.singles)

    def matrices(self, batch: list[int]) -> dict[str, torch.Tensor]:
        """The loss's gradient by every linear weight, unprojected."""
        layers = linear_layers(self.student.encoder)
        found = torch.autograd.grad(
            self.loss(batch), [layer.weight for layer in layers.values()], allow_unused=True
        )  # a pooler that is not used has none
        return {name: gradient for name, gradient in zip(layers, found, strict=True) if gradient is not None}

    def error(self, kind: Literal["linear", "lora"], count: int = 8, seeds: int = 5) -> float:
        """Root mean squared error of projected inner products of two rows, over the product of their norms."""
        rows = [self.matrices(batch) for batch in self.singles[:count]]
        exact = sum(_products([row[name].flatten() for row in rows]) for name in rows[0])
        norms = exact.diagonal().sqrt()
        two = ~torch.eye(len(rows), dtype=torch.bool)
        errors = []
        for seed in range(seeds):
            maps = random_maps(self.student.encoder, self.gradients.dims, kind=kind, seed=seed)
            gradients = BodyGradients(self.student.encoder, maps, self.gradients.dims)
            found = _products([gradients.project(row) for row in rows])
            errors.append(((found - exact) / torch.outer(norms, norms))[two])
        return float(torch.stack(errors).square().mean().sqrt())


def _products(vectors: list[torch.Tensor]) -> torch.Tensor:
    stacked = torch.stack(vectors).double()
    return stacked @ stacked.T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="builtin:bbc-news", help="dataset, as for gendistill generate --dataset")
    parser.add_argument("--student", default="builtin:minilm")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--loop-rows", type=int, default=32, help="rows of the loops over single rows")
    parser.add_argument("--dims", type=int, default=1024, help="dimensions of projected body gradients")
    parser.add_argument("--kind", choices=["linear", "lora"], default="linear")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None, help="torch's; its own default if absent")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    config = StudentConfig(
        model=options.student,
        gradient_dims=options.dims,
        gradient_kind=options.kind,
        steps=1,
        max_steps=1,
        checkpoints=2,
        probe_rows=32,
    )
    bench = Bench(config, options.data, options.rows, options.loop_rows)
    contestants: dict[str, Callable[[], int]] = {
        "plain forward": bench.forward,
        "closed-form head features": bench.head_features,
        "plain forward + backward": bench.backward,
        "projected body features": bench.body_features,
        "batch-1 autograd loop": bench.loop,
        "batch-1 loop, projected": bench.projected_loop,
    }
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    bench.backward(bench.singles[:4])  # allocators and caches warm
    for _ in range(options.repeats):
        for name, run in contestants.items():
            start = time.perf_counter()
            count = run()
            speeds[name].append(count / (time.perf_counter() - start))
    tokens = sum(map(len, bench.encoded)) / len(bench.encoded)
    error = bench.error(options.kind)
    print(
        f"{options.data}, {len(bench.rows)} rows of {tokens:.0f} tokens on average, {options.student}, "
        f"{options.dims} dimensions ({options.kind}), {options.repeats} repetitions. "
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"{bench.student.device.type}, torch {torch.__version__}.\n"
        f"Error of projected inner products: {error:.3f} of the norms, {error * options.dims**0.5:.1f}/sqrt(dims).\n"
    )
    print("| | rows/s, median | range |\n|---|---|---|")
    for name, values in speeds.items():
        print(f"| {name} | {statistics.median(values):.1f} | {min(values):.1f} to {max(values):.1f} |")
    print("\n| ratio | wanted | median | range |\n|---|---|---|---|")
    for above, below, wanted in (
        ("closed-form head features", "plain forward", "0.9"),
        ("projected body features", "plain forward + backward", "0.6"),
        ("projected body features", "batch-1 autograd loop", "8"),
        ("projected body features", "batch-1 loop, projected", ""),
    ):
        ratios = [a / b for a, b in zip(speeds[above], speeds[below], strict=True)]
        print(
            f"| {above} / {below} | {wanted} | {statistics.median(ratios):.2f} "
            f"| {min(ratios):.2f} to {max(ratios):.2f} |"
        )


if __name__ == "__main__":
    main()
