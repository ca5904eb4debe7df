"""The portfolio: several sets proposed, students on held-out rows decide, swaps improve the winner."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from gendistill import Config, choosing
from gendistill.objectives import ObjectiveInputs, build_objective
from gendistill.selection import Selection, select
from gendistill.selection.diversity import Diversity
from gendistill.selection.portfolio import (
    Judged,
    Member,
    Rows,
    decide,
    default_members,
    halve,
    portfolio,
    probe_losses,
    refine,
)
from gendistill.students.probe import fit_probe

CLASSES, BUDGETS = 3, [4, 4, 4]


def clouds(per_class: int, seed: int, noise: float = 0.5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.nn.functional.normalize(torch.randn(CLASSES, 12, generator=torch.Generator().manual_seed(9)), dim=1)
    labels = torch.arange(CLASSES).repeat_interleave(per_class)
    points = centres[labels] + noise * torch.randn(len(labels), 12, generator=generator)
    return torch.nn.functional.normalize(points, dim=1), labels


@pytest.fixture(scope="module")
def inputs() -> ObjectiveInputs:
    embeddings, labels = clouds(40, 0, 0.7)
    real, real_labels = clouds(60, 1)
    return ObjectiveInputs(
        candidate_labels=labels,
        real_labels=real_labels,
        candidate_features=[],
        real_features=[],
        candidate_embeddings=embeddings,
        real_embeddings=real,
        num_classes=CLASSES,
        ridge=1.0,
    )


@pytest.fixture(scope="module")
def dev() -> Rows:
    embeddings, labels = clouds(30, 2)
    return Rows((embeddings,), labels)


def choose(member: Member, part: ObjectiveInputs, previous: Sequence[int]) -> Selection:
    objective = build_objective(member.weights, part) if member.method == "greedy" else None
    return select(
        member.method,
        objective,
        part.candidate_embeddings,
        part.candidate_labels,
        BUDGETS,
        seed=member.seed,
        previous=previous,
    )


def judged(name: str, losses: Sequence[float], chosen: Sequence[int] = ()) -> Judged:
    return Judged(name, Selection(list(chosen), None), torch.tensor(losses, dtype=torch.float64), 0)


def is_a_choice(chosen: Sequence[int], labels: Tensor) -> bool:
    return len(set(chosen)) == len(chosen) and torch.bincount(labels[list(chosen)]).tolist() == BUDGETS


def test_the_winner_has_the_least_probe_loss_of_all_judged(inputs: ObjectiveInputs, dev: Rows) -> None:
    winner, sets = portfolio(inputs, dev, default_members({"meta_model": 1.0}, 1.0, 0), choose)
    assert winner.loss == min(one.loss for one in sets)
    assert len({one.name for one in sets}) == len(sets) >= 8
    for one in sets:
        assert is_a_choice(one.selection.chosen, inputs.candidate_labels), one.name
        assert torch.equal(one.losses, probe_losses(inputs, one.selection.chosen, dev))


def test_an_earlier_choice_is_among_the_sets_so_the_loss_never_rises(inputs: ObjectiveInputs, dev: Rows) -> None:
    members = default_members({"meta_model": 1.0}, 1.0, 0)
    best, _ = portfolio(inputs, dev, members, choose, trials=60)
    weak = [Member("random", "random")]
    again, _ = portfolio(inputs, dev, weak, choose, previous=best.selection.chosen)
    assert again.loss == best.loss
    assert set(again.selection.chosen) == set(best.selection.chosen)


def test_an_earlier_choice_that_left_a_budget_unfilled_does_not_win(inputs: ObjectiveInputs, dev: Rows) -> None:
    best, _ = portfolio(inputs, dev, default_members({"meta_model": 1.0}, 1.0, 0), choose, trials=60)
    weak = [Member("k-center", "k-center")]
    again, _ = portfolio(inputs, dev, weak, choose, previous=best.selection.chosen[:-1])
    assert again.loss > best.loss and is_a_choice(again.selection.chosen, inputs.candidate_labels)


def test_members_see_their_share_of_every_class(inputs: ObjectiveInputs, dev: Rows) -> None:
    seen: list[ObjectiveInputs] = []

    def watch(member: Member, part: ObjectiveInputs, previous: Sequence[int]) -> Selection:
        seen.append(part)
        return choose(member, part, previous)

    portfolio(inputs, dev, [Member("all", "random"), Member("part", "random", share=0.3)], watch)
    assert torch.bincount(seen[0].candidate_labels).tolist() == [40, 40, 40]
    assert torch.bincount(seen[1].candidate_labels).tolist() == [12, 12, 12]


def test_refinement_lowers_the_probe_loss_on_real_rows_within_its_trials(inputs: ObjectiveInputs) -> None:
    start = select("random", None, inputs.candidate_embeddings, inputs.candidate_labels, BUDGETS, seed=3)
    real = Rows((inputs.real_embeddings,), inputs.real_labels)
    before = probe_losses(inputs, start.chosen, real).mean()
    few = refine(start, inputs, None, trials=8, seed=0)
    many = refine(start, inputs, None, trials=100, seed=0)
    assert is_a_choice(many.chosen, inputs.candidate_labels)
    assert sum(a != b for a, b in zip(start.chosen, few.chosen, strict=True)) <= 2  # 8 trials look at two positions
    after = [float(probe_losses(inputs, one.chosen, real).mean()) for one in (few, many)]
    assert after[1] < after[0] <= float(before)
    assert refine(start, inputs, None, trials=100, seed=0).chosen == many.chosen


def test_refinement_keeps_the_distance_of_the_chosen(inputs: ObjectiveInputs) -> None:
    embeddings, labels = inputs.candidate_embeddings, inputs.candidate_labels
    objective = build_objective({"meta_model": 1.0}, inputs)
    start = select("greedy", objective, embeddings, labels, BUDGETS, min_distance=0.4)
    refined = refine(start, inputs, Diversity(embeddings, labels, 0.4), trials=100, seed=0)
    assert start.relaxed == {} and refined.chosen != start.chosen
    assert Diversity(embeddings, labels, 0.4).shortfalls(refined.chosen) == {}


def test_no_candidates_are_an_empty_choice(inputs: ObjectiveInputs, dev: Rows) -> None:
    nothing = inputs.candidates(torch.tensor([], dtype=torch.int64))
    choice = choosing.choose(
        Config(), nothing, BUDGETS, held=choosing.Held(dev, lambda chosen, seed: dev.embeddings[0])
    )
    assert choice.selection.chosen == [] and choice.loss == 1.0


def test_a_probe_loss_is_the_cross_entropy_of_the_probe(inputs: ObjectiveInputs, dev: Rows) -> None:
    chosen = [0, 1, 41, 42, 81, 82]
    weight, bias = fit_probe(10 * inputs.candidate_embeddings[chosen], inputs.candidate_labels[chosen], CLASSES)
    logits = (10 * dev.embeddings[0]) @ weight.T + bias
    expected = -logits.log_softmax(1)[torch.arange(len(dev.labels)), dev.labels]
    torch.testing.assert_close(probe_losses(inputs, chosen, dev).float(), expected, rtol=1e-4, atol=1e-5)


def test_the_first_stays_unless_beaten_by_more_than_a_standard_error() -> None:
    first = judged("first", [1.0, 1.0, 1.0, 1.0])
    lucky = judged("lucky", [0.0, 1.0, 1.0, 1.9])  # better by 0.025, standard error 0.39
    better = judged("better", [0.8, 0.7, 0.8, 0.7])
    assert decide([first, lucky]) is first
    assert decide([first, lucky, better]) is better


def test_halving_spends_its_runs_on_the_better_half_and_keeps_the_first() -> None:
    truth = {0: 0.5, 1: 0.1, 2: 0.9, 3: 0.3}
    asked: list[tuple[int, int]] = []

    def rollout(chosen: Sequence[int], seed: int) -> Tensor:
        asked.append((chosen[0], seed))
        return torch.full((5,), truth[chosen[0]], dtype=torch.float64)

    finalists = [judged(str(k), [0.0] * 5, [k]) for k in truth]
    left = halve(finalists, rollout, runs=16, first_seed=7)
    assert len(asked) <= 16
    assert [one.name for one in left] == ["0", "1"]
    assert len({one.runs for one in left}) == 1 and left[0].runs > 1
    assert {one.name: one.loss for one in left}["1"] == pytest.approx(0.1)
    assert sorted(seed for index, seed in asked if index == 1) == [7 + k for k in range(left[0].runs)]
    assert sum(index == 2 for index, _ in asked) == 1  # the worst got one run


def test_finalists_are_decided_by_real_runs(inputs: ObjectiveInputs, dev: Rows) -> None:
    members = [Member("a", "random", seed=1), Member("b", "random", seed=2), Member("c", "random", seed=3)]
    _, sets = portfolio(inputs, dev, members, choose)
    worst = max(sets, key=lambda one: one.loss)

    def rollout(chosen: Sequence[int], seed: int) -> Tensor:
        good = set(chosen) == set(worst.selection.chosen)
        return torch.full((90,), 0.1 if good else 0.4, dtype=torch.float64)

    winner, _ = portfolio(inputs, dev, members, choose, finalists=3, rollout=rollout, runs=9)
    assert winner.name == worst.name and winner.runs > 0
