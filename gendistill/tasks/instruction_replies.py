"""What a reply's instructions and answers are, in whatever form a model writes them.

A base model goes on with an open block (``### Instruction: ... ### Response: ...``). A chat model writes labelled
lines (``Instruction: ... Answer: ...``, by these or other names, in Markdown or not, numbered or not) or JSON. Line
breaks inside an instruction and an answer are kept, since they hold lists and code. The rules are shown by the replies
of ``tests/data/instruction_replies.jsonl``. All is done line by line, in time linear in the reply.

Imports nothing heavy.
"""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gendistill.tasks.replies import json_strings, spoken, unquote

Pair = tuple[str, str]

ASK_NAMES = ("instruction", "instructions", "question", "prompt", "task", "query", "problem", "request", "user",
             "human", "input", "q")  # fmt: skip
ANSWER_NAMES = ("answer", "response", "output", "completion", "reply", "solution", "result", "assistant", "ai", "bot",
                "a")  # fmt: skip
CONTEXT_NAMES = ("input", "context")
_CONVERSATION = ("user", "human")  # a later turn of theirs need not be understood by itself
# A question may hold a line "Output: 5", and is still answered by what is called the answer.
_PARTNERS = {"question": ("answer",), "q": ("a", "answer"), "input": ("output",), "user": ("assistant",),
             "human": ("assistant",)}  # fmt: skip
_HEADING = "### Instruction:"
# --- labelled lines
_ADJECTIVE = (
    r"(?:the|new|your|my|user|assistant|ai|model|example|sample|expected|correct|final|complete)(?:['\u2019]s)?"
)
_LABEL = re.compile(
    rf"^(?P<before>(?:[ \t>*_#+\-\u2022\[\"\u201c]|\(?\d{{1,3}}[.):](?=[ \t*]))*)(?:{_ADJECTIVE}[ \t]+){{0,2}}"
    rf"(?P<name>{'|'.join((*ASK_NAMES, *ANSWER_NAMES, 'context'))})"
    r"(?:[ \t]?#?\d{1,3})?(?:[ \t]*\([^()\n]{0,40}\))?\]?[*_]{0,3}"
    r"(?:[ \t]*[:\uff1a][*_]{0,3}[ \t]*|(?P<bare>[ \t]*$))",
    re.IGNORECASE | re.MULTILINE,
)
_INLINE = re.compile(r"(?<=\S)[ \t]+[*_]{0,3}(?P<name>Answer|Response|Output)[*_]{0,3}:[*_]{0,3}(?=[ \t]+\S)")
_FENCE = re.compile(r"^[ \t>]*(?:`{3,}|~{3,})[^`\n]*$", re.MULTILINE)
_NUMBER = re.compile(r"^[ \t*]*(?:\(?\d{1,3}[.)]|q\d{1,3}[.:)])[ \t]+", re.IGNORECASE | re.MULTILINE)
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
# What may stand after an answer: a rule, a label with nothing after it; and before the next pair, its number.
_RULE = r"[ \t]*(?:-{3,}|\*{3,}|_{3,}|={3,})[ \t]*|[ \t*_#]*(?:Answer|Response|Output)[*_]*:[*_ \t]*"
_COUNT = (
    r"[ \t#*_]*(?:(?:new |another )?(?:example|instruction|question|pair|task)s?[ \t]*#?\d{0,3}|\d{1,3}[.)])[:*_ \t]*"
)
_AFTER = re.compile(_RULE)
_BETWEEN = re.compile(f"{_RULE}|{_COUNT}", re.IGNORECASE)
# --- JSON
_JSON = re.compile(rf'^[ \t]*(?:\[\s*)?\{{\s*"(?:{"|".join(ASK_NAMES[:-1])})s?"\s*:', re.MULTILINE | re.IGNORECASE)
# --- small talk
_LEAD_IN = re.compile(
    r"(?:sure|certainly|of course|absolutely|okay|ok|here(?:['\u2019]s| is| are)|below (?:is|are))\b[^\n]{0,300}[:!.]",
    re.IGNORECASE,
)
_CLOSING = re.compile(
    r"(?:\(?note|let me know|i hope|feel free|would you like|do you want|(?:this|the|that) (?:new )?"
    r"(?:instruction|example|pair|question|answer|response))\b[^\n]{0,400}"
    r"\b(?:instruction|example|pair|dataset|format|another)s?\b",
    re.IGNORECASE,
)
_NOTHING = re.compile(r"\W*(?:none|n/?a|no ?input|empty|null)?\W*", re.IGNORECASE)
_ENDS = ("</s>", "<eos>", "[END]", "[/INST]")


