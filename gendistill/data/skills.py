"""Readable names for clusters of instructions, from the words that set each apart."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from gendistill.examples import Example

DOCUMENTS = 2_000  # of a cluster that are looked at, spread over it
CHARACTERS = 2_000  # of each: what is wanted stands at the beginning, a long context behind it
# On the list of stop words, and yet what an instruction is about.
_SKILLS = {
    "call",
    "computer",
    "cry",
    "describe",
    "detail",
    "fill",
    "find",
    "fire",
    "interest",
    "name",
    "show",
    "system",
}
_EMPTY = {"did", "does", "doing", "following", "given", "tell", "use", "used", "using", "whats"}
_WORD = r"(?u)\b[^\W\d_]{2,}\b"


def skill_names(examples: Sequence[Example], labels: Sequence[int], count: int = 3) -> list[str]:
    """A name for each cluster, such as "recipe, cook, oven"; no two are the same.

    A word counts for a cluster by ``p log(p / q)``, with p the share of the cluster's prompts that have it and q the
    share of all clusters' together: the word's part of the divergence between the two. A term frequency by documents
    times an inverse document frequency by clusters, so that neither one long prompt nor a word of every prompt counts.

    :param examples: n instruction examples; what their users say is looked at.
    :param labels: (n,) the cluster of each, from 0.
    :param count: words in a name; more where two clusters would be called the same.
    :returns: a name for each of 0 to the highest label; "group 4" for one without words of its own.
    """
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, CountVectorizer

    clusters = np.asarray(labels, dtype=np.int64)
    if len(clusters) == 0:
        return []
    members = [np.flatnonzero(clusters == label) for label in range(int(clusters.max()) + 1)]
    rows = [every[:: -(-len(every) // DOCUMENTS) or 1] for every in members]
    prompts = ["\n".join(examples[row].fields[1:-1:2])[:CHARACTERS] for sample in rows for row in sample]
    vectorizer = CountVectorizer(
        binary=True, token_pattern=_WORD, stop_words=sorted(ENGLISH_STOP_WORDS - _SKILLS | _EMPTY), dtype=np.float64
    )
    try:
        found = vectorizer.fit_transform(prompts)
    except ValueError:  # no word at all
        return [f"group {label + 1}" for label in range(len(rows))]
    words = vectorizer.get_feature_names_out()
    starts = np.cumsum([0, *map(len, rows)])
    shares = np.stack(
        [
            np.asarray(found[start:end].sum(axis=0)).ravel() / max(end - start, 1)
            for start, end in itertools.pairwise(starts)
        ]
    )  # (clusters, words)
    overall = shares.mean(axis=0)  # every cluster counts alike, however large

    names: list[str] = []
    for label, share in enumerate(shares):
        score = share * np.log(np.maximum(share, 1e-12) / overall) if len(shares) > 1 else share
        order = [str(words[place]) for place in np.argsort(-score, kind="stable")[: 20 * count] if score[place] > 0]
        distinct: list[str] = []
        for word in order:
            if not any(_same(word, other) for other in distinct):
                distinct.append(word)
        used = count
        while (name := ", ".join(distinct[:used])) in names and used < len(distinct):
            used += 1
        if not name or name in names:
            name = f"group {label + 1}"
        names.append(name)
    return names


def _same(word: str, other: str) -> bool:
    """Whether two words differ in their endings only: "recipe" and "recipes", "rhyme" and "rhyming"."""
    length = max(min(len(word), len(other)) - 1, 4)
    return word[:length] == other[:length]
