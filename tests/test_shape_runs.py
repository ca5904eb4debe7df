"""Whole runs over pairs, several labels a row, a class of three rows, a target and long texts, on tiny real models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_rows, write_jsonl

from gendistill import Config, distill
from gendistill.data.export import export_file
from gendistill.generators.base import Reply, Request


class Writer:
    """A generator that answers by a function of the request's number and prompt."""

    name, chat = "writer", False

    def __init__(self, text: Callable[[int, str], tuple[str, str]]) -> None:
        self.text = text
        self.prompts: list[str] = []

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        for number, request in enumerate(requests):
            assert request.prompt is not None
            self.prompts.append(request.prompt)
            text, ended = self.text(number, request.prompt)
            yield Reply(request.id, text, ended, 10, 10)


@pytest.fixture
def config(tmp_path: Path, tiny_encoder_dir: Path) -> Config:
    return Config(
        out=tmp_path / "run",
        per_class=3,
        rounds=1,
        student={"model": str(tiny_encoder_dir), "steps": 6, "max_tokens": 32, "checkpoints": 2},
        generator={"candidates_per_class": 12, "exemplars": 2},
        filters={"teacher_probability": 0.0, "real_copy_similarity": 1.0, "near_duplicate": 1.0},
        evaluate={"seeds": 1, "max_test_rows": 20},
    )


def fresh() -> Iterator[str]:
    yield from (row["text"] for row in tiny_rows(200, 3, seed=11))


def given(tmp_path: Path, rows: list[dict[str, Any]]) -> str:
    return str(write_jsonl(tmp_path / "rows.jsonl", rows))


def test_pairs(config: Config, tmp_path: Path) -> None:
    texts = [row["text"] for row in tiny_rows(40, 3)]
    rows = [
        {"premise": texts[k], "hypothesis": texts[-k - 1], "label": ("yes", "no")[k % 2]} for k in range(len(texts))
    ]
    config.data.dataset = given(tmp_path, rows)
    new = fresh()

    def write(number: int, prompt: str) -> tuple[str, str]:
        assert prompt.endswith("\nPremise:") and "\nHypothesis: " in prompt
        first, second = next(new), next(new)
        return f" {first}\nHypothesis: {first if number % 4 == 0 else second}\n", "stop"

    made = distill(config, generator=Writer(write))
    assert len(made.rows) == 6 and made.filters.counts["same_twice"] == 6
    assert {"text_a", "text_b", "label_name", "scores"} <= made.rows[0].keys()
    card = (config.out / "README.md").read_text()
    assert "text_a" in card and made.rows[0]["text_b"] in card
    assert distill(config, generator=Writer(write)).rows == made.rows
    _, count = export_file(made.path, "hub-folder", tmp_path / "hub")
    assert count == 6


def test_several_labels(config: Config, tmp_path: Path) -> None:
    rows = [
        {"text": row["text"], "labels": ["sport"] if k % 3 == 0 else ["music", "sport"][: 1 + k % 2]}
        for k, row in enumerate(tiny_rows(40, 2))
    ]
    config.data.dataset = given(tmp_path, rows)
    new = fresh()
    writer = Writer(lambda number, prompt: (f" {next(new)}", "stop"))
    made = distill(config, generator=writer)
    assert made.label_names == ["music", "sport", "music + sport"]
    assert {tuple(row["labels"]) for row in made.rows} == {("music",), ("sport",), ("music", "sport")}
    assert any("Category: music + sport" in prompt for prompt in writer.prompts)
    assert "multi-label" in (config.out / "README.md").read_text()


def test_a_class_of_three_rows_gets_its_budget_from_the_generator(config: Config, tmp_path: Path) -> None:
    config.data.dataset = given(
        tmp_path, [*tiny_rows(40, 2), *({"text": f"A rare text {k}.", "label": "rare"} for k in range(3))]
    )
    config.selection.budget = "equal"
    new = fresh()
    told: list[str] = []

    class Listener:
        def say(self, line: str) -> None:
            told.append(line)

        def track(self, *arguments: Any, **options: Any) -> Any:
            from gendistill.progress import Silent

            return Silent().track(*arguments, **options)

    made = distill(config, generator=Writer(lambda number, prompt: (f" {next(new)}", "stop")), reporter=Listener())
    assert [row["label_name"] for row in made.rows].count("rare") == 3
    assert any("fewer real rows to learn from than the budget" in line and "'rare'" in line for line in told)


def test_a_target_is_where_exemplars_come_from(config: Config, tmp_path: Path) -> None:
    config.data.dataset = given(tmp_path, tiny_rows(40, 2))
    target = [{**row, "text": "Target: " + row["text"]} for row in tiny_rows(12, 2, seed=3)]
    config.data.target = str(write_jsonl(tmp_path / "target.jsonl", target))
    new = fresh()
    writer = Writer(lambda number, prompt: (f" {next(new)}", "stop"))
    made = distill(config, generator=writer)
    assert len(made.rows) == 6 and all("- Target: " in prompt for prompt in writer.prompts)


def test_long_texts_by_a_token_budget(config: Config, tmp_path: Path) -> None:
    long = tiny_rows(200, 2)
    rows = [{"text": " ".join(row["text"] for row in long[k::40][::2]), "label": long[k]["label"]} for k in range(40)]
    config.data.dataset = given(tmp_path, rows)
    config.student.chunks, config.generator.max_new_tokens = 4, 40
    config.filters.min_length_quantile = 0.0
    new = fresh()
    sentences = [next(new) for _ in range(150)]
    writer = Writer(lambda number, prompt: (f" {' '.join(sentences[number * 4 : number * 4 + 4])} And th", "length"))
    made = distill(config, generator=writer)
    assert max(len(line) for prompt in writer.prompts for line in prompt.splitlines()) <= 170
    assert not made.filters.counts["cut_off"]
    assert all(not row["text"].endswith("And th") for row in made.rows)
