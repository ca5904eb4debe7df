"""A portfolio: several selectors propose whole sets, and students trained on each, scored on dev, decide.

No objective wins on every dataset (docs/objectives.md has the tables), so several are asked. Students are trained
cheapest first: for every proposal a logistic probe on frozen embeddings, which takes milliseconds and ranks sets much
as fine-tuned students do, since those start from it; then, where finalists are asked for, real training runs by
successive halving (Jamieson & Talwalkar 2016, arXiv 1502.07943): all get one run, the better half get more.

Dev is small and many sets are tried, so the best score is partly luck. Therefore the first proposal, made by the
configured objective, stays unless another beats it by more than one standard error of the paired difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from gendistill.objectives import ObjectiveInputs, build_objective
from gendistill.selection.selectors import Selection, select
from gendistill.students.probe import FEATURE_SCALE, fit_probe

MEMBER_ROWS = 20_000  # candidates a class that a member other than the first looks at, at most: a sample of the pool
Rollout = Callable[[Sequence[int], int], Tensor]
"""(chosen candidates, seed) -> (m,) float64: cross-entropy of each dev row by a student trained on them."""


@dataclass(frozen=True)
class Member:
    """A way of choosing: a method, the weights and ridge of its objective, the share of the pool that it sees."""

    name: str
    method: str = "greedy"
    weights: Mapping[str, float] = field(default_factory=dict)
    ridge: float = 1.0
    share: float = 1.0  # of each class's candidates, drawn by seed
    seed: int = 0


@dataclass(frozen=True)
class Judged:
    """A proposed set, and what students trained on it lose on dev."""

    name: str
    selection: Selection
    losses: Tensor  # (m,) float64: cross-entropy of each dev row, averaged over the runs
    runs: int  # fine-tuned students behind the losses; 0 for a probe

    @property
    def loss(self) -> float:
        return float(self.losses.mean())


@dataclass(frozen=True)
class Dev:
    """Held-out real rows. CPU tensors."""

    embeddings: Tensor  # (m, d) float32, rows of length 1
    labels: Tensor  # (m,) int64


def default_members(weights: Mapping[str, float], ridge: float, seed: int) -> list[Member]:
    """The first is the configured objective over the whole pool."""
    own = Member("configured objective", weights=weights, ridge=ridge)
    return [
        own,
        Member("meta_model, ridge / 3", weights={"meta_model": 1.0}, ridge=ridge / 3),
        Member("meta_model, ridge * 3", weights={"meta_model": 1.0}, ridge=ridge * 3),
        *(replace(own, name=f"objective on part {k} of the pool", share=0.7, seed=seed + k) for k in (1, 2, 3)),
        *(Member(f"k-means-nearest, start {k}", "k-means-nearest", seed=seed + k) for k in (0, 1)),
        Member("herding", "herding"),
    ]


def propose(
    members: Sequence[Member],
    inputs: ObjectiveInputs,
    budgets: Sequence[int],
    *,
    swap_passes: int,
    min_distance: float,
    previous: Sequence[int] = (),
) -> Iterator[tuple[str, Selection]]:
    """Each member's set, as indices into ``inputs``. The first member also goes on from ``previous``."""
    for position, member in enumerate(members):
        rows = None if position == 0 else _visible(inputs.candidate_labels, member)
        part = replace(inputs if rows is None else inputs.restrict(rows), ridge=member.ridge)
        selection = select(
            member.method,
            build_objective(member.weights, part) if member.method == "greedy" else None,
            part.candidate_embeddings,
            part.candidate_labels,
            budgets,
            seed=member.seed,
            swap_passes=swap_passes,
            min_distance=min_distance,
            previous=previous if position == 0 else (),
            inputs=part,
        )
        if rows is not None:
            selection = replace(selection, chosen=rows[selection.chosen].tolist())
        yield member.name, selection


def _visible(labels: Tensor, member: Member) -> Tensor | None:
    """The candidates that a member looks at, ascending; None for all of them."""
    generator = torch.Generator().manual_seed(member.seed)
    kept = []
    for label in labels.unique():
        rows = torch.nonzero(labels == label).flatten()
        count = min(math.ceil(member.share * len(rows)), MEMBER_ROWS)
        kept.append(rows[torch.randperm(len(rows), generator=generator)[:count]])
    rows = torch.cat(kept).sort().values
    return None if len(rows) == len(labels) else rows


