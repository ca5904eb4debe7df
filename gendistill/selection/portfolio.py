"""A portfolio: several selectors propose whole sets, and students trained on each, scored on dev, decide.

No objective wins on every dataset (docs/objectives.md has the tables), so several are asked. Students are trained
cheapest first: for every proposal a logistic probe on frozen embeddings, which takes milliseconds and ranks sets much
as fine-tuned students do, since those start from it; then, where finalists are asked for, real training runs by
successive halving (Jamieson & Talwalkar 2016, arXiv 1502.07943): all get one run, the better half get more.

A probe is the same for every seed, so the least loss wins. Fine-tuned students are not: what the probes chose stays
unless another finalist beats it by more than one standard error of the paired difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from gendistill.objectives import ObjectiveInputs, build_objective
from gendistill.objectives.linear import coarse_threads
from gendistill.selection import Selection
from gendistill.selection.diversity import Diversity
from gendistill.selection.greedy import TIE
from gendistill.students.encoder import FEATURE_SCALE
from gendistill.students.probe import fit_probe

MEMBER_ROWS = 20_000  # candidates a class that a member other than the first looks at, at most: a sample of the pool
RIDGES = (0.1, 0.3, 1.0, 3.0)
Rollout = Callable[[Sequence[int], int], Tensor]
"""(chosen candidates, seed) -> (m,) float64: cross-entropy of each dev row by a student trained on them."""


@dataclass(frozen=True)
class Member:
    """A way of choosing: a method, the weights and ridge of its objective, the share of the pool that it sees."""

    name: str
    method: str = "greedy"
    weights: Mapping[str, float] = field(default_factory=dict)
    ridge: float | Sequence[float] = 1.0
    share: float = 1.0  # of each class's candidates, drawn by seed
    seed: int = 0


Choose = Callable[[Member, ObjectiveInputs, Sequence[int]], Selection]
"""(member, what it sees, an earlier choice or nothing) -> its set."""


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
class Rows:
    """Real rows that probes are scored on. CPU tensors."""

    embeddings: tuple[Tensor, ...]  # one a student, (m, d) float32, rows of length 1
    labels: Tensor  # (m,) int64
    combine: Literal["mean", "worst"] = "mean"  # what counts where there are several students


def combined(losses: Sequence[Tensor], combine: Literal["mean", "worst"]) -> Tensor:
    """(m,): of several students' losses of the same rows, their mean, or those of the student who does worst."""
    every = torch.stack(list(losses))
    return every.mean(0) if combine == "mean" else every[every.mean(1).argmax()]


def default_members(
    weights: Mapping[str, float], ridge: float | Sequence[float], seed: int, *, large: bool = False
) -> list[Member]:
    """The first is the configured objective over the whole pool.

    :param large: the set is so large that each member takes its time: fewer of them.
    """
    own = Member("configured objective", weights=weights, ridge=ridge, seed=seed)
    if large:
        return [
            own,
            *(Member(f"meta_model, ridge {r:g}", weights={"meta_model": 1.0}, ridge=r) for r in (1.0,) if r != ridge),
            Member("k-means-nearest, start 0", "k-means-nearest", seed=seed),
            Member("herding", "herding", seed=seed),
        ]
    return [
        own,
        *(Member(f"meta_model, ridge {r:g}", weights={"meta_model": 1.0}, ridge=r) for r in RIDGES if r != ridge),
        *(replace(own, name=f"objective on part {k} of the pool", share=0.7, seed=seed + k) for k in (1, 2, 3)),
        *(Member(f"k-means-nearest, start {k}", "k-means-nearest", seed=seed + k) for k in (0, 1)),
        Member("herding", "herding", seed=seed),
    ]


def propose(
    members: Sequence[Member], inputs: ObjectiveInputs, choose: Choose, previous: Sequence[int] = ()
) -> Iterator[tuple[str, Selection]]:
    """Each member's set, as indices into ``inputs``. The first member also goes on from ``previous``."""
    for position, member in enumerate(members):
        rows = None if position == 0 else _visible(inputs.candidate_labels, member)
        part = inputs if rows is None else inputs.candidates(rows)
        selection = choose(member, part, previous if position == 0 else ())
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


def probe_losses(inputs: ObjectiveInputs, chosen: Sequence[int], rows: Rows) -> Tensor:
    """(m,) float64: cross-entropy of each row by the logistic probe that a student's head starts from.

    Of several students, what ``rows.combine`` makes of theirs.
    """
    labels = inputs.candidate_labels[list(chosen)]
    losses = []
    for student, embeddings in zip(inputs.students, rows.embeddings, strict=True):
        train = FEATURE_SCALE * student.candidate_embeddings[list(chosen)]
        weight, bias = fit_probe(train, labels, inputs.num_classes)
        logits = nn.functional.linear(FEATURE_SCALE * embeddings, weight, bias)
        losses.append(nn.functional.cross_entropy(logits.double(), rows.labels, reduction="none"))
    return combined(losses, rows.combine)


