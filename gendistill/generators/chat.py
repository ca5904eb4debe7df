"""The text of a chat, by a model's own template; for generators that tokenize themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError


def chat_text(tokenizer: Any, messages: Sequence[tuple[str, str]], reply: str | None = None) -> str:
    """Up to where the model is to answer; or with its answer, the turn ended.

    :param tokenizer: one that has a chat template.
    :raises TemplateError: the template does not take these messages.
    """
    special = sorted(tokenizer.all_special_tokens, key=len, reverse=True)
    turns = []
    for role, content in (*messages, *(() if reply is None else (("assistant", reply),))):
        for token in special:  # a row must not be able to end the turn that it is shown in
            content = content.replace(token, f"{token[:1]} {token[1:]}")
        turns.append({"role": role, "content": content})
    try:
        text: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=reply is None)
    except TemplateError:
        if len(turns) < 2 or turns[0]["role"] != "system":
            raise
        # Some templates know no system role: its text then opens the first user message.
        turns[1]["content"] = turns[0]["content"] + "\n\n" + turns[1]["content"]
        text = tokenizer.apply_chat_template(turns[1:], tokenize=False, add_generation_prompt=reply is None)
    return text
