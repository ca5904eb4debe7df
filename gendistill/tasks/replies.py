"""What a reply's texts are, once its numbering, quotes, fences, thinking and small talk are taken away.

Models write far more than they are asked for. Nothing here is particular to one model; the rules are shown by the
replies of ``tests/data/ugly_replies.jsonl``. Every pattern takes time linear in the reply: none can start at many
places and run from each to the end.

Imports nothing heavy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

_COLONS = (":", "\uff1a")
ROUNDS = 8  # wrappings taken off one text; bounded, so that a reply of nothing but markers ends

_NOUN = (
    r"(?:texts?|examples?|samples?|headlines?|sentences?|reviews?|items?|articles?|posts?|messages?|comments?|"
    r"questions?|titles?|options?|outputs?|answers?)"
)
# --- thinking, special tokens, fences, JSON
_THINKING = r"(?:think|thinking|thought|thoughts|reasoning|reflection|analysis|scratchpad)"
_THOUGHT_END = rf"(?:</{_THINKING}>|<\|end_of_thought\|>|\[/THINK\])"
_THOUGHT = re.compile(
    rf"^[ \t]*(?:<{_THINKING}>|<\|begin_of_thought\|>|\[THINK\]).*?(?:{_THOUGHT_END}|\Z)",
    re.DOTALL | re.MULTILINE | re.IGNORECASE,
)
_STRAY_THOUGHT_END = re.compile(_THOUGHT_END, re.IGNORECASE)
_SPECIAL = re.compile(r"<\|[a-z_]{1,30}\|>|<(?:end|start)_of_[a-z]{1,20}>")
_FENCE = re.compile(r"\s*(?:`{3,}|~{3,})[^`\n]*")
_JSON = re.compile(r'^[ \t]*(?:\{\s*"|\[\s*["{])', re.MULTILINE)
# A string of loose JSON: a quote inside it that nobody escaped is not followed by what follows a string.
_STRING_END = r"\s*[,:}\]]|[ \t]*(?:\n|\Z)"
_STRING = re.compile(rf'"((?:[^"\\]+|\\.|"(?!{_STRING_END}))*)(?:("\s*)(:?)|\\?\Z)', re.DOTALL)
_JSON_TEXT = re.compile(rf"(?:{_NOUN}|contents?)?", re.IGNORECASE)
# --- small talk
_YES = (
    r"(?:sure|certainly|of course|absolutely|okay|ok|great|awesome|bien s\u00fbr|gerne|nat\u00fcrlich|\u00a1?claro|"
    r"\u043a\u043e\u043d\u0435\u0447\u043d\u043e|\u597d\u7684)(?: thing)? ?[,!.\uff0c\uff01]"
)
_OPENING = (
    rf"(?:{_YES}|here(?:['\u2019]s| is| are) (?:a|an|one|the|your|my|some|another|two|three|four|five|\d+)\b|"
    r"below (?:is|are)\b)"
)
_LEAD_IN = re.compile(rf"{_OPENING}[^:\n]{{0,200}}\b(?:{_NOUN}|one)\b[^:\n]{{0,200}}:(?=\s|\Z)\s*", re.IGNORECASE)
_TALK = re.compile(
    rf"(?:sure|certainly|of course)(?: thing)?[!.]?$|{_OPENING}[^\n]{{0,200}}(?::|\b{_NOUN}\b[^.\n]{{0,200}}\.)$|"
    rf"(?:{_YES} )?(?:i['\u2019]d be (?:happy|glad) to|"
    r"i(?:['\u2019]m| am) ready (?:to (?:help|provide|assist)|when)|please (?:go ahead|provide|tell me)\b)",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"(?:i(?:['\u2019]m| am) (?:sorry for (?:any|the) (?:confusion|misunderstanding|inconvenience)|unable to|an ai\b)|"
    r"(?:i['\u2019]m sorry, but )?(?:as an ai\b|i can(?:['\u2019]t|not) (?:help|assist|fulfil|provide|write))|"
    r"i apologi[sz]e for)",
    re.IGNORECASE,
)
_CLOSING = re.compile(
    r"(?:let me know|(?:i )?hope (?:this|these|that|it|you)|feel free to|"
    r"please (?:let me|note|provide|replace|do not leave)|would you like me|do you want me|"
    r"(?:this|that) (?:text|example|sentence|headline|review|question|title|list|json|table) (?:is|was|are|fits|"
    r"belongs|captures|follows|reflects|expresses|conveys|describes|highlights|shows|demonstrates|uses|allows)|"
    r"these (?:are|\w+ (?:are|were|have|show|reflect|highlight))|note:|\(note|in this (?:example|json)|"
    r"n['\u2019]h\u00e9sitez|j['\u2019]esp\u00e8re|\u00a1?espero que|ich hoffe|lass mich)(?=\W|\Z)",
    re.IGNORECASE,
)
# --- what begins a text, and what is said about it
_MARKER = re.compile(
    r"[-*+\u2022\u25cf\u25aa\u25e6\u00b7\u30fb\u2013\u2014](?:\s+|\Z)|"
    r"(?:[#*_]{1,3} ?)?\(?#?\d{1,3}(?:[.)\u3001\uff0e](?!\d)\s*|:\s+|\Z)|\(?[a-h]\)\s+"
)
_TAG = re.compile(rf"<(?:{_NOUN}|li|p|solution)>\s*", re.IGNORECASE)
_END_TAG = re.compile(rf"\s*</(?:{_NOUN}|li|p|solution)>$", re.IGNORECASE)
_FIELD = re.compile(
    rf"(?:(?:new |another |news |quiz |the )?"
    rf"(?:{_NOUN}(?: is)?|q|query|\u65b0\u95fb\u6807\u9898|\u6807\u9898)(?: ?#?\d{{1,3}})?|"
    rf"(?:[\w'-]{{1,20}} ){{1,3}}{_NOUN} #?\d{{1,3}})\s*[:\uff1a]\s*",
    re.IGNORECASE,
)
_LABEL_FIELD = r"(?:labels?|category|class|topic|sentiment)\s*[:=]"
_ABOUT = re.compile(
    rf"(?:{_LABEL_FIELD}|(?:rating|score|explanation|note|reasoning|source|outputs?|a ?\d{{0,3}}|"
    r"(?:the )?answers?(?: \d{1,3}| is)?)\s*:)",
    re.IGNORECASE,
)
_BOLD = re.compile(r"(?<![*\\])\*\*(?!\*)")  # its ends need not be paired: models forget one
_HEADING = re.compile(r"#{1,6}\s+")
_WRAPPED = re.compile(r"(?<![\w\\])([*_`])(?=\S)([^*_`]+)(?<=\S)\1(?!\w)")
_QUOTES = {
    '"': '"\u201d', "'": "'", "`": "`", "\u201c": '\u201d"', "\u2018": "\u2019", "\u00ab": "\u00bb",
    "\u00bb": "\u00ab", "\u201e": "\u201c\u201d", "\u300c": "\u300d", "\u300e": "\u300f",
}  # fmt: skip


@lru_cache(maxsize=32)
def reader(label_names: tuple[str, ...]) -> ReplyReader:
    """The reader for a dataset with these classes."""
    return ReplyReader(label_names)


class ReplyReader:
    """Reads the candidate texts out of replies about a dataset with these classes."""

    def __init__(self, label_names: Sequence[str]) -> None:
        names = "|".join(re.escape(name) for name in label_names)
        self._label = re.compile(
            rf"[\[(]?(?:{_LABEL_FIELD})?[*_ ]*(?:{names})s?(?: news)?[\])]?[.:*_ ]*", re.IGNORECASE
        )
        self._label_before = re.compile(
            rf"(?:{_LABEL_FIELD}\s*)?(?:\[(?:{names})\]:?|\((?:{names})\):?|"
            rf"(?:{names})s?(?: news)?(?: {_NOUN})?(?: \d{{1,3}})?:)(?:\s+|\Z)",
            re.IGNORECASE,
        )
        before = (_MARKER, _TAG, _FIELD, _HEADING, self._label_before)
        self._before = re.compile("(?:" + "|".join(pattern.pattern for pattern in before) + ")+", re.IGNORECASE)
        self._label_after = re.compile(rf"\s*[\[(]?{_LABEL_FIELD}\s*(?:{names})[\])]?\.?$", re.IGNORECASE)

    def texts(self, reply: str, finish_reason: str, chat: bool) -> list[str]:
        """The texts of one reply, cleaned, in their order; see ``TextClassification.parse_reply``."""
        reply = spoken(reply)
        if chat:
            reply, open_end = _inside_fences(reply)
            cut = open_end and finish_reason == "length"
            found = _JSON.search(reply)
            items = _json_texts(reply, found.start()) if found else self._chat_items(reply, cut)
        else:
            reply = reply.lstrip()
            line = (reply.splitlines() or [""])[0]
            cut = finish_reason == "length" and line == reply
            items = _json_texts(reply, 0)[:1] if _JSON.match(reply) else ([] if cut else [_cell(line, self._is_label)])
        cleaned = {item: self.clean(item, chat) for item in dict.fromkeys(items)}  # models repeat themselves
        return [
            text
            for text in map(cleaned.__getitem__, items)
            if any(character.isalnum() for character in text)
            and not self._is_label(text)
            and not (chat and text.endswith(_COLONS))  # it announces something
        ]

    def _chat_items(self, reply: str, cut: bool) -> list[str]:
        """A chat reply's raw texts: one for each bullet, number, field or quoted line; else all that is written.

        :param cut: the reply was cut off: leave out the text that its last line belongs to.
        """
        lines = _inside_quotation([line.strip() for line in reply.strip().splitlines()])
        starts = [self._start(line) for line in lines]
        bulleted = any(start is not None and not _is_about(line) for line, start in zip(lines, starts, strict=True))
        if not bulleted and lines and _REFUSAL.match(lines[0]):
            return []
        items: list[list[str]] = []
        open_item = False  # whether an unmarked line goes on with the last item
        for line, start in zip(lines, starts, strict=True):
            if not line:
                # After a list, an unmarked paragraph is a comment; without a list, paragraphs belong to one text.
                open_item = open_item and (not bulleted or not any(items[-1]))
                continue
            if items and _is_rule(line):
                if line.startswith("|"):
                    items.pop()  # the head of a table
                open_item = False
                continue
            about = bool(items) and _is_about(line)
            if self._is_label(line) or about or (start is None and not open_item and self._is_talk(line, not items)):
                open_item = open_item and not (about or line.endswith(":"))
            elif start is not None or (not bulleted and (not open_item or unquote(line) != line)):
                items.append([line[start or 0 :]])
                open_item = True
            elif bulleted and line.startswith("#"):
                open_item = False
            elif open_item:
                items[-1].append(line)
        if cut and open_item:
            items.pop()
        return [_cell(" ".join(parts), self._is_label) for parts in items]

    def _start(self, line: str) -> int | None:
        """Where the text begins on a line with a marker, a field or a label before it; None on any other line."""
        if marker := _MARKER.match(line):
            return marker.end()
        if tag := _TAG.match(line):
            return tag.end()
        if line.startswith("|"):
            return 0
        plain = line.replace("**", "").lstrip("*_# ")
        if field := _FIELD.match(plain):
            return 0 if field.end() < len(plain) else len(line)  # with nothing after it, it is a heading
        return 0 if self._label_before.match(plain) and not self._is_label(line) else None

    def _is_label(self, line: str) -> bool:
        return self._label.fullmatch(line.strip("*_# ")) is not None

    def _is_talk(self, line: str, first: bool) -> bool:
        return _TALK.match(line) is not None or (first and line.strip("*_ ").endswith(_COLONS))

    def clean(self, text: str, chat: bool) -> str:
        """One text without the quotes, markers, labels and Markdown around it, on one line."""
        text = " ".join(text.split())
        if chat:
            text = _BOLD.sub("", text).replace("```", "")
        for _ in range(ROUNDS):  # wrappings come in any order: - "**Text:** ..."
            before = text
            if match := self._before.match(text):
                text = text[match.end() :]
            text = self._label_after.sub("", _END_TAG.sub("", text))
            if chat:
                if match := _LEAD_IN.match(text):
                    text = text[match.end() :]
                text = _WRAPPED.sub(r"\2", text)
            elif text.startswith("**") and "**" not in text[2:-2]:
                text = text.removeprefix("**").removesuffix("**")
            text = unquote(text.strip())
            if text == before:
                break
        return text


def spoken(reply: str) -> str:
    """A reply without its thinking and without special tokens."""
    reply = _THOUGHT.sub("", reply)
    reply = _STRAY_THOUGHT_END.split(reply, maxsplit=1)[-1]  # templates may put the opening tag into the prompt
    return _SPECIAL.sub("", reply)


def _inside_fences(reply: str) -> tuple[str, bool]:
    """(what stands in Markdown fences, whether the last one is open), or (the reply, True) if none holds anything."""
    inside: list[str] = []
    fenced = False
    for line in reply.splitlines():
        if _FENCE.fullmatch(line):
            fenced = not fenced
        elif fenced:
            inside.append(line)
    if not any(line.strip() for line in inside):
        return "\n".join(line for line in reply.splitlines() if not _FENCE.fullmatch(line)), True
    return "\n".join(inside), fenced


def _inside_quotation(lines: list[str]) -> list[str]:
    """The lines of a Markdown quotation (> ...) if there is one, else all."""
    inside = [line.lstrip("> ") for line in lines if line.startswith(">")]
    return inside if any(inside) else lines


def json_strings(reply: str, start: int) -> Iterator[tuple[str, str]]:
    """(last key before it, string) of JSON objects or lists, torn or not quite right as models write them.

    A string that is cut off is left out.
    """
    key = ""
    for match in _STRING.finditer(reply, start):
        content, closed, colon = match.groups()
        if colon:
            key = content
        elif closed:
            try:
                content = json.loads(f'"{content}"', strict=False)
            except ValueError:  # a quote or an escape that JSON does not know
                content = content.replace('\\"', '"').replace("\\n", "\n")
            yield key, content


def _json_texts(reply: str, start: int) -> list[str]:
    """The texts of JSON objects or lists (``json_strings``).

    With a key ``text`` or ``texts`` somewhere, only what it names; else what keys such as ``review`` name, or none.
    """
    found = [(key.lower(), text) for key, text in json_strings(reply, start) if _JSON_TEXT.fullmatch(key)]
    exact = [content for key, content in found if key in ("text", "texts")]
    return exact or [content for _, content in found]


def _is_about(line: str) -> bool:
    """Whether a line after a text is not part of it, but says something of it: a comment, a label, an answer."""
    return _CLOSING.match(line) is not None or _ABOUT.match(line.lstrip("*_# ")) is not None


def _is_rule(line: str) -> bool:
    return len(line) > 2 and not line.strip("-=*_|: ")


def _cell(line: str, is_label: Callable[[str], bool]) -> str:
    """The text of a table's row: its longest cell that is no label; any other line as it is."""
    if not line.lstrip().startswith("|"):
        return line
    cells = [cell.strip() for cell in line.strip("| ").split("|")]
    return max((cell for cell in cells if not is_label(cell)), key=len, default="")


def unquote(text: str) -> str:
    """Without the quotation marks around the whole of it, or the one of a pair that is left at an end."""
    if len(text) < 2:
        return text
    closing = _QUOTES.get(text[0], "")
    if text[-1] not in closing:
        return _without_odd_quote(text)
    inner = text[1:-1]
    # '"A" and "B"' is two quotations, but the apostrophe in "'It's late'" ends none.
    if text[0] in "'\u2018":
        inside = re.search(r"(?<!\w)['\u2018\u2019]|['\u2019](?!\w)", inner) is not None
    else:
        inside = text[0] in inner or text[-1] in inner
    return text if inside else inner.strip()


def _without_odd_quote(text: str) -> str:
    for opening, closing in (('"', '"'), ("\u201c", "\u201d"), ("\u00ab", "\u00bb")):
        surplus = text.count(opening) - (text.count(closing) if closing != opening else 0)
        if surplus == 1 and text.startswith(opening):
            return text[1:].lstrip()
        if surplus == (1 if closing == opening else -1) and text.endswith(closing) and not text[-2].isdigit():
            return text[:-1].rstrip()
    return text
