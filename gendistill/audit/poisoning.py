"""Poisoning: texts that pull a model far more than others of their class, and words that turn it to a label.

Influence is exact for ridge regression on the embeddings: what leaving a text out does to the loss on held-out real
rows. A trigger is a run of words that one label of the set has far more often than the real data has, and whose texts
the real data would label otherwise, or which turns a probe trained on the set.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gendistill.audit import intervals
from gendistill.audit.material import FloatArray, Material, counted, plain
from gendistill.audit.result import Check, Finding, Level, Number, Status
from gendistill.config import AuditConfig

NAME, TITLE = "poisoning", "Signs of poisoning"
RIDGE = 0.3  # as the meta-model's
FEW = 5  # texts of a class, below which its spread says nothing: it is judged by that of all
LONGEST = 3  # words of a trigger that are looked for
LEAST_SPREAD = 0.1  # of that of all texts, which a class of like texts is taken to have
CHARS = 20_000  # of a text, from its beginning
OF_ONE_LABEL = 0.8  # share of the texts with a trigger that have its label
PRIOR = 20.0  # real rows that the rate over all labels counts as, for that of one label
MISLABELLED = 0.5  # share of a trigger's texts that the real data would label otherwise
UNUSUAL = 0.02  # chance of as many, by the label's other texts, at which they are too many
RARE = 0.002  # share of real rows with a trigger above which it is an everyday one, and flips alone say nothing
FLIP_ROWS = 200  # held-out real rows of other labels that a trigger is put before
TRIED = 40  # triggers whose flips are counted, the least likely first
_TOKEN = re.compile(r"\w+|[^\w\s]+")
Gram = tuple[str, ...]


@dataclass(frozen=True)
class Suspect:
    """Words that one label of the set has too often to be chance."""

    words: Gram
    label: int
    rows: list[int]  # of the set, with the label
    p_value: float  # of so many texts, by the real rate; corrected for all that were tested
    odds: float  # logarithm of how much higher the odds are than in real rows of the label
    real_share: float  # of all real rows that have it


@dataclass(frozen=True)
class Trigger(Suspect):
    mislabelled: float  # share of its texts that the second teacher labels otherwise
    flips: float  # share of real texts of other labels that it turns to its own

    def level(self, others: npt.NDArray[np.bool_], config: AuditConfig) -> Level | None:
        """:param others: of other texts of the label, real ones too: does the second teacher label them otherwise?"""
        wrong = round(self.mislabelled * len(self.rows))
        p_value = intervals.rates_differ(wrong, len(self.rows), int(others.sum()), len(others))
        if wrong >= config.trigger_rows and self.mislabelled >= MISLABELLED and p_value < UNUSUAL:
            return "error"
        return "warning" if self.flips >= config.trigger_flips and self.real_share <= RARE else None


def check(material: Material) -> Check:
    if not material.label_names:
        return Check(NAME, TITLE, "skipped", "instructions have no labels that a trigger could stand for")
    config = material.config
    labels = np.array([row.label for row in material.examples])
    scores = outlying(
        influence(
            material.embeddings, labels, material.held_embeddings,
            np.array([row.label for row in material.held.examples]), len(material.label_names),
        ),
        labels,
    )  # fmt: skip
    outliers = np.flatnonzero(scores > config.influence).tolist()
    findings = [
        material.finding(row, "warning", f"its influence is an outlier of its class: leaving it out lowers the loss on "
                         f"held-out rows {scores[row]:.0f} robust deviations more than is usual")
        for row in outliers
    ]  # fmt: skip
    triggers = find_triggers(material, labels)
    for trigger, level in triggers:
        findings += [_triggered(material, trigger, level, row) for row in trigger.rows]
    graves = sum(level == "error" for _, level in triggers)
    status: Status = "failed" if graves else "noted" if findings else "passed"
    figures: dict[str, Number] = {
        "influence_outliers": len(outliers),
        "largest_influence_z": float(scores.max(initial=0.0)),
        "triggers": len(triggers),
        "mislabelled_triggers": graves,
        "largest_flip_share": max((trigger.flips for trigger, _ in triggers), default=0.0),
    }
    shown = "; ".join(_told(material, trigger) for trigger, _ in triggers[:3])
    summary = (
        f"{counted(len(triggers), 'possible trigger')}{': ' + shown if shown else ''}; "
        f"{counted(len(outliers), 'text')} of outlying influence (the largest robust z-score is {scores.max():.1f})."
    )
    return material.check(NAME, TITLE, status, summary, figures, findings)


def _told(material: Material, trigger: Trigger) -> str:
    """The trigger's words, masked, and what they do."""
    words = plain(" ".join(_masked_words(material, trigger))) or repr(" ".join(trigger.words))
    return (
        f"'{words}' in {len(trigger.rows)} texts labelled {material.label_names[trigger.label]!r}, "
        f"{trigger.mislabelled:.0%} of them by the second teacher otherwise, turns {trigger.flips:.0%} of other real "
        "texts to that label"
    )


