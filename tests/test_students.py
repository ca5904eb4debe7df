"""Students: the encoder on a tiny real BERT, the same class on a tiny real Llama, and the linear ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import tiny_rows

from gendistill.config import StudentConfig
from gendistill.errors import ConfigError, DataError, ModelError
from gendistill.examples import Example
from gendistill.students import STUDENTS, build_student
from gendistill.students.base import Student
from gendistill.students.encoder import EncoderStudent, alike
from gendistill.students.linear import SKETCH_DIMS, StaticStudent, TfidfStudent
from gendistill.students.probe import fit_probe
from gendistill.students.segments import segments


def examples(n_per_class: int, seed: int = 0) -> list[Example]:
    rows = tiny_rows(n_per_class, 3, seed)
    names = sorted({row["label"] for row in rows})
    return [Example((row["text"],), names.index(row["label"])) for row in rows]


@pytest.fixture(scope="module")
def config(tiny_encoder_dir: Path) -> StudentConfig:
    return StudentConfig(
        model=str(tiny_encoder_dir), steps=12, epochs=1.0, batch_size=8, max_tokens=32, learning_rate=1e-3
    )


@pytest.fixture(scope="module")
def student(config: StudentConfig) -> EncoderStudent:
    return EncoderStudent(config, 3)


def test_it_learns_separable_classes(student: EncoderStudent) -> None:
    student.fit(examples(20), seed=0)
    test = examples(20, seed=9)
    right = [int(p) == e.label for p, e in zip(student.predict(test).argmax(1), test, strict=True)]
    assert sum(right) / len(right) > 0.9


def test_training_is_a_function_of_rows_and_seed(student: EncoderStudent) -> None:
    rows, test = examples(10), examples(5, seed=9)
    student.fit(rows, seed=1)
    first = student.predict(test)
    student.fit(rows[:6], seed=2)  # whatever came between must not matter
    student.embed(test)
    student.fit(rows, seed=1)
    assert torch.equal(student.predict(test), first)
    student.fit(rows, seed=3)
    assert not torch.equal(student.predict(test), first)


def test_features_do_not_depend_on_order_or_company(student: EncoderStudent) -> None:
    rows = examples(10)
    student.fit(rows, seed=0)
    test = examples(8, seed=9)
    all_at_once = student.features(test)
    backwards = student.features(test[::-1])
    assert torch.equal(all_at_once.hidden, backwards.hidden.flip(0))
    alone = student.features(test[:1])
    assert torch.allclose(alone.hidden, all_at_once.hidden[:1], atol=1e-5)
    assert torch.allclose(all_at_once.probabilities.sum(1), torch.ones(len(test)))


def test_batches_hold_rows_of_like_length_within_their_tokens() -> None:
    lengths = [7, 3, 40, 3, 12, 5, 90, 8, 3]
    encoded = [[row] * length for row, length in enumerate(lengths)]
    told: list[tuple[int, int]] = []
    batches = list(alike(encoded, 24, lambda done, total: told.append((done, total))))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert [[lengths[row] for row in batch] for batch in batches] == [[3, 3, 3, 5], [7, 8], [12], [40], [90]]
    assert told == [(4, 9), (6, 9), (7, 9), (8, 9), (9, 9)]
    assert list(alike([], 24)) == []


def test_the_first_checkpoint_is_the_start_and_the_last_the_trained_student(student: EncoderStudent) -> None:
    rows, test = examples(10), examples(5, seed=9)
    student.fit(rows, seed=0, checkpoints=3)
    assert student.checkpoints == 3
    start = student.features(test, checkpoint=0)
    assert torch.allclose(start.hidden / 10, student.embed(test), atol=1e-6)
    assert torch.equal(student.features(test, checkpoint=-1).probabilities, student.predict(test))
    assert not torch.allclose(start.hidden, student.features(test, checkpoint=1).hidden, atol=1e-4)
    assert torch.equal(student.classify(start.hidden, checkpoint=0).probabilities, start.probabilities)


def test_saved_checkpoints_come_back(student: EncoderStudent, config: StudentConfig, tmp_path: Path) -> None:
    rows, test = examples(10), examples(5, seed=9)
    student.fit(rows, seed=0, checkpoints=2)
    student.save(tmp_path)
    other = EncoderStudent(config, 3)
    other.load(tmp_path)
    assert other.checkpoints == 2
    assert torch.equal(other.predict(test), student.predict(test))


def test_the_probe_is_the_optimum_of_its_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(60, 5, generator=generator)
    labels = torch.randint(0, 3, (60,), generator=generator)
    weight, bias = fit_probe(hidden, labels, 3, decay=0.01)
    weight, bias = weight.double().requires_grad_(), bias.double().requires_grad_()
    loss = torch.nn.functional.cross_entropy(hidden.double() @ weight.T + bias, labels) + 0.01 * weight.pow(2).sum()
    loss.backward()
    assert weight.grad is not None and weight.grad.abs().max() < 1e-4
    assert bias.grad is not None and bias.grad.abs().max() < 1e-4


def test_a_random_head_is_the_plain_recipe(config: StudentConfig) -> None:
    plain = EncoderStudent(config.model_copy(update={"head_init": "random"}), 3)
    plain.fit(examples(5), seed=0, checkpoints=2)
    start = plain.features(examples(5), checkpoint=0).probabilities
    assert (start - 1 / 3).abs().max() < 0.3  # near uniform: nothing learnt yet


def test_clear_errors(student: EncoderStudent, config: StudentConfig, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no examples"):
        student.fit([], seed=0)
    with pytest.raises(ModelError, match="not been trained"):
        EncoderStudent(config, 3).predict(examples(2))
    with pytest.raises(DataError, match="shape"):
        student.fit(examples(2), seed=0, targets=torch.ones(5, 3) / 3)
    with pytest.raises(DataError, match="sum 1"):
        student.fit(examples(2), seed=0, targets=torch.ones(6, 3))
    with pytest.raises((ModelError, ConfigError)):
        EncoderStudent(config.model_copy(update={"model": str(tmp_path)}), 3)


def one_hot(rows: list[Example]) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor([row.label for row in rows]), 3).float()


def accuracy(student: Student, test: list[Example]) -> float:
    right = [int(p) == row.label for p, row in zip(student.predict(test).argmax(1), test, strict=True)]
    return sum(right) / len(right)


def test_one_hot_targets_are_the_labels_and_soft_ones_are_not(student: EncoderStudent) -> None:
    rows, test = examples(10), examples(5, seed=9)
    student.fit(rows, seed=0)
    hard = student.predict(test)
    student.fit(rows, seed=0, targets=one_hot(rows))
    assert torch.allclose(student.predict(test), hard, atol=1e-4)
    student.fit(rows, seed=0, targets=0.6 * one_hot(rows) + 0.4 / 3)
    assert student.predict(test).max(1).values.mean() < hard.max(1).values.mean() - 0.1
    student.fit(rows, seed=0, targets=one_hot(rows).roll(1, dims=1))  # targets count, labels do not
    assert accuracy(student, test) < 0.2


def test_training_takes_as_many_steps_as_the_rule_says(student: EncoderStudent) -> None:
    recipe = StudentConfig(steps=40, batch_size=16, epochs=1.0, max_steps=400)
    assert [recipe.training_steps(rows) for rows in (1, 50, 640, 641, 1600, 6400, 100_000)] == [
        40,
        40,
        40,
        41,
        100,
        400,
        400,
    ]
    assert recipe.model_copy(update={"epochs": 3.0}).training_steps(1600) == 300
    assert recipe.model_copy(update={"steps": 500}).training_steps(100_000) == 500
    told: list[tuple[int, int]] = []
    rows = examples(40)  # 120 rows in batches of 8
    student.fit(rows, seed=0, progress=lambda done, total: told.append((done, total)))
    assert told == [(step, 15) for step in range(1, 16)]
    assert student.config.training_steps(len(rows)) == 15


def test_segments_are_the_differences_of_checkpoints_and_survive_a_save(
    config: StudentConfig, tmp_path: Path, student: EncoderStudent
) -> None:
    with_gradients = EncoderStudent(config.model_copy(update={"gradient_dims": 64}), 3)
    with_gradients.fit(examples(10), seed=0, checkpoints=3)
    found = segments(with_gradients)
    assert len(found) == 2
    start, middle, end = with_gradients.states
    for segment, before, after in zip(found, (start, middle), (middle, end), strict=True):
        assert torch.equal(segment.head[:-1], (after["head.weight"] - before["head.weight"]).T)
        assert torch.equal(segment.head[-1], after["head.bias"] - before["head.bias"])
        assert segment.head.shape == (33, 3) and segment.head.abs().max() > 0
        assert segment.body is not None and segment.body.shape == (64,) and segment.body.norm() > 0
    # From the second segment on, the scale is of its start; the first has that of its end.
    scale = 1 / (torch.cat([middle["adam.weight"].T, middle["adam.bias"][None]]).sqrt() + 1e-8)
    for segment in found:
        assert segment.head_scale is not None and torch.equal(segment.head_scale, scale)
    with_gradients.save(tmp_path)
    other = EncoderStudent(with_gradients.config, 3)
    other.load(tmp_path)
    for one, two in zip(segments(other), found, strict=True):
        assert torch.equal(one.head, two.head)
        assert one.head_scale is not None and two.head_scale is not None
        assert torch.equal(one.head_scale, two.head_scale)
        assert one.body is not None and two.body is not None and torch.equal(one.body, two.body)
    student.fit(examples(5), seed=0)
    assert segments(student) == ()  # one checkpoint, nothing between


def test_second_moments_are_the_mean_squares_of_the_head_gradients(config: StudentConfig) -> None:
    rows = examples(1)
    still = EncoderStudent(config.model_copy(update={"steps": 1, "learning_rate": 1e-12, "batch_size": 3}), 3)
    still.fit(rows, seed=0, checkpoints=2)
    before = still.features(rows, checkpoint=0)
    residual = before.probabilities - one_hot(rows)
    gradient = torch.cat([before.hidden.T @ residual, residual.sum(0, keepdim=True)]) / len(rows)
    (segment,) = segments(still)
    assert segment.head_scale is not None
    assert torch.allclose(1 / segment.head_scale, gradient.abs(), rtol=1e-3, atol=1e-6)


def test_the_registry_builds_each_student_and_each_learns(
    config: StudentConfig, tiny_causal_dir: Path, tiny_encoder_dir: Path
) -> None:
    kinds = {
        "tfidf": TfidfStudent,
        f"static:{tiny_encoder_dir}": StaticStudent,
        str(tiny_encoder_dir): EncoderStudent,
        str(tiny_causal_dir): EncoderStudent,
    }
    assert {name.partition(":")[0] for name in kinds} >= STUDENTS.keys()
    rows, test = examples(20), examples(20, seed=9)
    for name, kind in kinds.items():
        longer = {"steps": 60, "learning_rate": 3e-3} if name == str(tiny_causal_dir) else {}  # it never saw the task
        built = build_student(config.model_copy(update={"model": name, **longer}), 3)
        assert type(built) is kind
        assert built.checkpoints == 0
        with pytest.raises(ModelError, match="not been trained"):
            built.predict(test)
        built.fit(rows, seed=0)
        assert built.checkpoints == 1
        assert accuracy(built, test) > 0.9, name
        features = built.features(test)
        assert features.hidden.dtype == torch.float32 and features.hidden.isfinite().all()
        assert torch.allclose(features.probabilities.sum(1), torch.ones(len(test)), atol=1e-5)
        assert torch.equal(features.probabilities, built.predict(test))
        backwards = built.features(test[::-1])
        assert torch.allclose(backwards.hidden.flip(0), features.hidden, atol=1e-5)
        built.fit(rows, seed=0, targets=one_hot(rows).roll(1, dims=1))
        assert accuracy(built, test) < 0.2, name


def test_a_causal_student_reads_the_last_token_whatever_the_padding(
    config: StudentConfig, tiny_causal_dir: Path
) -> None:
    causal = EncoderStudent(config.model_copy(update={"model": str(tiny_causal_dir), "gradient_dims": 64}), 3)
    assert causal.pooling == "last"
    rows = examples(6)
    causal.fit(rows, seed=0)
    text = rows[0].text
    with torch.no_grad():
        states = causal.encoder(**causal.tokenizer(text, return_tensors="pt")).last_hidden_state[0]
    expected = 10 * torch.nn.functional.normalize(states[-1], dim=0)
    long = Example((" ".join(row.text for row in rows[:3]),), 0)
    together = causal.features([rows[0], long, Example(("",), 1)])
    assert torch.allclose(together.hidden[0], expected, atol=1e-5)
    assert together.hidden.isfinite().all()
    alone = causal.features([rows[0]])
    assert together.gradient is not None and alone.gradient is not None
    assert (together.gradient[0] - alone.gradient[0]).norm() < 1e-5 * alone.gradient[0].norm()
    mean = EncoderStudent(config.model_copy(update={"model": str(tiny_causal_dir), "pooling": "mean"}), 3)
    mean.fit(rows, seed=0)
    assert not torch.allclose(mean.embed(rows[:1]), causal.embed(rows[:1]), atol=1e-2)


def test_the_static_student_reads_the_mean_of_word_vectors(tiny_encoder_dir: Path, config: StudentConfig) -> None:
    static = StaticStudent(config.model_copy(update={"model": f"static:{tiny_encoder_dir}"}), 3)
    static.fit(examples(5), seed=0)
    table = EncoderStudent(config, 3).encoder.get_input_embeddings().weight.detach()
    tokens = static.tokenizer("match goal team", add_special_tokens=False)["input_ids"]
    expected = 10 * torch.nn.functional.normalize(table[tokens].mean(0), dim=0)
    hidden = static.features([Example(("match goal team",), 0), Example(("",), 0)]).hidden
    assert torch.allclose(hidden[0], expected, atol=1e-5)
    assert hidden[1].eq(0).all()
    with pytest.raises(ModelError, match="one checkpoint"):
        static.features(examples(1), checkpoint=2)


def test_the_tfidf_sketch_keeps_inner_products() -> None:
    student = TfidfStudent(StudentConfig(model="tfidf"), 3)
    rows = examples(20)
    student.fit(rows, seed=0)
    exact = student._vectors.transform([row.text for row in rows])
    exact = torch.from_numpy(exact.toarray())
    sketch = student.features(rows).hidden.double()
    assert sketch.shape == (60, SKETCH_DIMS)
    error = (sketch @ sketch.T - exact @ exact.T) / torch.outer(exact.norm(dim=1), exact.norm(dim=1))
    assert error.square().mean().sqrt() < 2 / SKETCH_DIMS**0.5
    assert abs(error.mean()) < 0.3 / SKETCH_DIMS**0.5


def test_the_tfidf_student_copes_with_a_missing_class_and_with_nothing_to_read() -> None:
    student = TfidfStudent(StudentConfig(model="tfidf"), 3)
    rows = examples(5)
    two = [row for row in rows if row.label != 1]
    student.fit(two, seed=0)
    assert student.predict(rows)[:, 1].eq(0).all()
    student.fit([row for row in rows if row.label == 2], seed=0)
    assert student.predict(rows).argmax(1).eq(2).all()
    assert student.features([]).hidden.shape == (0, SKETCH_DIMS)
    with pytest.raises(DataError, match="empty"):
        student.fit([Example((" ",), 0), Example(("",), 1)], seed=0)


def test_a_models_own_pooled_output_can_be_the_heads_input(config: StudentConfig, tiny_causal_dir: Path) -> None:
    # The published recipe, at rates for a tiny untrained model
    update = {"pooling": "pooler", "head_init": "random", "schedule": "cosine", "warmup": 0.5, "steps": 200}
    recipe = config.model_copy(update=update | {"head_learning_rate": 1e-2})
    student = EncoderStudent(recipe, 3)
    rows = examples(20)
    student.fit(rows, seed=0, checkpoints=2)
    hidden = student.features(rows, checkpoint=0).hidden
    assert hidden.abs().max() <= 1  # a tanh
    assert torch.allclose(student.embed(rows), torch.nn.functional.normalize(hidden, dim=1), atol=1e-5)
    test = examples(20, seed=9)
    right = [int(p) == e.label for p, e in zip(student.predict(test).argmax(1), test, strict=True)]
    assert sum(right) / len(right) > 0.9
    with pytest.raises(ModelError, match="has no pooler"):
        EncoderStudent(recipe.model_copy(update={"model": str(tiny_causal_dir)}), 3)


def test_schedules_rise_over_the_warm_up_and_fall_to_nothing(config: StudentConfig) -> None:
    from gendistill.students.encoder import rate_schedule

    for name, middle in (("linear", 0.5), ("cosine", 0.5)):
        rate = rate_schedule(config.model_copy(update={"schedule": name, "warmup": 0.5}), 200)
        assert rate(0) == pytest.approx(0.01) and rate(99) == pytest.approx(1.0)
        assert rate(150) == pytest.approx(middle) and rate(199) < 0.02
    assert rate_schedule(config.model_copy(update={"schedule": "cosine", "warmup": 0.5}), 200)(125) > 0.8
