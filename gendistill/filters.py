"""What a candidate must pass, in the order of the funnel; whatever is turned away is counted, with a reason.

Text filters need only the real texts and the configuration (`TextFilter`); feature filters need embeddings and the
teacher's probabilities (`feature_filter`). Nothing here imports torch.
"""

from __future__ import annotations

import copy
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from gendistill.config import FilterConfig
from gendistill.errors import DataError
from gendistill.examples import CONVERSATION_FIELDS, Example
from gendistill.folding import HashArray, contains, fold, hashes, is_spaceless, key_of, longest_run, ngram_hashes
from gendistill.near_duplicates import FloatArray, Search, cosines, near_duplicates, search_here

if TYPE_CHECKING:
    from gendistill.tasks.base import Check

FUNNEL = (
    "empty",
    "withheld",
    "cut_off",
    "length",
    "garbage",
    "duplicate",
    "real_copy",
    "real_similarity",
    "wrong_label",
    "near_duplicate",
)
EXAMPLES_KEPT = 5
EXAMPLE_CHARS = 500  # a rejected 1 MB text must not end up in a report


@dataclass(frozen=True, slots=True)
class Rejection:
    """Which filter turned a candidate away, and why, in words for a person."""

    filter: str
    reason: str


@dataclass
class FilterReport:
    """How many candidates each filter turned away, with a few examples of each. `add` every candidate once."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FUNNEL, 0))
    examples: dict[str, list[tuple[str, str]]] = field(default_factory=dict)  # filter -> (text, reason)
    seen: int = 0
    kept: int = 0

    def add(self, candidate_text: str, rejection: Rejection | None) -> None:
        """Record the final verdict on one candidate; None means that it passed every filter."""
        self.seen += 1
        if rejection is None:
            self.kept += 1
            return
        self.counts[rejection.filter] = self.counts.get(rejection.filter, 0) + 1
        shown = self.examples.setdefault(rejection.filter, [])
        if len(shown) < EXAMPLES_KEPT:
            shown.append((candidate_text[:EXAMPLE_CHARS], rejection.reason))

    def add_counts(self, kept: int, rejected: Mapping[str, int]) -> None:
        """Record the verdicts on many candidates without their texts."""
        self.seen += kept + sum(rejected.values())
        self.kept += kept
        for name, count in rejected.items():
            self.counts[name] = self.counts.get(name, 0) + count

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, filters in the order of the funnel."""
        return {
            "seen": self.seen,
            "kept": self.kept,
            "rejected": dict(self.counts),
            "examples": {
                name: [{"text": text, "reason": reason} for text, reason in self.examples[name]]
                for name in self.counts
                if name in self.examples
            },
        }

    def summary(self) -> str:
        """One line, the busiest filter first: ``wrong_label 87, near_duplicate 12``."""
        busiest = sorted((item for item in self.counts.items() if item[1]), key=lambda item: -item[1])
        return ", ".join(f"{name} {count}" for name, count in busiest) or "nothing turned away"


# ------------------------------------------------------------------------------------------------- what texts look like

# Latin and CJK (after NFKC), Arabic question mark and full stop, Devanagari danda, Armenian, Ethiopic, Burmese.
SENTENCE_ENDS = frozenset(".!?\u203d\u3002\u061f\u06d4\u0964\u0965\u0589\u1362\u104b")
ENDS_SHARE = 0.8  # real texts that must end like a sentence before an unfinished candidate counts as cut off
_SAME_CHARACTER = re.compile(r"(\S)\1{4,}")
LEARN_ROWS = 5_000  # real rows that the shape of the texts is learnt from, at most
BLOCK_ROWS = 4_096


def _ends_like_sentence(text: str) -> bool:
    text = text.rstrip()
    while text and (text[-1] in "\"'*_" or unicodedata.category(text[-1]) in ("Pe", "Pf", "Pi")):
        text = text[:-1]
    return bool(text) and unicodedata.normalize("NFKC", text[-1])[-1] in SENTENCE_ENDS


def _is_blank(text: str) -> bool:
    return not any(character.isprintable() and not character.isspace() for character in text)


