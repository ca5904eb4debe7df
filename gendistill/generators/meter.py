"""What generation costs, while it runs and in the end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from gendistill.generators.base import Reply

if TYPE_CHECKING:
    from gendistill.config import ServerConfig


@dataclass
class Usage:
    """What a process has asked of its servers so far."""

    calls: int = 0
    answered: int = 0  # replies with a text
    failed: int = 0  # replies without one
    retries: int = 0  # calls made again after an error
    refusals: int = 0  # calls that the server had no room for (429)
    seconds: float = 0.0


class _Keeper(Protocol):
    def add_usage(self, usage: dict[str, float]) -> None: ...


class Meter:
    """:param generator: one with a ``usage`` and ``notices``, such as a server's, is asked for them.
    :param store: keeps the usage when the process ends, whatever ends it.
    """

    def __init__(self, generator: Any, prices: ServerConfig, store: _Keeper) -> None:
        self.generator, self.prices, self.store = generator, prices, store
        self.prompt = self.completion = 0
        self._usage: Usage | None = getattr(generator, "usage", None)
        self._before = asdict(self._usage) if self._usage else {}
        self._started = time.monotonic()

    def line(self, replies: Sequence[Reply]) -> str:
        """Tokens, cost and retries, these replies included."""
        for reply in replies:
            self.prompt += reply.prompt_tokens
            self.completion += reply.completion_tokens
        seconds = time.monotonic() - self._started
        parts = [f"{self.completion / seconds:.0f} tokens/s"] if self.completion and seconds > 0 else []
        price = cost(self.prompt, self.completion, self.prices)
        if price is not None:
            parts.append(f"cost {price:.4f}")
        if self._usage is not None:
            for name in ("retries", "failed"):
                count = getattr(self._usage, name) - self._before[name]
                if count:
                    parts.append(f"{count} {name}")
        return ", ".join(parts)

    def notices(self) -> list[str]:
        """What the generator wants to say, once."""
        waiting: list[str] = getattr(self.generator, "notices", [])
        said = list(waiting)
        waiting.clear()
        return said

    def keep(self) -> None:
        if self._usage is not None:
            now = asdict(self._usage)
            self.store.add_usage({key: now[key] - self._before[key] for key in now})
            self._before = now


def cost(prompt_tokens: int, completion_tokens: int, prices: ServerConfig) -> float | None:
    """In the currency of the prices; None where there are none."""
    if prices.price_in is None and prices.price_out is None:
        return None
    return (prompt_tokens * (prices.price_in or 0.0) + completion_tokens * (prices.price_out or 0.0)) / 1e6
