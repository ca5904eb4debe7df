"""Objectives, all of the registry: gains against differences of losses, what nothing costs, order, bad inputs."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from objective_inputs import make_inputs

from gendistill.errors import ConfigError, DataError
from gendistill.objectives import OBJECTIVES, Objective, ObjectiveInputs, WeightedSum, Worst, build_objective
from gendistill.students.base import Features

COMBINED = ("weighted", "several ridges", "mean of students", "worst of students")
ALL = (*OBJECTIVES, *COMBINED)


def another_student(inputs: ObjectiveInputs) -> ObjectiveInputs:
    """The same candidates and real rows as another student sees them."""

    def seen(features: Features) -> Features:
        return Features(features.hidden.flip(1), features.probabilities.square() + 0.1, features.gradient)

    return dataclasses.replace(
        inputs,
        candidate_features=[seen(f) for f in inputs.candidate_features],
        real_features=[seen(f) for f in inputs.real_features],
        candidate_embeddings=torch.nn.functional.normalize(inputs.candidate_embeddings.sin() + 0.3, dim=1),
        real_embeddings=torch.nn.functional.normalize(inputs.real_embeddings.sin() + 0.3, dim=1),
    )


def with_another(inputs: ObjectiveInputs) -> ObjectiveInputs:
    return dataclasses.replace(inputs, others=(another_student(inputs),))


def build(name: str, inputs: ObjectiveInputs) -> Objective:
    weights = {"gradient": 0.3, "meta_model": 2.0}
    if name == "weighted":
        return build_objective(weights, inputs)
    if name == "several ridges":
        return OBJECTIVES["meta_model"](dataclasses.replace(inputs, ridge=(0.05, 0.5, 5.0)))
    if name == "mean of students":
        return build_objective(weights, with_another(inputs))
    if name == "worst of students":
        return build_objective(weights, with_another(inputs), "worst")
    return OBJECTIVES[name](inputs)


def assert_gains_are_loss_differences(objective: Objective, chosen: list[int]) -> None:
    before = objective.loss(chosen)
    gains = objective.gains(chosen)
    assert gains.shape == (objective.size,) and gains.dtype == torch.float64
    for i, gain in enumerate(gains.tolist()):
        if i in chosen:
            assert gain == float("-inf")
        else:
            assert gain == pytest.approx(before - objective.loss([*chosen, i]), abs=1e-9)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("seed", range(3))
def test_gains_are_loss_differences(name, seed):
    objective = build(name, make_inputs(seed))
    order = torch.randperm(24, generator=torch.Generator().manual_seed(seed)).tolist()
    # Growing, shrinking, exchanging and starting over: objectives keep state between calls. 9 chosen are more than the
    # 7 features of the kernel, so that both ways of solving are taken.
    for chosen in ([], order[:1], order[:4], order[:9], order[1:9], order[2:10], order[12:15], order[3:1:-1], []):
        assert_gains_are_loss_differences(objective, chosen)


@pytest.mark.parametrize("name", ALL)
def test_gains_of_some_rows_are_those_of_all(name):
    inputs = make_inputs(1)
    objective, fresh = build(name, inputs), build(name, inputs)
    of_class = torch.nonzero(inputs.candidate_labels == 1).flatten()
    for chosen in ([], [3, 5, 8], [3, 8], [3, 8, 20]):
        for rows in (of_class, torch.tensor([0, 3, 4, 9, 23]), torch.tensor([17]), torch.arange(24), torch.tensor([0])):
            torch.testing.assert_close(objective.gains(chosen, rows), fresh.gains(chosen)[rows], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_loss_ignores_order_and_repeats_and_gains_ignore_history(name):
    inputs = make_inputs(3)
    chosen = [5, 17, 2, 11, 8]
    objective, fresh = build(name, inputs), build(name, inputs)
    assert objective.loss(chosen) == objective.loss(chosen[::-1]) == objective.loss([*chosen, 2])
    objective.gains([1, 2, 3])
    objective.gains(chosen)
    torch.testing.assert_close(objective.gains(chosen[::-1]), fresh.gains(chosen), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_empty_set_costs_one(name):
    assert build(name, make_inputs(0)).loss([]) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_one_candidate_and_none(name):
    inputs = make_inputs(0)
    for count in (1, 0):
        few = dataclasses.replace(
            inputs,
            candidate_labels=inputs.candidate_labels[:count],
            candidate_embeddings=inputs.candidate_embeddings[:count],
            candidate_features=[
                Features(f.hidden[:count], f.probabilities[:count], f.gradient[:count])
                for f in inputs.candidate_features
            ],
        )
        objective = build(name, few)
        assert_gains_are_loss_differences(objective, [])
        assert_gains_are_loss_differences(objective, list(range(count)))


@pytest.mark.parametrize("name", ALL)
def test_a_class_without_real_rows_or_candidates_is_no_trouble(name):
    inputs = make_inputs(2, n=12, m=15)
    without = dataclasses.replace(
        inputs,
        real_labels=inputs.real_labels.where(inputs.real_labels != 0, 1),
        candidate_labels=inputs.candidate_labels.where(inputs.candidate_labels != 2, 1),
    )
    objective = build(name, without)
    for chosen in ([], [0], [0, 1, 4]):
        assert_gains_are_loss_differences(objective, chosen)


def real_rows_as_candidates(inputs: ObjectiveInputs) -> ObjectiveInputs:
    return dataclasses.replace(
        inputs,
        candidate_labels=inputs.real_labels,
        candidate_features=inputs.real_features,
        candidate_embeddings=inputs.real_embeddings,
    )


@pytest.mark.parametrize("name", ["gradient", "gradient_l2", "gradient_body", "mean_matching", "mmd", "coverage"])
def test_choosing_all_real_rows_themselves_costs_nothing(name):
    objective = OBJECTIVES[name](real_rows_as_candidates(make_inputs(4)))
    assert objective.loss(range(30)) == pytest.approx(0, abs=1e-6)  # embeddings are of length 1 in float32


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name.startswith("meta_model")])
def test_more_real_rows_teach_a_meta_model_more(name):
    objective = OBJECTIVES[name](real_rows_as_candidates(make_inputs(4)))
    assert objective.loss(range(30)) < 0.8 * objective.loss(range(3))


def test_gains_hold_after_hundreds_of_moves_with_a_small_ridge():
    generator = torch.Generator().manual_seed(0)
    objective = OBJECTIVES["meta_model"](dataclasses.replace(make_inputs(1), ridge=1e-4))
    chosen = [0, 1, 2, 3, 4]
    for _ in range(300):
        chosen[int(torch.randint(5, (1,), generator=generator))] = int(torch.randint(5, 24, (1,), generator=generator))
        chosen = list(dict.fromkeys([*chosen, 0, 1, 2, 3, 4]))[:5]
        objective.gains(chosen)
    assert_gains_are_loss_differences(objective, chosen)


# -- combinations ------------------------------------------------------------------------------------------------------


def test_weights_are_shares_of_what_nothing_costs():
    inputs = make_inputs(9)
    chosen = [0, 1, 2, 20]
    gradient, meta_model = OBJECTIVES["gradient"](inputs), OBJECTIVES["meta_model"](inputs)
    expected = 0.25 * gradient.loss(chosen) + 0.75 * meta_model.loss(chosen)
    assert build_objective({"gradient": 1, "meta_model": 3}, inputs).loss(chosen) == pytest.approx(expected, abs=1e-12)

    class Tenfold:
        name, size = "tenfold", 24

        def loss(self, chosen):
            return 10 * meta_model.loss(chosen)

        def gains(self, chosen, rows=None):
            return 10 * meta_model.gains(chosen, rows)

    scaled = WeightedSum([(1, gradient), (3, Tenfold())])
    assert scaled.loss(chosen) == pytest.approx(expected, abs=1e-12)
    assert_gains_are_loss_differences(scaled, chosen)


def test_students_count_as_their_mean_or_their_worst():
    inputs = make_inputs(9)
    both = with_another(inputs)
    chosen = [0, 1, 2, 20]
    losses = [OBJECTIVES["meta_model"](student).loss(chosen) for student in both.students]
    assert abs(losses[0] - losses[1]) > 0.01
    mean, worst = (build_objective({"meta_model": 1}, both, combine) for combine in ("mean", "worst"))
    assert mean.loss(chosen) == pytest.approx(sum(losses) / 2, abs=1e-12)
    assert worst.loss(chosen) == max(losses)
    with pytest.raises(DataError, match="different rows"):
        dataclasses.replace(inputs, others=(make_inputs(1),))


def test_some_of_the_candidates_and_another_ridge_are_so_for_every_student():
    rows = torch.tensor([0, 3, 5, 20])
    part = with_another(make_inputs(9)).candidates(rows).with_ridge(2.0)
    assert [student.ridge for student in part.students] == [2.0, 2.0]
    expected = another_student(make_inputs(9)).candidate_embeddings[rows]
    assert torch.equal(part.students[1].candidate_embeddings, expected)


def test_a_sum_is_submodular_if_all_its_parts_are():
    inputs = make_inputs(0)
    assert build_objective({"coverage": 2}, inputs).submodular
    assert not build_objective({"coverage": 2, "mmd": 1}, inputs).submodular
    assert not Worst([OBJECTIVES["coverage"](inputs)]).submodular


def test_weight_zero_leaves_an_objective_out():
    inputs = dataclasses.replace(make_inputs(0), candidate_features=[], real_features=[], segments=())
    expected = OBJECTIVES["meta_model"](inputs).loss([0])
    assert build_objective({"gradient": 0, "meta_model": 2}, inputs).loss([0]) == expected
    with pytest.raises(DataError, match="checkpoint"):
        build_objective({"gradient": 1}, inputs)


@pytest.mark.parametrize(
    ("weights", "says"),
    [({"best": 1}, "'best'; there are .*gradient, .*meta_model"), ({"gradient": -1}, "positive"), ({}, "weight")],
)
def test_bad_weights_are_configuration_errors(weights, says):
    with pytest.raises(ConfigError, match=says):
        build_objective(weights, make_inputs(0))


@pytest.mark.parametrize("ridge", [0.0, -1.0, [1.0, 0.0], []])
def test_ridges_must_be_positive(ridge):
    with pytest.raises(ConfigError, match=r"objective\.ridge"):
        OBJECTIVES["meta_model"](dataclasses.replace(make_inputs(0), ridge=ridge))


# -- inputs ------------------------------------------------------------------------------------------------------------


def test_registry_builds_under_its_names():
    inputs = make_inputs(0)
    assert {name: build(inputs).name for name, build in OBJECTIVES.items()} == {n: n for n in OBJECTIVES}


def spoilt(values: torch.Tensor) -> torch.Tensor:
    values = values.clone()
    values[3, 2] = float("nan")
    return values


def test_bad_inputs_are_data_errors():
    inputs = make_inputs(0)
    feature, segment = inputs.candidate_features[0], inputs.segments[0]
    for change, says in (
        ({"candidate_embeddings": spoilt(inputs.candidate_embeddings)}, "embeddings of the candidates hold NaN"),
        ({"real_embeddings": inputs.real_embeddings[:-1]}, "embeddings of the real rows"),
        ({"real_labels": inputs.real_labels + 1}, "0..2"),
        ({"real_features": inputs.real_features[:1]}, "same checkpoints"),
        ({"segments": inputs.segments * 2}, "2 segments of training for 2 checkpoints"),
        ({"segments": (dataclasses.replace(segment, head=spoilt(segment.head)),)}, "segment 0 .* NaN"),
        ({"segments": (dataclasses.replace(segment, head=segment.head[1:]),)}, "segment 0 .* must be"),
        *(
            ({"candidate_features": [dataclasses.replace(feature, **{field: spoilt(values)})] * 2}, f"{what} .* NaN")
            for field, values, what in (
                ("hidden", feature.hidden, "hidden states of checkpoint 0"),
                ("probabilities", feature.probabilities, "probabilities of checkpoint 0"),
                ("gradient", feature.gradient, "gradients of checkpoint 0"),
            )
        ),
    ):
        with pytest.raises(DataError, match=says):
            dataclasses.replace(inputs, **change)