def _bad_character(text: str) -> str | None:
    """The first control, replacement, private-use or surrogate character."""
    for character in text:
        if character == "\ufffd" or (
            not character.isprintable()
            and character not in "\t\n\r"
            and unicodedata.category(character) in ("Cc", "Co", "Cs")
        ):
            return character
    return None


@dataclass(frozen=True, slots=True)
class _Shape:
    """The figures by which garbage is told from text."""

    letters: float  # share of the visible characters that are letters, marks or numbers
    distinct: float  # share of the units that differ from all others
    unit_run: int  # the same unit in a row
    character_run: int  # the same character in a row, 0 below 5


def _shape(text: str, units: Sequence[str]) -> _Shape:
    visible = letters = 0
    for character in text:
        if not character.isspace():
            visible += 1
            letters += character.isalnum() or unicodedata.category(character)[0] == "M"
    run = longest = 0
    previous = None
    for unit in units:
        run = run + 1 if unit == previous else 1
        longest = max(longest, run)
        previous = unit
    return _Shape(
        letters=letters / max(visible, 1),
        distinct=len(set(units)) / max(len(units), 1),
        unit_run=longest,
        character_run=max((len(match.group()) for match in _SAME_CHARACTER.finditer(text)), default=0),
    )


class TextFilter:
    """The filters that need no model. What is usual (length, punctuation, symbols) is learnt from the real rows.

    Memory: 8 bytes per n-gram of the real data; the folded real texts themselves are not kept.

    :param config: the thresholds.
    :param real: the real rows that a candidate must look like and must not copy.
    :param copies: False lets copies of real rows pass, for candidates that are real rows.
    :param extra: what a candidate of the task must pass besides (`Task.checks`).
    :param lengths: least and most units, where nothing may be learnt from real rows or compared with them: a private
        run. There are none then.
    :raises DataError: if there are no real rows.
    """

    # What is usual where no real row says otherwise
    _min_letters, _min_distinct, _max_unit_run, _max_character_run = 0.6, 0.3, 4, 9
    _real_end_share, _unit = 0.0, "words"
    _bad_characters_usual: bool | np.bool_ = False

    def __init__(
        self,
        config: FilterConfig,
        real: Sequence[Example],
        *,
        copies: bool = True,
        extra: Check | None = None,
        lengths: tuple[int, int] | None = None,
    ) -> None:
        self._extra = extra
        self._accepted: set[str] = set()
        self._ngram = config.real_copy_ngram
        self._real_keys: HashArray = np.empty(0, dtype=np.uint64)
        self._ngrams: list[HashArray] = []  # sorted block by block: one sorted whole would need twice the memory
        if lengths is not None:
            self.min_length, self.max_length = lengths
        elif real:
            self._learn(config, real, copies)
        else:
            raise DataError("filters: there are no real rows to learn lengths from; give a dataset with rows")

    def _learn(self, config: FilterConfig, real: Sequence[Example], copies: bool) -> None:
        sample = _looked_at(real)
        shapes = [_shape(example.text, fold(example.text)) for example in sample]
        self._min_letters = 0.75 * float(np.quantile([shape.letters for shape in shapes], 0.01))
        self._min_distinct = 0.5 * float(np.quantile([shape.distinct for shape in shapes], 0.01))
        self._max_unit_run = max(4, int(np.quantile([shape.unit_run for shape in shapes], 0.999)))
        self._max_character_run = max(9, int(np.quantile([shape.character_run for shape in shapes], 0.999)))
        self._bad_characters_usual = np.mean([_bad_character(example.text) is not None for example in sample]) > 0.05
        self._real_end_share = float(np.mean([_ends_like_sentence(example.fields[-1]) for example in sample]))

        self._unit, self._ngram = copy_length(config, real)

        lengths: list[int] = []
        keys: list[HashArray] = []
        for block in _blocks(real):
            rows = [fold(example.text) for example in block]
            lengths.extend(map(len, rows))
            keys.append(hashes([key_of(example.text, row) for example, row in zip(block, rows, strict=True)]))
            grams = ngram_hashes(rows, self._ngram)
            grams.sort()
            self._ngrams.append(grams)
        self._real_keys = np.sort(np.concatenate(keys))
        low, high = np.quantile(lengths, [config.min_length_quantile, config.max_length_quantile])
        self.min_length, self.max_length = int(low), int(np.ceil(high))  # in units, both allowed
        if not copies:
            self._real_keys, self._ngrams = np.empty(0, dtype=np.uint64), []

    def check(self, example: Example, finish_reason: str) -> Rejection | None:
        """None if the candidate passes; it is then remembered, so that the same text does not pass twice.

        :param example: the candidate; call in the order of the candidates.
        :param finish_reason: why the generator stopped this text (`Reply.finish_reason`).
        """
        text = example.text
        system = len(example.fields) >= CONVERSATION_FIELDS  # the one field that may be empty
        if any(_is_blank(part) for part in example.fields[system:]) and finish_reason != "content_filter":
            return Rejection("empty", "no visible text")
        if finish_reason == "content_filter":
            return Rejection("withheld", "the server's content filter stopped the text")
        if finish_reason == "length":
            return Rejection("cut_off", "the generator's token limit came before its end")
        if self._extra is not None and (wrong := self._extra(example)) is not None:
            return wrong
        # Lists and code end an answer otherwise; its own check (`Task.checks`) looks at that more closely
        if not system and self._real_end_share >= ENDS_SHARE and not _ends_like_sentence(example.fields[-1]):
            share = f"{self._real_end_share:.0%}"
            return Rejection("cut_off", f"the last sentence has no end, as {share} of the real texts have")
        units = fold(text)
        if not self.min_length <= len(units) <= self.max_length:
            bounds = f"{self.min_length} to {self.max_length}"
            return Rejection("length", f"{len(units)} {self._unit}; the real texts have {bounds}")
        garbage = self._garbage(text, units)
        if garbage:
            return Rejection("garbage", garbage)
        key = key_of(text, units)
        if key in self._accepted:
            return Rejection("duplicate", "the same text as an earlier candidate")
        if contains(self._real_keys, hashes([key]))[0]:
            return same_as_real(len(units), self._unit)
        shared = self._shared_with_real(units)
        if shared:
            return shared_with_real(shared, self._unit)
        self._accepted.add(key)
        return None

    def fresh(self) -> TextFilter:
        """The same filter before any candidate; shares what was learnt from the real rows, which takes long."""
        other = copy.copy(self)
        other._accepted = set()
        return other

    def _garbage(self, text: str, units: Sequence[str]) -> str | None:
        bad = None if self._bad_characters_usual else _bad_character(text)
        if bad is not None:
            return f"contains the character U+{ord(bad):04X}"
        shape = _shape(text, units)
        if shape.letters < self._min_letters:
            return f"{shape.letters:.0%} letters and numbers; the real texts have far more"
        if shape.unit_run > self._max_unit_run:
            return f"the same word {shape.unit_run} times in a row"
        if shape.character_run > self._max_character_run:
            return f"the same character {shape.character_run} times in a row"
        if shape.distinct < self._min_distinct:
            return f"says the same over and over: {shape.distinct:.0%} of the {self._unit} are different"
        return None

    def _shared_with_real(self, units: Sequence[str]) -> int:
        """Longest run of units that is in the real data; 0 below the configured length."""
        grams = ngram_hashes([units], self._ngram)
        hits = np.zeros(len(grams), dtype=np.bool_)
        for block in self._ngrams:
            hits |= contains(block, grams)
        return self._ngram + longest_run(hits) - 1 if hits.any() else 0


