"""The formats to export to: for each, what becomes of one row of each shape.

What the readers want was read in their code: TRL 1.16.0 (trainer/sft_trainer.py), LLaMA-Factory 0.9.5
(data/converter.py, data/parser.py), Axolotl 0.19.0 (prompt_strategies/chat_template.py, prompt_tokenizers.py); for
OpenAI in the checks of its cookbook (examples/Chat_finetuning_data_prep.ipynb); its fine-tuning guide has the 10 rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gendistill.data.shapes import NO_LABEL, PAIR, SHAPES, Message, Shape
from gendistill.errors import ConfigError

Row = dict[str, Any]

TEXT_NAMES = ("Text A", "Text B")
_LABELLED: tuple[Shape, ...] = ("classification", "pairs", "multi-label")
_READ_AS = {"axolotl": "openai (type: chat_template)", "chatml": "openai", "messages": "openai"}


@dataclass(frozen=True)
class Wording:
    """What all rows of an export have in common."""

    shape: Shape
    label_names: Sequence[str]
    description: str = ""  # what the texts are
    text_names: Sequence[str] = TEXT_NAMES  # of the two texts of a pair
    histories: bool = False  # a row has turns before the last question: every row gets the column
    systems: bool = False  # likewise for a system message

    @property
    def question(self) -> str:
        """What is asked of each row; it names all classes."""
        what = f" ({self.description})" if self.description else ""
        classes = ", ".join(self.label_names)
        if self.shape == "multi-label":
            return (
                f"Say which of these labels fit the text{what}: {classes}. Answer with the labels only, separated by "
                f"commas, or with {NO_LABEL} if no label fits."
            )
        subject = "pair of texts" if self.shape == "pairs" else "text"
        return f"Classify the {subject}{what} into exactly one of these classes: {classes}. Answer with the class only."

    def content(self, row: Row) -> str:
        """The text or texts that are asked about."""
        if self.shape != "pairs":
            return str(row["text"])
        return "\n\n".join(f"{name}: {row[key]}" for name, key in zip(self.text_names, PAIR, strict=True))

    def answer(self, row: Row) -> str:
        """The right answer."""
        if self.shape == "multi-label":
            return ", ".join(row["labels"]) or NO_LABEL
        return self.label_names[row["label"]]


@dataclass(frozen=True)
class Format:
    """A format: ``convert(row, wording)`` makes the JSON object of one row."""

    about: str  # one line, for help
    convert: Callable[[Row, Wording], dict[str, Any]]
    shapes: tuple[Shape, ...] = SHAPES  # those that it can hold
    data_file: str = ""  # of the rows, where the format is a folder of several files rather than one file
    in_turn: bool = False  # its readers skip a conversation in which somebody speaks twice
    least_rows: int = 0  # what its reader asks for


def find_format(name: str, shape: Shape | None = None) -> Format:
    """The format of this name.

    :raises ConfigError: there is none, or it cannot hold rows of ``shape``.
    """
    if name not in FORMATS:
        instead = f"; {name} reads {_READ_AS[name]}" if name in _READ_AS else ""
        raise ConfigError(f"no format {name!r}; there is {', '.join(FORMATS)}{instead}")
    found = FORMATS[name]
    if shape is not None and shape not in found.shapes:
        able = ", ".join(other for other, format in FORMATS.items() if shape in format.shapes)
        raise ConfigError(f"format {name} has no place for rows of {shape}; choose {able}")
    return found


def _text_label(row: Row, wording: Wording) -> dict[str, Any]:
    columns = PAIR if wording.shape == "pairs" else ("text",)
    shape = {key: row[key] for key in columns}
    if wording.shape == "multi-label":
        shape["labels"] = row["labels"]
    else:
        shape |= {"label": row["label"], "label_name": wording.label_names[row["label"]]}
    return shape | {"probabilities": row["probabilities"]} if "probabilities" in row else shape


def _messages(row: Row, wording: Wording) -> list[Message]:
    if wording.shape == "instruction":
        return row["messages"]
    return [
        {"role": "system", "content": wording.question},
        {"role": "user", "content": wording.content(row)},
        {"role": "assistant", "content": wording.answer(row)},
    ]


def _openai(row: Row, wording: Wording) -> dict[str, Any]:
    return {"messages": _messages(row, wording)}


def _trl(row: Row, wording: Wording) -> dict[str, Any]:
    if wording.shape == "instruction":
        return {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]}
    text = wording.content(row) if wording.shape == "pairs" else f"Text: {row['text']}"
    asked = "Labels" if wording.shape == "multi-label" else "Class"
    # The space belongs to the completion: tokenizers join it to the word that follows.
    return {"prompt": f"{wording.question}\n\n{text}\n{asked}:", "completion": f" {wording.answer(row)}"}


def _alpaca(row: Row, wording: Wording) -> dict[str, Any]:
    if wording.shape != "instruction":
        return {"instruction": wording.question, "input": wording.content(row), "output": wording.answer(row)}
    turns = [message["content"] for message in row["messages"] if message["role"] != "system"]
    line: dict[str, Any] = {"instruction": turns[-2], "input": "", "output": turns[-1]}
    if wording.systems:
        line["system"] = next((turn["content"] for turn in row["messages"] if turn["role"] == "system"), "")
    if wording.histories:
        line["history"] = [turns[place : place + 2] for place in range(0, len(turns) - 2, 2)]
    return line


_SHAREGPT_NAMES = {"system": "system", "user": "human", "assistant": "gpt"}


def _sharegpt(row: Row, wording: Wording) -> dict[str, Any]:
    if wording.shape == "instruction":
        turns = [(_SHAREGPT_NAMES[message["role"]], message["content"]) for message in row["messages"]]
    else:
        turns = [("human", f"{wording.question}\n\n{wording.content(row)}"), ("gpt", wording.answer(row))]
    return {"conversations": [{"from": name, "value": text} for name, text in turns]}


def _hub_row(row: Row, wording: Wording) -> dict[str, Any]:
    if wording.shape == "instruction":
        return {"messages": row["messages"]}
    if wording.shape == "multi-label":
        place = {name: index for index, name in enumerate(wording.label_names)}
        return {"text": row["text"], "labels": [place[name] for name in row["labels"]]}
    shape = {key: row[key] for key in (*(PAIR if wording.shape == "pairs" else ("text",)), "label")}
    if "probabilities" in row:  # a list, since a reader of tables would make a column of every class's name
        shape["probabilities"] = [float(row["probabilities"].get(name) or 0.0) for name in wording.label_names]
    return shape


# "sharegpt" with the names of its tags, rather than "openai": that converter adds "detailed thinking off" to every
# system prompt. Where tags are given, those left out count as None, so all that are used are named.
LLAMA_FACTORY_NAME = "distilled"
LLAMA_FACTORY_INFO = {
    LLAMA_FACTORY_NAME: {
        "file_name": "train.jsonl",
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    }
}

FORMATS: dict[str, Format] = {
    "text-label": Format("JSONL with the text or texts and the label or labels", _text_label, _LABELLED),
    "openai": Format("JSONL of chat messages, for OpenAI, Axolotl (chat_template), TRL", _openai, least_rows=10),
    "trl": Format("JSONL with prompt and completion, for TRL's SFTTrainer", _trl),
    "alpaca": Format("JSONL with instruction, input and output", _alpaca, in_turn=True),
    "sharegpt": Format("JSONL of conversations between human and gpt", _sharegpt, in_turn=True),
    "llama-factory": Format(
        "a folder with dataset_info.json, for LLaMA-Factory", _openai, data_file="train.jsonl", in_turn=True
    ),
    "hub-folder": Format(
        "a folder with a card, for datasets.load_dataset or an upload", _hub_row, data_file="data/train.jsonl"
    ),
}
