"""Copies of real rows: in the same words, nearly so, or nearer in meaning than held-out rows come."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

from gendistill.audit import intervals
from gendistill.audit.material import FloatArray, Material, counted, nearest, text_of
from gendistill.audit.result import Check, Finding, Number, Status
from gendistill.audit.words import NONE, WordIndex, longest_shared
from gendistill.folding import fold, is_spaceless

NAME, TITLE = "memorisation", "Copies of real rows"
NEIGHBOURS = 3  # real rows nearest by embedding whose characters are compared
COMPARED = 2_000  # characters of each text, from its beginning
BLOCK = 512  # rows whose distances are held at once


def check(material: Material) -> Check:
    """Errors for texts that are real rows or nearly so, warnings for a long run of words of one."""
    config, rows = material.config, len(material.rows)
    # Those of the set and of the held-out rows in one pass over the real rows
    all_lengths, all_partners = longest_shared(
        WordIndex.of([*material.texts, *material.held_texts]), material.known_words
    )
    lengths, partners, held_lengths = all_lengths[:rows], all_partners[:rows], all_lengths[rows:]
    copies = _exact(material, lengths)
    near: dict[int, tuple[float, int]] = {}
    held_near = near
    if not material.real_by_design:
        near = _alike(material, material.texts, material.embeddings, partners)
        near = {row: found for row, found in near.items() if row not in copies}
        held_near = _alike(material, material.held_texts, material.held_embeddings, all_partners[rows:])
    copied = [row for row in range(rows) if lengths[row] >= _least(material, row)]
    p_value = intervals.rates_differ(len(near), rows, len(held_near), len(material.held_texts))
    # Questions of one form are alike in real data too
    many = p_value < config.significance and len(near) * len(material.held_texts) > len(held_near) * rows
    usual = intervals.share(int((held_lengths >= config.copied_words).sum()), len(held_lengths))
    longest = int(lengths.max(initial=0))
    figures: dict[str, Number] = {
        "exact_copies": len(copies),
        "near_copies": len(near),
        "held_out_near_copies_share": len(held_near) / max(len(material.held_texts), 1),
        "longest_copied_words": longest,
        "mean_copied_words": float(lengths.mean()),
        **intervals.share(len(copied), rows).figures("copied_share"),
        "held_out_copied_share": usual.value,
    }
    close, train_first = _distances(material)
    figures |= close.figures("close_share") | train_first.figures("nearer_to_train_share")
    if material.real_by_design or len(copies) == rows:
        chosen = material.real_by_design
        told = "all rows are real rows" + (", chosen as they stand" if chosen else "")
        return material.check(NAME, TITLE, "noted" if chosen else "failed", f"{told}.", figures, [])

    findings = [
        material.finding(row, "error", "the same text as a real row, but for case, spacing and punctuation", known)
        for row, known in copies.items()
    ]
    findings += [
        material.finding(
            row,
            "error" if many else "warning",
            f"{alike:.0%} of its characters are those of a real row, in their order",
            known,
        )
        for row, (alike, known) in near.items()
    ]
    findings += [_run_of_words(material, row, int(lengths[row]), int(partners[row]))
                 for row in copied if row not in copies and row not in near]  # fmt: skip
    nearer = train_first.low > 0.5
    too_close = close.low > config.nearest_quantile
    status: Status = "passed"
    if copies or many or (nearer and too_close):
        status = "failed"
    elif near or copied or nearer or too_close:
        status = "noted"
    summary = (
        f"{counted(len(copies), 'exact copy', 'exact copies')} and {counted(len(near), 'near copy', 'near copies')} of "
        f"real rows; the longest run of a real row's words is {longest}, and {counted(len(copied), 'text')} of "
        f"{rows:,} {'has' if len(copied) == 1 else 'have'} one of {config.copied_words} or more (held-out real rows: "
        f"{usual.value:.1%}); {close} lie nearer to a training row than {config.nearest_quantile:.0%} of held-out rows "
        f"do; nearer to training than to held-out rows, of as many: {train_first}, one half where nothing is memorised."
    )
    return material.check(NAME, TITLE, status, summary, figures, findings)


def _least(material: Material, row: int) -> int:
    """Words in a row that count as copied; a Chinese word has about two characters, which are units of their own."""
    units = fold(material.texts[row][:COMPARED])
    spaceless = sum(len(unit) == 1 and is_spaceless(ord(unit)) for unit in units) > len(units) / 2
    return material.config.copied_words * (2 if spaceless else 1)


def _exact(material: Material, lengths: npt.NDArray[np.int64]) -> dict[int, int]:
    """Row of the set -> the real row that has just its words."""
    sizes = material.words.counts()
    whole = np.flatnonzero((lengths == sizes) & (sizes > 0)).tolist()
    wanted: dict[tuple[str, ...], list[int]] = {}
    for row in whole:
        wanted.setdefault(tuple(fold(material.texts[row])), []).append(row)
    copies: dict[int, int] = {}
    for known in np.flatnonzero(np.isin(material.known_words.counts(), sizes[whole])).tolist():
        for row in wanted.get(tuple(fold(text_of(material.known[known]))), ()):
            copies.setdefault(row, known)
    return dict(sorted(copies.items()))


def _alike(
    material: Material, texts: Sequence[str], embeddings: FloatArray, partners: npt.NDArray[np.int64]
) -> dict[int, tuple[float, int]]:
    """Text -> the share of characters that it has in common with a real row, in their order, and which, where that is
    enough to count; by the real rows nearest in meaning, and the one that shares most words in a row.

    :param partners: (n,) the latter.
    """
    import faiss

    count, metric = min(NEIGHBOURS, len(material.reference.examples)), faiss.METRIC_INNER_PRODUCT
    _, neighbours = faiss.knn(embeddings, material.reference_embeddings, count, metric=metric)
    found, least = {}, material.config.near_copy
    for row, text in enumerate(texts):
        known = [material.reference_places[one] for one in neighbours[row].tolist()]
        known += [int(partners[row])] if partners[row] != NONE else []
        alike, best = max((_ratio(text, text_of(material.known[one]), least), -one) for one in known)
        if alike >= least:
            found[row] = (alike, -best)
    return found


def _ratio(text: str, other: str, least: float) -> float:
    """Ratcliff and Obershelp's; 0 where a bound on it is below what counts."""
    matcher = SequenceMatcher(None, text[:COMPARED].casefold(), other[:COMPARED].casefold(), autojunk=False)
    if matcher.real_quick_ratio() < least or matcher.quick_ratio() < least:
        return 0.0
    return matcher.ratio()