def refine(
    winner: Selection,
    inputs: ObjectiveInputs,
    diversity: Diversity | None,
    *,
    trials: int,
    seed: int,
    combine: Literal["mean", "worst"] = "mean",
    judged_on: int = 1000,
    shortlist: int = 4,
) -> Selection:
    """Swaps that lower the loss of a probe trained on the set, on a sample of the real rows that objectives see.

    The probe is what kernel ridge regression is only a stand-in for. Held-out rows judge it afterwards: swaps judged on
    the few of dev fit dev's noise (docs/objectives.md).

    :param trials: probes to train, at most; each position tries the ``shortlist`` best candidates of its class by the
        kernel ridge loss.
    :param judged_on: real rows of the sample, at most.
    """
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randperm(len(inputs.real_labels), generator=generator)[:judged_on]
    real = tuple(student.real_embeddings[sample] for student in inputs.students)
    rows = Rows(real, inputs.real_labels[sample], combine)
    guide = build_objective({"meta_model": 1.0}, inputs, combine)
    chosen = list(winner.chosen)
    loss = float(probe_losses(inputs, chosen, rows).mean())
    left = trials
    while left > 0:
        before = loss
        for position in torch.randperm(len(chosen), generator=generator).tolist():
            rest = chosen[:position] + chosen[position + 1 :]
            allowed = inputs.candidate_labels == inputs.candidate_labels[chosen[position]]
            if diversity is not None:
                allowed &= diversity.allowed(rest)
            allowed[chosen] = False
            gains = guide.gains(rest).masked_fill(~allowed, -torch.inf)
            best = gains.topk(min(shortlist, len(gains), left))
            for gain, candidate in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                if gain == -math.inf:
                    break
                left -= 1
                proposal = [*chosen[:position], candidate, *chosen[position + 1 :]]
                new = float(probe_losses(inputs, proposal, rows).mean())
                if new < loss - TIE:
                    chosen, loss = proposal, new
            if left <= 0:
                break
        if loss >= before - TIE:
            break
    return replace(winner, chosen=chosen)


def least(one: Judged) -> float:
    return one.loss


def decide(judged: Sequence[Judged]) -> Judged:
    """The set of least loss; the first, unless that beats it by more than one standard error of the difference."""
    best = min(judged, key=least)
    difference = judged[0].losses - best.losses
    error = float(difference.std()) / math.sqrt(len(difference)) if len(difference) > 1 else 0.0
    return best if float(difference.mean()) > error else judged[0]


def halve(finalists: Sequence[Judged], rollout: Rollout, *, runs: int, first_seed: int) -> list[Judged]:
    """Successive halving by real training runs, all sets of a stage on the same seeds.

    Every stage doubles the runs of those left and then keeps half of them: the first finalist, so that the one who
    decides in the end can compare with it, and the best of the others.

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
            others = sorted(left[1:], key=lambda index: float(totals[index].sum()))
            left = sorted([0, *others[: math.ceil(len(left) / 2) - 1]])
    return [replace(finalists[index], losses=totals[index] / done, runs=done) for index in left]


def portfolio(
    inputs: ObjectiveInputs,
    dev: Rows,
    members: Sequence[Member],
    choose: Choose,
    *,
    previous: Sequence[int] = (),
    diversity: Diversity | None = None,
    trials: int = 0,
    finalists: int = 1,
    rollout: Rollout | None = None,
    runs: int = 16,
    seed: int = 0,
) -> tuple[Judged, list[Judged]]:
    """Ask every member for a set, judge all on dev, return the winner and everything that probes judged.

    :param previous: an earlier choice; it is one of the sets judged, so that over rounds the loss on dev never rises,
        unless it left a budget unfilled that the candidates can fill now.
    :param trials: probes that ``refine`` may train to improve the best set; the result is one more set to judge.
    :param finalists: with more than 1, the best by probes are judged by ``rollout``, ``runs`` times in all at most.
    """
    with coarse_threads():
        sets = list(propose(members, inputs, choose, previous))
        if previous and len(previous) == len(sets[0][1].chosen):  # one that a larger pool can fill up is no rival
            sets.append(("choice of the round before", Selection(list(previous), None)))
        judged = [Judged(name, one, probe_losses(inputs, one.chosen, dev), 0) for name, one in sets]
        winner = min(judged, key=least)
        if trials:
            refined = refine(winner.selection, inputs, diversity, trials=trials, seed=seed, combine=dev.combine)
            judged.append(Judged(f"{winner.name}, refined", refined, probe_losses(inputs, refined.chosen, dev), 0))
            winner = min(winner, judged[-1], key=least)
    if finalists > 1 and rollout is not None:
        different = {frozenset(one.selection.chosen): one for one in [*judged, winner]}
        others = sorted((one for one in different.values() if one is not winner), key=least)
        if others:
            winner = decide(halve([winner, *others[: finalists - 1]], rollout, runs=runs, first_seed=seed))
    return winner, judged
