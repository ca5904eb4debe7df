"""Membership inference from the data alone: can one tell from the released texts which real rows were distilled?

The attacker scores a real row by how like the released texts it is. Where that says nothing, training rows score as
held-out rows do: an AUC of one half.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gendistill.audit import intervals
from gendistill.audit.material import Material, counted, nearest, text_of
from gendistill.audit.result import Check, Number, Status
from gendistill.audit.words import WordIndex, overlap

NAME, TITLE = "membership", "Membership inference"
WORDS = 3  # in a row, whose overlap is counted
LEAST_ROWS = 10  # of each side, below which nothing can be said
LEAK = 0.55  # AUC above which, by the whole interval, the set tells who was in it
Scores = npt.NDArray[np.float64]


def check(material: Material) -> Check:
    """Fails if training rows are told from held-out ones beyond chance, over all of them or among the nearest."""
    members, others = material.reference.examples, material.held.examples
    if min(len(members), len(others)) < LEAST_ROWS:
        reason = f"{len(others)} held-out and {len(members)} training rows are too few to compare"
        return Check(NAME, TITLE, "skipped", reason)
    meaning, partners = nearest(
        np.concatenate([material.reference_embeddings, material.held_embeddings]), material.embeddings
    )
    words = overlap(WordIndex.of(text_of(row) for row in (*members, *others)), material.words, WORDS)
    labels = [row.label for row in (*members, *others)] if material.label_names else [0] * len(meaning)
    scores = (within_classes(meaning, labels) + within_classes(words, labels)) / 2
    count = len(members)
    by_meaning, by_words, whole = (
        intervals.auc(one[:count], one[count:])
        for one in (within_classes(meaning, labels), within_classes(words, labels), scores)
    )
    top = min(len(material.rows), len(scores) // 10) or 1
    among, p_value = among_nearest(scores[:count], scores[count:], top)
    expected = top * count / len(scores)
    figures: dict[str, Number] = {
        **whole.figures("auc"),
        "auc_embedding": by_meaning.value,
        "auc_words": by_words.value,
        "members": count,
        "held_out": len(others),
        "nearest": top,
        "nearest_members": among,
        "nearest_members_expected": expected,
        "nearest_p_value": p_value,
    }
    told = (
        f"Training rows are told from held-out ones with an AUC of {whole.value:.3f} (95 %: {whole.low:.3f} to "
        f"{whole.high:.3f}; 0.5 is chance); of the {counted(top, 'real row')} most like the set {among} are training "
        f"rows, where {expected:.1f} are expected (p = {p_value:.2g})"
    )
    exposed = p_value < material.config.significance
    status: Status = "failed" if exposed or whole.low > LEAK else "noted" if whole.low > 0.5 else "passed"
    if material.real_by_design:
        return material.check(NAME, TITLE, "noted", f"all rows are real rows: {told}.", figures, [])
    highest = scores[count:].max()
    findings = [
        material.finding(
            int(partners[row]),
            "warning",
            "a training row is more like the set than any held-out row; this text is the nearest to it",
            material.reference_places[row],
        )
        for row in np.argsort(-scores[:count], kind="stable")[:top].tolist()
        if exposed and scores[row] > highest
    ]
    return material.check(NAME, TITLE, status, told + ".", figures, findings)


def within_classes(scores: Scores, labels: Sequence[int]) -> Scores:
    """Scores less the mean of their class, by its standard deviation: some classes lie closer together than others."""
    found, of = np.zeros(len(scores)), np.asarray(labels)
    for label in np.unique(of):
        mine = scores[of == label]
        spread = mine.std()
        found[of == label] = (mine - mine.mean()) / spread if spread > 0 else 0.0
    return found


def among_nearest(members: Scores, others: Scores, top: int) -> tuple[int, float]:
    """How many of the ``top`` highest scores are members', and the chance of as many if membership meant nothing.

    A set that repeats a few rows says nothing of the others, so that an AUC over all of them hardly moves.
    Of ties at the end, members come last.
    """
    from scipy.stats import hypergeom

    scores = np.concatenate([others, members])
    order = np.argsort(-scores, kind="stable")[:top]
    among = int((order >= len(others)).sum())
    return among, float(hypergeom.sf(among - 1, len(scores), len(members), top))
