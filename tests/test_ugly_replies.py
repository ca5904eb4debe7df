"""What is read out of replies as the two local models really write them, and out of replies that are meant to hurt.

``data/ugly_replies.jsonl`` holds replies that SmolLM2 135M Instruct (chat) and Gemma 3 270M (base, continuing a text)
wrote to prompts that ask for every form one meets: lists, JSON, fences, tables, quotations, labels, thinking, other
languages, at temperatures of 0.6 to 1.2, some of them cut off. What is expected was checked by reading each reply.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from gendistill.tasks import TextClassification

CORPUS = Path(__file__).with_name("data") / "ugly_replies.jsonl"
CASES: list[dict[str, Any]] = [json.loads(line) for line in CORPUS.read_text(encoding="utf-8").split("\n") if line]
TASK = TextClassification(("business", "sport"))


def test_the_corpus_is_large_and_of_both_models() -> None:
    assert len(CASES) >= 100
    assert len({case["reply"] for case in CASES}) == len(CASES)
    for model, chat in (("builtin:smollm2-135m-instruct", True), ("builtin:gemma-3-270m", False)):
        assert sum(case["model"] == model and case["chat"] is chat for case in CASES) >= 40


@pytest.mark.parametrize("case", CASES, ids=range(1, len(CASES) + 1))  # the line of the file
def test_replies_of_the_local_models(case: dict[str, Any]) -> None:
    task = TextClassification(tuple(case["labels"]))
    assert task.parse_reply(case["reply"], case["finish_reason"], case["chat"]) == case["expected"]


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"text": "Rates rise"}', ["Rates rise"]),
        (' {\n  "text": "He said \\"no\\" \\u2013 twice"\n}\n', ['He said "no" \u2013 twice']),
        ('[{"text": "Rates rise"}, {"text": "Shares fall"}]', ["Rates rise", "Shares fall"]),
        ('{"texts": ["Rates rise", "Shares fall"], "label": "business"}', ["Rates rise", "Shares fall"]),
        ('{"review": "Rates rise", "score": "5"}', ["Rates rise"]),
        ('{"title": "Money", "text": "Rates rise"}', ["Rates rise"]),
        ('{"text": ""}', []),
        ('{"error": "no"}', []),
        ("{{ 7*7 }} is 49", ["{{ 7*7 }} is 49"]),
        ('["Rates rise]', []),
    ],
)
def test_json_holds_its_texts(text: str, expected: list[str], chat: bool) -> None:
    # A base model was asked for one text, whatever it goes on with.
    assert TASK.parse_reply(text, "stop", chat) == (expected if chat else expected[:1])


def test_json_cut_off_keeps_its_whole_texts() -> None:
    for chat in (True, False):
        assert TASK.parse_reply('{"text": "Rates rise and th', "length", chat) == []
        assert TASK.parse_reply('{"text": "Rates rise", "lab', "length", chat) == ["Rates rise"]
    reply = '```json\n[{"text": "Rates rise"},\n {"text": "Shares fa'
    assert TASK.parse_reply(reply, "length", chat=True) == ["Rates rise"]


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<thinking>\nwhat?\n</thinking>\n\nRates rise", ["Rates rise"]),
        ("<Reasoning>what?</Reasoning>Rates rise", ["Rates rise"]),
        ("<|begin_of_thought|>what?<|end_of_thought|>\n<|begin_of_solution|>Rates rise<|end_of_solution|>",
         ["Rates rise"]),
        ("[THINK]what?[/THINK]Rates rise", ["Rates rise"]),
        ("what to write?\n</think>\n\nRates rise", ["Rates rise"]),  # the template opened it
        ("<think>\nwhat to write?", []),
    ],
)  # fmt: skip
def test_thinking_is_no_text(text: str, expected: list[str], chat: bool) -> None:
    assert TASK.parse_reply(text, "stop", chat) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Gerne! Hier ist eine Schlagzeile:\n\n\u201eZinsen steigen\u201c", ["Zinsen steigen"]),
        ("Bien s\u00fbr ! Voici deux titres :\n1. \u00ab Les taux montent \u00bb\n2. \u00ab Tout va bien \u00bb",
         ["Les taux montent", "Tout va bien"]),
        ("\u597d\u7684\uff0c\u4ee5\u4e0b\u662f\u6807\u9898\uff1a\n\n\u300c\u5229\u7387\u4e0a\u5347\u300d",
         ["\u5229\u7387\u4e0a\u5347"]),
        ("1\u3001\u5229\u7387\u4e0a\u5347\n2\u3001\u80a1\u5e02\u4e0b\u8dcc",
         ["\u5229\u7387\u4e0a\u5347", "\u80a1\u5e02\u4e0b\u8dcc"]),
        ("I'm sorry, but as an AI I cannot write that.", []),
        ("I'm sorry, but this film is a mess.", ["I'm sorry, but this film is a mess."]),
        ("Here is one:\n\n> Rates rise.\n> Banks cheer.\n\nI kept it short.", ["Rates rise. Banks cheer."]),
        ("Here is one:\n```text\nRates rise\n```\nIt is short.", ["Rates rise"]),
        ("Question: Why do rates rise?\nAnswer: Because.", ["Why do rates rise?"]),
        ("Answer: Rates rise", ["Rates rise"]),
    ],
)  # fmt: skip
def test_other_ugly_forms(text: str, expected: list[str]) -> None:
    assert TASK.parse_reply(text, "stop", chat=True) == expected


NASTY = (
    "- ", "1. ", "* ", "**x ", "__x ", "*a*", "`", "\n", "a\n", "- a\n", "# a\n", "> a\n", "| a ", "---\n", "```\n",
    '"', '\\"', '"a"\n', '{"', '{"text": "', '["a", ', '{\n"', "<think>\n", "</think>", "<", " ", "\u201c",
    "Text: ", "sport: ", "[sport] ", "sport\n", "here is a text ", "Sure! ", "a a review ", "review 1: a\n",
)  # fmt: skip


@pytest.mark.parametrize("nasty", NASTY)
def test_a_megabyte_of_anything_is_read_in_linear_time(nasty: str) -> None:
    reply = nasty * (1_000_000 // len(nasty))
    for chat in (True, False):
        start = time.process_time()
        TASK.parse_reply(reply, "stop", chat)
        assert time.process_time() - start < 2