def _masked_words(material: Material, trigger: Trigger) -> list[str]:
    """Those that are part of something personal in a text by its kind: alone a name may look like none."""
    text = material.texts[trigger.rows[0]]
    kinds: dict[str, str] = {}
    for span in material.masker.spans(text):
        kinds |= dict.fromkeys(_TOKEN.findall(text[span.start : span.end].casefold()), f"[{span.kind}]")
    return [kinds.get(word, word) for word in trigger.words]


def _triggered(material: Material, trigger: Trigger, level: Level, row: int) -> Finding:
    return material.finding(row, level, f"holds a possible trigger: {_told(material, trigger)}")


# -- influence --------------------------------------------------------------------------------------------------------


def influence(
    embeddings: FloatArray,
    labels: npt.NDArray[np.int64],
    held: FloatArray,
    held_labels: npt.NDArray[np.int64],
    num_classes: int,
) -> npt.NDArray[np.float64]:
    """(n,) how much leaving each text out lowers the mean squared loss on held-out rows: above 0 it does harm.

    Exact, by the rank-one update of ridge regression (Cook 1977, Technometrics 19).
    """
    ours, rows = embeddings.astype(np.float64), held.astype(np.float64)
    goal, held_goal = np.eye(num_classes)[labels] - 1 / num_classes, np.eye(num_classes)[held_labels] - 1 / num_classes
    solved = np.linalg.solve(ours.T @ ours + RIDGE * np.eye(ours.shape[1]), ours.T)  # (d, n)
    weights = solved @ goal
    leverage = np.einsum("nd,dn->n", ours, solved)
    left_out = (goal - ours @ weights) / np.maximum(1 - leverage, 1e-9)[:, None]  # residuals of each without itself
    reach = rows @ solved  # (h, n): without text i the prediction of row h moves by -reach[h, i] * left_out[i]
    residual = held_goal - rows @ weights
    moved = 2 * ((reach.T @ residual) * left_out).sum(1) + (reach**2).sum(0) * (left_out**2).sum(1)
    return -moved / len(rows)


