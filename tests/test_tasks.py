"""Text classification: what a prompt is told, and what is read out of a reply."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gendistill.examples import Example
from gendistill.tasks import TASKS, TextClassification

TASK = TextClassification(("business", "sport"), {"sport": "games"}, "News headlines")


def test_prompt_values() -> None:
    values = TASK.prompt_values(1, [Example(("real",), 1)], [Example(("best",), 1)])
    assert values == {
        "description": "News headlines", "labels": ["business", "sport"], "label": "sport",
        "label_description": "games", "exemplars": ["real"], "best": ["best"],
        "related": [], "group": "",
    }  # fmt: skip
    assert TASK.prompt_values(0, [])["label_description"] == ""


def test_stop_and_registry() -> None:
    assert TASK.stop(chat=False) == ("\n",)
    assert TASK.stop(chat=True) == ()
    assert TASKS["text_classification"] is TextClassification


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" Rates rise again. Banks cheer.", ["Rates rise again. Banks cheer."]),
        (" Rates rise\n- Another item", ["Rates rise"]),
        ("- Rates  rise\t again ", ["Rates rise again"]),
        (' "Rates rise"', ["Rates rise"]),
        ("Business: Rates rise", ["Rates rise"]),
        ("[business] Rates rise", ["Rates rise"]),
        ("Text: Rates rise", ["Rates rise"]),
        ("", []),
        (" \n", []),
        (" - ... --", []),
        # Content stays as it is
        ("1,000 jobs go at 3.5 plants", ["1,000 jobs go at 3.5 plants"]),
        ('"Yes" and "no"', ['"Yes" and "no"']),
        ("Business leaders meet", ["Business leaders meet"]),
        ("Here is the news: all quiet", ["Here is the news: all quiet"]),
        ("Great cast: a fine film", ["Great cast: a fine film"]),
        ("a *star* is 5 * 4 * 3", ["a *star* is 5 * 4 * 3"]),
        ("{{ 7*7 }}", ["{{ 7*7 }}"]),
    ],
)
def test_base_replies(text: str, expected: list[str]) -> None:
    assert TASK.parse_reply(text, "stop", chat=False) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Rates rise again", ["Rates rise again"]),
        ("Sure, here is a new example:\n\nRates rise again", ["Rates rise again"]),
        ("Sure! Here's a headline for you: Rates rise again", ["Rates rise again"]),
        ("Here is one text of the category:\n\n\"Rates rise\"\n\nLet me know if you need more!", ["Rates rise"]),
        ("Here are two examples:\n1. Rates rise\n2) Shares fall\n\nI hope this helps.", ["Rates rise", "Shares fall"]),
        ("- Rates rise\n  and rise\n- Shares fall", ["Rates rise and rise", "Shares fall"]),
        ("**Text:** Rates rise\n**Label:** business", ["Rates rise"]),
        ("**Rates rise**", ["Rates rise"]),
        ("### Rates rise", ["Rates rise"]),
        ("- **\"Rates rise\"**", ["Rates rise"]),
        ("Rates rise.\n\nBanks cheer.", ["Rates rise. Banks cheer."]),
        ("Rates rise (category: business)", ["Rates rise"]),
        ("\u201cRates rise\u201d", ["Rates rise"]),
        ("'It's late'", ["It's late"]),
        ("```\nRates rise\n```", ["Rates rise"]),
        ("<think>what to write?</think>Rates rise", ["Rates rise"]),
        ("Sure, here is a new example:", []),
        ("Sport", []),
        # Content stays as it is
        ("Great film.", ["Great film."]),
        ("Great film.\nLoved it.", ["Great film. Loved it."]),
        ("I hope this helps somebody", ["I hope this helps somebody"]),
        ("Sport for all", ["Sport for all"]),
    ],
)  # fmt: skip
def test_chat_replies(text: str, expected: list[str]) -> None:
    assert TASK.parse_reply(text, "stop", chat=True) == expected


def test_a_cut_off_text_is_left_out() -> None:
    assert TASK.parse_reply("Rates rise and th", "length", chat=False) == []
    assert TASK.parse_reply("Rates rise and th", "length", chat=True) == []
    assert TASK.parse_reply("1. Rates rise\n2. Shares fa", "length", chat=True) == ["Rates rise"]


def test_label_names_are_no_patterns() -> None:
    task = TextClassification(("c++ (new)", "a|b"))
    assert task.parse_reply("[c++ (new)] Rates rise", "stop", chat=False) == ["Rates rise"]
    assert task.parse_reply("a: Rates rise", "stop", chat=False) == ["a: Rates rise"]


def test_imports_are_light() -> None:
    code = "import sys, gendistill.tasks, gendistill.prompts, gendistill.models; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
