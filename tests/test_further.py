"""Choosing for several students at once: what the further ones see, that they count, and clear refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_run import final_bytes, small_config

from gendistill import Config, distill
from gendistill.data import load_real
from gendistill.errors import ConfigError, GendistillError
from gendistill.examples import Example
from gendistill.further import FurtherStudent, further_students, with_further
from gendistill.inputs import RealSide, objective_inputs, real_side
from gendistill.objectives import ObjectiveInputs, build_objective
from gendistill.progress import Silent
from gendistill.scoring import select_candidates
from gendistill.selection import select
from gendistill.students.encoder import EncoderStudent
from gendistill.teacher import MemoryStore, Teacher


def settings(encoder: Path, data: Path, students: list[str], **objective: Any) -> Config:
    return Config(
        per_class=4,
        data={"dataset": str(data)},
        student={"model": str(encoder), "steps": 6, "batch_size": 8, "max_tokens": 32, "checkpoints": 2},
        objective={"students": students, **objective},
        filters={"teacher_probability": 0.05, "real_copy_similarity": 1.0, "near_duplicate": 1.0},
    )


def look(config: Config) -> tuple[ObjectiveInputs, list[FurtherStudent], list[Example], RealSide]:
    """The training rows as their own candidates, shown in two parts."""
    real = load_real(config.data, per_class=1, seed=0)
    classes = len(real.label_names)
    teacher = Teacher(
        config.student, EncoderStudent(config.student, classes), real.train, MemoryStore(), Silent(), seed=0
    )
    side = real_side(config, real, teacher)
    others = further_students(config, side, real.train, real.dev, MemoryStore(), Silent())
    rows = side.examples
    for other in others:
        other.see("first", rows[:7])
        other.see("second", rows[7:])
    embeddings, features = teacher.features("candidates", rows)
    return with_further(objective_inputs(config, side, side.labels, embeddings, features), others), others, rows, side


def test_every_student_sees_the_same_rows_with_features_of_its_own(
    tiny_encoder_dir: Path, tiny_causal_dir: Path, tiny_jsonl: Path
) -> None:
    names = ["tfidf", f"static:{tiny_encoder_dir}", str(tiny_causal_dir)]
    inputs, others, rows, _ = look(settings(tiny_encoder_dir, tiny_jsonl, names))
    assert len(inputs.students) == 4
    for seen, other in zip(inputs.others, others, strict=True):
        assert torch.allclose(seen.candidate_embeddings, other.eyes.embeddings("again", rows), atol=1e-5)
        assert torch.allclose(seen.candidate_embeddings.norm(dim=1), torch.ones(len(rows)), atol=1e-5)
        assert torch.allclose(seen.real_embeddings, seen.candidate_embeddings, atol=1e-5)
        assert seen.candidate_features == []  # the meta-model needs none, so no teacher was trained
    widths = {seen.candidate_embeddings.shape[1] for seen in inputs.students}
    assert len(widths) > 1


def test_where_an_objective_needs_features_each_student_is_trained(
    tiny_encoder_dir: Path, tiny_causal_dir: Path, tiny_jsonl: Path
) -> None:
    config = settings(
        tiny_encoder_dir, tiny_jsonl, [str(tiny_causal_dir)], weights={"gradient": 1.0, "trajectory": 1.0}
    )
    inputs, _, rows, side = look(config)
    (seen,) = inputs.others
    assert len(seen.candidate_features) == len(seen.real_features) == 2
    assert len(seen.segments) == 1
    assert seen.candidate_features[1].probabilities.shape == (len(rows), 3)
    assert torch.allclose(seen.real_features[1].hidden, seen.candidate_features[1].hidden[side.target_rows], atol=1e-4)
    assert build_objective(config.objective.weights, inputs).loss([0, 1, 2]) < 1
    linear = settings(tiny_encoder_dir, tiny_jsonl, ["tfidf"], weights={"gradient": 1.0})
    assert len(look(linear)[0].others[0].candidate_features) == 1


def test_a_student_that_is_served_is_served_better(tiny_encoder_dir: Path, tiny_jsonl: Path) -> None:
    inputs, _, _, _ = look(settings(tiny_encoder_dir, tiny_jsonl, ["tfidf"]))
    alone, other = inputs.students
    own = build_objective({"meta_model": 1.0}, other)
    chosen = [
        select("greedy", build_objective({"meta_model": 1.0}, seen), seen.candidate_embeddings, seen.candidate_labels,
               [4, 4, 4]).chosen
        for seen in (alone, inputs)
    ]  # fmt: skip
    assert own.loss(chosen[1]) < own.loss(chosen[0])


def test_a_run_serves_several_students_and_can_be_repeated(
    tmp_path: Path, tiny_encoder_dir: Path, tiny_causal_dir: Path, tiny_jsonl: Path
) -> None:
    objective = {"students": ["tfidf", str(tiny_causal_dir)], "weights": {"meta_model": 1.0, "gradient": 0.5}}
    config = small_config(
        tmp_path / "run", tiny_encoder_dir, tiny_causal_dir, tiny_jsonl, objective=objective,
        # On the nearly parallel features of an untrained model a probe takes long.
        selection={"probe_trials": 4},
    )  # fmt: skip
    result = distill(config)
    assert sorted(row["label"] for row in result.rows) == [0] * 3 + [1] * 3 + [2] * 3
    assert "tfidf" in (config.out / "README.md").read_text(encoding="utf-8")
    assert not list(config.out.glob("teacher*"))
    before = final_bytes(config.out)
    distill(config)
    assert final_bytes(config.out) == before


@pytest.mark.parametrize(
    ("students", "weights", "message"),
    [
        (["tfidf"], {"trajectory": 1.0}, "tfidf is not trained step by step"),
        (["ENCODER"], {"meta_model": 1.0}, "chooses already"),
        (["no/such-model"], {"meta_model": 1.0}, "no/such-model"),
    ],
)
def test_students_that_cannot_be_served_are_refused(
    students: list[str], weights: dict[str, float], message: str, tiny_encoder_dir: Path, tiny_jsonl: Path
) -> None:
    named = [str(tiny_encoder_dir) if name == "ENCODER" else name for name in students]
    with pytest.raises(GendistillError, match=message):
        select_candidates("real", settings(tiny_encoder_dir, tiny_jsonl, named, weights=weights))


def test_each_further_student_is_named_once() -> None:
    with pytest.raises(ConfigError, match="each further student once"):
        Config(objective={"students": ["tfidf", "tfidf"]})


def test_the_default_choice_serves_the_students_own_input_embeddings_too() -> None:
    assert Config().further_students == [f"static:{Config().student.model}"]
    assert Config(objective={"students": []}).further_students == []
    assert Config(objective={"students": ["tfidf"]}).further_students == ["tfidf"]
    # Nothing else is meant to be chosen by it: baselines, and objectives that a linear student has no features for.
    assert Config(selection={"method": "herding"}).further_students == []
    assert Config(selection={"method": "greedy"}).further_students == []
    assert Config(objective={"weights": {"trajectory": 1.0}}).further_students == []
