"""What a generated answer must be like, learnt from the real ones.

Every rule is first tried on the real rows, and holds only where next to none of them break it (`MOST_BROKEN`): what
refuses, ends without a full stop or repeats its question is turned away from a dataset whose own answers do not.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gendistill.examples import Example

if TYPE_CHECKING:
    from gendistill.filters import Rejection

LEARN_ROWS = 5_000  # real rows that are looked at, at most
MOST_BROKEN = 0.003  # share of the real rows that may break a rule
MOST_UNFINISHED = 0.008  # the same for what ends in the middle, as some real answers really do
FORMAT_SHARE = 0.95  # of the real answers that have a format, for every candidate to need it
FEWEST_ROWS = 20  # of all, or of a group, to learn lengths and formats from
ENDS_SHARE = 0.8  # of the real answers that end like a sentence, before an unfinished candidate counts as such
LENGTH_QUANTILE = 0.001  # of the real answers, at either end
LENGTH_SLACK = 1.5  # times longer or shorter than that; answers of a fixed form differ too little to be exact

Rule = Callable[[str, str], "str | None"]  # (what is asked, answer) -> what is wrong, for a person
Format = Callable[[str], bool]

# ------------------------------------------------------------------------------------------------------------- formats

_FINAL_NUMBER = re.compile(r"####[ \t]*[-+]?[$\u20ac\u00a3]?[ \t]?[\d.,/]*\d[ \t]?%?")
_YES_NO = re.compile(r"(?:yes|no|true|false)[.!]?", re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\{")


def _last_line(text: str) -> str:
    return text.rstrip().rpartition("\n")[2].strip()


def _is_json(text: str) -> bool:
    if text[:1] not in ("{", "["):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _has_code_block(text: str) -> bool:
    fences = sum(line.lstrip().startswith("```") for line in text.split("\n"))
    return fences >= 2 and fences % 2 == 0


FORMATS: dict[str, Format] = {
    'a last line "#### number"': lambda text: _FINAL_NUMBER.fullmatch(_last_line(text)) is not None,
    "a result in \\boxed{}": lambda text: _BOXED.search(text) is not None,
    "JSON": _is_json,
    "a code block": _has_code_block,
    "yes or no": lambda text: _YES_NO.fullmatch(text) is not None,
    "one word": lambda text: len(text.split()) == 1,
    "one line": lambda text: "\n" not in text,
}

# --------------------------------------------------------------------------------------------------------------- rules

_CANNOT = (
    r"(?:i can(?:'t|not| not)|i could(?:n't| not)|i(?: am|'m) (?:unable|not able)|i do(?:n't| not) have (?:access|"
    r"enough|the (?:ability|capability|information)|(?:any )?(?:personal|feelings|emotions|opinions)))\b"
)
_MODEL = r"an? (?:ai\b|artificial intelligence|(?:large )?language model)"
_REFUSAL = re.compile(  # at the beginning of an answer; "I can't believe it" and "I'm sorry for your loss" are none
    rf"(?:(?:i'm|i am) (?:very |so )?sorry,? (?:but )?(?:as {_MODEL}|{_CANNOT})|unfortunately,? {_CANNOT}|as {_MODEL}|"
    rf"(?:i'm|i am) (?:just |only )?{_MODEL}|i apologi[sz]e,? (?:but|for (?:any|the) (?:confusion|misunderst))|"
    r"i (?:can(?:'t|not| not)|(?:am|'m) (?:unable|not able) to) (?:help|assist|answer|provide|fulfil|write|do|comply|"
    r"access|create|generate|complete|see|browse|give|share|discuss|perform)\b|"
    r"(?:please|(?:could|can) you(?: please)?) (?:provide|share|give|specify|clarify)\b)",
    re.IGNORECASE,
)
_AS_AN_AI = re.compile(rf"\bas {_MODEL}", re.IGNORECASE)
_OPENING_CHARS = 400  # of an answer in which it says what it is
_PLACEHOLDER = re.compile(
    r"[<\[{(][^<>\[\]{}()\n]{0,60}\b(?:your|the|insert|new|complete|an?)\b[^<>\[\]{}()\n]{0,60}"
    r"(?:answer|response|instruction|text|here)[^<>\[\]{}()\n]{0,60}[>\]})]\.?|(?:\.{3}|\u2026)",
    re.IGNORECASE,
)
_LIST_ITEM = re.compile(r"\s*(?:[-*+\u2022\u25cf\u25aa\u2013|>#]|\(?(?:\d{1,3}|[a-zA-Z])[.):]|[^\s:]{1,40}:\s)")
_OPEN_END = re.compile(
    r"(?:[,(\[{\u201c\u2018;&+=/-]|\b(?:the|an?|and|or|but|of|to|in|on|at|by|for|with|from|as|that|which|who|whose|is|are|"
    r"was|were|be|been|has|have|had|will|would|can|could|may|might|if|when|while|because|than|into|about|its|their|"
    r"his|her|your|our|my))$",
)
_LONG_LINE = 12  # words from which a line counts as prose


def _ends_like_sentence(text: str) -> bool:
    """Whether the text ends with the mark of a sentence, brackets, quotes and emphasis after it left aside."""
    from gendistill.filters import SENTENCE_ENDS

    end = len(text.rstrip())
    while end and (text[end - 1] in "\"'*_" or unicodedata.category(text[end - 1]) in ("Pe", "Pf", "Pi")):
        end -= 1
    return end > 0 and unicodedata.normalize("NFKC", text[end - 1])[-1] in SENTENCE_ENDS


def _is_list(answer: str) -> bool:
    """Whether the last line is one of a list, a table, a heading, a verse or code, which end as they like."""
    lines = [line for line in answer.split("\n") if line.strip()]
    if answer.rstrip().endswith("```"):
        return True
    last = lines[-1] if lines else ""
    return _LIST_ITEM.match(last) is not None or (len(lines) > 1 and len(last.split()) < _LONG_LINE)


def _said_nothing(_: str, answer: str) -> str | None:
    return None if any(character.isalnum() for character in answer) else "no letter and no number"


def _placeholder(ask: str, answer: str) -> str | None:
    if _PLACEHOLDER.fullmatch(answer.strip()) or _PLACEHOLDER.fullmatch(ask.strip()):
        return "something to be filled in stands where a text should"
    return None


def _refusal(_: str, answer: str) -> str | None:
    opening = answer[:_OPENING_CHARS].replace("\u2019", "'")
    found = _REFUSAL.match(opening) or _AS_AN_AI.search(opening)
    return f"it says {found.group()!r}" if found else None


def _same(ask: str, answer: str) -> str | None:
    return "the answer is the instruction again" if _units(ask) == _units(answer) else None


def _begins_with_instruction(ask: str, answer: str) -> str | None:
    asked, answered = _units(ask), _units(answer)
    if len(asked) >= 6 and answered[: len(asked)] == asked:
        return "the answer begins with the whole instruction"
    return None


def _is_part_of_instruction(ask: str, answer: str) -> str | None:
    asked, answered = " ".join(_units(ask)), " ".join(_units(answer))
    if len(answered) >= 0.5 * len(asked) and f" {answered} " in f" {asked} ":
        return "the answer repeats most of the instruction"
    return None


def _gives_itself_away(ask: str, answer: str) -> str | None:
    asked, answered = " ".join(_units(ask)), " ".join(_units(answer))
    if len(answered) >= 30 and f" {answered} " in f" {asked} ":
        return "the instruction holds the answer"
    return None


def _units(text: str) -> list[str]:
    from gendistill.folding import fold

    return fold(text)


def _open_fence(_: str, answer: str) -> str | None:
    fences = sum(line.lstrip().startswith("```") for line in answer.split("\n"))
    return "a code block has no end" if fences % 2 else None


def _no_end(_: str, answer: str) -> str | None:
    return None if _ends_like_sentence(answer) else "the last sentence has no end"


def _no_end_of_prose(_: str, answer: str) -> str | None:
    return None if _ends_like_sentence(answer) or _is_list(answer) else "the last sentence has no end"


def _no_end_after_sentences(_: str, answer: str) -> str | None:
    """Prose of several sentences, of which the last has no end."""
    if _ends_like_sentence(answer) or _is_list(answer):
        return None
    last = _last_line(answer)
    several = len(last.split()) >= _LONG_LINE and any(mark in last for mark in (". ", "! ", "? ", "\u3002"))
    return "the last of several sentences has no end" if several else None


def _open_end(_: str, answer: str) -> str | None:
    found = _OPEN_END.search(answer.rstrip()[-40:])
    return f"it ends with {found.group()!r}" if found else None


# (name, share of the real rows that may break it, rules): of the rules the first that holds is taken.
_RULES: tuple[tuple[str, float, tuple[Rule, ...]], ...] = (
    ("no_answer", MOST_BROKEN, (_said_nothing,)),
    ("no_answer", MOST_BROKEN, (_placeholder,)),
    ("refused", MOST_BROKEN, (_refusal,)),
    ("answer_copied", MOST_BROKEN, (_same,)),
    ("answer_copied", MOST_BROKEN, (_begins_with_instruction,)),
    ("answer_copied", MOST_BROKEN, (_gives_itself_away, _is_part_of_instruction)),
    ("unfinished", MOST_BROKEN, (_open_fence,)),
    ("unfinished", MOST_UNFINISHED, (_open_end,)),
)
_ENDS = ("unfinished", MOST_UNFINISHED, (_no_end, _no_end_of_prose, _no_end_after_sentences))


class AnswerCheck:
    """Turns away candidates whose answer is not like the real ones.

    :param real: real rows, one or more; the last two fields of each are looked at.
    """

    def __init__(self, real: Sequence[Example]) -> None:
        sample = real[:: -(-len(real) // LEARN_ROWS)]
        rows = [(example.fields[-2], example.fields[-1]) for example in sample]
        answers = [answer for _, answer in rows]

        ending = float(np.mean([_ends_like_sentence(answer) for answer in answers]))
        self.rules: list[tuple[str, Rule]] = []
        for name, most, rules in (*_RULES, _ENDS) if ending >= ENDS_SHARE else _RULES:
            held = (rule for rule in rules if sum(rule(*row) is not None for row in rows) <= most * len(rows))
            self.rules += [(name, rule) for rule in itertools.islice(held, 1)]

        self.formats: dict[int | None, list[str]] = {None: _formats(answers)}  # by label; None: of all
        for label in sorted({example.label for example in sample}):
            self.formats[label] = _formats([example.fields[-1] for example in sample if example.label == label])
        self.least, self.most = 0, math.inf  # in units, both allowed
        if len(rows) >= FEWEST_ROWS:
            lengths = [len(_units(answer)) for answer in answers]
            low, high = np.quantile(lengths, [LENGTH_QUANTILE, 1 - LENGTH_QUANTILE])
            self.least, self.most = int(low / LENGTH_SLACK), math.ceil(high * LENGTH_SLACK)

    def check(self, example: Example) -> Rejection | None:
        """None if the candidate passes."""
        from gendistill.filters import Rejection

        ask, answer = example.fields[-2], example.fields[-1]
        for name, rule in self.rules:
            wrong = rule(ask, answer)
            if wrong is not None:
                return Rejection(name, wrong)
        for wanted in dict.fromkeys([*self.formats[None], *self.formats.get(example.label, [])]):
            if not FORMATS[wanted](answer):
                return Rejection("format", f"the real answers have {wanted}")
        length = len(_units(answer))
        if not self.least <= length <= self.most:
            return Rejection("answer_length", f"{length} words; the real answers have {self.least} to {self.most}")
        return None


def _formats(answers: Sequence[str]) -> list[str]:
    """The formats that nearly all of the answers have; none of few."""
    if len(answers) < FEWEST_ROWS:
        return []
    return [name for name, has in FORMATS.items() if sum(map(has, answers)) >= FORMAT_SHARE * len(answers)]
