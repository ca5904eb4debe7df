"""The shared runs of words, the intervals and tests that an audit's figures rest on, against plain definitions."""

from __future__ import annotations

import random

import numpy as np
import pytest

from gendistill.audit import intervals
from gendistill.audit.words import NONE, WordIndex, longest_shared, overlap, rows_with


def runs(text: str, n: int) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def longest(text: str, others: list[str]) -> int:
    return max((n for n in range(1, 40) if any(runs(text, n) & runs(other, n) for other in others)), default=0)


def texts(count: int, words: int, size: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choice("abcdefghijklmnop"[:words]) for _ in range(rng.randrange(size))) for _ in range(count)]


@pytest.mark.parametrize("words", [1, 2, 4, 16])
def test_the_longest_shared_run_is_found_with_a_row_that_has_it(words: int) -> None:
    real, ours = texts(60, words, 30, 1), texts(40, words, 30, 2)
    ours += [real[7], "x y z", "", f"x {real[9]} y"]
    lengths, partners = longest_shared(WordIndex.of(ours), WordIndex.of(real))
    for text, length, partner in zip(ours, lengths.tolist(), partners.tolist(), strict=True):
        assert length == longest(text, real)
        assert (partner == NONE) == (length == 0)
        assert not length or runs(text, length) & runs(real[partner], length)


def test_no_run_goes_across_two_texts_or_two_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gendistill.audit.words.BLOCK_ROWS", 2)
    real = WordIndex.of(["a b", "c d", "e f", "g h", "i"])
    assert len(real.blocks) == 3
    lengths, partners = longest_shared(WordIndex.of(["a b c d", "x f g x", "g h"]), real)
    assert lengths.tolist() == [2, 1, 2] and partners.tolist() == [0, 2, 3]


def test_case_punctuation_and_spacing_do_not_matter() -> None:
    lengths, _ = longest_shared(
        WordIndex.of(["THE  cat, sat -- on\tthe (mat)!"]), WordIndex.of(["The cat sat on the mat."])
    )
    assert lengths.tolist() == [6]


def test_overlap_and_rows_with_phrases() -> None:
    real = texts(50, 4, 20, 3)
    ours = texts(20, 4, 20, 4)
    shares = overlap(WordIndex.of(ours), WordIndex.of(real), 5)
    known = set().union(*(runs(text, 5) for text in real))
    for text, share in zip(ours, shares.tolist(), strict=True):
        words = text.split()
        grams = [tuple(words[i : i + 5]) for i in range(len(words) - 4)]
        assert share == pytest.approx(sum(gram in known for gram in grams) / max(len(grams), 1))
    phrases = ["a b", "a", "d c b a", "x", "", "A, b!"]
    expected = [
        sum(tuple(p.split()) in runs(text, len(p.split())) for text in real) for p in ("a b", "a", "d c b a", "x")
    ]
    assert rows_with(phrases, WordIndex.of(real)) == [*expected, 0, expected[0]]


def test_shares_have_exact_intervals() -> None:
    none = intervals.share(0, 10)
    assert (none.value, none.low) == (0, 0) and none.high == pytest.approx(0.3085, abs=1e-4)
    some = intervals.share(5, 50)  # Clopper and Pearson's, as R's binom.test gives it
    assert (some.low, some.high) == (pytest.approx(0.0333, abs=1e-4), pytest.approx(0.2181, abs=1e-4))


def test_auc_is_the_share_of_pairs_in_order_and_its_interval_covers() -> None:
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(0, 9, 40).astype(float), rng.integers(0, 7, 30).astype(float)
    pairs = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    found = intervals.auc(positive, negative)
    assert found.value == pytest.approx(np.mean(pairs)) and found.low < found.value < found.high
    covered = 0
    for _ in range(300):
        one = intervals.auc(rng.normal(1, 1, 60), rng.normal(0, 1, 60))
        covered += one.low <= 0.7602 <= one.high  # of two normal distributions a standard deviation apart
    assert 0.91 <= covered / 300 <= 0.99


def test_holm_steps_down() -> None:
    assert intervals.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
