"""How greedy selection and swap of the meta-model objective scale with the number of candidates.

    python scripts/selection_scale.py                      # 10,000, 100,000 and 1,000,000 candidates; a Markdown table
    python scripts/selection_scale.py --check              # the same choice as an explicit float64 solve, at 5,000

Synthetic, clustered rows with a seed: 384 dimensions, 4 classes, 20 chosen per class, 3,000 real rows. Each size runs
in a process of its own, so that its peak memory is its own; making the data is in the peak but not in the time.
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


def make_inputs(count: int, seed: int, dims: int = DIMS, real_rows: int = REAL) -> ObjectiveInputs:
    generator = torch.Generator().manual_seed(seed)
    topics = normalize(torch.randn(CLASSES, 1, dims, generator=generator), dim=2)
    centres = normalize(topics + 1.5 * torch.randn(CLASSES, CLUSTERS, dims, generator=generator) / dims**0.5, dim=2)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--per-class", type=int, default=20)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--min-distance", type=float, default=0.0, help="as selection.min_distance; needs a FAISS copy")
    parser.add_argument("--threads", type=int, default=0, help="0: torch's own choice")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.check:
        check(options.per_class, options.seed)
    elif options.one:
        print(json.dumps(measure(options.one, options.per_class, options.seed, options.min_distance, options.passes)))
    else:
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
        columns = ["candidates", "build s", "greedy s", "swap s", "total s", "CPU s", "us a candidate", "peak GB"]
        columns += ["swaps", "loss"]
        print("|", " | ".join(columns), "|")
        print("|---" * len(columns) + "|")
        for size in options.sizes:
            done = subprocess.run(
                [sys.executable, __file__, *sys.argv[1:], "--one", str(size)],
                capture_output=True,
                text=True,
                check=True,
            )
            row = json.loads(done.stdout)
            print(
                f"| {size:,} | {row['build_s']:.1f} | {row['greedy_s']:.1f} | {row['swap_s']:.1f} "
                f"| {row['total_s']:.1f} | {row['cpu_s']:.1f} | {row['total_s'] / size * 1e6:.0f} "
                f"| {row['peak_gb']:.1f} | {row['swaps']} | {row['loss']:.4f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
