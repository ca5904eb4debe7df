"""End to end with the demo's real parts: MiniLM, Gemma 3 270M and BBC News, as the `demo` extra installs them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gendistill import Config, distill
from gendistill.config import DataConfig, StudentConfig
from gendistill.data import RealData, load_real
from gendistill.evaluate import random_rows, score, stratified_sample
from gendistill.generators.base import Request
from gendistill.generators.transformers import TransformersGenerator
from gendistill.models import resolve
from gendistill.students.encoder import EncoderStudent

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def bbc() -> RealData:
    return load_real(DataConfig(), per_class=10, seed=0)


@pytest.fixture(scope="module")
def minilm() -> EncoderStudent:
    return EncoderStudent(StudentConfig(steps=8, epochs=0), 5)


def test_bbc_news_loads_with_its_classes_and_no_text_in_two_splits(bbc: RealData) -> None:
    assert bbc.label_names == ["business", "entertainment", "politics", "sports", "tech"]
    splits = [{example.text for example in part} for part in (bbc.train, bbc.dev, bbc.test)]
    assert all(not a & b for a, b in itertools.combinations(splits, 2))
    assert bbc.report.exact_duplicates == 120


def test_embeddings_are_those_of_sentence_transformers(bbc: RealData, minilm: EncoderStudent) -> None:
    from sentence_transformers import SentenceTransformer

    rows = bbc.train[:8]
    theirs = SentenceTransformer(resolve("builtin:minilm"), device="cpu").encode(
        [row.text for row in rows], convert_to_tensor=True, normalize_embeddings=True
    )
    assert torch.allclose(minilm.embed(rows), theirs.cpu(), atol=1e-4)


def test_a_student_learns_the_news_from_ten_rows_a_class(bbc: RealData, minilm: EncoderStudent) -> None:
    minilm.fit(random_rows(bbc.train, 5, [10] * 5, seed=0), seed=0)
    test = stratified_sample(bbc.dev, 5, 100, seed=0)
    assert score(minilm.predict(test).argmax(1).numpy(), test, 5)["accuracy"] > 0.75


def test_gemma_continues_a_list_and_every_sample_has_its_own_seed() -> None:
    generator = TransformersGenerator("builtin:gemma-3-270m")
    assert not generator.chat
    prompt = "Capital cities of Europe:\n\n- Paris\n- Berlin\n- Rome\n-"
    requests = [Request(str(seed), prompt, None, seed, 12, 0.9, 50, 0.95, ("\n",)) for seed in range(6)]
    replies = {reply.request_id: reply for reply in generator.generate(requests)}
    assert sorted(replies) == sorted(request.id for request in requests)
    texts = {reply.text.strip() for reply in replies.values()}
    assert len(texts) >= 2 and all(text and "\n" not in text for text in texts)
    known = {"Madrid", "London", "Vienna", "Athens", "Lisbon", "Amsterdam", "Brussels", "Prague", "Moscow", "Warsaw"}
    known |= {"Budapest", "Stockholm", "Oslo", "Dublin", "Helsinki", "Copenhagen", "Istanbul", "Milan", "Barcelona"}
    assert texts & known


def test_the_main_job_in_small(tmp_path: Path) -> None:
    config = Config(
        out=tmp_path / "run",
        per_class=2,
        rounds=1,
        data={"max_reference_rows": 150},
        student={"steps": 8, "epochs": 0},
        generator={"candidates_per_class": 6, "samples_per_prompt": 3},
        objective={"target_rows_per_class": 20},
        evaluate={"seeds": 0},
    )
    result = distill(config)
    rows = [json.loads(line) for line in result.path.read_text(encoding="utf-8").splitlines()]
    assert [row["label"] for row in rows] == [label for label in range(5) for _ in range(2)]
    assert all(len(row["text"].split()) >= 8 for row in rows)
    assert all(row["scores"]["teacher_probability"] >= 0.5 for row in rows)
    assert all(row["scores"]["real_similarity"] < 0.95 for row in rows)
    assert result.teacher_accuracy > 0.8
