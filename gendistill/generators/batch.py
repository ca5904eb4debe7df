"""Generation by batch files: nothing is asked here. ``gendistill batch`` writes the requests and takes the replies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gendistill.errors import GenerationError
from gendistill.generators.base import Reply, Request


class BatchGenerator:
    """:param mode: "base" plans prompts to continue; "chat" and "auto" plan chats."""

    def __init__(self, model: str, mode: str = "auto") -> None:
        self.name = self.model = model
        self.chat = mode != "base"

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """:raises GenerationError: always, if there is anything to ask."""
        for _ in requests:
            raise GenerationError("a batch generator asks nothing by itself; use gendistill batch")
        yield from ()
