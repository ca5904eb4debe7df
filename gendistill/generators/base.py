"""The generator seam: requests in, replies out, in any order, none lost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Request:
    """One completion to be asked for. Equal ids mean the same question, so a resumed run never asks it twice."""

    id: str
    prompt: str | None  # for base models: the text to continue
    messages: tuple[tuple[str, str], ...] | None  # for chat models: (role, content)
    seed: int  # sampling seed of this request alone
    max_new_tokens: int
    temperature: float
    top_k: int  # 0: no limit
    top_p: float
    stop: tuple[str, ...] = ()
    json_keys: tuple[str, ...] = ("text",)  # of the object to ask for, where JSON is asked for


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back for a request. A failure has ``error`` and no text; it is never dropped."""

    request_id: str
    text: str
    finish_reason: str  # "stop", "length", "content_filter" or "error"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Lesson:
    """A prompt, as a request has it, and the real text that should come as its reply."""

    prompt: str | None
    messages: tuple[tuple[str, str], ...] | None
    reply: str


class Generator(Protocol):
    """What writes.

    It may also have ``remote = True``, if it leaves this machine idle meanwhile, and ``arrivals``, which gives the
    replies that are at hand together as lists.
    """

    name: str  # what the card calls it

    @property
    def chat(self) -> bool:
        """True: wants messages. False: wants a prompt to continue."""
        ...

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Yield one reply per request, in any order; a reply depends on its own request's prompt and seed."""
        ...


def arrivals(generator: Generator, requests: Iterable[Request]) -> Iterator[list[Reply]]:
    """Replies as they come, those that are at hand together; one by one from a generator that does not say."""
    together = getattr(generator, "arrivals", None)
    if together is not None:
        yield from together(requests)
    else:
        for reply in generator.generate(requests):
            yield [reply]
