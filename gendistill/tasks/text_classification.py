"""Text classification: one text, one class. What a prompt needs to know, and what a reply's texts are.

Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from gendistill.examples import Example
from gendistill.prompts import one_line
from gendistill.tasks.base import Check, Fields
from gendistill.tasks.replies import reader


@dataclass(frozen=True)
class TextClassification:
    """The classes of a dataset and what is said about them.

    :param label_names: the classes, in the order of their indices.
    :param label_descriptions: label name -> what it means; may name some of the classes only.
    :param description: what the texts are.
    :param label_groups: label name -> the group that it is of, where classes form a hierarchy.
    :param related: for each class the classes most like it; a prompt then names these instead of all.
    """

    label_names: tuple[str, ...]
    label_descriptions: Mapping[str, str] = field(default_factory=dict)
    description: str | None = None
    label_groups: Mapping[str, str] = field(default_factory=dict)
    related: Sequence[Sequence[str]] | None = None

    name: ClassVar[str] = "text_classification"
    whole_when_cut: ClassVar[bool] = False
    json_keys: ClassVar[tuple[str, ...]] = ("text",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "label_names", tuple(self.label_names))

    def prompt_values(self, label: int, exemplars: Sequence[Example], best: Sequence[Example] = ()) -> dict[str, Any]:
        """The values of a prompt template (``prompts/README.md`` lists them) for a text of the class ``label``.

        :param exemplars: real examples to show.
        :param best: candidates chosen so far, shown after them.
        """
        name = self.label_names[label]
        return {
            "description": self.description,
            "labels": list(self.label_names if self.related is None else (name, *self.related[label])),
            "related": [] if self.related is None else list(self.related[label]),
            "group": self.label_groups.get(name, ""),
            "label": name,
            "label_description": self.label_descriptions.get(name, ""),
            "exemplars": [example.text for example in exemplars],
            "best": [example.text for example in best],
        }

    def stop(self, chat: bool) -> tuple[str, ...]:
        """Stop strings: a base model's list item ends with its line; a chat model ends its turn by itself."""
        return () if chat else ("\n",)

    def parse_reply(self, text: str, finish_reason: str, chat: bool) -> list[str]:
        """The candidate texts of one reply, cleaned; empty if there is none.

        A reply cut off at the token limit (``finish_reason == "length"``) loses the text that was being written.
        A base model's reply is the rest of one line. A chat model's reply is one text over all its lines, or, when
        lines begin with bullets, numbers or the like, one text for each. JSON holds its texts by itself.
        """
        return reader(self.label_names).texts(text, finish_reason, chat)

    def candidates(self, text: str, finish_reason: str, chat: bool) -> list[Fields]:
        return [(found,) for found in self.parse_reply(text, finish_reason, chat)]

    def answer(self, example: Example, chat: bool) -> str:
        return one_line(example.text)

    def checks(self, real: Sequence[Example]) -> Check | None:
        return None
