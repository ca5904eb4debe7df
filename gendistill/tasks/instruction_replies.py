"""What a reply's instructions and answers are, in whatever form a model writes them.

A base model goes on with an open block (``### Instruction: ... ### Response: ...``). A chat model writes labelled
lines (``Instruction: ... Answer: ...``, by these or other names, in Markdown or not, numbered or not) or JSON. Line
breaks inside an instruction and an answer are kept, since they hold lists and code. The rules are shown by the replies
of ``tests/data/instruction_replies.jsonl``. All is done line by line, in time linear in the reply.

Imports nothing heavy.
"""

from __future__ import annotations

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
    rf"(?P<before>(?:[ \t>*_#+\-\u2022\[\"\u201c]|\(?\d{{1,3}}[.):](?=[ \t*]))*)(?:{_ADJECTIVE}[ \t]+){{0,2}}"
    rf"(?P<name>{'|'.join((*ASK_NAMES, *ANSWER_NAMES, 'context'))})"
    r"(?:[ \t]?#?\d{1,3})?(?:[ \t]*\([^()\n]{0,40}\))?\]?[*_]{0,3}"
    r"(?:[ \t]*[:\uff1a][*_]{0,3}[ \t]*|(?P<bare>[ \t]*\Z))",
    re.IGNORECASE,
)
_INLINE = re.compile(r"(?<=\S)[ \t]+[*_]{0,3}(?P<name>Answer|Response|Output)[*_]{0,3}:[*_]{0,3}(?=[ \t]+\S)")
_FENCE = re.compile(r"[ \t>]*(?:`{3,}|~{3,})[^`\n]*")
_RULE = re.compile(r"[ \t]*(?:-{3,}|\*{3,}|_{3,}|={3,})[ \t]*")
_COUNT = re.compile(  # what stands between pairs: "### Example 2:", "2."
    r"[ \t#*_]*(?:(?:new |another )?(?:example|instruction|question|pair|task)s?[ \t]*#?\d{0,3}|\d{1,3}[.)])[:*_ \t]*",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"[ \t*]*(?:\(?\d{1,3}[.)]|q\d{1,3}[.:)])[ \t]+", re.IGNORECASE)
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
        found = _labelled((_HEADING + reply).split("\n"), cut, headings=True)
    elif (start := _json_start(reply)) is not None:
        found = list(_json_pairs(reply, start))
    else:
        lines, whole = _unwrapped(reply.split("\n"))
        cut = cut and not whole
        found = _labelled(lines, cut, headings=False)
        if not found and not cut:  # a pair on one line
            found = _labelled(_INLINE.sub(r"\n\g<name>:", "\n".join(lines)).split("\n"), cut, headings=False)
    cleaned = [(_clean(ask, chat), _without_closing(_clean(answer, chat), chat)) for ask, answer in found]
    return [(ask, answer) for ask, answer in dict.fromkeys(cleaned) if ask and answer]


# -- labelled lines ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Label:
    """A line such as ``**Answer:** Yes``."""

    line: int
    name: str  # in lower case
    rest: str  # what follows on the line
    indent: int  # blanks that the lines after it have too


class _Pair:
    """The lines of a pair while it is read, each under the part that it belongs to: ask, context or answer."""

    def __init__(self) -> None:
        self.lines: dict[str, list[str]] = {"ask": [], "context": [], "answer": []}
        self.said: set[str] = set()  # parts with a line that is not blank
        self.part = "ask"
        self.indent = 0

    def begin(self, part: str, label: _Label) -> None:
        self.part, self.indent = part, label.indent
        self._put(label.rest)

    def add(self, line: str) -> None:
        if self.part:
            blanks = len(line) - len(line.lstrip(" "))
            self._put(line[min(blanks, self.indent) :])

    def _put(self, line: str) -> None:
        self.lines[self.part].append(line)
        if line.strip():
            self.said.add(self.part)

    def text(self) -> Pair:
        """(instruction with its context, answer)."""
        ask, context, answer = ("\n".join(self.lines[part]).strip() for part in ("ask", "context", "answer"))
        return (ask if _NOTHING.fullmatch(context) else f"{ask}\n\n{context}" if ask else context), answer


def _labels(lines: Sequence[str], headings: bool) -> list[_Label]:
    """The lines outside code fences that are labelled.

    :param headings: only Markdown headings count.
    """
    found, fenced = [], False
    for number, line in enumerate(lines):
        if _FENCE.fullmatch(line):
            fenced = not fenced
        elif not fenced and (label := _LABEL.match(line)):
            before = label["before"]
            if ("#" in before) if headings else (label["bare"] is None or any(mark in before for mark in "#*_")):
                indent = len(before) - len(before.lstrip(" "))
                found.append(_Label(number, label["name"].lower(), line[label.end() :], indent))
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