def probe_losses(embeddings: Tensor, labels: Tensor, dev: Dev, num_classes: int) -> Tensor:
    """(m,) float64: cross-entropy of each dev row by the logistic probe that a student's head starts from.

    :param embeddings: (n, d) float32 of the training set, rows of length 1.
    :param labels: (n,) int64.
    """
    weight, bias = fit_probe(FEATURE_SCALE * embeddings, labels, num_classes)
    logits = nn.functional.linear(FEATURE_SCALE * dev.embeddings, weight, bias)
    return nn.functional.cross_entropy(logits.double(), dev.labels, reduction="none")


def decide(judged: Sequence[Judged]) -> Judged:
    """The set of least loss; the first, unless that beats it by more than one standard error of the difference."""
    best = min(judged, key=lambda one: one.loss)
    difference = judged[0].losses - best.losses
    error = float(difference.std()) / math.sqrt(len(difference)) if len(difference) > 1 else 0.0
    return best if float(difference.mean()) > error else judged[0]


def halve(finalists: Sequence[Judged], rollout: Rollout, *, runs: int, first_seed: int) -> list[Judged]:
    """Successive halving by real training runs, all sets of a stage on the same seeds.

    Every stage doubles the runs of those left and then keeps the better half. The first finalist is always kept, so
    that the one who decides in the end can compare with it.

    :param runs: students to train in all, at most (but one for each finalist).
    :return: those left, all with equally many runs, in the order they came.
    """
    totals = [torch.zeros_like(one.losses) for one in finalists]
    left, done, spent = list(range(len(finalists))), 0, 0
    while True:
        wanted = max(1, done)  # doubles the runs so far
        affordable = wanted if done == 0 else min(wanted, (runs - spent) // len(left))
        if affordable <= 0:
            break
        for seed in range(first_seed + done, first_seed + done + affordable):
            for index in left:
                totals[index] = totals[index] + rollout(finalists[index].selection.chosen, seed)
        spent += affordable * len(left)
        done += affordable
        if len(left) > 2:
            ranked = sorted(left, key=lambda index: float(totals[index].sum()))
            left = sorted({0, *ranked[: math.ceil(len(left) / 2)]})
    return [replace(finalists[index], losses=totals[index] / done, runs=done) for index in left]


def portfolio(
    inputs: ObjectiveInputs,
    budgets: Sequence[int],
    dev: Dev,
    members: Sequence[Member],
    *,
    swap_passes: int = 3,
    min_distance: float = 0.0,
    previous: Sequence[int] = (),
    finalists: int = 1,
    rollout: Rollout | None = None,
    runs: int = 16,
    first_seed: int = 0,
) -> tuple[Judged, list[Judged]]:
    """Ask every member for a set, judge all on dev, return the winner and all that was judged by probes.

    :param previous: an earlier choice; it is one of the sets judged, so that over rounds the dev loss never rises.
    :param finalists: with more than 1, the best by probes are judged by ``rollout``, ``runs`` times in all at most.
    """
    sets = list(propose(members, inputs, budgets, swap_passes=swap_passes, min_distance=min_distance, previous=previous))
    if previous:
        sets.append(("choice of the round before", Selection(list(previous), None)))
    judged = [
        Judged(name, selection, _probe(inputs, selection.chosen, dev), 0)
        for name, selection in sets
    ]  # fmt: skip
    winner = decide(judged)
    if finalists > 1 and rollout is not None:
        ranked = sorted((one for one in judged if one is not winner), key=lambda one: one.loss)
        unique = {tuple(sorted(one.selection.chosen)): one for one in [*reversed(ranked), winner]}
        best = [winner, *(one for one in ranked if unique[tuple(sorted(one.selection.chosen))] is one)][:finalists]
        if len(best) > 1:
            winner = decide(halve(best, rollout, runs=runs, first_seed=first_seed))
    return winner, judged


def _probe(inputs: ObjectiveInputs, chosen: Sequence[int], dev: Dev) -> Tensor:
    rows = list(chosen)
    return probe_losses(inputs.candidate_embeddings[rows], inputs.candidate_labels[rows], dev, inputs.num_classes)
