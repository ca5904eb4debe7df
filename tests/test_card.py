"""The dataset card: read by datasets, safe against what a model writes, the same bytes each time."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gendistill.data.card import CardInfo, Result, dataset_card
from gendistill.data.export import json_line

HOSTILE = "</code>\n```\n---\nlicense: mit\n---\n````\n# Owned <script>alert(1)</script>\n| a | b |"


def rows() -> list[dict[str, Any]]:
    texts = [("Shares rose.", 0), (HOSTILE, 0), ("They won.", 1)]
    return [
        {"text": text, "label": label, "label_name": "ab"[label], "id": str(i), "scores": {"teacher": 0.5},
         "provenance": {"round": 1, "parents": ["x"] * i}}
        for i, (text, label) in enumerate(texts)
    ]  # fmt: skip


def card(**values: Any) -> str:
    info: dict[str, Any] = {
        "name": "demo",
        "label_names": ["busi|ness", "<b>sports</b>"],
        "rows": rows(),
        "made_with": {"generator": "a_model", "rounds": 2},
        "filters": {"near duplicate": 1234},
        "results": [Result("distilled", 0.8342, 0.0121, 3), Result("full data", 0.95, None, 1)],
        "command": "gendistill generate -c config.yaml",
    }
    return dataset_card(CardInfo(**{**info, **values}))


def outside_fences(text: str) -> str:
    """What Markdown interprets: a fence is closed by one at least as long, as CommonMark has it."""
    kept, fence = [], ""
    for line in text.splitlines():
        mark = re.match("`{3,}", line)
        if not fence and mark:
            fence = mark[0]
        elif fence and mark and len(mark[0]) >= len(fence) and line.strip("`") == "":
            fence = ""
        elif not fence:
            kept.append(line)
    assert not fence
    return "\n".join(kept)


def test_head_is_yaml_with_what_the_hub_wants() -> None:
    head = yaml.safe_load(card().split("---\n")[1])
    assert head["license"] == "other"
    assert head["task_categories"] == ["text-classification"]
    assert {"dataset-distillation", "synthetic", "gendistill"} <= set(head["tags"])
    assert head["size_categories"] == ["n<1K"]
    assert head["configs"][0]["data_files"][0]["path"] == "distilled.jsonl"


def test_head_survives_a_name_with_dashes() -> None:
    text = card(name="word " * 40 + "\n---\nlicense: mit", typed=True, label_names=["a\n---\nb", "c: d"])
    head = re.match(r"\s*---\r?\n(.*?)[\r\n]+---(\r\n|\n|$)", text, re.DOTALL)  # as huggingface_hub finds it
    assert head is not None
    values = yaml.safe_load(head[1])
    assert values["license"] == "other"
    assert values["dataset_info"]["features"][1]["dtype"]["class_label"]["names"] == {"0": "a\n---\nb", "1": "c: d"}


def test_a_model_text_is_shown_but_not_interpreted() -> None:
    text = card()
    assert HOSTILE in text
    interpreted = outside_fences(text)
    assert "script" not in interpreted and "Owned" not in interpreted
    assert "<b>" not in interpreted and "&lt;b&gt;sports" in interpreted
    assert "| 0 | busi\\|ness | 2 |" in interpreted and "| 1 | &lt;b&gt;sports&lt;/b&gt; | 1 |" in interpreted


def test_tables_and_command() -> None:
    text = card()
    assert "| distilled | 83.4 ± 1.2 | 3 |" in text and "| full data | 95.0 | 1 |" in text
    assert "| near duplicate | 1,234 |" in text and "| generator | a\\_model |" in text
    assert "```bash\ngendistill generate -c config.yaml\n```" in text


def test_parts_without_values_are_left_out() -> None:
    text = card(results=(), command=None, made_with={}, filters={})
    for heading in ("Results", "Make it again", "How it was made"):
        assert heading in card() and heading not in text


def test_same_values_same_bytes() -> None:
    assert card() == card()
    assert not re.search(r"\b20\d\d\b|\d\d:\d\d", card())  # neither dates nor times


def test_datasets_reads_a_run_directory_with_its_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    run = tmp_path / "run"
    run.mkdir()
    (run / "README.md").write_text(card(), encoding="utf-8")
    (run / "distilled.jsonl").write_text("".join(map(json_line, rows())), encoding="utf-8")
    (run / "config.yaml").write_text("seed: 0\n")
    data = datasets.load_dataset(str(run), cache_dir=str(tmp_path / "cache"))["train"]
    assert data["text"][:] == [row["text"] for row in rows()]
    assert data["provenance"][2]["parents"] == ["x", "x"]