def _labelled(lines: Sequence[str], cut: bool, headings: bool) -> list[Pair]:
    """The raw pairs of labelled lines.

    The words of the first pair decide: where it has "Instruction" and "Answer", a line "Output: 5" inside an answer
    and a line "Question: ..." inside an instruction are text.

    :param cut: leave out the last pair.
    """
    labels = _labels(lines, headings)
    ask_name, answer_name = _words(labels)
    if not answer_name:
        return []
    context_first = False
    at = {label.line: label for label in labels}
    found: list[_Pair] = []
    before: list[str] = []
    for number, line in enumerate(lines):
        marked = at.get(number)
        name = marked.name if marked else ""
        last = found[-1] if found else None
        asking = last is not None and last.part in ("ask", "context")
        if marked and name == ask_name:
            if last is None or not (last.part == "context" and "ask" not in last.said):
                found.append(_Pair())
            found[-1].begin("ask", marked)
        elif marked and name == answer_name and (asking or not ask_name):
            if last is None or not asking:  # the instruction has no label
                found.append(_Pair())
                found[-1].lines["ask"] = _after_lead_in(before) if last is None else _split_off(last.lines["answer"])
            found[-1].begin("answer", marked)
        elif headings and name == answer_name and last:  # a second answer
            last.part = ""
        elif marked and last and asking and name in CONTEXT_NAMES and "ask" in last.said:
            last.begin("context", marked)
        elif marked and name == "context" and ask_name and not headings and (last is None or context_first):
            context_first = True
            found.append(_Pair())
            found[-1].begin("context", marked)
        elif last:
            last.add(line)
        else:
            before.append(line)
    if cut:
        found = found[:-1]
    for pair in found[:-1]:
        _drop_tail(pair.lines["answer"], _COUNT)
    if ask_name in _CONVERSATION:
        found = found[:1]
    return [pair.text() for pair in found if "answer" in pair.said]


def _unwrapped(lines: list[str]) -> tuple[list[str], bool]:
    """What a fence around the pairs holds, and whether it was closed; else all lines, and False."""
    fences = [number for number, line in enumerate(lines) if _FENCE.fullmatch(line)]
    first = next((number for number, line in enumerate(lines) if _LABEL.match(line)), 0)
    if sum(number < first for number in fences) % 2 == 0:
        return lines, False
    begin = max(number for number in fences if number < first)
    closed = fences[-1] > begin and not any(_LABEL.match(line) for line in lines[fences[-1] + 1 :])
    return lines[begin + 1 : fences[-1] if closed else None], closed


def _after_lead_in(lines: list[str]) -> list[str]:
    """What is said before the first label, without the announcement: the instruction, where it has no label."""
    told = [line for line in lines if not (_LEAD_IN.fullmatch(line.strip()) or _RULE.fullmatch(line))]
    text = "\n".join(told).strip()
    return [_NUMBER.sub("", text, count=1) if _NUMBER.match(text) else text]


def _split_off(answer: list[str]) -> list[str]:
    """Takes the next instruction, which has no label, off the end of an answer: from a number or a blank line on."""
    while answer and not answer[-1].strip():
        answer.pop()
    starts = [row for row, line in enumerate(answer) if row and _NUMBER.match(line)]
    start = starts[-1] if starts else next((row for row in range(len(answer), 0, -1) if not answer[row - 1].strip()), 0)
    taken = answer[start:] if start else []
    del answer[len(answer) - len(taken) :]
    return [_NUMBER.sub("", line, count=1) for line in taken[:1]] + taken[1:]


def _drop_tail(lines: list[str], what: re.Pattern[str]) -> None:
    """Drops blank lines, rules and ``what`` from the end, unless nothing would be left."""
    end = len(lines)
    while end > 1 and (not lines[end - 1].strip() or _RULE.fullmatch(lines[end - 1]) or what.fullmatch(lines[end - 1])):
        end -= 1
    if any(map(str.strip, lines[:end])):
        del lines[end:]


# -- JSON -------------------------------------------------------------------------------------------------------------


def _json_start(reply: str) -> int | None:
    """Where the JSON begins, if the reply is JSON and not an answer that holds some."""
    found = _JSON.search(reply)
    if found is None or any(_LABEL.match(line) for line in reply[: found.start()].split("\n")):
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
    lines = text.split("\n")
    _drop_tail(lines, _RULE)
    text = "\n".join(lines).strip()
    if len(text) > 4 and text.startswith("**") and text.endswith("**") and "**" not in text[2:-2]:
        text = text[2:-2].strip()
    return unquote(text)


def _without_closing(answer: str, chat: bool) -> str:
    """Without a last paragraph in which a chat model speaks of what it wrote, or offers more."""
    if not chat:
        return answer
    head, _, last = answer.rpartition("\n\n")
    return _clean(head, chat) if head and _CLOSING.match(last) else answer
