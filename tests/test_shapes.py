"""Rows of every shape: read back whole, refused with file and line, written with the keys that each reader wants."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from shaped import ANSWERS, NAMES, ODD, ROWS

from gendistill.data.export import FORMATS, export, export_file, json_line, read_distilled
from gendistill.errors import ConfigError, DataError, RunError

USER, BOT = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(map(json_line, rows)), encoding="utf-8")
    return path


def lines_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def exported(shape: str, format: str, tmp_path: Path) -> list[Any]:
    out = export(ROWS[shape], format, tmp_path / "out", NAMES[shape], "news")
    return lines_of(out / FORMATS[format].data_file)


# -- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ROWS)
def test_a_distilled_file_comes_back_whole(tmp_path: Path, shape: str) -> None:
    rows, names = read_distilled(write(tmp_path / "distilled.jsonl", ROWS[shape]))
    assert rows == ROWS[shape] and names == NAMES[shape]


@pytest.mark.parametrize("shape", ROWS)
def test_so_it_does_from_parquet(tmp_path: Path, shape: str) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS[shape]), path)
    assert read_distilled(path) == (ROWS[shape], NAMES[shape])


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"instruction": "hi", "output": "ho"}, [USER, BOT]),
        ({"instruction": "Add.", "input": "1 2", "output": "3"},
         [{"role": "user", "content": "Add.\n1 2"}, {"role": "assistant", "content": "3"}]),
        ({"instruction": "hi", "input": "", "output": "ho", "system": "S", "history": [["a", "b"]]},
         [{"role": "system", "content": "S"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
          USER, BOT]),
        ({"prompt": "hi", "completion": " ho"}, [USER, BOT]),
        ({"prompt": [USER], "completion": [BOT]}, [USER, BOT]),
        ({"messages": [{**USER, "name": "x"}, {**BOT, "weight": 1}]}, [USER, BOT]),
        ({"messages": [{"role": "system", "content": " "}, USER, BOT]}, [USER, BOT]),
        ({"messages": [USER, BOT], "system": "S"}, [{"role": "system", "content": "S"}, USER, BOT]),
    ],
)  # fmt: skip
def test_conversations_by_any_name_become_messages(
    tmp_path: Path, row: dict[str, Any], messages: list[dict[str, str]]
) -> None:
    rows, names = read_distilled(write(tmp_path / "rows.jsonl", [{**row, "id": "a"}]))
    assert rows == [{"id": "a", "messages": messages}] and names == []


@pytest.mark.parametrize("shape", ROWS)
@pytest.mark.parametrize("format", FORMATS)
def test_what_is_exported_can_be_read_again(tmp_path: Path, shape: str, format: str) -> None:
    if shape not in FORMATS[format].shapes or format == "sharegpt":
        return
    rows, _ = read_distilled(write(tmp_path / "again.jsonl", exported(shape, format, tmp_path)))
    assert len(rows) == len(ROWS[shape])
    if shape == "instruction":
        assert [row["messages"] for row in rows] == [row["messages"] for row in ROWS[shape]]


def test_labels_of_several_are_named_once_in_order(tmp_path: Path) -> None:
    rows = [{"text": "a", "labels": ["z", "b", "z "]}, {"text": "b", "labels": []}, {"text": "c", "labels": ["a"]}]
    found, names = read_distilled(write(tmp_path / "rows.jsonl", rows))
    assert names == ["a", "b", "z"] and [row["labels"] for row in found] == [["z", "b"], [], ["a"]]


GOOD: dict[str, dict[str, Any]] = {
    "classification": {"text": "a", "label": "x"},
    "pairs": {"text_a": "a", "text_b": "b", "label": "x"},
    "multi-label": {"text": "a", "labels": ["x"]},
    "instruction": {"messages": [USER, BOT]},
}


@pytest.mark.parametrize(
    ("shape", "row", "told"),
    [
        ("pairs", {"text_a": "a", "label": "x"}, "no text in column 'text_b'"),
        ("pairs", {"text_a": " ", "text_b": "b", "label": "x"}, "no text in column 'text_a'"),
        ("pairs", {"text_a": "a", "text_b": 3, "label": "x"}, "no text in column 'text_b'"),
        ("pairs", {"text_a": "a", "text_b": "b"}, "no label in column 'label' or 'label_name'"),
        ("pairs", GOOD["classification"], "a row of classification, where those before it are of pairs"),
        ("classification", GOOD["pairs"], "a row of pairs, where those before it are of classification"),
        ("classification", GOOD["instruction"], "a row of instruction, where"),
        (
            "classification",
            {"text": "a", "labels": "x, y"},
            "no label in column 'label' or 'label_name'; 'labels' is no",
        ),
        ("multi-label", {"text": "a"}, "no list of label names in column 'labels'"),
        ("multi-label", {"text": "a", "labels": None}, "no list of label names in column 'labels'"),
        ("multi-label", {"text": "a", "labels": "x"}, "no list of label names in column 'labels'"),
        ("multi-label", {"text": "a", "labels": ["x", ""]}, "an empty name among the labels"),
        ("multi-label", {"text": "a", "labels": [["x"]]}, "label ['x'] is neither a name nor a whole number"),
        ("multi-label", {"labels": ["x"]}, "no text in column 'text'; the columns there are: labels"),
        ("multi-label", GOOD["classification"], "a row of classification, where those before it are of multi-label"),
        ("instruction", GOOD["classification"], "a row of classification, where those before it are of instruction"),
        ("instruction", {"messages": []}, "an empty list in column 'messages'"),
        ("instruction", {"messages": "hi"}, "no list of messages in column 'messages'"),
        ("instruction", {"messages": ["hi"]}, "message 1 in 'messages' is no object"),
        ("instruction", {"messages": [USER]}, "no message of the assistant's"),
        ("instruction", {"messages": [BOT]}, "no message of a user's"),
        ("instruction", {"messages": [USER, BOT, USER]}, "the last message is the user's; it must be the assistant's"),
        (
            "instruction",
            {"messages": [USER, {"role": "gpt", "content": "a"}]},
            "message 2 has the role 'gpt'; there is",
        ),
        ("instruction", {"messages": [USER, {"content": "a"}]}, "message 2 has the role None"),
        ("instruction", {"messages": [USER, {"role": "assistant", "content": None}]}, "of message 2 is nothing, not a"),
        ("instruction", {"messages": [{"role": "user", "content": [1]}, BOT]}, "message 1 is a list, not a string"),
        ("instruction", {"messages": [USER, {"role": "assistant", "content": " "}]}, "message 2, the assistant's, is"),
        ("instruction", {"messages": [USER, {"role": "system", "content": "s"}, BOT]}, "message 2 is the system's"),
        ("instruction", {"prompt": "hi"}, "the columns with a value are: prompt"),
        ("instruction", {"prompt": "hi", "completion": 3}, "a number in column 'completion', not a string"),
        ("instruction", {"instruction": "", "output": "ho"}, "message 1, the user's, is empty"),
        ("instruction", {"instruction": "hi", "output": "ho", "history": [["a"]]}, "'history' is no list of pairs"),
    ],
)
def test_a_bad_row_is_told_with_file_and_line(tmp_path: Path, shape: str, row: dict[str, Any], told: str) -> None:
    path = write(tmp_path / "rows.jsonl", [GOOD[shape], row])
    with pytest.raises(DataError) as caught:
        read_distilled(path)
    assert str(caught.value).startswith(f"{path}, line 2: ") and told in str(caught.value)


def test_a_file_of_no_shape_is_told_what_could_be(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 1: no text in column 'text' \(nor is there .*'messages'.*are: body"):
        read_distilled(write(tmp_path / "rows.jsonl", [{"body": "a"}]))
    with pytest.raises(DataError, match="no row has a label in column 'labels'"):
        read_distilled(write(tmp_path / "rows.jsonl", [{"text": "a", "labels": []}]))


@pytest.mark.parametrize("shape", ["pairs", "multi-label", "instruction"])
def test_a_set_is_measured_by_its_labels_whatever_its_shape(tmp_path: Path, shape: str) -> None:
    from gendistill.compare import load_set

    file = write(tmp_path / "rows.jsonl", ROWS[shape])
    if shape == "instruction":
        with pytest.raises(DataError, match="rows of instruction; give a file with a text and a label"):
            load_set(file, NAMES[shape])
        return
    names = NAMES[shape]
    if shape == "multi-label":  # the classes are sets of labels
        names = list(dict.fromkeys(" + ".join(row["labels"]) or "none" for row in ROWS[shape]))
    examples, rows = load_set(file, names)
    assert len(examples) == len(ROWS[shape]) and len(examples[0].fields) == (2 if shape == "pairs" else 1)
    if shape == "multi-label":
        for example, row in zip(examples, rows, strict=True):
            assert set(names[example.label].split(" + ")) - {"none"} == set(row["labels"])


# -- formats ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ROWS)
@pytest.mark.parametrize("format", FORMATS)
def test_every_text_and_answer_is_there_unchanged(tmp_path: Path, shape: str, format: str) -> None:
    if shape not in FORMATS[format].shapes:
        with pytest.raises(ConfigError, match=f"format {format} has no place for rows of {shape}; choose openai, trl"):
            exported(shape, format, tmp_path)
        return
    written = exported(shape, format, tmp_path)
    assert len(written) == len(ROWS[shape])

    def texts(value: Any) -> list[str]:
        if isinstance(value, str):
            return [value]
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return [text for item in inner for text in texts(item)]

    found = texts(written[-1])
    assert any(ODD in text for text in found)
    if format != "hub-folder" or shape == "instruction":
        assert ANSWERS[shape] in [text.removeprefix(" ") for text in found]


def test_pairs_are_asked_about_by_their_names(tmp_path: Path) -> None:
    question, content, answer = (turn["content"] for turn in exported("pairs", "openai", tmp_path)[0]["messages"])
    assert "pair of texts (news) into exactly one of these classes: entailment, neutral" in question
    assert content == "Text A: A man sleeps.\n\nText B: Somebody rests." and answer == "entailment"
    names = ("Premise", "Hypothesis")
    out = export(ROWS["pairs"], "trl", tmp_path / "named", NAMES["pairs"], text_names=names)
    assert lines_of(out)[0]["prompt"].endswith("\n\nPremise: A man sleeps.\n\nHypothesis: Somebody rests.\nClass:")
    assert exported("pairs", "text-label", tmp_path)[0] == {
        "text_a": "A man sleeps.", "text_b": "Somebody rests.", "label": 0, "label_name": "entailment"
    }  # fmt: skip


def test_several_labels_are_joined_and_none_is_said(tmp_path: Path) -> None:
    rows = exported("multi-label", "alpaca", tmp_path)
    assert [row["output"] for row in rows] == ["joy, surprise", "none", "surprise"]
    assert "joy, surprise" in rows[0]["instruction"] and "none" in rows[0]["instruction"]
    assert exported("multi-label", "text-label", tmp_path)[1] == {"text": "It is noon.", "labels": []}
    assert exported("multi-label", "hub-folder", tmp_path / "hub")[0] == {"text": "What a gift!", "labels": [0, 1]}
    with pytest.raises(DataError, match="row 1: label 'surprise' is not among the names: joy"):
        export(ROWS["multi-label"], "openai", tmp_path / "out", ["joy"])


def test_conversations_as_trl_and_alpaca_want_them(tmp_path: Path) -> None:
    single, several = ROWS["instruction"][0]["messages"], ROWS["instruction"][1]["messages"]
    assert exported("instruction", "openai", tmp_path) == [{"messages": single}, {"messages": several}]
    assert exported("instruction", "trl", tmp_path)[1] == {"prompt": several[:-1], "completion": several[-1:]}
    # Every row has the columns: a reader of tables takes them from the first.
    assert exported("instruction", "alpaca", tmp_path) == [
        {"instruction": "Name a colour.", "input": "", "output": "Blue.", "system": "", "history": []},
        {"instruction": ODD, "input": "", "output": "Six.", "system": "Be brief.", "history": [["Hello!", "Hello."]]},
    ]
    out = export(ROWS["instruction"][:1], "alpaca", tmp_path / "plain", [])
    assert lines_of(out) == [{"instruction": "Name a colour.", "input": "", "output": "Blue."}]
    turns = exported("instruction", "sharegpt", tmp_path)[1]["conversations"]
    assert [turn["from"] for turn in turns] == ["system", "human", "gpt", "human", "gpt"]


@pytest.mark.parametrize("shape", ROWS)
def test_llama_factory_finds_the_file_and_every_tag(tmp_path: Path, shape: str) -> None:
    out = export(ROWS[shape], "llama-factory", tmp_path / "out", NAMES[shape])
    # Its data/README.md, "OpenAI Format": these keys, and the first message may be the system's.
    info = json.loads((out / "dataset_info.json").read_text())["distilled"]
    assert info == {
        "file_name": "train.jsonl",
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant",
                 "system_tag": "system"},
    }  # fmt: skip
    for line in lines_of(out / info["file_name"]):
        roles = [message["role"] for message in line["messages"]]
        rest = roles[1:] if roles[0] == "system" else roles
        assert rest == ["user", "assistant"] * (len(rest) // 2)
        assert all(set(message) == {"role", "content"} for message in line["messages"])


@pytest.mark.parametrize("shape", ROWS)
def test_openai_finds_what_its_cookbook_checks(tmp_path: Path, shape: str) -> None:
    # openai-cookbook, examples/Chat_finetuning_data_prep.ipynb; "weight" and the like are optional and not written.
    for line in exported(shape, "openai", tmp_path):
        messages = line["messages"]
        assert messages and messages[-1]["role"] == "assistant"
        assert all(set(message) == {"role", "content"} for message in messages)
        assert all(message["role"] in ("system", "user", "assistant") for message in messages)
        assert all(isinstance(message["content"], str) and message["content"] for message in messages)


@pytest.mark.parametrize("shape", ROWS)
def test_axolotl_reads_the_messages_of_openai(tmp_path: Path, shape: str) -> None:
    # Its docs/dataset-formats/conversation.qmd: type chat_template reads "messages" of "role" and "content".
    for line in exported(shape, "openai", tmp_path):
        assert list(line) == ["messages"] and line["messages"][-1]["role"] == "assistant"
        assert all(list(message) == ["role", "content"] for message in line["messages"])
    with pytest.raises(ConfigError, match=r"axolotl reads openai \(type: chat_template\)"):
        export(ROWS[shape], "axolotl", tmp_path / "out", NAMES[shape])


def test_who_speaks_twice_is_refused_where_it_would_be_skipped(tmp_path: Path) -> None:
    rows = [{"messages": [USER, BOT]}, {"messages": [USER, USER, BOT]}]
    for format in ("alpaca", "sharegpt", "llama-factory"):
        with pytest.raises(DataError, match=r"row 2: .* user, user, assistant; choose openai, trl, hub-folder"):
            export(rows, format, tmp_path / "out", [])
    assert len(lines_of(export(rows, "trl", tmp_path / "out", []))) == 2
    with pytest.raises(DataError, match=r"rows\.jsonl, row 2: alpaca takes"):
        export_file(write(tmp_path / "rows.jsonl", rows), "alpaca")
    with pytest.raises(DataError, match="row 2: a row of instruction, where those before it are of classification"):
        export([*ROWS["classification"][:1], rows[0]], "openai", tmp_path / "out", [])


@pytest.mark.parametrize("shape", ROWS)
def test_hub_folder_has_its_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    out = export(ROWS[shape], "hub-folder", tmp_path / "set", NAMES[shape])
    data = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))["train"]
    text, label = datasets.Value("string"), datasets.ClassLabel(names=NAMES[shape]) if NAMES[shape] else None
    assert (
        data.features
        == {
            "classification": {"text": text, "label": label},
            "pairs": {"text_a": text, "text_b": text, "label": label},
            "multi-label": {"text": text, "labels": datasets.List(label)},
            "instruction": {"messages": datasets.List({"role": text, "content": text})},
        }[shape]
    )
    if shape == "multi-label":
        assert data["labels"][:] == [[0, 1], [], [1]]
    else:
        assert data[-1] == {key: ROWS[shape][-1][key] for key in data.features}


def test_no_card_and_no_list_of_others_is_lost(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    write(run / "distilled.jsonl", ROWS["classification"])
    (run / "README.md").write_text("the run's card")
    with pytest.raises(RunError, match=r"README\.md that is not an export's"):
        export_file(run, "hub-folder", run)
    assert export_file(run, "hub-folder")[0] == export_file(run, "hub-folder")[0] == run / "distilled-hub-folder"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text('{"mine": {}}')
    with pytest.raises(RunError, match="lists other datasets"):
        export_file(run, "llama-factory", tmp_path / "data")
    assert export_file(run, "llama-factory")[0] == export_file(run, "llama-factory")[0]
    with pytest.raises(RunError, match="would write over what is being read"):
        export_file(run / "distilled-llama-factory" / "train.jsonl", "llama-factory", run / "distilled-llama-factory")
    with pytest.raises(DataError, match=r"a folder without a distilled\.jsonl"):
        export_file(tmp_path / "data", "openai")


def test_help_names_every_format() -> None:
    from typer.testing import CliRunner

    from gendistill.cli import app

    told = CliRunner().invoke(app, ["export", "--help"]).output
    assert all(name in told for name in FORMATS)
