"""The shapes of a row: what its columns say it is, and conversations of one form whatever a file calls them.

====================  =======================================================================================
shape                 columns
====================  =======================================================================================
``classification``    ``text``, ``label`` or ``label_name``
``pairs``             ``text_a``, ``text_b``, ``label`` or ``label_name``
``multi-label``       ``text``, ``labels`` (a list of names, which may be empty)
``instruction``       ``messages``; or ``instruction`` (and ``input``, ``history``) with ``output``; or ``prompt``
                      with ``completion``; ``system`` beside any of them
====================  =======================================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from gendistill.errors import DataError

Shape = Literal["classification", "pairs", "multi-label", "instruction"]
Message = dict[str, str]  # {"role": one of ROLES, "content": text}

SHAPES: tuple[Shape, ...] = ("classification", "pairs", "multi-label", "instruction")
ROLES = ("system", "user", "assistant")
PAIR = ("text_a", "text_b")
NO_LABEL = "none"  # how a row without any of several labels is answered


def shape_of(row: Mapping[str, Any]) -> Shape | None:
    """The shape that a row's columns say, those that are None counting as absent; None if they say none."""
    there = {key for key, value in row.items() if value is not None}
    if not there.isdisjoint(PAIR):
        return "pairs"
    if "messages" in there:
        return "instruction"
    if "text" in there:
        return "multi-label" if isinstance(row.get("labels"), list) else "classification"
    return "instruction" if {"instruction", "output"} <= there or {"prompt", "completion"} <= there else None


def common_shape(rows: Iterable[Mapping[str, Any]]) -> Shape:
    """The shape of all rows; that of a classification where there are none.

    :raises DataError: rows of several shapes, or of none.
    """
    found: Shape | None = None
    for number, row in enumerate(rows, 1):
        shape = shape_of(row)
        if shape is None:
            raise DataError(f"row {number}: no text and no conversation; its columns are {', '.join(row) or 'none'}")
        if found is not None and shape != found:
            raise mixed(f"row {number}", shape, found)
        found = shape
    return found or "classification"


def mixed(where: str, shape: Shape, before: Shape) -> DataError:
    """The error of a row that has another shape than those before it."""
    return DataError(f"{where}: a row of {shape}, where those before it are of {before}; give each shape a file")


def messages_of(row: Mapping[str, Any], where: str) -> list[Message]:
    """A row's conversation, as messages of a role and a content and nothing else.

    A "system" column beside them is the system message where there is none; an empty system message is left out. An
    instruction and its input are joined by a line end, as LLaMA-Factory does (src/llamafactory/data/converter.py).

    :param where: file and line, to begin a message with.
    :raises DataError: no conversation, or one that no model can be trained on: the last message must be the assistant's
        and say something, a user must have spoken before it, and a system message can only come first.
    """
    if row.get("messages") is not None:
        turns = _turns(row["messages"], "messages", where)
    elif row.get("prompt") is not None:
        turns = [
            *_spoken(row["prompt"], "user", "prompt", where),
            *_spoken(row.get("completion"), "assistant", "completion", where),
        ]
    else:
        turns = _alpaca(row, where)
    if row.get("system") is not None and turns[0]["role"] != "system":
        turns = [{"role": "system", "content": _string(row["system"], "system", where)}, *turns]
    if turns[0]["role"] == "system" and not turns[0]["content"].strip():
        turns = turns[1:]
    roles = [turn["role"] for turn in turns]
    if "assistant" not in roles:
        raise DataError(f"{where}: no message of the assistant's, so there is nothing to learn")
    if roles[-1] != "assistant":
        raise DataError(f"{where}: the last message is the {roles[-1]}'s; it must be the assistant's")
    if "system" in roles[1:]:
        raise DataError(f"{where}: message {roles.index('system', 1) + 1} is the system's; it can only be the first")
    if "user" not in roles:
        raise DataError(f"{where}: no message of a user's before the assistant's")
    for number, turn in enumerate(turns, 1):
        if not turn["content"].strip():
            raise DataError(f"{where}: message {number}, the {turn['role']}'s, is empty")
    return turns


def in_turn(messages: Iterable[Message]) -> bool:
    """Whether a user and the assistant speak in turn, the user first, after a system message or none."""
    roles = [message["role"] for message in messages if message["role"] != "system"]
    return roles == ["user", "assistant"] * (len(roles) // 2)


def _turns(value: Any, column: str, where: str) -> list[Message]:
    if not isinstance(value, list) or not value:
        what = "an empty list" if isinstance(value, list) else "no list of messages"
        raise DataError(f"{where}: {what} in column {column!r}; each message is an object with 'role' and 'content'")
    turns = []
    for number, message in enumerate(value, 1):
        if not isinstance(message, Mapping):
            raise DataError(f"{where}: message {number} in {column!r} is no object with 'role' and 'content'")
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise DataError(f"{where}: message {number} has the role {role!r}; there is {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise DataError(f"{where}: the content of message {number} is {_kind(content)}, not a string")
        turns.append({"role": str(role), "content": content})
    return turns


def _spoken(value: Any, role: str, column: str, where: str) -> list[Message]:
    """Messages, or one text that is a message of this role."""
    if isinstance(value, list):
        return _turns(value, column, where)
    text = _string(value, column, where)
    # The space that joins a completion to its prompt for a tokenizer is none of its words.
    return [{"role": role, "content": text.strip() if role == "assistant" else text}]


def _alpaca(row: Mapping[str, Any], where: str) -> list[Message]:
    history = [] if row.get("history") is None else row["history"]
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise DataError(f"{where}: column 'history' is no list of pairs, each a user's text and the reply")
    turns = []
    for pair in history:
        turns += [
            {"role": role, "content": _string(text, "history", where)}
            for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
    asked = [_string(row[key], key, where) for key in ("instruction", "input") if row.get(key) is not None]
    answer = _string(row.get("output"), "output", where)
    return [
        *turns,
        {"role": "user", "content": "\n".join(text for text in asked if text.strip())},
        {"role": "assistant", "content": answer},
    ]


def _string(value: Any, column: str, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where}: {_kind(value)} in column {column!r}, not a string")
    return value


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    kinds = ((list, "a list"), (Mapping, "an object"), ((int, float), "a number"), (str, "a string"))
    return next((name for kind, name in kinds if isinstance(value, kind)), f"a {type(value).__name__}")
