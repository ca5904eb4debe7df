"""The encoder student on a tiny real BERT."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import tiny_rows

from gendistill.config import StudentConfig
from gendistill.errors import ConfigError, DataError, ModelError
from gendistill.examples import Example
from gendistill.students.encoder import EncoderStudent
from gendistill.students.probe import fit_probe


def examples(n_per_class: int, seed: int = 0) -> list[Example]:
    rows = tiny_rows(n_per_class, 3, seed)
    names = sorted({row["label"] for row in rows})
    return [Example((row["text"],), names.index(row["label"])) for row in rows]


@pytest.fixture(scope="module")
def config(tiny_encoder_dir: Path) -> StudentConfig:
    return StudentConfig(model=str(tiny_encoder_dir), steps=12, batch_size=8, max_tokens=32, learning_rate=1e-3)


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
    with pytest.raises((ModelError, ConfigError)):
        EncoderStudent(config.model_copy(update={"model": str(tmp_path)}), 3)