def pairs(reply: str, finish_reason: str, chat: bool) -> list[Pair]:
    """(instruction, answer) of each pair in one reply, cleaned, in their order; neither is empty.

    :param finish_reason: with "length", the pair that was being written is left out.
    """
    reply = spoken(reply.replace("\r\n", "\n"))
    cut = finish_reason == "length"
    if not chat:
        found = _labelled(_HEADING + reply, cut, headings=True)
    elif (start := _json_start(reply)) is not None:
        found = list(_json_pairs(reply, start))
    else:
        text, whole = _unwrapped(reply)
        cut = cut and not whole
        found = _labelled(text, cut, headings=False)
        if not found and not cut and _INLINE.search(text):  # a pair on one line
            found = _labelled(_INLINE.sub(r"\n\g<name>: ", text), cut, headings=False)
    cleaned = [(_clean(ask, chat), _without_closing(_clean(answer, chat), chat)) for ask, answer in found]
    return [(ask, answer) for ask, answer in dict.fromkeys(cleaned) if ask and answer]


# -- labelled lines ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Label:
    """The beginning of a line such as ``**Answer:** Yes``."""

    start: int
    end: int  # where the text begins
    name: str  # in lower case
    indent: int  # blanks that the lines after it have too


class _Pair:
    """What a pair is made of while it is read: ask, context and answer."""

    def __init__(self) -> None:
        self.parts: dict[str, list[str]] = {"ask": [], "context": [], "answer": []}

    def has(self, part: str) -> bool:
        return any(map(str.strip, self.parts[part]))

    def text(self) -> Pair:
        """(instruction with its context, answer)."""
        ask, context, answer = ("\n".join(self.parts[part]).strip() for part in ("ask", "context", "answer"))
        return (ask if _NOTHING.fullmatch(context) else f"{ask}\n\n{context}" if ask else context), answer


def _labels(text: str, headings: bool) -> list[_Label]:
    """The labels outside code fences.

    :param headings: only Markdown headings count.
    """
    fences = [match.start() for match in _FENCE.finditer(text)]
    found = []
    for match in _LABEL.finditer(text):
        before = match["before"]
        fenced = bisect.bisect(fences, match.start()) % 2
        if not fenced and (
            "#" in before if headings else match["bare"] is None or any(mark in before for mark in "#*_")
        ):
            indent = len(before) - len(before.lstrip(" "))
            found.append(_Label(match.start(), match.end(), match["name"].lower(), indent))
    return found


def _words(labels: Sequence[_Label]) -> tuple[str, str]:
    """The names by which the first pair calls its instruction, empty if by none, and its answer."""
    ask_name, answers = "", []
    for label in labels:
        if label.name in ANSWER_NAMES and (label.name != "a" or ask_name == "q"):  # elsewhere an option: "A: Paris"
            answers.append(label.name)
            if not ask_name:
                break
        elif ask_name and label.name == ask_name and answers:
            break
        elif not ask_name and label.name in ASK_NAMES:
            ask_name = label.name
    partner = next((name for name in _PARTNERS.get(ask_name, ()) if name in answers), None)
    return ask_name, partner or next(iter(answers), "")


def _labelled(text: str, cut: bool, headings: bool) -> list[Pair]:
    """The raw pairs of labelled lines.

    The words of the first pair decide: where it has "Instruction" and "Answer", a line "Output: 5" inside an answer
    and a line "Question: ..." inside an instruction are text.

    :param cut: leave out the last pair.
    """
    labels = _labels(text, headings)
    ask_name, answer_name = _words(labels)
    if not answer_name:
        return []
    found: list[_Pair] = []
    part, begin, indent = "", 0, 0  # of the text up to the next label that counts
    context_first = False

    def close(end: int) -> None:
        if found and part:
            body = text[begin:end].rstrip("\n")
            found[-1].parts[part].append(re.sub(rf"(?m)^ {{1,{indent}}}", "", body) if indent else body)

    for label in labels:
        name, asking = label.name, part in ("ask", "context")
        after = ""  # the part that begins here
        if name == ask_name:
            after = "ask"
            new = not (part == "context" and not found[-1].has("ask"))
        elif name == answer_name and (asking or not ask_name):
            after, new = "answer", not asking
        elif headings and name == answer_name:  # a second answer
            after, new = "none", False
        elif asking and name in CONTEXT_NAMES and (found[-1].has("ask") or text[begin : label.start].strip()):
            after, new = "context", False
        elif name == "context" and ask_name and not headings and (not found or context_first):
            after, new, context_first = "context", True, True
        if not after:
            continue
        close(label.start)
        if new:
            found.append(_Pair())
            if after == "answer":  # the instruction has no label
                before = found[-2].parts["answer"] if len(found) > 1 else []
                asked = _split_off(before) if before else _after_lead_in(text[: label.start])
                found[-1].parts["ask"] = [asked]
        part, begin, indent = after if after != "none" else "", label.end, label.indent
    close(len(text))
    if cut:
        found = found[:-1]
    for pair in found[:-1]:
        pair.parts["answer"] = [_without_tail("\n".join(pair.parts["answer"]), _BETWEEN)]
    if ask_name in _CONVERSATION:
        found = found[:1]
    return [pair.text() for pair in found if pair.has("answer")]


