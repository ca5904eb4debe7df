"""Examples and candidates: the two values that everything else passes around. Imports nothing heavy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

CONVERSATION_FIELDS = 3  # system, user, assistant; or more, user and assistant in turn


def content_hash(*parts: object) -> str:
    """A 16-hex-digit hash of JSON-able values; the same on every machine and Python."""
    payload = json.dumps(parts, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return hashlib.blake2b(payload.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Example:
    """One row: its text fields (named by the task, e.g. ``("text",)``) and, for classification, its class index."""

    fields: tuple[str, ...]
    label: int

    @property
    def text(self) -> str:
        """The fields as one text, those that are empty left out; the field itself where there is only one."""
        return self.fields[0] if len(self.fields) == 1 else "\n".join(filter(None, self.fields))

    @property
    def id(self) -> str:
        """Hash of the content. Computed, not stored: 200,000 rows must stay small in memory.

        A conversation's label, its cluster, is not part of what it says.
        """
        if len(self.fields) >= CONVERSATION_FIELDS:
            return content_hash(list(self.fields))
        return content_hash(list(self.fields), self.label)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An example that a generator wrote, with where it came from."""

    example: Example
    request_id: str
    position: int  # which text of the reply, from 0
    round: int  # from 1
    generator: str
    template: str
    parents: tuple[str, ...] = ()  # ids of the examples shown in the prompt

    @property
    def id(self) -> str:
        return self.example.id


def by_class(examples: Sequence[Example], num_classes: int) -> list[list[int]]:
    """Indices of the examples of each class, in order."""
    groups: list[list[int]] = [[] for _ in range(num_classes)]
    for index, example in enumerate(examples):
        groups[example.label].append(index)
    return groups
