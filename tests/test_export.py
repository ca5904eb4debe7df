"""Export: each shape as its trainer reads it, one object per line whatever the text, whole files or none."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gendistill.atomic import atomic_write
from gendistill.data.export import FORMATS, export, export_file, json_line, read_distilled
from gendistill.errors import ConfigError, DataError, RunError

NAMES = ["business", "sports"]
ODD = 'first\nsecond\r\n\u2028third\u2029 fourth\x85 fifth \x1c {{ 7*7 }} ```\n--- "q" 日本 🎉'
ROWS = [
    {"text": "Shares rose.", "label": 0, "label_name": "business", "id": "a1", "scores": {"teacher": 0.9},
     "provenance": {"round": 1}},
    {"text": ODD, "label": 1, "label_name": "sports", "id": "b2", "scores": {"teacher": 0.8},
     "provenance": {"round": 2}},
]  # fmt: skip


def run_directory(folder: Path) -> Path:
    folder.mkdir()
    (folder / "distilled.jsonl").write_text("".join(map(json_line, ROWS)), encoding="utf-8")
    return folder


def lines_of(path: Path) -> list[Any]:
    # str.splitlines ends a line at every separator that Unicode knows: the strictest reader there is.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("format", [name for name, shape in FORMATS.items() if not shape.data_file])
def test_one_object_a_line_and_the_text_unchanged(tmp_path: Path, format: str) -> None:
    written = lines_of(export(ROWS, format, tmp_path / "out.jsonl", NAMES, "news"))
    assert len(written) == 2
    text, answer = {
        "text-label": lambda row: (row["text"], row["label_name"]),
        "openai": lambda row: (row["messages"][1]["content"], row["messages"][2]["content"]),
        "trl": lambda row: (row["prompt"], row["completion"].strip()),
        "alpaca": lambda row: (row["input"], row["output"]),
        "sharegpt": lambda row: (row["conversations"][0]["value"], row["conversations"][1]["value"]),
    }[format](written[1])
    assert ODD in text
    assert answer == "sports"


def test_shapes_have_the_keys_that_trainers_look_for(tmp_path: Path) -> None:
    def first(format: str) -> dict[str, Any]:
        return lines_of(export(ROWS, format, tmp_path / "out.jsonl", NAMES, "news"))[0]

    assert first("text-label") == {"text": "Shares rose.", "label": 0, "label_name": "business"}
    openai = first("openai")["messages"]
    assert [message["role"] for message in openai] == ["system", "user", "assistant"]
    assert "business, sports" in openai[0]["content"] and "news" in openai[0]["content"]
    assert list(first("trl")) == ["prompt", "completion"]
    assert list(first("alpaca")) == ["instruction", "input", "output"]
    assert [turn["from"] for turn in first("sharegpt")["conversations"]] == ["human", "gpt"]


def test_hub_folder_is_read_by_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    names = ["yes: 'a'", "no\n---\n# b"]  # a card's YAML head must survive any name
    out = export(ROWS, "hub-folder", tmp_path / "set", names)
    data = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))["train"]
    assert data.features["label"].names == names
    assert data["text"][:] == ["Shares rose.", ODD]
    assert data["label"][:] == [0, 1]


def test_export_file_from_a_run_directory(tmp_path: Path) -> None:
    run = run_directory(tmp_path / "run")
    written, count = export_file(run, "alpaca")
    assert written == run / "distilled-alpaca.jsonl" and count == 2 == len(lines_of(written))
    assert export_file(run / "distilled.jsonl", "trl", tmp_path / "x" / "t.jsonl")[0] == tmp_path / "x" / "t.jsonl"
    with pytest.raises(RunError, match="would write over"):
        export_file(run, "trl", run / "distilled.jsonl")
    with pytest.raises(ConfigError, match="text-label, openai, trl"):
        export_file(run, "csv")


def test_a_run_directory_comes_back_whole(tmp_path: Path) -> None:
    rows, names = read_distilled(run_directory(tmp_path / "run") / "distilled.jsonl")
    assert rows == ROWS and names == NAMES


@pytest.mark.parametrize(
    ("lines", "labels", "names"),
    [
        (['{"text": "a", "label": "up"}', '{"text": "b", "label": "down"}'], [1, 0], ["down", "up"]),
        (['{"text": "a", "label_name": "up"}', '{"text": "b", "label_name": "down"}'], [1, 0], ["down", "up"]),
        (['{"text": "a", "label": 7}', '{"text": "b", "label": 3}'], [1, 0], ["3", "7"]),
    ],
)
def test_read_takes_any_file_with_texts_and_labels(
    tmp_path: Path, lines: list[str], labels: list[int], names: list[str]
) -> None:
    path = tmp_path / "any.jsonl"
    path.write_text("\n".join(lines))
    rows, found = read_distilled(path)
    assert [row["label"] for row in rows] == labels and found == names


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "line 2: no JSON"),
        ('{"txt": "a", "label": 1}', "line 2: no text in column 'text'; the columns there are: txt, label"),
        ('{"text": "a"}', "line 2: no label"),
    ],
)
def test_read_names_the_line(tmp_path: Path, line: str, told: str) -> None:
    path = tmp_path / "any.jsonl"
    path.write_text('{"text": "a", "label": 0}\n' + line)
    with pytest.raises(DataError) as caught:
        read_distilled(path)
    assert told in str(caught.value)


# Any text but lone surrogates, which the loader replaces.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXTS, st.integers(0, 1)), min_size=1, max_size=5))
def test_any_text_comes_back(tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, int]]) -> None:
    path = tmp_path_factory.mktemp("round") / "rows.jsonl"
    export([{"text": text, "label": label} for text, label in pairs], "text-label", path, NAMES)
    assert len(path.read_text(encoding="utf-8").splitlines()) == len(pairs)
    rows, _ = read_distilled(path)
    assert [(row["text"], row["label_name"]) for row in rows] == [(text, NAMES[label]) for text, label in pairs]


def test_no_space_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.jsonl"
    atomic_write(path, "old\n")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"out\.jsonl: no space left to write 4 bytes"):
        atomic_write(path, "new\n")
    assert path.read_text() == "old\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.jsonl"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_real_full_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The temporary file's name is a link to a device that is always full: the kernel's own error comes back.
    (tmp_path / f".out.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(RunError, match="no space left"):
        atomic_write(tmp_path / "out", "text")
    assert list(tmp_path.iterdir()) == []


def test_writing_where_one_cannot(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        export(ROWS, "trl", tmp_path / "file" / "out.jsonl", NAMES)
    with pytest.raises(RunError, match="a folder"):
        export(ROWS, "trl", tmp_path, NAMES)
    with pytest.raises(RunError, match="a file"):
        export(ROWS, "hub-folder", tmp_path / "file", NAMES)


def test_the_card_of_a_coreset_does_not_say_that_a_model_wrote_it(tmp_path: Path) -> None:
    real = [{**row, "provenance": {"candidates": "real", "dataset": "reviews.csv"}} for row in ROWS]
    card = (export(real, "hub-folder", tmp_path / "real", NAMES) / "README.md").read_text(encoding="utf-8")
    assert "rows of the real data" in card and "LLM wrote" not in card and "- synthetic" not in card
    mixed = [*real[:-1], ROWS[-1]]
    card = (export(mixed, "hub-folder", tmp_path / "mixed", NAMES) / "README.md").read_text(encoding="utf-8")
    assert "LLM wrote" in card and "- synthetic" in card
