"""Text classification: one text, one class. What a prompt needs to know, and what a reply's texts are.

Imports nothing heavy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gendistill.examples import Example

_OPENING = (
    r"(?:(?:sure|certainly|of course|absolutely|okay|ok|great)(?: thing)?[,!.]|"
    r"here(?:['\u2019]s| is| are) (?:a|an|one|the|your|my|some|another|two|three|\d+)\b|below (?:is|are)\b)"
)
_NOUN = (
    r"\b(?:texts?|examples?|samples?|headlines?|sentences?|reviews?|items?|articles?|posts?|messages?|questions?|one)\b"
)
_LEAD_IN = re.compile(rf"{_OPENING}[^:\n]{{0,200}}{_NOUN}[^:\n]{{0,200}}:(?=\s|\Z)\s*", re.IGNORECASE)
_LEAD_IN_LINE = re.compile(rf"{_OPENING}[^\n]*:", re.IGNORECASE)
_CLOSING = re.compile(
    r"(?:let me know|i hope (?:this|these|that) (?:helps|works|is)|feel free to|please (?:let me|note)|"
    r"would you like me|do you want me|"
    r"this (?:text|example|sentence|headline) (?:is|fits|belongs|captures|follows|reflects))\b",
    re.IGNORECASE,
)
_MARKER = re.compile(r"(?:[-*+\u2022\u2013\u2014]|\(?\d{1,3}[.)])\s+")
_FIELD = re.compile(
    r"(?:(?:new |another )?(?:text|example|sample|output|answer|headline|title|sentence|review|post|message|comment|"
    r"news item|article))(?: ?#?\d+)?\s*:\s*",
    re.IGNORECASE,
)
_LABEL_FIELD = r"(?:label|category|class|topic|sentiment)\s*[:=]"
_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_EMPHASIS = re.compile(r"(\*\*|__)(?=\S)(.+?)(?<=\S)\1")
_WRAPPED = re.compile(r"([*_`])(?=\S)([^*_`]+)(?<=\S)\1")
_QUOTES = {'"': '"', "'": "'", "`": "`", "\u201c": "\u201d", "\u2018": "\u2019", "\u00ab": "\u00bb", "\u201e": "\u201c"}


@dataclass(frozen=True)
class TextClassification:
    """The classes of a dataset and what is said about them.

    :param label_names: the classes, in the order of their indices.
    :param label_descriptions: label name -> what it means; may name some of the classes only.
    :param description: what the texts are.
    """

    label_names: tuple[str, ...]
    label_descriptions: Mapping[str, str] = field(default_factory=dict)
    description: str | None = None

    name = "text_classification"

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
            "labels": list(self.label_names),
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
        lines begin with bullets or numbers, one text per bullet.
        """
        items = self._chat_items(_THOUGHT.sub("", text)) if chat else text.lstrip().splitlines()[:1]
        if finish_reason == "length":
            items = items[:-1]
        cleaned = [self._clean(item, chat) for item in items]
        return [item for item in cleaned if any(character.isalnum() for character in item)]

    def _chat_items(self, text: str) -> list[str]:
        lines = [line.strip() for line in text.strip().splitlines()]
        lines = [line for line in lines if not line.startswith("```")]
        bulleted = any(_MARKER.match(line) for line in lines)
        items: list[str] = []
        open_item = False
        for line in lines:
            if not line:
                # After a list, an unmarked paragraph is a comment; without a list, paragraphs belong to one text.
                open_item = open_item and not bulleted
                continue
            marker = _MARKER.match(line)
            comment = _CLOSING.match(line) if items else _LEAD_IN_LINE.fullmatch(line)
            if self._is_label(line) or (comment and not marker):
                continue
            if marker or (not bulleted and not open_item):
                items.append(line)
                open_item = True
            elif open_item:
                items[-1] += " " + line
        return items

    def _is_label(self, line: str) -> bool:
        plain = line.strip("*_ ").lower()
        names = "|".join(re.escape(name.lower()) for name in self.label_names)
        label = rf"[\[(]?(?:{_LABEL_FIELD})?[*_ ]*(?:{names})[\])]?[.:*_ ]*"
        return re.fullmatch(label, plain) is not None

    def _clean(self, text: str, chat: bool) -> str:
        text = " ".join(text.split())
        previous = None
        while text != previous:  # wrappings come in any order: - "**Text:** ..."
            previous = text
            if marker := _MARKER.match(text):
                text = text[marker.end() :]
            if chat:
                text = _WRAPPED.sub(r"\2", _EMPHASIS.sub(r"\2", text)).lstrip("# ")
                if lead_in := _LEAD_IN.match(text):
                    text = text[lead_in.end() :]
            if prefix := _FIELD.match(text):
                text = text[prefix.end() :]
            text = _unquote(self._without_label(text).strip())
        return text

    def _without_label(self, text: str) -> str:
        """Without the class's name before the text ("[sport] ...", "Sport: ...") or a label field after it."""
        names = "|".join(re.escape(name) for name in self.label_names)
        before = rf"(?:{_LABEL_FIELD}\s*)?(?:\[(?:{names})\]:?|\((?:{names})\):?|(?:{names}):)\s+"
        after = rf"\s*[\[(]?{_LABEL_FIELD}\s*(?:{names})[\])]?\.?$"
        if match := re.match(before, text, re.IGNORECASE):
            text = text[match.end() :]
        return re.sub(after, "", text, flags=re.IGNORECASE)


def _unquote(text: str) -> str:
    if len(text) < 2 or _QUOTES.get(text[0]) != text[-1]:
        return text
    inner = text[1:-1]
    # '"A" and "B"' is two quotations, but the apostrophe in "'It's late'" ends none.
    if text[0] in "'\u2018":
        inside = re.search(r"(?<!\w)['\u2018\u2019]|['\u2019](?!\w)", inner) is not None
    else:
        inside = text[0] in inner or text[-1] in inner
    return text if inside else inner.strip()
