"""Pair classification: two texts, one class (natural language inference, paraphrase, does an answer fit a question).

Imports nothing heavy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from gendistill.examples import Example
from gendistill.filters import Rejection
from gendistill.folding import text_key
from gendistill.prompts import one_line
from gendistill.tasks.base import Check, Fields
from gendistill.tasks.replies import reader, spoken

COPIED_SHARE = 0.9  # of real pairs that do not hold one text inside the other: then candidates may not either
_JSON_STRING = r'"((?:[^"\\]|\\.)*)"'


@dataclass(frozen=True)
class PairClassification:
    """The classes of a dataset of pairs and what is said about them.

    :param text_names: what a prompt calls the two texts, such as ("premise", "hypothesis").
    :param label_names: the classes, in the order of their indices.
    :param label_descriptions: label name -> what it means; may name some of the classes only.
    :param description: what the pairs are.
    """

    text_names: tuple[str, ...]
    label_names: tuple[str, ...]
    label_descriptions: Mapping[str, str] = field(default_factory=dict)
    description: str | None = None

    name: ClassVar[str] = "pair_classification"
    whole_when_cut: ClassVar[bool] = False
    json_keys: ClassVar[tuple[str, ...]] = ("text_a", "text_b")

    @property
    def titles(self) -> tuple[str, str]:
        """The two names as a prompt begins a line with them."""
        first, second = self.text_names
        return first[:1].upper() + first[1:], second[:1].upper() + second[1:]

    def prompt_values(self, label: int, exemplars: Sequence[Example], best: Sequence[Example] = ()) -> dict[str, Any]:
        name = self.label_names[label]
        first, second = self.titles
        return {
            "description": self.description,
            "labels": list(self.label_names),
            "label": name,
            "related": [],
            "group": "",
            "label_description": self.label_descriptions.get(name, ""),
            "first": first,
            "second": second,
            "exemplars": [example.fields for example in exemplars],
            "best": [example.fields for example in best],
        }

    def stop(self, chat: bool) -> tuple[str, ...]:
        """A base model goes on with the next pair, after an empty line."""
        return () if chat else ("\n\n", f"\n{self.titles[0]}:")

    def candidates(self, text: str, finish_reason: str, chat: bool) -> list[Fields]:
        """Pairs found in a reply. One that lacks its second text, or was cut off in it, has an empty one."""
        text = spoken(text)
        if not chat:  # the prompt ends in the first name
            text = f"{self.titles[0]}: {text.strip()}"
        found = list(self._json_pairs(text)) if chat else []
        found = found or list(self._titled_pairs(text, first_line_only=not chat))
        if found and finish_reason == "length":
            found[-1] = (found[-1][0], "")
        cleaned: list[Fields] = [(self._clean(first, chat), self._clean(second, chat)) for first, second in found]
        return cleaned[:1] if not chat else list(dict.fromkeys(cleaned))

    def answer(self, example: Example, chat: bool) -> str:
        first, second = map(one_line, example.fields)
        return f"{first}\n{self.titles[1]}: {second}\n"

    def checks(self, real: Sequence[Example]) -> Check | None:
        """Turned away: a text twice (``same_twice``), and one text inside the other (``one_in_other``), unless a tenth
        of the real pairs are so too."""
        same = sum(_key(example, 0) == _key(example, 1) for example in real)
        inside = sum(_one_in_other(example) for example in real)
        usual = (1 - COPIED_SHARE) * len(real)

        def check(example: Example) -> Rejection | None:
            if len(example.fields) != 2 or not all(part.strip() for part in example.fields):
                return Rejection("one_side", "only one of the two texts was written")
            if same < usual and _key(example, 0) == _key(example, 1):
                return Rejection("same_twice", "both texts are the same")
            if inside < usual and _one_in_other(example):
                return Rejection("one_in_other", "one text stands whole inside the other")
            return None

        return check

    @cached_property
    def _title(self) -> re.Pattern[str]:
        """The start of a line that names the first (group 1) or the second text (group 2)."""
        first, second = map(re.escape, self.titles)
        return re.compile(
            rf"^[ \t>*_#-]*(?:\(?\d{{1,3}}[.):]?[ \t]*)?[*_]*"
            rf"(?:({first}|text ?[a1]|first text)|({second}|text ?[b2]|second text))[ \t\d*_]*[:\uff1a][*_ \t]*",
            re.IGNORECASE | re.MULTILINE,
        )

    def _titled_pairs(self, text: str, *, first_line_only: bool) -> Iterator[tuple[str, str]]:
        marks = list(self._title.finditer(text))
        first: str | None = None
        for place, mark in enumerate(marks):
            end = marks[place + 1].start() if place + 1 < len(marks) else len(text)
            said = text[mark.end() : end].strip()
            if first_line_only or place + 1 == len(marks):  # what follows the last text is talk
                said = said.split("\n\n" if not first_line_only else "\n", 1)[0]
            if mark.group(1) is not None:
                if first is not None:
                    yield first, ""
                first = said
            elif first is not None:
                yield first, said
                first = None
        if first is not None:
            yield first, ""

    def _json_pairs(self, text: str) -> Iterator[tuple[str, str]]:
        keys = [(name, f"text_{letter}") for name, letter in zip(self.text_names, "ab", strict=True)]
        sides = ["|".join(re.escape(key) for key in names) for names in keys]
        pattern = re.compile(rf'"(?:({sides[0]})|({sides[1]}))"\s*:\s*{_JSON_STRING}', re.IGNORECASE)
        first: str | None = None
        for mark in pattern.finditer(text):
            try:
                said = json.loads(f'"{mark.group(3)}"', strict=False)
            except ValueError:
                said = mark.group(3)
            if mark.group(1) is not None:
                first = said
            elif first is not None:
                yield first, said
                first = None

    def _clean(self, text: str, chat: bool) -> str:
        return reader(()).clean(text, chat)


def _key(example: Example, side: int) -> str:
    return text_key(example.fields[side])


def _one_in_other(example: Example) -> bool:
    first, second = (f" {_key(example, side)} " for side in (0, 1))
    short, long = sorted((first, second), key=len)
    return len(short.split()) >= 4 and short in long