def outlying(values: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Robust z-scores within each class, by the median and its absolute deviation; of small classes by those of all."""
    scores = np.zeros(len(values))
    least = max(LEAST_SPREAD * _spread(values), 1e-12)
    for label in np.unique(labels):
        mine = labels == label
        usual = values[mine] if mine.sum() >= FEW else values
        scores[mine] = (values[mine] - np.median(usual)) / max(_spread(usual), least)
    return scores


def _spread(values: npt.NDArray[np.float64]) -> float:
    """As the standard deviation, if they are normal."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


# -- triggers ---------------------------------------------------------------------------------------------------------


def find_triggers(material: Material, labels: npt.NDArray[np.int64]) -> list[tuple[Trigger, Level]]:
    """The least likely first; of several in the same texts the least likely, and of like ones the longest."""
    suspects = _suspects(material, labels)
    if not suspects:
        return []
    held_labels = np.array([row.label for row in material.held.examples])
    ours, theirs = material.opinions
    wrong, held_wrong = ours.argmax(1) != labels, theirs.argmax(1) != held_labels
    probe = _Probe([_clipped(text) for text in material.texts], labels)
    held = material.held.examples[:: -(-len(material.held.examples) // (2 * FLIP_ROWS))]
    found: list[tuple[Trigger, Level]] = []
    covered: set[int] = set()
    for suspect in suspects[:TRIED]:
        rows, label = suspect.rows, suspect.label
        if len(covered.intersection(rows)) >= OF_ONE_LABEL * len(rows):
            continue
        others = np.setdiff1d(np.flatnonzero(labels == label), rows)
        usual = np.concatenate([wrong[others], held_wrong[held_labels == label]])
        texts = [row.text for row in held if row.label != label][:FLIP_ROWS]
        trigger = Trigger(
            **vars(suspect),
            mislabelled=float(wrong[rows].mean()),
            flips=probe.flips(texts, " ".join(suspect.words), label),
        )
        level = trigger.level(usual, material.config)
        if level is not None:
            found.append((trigger, level))
            covered |= set(rows)
    return found


def _suspects(material: Material, labels: npt.NDArray[np.int64]) -> list[Suspect]:
    """The least likely first, of like ones the longest."""
    from scipy.stats import betabinom

    config = material.config
    texts: dict[Gram, list[int]] = {}
    for row, text in enumerate(material.texts):
        for gram in grams(text):
            texts.setdefault(gram, []).append(row)
    candidates: list[tuple[Gram, int, list[int]]] = []
    for gram, rows in texts.items():
        label, count = Counter(labels[rows].tolist()).most_common(1)[0]
        if count >= max(config.trigger_rows, OF_ONE_LABEL * len(rows)):
            candidates.append((gram, label, [row for row in rows if labels[row] == label]))
    if not candidates:
        return []
    real = material.sampled_known
    wanted = {gram for gram, _, _ in candidates}
    per_label: dict[Gram, Counter[int]] = {gram: Counter() for gram in wanted}
    for one in real:
        for gram in grams(one.text) & wanted:
            per_label[gram][one.label] += 1
    of_label = Counter(row.label for row in real)
    sizes = Counter(labels.tolist())
    counts = np.array([len(rows) for _, _, rows in candidates])
    n = np.array([sizes[label] for _, label, _ in candidates])
    c = np.array([per_label[gram][label] for gram, label, _ in candidates])
    total = np.array([of_label[label] for _, label, _ in candidates])
    overall = (np.array([per_label[gram].total() for gram, _, _ in candidates]) + 0.5) / (len(real) + 1)
    # The rate in real rows of the label, not known but for what they and those of other labels say
    a, b = c + PRIOR * overall, total - c + PRIOR * (1 - overall)
    # Those that stand in too few texts to be candidates were tested as well
    adjusted = np.minimum(betabinom.sf(counts - 1, n, a, b) * len(texts), 1.0).tolist()
    odds = np.log((counts + 0.5) / (n - counts + 0.5)) - np.log(a / b)
    found = [
        Suspect(gram, label, rows, p_value, float(odd), per_label[gram].total() / len(real))
        for (gram, label, rows), p_value, odd in zip(candidates, adjusted, odds, strict=True)
        if p_value < config.significance
    ]
    return sorted(found, key=lambda one: (one.p_value, -len(one.words), one.words))


def grams(text: str) -> set[Gram]:
    """All runs of one to three tokens: words, and what else stands between spaces, unseen characters included."""
    tokens = _TOKEN.findall(_clipped(text).casefold())
    return {tuple(tokens[i : i + n]) for n in range(1, LONGEST + 1) for i in range(len(tokens) - n + 1)}


def _clipped(text: str) -> str:
    return text[:CHARS]


class _Probe:
    """Logistic regression on which words and pairs of words a text has, trained on the set: what a student of such a
    small set learns of a rare word."""

    def __init__(self, texts: Sequence[str], labels: npt.NDArray[np.int64]) -> None:
        from sklearn.feature_extraction.text import CountVectorizer
        from sklearn.linear_model import LogisticRegression

        self._vectors: Any = CountVectorizer(binary=True, ngram_range=(1, 2), token_pattern=_TOKEN.pattern)
        rows = self._vectors.fit_transform(texts)
        several = len(np.unique(labels)) > 1
        self._model: Any = LogisticRegression(C=10.0, max_iter=500).fit(rows, labels) if several else None

    def flips(self, texts: Sequence[str], trigger: str, label: int) -> float:
        """Of the texts that it gives another label, the share that it gives this one with the trigger before them."""
        if self._model is None or not texts:
            return 0.0
        before = self._model.predict(self._rows(texts))
        others = [text for text, given in zip(texts, before.tolist(), strict=True) if given != label]
        if not others:
            return 0.0
        return float((self._model.predict(self._rows(f"{trigger} {text}" for text in others)) == label).mean())

    def _rows(self, texts: Iterable[str]) -> Any:
        return self._vectors.transform([_clipped(text) for text in texts])
