"""Scores against figures worked out by hand; runs that are journalled are not done again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from gendistill.config import StudentConfig
from gendistill.evaluate import evaluate, random_rows, score, stratified_sample
from gendistill.examples import Example
from gendistill.students.base import Features

TEST = [Example((f"text {i}",), label) for i, label in enumerate([0, 0, 0, 1, 1, 2])]


def test_accuracy_and_macro_f1_by_hand() -> None:
    # F1 = 2 hits / (predicted + actual), for the three classes 2*2/(2+3), 2*1/(2+2), 2*1/(2+1)
    result = score(np.array([0, 0, 1, 1, 2, 2]), TEST, 3)
    assert result["accuracy"] == pytest.approx(4 / 6)
    assert result["macro_f1"] == pytest.approx((4 / 5 + 2 / 4 + 2 / 3) / 3)


class MajorityStudent:
    """Learns the commonest label; counts how often it was trained."""

    num_classes, checkpoints, fits = 3, 1, 0

    def fit(self, examples: Sequence[Example], *, seed: int, targets: Tensor | None = None) -> None:
        self.fits += 1
        counts = np.bincount([example.label for example in examples]) if targets is None else targets.sum(0)
        self.answer = int(counts.argmax())

    def predict(self, examples: Sequence[Example]) -> Tensor:
        return torch.nn.functional.one_hot(torch.full((len(examples),), self.answer), 3).float()

    def features(self, examples: Sequence[Example], *, checkpoint: int = -1) -> Features:
        raise AssertionError("not needed to evaluate")


class Journal(dict):
    def evaluation(self, method: str, seed: int, key: str) -> dict | None:
        return self.get((method, seed, key))

    def add_evaluation(self, method: str, seed: int, key: str, result: dict) -> None:
        self[method, seed, key] = result


def test_every_run_is_measured_once_and_another_recipe_anew() -> None:
    student, journal = MajorityStudent(), Journal()
    methods = {"zeros": lambda run: TEST[:3], "ones": lambda run: TEST[3:5]}
    rows = evaluate(methods, TEST, student, StudentConfig(), seeds=2, journal=journal)
    assert [(row.method, row.size, row.accuracy) for row in rows] == [
        ("zeros", 3, [0.5, 0.5]),
        ("ones", 2, [1 / 3, 1 / 3]),
    ]
    assert rows[0].mean == 0.5 and rows[0].spread == 0
    assert student.fits == 4
    assert evaluate(methods, TEST, student, StudentConfig(), seeds=2, journal=journal) == rows
    assert student.fits == 4
    evaluate(methods, TEST, student, StudentConfig(steps=17), seeds=2, journal=journal)
    assert student.fits == 8


def test_soft_labels_are_trained_on_and_measured_apart_from_the_hard_ones() -> None:
    student, journal = MajorityStudent(), Journal()
    methods = {"soft": lambda run: TEST[:2], "hard": lambda run: TEST[:2]}  # both of class 0
    twos = {"soft": torch.tensor([[0.4, 0.0, 0.6], [0.4, 0.0, 0.6]])}
    rows = evaluate(methods, TEST, student, StudentConfig(), seeds=1, targets=twos, journal=journal)
    assert [row.mean for row in rows] == [1 / 6, 3 / 6]
    assert evaluate(methods, TEST, student, StudentConfig(), seeds=1, targets=twos, journal=journal) == rows
    assert student.fits == 2
    ones = {"soft": torch.tensor([[0.4, 0.6, 0.0], [0.4, 0.6, 0.0]])}
    rows = evaluate(methods, TEST, student, StudentConfig(), seeds=1, targets=ones, journal=journal)
    assert [row.mean for row in rows] == [2 / 6, 3 / 6] and student.fits == 3
    plain = evaluate({"soft": methods["soft"]}, TEST, student, StudentConfig(), seeds=1, journal=journal)
    assert plain[0].mean == 3 / 6


def test_a_trained_student_at_hand_is_used_before_any_other_is_trained() -> None:
    student = MajorityStudent()
    student.fit(TEST[3:5], seed=0)
    methods = {"zeros": lambda run: TEST[:3], "ones": lambda run: TEST[3:5]}
    rows = evaluate(methods, TEST, student, StudentConfig(), seeds=1, trained={("ones", 0): lambda: student})
    assert [row.mean for row in rows] == [0.5, 1 / 3]
    assert student.fits == 2


def test_one_run_has_no_spread() -> None:
    (row,) = evaluate({"zeros": lambda run: TEST[:3]}, TEST, MajorityStudent(), StudentConfig(), seeds=1)
    assert row.spread is None


def test_samples_are_stratified_seeded_and_in_order() -> None:
    examples = [Example((str(i),), int(i % 10 == 0)) for i in range(200)]
    sample = stratified_sample(examples, 2, 50, seed=3)
    assert [sum(e.label == label for e in sample) for label in (0, 1)] == [45, 5]
    assert sample == stratified_sample(examples, 2, 50, seed=3) != stratified_sample(examples, 2, 50, seed=4)
    assert [int(e.fields[0]) for e in sample] == sorted(int(e.fields[0]) for e in sample)
    drawn = random_rows(examples, 2, [3, 2], seed=0)
    assert [e.label for e in drawn] == [0, 0, 0, 1, 1] and len(set(drawn)) == 5


def test_a_method_whose_training_takes_long_gets_one_student() -> None:
    methods = {"zeros": lambda run: TEST[:3], "long": lambda run: TEST[3:6]}
    rows = evaluate(methods, TEST, MajorityStudent(), StudentConfig(), seeds=3, once=("long",))
    assert [len(row.accuracy) for row in rows] == [3, 1]
    assert evaluate(methods, TEST, MajorityStudent(), StudentConfig(), seeds=0, once=("long",)) == []
