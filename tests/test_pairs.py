"""Pairs: prompts and replies of base and chat models, what a pair must pass, how a student reads them, a whole run."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from tiny import tiny_rows, write_jsonl

from gendistill.config import Config, StudentConfig
from gendistill.examples import Example
from gendistill.prompts import load_template, render, render_messages
from gendistill.students.encoder import EncoderStudent
from gendistill.students.linear import StaticStudent
from gendistill.tasks import PairClassification

TASK = PairClassification(("premise", "hypothesis"), ("entailment", "neutral"), {"neutral": "may be"}, "Pairs")


def test_prompts() -> None:
    values = TASK.prompt_values(1, [Example(("A\nfirst", "second"), 1)], [Example(("best", "of all"), 1)])
    prompt = render(load_template("pair_classification.base"), **values)
    assert prompt.endswith("Premise: A first\nHypothesis: second\n\nPremise: best\nHypothesis: of all\n\nPremise:")
    assert "Category: neutral (may be)" in prompt
    messages = dict(render_messages(load_template("pair_classification.chat"), **values))
    assert "Premise: A first\nHypothesis: second" in messages["user"] and '"Hypothesis:"' in messages["system"]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (" A dog runs.\nHypothesis: It moves.", [("A dog runs.", "It moves.")]),
        (" A dog runs.\nHypothesis: It moves.\nPremise: next", [("A dog runs.", "It moves.")]),
        (" A dog runs.\n", [("A dog runs.", "")]),
        (" A dog runs.\nhypothesis:  'It moves.'\nCategory: x", [("A dog runs.", "It moves.")]),
        ("", [("", "")]),
    ],
)
def test_replies_of_base_models(reply: str, expected: list[tuple[str, str]]) -> None:
    assert TASK.candidates(reply, "stop", chat=False) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Premise: A.\nHypothesis: B.", [("A.", "B.")]),
        ("Sure! Here is one:\n\n**Premise:** A dog.\n**Hypothesis:** A cat.\n\nHope it helps!", [("A dog.", "A cat.")]),
        ("1. Premise: A.\n   Hypothesis: B.\n2. Premise: C.\n   Hypothesis: D.", [("A.", "B."), ("C.", "D.")]),
        ('{"premise": "A \\"x\\".", "hypothesis": "B."}', [('A "x".', "B.")]),
        ('```json\n{"text_a": "A.", "text_b": "B."}\n```', [("A.", "B.")]),
        ("<think>Premise: no\nHypothesis: no</think>Premise: A.\nHypothesis: B.", [("A.", "B.")]),
        ("Text A: one\nText B: two", [("one", "two")]),
        ("I cannot do that.", []),
    ],
)
def test_replies_of_chat_models(reply: str, expected: list[tuple[str, str]]) -> None:
    assert TASK.candidates(reply, "stop", chat=True) == expected


def test_a_reply_cut_off_has_no_second_text() -> None:
    assert TASK.candidates(" A dog.\nHypothesis: It mo", "length", chat=False) == [("A dog.", "")]
    assert TASK.candidates("Premise: A.\nHypothesis: B.\nPremise: C.\nHypothesis: D", "length", chat=True) == [
        ("A.", "B."), ("C.", ""),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "reply", ["Premise:" * 100_000, '"premise": "' * 80_000, "\n" * 1_000_000, "Premise: a\nHypothesis: b\n" * 30_000]
)
def test_hostile_replies_take_no_time(reply: str) -> None:
    begin = time.monotonic()
    for chat in (True, False):
        TASK.candidates(reply, "stop", chat)
    assert time.monotonic() - begin < 20


def test_an_answer_is_read_back_as_it_was() -> None:
    example = Example(("A dog\nruns.", "It moves."), 0)
    assert TASK.candidates(" " + TASK.answer(example, False), "stop", chat=False) == [("A dog runs.", "It moves.")]


def test_what_a_pair_must_pass() -> None:
    real = [Example((f"The dog number {k} ran home.", f"It was {k}."), 0) for k in range(50)]
    check = TASK.checks(real)
    assert check is not None

    def verdict(*fields: str) -> str | None:
        found = check(Example(fields, 0))
        return found and found.filter

    assert verdict("A dog ran.", "It moved.") is None and verdict("No.", "No way.") is None
    assert verdict("A dog ran.", "") == "one_side" and verdict("A dog ran.") == "one_side"
    assert verdict("A dog ran.", "a dog ran") == "same_twice"
    assert verdict("Yesterday a dog ran home alone.", "A dog ran home.") == "one_in_other"
    # Where real pairs are like that, candidates may be
    alike = [Example((f"Number {k} ran home today.", f"Number {k} ran home today."), 0) for k in range(50)]
    lenient = TASK.checks(alike)
    assert lenient is not None and lenient(Example(("One went home then.", "One went home then."), 0)) is None


# -- students ---------------------------------------------------------------------------------------------------------


def pair_rows(count: int = 24) -> list[Example]:
    texts = [row["text"] for row in tiny_rows(count, 3)]
    return [Example((texts[k], texts[(k * 7 + k % 2) % len(texts)]), k % 2) for k in range(count)]


def student(folder: Path, **changes: object) -> EncoderStudent:
    values = {"model": str(folder), "steps": 3, "max_tokens": 24, "checkpoints": 2, **changes}
    return EncoderStudent(StudentConfig(**values), 2)


def test_pairs_are_read_apart_and_their_vectors_combined(tiny_encoder_dir: Path) -> None:
    rows, one = pair_rows(), student(tiny_encoder_dir)
    vectors = one.embed(rows)
    first = one.embed([Example((row.fields[0],), 0) for row in rows])
    second = one.embed([Example((row.fields[1],), 0) for row in rows])
    apart = torch.nn.functional.normalize((first - second).abs(), dim=1)
    alike = torch.nn.functional.normalize(first * second, dim=1)
    expected = torch.nn.functional.normalize(torch.cat([first, second, apart, alike], 1), dim=1)
    assert torch.allclose(vectors, expected, atol=1e-5)
    assert torch.equal(one.embed(rows[::-1]).flip(0), vectors)
    joint = student(tiny_encoder_dir, pairs="joint")
    assert joint.embed(rows).shape[1] * 4 == vectors.shape[1]


def test_a_student_of_pairs_is_trained_saved_and_gives_gradients(tiny_encoder_dir: Path, tmp_path: Path) -> None:
    rows, one = pair_rows(), student(tiny_encoder_dir, gradient_dims=64)
    one.fit(rows, seed=0, checkpoints=2)
    features = one.features(rows)
    assert features.gradient is not None and features.gradient.shape == (len(rows), 64)
    assert features.gradient.abs().sum(1).min() > 0
    some = one.features([rows[5], rows[2]])
    assert torch.allclose(some.gradient, features.gradient[[5, 2]], atol=1e-4)  # whatever a row is batched with
    one.save(tmp_path)
    again = student(tiny_encoder_dir, gradient_dims=64)
    again.load(tmp_path)
    assert torch.allclose(again.predict(rows), one.predict(rows), atol=1e-6)


def test_frozen_blocks_and_static_embeddings_take_pairs(tiny_encoder_dir: Path) -> None:
    rows, one = pair_rows(), student(tiny_encoder_dir, frozen_share=0.5)
    one.fit(rows, seed=0)
    assert one.predict(rows).shape == (len(rows), 2)
    static = StaticStudent(StudentConfig(model=f"static:{tiny_encoder_dir}"), 2)
    static.fit(rows, seed=0)
    assert static.features(rows).hidden.shape[1] == 4 * 32


def test_long_texts_are_read_in_chunks(tiny_encoder_dir: Path) -> None:
    rows = tiny_rows(12, 3)
    long = [Example((" ".join(row["text"] for row in rows[k : k + 4]),), 0) for k in range(8)]
    short = [Example((row["text"],), 0) for row in rows]
    whole, chunked = student(tiny_encoder_dir, max_tokens=16), student(tiny_encoder_dir, max_tokens=16, chunks=8)
    assert whole.unread(long) == len(long) and chunked.unread(long) == 0
    assert not torch.allclose(whole.embed(long), chunked.embed(long), atol=1e-3)
    few = [Example(("The new match.",), 0)]
    assert torch.allclose(whole.embed(few), chunked.embed(few), atol=1e-6)
    mixed = chunked.embed([*long, *short])
    assert torch.allclose(mixed[: len(long)], chunked.embed(long), atol=1e-5)
    chunked.fit([*long, *short], seed=0)
    assert chunked.predict(long).shape == (len(long), 2)


def test_a_whole_run_over_pairs(tiny_encoder_dir: Path, tiny_causal_dir: Path, tmp_path: Path) -> None:
    from gendistill.scoring import select_candidates

    rows = [
        {"premise": a, "hypothesis": b, "label": ("yes", "no")[label]}
        for (a, b), label in ((row.fields, row.label) for row in pair_rows(60))
    ]
    config = Config(
        out=tmp_path / "run",
        per_class=2,
        data={"dataset": str(write_jsonl(tmp_path / "d.jsonl", rows))},
        student={"model": str(tiny_encoder_dir), "steps": 4, "max_tokens": 24, "checkpoints": 2},
        evaluate={"seeds": 1},
    )
    chosen = select_candidates("real", config)
    assert len(chosen.rows) == 4 and {"text_a", "text_b", "label", "label_name"} <= chosen.rows[0].keys()
    from gendistill.compare import compare_file

    file = write_jsonl(tmp_path / "chosen.jsonl", chosen.rows)
    table, _ = compare_file(file, config, full=False)
    assert [row.size for row in table] == [4, 4, 4]