def _unwrapped(text: str) -> tuple[str, bool]:
    """What a fence around the pairs holds, and whether it was closed; else all of it, and False."""
    first = _LABEL.search(text)
    if first is None:
        return text, False
    fences = list(_FENCE.finditer(text))
    before = [fence for fence in fences if fence.start() < first.start()]
    if len(before) % 2 == 0:
        return text, False
    closed = fences[-1].start() > first.start() and not _LABEL.search(text, fences[-1].end())
    return text[before[-1].end() : fences[-1].start() if closed else None], closed


def _after_lead_in(text: str) -> str:
    """What is said before the first label, without the announcement: the instruction, where it has no label."""
    told = [line for line in text.split("\n") if not (_LEAD_IN.fullmatch(line.strip()) or _AFTER.fullmatch(line))]
    return _NUMBER.sub("", "\n".join(told).strip(), count=1) if told else ""


def _split_off(answer: list[str]) -> str:
    """Takes the next instruction, which has no label, off the end of an answer: from a number or a blank line on."""
    text = answer[-1].rstrip()
    starts = [match.start() for match in _NUMBER.finditer(text) if match.start()]
    starts = starts or [match.end() for match in _BLANK_LINE.finditer(text)]
    if not starts:
        return ""
    answer[-1] = text[: starts[-1]]
    return _NUMBER.sub("", text[starts[-1] :], count=1)


def _without_tail(text: str, what: re.Pattern[str]) -> str:
    """Without blank lines and lines that are ``what`` at the end, unless nothing would be left."""
    text = text.strip()
    end = len(text)
    while (at := text.rfind("\n", 0, end)) >= 0:
        line = text[at + 1 : end]
        if line.strip() and not what.fullmatch(line):
            break
        end = at
    return text[:end].rstrip()


# -- JSON -------------------------------------------------------------------------------------------------------------


def _json_start(reply: str) -> int | None:
    """Where the JSON begins, if the reply is JSON and not an answer that holds some."""
    found = _JSON.search(reply)
    if found is None or _LABEL.search(reply, 0, found.start()):
        return None
    return found.start()


def _json_pairs(reply: str, start: int) -> Iterator[Pair]:
    """The raw pairs of JSON objects, in a list or one after the other; a pair whose answer is cut off is left out."""
    decoder = json.JSONDecoder(strict=False)
    while True:
        bracket = next(at for at in range(start, len(reply)) if reply[at] in "{[")
        try:
            value, end = decoder.raw_decode(reply, bracket)
        except (ValueError, RecursionError):  # torn, or not quite right
            yield from _loose_pairs(json_strings(reply, start))
            return
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                yield from _named_pair({str(key).lower(): _plain(text) for key, text in item.items()})
        found = _JSON.search(reply, end)
        if found is None:
            return
        start = found.start()


def _loose_pairs(strings: Iterable[tuple[str, str]]) -> Iterator[Pair]:
    named: dict[str, str] = {}
    for key, text in strings:
        if key.lower() in named:
            yield from _named_pair(named)
            named = {}
        named[key.lower()] = text
    yield from _named_pair(named)


def _named_pair(named: dict[str, str]) -> Iterator[Pair]:
    ask_name = next((name for name in ASK_NAMES if named.get(name)), None)
    answer = next((named[name] for name in ANSWER_NAMES if named.get(name)), None)
    if ask_name is not None and answer is not None:
        contexts = [named[name] for name in CONTEXT_NAMES if name != ask_name and name in named]
        parts = [named[ask_name], *(context for context in contexts if not _NOTHING.fullmatch(context))]
        yield "\n\n".join(parts), answer


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "\n".join(value)
    return "" if value is None else json.dumps(value, ensure_ascii=False)


# -- one text ---------------------------------------------------------------------------------------------------------


def _clean(text: str, chat: bool) -> str:
    text = text.strip()
    for end in _ENDS:
        text = text.removesuffix(end).rstrip()
    if not chat:
        return text
    text = _without_tail(text, _AFTER)
    if len(text) > 4 and text.startswith("**") and text.endswith("**") and "**" not in text[2:-2]:
        text = text[2:-2].strip()
    return unquote(text)


def _without_closing(answer: str, chat: bool) -> str:
    """Without a last paragraph in which a chat model speaks of what it wrote, or offers more."""
    if not chat:
        return answer
    head, _, last = answer.rpartition("\n\n")
    return _clean(head, chat) if head and _CLOSING.match(last) else answer
