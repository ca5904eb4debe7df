"""Many candidates: the fast objective chooses what its definition chooses."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch

from gendistill.objectives import build_objective
from gendistill.objectives.linear import coarse_threads, products
from gendistill.selection import greedy, swap

SCRIPT = Path(__file__).parents[1] / "scripts" / "selection_scale.py"
spec = importlib.util.spec_from_file_location("selection_scale", SCRIPT)
assert spec and spec.loader
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)


def test_of_5000_candidates_the_same_are_chosen_as_by_explicit_solves():
    inputs = script.make_inputs(5000, seed=1, dims=48, real_rows=200)
    fast, exact = build_objective({"meta_model": 1.0}, inputs), script.Exact(inputs)
    torch.testing.assert_close(exact.gains([3, 7]), fast.gains([3, 7]), rtol=0, atol=1e-12)
    orders = [greedy(objective, inputs.candidate_labels, [8] * 4) for objective in (fast, exact)]
    assert orders[0] == orders[1] and len(set(orders[0])) == 32
    refined = [swap(objective, orders[0], inputs.candidate_labels) for objective in (fast, exact)]
    assert refined[0].chosen == refined[1].chosen and refined[0].swaps > 0
    assert abs(refined[0].loss - refined[1].loss) < 1e-12


def test_candidates_of_one_class_cost_and_need_no_others():
    """Gains of some rows are those of all, whatever was asked before, and are given in the order asked."""
    inputs = script.make_inputs(400, seed=2, dims=16, real_rows=60)
    objective, fresh = (build_objective({"meta_model": 1.0}, inputs) for _ in range(2))
    chosen = [5, 9, 200]
    for rows in (torch.arange(400), torch.nonzero(inputs.candidate_labels == 2).flatten(), torch.tensor([0, 5, 399])):
        torch.testing.assert_close(objective.gains(chosen, rows), fresh.gains(chosen)[rows], rtol=0, atol=1e-12)
        objective.gains([1, 2, 3], rows[:1])


def test_hints_right_or_wrong_change_no_choice(monkeypatch):
    inputs = script.make_inputs(600, seed=3, dims=24, real_rows=80)
    plain = build_objective({"meta_model": 1.0}, inputs)
    order = greedy(plain, inputs.candidate_labels, [5] * 4)
    expected = swap(plain, order[::-1], inputs.candidate_labels)
    monkeypatch.setattr("gendistill.objectives.kernel_ridge.EXPECT_ROWS", 0)
    module = sys.modules["gendistill.selection.greedy"]
    monkeypatch.setattr(module, "FORESEE_FROM", 100)
    monkeypatch.setattr(module, "FORESIGHT_ROWS", 2)  # so few that it errs
    hinted = build_objective({"meta_model": 1.0}, inputs)
    rows = torch.nonzero(inputs.candidate_labels == 1).flatten()
    hinted.expect(order[:3], [order[:4], order[1:3]])
    hinted.expect([7], [[7, 9], []], rows)
    torch.testing.assert_close(hinted.gains(order[:4]), plain.gains(order[:4]), rtol=0, atol=1e-12)
    assert greedy(hinted, inputs.candidate_labels, [5] * 4) == order
    result = swap(hinted, order[::-1], inputs.candidate_labels)
    assert result.chosen == expected.chosen and result.swaps == expected.swaps > 0


def test_some_of_the_candidates_are_an_objective_of_their_own():
    inputs = script.make_inputs(300, seed=4, dims=16, real_rows=60)
    objective = build_objective({"meta_model": 1.0}, inputs)
    rows = torch.arange(1, 300, 7)
    objective.gains([1, 8])
    part = objective.restricted(rows)
    assert part.size == len(rows)
    assert part.loss([0, 5]) == objective.loss(rows[[0, 5]].tolist())
    torch.testing.assert_close(part.gains([0, 5]), objective.gains(rows[[0, 5]].tolist(), rows), rtol=0, atol=1e-12)


def test_in_two_stages_the_script_chooses_from_the_same_rows_as_in_one():
    plan = script.Plan([5] * script.CLASSES, {"meta_model": 1.0}, factor=8, rounds=2)
    one = script.measure_one_stage(2500, plan, shard_rows=1000, seed=0)
    two = script.measure_two_stage(2500, plan, 1000, 1, seed=0)
    assert len(two["history"]) == 2 and two["proposed"] < 1000
    assert abs(two["loss"] - two["history"][-1]) < 1e-9
    assert 0.9 < two["loss"] / one["loss"] < 1.02


def test_threads_share_the_rows_and_change_no_bit():
    generator = torch.Generator().manual_seed(0)
    features, matrix = torch.randn(50_000, 8, generator=generator), torch.randn(3, 9, generator=generator).double()
    some = torch.nonzero(torch.rand(50_000, generator=generator) < 0.9).flatten()
    threads = torch.get_num_threads()
    try:
        for rows in (None, some, torch.arange(100, 49_000)):
            torch.set_num_threads(1)
            alone = products(features, matrix, rows)
            torch.set_num_threads(3)
            with coarse_threads():
                assert torch.get_num_threads() == 1
                assert torch.equal(products(features, matrix, rows), alone)
            assert torch.get_num_threads() == 3
            wide = torch.nn.functional.pad(features.double(), (0, 1), value=1.0)
            expected = matrix @ (wide if rows is None else wide[rows]).T
            torch.testing.assert_close(alone, expected, rtol=0, atol=1e-12)
    finally:
        torch.set_num_threads(threads)
