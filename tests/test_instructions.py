"""Instruction data: its shapes, what a prompt is told, what is read out of a reply, what an answer must be like.

``data/instruction_replies.jsonl`` holds replies that Gemma 3 270M (base) and SmolLM2 135M Instruct (chat) wrote to the
shipped templates about rows of Dolly and GSM8K. What is expected was checked by reading each reply.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gendistill.data.instructions import (
    PROBLEMS,
    as_messages,
    common_system,
    find_shape,
    from_messages,
    prompt_of,
    read_fields,
    unique,
)
from gendistill.data.skills import skill_names
from gendistill.examples import Example
from gendistill.prompts import load_template, render, render_messages
from gendistill.tasks.instruction import SHOWN_CHARS, Instruction

CORPUS = Path(__file__).with_name("data") / "instruction_replies.jsonl"
CASES: list[dict[str, Any]] = [json.loads(line) for line in CORPUS.read_text(encoding="utf-8").split("\n") if line]
TASK = Instruction(("recipe, cook", "code"), "Instructions of all kinds")
CODE = "Use a loop:\n\n```python\nfor i in range(3):\n    print(i)\n```\n\n- short\n- plain"


def fields(row: dict[str, Any], max_chars: int = 1000) -> tuple[str, ...] | str:
    shape = find_shape(list(row))
    assert shape is not None
    assert set(shape.columns) <= set(row)
    return read_fields(row, shape, max_chars)


# -- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"instruction": "Add.", "input": "1 2", "output": "3"}, ("", "Add.\n\n1 2", "3")),
        ({"instruction": "Add.", "input": "", "output": 3, "text": "Below is"}, ("", "Add.", "3")),
        ({"instruction": "Sing.", "input": "<noinput>", "output": "La"}, ("", "Sing.", "La")),
        ({"instruction": "Add.", "context": None, "response": "3", "category": "qa"}, ("", "Add.", "3")),
        ({"instruction": float("nan"), "context": "1 + 2", "response": "3"}, ("", "1 + 2", "3")),
        ({"Instruction": "Add.", "Response": "3"}, ("", "Add.", "3")),
        ({"question": "1 + 2?", "answer": "It is\r\n#### 3"}, ("", "1 + 2?", "It is\n#### 3")),
        ({"system_prompt": "Be kind.", "question": "1 + 2?", "response": " 3 "}, ("Be kind.", "1 + 2?", "3")),
        ({"prompt": "1 + 2", "completion": " 3"}, ("", "1 + 2", "3")),
        (
            {"prompt": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "1 + 2"}],
             "completion": [{"role": "assistant", "content": "3"}]},
            ("Be kind.", "1 + 2", "3"),
        ),
        (
            {"prompt": "1 + 2", "prompt_id": "x",
             "messages": [{"role": "user", "content": "1 + 2"}, {"role": "assistant", "content": "3"},
                          {"role": "user", "content": "and 4"}, {"role": "assistant", "content": "7"}]},
            ("", "1 + 2", "3", "and 4", "7"),
        ),
        (
            {"system": "Be kind.", "conversations": [{"from": "human", "value": "1 + 2"},
                                                     {"from": "gpt", "value": "3"}]},
            ("Be kind.", "1 + 2", "3"),
        ),
        ({"conversations": {"from": ["human", "gpt"], "value": ["1 + 2", "3"]}}, ("", "1 + 2", "3")),
        (
            {"messages": '[{"role": "user", "content": "1 + 2"}, {"role": "assistant", "content": "3"}]'},
            ("", "1 + 2", "3"),
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "1"}, {"type": "text", "text": "+ 2"}]},
                          {"role": "assistant", "content": "3", "tool_calls": None}]},
            ("", "1\n+ 2", "3"),
        ),
        ({"prompt": '[{"a": 1}] is what?', "completion": "JSON"}, ("", '[{"a": 1}] is what?', "JSON")),
        ({"prompt": "half \ud83d", "completion": "ok"}, ("", "half \ufffd", "ok")),
    ],
)  # fmt: skip
def test_rows_of_every_shape(row: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert fields(row) == expected


def turns(*roles: str, content: Any = "x") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role in roles]}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"instruction": " ", "input": None, "output": "3"}, "no_prompt"),
        ({"instruction": "Add.", "input": "", "output": ""}, "no_answer"),
        ({"prompt": "Add.", "completion": None}, "no_answer"),
        ({"prompt": {"a": "b"}, "completion": "3"}, "not_text"),
        ({"messages": []}, "no_prompt"),
        ({"messages": None}, "no_prompt"),
        (turns("system", "user"), "no_assistant_turn"),
        (turns("assistant"), "no_prompt"),
        (turns("user", "assistant", "user"), "last_turn_not_assistant"),
        (turns("assistant", "user", "assistant"), "bad_role"),
        (turns("user", "user", "assistant"), "bad_role"),
        (turns("user", "system", "assistant"), "bad_role"),
        (turns("user", "tool", "assistant"), "bad_role"),
        (turns("user", "assistant", content=[{"type": "image_url", "image_url": "x"}]), "not_text"),
        (turns("user", "assistant", content=""), "no_prompt"),
        ({"messages": ["hello"]}, "not_text"),
        ({"messages": [{"text": "hello"}]}, "bad_role"),
        ({"prompt": "x" * 900, "completion": "y" * 101}, "too_long"),
    ],
)
def test_rows_that_are_none(row: dict[str, Any], problem: str) -> None:
    assert fields(row) == problem
    assert PROBLEMS[problem].startswith("rows dropped: ")


def test_what_is_no_instruction_data() -> None:
    for columns in (["text", "label"], ["question", "label"], ["premise", "hypothesis", "label"], ["instruction"], []):
        assert find_shape(columns) is None


@given(st.lists(st.text(min_size=1).filter(lambda text: text == text.strip() and "\r" not in text), min_size=2))
def test_messages_and_back(texts: list[str]) -> None:
    given_fields = ("", *texts[: len(texts) // 2 * 2])
    messages = as_messages(given_fields)
    assert [message["role"] for message in messages[:2]] == ["user", "assistant"]
    assert from_messages(messages) == given_fields


def test_a_system_message_is_kept() -> None:
    assert as_messages(("Be kind.", "a", "b"))[0] == {"role": "system", "content": "Be kind."}
    assert from_messages(as_messages(("Be kind.", "a", "b"))) == ("Be kind.", "a", "b")


def test_a_prompt_may_have_two_answers_but_no_row_stands_twice() -> None:
    rows = [("", "a", "b"), ("", "a", "c"), ("", "a", "b"), ("s", "a", "b")]
    assert unique(rows) == ([("", "a", "b"), ("", "a", "c"), ("s", "a", "b")], 1)
    assert prompt_of(rows[0]) == prompt_of(rows[1]) != prompt_of(rows[3])


def test_the_system_message_of_a_dataset() -> None:
    assert common_system([("s", "a", "b")] * 19 + [("", "a", "b")]) == "s"
    assert common_system([("s", "a", "b")] * 9 + [("", "a", "b")]) == ""
    assert common_system([]) == ""


# -- prompts ----------------------------------------------------------------------------------------------------------


def test_prompt_values() -> None:
    values = TASK.prompt_values(0, [Example(("", "Ask", "Answer", "More", "Yes"), 0)], [Example(("s", "A", "B"), 0)])
    assert values["label"] == "recipe, cook"
    assert values["exemplars"] == [{"instruction": "Ask", "answer": "Answer", "system": ""}]
    assert values["best"] == [{"instruction": "A", "answer": "B", "system": "s"}]


def test_examples_that_are_too_long_are_not_shown() -> None:
    short, long = Example(("", "a", "b"), 0), Example(("", "a", "b" * SHOWN_CHARS), 0)
    shown = TASK.prompt_values(0, [long, short])["exemplars"]
    assert [view["answer"] for view in shown] == ["b"]
    (view,) = TASK.prompt_values(0, [long])["exemplars"]
    assert len(view["answer"]) < SHOWN_CHARS


@pytest.mark.parametrize("names", [("",), ("recipe, cook",)])
def test_shipped_templates(names: tuple[str, ...]) -> None:
    task = Instruction(names, None, "Be kind.")
    values = task.prompt_values(0, [Example(("", "Loop {{ 7*7 }}", CODE), 0)])
    prompt = render(load_template("instruction.base"), **values)
    assert prompt.endswith("### Instruction:") and CODE in prompt and "{{ 7*7 }}" in prompt
    assert ("recipe" in prompt) == (names != ("",))
    roles, contents = zip(*render_messages(load_template("instruction.chat"), **values), strict=True)
    assert roles == ("system", "user")
    assert CODE in contents[1] and "Be kind." in contents[1] and ("recipe" in contents[1]) == (names != ("",))
    assert task.prompt_values(0, [])["best"] == []
    render_messages(load_template("instruction.chat"), **task.prompt_values(0, []))


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("answer", ["Paris.", CODE, "1. one\n2. two\n\nDone.", "x = 1\n#### 72", "**Bold** and plain"])
def test_what_a_tuned_generator_learns_is_read_as_it_was(answer: str, chat: bool) -> None:
    task = Instruction(("",), system="Be kind.")
    example = Example(("Be kind.", "Write:\n\n    code\n\nOutput: 5", answer), 0)
    reply = task.answer(example, chat)
    if not chat:
        stop = reply.index(task.stop(chat)[0])
        reply = reply[:stop]
    assert task.candidates(reply, "stop", chat) == [example.fields]


# -- replies ----------------------------------------------------------------------------------------------------------


def pairs(reply: str, finish_reason: str = "stop", chat: bool = True) -> list[tuple[str, ...]]:
    return [found[1:] for found in TASK.candidates(reply, finish_reason, chat)]


def test_the_corpus_is_of_both_models() -> None:
    for model, chat in (("builtin:smollm2-135m-instruct", True), ("builtin:gemma-3-270m", False)):
        assert sum(case["model"] == model and case["chat"] is chat for case in CASES) >= 15
    assert len({case["reply"] for case in CASES}) == len(CASES) >= 40


@pytest.mark.parametrize("case", CASES, ids=range(1, len(CASES) + 1))  # the line of the file
def test_replies_of_the_local_models(case: dict[str, Any]) -> None:
    found = pairs(case["reply"], case["finish_reason"], case["chat"])
    assert [list(pair) for pair in found] == case["expected"]


ONE = [("Name a city.", "Paris.")]
TWO = [("Name a city.", "Paris."), ("Add 1 and 2.", "3")]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Instruction: Name a city.\nAnswer: Paris.", ONE),
        ("**Instruction:** Name a city.\n\n**Answer:** Paris.", ONE),
        ("**Instruction**: Name a city.\n**Response**: Paris.", ONE),
        ("### Instruction:\nName a city.\n\n### Response:\nParis.", ONE),
        ("### New Instruction\n\nName a city.\n\n### Answer\n\nParis.", ONE),
        ("*Instruction:* Name a city.\n*Answer:* Paris.", ONE),
        ("Question: Name a city.\nAnswer: Paris.", ONE),
        ("Q: Name a city.\nA: Paris.", ONE),
        ("User: Name a city.\nAssistant: Paris.\nUser: And another?\nAssistant: Rome.", ONE),
        ("Input: Name a city.\nOutput: Paris.", ONE),
        ("Prompt: \"Name a city.\"\nCompletion: \"Paris.\"", ONE),
        ("[Instruction]: Name a city.\n[Answer]: Paris.", ONE),
        ("Instruction\uff1aName a city.\nAnswer\uff1aParis.", ONE),
        ("Here is a new example:\n\nInstruction: Name a city.\nAnswer: Paris.\n\nLet me know if you want another "
         "example!", ONE),
        ("Sure! Here's one:\n\n---\n\n**Instruction:** Name a city.\n\n**Answer:** Paris.\n\n---", ONE),
        ("<think>What to write?\nInstruction: no</think>\nInstruction: Name a city.\nAnswer: Paris.<|im_end|>", ONE),
        ("```\nInstruction: Name a city.\nAnswer: Paris.\n```\nThis is new.", ONE),
        ("Name a city.\n\nAnswer: Paris.", ONE),
        ("1. Name a city.\nAnswer: Paris.\n\n2. Add 1 and 2.\nAnswer: 3", TWO),
        ("Name a city.\nAnswer: Paris.\n\nAdd 1 and 2.\nAnswer: 3", TWO),
        ("Instruction: Name a city.\nAnswer: Paris.\n\nInstruction: Add 1 and 2.\nAnswer: 3", TWO),
        ("1. **Instruction:** Name a city.\n   **Answer:** Paris.\n\n2. **Instruction:** Add 1 and 2.\n"
         "   **Answer:** 3", TWO),
        ("### Example 1\n\nInstruction 1: Name a city.\nAnswer 1: Paris.\n\n### Example 2\n\n"
         "Instruction 2: Add 1 and 2.\nAnswer 2: 3", TWO),
        ("Instruction: Name a city.\nInput: None\nOutput: Paris.", ONE),
        ("Instruction: Add.\nInput: 1 and 2\nOutput: 3", [("Add.\n\n1 and 2", "3")]),
        ("Context: Oslo is in Norway.\nQuestion: Where is Oslo?\nAnswer: Norway.",
         [("Where is Oslo?\n\nOslo is in Norway.", "Norway.")]),
        ("Question: 2 + 3?\nAnswer: 5.\n\n1. \nQuestion: Name a city.\nAnswer: Paris.", [("2 + 3?", "5."), *ONE]),
        # Content stays as it is
        ("Instruction: Write a loop.\nAnswer: " + CODE, [("Write a loop.", CODE)]),
        ("Instruction: Cook.\nAnswer: Ingredients:\n- rice\n\nInstructions:\n1. Boil.\n\nOutput: rice",
         [("Cook.", "Ingredients:\n- rice\n\nInstructions:\n1. Boil.\n\nOutput: rice")]),
        ("Question: Which?\nA: one\nB: two\nAnswer: B", [("Which?\nA: one\nB: two", "B")]),
        ("Instruction: Fix it.\n```\nAnswer: 5\n```\nAnswer: Done.", [("Fix it.\n```\nAnswer: 5\n```", "Done.")]),
        ("Instruction: Say hello.\nAnswer: **Hello**, you.\n\nI hope this helps!",
         [("Say hello.", "**Hello**, you.\n\nI hope this helps!")]),
        # JSON
        ('{"instruction": "Name a city.", "answer": "Paris."}', ONE),
        ('Here it is:\n```json\n{\n  "instruction": "Name a city.",\n  "output": "Paris."\n}\n```', ONE),
        ('[{"question": "Name a city.", "answer": "Paris."}, {"question": "Add 1 and 2.", "answer": 3}]', TWO),
        ('{"instruction": "Name a city.", "answer": "Paris."}\n{"instruction": "Add 1 and 2.", "answer": "3"}', TWO),
        ('{"instruction": "Add.", "input": "1 and 2", "output": "3"}', [("Add.\n\n1 and 2", "3")]),
        ('{"instruction": "Two lines.", "answer": "a\\nb"}', [("Two lines.", "a\nb")]),
        ('{"instruction": "Two lines.", "answer": "a\nb"}', [("Two lines.", "a\nb")]),
        ('{"instruction": "Say "hello" now", "answer": "Hello.",}', [('Say "hello" now', "Hello.")]),
        ('{"instruction": "As JSON.", "answer": {"a": 1}}', [("As JSON.", '{"a": 1}')]),
        ('Instruction: As JSON.\nAnswer:\n{"question": "x", "answer": "y"}',
         [("As JSON.", '{"question": "x", "answer": "y"}')]),
        # Nothing there
        ("", []),
        ("I'm sorry, but I cannot do that.", []),
        ("Instruction: Name a city.", []),
        ("Instruction: Name a city.\nAnswer:", []),
        ("Question: Name a city. Answer: Paris.", ONE),
        ('"Question: Name a city."\nAnswer: Paris.', ONE),
        ("Question: Is it so?\nOutput: 5\nAnswer: Yes.", [("Is it so?\nOutput: 5", "Yes.")]),
        ("Answer: Paris.", []),
        ('{"instruction": "Name a city."}', []),
    ],
)  # fmt: skip
def test_chat_replies(reply: str, expected: list[tuple[str, str]]) -> None:
    assert pairs(reply) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (" Name a city.\n\n### Response:\nParis.\n", ONE),
        ("\nName a city.\n### Response: Paris.", ONE),
        (" Name a city.\n\n### Answer:\nParis.\n\n### Instruction: Add 1 and 2.\n\n### Answer:\n3", TWO),
        (" Name a city.\n\n### Response:\nParis.\n\n### Response:\nRome.", ONE),
        (" Add.\n\n### Input:\n1 and 2\n\n### Response:\n3", [("Add.\n\n1 and 2", "3")]),
        (" Cook.\n\n### Response:\n## Rice\n### Ingredients\n- rice\n#### 72",
         [("Cook.", "## Rice\n### Ingredients\n- rice\n#### 72")]),
        (" Do it.\nQuestion: 1 + 2?\nAnswer:\n\n### Response:\n3", [("Do it.\nQuestion: 1 + 2?\nAnswer:", "3")]),
        (" Name a city.\nAnswer: Paris.", []),
        ("", []),
        ("\n\n### Response:\nParis.", []),
    ],
)  # fmt: skip
def test_base_replies(reply: str, expected: list[tuple[str, str]]) -> None:
    assert pairs(reply, chat=False) == expected


def test_a_pair_that_is_cut_off_is_left_out() -> None:
    two = "Instruction: Name a city.\nAnswer: Paris.\n\nInstruction: Add 1 and 2.\nAnswer: Th"
    assert pairs(two, "length") == ONE
    assert pairs("Instruction: Name a city.\nAnswer: Par", "length") == []
    assert pairs("Instruction: Name a city.\nAnswer: Paris.\n\nInstruction: Add 1", "length") == ONE
    assert pairs("```\nInstruction: Name a city.\nAnswer: Paris.\n```\nThis is a n", "length") == ONE
    assert (
        pairs('[{"instruction": "Name a city.", "answer": "Paris."}, {"instruction": "Add", "answer": "Th', "length")
        == ONE
    )
    assert pairs('{"instruction": "Name a city.", "answer": "Par', "length") == []
    assert pairs(" Name a city.\n\n### Response:\nPar", "length", chat=False) == []


def test_candidates_have_the_system_message_of_the_dataset() -> None:
    assert Instruction(("",), system="Be kind.").candidates("Q: a\nA: b", "stop", True) == [("Be kind.", "a", "b")]


NASTY = (
    "- ", "1. ", "* ", "**", "__", "*a*", "`", "\n", "a\n", "- a\n", "# a\n", "> ", "> a\n", "---\n", "```\n", '"',
    '\\"', '{"', '{"instruction": "', '{"instruction": "a", "answer": "b"}\n', '[{"instruction": ', "[", "[\n", "{\n",
    "<think>\n", "</think>", "<", " ", "Instruction: ", "Instruction: a\n", "Answer: a\n", "Answer:\n\n",
    "Instruction: a\nAnswer: b\n", "### Instruction\n", "### Response\n", "### Instruction: a\n### Response: b\n",
    "Input: a\n", "\nContext:\n", "the new ", "Instruction (", "Sure here is ", "Instruction", "1.", "(1) ",
    "q1. a\nanswer: b\n", "Answer 1", "\n\n```\nanswer:", " Answer: a", "  **Answer:** ",
)  # fmt: skip


@pytest.mark.parametrize("nasty", NASTY)
def test_a_long_reply_of_anything_is_read_in_linear_time(nasty: str) -> None:
    body = nasty * (100_000 // len(nasty))
    ends = (("", ""), ("Question: a\n", "\nAnswer: b"), ("Question: a\nAnswer: b\n", ""), ("x\n", "Answer: b"))
    for before, after in ends:
        for chat in (True, False):
            start = time.process_time()
            pairs(before + body + after, "stop", chat)
            assert time.process_time() - start < 1


@given(st.lists(st.sampled_from([*NASTY, "x", "Question: ", "A: "]), max_size=30).map("".join), st.booleans())
def test_no_field_is_ever_empty(reply: str, chat: bool) -> None:
    for reason in ("stop", "length"):
        assert all(part == part.strip() != "" for pair in pairs(reply, reason, chat) for part in pair)


# -- checks -----------------------------------------------------------------------------------------------------------

WORDS = ["river", "stone", "light", "garden", "music", "winter", "paper", "copper", "forest", "island", "engine",
         "window", "market", "silver", "bridge"]  # fmt: skip


def prose(count: int = 200) -> list[Example]:
    def sentence(row: int, offset: int) -> str:
        return " ".join(WORDS[(row * 7 + offset + k * (row % 4 + 1)) % len(WORDS)] for k in range(8)).capitalize()

    return [
        Example(("", f"Describe the {WORDS[row % 15]} of {row}.", f"{sentence(row, 0)}. {sentence(row, 3)} {row}."), 0)
        for row in range(count)
    ]


def verdict(real: list[Example], ask: str, answer: str, label: int = 0) -> str | None:
    check = TASK.checks(real)
    assert check is not None
    found = check(Example(("", ask, answer), label))
    return found.filter if found else None


def test_without_real_rows_there_is_no_check() -> None:
    assert TASK.checks([]) is None


GOOD = "The river bends to the north there. Stone walls keep the garden dry in winter."


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        (GOOD, None),
        ("The river is 72 miles long, as the old market paper of the island says.", None),
        ("I can't say that I love it, but the light in the garden is good in winter.", None),
        ("...", "no_answer"),
        ("[Your answer here]", "no_answer"),
        ("I'm sorry, but I cannot help with that request, since it is about a river.", "refused"),
        ("As an AI language model, I don't have a garden of my own. I can tell of one.", "refused"),
        ("I\u2019m sorry, but as an AI I have never seen the river of stone.", "refused"),
        ("Describe the river of the north.", "answer_copied"),
        ("Describe the river of the north. It is long and wide and full of stone.", "answer_copied"),
        ("The river bends to the north there. Stone walls keep the garden dry in", "unfinished"),
        ("Use this. It is short.\n\n```python\nprint(1)", "unfinished"),
        ("Stone. " * 300, "answer_length"),
    ],
)
def test_answers_that_are_kept_and_turned_away(answer: str, name: str | None) -> None:
    assert verdict(prose(), "Describe the river of the north.", answer) == name


@pytest.mark.parametrize(
    "ask",
    ["Say it: " + GOOD, "Which of these? " + GOOD + " Or another one."],
)
def test_an_instruction_that_holds_its_answer(ask: str) -> None:
    assert verdict(prose(), ask, GOOD) == "answer_copied"


@pytest.mark.parametrize(
    "answer",
    [
        "Here they are.\n1. river\n2. stone",
        "A Red\nA Blue\nA Green",
        "So.\n\n```\nx = 1\n```",
        "He said: \u201cNo, no.\u201d",
    ],
)
def test_lists_verses_and_code_may_end_as_they_like(answer: str) -> None:
    lists = [Example(("", f"List {row}.", f"Some:\n- {WORDS[row]}\n- light"), 0) for row in range(15)]
    assert verdict(prose(180) + lists, "Go on.", answer) is None


def test_what_the_real_answers_do_is_allowed() -> None:
    refusing = [Example(("", f"Ask {row}.", f"I'm sorry, but I cannot help with {row}."), 0) for row in range(20)]
    assert verdict(prose(180) + refusing, "Open the safe.", "I'm sorry, but I cannot help with that.") is None
    open_ended = [Example((*row.fields[:2], row.fields[2].rstrip(".")), 0) for row in prose()]
    assert verdict(open_ended, "Describe it.", GOOD.rstrip(".")) is None
    copying = [Example(("", f"Repeat: {row.fields[2]}", row.fields[2]), 0) for row in prose()]
    assert verdict(copying, "Repeat: " + GOOD, GOOD) is None


@pytest.mark.parametrize(
    ("real", "good", "bad"),
    [
        ("It is {0} + 1 = 2.\n#### {0}", "It is 2 + 1 = 3.\n#### 1,002", "It is 2 + 1, three."),
        ('{{"number": {0}, "word": "x"}}', '{"number": 5, "word": "x"}', 'The JSON is {"number": 5}'),
        ("w{0}", "river", "a river"),
        ("No", "Yes.", "Maybe"),
        ("Use {0}:\n```\nx = {0}\n```", "Use 5:\n```\nx = 5\n```", "Use x = 5, as it says there"),
        ("So it is \\boxed{{{0}}} in all.", "So it is \\boxed{5} in all.", "So it is five in all."),
        ("{0} is the river of stone.", "5 is the river of stone.", "5 is the\nriver of stone."),
    ],
)  # fmt: skip
def test_formats_that_nearly_all_real_answers_have(real: str, good: str, bad: str) -> None:
    rows = [Example(("", f"Ask about {row}.", real.format(row)), 0) for row in range(100)]
    odd = [Example(("", f"Say {row}.", f"Some other {row} stands\nhere"), 0) for row in range(4)]
    assert verdict(rows + odd, "Ask about much.", good) is None
    assert verdict(rows + odd, "Ask about much.", bad) == "format"
    more = [Example(("", f"Say {row}.", f"Some other {row} stands\nhere"), 0) for row in range(10)]
    assert verdict(rows + more, "Ask about much.", bad) is None


def test_few_rows_teach_neither_formats_nor_lengths() -> None:
    assert verdict([Example(("", "Ask.", "Yes"), 0)] * 5, "Describe it.", GOOD + "\n" + GOOD) is None


def test_a_format_of_one_group_is_asked_of_that_group_alone() -> None:
    sums = [Example(("", f"Add {row}.", f"It is so.\n#### {row}"), 1) for row in range(100)]
    rows = prose() + sums
    assert verdict(rows, "Add 5.", "It is five in all.", 1) == "format"
    assert verdict(rows, "Add 5.", "It is five in all.", 0) is None


# -- names of groups --------------------------------------------------------------------------------------------------


def test_skill_names() -> None:
    rows = [
        ("Give me a recipe to cook rice in the oven.", 0), ("A recipe to cook an apple pie in the oven?", 0),
        ("Recipes to cook with the oven, please.", 0), ("Write a Python function to sort a list.", 1),
        ("Debug this Python function, please.", 1), ("What does this Python function give me?", 1), ("...", 2),
    ]  # fmt: skip
    names = skill_names([Example(("", ask, "x"), 0) for ask, _ in rows], [label for _, label in rows])
    assert set(names[0].split(", ")) == {"recipe", "cook", "oven"}
    assert names[1].startswith("python, function") or names[1].startswith("function, python")
    assert names[2] == "group 3"


def test_names_of_groups_are_never_the_same() -> None:
    same = [Example(("", "Cook some rice in the oven now, chef", "x"), 0) for _ in range(9)]
    names = skill_names(same, [0, 1, 2] * 3)
    assert len(set(names)) == 3 and all(names)
    assert skill_names(same, [0] * 9, count=2)[0].count(",") == 1
    assert skill_names([], []) == []


def test_imports_are_light() -> None:
    code = (
        "import sys, gendistill.tasks.instruction, gendistill.data.instructions as d; "
        "print([name for name in ('torch', 'sklearn') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
