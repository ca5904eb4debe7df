"""Answers of a causal LM checked against references: the final number of a calculation. Imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

from gendistill.errors import DataError

# A minus after a digit is a subtraction.
_NUMBER = r"(?:(?<![\w.])[-+])?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)"
_MARKED = re.compile(rf"####\s*\$?\s*({_NUMBER})")
_ANY = re.compile(_NUMBER)


def final_number(text: str) -> str | None:
    """The number after ``####``, as GSM8K (Cobbe et al. 2021, arXiv 2110.14168) ends its answers, else the last one.

    Thousands separators, a plus sign and zeros that mean nothing are left out, so that equal numbers are equal strings;
    None where there is no number.
    """
    found = [match.group(1) for match in _MARKED.finditer(text)] or _ANY.findall(text)
    if not found:
        return None
    number = Decimal(found[-1].replace(",", ""))
    plain = f"{number:f}"
    plain = plain.rstrip("0").rstrip(".") if "." in plain else plain
    return "0" if plain in ("-0", "") else plain


def number_accuracy(answers: Sequence[str], references: Sequence[str]) -> float:
    """The share of answers whose final number is the reference's; a reference without a number counts as missed.

    :raises DataError: they are not as many, or none.
    """
    if len(answers) != len(references) or not answers:
        raise DataError(f"{len(answers)} answers for {len(references)} references: give one each, and one at least")
    pairs = [(final_number(mine), final_number(theirs)) for mine, theirs in zip(answers, references, strict=True)]
    return sum(mine is not None and mine == theirs for mine, theirs in pairs) / len(pairs)