def copy_length(config: FilterConfig, real: Sequence[Example]) -> tuple[str, int]:
    """What these texts are counted in, "words" or "characters", and how many in a row make a copy of a real row."""
    units = [unit for example in _looked_at(real)[:1000] for unit in fold(example.text)]
    spaceless = sum(len(unit) == 1 and is_spaceless(ord(unit)) for unit in units) > len(units) / 2
    # A Chinese word has about two characters
    return ("characters", 2 * config.real_copy_ngram) if spaceless else ("words", config.real_copy_ngram)


def same_as_real(length: int, unit: str) -> Rejection:
    return Rejection("real_copy", f"the same text as a real row ({length} {unit})")


def shared_with_real(run: int, unit: str) -> Rejection:
    """:param run: units in a row that real rows have too."""
    return Rejection("real_copy", f"{run} consecutive {unit} are in the real data")


def _looked_at(real: Sequence[Example]) -> Sequence[Example]:
    """The rows that what is usual is learnt from."""
    return real[:: -(-len(real) // LEARN_ROWS)]


def _blocks(real: Sequence[Example]) -> Iterator[Sequence[Example]]:
    for start in range(0, len(real), BLOCK_ROWS):
        yield real[start : start + BLOCK_ROWS]


# ------------------------------------------------------------------------------------------------------ feature filters


@dataclass(frozen=True, slots=True)
class FeatureVerdict:
    """What the feature filters say of n candidates."""

    rejections: list[Rejection | None]  # (n,)
    real_similarity: FloatArray  # (n,) cosine to the nearest real row; -1 where there are no real rows


def feature_filter(
    config: FilterConfig,
    texts: Sequence[str],
    labels: Sequence[int],
    embeddings: FloatArray,
    real_embeddings: FloatArray,
    probabilities: FloatArray | None,
    kept_embeddings: FloatArray | None = None,
    label_names: Sequence[str] | None = None,
    *,
    search: Search | None = search_here,
) -> FeatureVerdict:
    """Turn away near copies of real rows, wrong labels by the teacher, and near duplicates, in this order.

    :param texts: n candidates that passed the text filters, in their order.
    :param labels: their class indices, (n,).
    :param embeddings: (n, d) float32, rows of unit length.
    :param real_embeddings: (m, d) float32, rows of unit length.
    :param probabilities: (n, C), the teacher's; None where there are no labels to be right about.
    :param kept_embeddings: (k, d) of candidates that passed in earlier rounds.
    :param label_names: C names, for the reasons.
    :param search: how near duplicates are looked for; None leaves them in, for who sees a part of the candidates only.
    """
    count = len(texts)
    similarity = np.full(count, -1.0, dtype=np.float32)
    rejections: list[Rejection | None] = [None] * count
    if count == 0:
        return FeatureVerdict(rejections, similarity)
    queries = _contiguous(embeddings)
    if len(real_embeddings):
        similarity = _nearest_cosine(queries, _contiguous(real_embeddings))

    for index, label in enumerate(labels):
        if similarity[index] >= config.real_copy_similarity:
            reason = f"cosine {similarity[index]:.3f} to a real row, the limit is {config.real_copy_similarity:g}"
            rejections[index] = Rejection("real_similarity", reason)
        elif probabilities is None:
            continue
        elif not probabilities[index][label] >= config.teacher_probability:  # NaN is turned away too
            rejections[index] = Rejection(
                "wrong_label", _label_reason(config, label, probabilities[index], label_names)
            )

    if search is None:
        return FeatureVerdict(rejections, similarity)
    candidates = [index for index in range(count) if rejections[index] is None]
    before = 0 if kept_embeddings is None else len(kept_embeddings)
    compared = queries[candidates]
    if kept_embeddings is not None and before:
        compared = np.concatenate([_contiguous(kept_embeddings), compared])
    for row, (earlier, cosine) in near_duplicates(compared, before, config.near_duplicate, search).items():
        what = "a candidate of an earlier round" if earlier < before else _quote(texts[candidates[earlier - before]])
        rejections[candidates[row - before]] = Rejection("near_duplicate", f"cosine {cosine:.3f} to {what}")
    return FeatureVerdict(rejections, similarity)


def _contiguous(array: FloatArray) -> FloatArray:
    return np.ascontiguousarray(array, dtype=np.float32)


def _quote(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _label_reason(config: FilterConfig, label: int, probabilities: FloatArray, names: Sequence[str] | None) -> str:
    def name(index: int) -> str:
        return names[index] if names else f"class {index}"

    reason = f"the teacher gives {name(label)} {probabilities[label]:.2f}, least {config.teacher_probability:.2f}"
    seen = int(np.argmax(probabilities))
    return reason if seen == label else f"{reason}; it sees {name(seen)} ({probabilities[seen]:.2f})"


def _nearest_cosine(queries: FloatArray, real: FloatArray) -> FloatArray:
    """(n,) cosine to the nearest real row, by exhaustive search (faiss.knn is IndexFlatIP without a copy of real)."""
    import faiss

    _, nearest = faiss.knn(queries, real, 1, metric=faiss.METRIC_INNER_PRODUCT)
    return cosines(queries, real[nearest[:, 0]]).astype(np.float32)  # a recorded value must not depend on the batch
