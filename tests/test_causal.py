"""The student of instruction data, on a tiny real Llama: what it learns, what it counts, and its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_rows
from torch import Tensor, nn

from gendistill.answers import final_number, number_accuracy
from gendistill.config import StudentConfig
from gendistill.errors import ConfigError, DataError, ModelError
from gendistill.examples import Example
from gendistill.students.causal import CausalStudent
from gendistill.students.conversations import Cut
from gendistill.students.gradients import BodyGradients, LayerMap
from gendistill.students.memory import memory_estimate

pytest.importorskip("peft")
RANK = 4


def examples(count: int = 9, seed: int = 0) -> list[Example]:
    texts = [row["text"] for row in tiny_rows(count, 2, seed)]
    system = ("", "Be brief.")
    return [Example((system[k % 2], texts[2 * k], texts[2 * k + 1]), k % 3) for k in range(count)]


def config(folder: Path, **values: Any) -> StudentConfig:
    lora = {"rank": RANK, "alpha": 8.0, "learning_rate": 1e-2, **values.pop("lora", {})}
    return StudentConfig(
        **{"model": str(folder), "max_tokens": 128, "steps": 8, "batch_size": 4, "lora": lora, **values}
    )


@pytest.fixture
def student(tiny_causal_dir: Path) -> CausalStudent:
    return CausalStudent(config(tiny_causal_dir, gradient_dims=64))


def per_token(student: CausalStudent, rows: Sequence[Example], **where: Any) -> float:
    total = student.losses(rows, **where).sum(0)
    return float(total[0] / total[1])


# -- tokens -----------------------------------------------------------------------------------------------------------


def test_loss_is_that_of_the_answer_and_its_end_alone(student: CausalStudent) -> None:
    losses = student.losses(examples())
    tokenizer, model = student.tokenizer, student._model
    for row, (nll, count) in zip(examples(), losses, strict=True):
        system, user, answer = row.fields
        prompt = (f"{system}\n\n" if system else "") + f"### Instruction:\n{user}\n\n### Response:\n"
        start = len(tokenizer(prompt).input_ids)
        ids = torch.tensor([[*tokenizer(prompt + answer).input_ids, tokenizer.eos_token_id]])
        with torch.no_grad():
            by_token = model(input_ids=ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
        assert count == ids.shape[1] - start
        assert float(nll) == pytest.approx(-float(by_token[start - 1 :].sum()), rel=1e-5)


def test_a_chat_template_is_used_and_an_end_added_where_it_has_none(tiny_chat_dir: Path) -> None:
    student = CausalStudent(config(tiny_chat_dir))
    (row,) = student.encode([Example(("Be brief.", "Where is <eos>?", "Here.", "Why?", "So it is."), 0)])
    assert student.tokenizer.decode(row.prompt) == (
        "<|system|>\nBe brief.\n<|user|>\nWhere is < eos>?\n<|assistant|>\nHere.\n<|user|>\nWhy?\n<|assistant|>\n"
    )
    assert student.tokenizer.decode(row.answer) == "So it is.\n<eos>"
    assert student.tokenizer.eos_token_id not in row.prompt


def test_special_tokens_in_rows_are_text(student: CausalStudent) -> None:
    (row,) = student.encode([Example(("", "a <eos> b", "c <eos> d"), 0)])
    assert row.ids.count(student.tokenizer.eos_token_id) == 1 and row.ids[-1] == student.tokenizer.eos_token_id


def test_rows_that_are_too_long_are_cut_and_counted(tiny_causal_dir: Path) -> None:
    student = CausalStudent(config(tiny_causal_dir, max_tokens=100))
    words = " ".join(["match"] * 120)
    rows = [Example(("", words, "So."), 0), Example(("", "Why?", words), 0), Example(("", "Why?", "So."), 0)]
    long_prompt, long_answer, short = student.encode([*rows, Example(("", words, words), 0)])[:3]
    assert student.cut == Cut(rows=4, prompts=2, answers=2)
    assert len(long_prompt.ids) == len(long_answer.ids) == 100 > len(short.ids)
    assert student.tokenizer.decode(long_prompt.prompt).endswith("match\n\n### Response:\n")
    assert long_prompt.answer[-1] == student.tokenizer.eos_token_id, "a prompt that is too long leaves its answer whole"
    assert long_answer.answer_cut and student.tokenizer.eos_token_id not in long_answer.answer
    assert len(long_answer.answer) >= 50
    student.losses(rows[2:])
    assert student.cut == Cut(1, 0, 0)


@pytest.mark.parametrize("fields", [("a",), ("", "a"), ("", "a", "b", "c")])
def test_fields_that_are_no_conversation(student: CausalStudent, fields: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="instruction example"):
        student.losses([Example(fields, 0)])


# -- training ---------------------------------------------------------------------------------------------------------


def test_fit_learns_and_begins_anew_each_time(student: CausalStudent) -> None:
    rows = examples()
    before = per_token(student, rows)
    student.fit(rows, seed=1, checkpoints=3)
    assert student.checkpoints == 3
    along = [per_token(student, rows, checkpoint=k) for k in range(3)]
    assert along[0] == pytest.approx(before) and along[2] < along[1] < before - 0.2
    assert per_token(student, rows, checkpoint=None) == pytest.approx(before)
    first, other = student.states[-1], {name for name in student.states[0] if name.startswith("adam.")}
    assert not other and sum(name.startswith("adam.") for name in first) == len(first) / 2
    student.fit(rows[:3], seed=2)
    student.fit(rows, seed=1)
    again = student.states[-1]
    assert all(torch.equal(first[name], again[name]) for name in first), "a fit depends on its rows and seed alone"
    student.fit(rows, seed=3)
    assert any(not torch.equal(first[name], student.states[-1][name]) for name in first)


def test_batches_in_parts_train_alike(tiny_causal_dir: Path) -> None:
    fitted = []
    for tokens in (4096, 1):
        student = CausalStudent(config(tiny_causal_dir))
        student.batch_tokens = tokens
        student.fit(examples(), seed=0)
        fitted.append(per_token(student, examples()))
    assert fitted[0] == pytest.approx(fitted[1], rel=1e-4)


def test_saved_adapters_are_the_same(student: CausalStudent, tiny_causal_dir: Path, tmp_path: Path) -> None:
    student.fit(examples(), seed=0, checkpoints=2)
    student.save(tmp_path)
    other = CausalStudent(config(tiny_causal_dir, gradient_dims=64))
    other.load(tmp_path)
    assert other.checkpoints == 2 and torch.equal(other.losses(examples()), student.losses(examples()))
    assert torch.equal(other.features(examples()).gradient, student.features(examples()).gradient)
    with pytest.raises(ModelError, match="another model or rank"):
        CausalStudent(config(tiny_causal_dir, lora={"rank": 2})).load(tmp_path)


def test_loss_is_that_of_trl(student: CausalStudent, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    rows = examples(4)
    encoded = student.encode(rows)
    data = Dataset.from_list(
        [{"input_ids": row.ids, "completion_mask": [0] * len(row.prompt) + [1] * len(row.answer)} for row in encoded]
    )
    arguments = trl.SFTConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        completion_only_loss=True,
        report_to=[],
        use_cpu=True,
        bf16=False,
    )
    trainer = trl.SFTTrainer(student._model, args=arguments, train_dataset=data, processing_class=student.tokenizer)
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model, batch)
    assert per_token(student, rows) == pytest.approx(float(loss), rel=1e-4)


# -- features ---------------------------------------------------------------------------------------------------------


def test_features_depend_on_the_row_alone(student: CausalStudent) -> None:
    rows = examples()
    student.fit(rows, seed=0)
    features = student.features(rows)
    assert features.hidden.shape == (9, 32) and features.probabilities.tolist() == [[1.0]] * 9
    assert features.gradient is not None and features.gradient.shape == (9, 64)
    order = [3, 8, 0, 5]
    some = student.features([rows[k] for k in order])
    student.batch_tokens = 1  # each by itself
    alone, nothing = student.features(rows), student.features([])
    for other, wanted in ((some, features.rows(order)), (alone, features)):
        assert torch.allclose(other.hidden, wanted.hidden, atol=1e-5)
        assert torch.allclose(other.gradient, wanted.gradient, rtol=1e-3, atol=1e-4)
    assert nothing.gradient.shape == (0, 64) and nothing.hidden.shape == (0, 32)
    embedded = student.embed(rows)
    assert torch.allclose(embedded.norm(dim=1), torch.ones(9)) and embedded.dtype == torch.float32


def by_autograd(student: CausalStudent, row: Example) -> dict[str, Tensor]:
    """The adapter's gradient of the summed loss of one row, from the model's own logits."""
    (encoded,) = student.encode([row])
    ids = torch.tensor([encoded.ids])
    logits = student._model(input_ids=ids).logits[0, len(encoded.prompt) - 1 : -1]
    loss = nn.functional.cross_entropy(logits, torch.tensor(encoded.answer), reduction="sum")
    return dict(zip(student._weights, torch.autograd.grad(loss, list(student._weights.values())), strict=True))


def test_gradients_are_autograds(student: CausalStudent) -> None:
    """With the identity for signs, of one layer at a time, nothing is lost: the projection is the gradient."""
    rows = examples(5)
    student.fit(rows, seed=0)
    wanted = [by_autograd(student, row) for row in rows]
    by_b, by_a = (dict(each.maps) for each in student._projections())
    scale = student.config.lora.alpha / RANK
    for name in ("layers.0.self_attn.q_proj", "layers.1.mlp.down_proj", "layers.1.mlp.up_proj"):
        layer = student.body.get_submodule(name)
        a, b = (student._weights[f"{name}.lora_{side}.default.weight"].detach() for side in "AB")
        for side, found, own in (
            ("B", by_b, LayerMap(torch.eye(layer.out_features), a.T * scale)),
            ("A", by_a, LayerMap(b * scale, torch.eye(layer.in_features))),
        ):
            assert f"{name}.base_layer" in found
            dims = own.outputs.shape[1] * own.inputs.shape[1]
            one = BodyGradients(student.body, {f"{name}.base_layer": own}, dims)
            batch = student.encode(rows)
            with one.capture(student._pad(batch)[1]) as captured:
                student._pass(batch, 1.0)
            for gradient, true in zip(captured, wanted, strict=True):
                exact = true[f"{name}.lora_{side}.default.weight"].flatten()
                assert torch.allclose(gradient, exact, rtol=1e-3, atol=1e-4 * float(exact.abs().max()))
    assert all(weight.requires_grad for weight in student._weights.values())


def test_a_step_is_by_the_mean_over_the_batchs_tokens(tiny_causal_dir: Path) -> None:
    rows = examples(4)
    small = {"alpha": 0.1}  # gradients too small to be clipped
    student = CausalStudent(config(tiny_causal_dir, steps=1, epochs=0, checkpoints=2, lora=small))
    student.fit(rows, seed=0, checkpoints=2)
    moments = {name.removeprefix("adam."): v for name, v in student.states[1].items() if name.startswith("adam.")}
    student._load(student.states[0])
    each = [by_autograd(student, row) for row in rows]
    tokens = sum(len(row.answer) for row in student.encode(rows))
    mean = {name: torch.stack([gradient[name] for gradient in each]).sum(0) / tokens for name in moments}
    norm = float(torch.cat([gradient.flatten() for gradient in mean.values()]).norm())
    assert norm < 1
    for name, gradient in mean.items():
        assert torch.allclose(moments[name].sqrt(), gradient.abs(), rtol=1e-3, atol=1e-7)


def test_inner_products_are_kept_in_expectation(tiny_causal_dir: Path) -> None:
    rows = examples(6)
    grams = []
    for seed in range(6):
        student = CausalStudent(config(tiny_causal_dir, gradient_dims=1024, gradient_seed=seed))
        student.fit(rows, seed=0)
        gradient = student.features(rows).gradient
        assert gradient is not None
        grams.append(gradient.double() @ gradient.double().T)
    flat = torch.stack([torch.cat([g.flatten() for g in by_autograd(student, row).values()]) for row in rows]).double()
    wanted = flat @ flat.T
    size = flat.norm(dim=1)[:, None] * flat.norm(dim=1)
    error = (torch.stack(grams) - wanted) / size
    assert float(error.square().mean().sqrt()) < 3 / 1024**0.5
    assert float(error.mean(0).abs().max()) < 4 / (6 * 1024) ** 0.5


def test_before_a_fit_the_adapter_is_at_its_start(student: CausalStudent) -> None:
    assert len(student._projections()) == 1, "with B zero the gradient by A is nothing"
    untrained = student.features(examples())
    student.fit(examples(), seed=student.config.gradient_seed, checkpoints=2)
    assert torch.allclose(student.features(examples(), checkpoint=0).gradient, untrained.gradient)
    assert not torch.allclose(student.features(examples()).gradient, untrained.gradient)


def test_refusals(tiny_causal_dir: Path, student: CausalStudent) -> None:
    with pytest.raises(ConfigError, match=r"multiple of lora\.rank"):
        CausalStudent(config(tiny_causal_dir, gradient_dims=30))
    with pytest.raises(DataError, match="soft labels"):
        student.fit(examples(), seed=0, targets=torch.ones(9, 1))
    with pytest.raises(DataError, match="got none"):
        student.fit([], seed=0)


# -- answers ----------------------------------------------------------------------------------------------------------


def test_answers_are_generated_greedily(student: CausalStudent) -> None:
    rows = examples(4)
    prompts = [row.fields[:-1] for row in rows]
    together = student.generate(prompts, 8)
    assert len(together) == 4 and all(isinstance(text, str) for text in together)
    assert together == [student.generate([prompt], 8)[0] for prompt in prompts]
    with pytest.raises(DataError, match="a prompt has the fields"):
        student.generate([rows[0].fields], 8)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("48/2 = <<48/2=24>>24\n#### 72", "72"),
        ("#### $1,234.50 in 3 days", "1234.5"),
        ("It is 3, or -0.50.", "-0.5"),
        ("12,000 people", "12000"),
        ("1,2 and 3", "3"),
        ("It costs $18.", "18"),
        ("#### 007", "7"),
        ("100", "100"),
        ("7-3 = 7-3", "3"),
        ("no idea", None),
    ],
)
def test_final_number(text: str, number: str | None) -> None:
    assert final_number(text) == number


def test_number_accuracy() -> None:
    assert number_accuracy(["so 72.0", "none", "5"], ["#### 72", "#### 5", "no number"]) == pytest.approx(1 / 3)
    with pytest.raises(DataError):
        number_accuracy([], [])


# -- memory -----------------------------------------------------------------------------------------------------------


def test_memory_is_said_beforehand(tiny_causal_dir: Path, student: CausalStudent) -> None:
    both = [memory_estimate(student.config, training=training, rows=100, checkpoints=2) for training in (True, False)]
    for found in both:
        frozen = [weight for weight in student._model.parameters() if not weight.requires_grad]
        assert found.weights == sum(weight.numel() * weight.element_size() for weight in frozen)
        assert found.total > found.weights + found.activations > found.weights > found.adapter > 0
    assert both[0].projections == both[0].rows == 0 < both[1].projections < both[1].rows
    assert both[0].adapter == 8 * sum(weight.numel() * 4 for weight in student._weights.values())
    wider = memory_estimate(config(tiny_causal_dir, gradient_dims=128), training=False, rows=200)
    assert wider.projections == 2 * both[1].projections and wider.rows > 2 * both[1].rows


def test_what_is_kept_for_a_backward_pass_is_what_autograd_keeps(student: CausalStudent) -> None:
    sizes: dict[int, int] = {}
    alive = []

    def keep(tensor: Tensor) -> Tensor:
        alive.append(tensor)
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    rows = student.encode([Example(("", "match " * 200, "goal " * 200), 0)] * 4)
    assert {len(row.ids) for row in rows} == {128}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        student._states_of(rows)
    weights = {weight.untyped_storage().data_ptr() for weight in student.model.parameters()}
    real = sum(size for place, size in sizes.items() if place not in weights)
    widest = 64
    found = memory_estimate(student.config, training=True).activations - 4 * 4 * 128 * widest * 4
    assert found == pytest.approx(real, rel=0.1)
