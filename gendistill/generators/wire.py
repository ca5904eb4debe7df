"""The OpenAI dialect: what is sent for requests, and the replies that an answer holds.

Servers and batch files share it. https://platform.openai.com/docs/api-reference/chat/create, .../completions/create;
vLLM, SGLang, llama.cpp's server and Ollama answer in the same shapes, each with gaps, so little is taken for granted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gendistill.generators.base import Reply, Request

CHAT, COMPLETIONS = "/chat/completions", "/completions"
SEED_BITS = 31  # some servers keep seeds in 32 bits
MESSAGE_CHARS = 300  # of a server's own words that are kept as a reason
# What a server may not take, and what is sent in its place.
OPTIONAL: dict[str, str | None] = {
    "top_k": None,
    "seed": None,
    "response_format": None,
    "n": None,
    "stop": None,
    "temperature": None,
    "top_p": None,
    "max_tokens": "max_completion_tokens",
}
_FINISH = {None: "stop", "stop": "stop", "eos": "stop", "eos_token": "stop", "length": "length", "max_tokens": "length",
           "content_filter": "content_filter", "safety": "content_filter"}  # fmt: skip


class BadAnswer(Exception):
    """A server said that all is well and sent something that is no answer."""


@dataclass(frozen=True, slots=True)
class Options:
    """What is said beside a request.

    :param left_out: names of ``OPTIONAL`` that the server does not take.
    :param structured: ask for a JSON object with the text in it.
    :param as_chat: send prompts as the one message of a user, for services that take chats alone.
    """

    structured: bool = False
    as_chat: bool = False
    left_out: frozenset[str] = frozenset()

    @property
    def asks_json(self) -> bool:
        return self.structured and "response_format" not in self.left_out


def schema_of(request: Request) -> dict[str, Any]:
    """The JSON schema of a reply: an object with one string a key."""
    return {
        "type": "object",
        "properties": {key: {"type": "string"} for key in request.json_keys},
        "required": list(request.json_keys),
        "additionalProperties": False,
    }


def path_of(request: Request, options: Options) -> str:
    """Under the base URL."""
    return CHAT if request.messages is not None or options.as_chat else COMPLETIONS


def body_of(request: Request, model: str, options: Options, count: int = 1) -> dict[str, Any]:
    """The JSON body that asks for ``count`` answers to a request's prompt."""
    body: dict[str, Any] = {"model": model}
    if request.messages is not None:
        body["messages"] = [{"role": role, "content": content} for role, content in request.messages]
    elif options.as_chat:
        body["messages"] = [{"role": "user", "content": request.prompt}]
    else:
        body["prompt"] = request.prompt
    wished: dict[str, Any] = {
        "max_tokens": request.max_new_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p if request.top_p < 1 else None,
        "top_k": request.top_k or None,
        "seed": request.seed % (1 << SEED_BITS),
        "n": count if count > 1 else None,
        # Between the parts of a JSON object there may be line breaks; it ends by itself
        "stop": None if options.asks_json else list(request.stop) or None,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "example", "strict": True, "schema": schema_of(request)},
        }
        if options.asks_json
        else None,
    }
    for name, value in wished.items():
        instead = OPTIONAL[name] if name in options.left_out else name
        if value is not None and instead is not None:
            body[instead] = value
    return body


def alike(first: Request, second: Request) -> bool:
    """Whether one call can ask for both: all is the same but the seed."""
    return replace(first, id="", seed=0) == replace(second, id="", seed=0)


def grouped(requests: Iterable[Request], most: int) -> Iterator[list[Request]]:
    """Neighbours that one call can ask for, at most so many."""
    group: list[Request] = []
    for request in requests:
        if group and (len(group) >= most or not alike(group[0], request)):
            yield group
            group = []
        group.append(request)
    if group:
        yield group


def replies_in(answer: Any, requests: Sequence[Request]) -> list[Reply]:
    """The replies that an answer holds, to the first of the requests, in their order; perhaps to fewer than all.

    The tokens of an answer are shared out evenly; those of the prompt were computed once, and count for the first.

    :raises BadAnswer: there is none in it.
    """
    if not isinstance(answer, dict) or not isinstance(answer.get("choices"), list):
        raise BadAnswer(f"an answer without choices: {told(answer)}" if isinstance(answer, dict) else "not an answer")
    choices: dict[int, dict[str, Any]] = {}
    for position, choice in enumerate(answer["choices"]):
        if isinstance(choice, dict):
            index = choice.get("index")
            choices.setdefault(index if isinstance(index, int) and len(answer["choices"]) > 1 else position, choice)
    found = [_text_of(choices[index]) for index in sorted(choices)][: len(requests)]
    if not found:
        raise BadAnswer("an answer with empty choices")
    usage = answer.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    prompt, completion = (_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens"))
    replies = []
    for position, ((text, finish, error), request) in enumerate(zip(found, requests, strict=False)):
        share = completion * (position + 1) // len(found) - completion * position // len(found)
        replies.append(Reply(request.id, text, finish, prompt if position == 0 else 0, share, error))
    return replies


def _text_of(choice: dict[str, Any]) -> tuple[str, str, str | None]:
    """(text, finish reason, error) of a choice of either kind of answer."""
    message = choice.get("message")
    finish = choice.get("finish_reason")
    if not isinstance(message, dict):
        text = choice.get("text")
        if not isinstance(text, str):
            raise BadAnswer("a choice without a text")
        return _finished(text, finish)
    content = message.get("content")
    if isinstance(content, list):  # parts
        content = "".join(part.get("text") or "" for part in content if isinstance(part, dict))
    if isinstance(message.get("refusal"), str) and not content:
        return "", "content_filter", None
    if content is None and message.get("tool_calls"):
        return "", "error", "the model called a tool instead of writing a text"
    return _finished(content if isinstance(content, str) else "", finish)


def _finished(text: str, finish: Any) -> tuple[str, str, str | None]:
    reason = _FINISH.get(finish if finish is None else str(finish).lower())
    if reason is None:
        return text, "error", f"the server stopped the text: {str(finish)[:40]}"
    return text, reason, None


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def told(answer: Any) -> str:
    """A server's own words about what went wrong, on one line; empty if it says nothing."""
    error = _error_in(answer)
    if isinstance(error, dict):
        error = next((error[key] for key in ("message", "detail", "error") if error.get(key)), "")
    return " ".join(str(error or "").split())[:MESSAGE_CHARS]


def _error_in(answer: Any) -> Any:
    """What an answer says of an error: mostly an object under ``error``, or the whole answer."""
    return answer.get("error", answer) if isinstance(answer, dict) else answer


def refused_parameter(answer: Any, sent: Iterable[str]) -> str | None:
    """Of a 400: which of the parameters sent the server does not take, if it names one."""
    error = _error_in(answer)
    named = error.get("param") if isinstance(error, dict) else None
    words = set(re.findall(r"[a-z_]+", f"{named or ''} {told(answer)}".lower()))
    for name in sent:
        if name in OPTIONAL and (named == name if isinstance(named, str) and named else name in words):
            return name
    return None


def out_of_quota(answer: Any) -> bool:
    """Of a 429: whether waiting does not help."""
    error = _error_in(answer)
    codes = " ".join(str(error.get(key, "")) for key in ("code", "type")) if isinstance(error, dict) else ""
    said = f"{codes} {told(answer)}".lower()
    return any(word in said for word in ("insufficient_quota", "billing", "credit balance"))
