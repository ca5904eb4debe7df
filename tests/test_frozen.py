"""Students whose lower blocks stay as pretrained: the same training as by hand, nothing computed twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_students import examples
from torch import nn

from gendistill import Config, choosing
from gendistill.config import StudentConfig
from gendistill.errors import ConfigError
from gendistill.students import frozen
from gendistill.students.encoder import EncoderStudent
from gendistill.students.frozen import NoBlocksError, stack_of
from gendistill.students.linear import TfidfStudent


@pytest.fixture(params=["encoder", "causal"])
def body(request: pytest.FixtureRequest, tiny_encoder_dir: Path, tiny_causal_dir: Path) -> Path:
    return tiny_encoder_dir if request.param == "encoder" else tiny_causal_dir


def recipe(model: Path, frozen_share: float = 0.5) -> StudentConfig:
    return StudentConfig(
        model=str(model), steps=8, batch_size=8, max_tokens=32, learning_rate=1e-3, frozen_share=frozen_share
    )


def below(student: EncoderStudent) -> list[nn.Parameter]:
    """Everything under the first trained block: the embeddings and the first of two blocks."""
    embeddings = getattr(student.encoder, "embeddings", None) or student.encoder.get_input_embeddings()
    return [*embeddings.parameters(), *stack_of(student.encoder)[0].parameters()]


def test_training_is_that_of_frozen_weights(body: Path) -> None:
    cheap, plain = EncoderStudent(recipe(body), 3), EncoderStudent(recipe(body, 0.0), 3)
    for weight in below(plain):
        weight.requires_grad_(False)
    rows, test = examples(8), examples(6, seed=9)
    for student in (cheap, plain):
        student.fit(rows, seed=0)
    assert torch.allclose(cheap.predict(test), plain.predict(test), atol=1e-4)
    cheap_state, plain_state = cheap.states[-1], plain.states[-1]
    for name, value in plain_state.items():
        assert torch.allclose(cheap_state[name], value, atol=1e-4), name
    start = EncoderStudent(recipe(body), 3).encoder.state_dict()
    moved = [name for name, value in start.items() if not torch.equal(value, cheap_state[f"encoder.{name}"])]
    assert moved and not any(".0." in name or "embed" in name for name in moved)


def test_what_was_seen_before_changes_nothing(body: Path) -> None:
    student = EncoderStudent(recipe(body), 3)
    rows, test = examples(8), examples(6, seed=9)
    student.fit(rows, seed=0)
    first = student.predict(test)
    student.predict(examples(10, seed=4))
    student.fit(rows[:5], seed=3)
    student.fit(rows, seed=0)
    assert torch.equal(student.predict(test), first)


def test_frozen_blocks_see_every_text_once(body: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student = EncoderStudent(recipe(body), 3)
    rows = examples(8)
    student.fit(rows, seed=0)
    assert student.lower is not None
    seen = set(student.lower._kept)
    assert len(seen) == len(rows)
    monkeypatch.setattr(student.lower, "_compute", lambda texts, pad: pytest.fail(f"computed again: {texts}"))
    student.fit(rows, seed=1)
    student.predict(rows)
    monkeypatch.undo()
    student.predict(examples(4, seed=9))
    assert len(set(student.lower._kept) - seen) == 12
    assert all("forward" not in vars(block) for block in stack_of(student.encoder))


def test_what_does_not_fit_is_computed_again(body: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, test = examples(8), examples(6, seed=9)
    student = EncoderStudent(recipe(body), 3)
    student.fit(rows, seed=0)
    monkeypatch.setattr(frozen, "KEPT_BYTES", 3 * 32 * 4 * 20)
    forgetful = EncoderStudent(recipe(body), 3)
    forgetful.fit(rows, seed=0)
    assert torch.allclose(forgetful.predict(test), student.predict(test), atol=1e-4)
    assert forgetful.lower is not None and 0 < forgetful.lower._bytes <= frozen.KEPT_BYTES


def test_a_body_of_no_blocks_is_refused_and_gradients_are_of_all_blocks() -> None:
    with pytest.raises(NoBlocksError, match="frozen_share to 0"):
        stack_of(nn.Sequential(nn.Linear(2, 2), nn.ModuleList([nn.Linear(2, 2)])))
    with pytest.raises(ConfigError, match="set one of the two to 0"):
        Config(student={"frozen_share": 0.5, "gradient_dims": 64})


def test_roll_outs_train_every_student_that_is_served(tiny_encoder_dir: Path) -> None:
    rows, dev = examples(6), examples(5, seed=9)
    losses = {}
    for students, combine in (([], "mean"), (["tfidf"], "mean"), (["tfidf"], "worst")):
        config = Config(
            student=recipe(tiny_encoder_dir, 0.0).model_dump(), objective={"students": students, "combine": combine}
        )
        held = choosing.held_out(config, dev, [torch.zeros(len(dev), 2)], rows, 3)
        losses[len(students), combine] = held.rollout(range(len(rows)), 0)
    linear = TfidfStudent(StudentConfig(model="tfidf"), 3)
    linear.fit(rows, seed=0)
    wanted = -linear.predict(dev).double().log()[range(len(dev)), [row.label for row in dev]]
    assert torch.allclose(losses[1, "mean"], (losses[0, "mean"] + wanted) / 2, atol=1e-6)
    worse = max(losses[0, "mean"], wanted, key=lambda one: float(one.mean()))
    assert torch.allclose(losses[1, "worst"], worse, atol=1e-6)
