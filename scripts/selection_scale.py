"""How greedy selection and swap of the meta-model objective scale with the number of candidates.

    python scripts/selection_scale.py                      # 10,000, 100,000 and 1,000,000 candidates; a Markdown table
    python scripts/selection_scale.py --check              # the same choice as an explicit float64 solve, at 5,000
    python scripts/selection_scale.py --two-stage          # in two stages, of 1,000,000 (and in one, of the same) and
                                                           # 5,000,000 candidates; --processes 2

Synthetic, clustered rows with a seed: 384 dimensions, 4 classes, 20 chosen per class, 3,000 real rows. Each size runs
in a process of its own, so that its peak memory is its own; making the data is in the peak but not in the time. In two
stages rows are made shard by shard whenever a shard is read, which is in the time as reading a file would be. The first
1,000,000 of the 5,000,000 are the 1,000,000.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
from torch import Tensor
from torch.nn.functional import normalize

from gendistill.objectives import ObjectiveInputs, build_objective
from gendistill.objectives.linear import coarse_threads
from gendistill.selection import Diversity, greedy, swap
from gendistill.selection.shards import ShardRows
from gendistill.selection.two_stage import Plan, in_processes, loss_of, one_stage, two_stage

DIMS, CLASSES, CLUSTERS, REAL = 384, 4, 40, 3000
RIDGE = 1.0


def clustered(count: int, generator: torch.Generator, centres: Tensor) -> tuple[Tensor, Tensor]:
    """(count, d) float32 rows of length 1 around the clusters (C, k, d) of their class, and their labels."""
    dims = centres.shape[2]
    labels = torch.randint(CLASSES, (count,), generator=generator)
    rows = torch.empty(count, dims)
    for begin in range(0, count, 8192):
        part = labels[begin : begin + 8192]
        near = centres[part, torch.randint(CLUSTERS, (len(part),), generator=generator)]
        noise = torch.randn(len(part), dims, generator=generator) / dims**0.5
        rows[begin : begin + 8192] = normalize(near + noise, dim=1)
    return rows, labels


def clusters(generator: torch.Generator, dims: int) -> Tensor:
    """(C, k, dims): the clusters of each class, around a topic."""
    topics = normalize(torch.randn(CLASSES, 1, dims, generator=generator), dim=2)
    return normalize(topics + 1.5 * torch.randn(CLASSES, CLUSTERS, dims, generator=generator) / dims**0.5, dim=2)


def make_inputs(count: int, seed: int, dims: int = DIMS, real_rows: int = REAL) -> ObjectiveInputs:
    generator = torch.Generator().manual_seed(seed)
    centres = clusters(generator, dims)
    real, real_labels = clustered(real_rows, generator, centres)
    rows, labels = clustered(count, generator, centres)
    return ObjectiveInputs(labels, real_labels, [], [], rows, real, CLASSES, ridge=RIDGE)


class Exact:
    """The meta-model objective as its definition says it, in float64: a solve for every candidate. For --check."""

    name, submodular = "exact", False

    def __init__(self, inputs: ObjectiveInputs) -> None:
        self.size = len(inputs.candidate_labels)
        self.x = inputs.candidate_embeddings.double()
        self.real = inputs.real_embeddings.double()
        one_hot = torch.eye(CLASSES, dtype=torch.float64) - 1 / CLASSES
        self.y, self.real_y = one_hot[inputs.candidate_labels], one_hot[inputs.real_labels]
        counts = torch.bincount(inputs.real_labels, minlength=CLASSES).double()
        self.weights = 1 / (counts[inputs.real_labels] * CLASSES)
        self.kernel_real = self.real @ self.x.T + 1  # (m, n)
        self.diagonal = self.x.square().sum(1) + 1

    def loss(self, chosen: list[int]) -> float:
        return self._error(self._coefficients(chosen), chosen)

    def _coefficients(self, chosen: list[int]) -> Tensor:
        kernel = self.x[chosen] @ self.x[chosen].T + 1
        return torch.linalg.solve(kernel + RIDGE * torch.eye(len(chosen), dtype=torch.float64), self.y[chosen])

    def _error(self, coefficients: Tensor, chosen: list[int]) -> float:
        wrong = self.kernel_real[:, chosen] @ coefficients - self.real_y
        return float((self.weights * wrong.square().sum(1)).sum() / (1 - 1 / CLASSES))

    def gains(self, chosen: list[int], rows: Tensor | None = None) -> Tensor:
        rows = torch.arange(self.size) if rows is None else rows
        solve = torch.linalg.inv(
            self.x[chosen] @ self.x[chosen].T + 1 + RIDGE * torch.eye(len(chosen), dtype=torch.float64)
        )
        cross = self.x[chosen] @ self.x[rows].T + 1  # (k, r)
        # The block inverse: the new row's coefficients, and what they take from those of the others.
        schur = self.diagonal[rows] + RIDGE - (cross * (solve @ cross)).sum(0)
        fitted = solve @ self.y[chosen]
        step = (self.y[rows] - cross.T @ fitted) / schur[:, None]  # (r, C)
        change = self.kernel_real[:, rows] - self.kernel_real[:, chosen] @ (solve @ cross)  # (m, r)
        wrong = self.kernel_real[:, chosen] @ fitted - self.real_y  # (m, C)
        weighted = self.weights[:, None] * change
        drop = 2 * ((weighted.T @ wrong) * step).sum(1) + (weighted * change).sum(0) * step.square().sum(1)
        gains = -drop / (1 - 1 / CLASSES)
        gains[torch.isin(rows, torch.tensor(chosen, dtype=torch.int64))] = -torch.inf
        return gains


def measure(count: int, per_class: int, seed: int, min_distance: float, passes: int) -> dict[str, float]:
    inputs = make_inputs(count, seed)
    labels = inputs.candidate_labels
    with coarse_threads():
        start, cpu = time.perf_counter(), time.process_time()
        objective = build_objective({"meta_model": 1.0}, inputs)
        built = time.perf_counter()
        diversity = Diversity(inputs.candidate_embeddings, labels, min_distance) if min_distance > 0 else None
        order = greedy(objective, labels, [per_class] * CLASSES, diversity=diversity)
        chosen = time.perf_counter()
        refined = swap(objective, order, labels, diversity=diversity, passes=passes)
        end, cpu = time.perf_counter(), time.process_time() - cpu
    return {
        "candidates": count,
        "build_s": built - start,
        "greedy_s": chosen - built,
        "swap_s": end - chosen,
        "total_s": end - start,
        "cpu_s": cpu,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "greedy_loss": objective.loss(order),
        "loss": refined.loss,
        "swaps": refined.swaps,
    }


def mixture(seed: int) -> tuple[Tensor, ObjectiveInputs]:
    """The clusters of ``make_inputs``, and its real side without a candidate."""
    generator = torch.Generator().manual_seed(seed)
    centres = clusters(generator, DIMS)
    real, real_labels = clustered(REAL, generator, centres)
    none = torch.empty(0, dtype=torch.int64)
    return centres, ObjectiveInputs(none, real_labels, [], [], torch.empty(0, DIMS), real, CLASSES, ridge=RIDGE)


class Made:
    """A shard that is made whenever it is read."""

    def __init__(self, number: int, count: int, seed: int) -> None:
        self.name, self.number, self.count, self.seed = f"{number:06d}", number, count, seed

    def read(self) -> ShardRows:
        centres, _ = mixture(self.seed)
        generator = torch.Generator().manual_seed(1_000_003 * (self.seed + 1) + self.number)
        rows, labels = clustered(self.count, generator, centres)
        return ShardRows(labels, rows)


def measure_two_stage(count: int, plan: Plan, shard_rows: int, processes: int, seed: int) -> dict[str, object]:
    _, real = mixture(seed)
    shards = [
        Made(number, min(shard_rows, count - begin), seed) for number, begin in enumerate(range(0, count, shard_rows))
    ]
    start = time.perf_counter()
    result = two_stage(shards, real, plan, in_processes(processes)) if processes > 1 else two_stage(shards, real, plan)
    seconds = time.perf_counter() - start
    own, others = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    shards[0].read()
    return {
        "total_s": seconds,
        "made_s": (time.perf_counter() - start) * len(shards) * len(result.history),  # by one process alone
        "cpu_s": own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime,
        "own_gb": own.ru_maxrss / 1e6,
        "each_gb": others.ru_maxrss / 1e6 if processes > 1 else 0.0,  # of the largest process beside this one
        "proposed": result.proposed,
        "history": result.history,
        "loss": loss_of(result.candidates, real, plan.weights),
    }


def measure_one_stage(count: int, plan: Plan, shard_rows: int, seed: int) -> dict[str, object]:
    """The same rows as of ``measure_two_stage``, all held at once."""
    _, real = mixture(seed)
    rows, labels = torch.empty(count, DIMS), torch.empty(count, dtype=torch.int64)
    for number, begin in enumerate(range(0, count, shard_rows)):
        part = Made(number, min(shard_rows, count - begin), seed).read()
        rows[begin : begin + shard_rows], labels[begin : begin + shard_rows] = part.embeddings, part.labels
    del part
    start, cpu = time.perf_counter(), time.process_time()
    chosen = one_stage(ShardRows(labels, rows), real, plan)
    return {
        "total_s": time.perf_counter() - start,
        "cpu_s": time.process_time() - cpu,
        "own_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "loss": chosen.loss,
    }


def check(per_class: int, seed: int) -> None:
    """Greedy and swap choose the same of 5,000 candidates by the fast objective and by the definition."""
    inputs = make_inputs(5000, seed)
    results = []
    for objective in (build_objective({"meta_model": 1.0}, inputs), Exact(inputs)):
        order = greedy(objective, inputs.candidate_labels, [per_class] * CLASSES)
        refined = swap(objective, order, inputs.candidate_labels)
        results.append((order, refined.chosen, refined.loss))
        print(f"{objective.name}: loss {refined.loss:.12f} after {refined.swaps} swaps")
    if results[0][:2] != results[1][:2] or abs(results[0][2] - results[1][2]) > 1e-9:
        sys.exit("the choices differ")
    print(f"the same {len(results[0][1])} of 5,000 candidates, in the same order, by greedy and after swaps")


def apart(*arguments: str) -> dict[str, float]:
    """This script with further arguments, in a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], *arguments]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def print_two_stage(options: argparse.Namespace) -> None:
    print(f"torch {torch.__version__}; shards of {options.shard_rows:,} rows, {options.processes} processes\n")
    columns = ["candidates", "stages", "rounds", "seconds", "CPU s", "making rows s", "peak GB", "proposed", "loss"]
    print("|", " | ".join(columns), "|")
    print("|---" * len(columns) + "|")
    for size in options.sizes or [1_000_000, 5_000_000]:
        if size <= options.one_up_to:
            row = apart("--one", str(size), "--way", "one")
            print(
                f"| {size:,} | one | | {row['total_s']:.0f} | {row['cpu_s']:.0f} | | {row['own_gb']:.2f} | "
                f"| {row['loss']:.5f} |",
                flush=True,
            )
        row = apart("--one", str(size), "--way", "two")
        losses = ", ".join(f"{loss:.5f}" for loss in row["history"])
        peak = row["own_gb"] + options.processes * row["each_gb"]
        print(
            f"| {size:,} | two | {len(row['history'])} | {row['total_s']:.0f} | {row['cpu_s']:.0f} "
            f"| {row['made_s']:.0f} | {row['own_gb']:.2f} + {options.processes} x {row['each_gb']:.2f} = {peak:.2f} "
            f"| {row['proposed']:,} | {losses} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", help="10,000 to 1,000,000; with --two-stage up to 5,000,000")
    parser.add_argument("--one-up-to", type=int, default=1_000_000, help="with --two-stage: the most chosen in one")
    parser.add_argument("--per-class", type=int, default=20)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--min-distance", type=float, default=0.0, help="as selection.min_distance; needs a FAISS copy")
    parser.add_argument("--threads", type=int, default=0, help="0: torch's own choice")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--two-stage", action="store_true")
    parser.add_argument("--shard-rows", type=int, default=125_000)
    parser.add_argument("--processes", type=int, default=2, help="of the first stage, one shard in each")
    parser.add_argument("--rule", choices=["exchange", "greedy"], default=Plan.rule)
    parser.add_argument("--factor", type=int, default=Plan.factor)
    parser.add_argument("--rounds", type=int, default=Plan.rounds)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--way", choices=["one", "two"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    plan = Plan(
        [options.per_class] * CLASSES,
        {"meta_model": 1.0},
        rule=options.rule,
        factor=options.factor,
        rounds=options.rounds,
        swap_passes=options.passes,
        min_distance=options.min_distance,
    )
    if options.check:
        check(options.per_class, options.seed)
    elif options.way == "one":
        print(json.dumps(measure_one_stage(options.one, plan, options.shard_rows, options.seed)))
    elif options.way == "two":
        row = measure_two_stage(options.one, plan, options.shard_rows, options.processes, options.seed)
        print(json.dumps(row))
    elif options.two_stage:
        print_two_stage(options)
    elif options.one:
        print(json.dumps(measure(options.one, options.per_class, options.seed, options.min_distance, options.passes)))
    else:
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
        columns = ["candidates", "build s", "greedy s", "swap s", "total s", "CPU s", "us a candidate", "peak GB"]
        columns += ["swaps", "loss"]
        print("|", " | ".join(columns), "|")
        print("|---" * len(columns) + "|")
        for size in options.sizes or [10_000, 100_000, 1_000_000]:
            row = apart("--one", str(size))
            print(
                f"| {size:,} | {row['build_s']:.1f} | {row['greedy_s']:.1f} | {row['swap_s']:.1f} "
                f"| {row['total_s']:.1f} | {row['cpu_s']:.1f} | {row['total_s'] / size * 1e6:.0f} "
                f"| {row['peak_gb']:.1f} | {row['swaps']} | {row['loss']:.4f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