def _run_of_words(material: Material, row: int, length: int, known: int) -> Finding:
    share = length / max(int(material.words.counts()[row]), 1)
    message = f"{length} words in a row, {share:.0%} of its words, stand in one real row"
    return material.finding(row, "warning", message, known)


def _distances(material: Material) -> tuple[intervals.Interval, intervals.Interval]:
    """The share of texts nearer to a training row than the quantile of held-out rows, and the expected share nearer
    to training than to held-out rows if there were as many of the one as of the other."""
    train = material.reference_embeddings
    held = material.held_embeddings[: len(train)]
    real_to_real, _ = nearest(held, train)
    ours, _ = nearest(material.embeddings, train)
    limit = float(np.quantile(real_to_real, 1 - material.config.nearest_quantile))  # of cosines: near is high
    close = intervals.share(int((ours > limit).sum()), len(ours))
    to_held, _ = nearest(material.embeddings, held)
    nearer = np.concatenate(
        [_nearer(material.embeddings[i : i + BLOCK], train, to_held[i : i + BLOCK]) for i in range(0, len(ours), BLOCK)]
    )
    return close, intervals.mean(_any_drawn(nearer, len(train), len(held)))


def _nearer(queries: FloatArray, train: FloatArray, limits: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """(n,) how many training rows are nearer than the limit."""
    return (queries @ train.T > limits[:, None].astype(np.float32)).sum(1).astype(np.int64)


def _any_drawn(nearer: npt.NDArray[np.int64], total: int, drawn: int) -> npt.NDArray[np.float64]:
    """The chance that so many rows drawn of the total hold one of the nearer ones (hypergeometric, in closed form)."""
    left = total - nearer
    none = np.where(
        left >= drawn,
        np.exp(
            gammaln(left + 1.0)
            - gammaln(np.maximum(left - drawn, 0) + 1.0)
            - gammaln(total + 1.0)
            + gammaln(total - drawn + 1.0)
        ),
        0.0,
    )
    return 1 - none
