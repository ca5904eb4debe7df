"""Baselines that need the real rows or the teacher, against naive forms and on cases with a known answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_objectives import make_inputs

from gendistill.errors import ConfigError, DataError
from gendistill.objectives import ObjectiveInputs
from gendistill.selection import ALL_BASELINES, select, select_baseline
from gendistill.selection.baselines import REWARDED_SETS
from gendistill.students.base import Features


def of_class(inputs: ObjectiveInputs, label: int) -> list[int]:
    return torch.nonzero(inputs.candidate_labels == label).flatten().tolist()


@pytest.mark.parametrize("name", ALL_BASELINES)
def test_any_baseline_fills_each_class_with_distinct_rows_and_repeats_itself(name: str) -> None:
    inputs = make_inputs(3, n=40)
    budgets = [4, 0, 99]
    chosen = select_baseline(name, inputs, budgets, 5)
    assert chosen == select_baseline(name, inputs, budgets, 5)
    assert all(type(row) is int for row in chosen) and len(set(chosen)) == len(chosen)
    sizes = np.bincount(inputs.candidate_labels[chosen], minlength=3).tolist()
    assert sizes == [4, 0, len(of_class(inputs, 2))]
    through_select = select(
        name, None, inputs.candidate_embeddings, inputs.candidate_labels, budgets, seed=5, inputs=inputs
    )
    assert through_select.chosen == chosen
