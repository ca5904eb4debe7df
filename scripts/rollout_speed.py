"""How cheap a roll-out with frozen lower blocks is, and whether it ranks sets as a whole fine-tuning does.

    python scripts/rollout_speed.py            # seconds a roll-out, and rank correlations, by share of frozen blocks

The sets are those that the portfolio's members propose from real rows (as in selection_quality.py), and random ones. A
roll-out trains a student on a set and scores its loss on dev. Ranks are Spearman's, of mean losses over seeds, against
whole fine-tuning on other seeds; the row for share 0 is what whole fine-tuning makes of itself.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from scipy.stats import spearmanr
from selection_quality import DATASETS, Rows, score

from gendistill.config import StudentConfig
from gendistill.objectives import ObjectiveInputs, build_objective
from gendistill.selection import Selection, select
from gendistill.selection.portfolio import Member, default_members, propose
from gendistill.students.encoder import EncoderStudent


def proposals(rows: Rows, per_class: int, random_sets: int) -> list[list[str]]:
    """Ids of the texts of each set."""
    known = rows.embeddings()
    pool, embeddings = rows.candidates(0, known)
    labels = torch.tensor([row.label for row in pool])
    inputs = ObjectiveInputs(
        candidate_labels=labels,
        real_labels=labels,
        candidate_features=[],
        real_features=[],
        candidate_embeddings=embeddings,
        real_embeddings=embeddings,
        num_classes=rows.classes,
        ridge=0.3,
    )

    def choose(member: Member, part: ObjectiveInputs, _previous: object) -> Selection:
        objective = None
        if member.method == "greedy":
            objective = build_objective(member.weights, part.with_ridge(member.ridge))
        return select(
            member.method,
            objective,
            part.candidate_embeddings,
            part.candidate_labels,
            [per_class] * rows.classes,
            seed=member.seed,
        )

    members = default_members({"meta_model": 1.0}, 0.3, 0)
    members += [Member(f"random {k}", "random", seed=k) for k in range(random_sets)]
    sets = {frozenset(one.chosen): one.chosen for _, one in propose(members, inputs, choose)}
    return [[pool[index].id for index in chosen] for chosen in sets.values()]


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    return float(spearmanr(a, b).statistic)


def measure(rows: Rows, sets: list[list[str]], share: float, seeds: list[int]) -> tuple[np.ndarray, float]:
    """(sets, seeds) losses on dev, and the median seconds of a roll-out."""
    recipe = StudentConfig(**rows.config.student.model_dump() | {"frozen_share": share})
    student = EncoderStudent(recipe, rows.classes)
    labels = torch.tensor([row.label for row in rows.dev])
    losses, seconds = np.zeros((len(sets), len(seeds))), []
    for column, seed in enumerate(seeds):
        for line, ids in enumerate(sets):
            start = time.perf_counter()
            student.fit([rows.by_id[identity] for identity in ids], seed=seed)
            probabilities = student.predict(rows.dev)
            seconds.append(time.perf_counter() - start)
            losses[line, column] = float(torch.nn.functional.nll_loss(probabilities.clamp_min(1e-12).log(), labels))
            if line == 0 and column == 0:
                print(
                    f"  share {share}: dev accuracy {score(probabilities, rows.dev):.3f} of the first set", flush=True
                )
    return losses, median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/quality"), help="where embeddings are kept")
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS))
    parser.add_argument("--per-class", type=int, default=10)
    parser.add_argument("--shares", nargs="+", type=float, default=[1 / 3, 1 / 2, 2 / 3])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--random-sets", type=int, default=3)
    parser.set_defaults(pool=None, max_train_rows=6000, max_test_rows=500)
    args = parser.parse_args()
    print("| dataset | frozen | seconds a roll-out | times faster | rank correlation with whole fine-tuning |")
    print("|---|---|---|---|---|")
    for name in args.datasets:
        rows = Rows(name, args)
        sets = proposals(rows, args.per_class, args.random_sets)
        seeds = list(range(args.seeds))
        whole, slow = measure(rows, sets, 0.0, seeds)
        again, _ = measure(rows, sets, 0.0, [seed + 100 for seed in seeds])
        print(f"| {name} | 0 | {slow:.1f} | 1 | {spearman(again.mean(1), whole.mean(1)):.2f} |", flush=True)
        for share in args.shares:
            losses, fast = measure(rows, sets, share, seeds)
            rank = spearman(losses.mean(1), again.mean(1))
            print(f"| {name} | {share:.2f} | {fast:.1f} | {slow / fast:.1f} | {rank:.2f} |", flush=True)


if __name__ == "__main__":
    main()
