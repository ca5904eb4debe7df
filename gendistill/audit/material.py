"""What the checks look at: the set, the real rows, and their embeddings, each made when the first check asks for it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gendistill.audit.result import LEVELS, Check, Finding, Level, Number, Status
from gendistill.audit.second import Probabilities, probe_opinion, tfidf_opinion
from gendistill.audit.words import WordIndex
from gendistill.config import AuditConfig
from gendistill.evaluate import stratified_sample
from gendistill.examples import CONVERSATION_FIELDS, Example

if TYPE_CHECKING:
    from torch import Tensor

    from gendistill.audit.masking import Masker

TFIDF, PROBE = "A TF-IDF classifier trained on real rows", "A probe on embeddings of real rows"
Embed = Callable[[str, Sequence[Example]], "Tensor"]  # name and rows -> (n, d) float32, rows of length 1
FloatArray = npt.NDArray[np.float32]

EXCERPT = 200  # characters of a text that are shown
MASKED_FROM = 10 * EXCERPT  # that are masked before they are cut, so that no half of a name is left


@dataclass(frozen=True)
class Named:
    """Rows, and the name under which a store keeps their embeddings."""

    name: str
    examples: list[Example]


@dataclass(frozen=True)
class Material:
    """:param rows: as in the file; ``lines`` of it, from 1; ``examples`` of them, with labels of the real data.
    :param known: every real row that the set may be made from: the training rows, and those of a target.
    :param reference: the rows of them that are embedded.
    :param held: rows of dev and test, which no generator was shown.
    :param label_names: of the classes; none where rows are conversations, whose groups are no labels.
    """

    rows: Sequence[Mapping[str, Any]]
    lines: Sequence[int]
    examples: list[Example]
    known: list[Example]
    reference: Named
    held: Named
    label_names: list[str]
    config: AuditConfig
    embed: Embed
    masker: Masker
    seed: int
    student: str  # the model that judged labels before, which a second opinion must not come from

    @property
    def real_by_design(self) -> bool:
        """Whether the set says of itself that it is a choice among the real rows."""
        return all(
            isinstance(row.get("provenance"), Mapping) and row["provenance"].get("candidates") == "real"
            for row in self.rows
        )

    @cached_property
    def texts(self) -> list[str]:
        return [text_of(example) for example in self.examples]

    @cached_property
    def words(self) -> WordIndex:
        return WordIndex.of(self.texts)

    @cached_property
    def known_words(self) -> WordIndex:
        return WordIndex.of(text_of(row) for row in self.known)

    @cached_property
    def held_texts(self) -> list[str]:
        return [text_of(row) for row in self.held.examples]

    @cached_property
    def reference_places(self) -> list[int]:
        """Where the reference rows stand among those that are known."""
        place = {row.fields: number for number, row in enumerate(self.known)}
        return [place[row.fields] for row in self.reference.examples]

    @cached_property
    def embeddings(self) -> FloatArray:
        return self._embedded(Named("audit", self.examples))

    @cached_property
    def reference_embeddings(self) -> FloatArray:
        return self._embedded(self.reference)

    @cached_property
    def held_embeddings(self) -> FloatArray:
        return self._embedded(self.held)

    @cached_property
    def sampled_known(self) -> list[Example]:
        """Real rows that rates are counted on."""
        return stratified_sample(self.known, max(len(self.label_names), 1), self.config.real_rows, self.seed)

    @cached_property
    def opinions(self) -> list[Probabilities]:
        """The second teacher's (n, C) of the set, and of the held-out rows."""
        count = len(self.label_names)
        if self.second_teacher == TFIDF:
            asked = (self.examples, self.held.examples)
            return tfidf_opinion(self.known, asked, count, self.config.real_rows, self.seed)
        labels = [row.label for row in self.reference.examples]
        vectors = (self.embeddings, self.held_embeddings)
        return probe_opinion(self.reference_embeddings, labels, vectors, count, self.config.real_rows)

    @property
    def second_teacher(self) -> str:
        return PROBE if self.student == "tfidf" else TFIDF

    def _embedded(self, rows: Named) -> FloatArray:
        return np.ascontiguousarray(self.embed(rows.name, rows.examples).numpy(), dtype=np.float32)

    def finding(self, index: int, level: Level, message: str, known: int | None = None) -> Finding:
        """At a row of the set, with its text and perhaps a real one, masked."""
        shown = None if known is None else self.excerpt(text_of(self.known[known]))
        return Finding(self.lines[index], self.id_of(index), level, message, self.excerpt(self.texts[index]), shown)

    def id_of(self, index: int) -> str:
        """As the row has it, masked if it is not a hash of ours: it may be an address."""
        given = self.rows[index].get("id")
        if not isinstance(given, str):
            return self.examples[index].id
        return given if _HASH.fullmatch(given) else self.excerpt(given)

    def excerpt(self, text: str) -> str:
        """The beginning of a text, masked, in characters that no terminal obeys."""
        if len(text) > MASKED_FROM:
            text = text[:MASKED_FROM].rpartition(" ")[0] or text[:MASKED_FROM]
        masked = plain(self.masker.mask(text))
        return masked if len(masked) <= EXCERPT else masked[: EXCERPT - 3] + "..."

    def check(
        self, name: str, title: str, status: Status, summary: str, figures: Mapping[str, Number], found: list[Finding]
    ) -> Check:
        """The gravest findings, as many as are to be told."""
        found = sorted(found, key=lambda one: (LEVELS.index(one.level), one.row))[: self.config.findings]
        return Check(name, title, status, summary, dict(figures), found)


def text_of(example: Example) -> str:
    """The texts of an example as one; of a conversation what is said in it, without a system message that all share."""
    if len(example.fields) >= CONVERSATION_FIELDS:
        return "\n".join(example.fields[1:])
    return example.text


def plain(text: str) -> str:
    """Without control characters and those that change the direction of a text; white space as single spaces."""
    return " ".join("".join(" " if unicodedata.category(c) in _UNSEEN else c for c in text).split())


_HASH = re.compile("[0-9a-f]{16}")
_UNSEEN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


def nearest(queries: FloatArray, rows: FloatArray) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """(n,) cosine to the nearest of the rows and which it is, by exhaustive search."""
    import faiss

    _, found = faiss.knn(queries, rows, 1, metric=faiss.METRIC_INNER_PRODUCT)
    partners = found[:, 0].astype(np.int64)
    # Again in float64: BLAS rounds by the shape of the batch
    cosines = np.einsum("nd,nd->n", queries.astype(np.float64), rows[partners].astype(np.float64))
    return cosines, partners


def counted(number: int, what: str, many: str | None = None) -> str:
    """``1 row``, ``2 rows``."""
    return f"{number:,} {what if number == 1 else many or what + 's'}"
