"""Instruction data: the shapes that people have it in, and one row of it as text fields.

An instruction example has the fields (system, user, assistant), or (system, user, assistant, user, assistant, ...) for
a conversation. The system message may be empty, every other field says something, and the last one is the answer.

Three shapes are read: an instruction with its answer in two or three columns (Alpaca, Dolly, GSM8K); a prompt with its
completion (TRL), each a string or a list of messages; and a list of messages (OpenAI, TRL: role and content; ShareGPT:
from and value). Imports nothing heavy.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Fields = tuple[str, ...]

# The first pair of columns that a dataset has is taken; a list of messages says most, and so comes first.
MESSAGE_COLUMNS = ("messages", "conversations", "conversation")
PROMPT_COLUMNS = (
    ("instruction", ("output", "response", "answer", "completion")),
    ("prompt", ("completion", "response")),
    ("question", ("answer", "response")),
)
LIST_COLUMNS = (*MESSAGE_COLUMNS, "prompt", "completion")  # that may hold messages, in lower case
CONTEXT_COLUMNS = ("input", "context")
SYSTEM_COLUMNS = ("system", "system_prompt", "system_message")

PROBLEMS: dict[str, str] = {
    "no_prompt": "rows dropped: nothing is asked",
    "no_answer": "rows dropped: the answer, or one of a conversation, is empty",
    "no_assistant_turn": "rows dropped: a conversation without a turn of the assistant",
    "last_turn_not_assistant": "rows dropped: a conversation that ends before the assistant answers",
    "bad_role": "rows dropped: the turns are not the user's and the assistant's in alternation, the user's first, "
    "after at most one system message",
    "not_text": "rows dropped: something else than text, such as an image or a tool call",
    "too_long": "rows dropped: more characters than data.max_chars in all",
}  # fmt: skip

_ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant",
}  # fmt: skip
_ROLE_KEYS = (("role", "content"), ("from", "value"))
_NO_INPUT = re.compile(r"<? ?no ?input ?>?\.?|nan", re.IGNORECASE)  # what Alpaca and its like write for none
_SURROGATE = re.compile("[\ud800-\udfff]")
_SYSTEM_SHARE = 0.95  # of the rows, for a system message to be the dataset's


class _Problem(Exception):
    """A row that cannot be an instruction example; its argument is a key of ``PROBLEMS``."""


@dataclass(frozen=True, slots=True)
class InstructionShape:
    """Which columns of a dataset hold what.

    ``prompt`` is the instruction, or what the completion follows, or the list of messages; ``answer`` is None where
    the messages hold the answer too.
    """

    kind: Literal["instruction", "completion", "messages"]
    prompt: str
    answer: str | None = None
    context: str | None = None  # what the instruction is about
    system: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Those that must be read."""
        return tuple(column for column in (self.system, self.prompt, self.context, self.answer) if column is not None)


def find_shape(columns: Sequence[str]) -> InstructionShape | None:
    """The shape of a dataset with these columns, whatever their case; None if it is not instruction data."""
    by_name = {column.lower(): column for column in reversed(columns)}  # of two the first

    def first(names: Sequence[str]) -> str | None:
        return next((by_name[name] for name in names if name in by_name), None)

    system = first(SYSTEM_COLUMNS)
    if (messages := first(MESSAGE_COLUMNS)) is not None:
        return InstructionShape("messages", messages, system=system)
    for prompt, answers in PROMPT_COLUMNS:
        if prompt in by_name and (answer := first(answers)) is not None:
            if prompt == "instruction":
                return InstructionShape("instruction", by_name[prompt], answer, first(CONTEXT_COLUMNS), system)
            return InstructionShape("completion", by_name[prompt], answer, system=system)
    return None


def read_fields(values: Mapping[str, Any], shape: InstructionShape, max_chars: int) -> Fields | str:
    """The fields of one row, or the name of what is wrong with it, a key of ``PROBLEMS``.

    :param values: the row, by column.
    :param max_chars: of all fields together.
    """
    try:
        prompt = _opened(values.get(shape.prompt))
        answer = _opened(values.get(shape.answer)) if shape.answer is not None else None
        system = _text(values.get(shape.system)) if shape.system is not None else ""
        if shape.kind == "messages" or _is_list(prompt) or _is_list(answer):
            turns = _turns(prompt, "user")
            if shape.answer is not None:
                turns += _turns(answer, "assistant")
            fields = _fields(turns, system)
        else:
            user = _text(prompt)
            if shape.context is not None and (context := _text(values.get(shape.context))):
                user = user if _NO_INPUT.fullmatch(context) else "\n\n".join(filter(None, (user, context)))
            fields = _fields([("user", user), ("assistant", _text(answer))], system)
    except _Problem as problem:
        return str(problem)
    return "too_long" if sum(map(len, fields)) > max_chars else fields


