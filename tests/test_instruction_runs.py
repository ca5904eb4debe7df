"""Instruction data from end to end on a tiny decoder: chosen from real rows and from a file, distilled, measured."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_rows, write_jsonl

from gendistill import Config, distill
from gendistill.compare import compare_file
from gendistill.data.export import export_file
from gendistill.data.load_instructions import load_instructions
from gendistill.errors import ConfigError, DataError
from gendistill.generators.base import Reply, Request
from gendistill.scoring import score_candidates, select_candidates

BROKEN = [{"instruction": "x", "output": ""}, {"instruction": "", "output": "y"}, {"instruction": None, "output": "z"}]


def rows(seed: int = 0, count: int = 30) -> list[dict[str, Any]]:
    return [
        {"instruction": f"Write about {row['label']}, please, number {k}.", "input": "", "output": row["text"]}
        for k, row in enumerate(tiny_rows(count, 3, seed))
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("instructions") / "rows.jsonl", [*rows(), *BROKEN, rows()[0]])


@pytest.fixture
def config(tmp_path: Path, data: Path, tiny_causal_dir: Path) -> Config:
    return Config(
        out=tmp_path / "run",
        per_class=2,
        rounds=1,
        data={"task": "instruction", "dataset": str(data), "clusters": 3},
        student={
            "model": str(tiny_causal_dir), "max_tokens": 64, "gradient_dims": 64, "steps": 4, "max_steps": 6,
        },
        generator={"candidates_per_class": 12, "max_new_tokens": 60},
        filters={"near_duplicate": 1.0, "real_copy_similarity": 1.0},
        evaluate={"seeds": 1},
    )  # fmt: skip


class Writer:
    """A generator that writes instructions with their answers, some of them bad."""

    name, chat = "writer", False

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        texts = [row["text"] for row in tiny_rows(60, 3, seed=7)]
        for k, request in enumerate(requests):
            assert request.prompt is not None and request.prompt.rstrip().endswith("### Instruction:")
            answer = ("", "I'm sorry, but as an AI I cannot.")[k // 6 % 2] if k % 6 == 0 else texts[k]
            text = f"Tell something new, number {k * 3 + 1000}.\n\n### Response:\n{answer}\n"
            yield Reply(request.id, text, "stop", 10, 10)


def test_problems_are_counted_and_rows_that_ask_the_same_stay_together(config: Config, tmp_path: Path) -> None:
    twice = [*rows(), *({**row, "output": row["output"] + " Again."} for row in rows())]
    real = load_instructions(
        config.data.model_copy(update={"dataset": str(write_jsonl(tmp_path / "d.jsonl", [*twice, *BROKEN]))}), seed=0
    )
    assert real.report.problems == {"no_answer": 1, "no_prompt": 2} and real.report.rows_read == 183
    assert any("1 rows dropped: the answer" in line for line in real.report.lines())
    asked = [{row.fields[:-1] for row in part} for part in (real.train, real.dev, real.test)]
    assert not asked[0] & asked[1] and not asked[0] & asked[2] and not asked[1] & asked[2]
    assert sum(map(len, (real.train, real.dev, real.test))) == 180


@pytest.mark.parametrize("method", ["greedy", "random", "k-means-nearest"])
def test_real_rows_are_chosen_for_every_cluster(config: Config, method: str) -> None:
    config.selection.method = method
    chosen = select_candidates("real", config)
    assert len(chosen.rows) == 6 and {"messages", "cluster", "cluster_name", "id"} <= chosen.rows[0].keys()
    assert "label" not in chosen.rows[0] and "teacher_probability" not in chosen.rows[0]["scores"]
    if method == "greedy":
        assert chosen.loss < 1


def test_a_file_is_scored_with_a_verdict_for_every_row(config: Config, tmp_path: Path) -> None:
    given = [
        *({"instruction": f"Say more on {k}.", "output": row["text"]} for k, row in enumerate(tiny_rows(5, 3, seed=9))),
        {"instruction": "hi", "output": ""},
        {"instruction": "Say more on 0.", "output": tiny_rows(5, 3, seed=9)[0]["text"]},
        {"instruction": "What is it?", "output": "I'm sorry, but I cannot help with that."},
    ]
    scored = score_candidates(write_jsonl(tmp_path / "c.jsonl", given), config)
    verdicts = [row["filter"] for row in scored.rows]
    assert len(verdicts) == 18 and verdicts[-3:] == ["no_answer", "duplicate", "refused"]
    assert sum(row["kept"] for row in scored.rows) >= 3
    with pytest.raises(DataError, match="none of its 1 rows can be a candidate"):
        score_candidates(write_jsonl(tmp_path / "e.jsonl", given[15:16]), config)


def test_a_run_from_instructions_to_a_set_a_card_and_a_measured_table(config: Config, tmp_path: Path) -> None:
    made = distill(config, generator=Writer())
    assert len(made.rows) == 6 and made.filters.counts["refused"] and made.filters.counts["empty"]
    assert [row.method for row in made.table] == [
        "distilled", "random real rows", "k-means-nearest real rows", "random of the pool", "not tuned",
    ]  # fmt: skip
    assert all(len(row.loss) == 1 and row.loss[0] > 0 for row in made.table)
    card = (config.out / "README.md").read_text()
    assert "loss (nats a token)" in card and "text-generation" in card and "tuned by LoRA" in card
    again = distill(config, generator=Writer())
    assert again.rows == made.rows and again.table == made.table
    replay = distill(config.model_copy(update={"out": tmp_path / "replay"}), generator=Writer())
    assert replay.rows == made.rows
    out, count = export_file(made.path, "trl", tmp_path / "trl.jsonl")
    assert count == 6 and json.loads(out.read_text().splitlines()[0])["completion"][0]["role"] == "assistant"


def test_a_file_is_measured_beside_real_rows(config: Config, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "f.jsonl", rows(seed=3)[:7])
    table, _ = compare_file(file, config)
    assert [row.size for row in table] == [7, 7, 7, 0]


def test_a_target_is_what_gradients_are_matched_with(config: Config, tmp_path: Path) -> None:
    target = write_jsonl(tmp_path / "target.jsonl", [row for row in rows(seed=4) if "music" in row["instruction"]])
    towards = config.model_copy(deep=True)
    towards.data.target = str(target)
    chosen = select_candidates("real", towards)
    assert len(chosen.rows) == 6 and chosen.scored.real.target
    assert {row["id"] for row in chosen.rows} != {row["id"] for row in select_candidates("real", config).rows}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"selection.method": "portfolio"}, "needs classes"),
        ({"objective.weights": {"meta_model": 1.0}}, "meta_model needs classes"),
        ({"objective.students": ["tfidf"]}, "objective.students"),
        ({"selection.labels": "soft"}, "no labels that could be soft"),
        ({"student.model": "tfidf"}, "tfidf"),
        ({"student.gradient_dims": 0}, "gradient_dims"),
    ],
)
def test_what_instructions_do_not_have_is_refused(config: Config, changes: dict[str, Any], said: str) -> None:
    for key, value in changes.items():
        section, name = key.split(".")
        setattr(getattr(config, section), name, value)
    with pytest.raises(ConfigError, match=said):
        select_candidates("real", config)


def test_data_of_the_wrong_kind_says_so(config: Config, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no instruction data"):
        config.data.dataset = str(write_jsonl(tmp_path / "t.jsonl", tiny_rows(10, 2)))
        select_candidates("real", config)
    with pytest.raises(DataError, match="--task instruction"):
        select_candidates("real", Config(dataset=str(write_jsonl(tmp_path / "i.jsonl", rows()))))
    with pytest.raises(DataError, match="too few"):
        config.data.dataset = str(write_jsonl(tmp_path / "few.jsonl", rows()[:4]))
        select_candidates("real", config)


def test_defaults_of_instructions_are_written_out_and_may_be_changed() -> None:
    config = Config(data={"task": "instruction"}, objective={"weights": {"coverage": 1.0}})
    assert config.objective.weights == {"coverage": 1.0} and config.selection.method == "greedy"
    assert config.student.gradient_dims and Config(**config.model_dump()) == config
