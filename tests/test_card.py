"""The dataset card: read by datasets, safe against what a model writes, the same bytes each time."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from shaped import NAMES, ROWS

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
        "results": [Result("distilled", 0.8342, 0.0121, 3, (0.801, 0.867)), Result("full data", 0.95, None, 1)],
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
    assert "| distilled | 83.4 ± 1.2 | 80.1 to 86.7 | 3 |" in text and "| full data | 95.0 |  | 1 |" in text
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


def shaped_card(shape: str, hostile: bool = False, **values: Any) -> str:
    """A card of the rows of a shape, every text and name replaced by a hostile one if asked."""

    def worse(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: text if key == "role" else worse(text) for key, text in value.items()}
        if isinstance(value, list):
            return [worse(item) for item in value]
        return f"{value} {HOSTILE}" if isinstance(value, str) else value

    given = worse(ROWS[shape]) if hostile else ROWS[shape]
    names = worse(NAMES[shape]) if hostile else NAMES[shape]
    return dataset_card(CardInfo(**{"name": "demo", "label_names": names, "rows": given, **values}))


def test_each_shape_has_its_task_and_its_limits() -> None:
    heads = {shape: yaml.safe_load(shaped_card(shape).split("---\n")[1]) for shape in ROWS}
    assert {shape: head["task_categories"] for shape, head in heads.items()} == {
        "classification": ["text-classification"],
        "pairs": ["text-classification"],
        "multi-label": ["text-classification"],
        "instruction": ["text-generation"],
    }
    assert "text-pair-classification" in heads["pairs"]["tags"]
    assert "multi-label-classification" in heads["multi-label"]["tags"]
    assert "instruction-tuning" in heads["instruction"]["tags"]
    for shape in ROWS:
        assert ("classifier" in shaped_card(shape)) == (shape != "instruction")
    assert "training a classifier of these classes" in shaped_card("classification")
    assert "fine-tuning a language model" in shaped_card("instruction")
    assert "2 conversations: a small set" in shaped_card("instruction")
    assert "2 pairs of texts in 2 classes" in shaped_card("pairs")
    assert "3 texts with 2 labels, any number to a text" in shaped_card("multi-label")


def test_typed_features_of_each_shape() -> None:
    def features(shape: str) -> list[dict[str, Any]]:
        return yaml.safe_load(shaped_card(shape, typed=True).split("---\n")[1])["dataset_info"]["features"]

    classes = {"class_label": {"names": {"0": "entailment", "1": "neutral"}}}
    text_a, text_b, label = features("pairs")
    assert text_a == {"name": "text_a", "dtype": "string"} and text_b == {"name": "text_b", "dtype": "string"}
    assert label == {"name": "label", "dtype": classes}
    assert features("multi-label")[1] == {
        "name": "labels", "list": {"class_label": {"names": {"0": "joy", "1": "surprise"}}}
    }  # fmt: skip
    assert features("instruction") == [
        {"name": "messages", "list": [{"name": "role", "dtype": "string"}, {"name": "content", "dtype": "string"}]}
    ]


def test_samples_show_both_texts_and_whole_conversations() -> None:
    pairs = shaped_card("pairs")
    assert (
        "**entailment**\n\ntext\\_a:\n\n```text\nA man sleeps.\n```\n\ntext\\_b:\n\n```text\nSomebody rests." in pairs
    )
    several = shaped_card("multi-label")
    assert "**joy, surprise**\n\n```text\nWhat a gift!" in several and "**none**\n\n```text\nIt is noon." in several
    assert "| 1 | surprise | 2 |" in several and "| | (no label) | 1 |" in several
    talk = shaped_card("instruction")
    assert "**system**\n\n```text\nBe brief.\n```\n\n**user**\n\n```text\nHello!\n```\n\n**assistant**" in talk
    assert "## Classes" not in talk and "| colours | 1 |" in talk
    assert "## Groups" not in shaped_card("instruction", typed=True)  # an export leaves that column out


def test_fields_are_those_of_the_file() -> None:
    def fields(shape: str, **values: Any) -> list[str]:
        return re.findall(r"^\* `(\w+)`:", shaped_card(shape, **values), re.MULTILINE)

    rest = ["id", "scores", "provenance"]
    assert fields("pairs") == ["text_a", "text_b", "label", "label_name", *rest]
    assert fields("multi-label") == ["text", "labels", "label", "label_name", *rest]
    assert fields("instruction") == ["messages", "cluster", "cluster_name", *rest]
    assert fields("pairs", typed=True) == ["text_a", "text_b", "label"]
    assert fields("multi-label", typed=True) == ["text", "labels"]
    assert fields("instruction", typed=True) == ["messages"]


@pytest.mark.parametrize("shape", ROWS)
@pytest.mark.parametrize("typed", [False, True])
def test_no_shape_lets_a_text_out_of_its_fence(shape: str, typed: bool) -> None:
    text = shaped_card(shape, hostile=True, typed=typed, description=HOSTILE, source=HOSTILE, name=HOSTILE)
    assert HOSTILE in text
    head = re.match(r"\s*---\r?\n(.*?)[\r\n]+---(\r\n|\n|$)", text, re.DOTALL)
    assert head is not None
    values = yaml.safe_load(head[1])
    assert values["license"] == "other" and ("dataset_info" in values) == typed
    interpreted = outside_fences(text[head.end() :])
    assert "<script>" not in interpreted and "</code>" not in interpreted
    assert not re.search("^(# Owned|license:|---|````)", interpreted, re.MULTILINE)


def test_names_of_combinations_give_way_to_the_labels_in_use() -> None:
    text = shaped_card("multi-label", label_names=["none", "joy + surprise", "surprise"])
    assert "| 0 | joy | 1 |\n| 1 | surprise | 2 |" in text and "joy + surprise" not in text


def test_what_only_the_publisher_can_say() -> None:
    text = card(
        license="cc-by-4.0",
        language=["en"],
        terms={"real data (x)": "for research | only", "generator (y)": "Gemma terms of use"},
        intended_use="Routing <b>tickets</b>.",
        audit=[("Copies of real rows", "passed", "none of 3 rows"), ("Personal data", "failed", "an | address")],
        privacy="(8, 1e-5) differential privacy of rows",
    )
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["license"] == "cc-by-4.0" and head["language"] == ["en"] and "license_name" not in head
    assert "* real data (x): for research \\| only" in text and "Routing &lt;b&gt;tickets" in text
    assert "| Personal data | failed | an \\| address |" in text and "## Privacy" in text
    assert yaml.safe_load(card().split("---\n")[1])["license_name"] == "terms-of-source-and-generator"


def test_the_hubs_library_reads_the_head() -> None:
    from huggingface_hub import DatasetCard

    for shape in ROWS:
        data = DatasetCard(shaped_card(shape, hostile=True, name=HOSTILE, language=["en", "de"])).data
        assert data.license == "other" and data.language == ["en", "de"]
        assert data.size_categories == ["n<1K"] and data.pretty_name == HOSTILE


def test_characters_that_turn_or_hide_text_are_written_out() -> None:
    turned = "\u202etxt.exe\u202c \x1b[31mred\u200b \u2066"
    text = card(rows=[{**rows()[0], "text": turned}], name=turned)
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x1b\u200b]", text.split("---\n", 2)[2])
    assert "\\u202etxt.exe\\u202c" in text and "\\u001b[31mred" in text


def test_intervals_count_students_and_test_rows() -> None:
    from gendistill.evaluate import Measured, interval
    from gendistill.evaluate_answers import MeasuredAnswers

    several = Measured("a", 10, [0.7, 0.8, 0.9], [0.7, 0.8, 0.9])
    low, high = interval(several, 400)  # t(2) = 4.3027, s = 0.1; the binomial's half is 0.0392
    assert high == 1.0 and abs(low - (0.8 - math.hypot(4.3027 * 0.1 / math.sqrt(3), 0.0392))) < 1e-3
    low, high = interval(Measured("b", 10, [0.9], [0.9]), 100)
    assert abs(high - low - 2 * 1.96 * 0.03) < 1e-3
    assert interval(MeasuredAnswers("c", 10, [2.0]), 100) is None
    low, high = interval(MeasuredAnswers("c", 10, [2.0, 2.2]), 100)
    assert abs(high - low - 2 * 12.706 * 0.1) < 1e-3