def as_messages(fields: Sequence[str]) -> list[dict[str, str]]:
    """The fields of an example as messages with role and content; an empty system message is left out."""
    roles = ("system", *("assistant" if turn % 2 else "user" for turn in range(len(fields) - 1)))
    return [
        {"role": role, "content": text} for role, text in zip(roles, fields, strict=True) if role != "system" or text
    ]


def from_messages(messages: Any) -> Fields | str:
    """The fields of a list of messages, or the name of what is wrong with it, a key of ``PROBLEMS``."""
    try:
        return _fields(_turns(_opened(messages), "user"), "")
    except _Problem as problem:
        return str(problem)


def unique(rows: Iterable[Fields]) -> tuple[list[Fields], int]:
    """Every row once, in order, and how many were left out.

    Only a row whose prompt and answer both stood before is a duplicate: a prompt may have several good answers.
    """
    read = list(rows)
    kept = list(dict.fromkeys(read))
    return kept, len(read) - len(kept)


def prompt_of(fields: Fields) -> Fields:
    """What is asked. Rows that share it belong in one part of a split, or the test is known beforehand."""
    return fields[:-1]


def common_system(rows: Sequence[Fields]) -> str:
    """The system message that nearly all rows have; empty if there is none."""
    counts: dict[str, int] = {}
    for fields in rows:
        counts[fields[0]] = counts.get(fields[0], 0) + 1
    most = max(counts, key=counts.__getitem__, default="")
    return most if counts.get(most, 0) >= _SYSTEM_SHARE * len(rows) else ""


# -- messages ---------------------------------------------------------------------------------------------------------


def _opened(value: Any) -> Any:
    """A list of messages, also where a CSV column holds it as JSON or a hub dataset as columns; else the value."""
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            return value
        return found if _is_list(found) and found and all(map(_is_message, found)) else value
    if isinstance(value, Mapping) and value and all(map(_is_list, value.values())):
        # A sequence of structs comes as a struct of sequences from older hub datasets.
        return [dict(zip(value, turn, strict=False)) for turn in zip(*value.values(), strict=False)]
    return value


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and any(role in value and content in value for role, content in _ROLE_KEYS)


def _turns(value: Any, role: str) -> list[tuple[str, str]]:
    """The (role, text) turns of a list of messages; a string is one turn of ``role``, null none."""
    if not _is_list(value):
        return [(role, text)] if (text := _text(value)) else []
    turns = []
    for message in value:
        if not isinstance(message, Mapping):
            raise _Problem("not_text")
        keys = next((keys for keys in _ROLE_KEYS if message.get(keys[0]) is not None), None)
        if keys is None or not isinstance(message[keys[0]], str):
            raise _Problem("bad_role")
        if message.get("tool_calls"):
            raise _Problem("not_text")
        who = _ROLES.get(message[keys[0]].strip().lower())
        if who is None:
            raise _Problem("bad_role")
        turns.append((who, _text(message.get(keys[1]))))
    return turns


def _fields(turns: list[tuple[str, str]], system: str) -> Fields:
    """The fields of a conversation.

    :param system: the message where the conversation begins with none of its own.
    :raises _Problem: it cannot be an example. A turn that nobody answers costs the whole row: without it, the row
        would be another than the one that was read.
    """
    if turns and turns[0][0] == "system":
        system = turns[0][1] or system
        turns = turns[1:]
    roles = [role for role, _ in turns]
    if not roles or "user" not in roles:
        raise _Problem("no_prompt")
    if "assistant" not in roles:
        raise _Problem("no_assistant_turn")
    if any(role != ("assistant" if turn % 2 else "user") for turn, role in enumerate(roles)):
        raise _Problem("bad_role")
    if roles[-1] != "assistant":
        raise _Problem("last_turn_not_assistant")
    for role, text in turns:
        if not text:
            raise _Problem("no_prompt" if role == "user" else "no_answer")
    return (system, *(text for _, text in turns))


def _text(value: Any) -> str:
    """The text without the white space around it, as ``columns.clean_text`` has it; empty for null and NaN.

    Line ends become ``\\n``, since formats of answers are told by their lines.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if _is_list(value):  # OpenAI's list of parts
        parts = [part.get("text") if isinstance(part, Mapping) else part for part in value]
        texts = [part for part in parts if isinstance(part, str)]
        if len(texts) < len(parts):
            raise _Problem("not_text")
        value = "\n".join(texts)
    if not isinstance(value, (str, int, float)):
        raise _Problem("not_text")
    text = str(value).strip()
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)
