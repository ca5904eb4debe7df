"""The funnel: what each filter turns away, and what it lets through."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from tiny import CLASS_NAMES, tiny_rows

from gendistill.config import FilterConfig
from gendistill.errors import DataError
from gendistill.examples import Example
from gendistill.filters import FUNNEL, FilterReport, Rejection, TextFilter, feature_filter
from gendistill.folding import fold


def examples(texts: list[str]) -> list[Example]:
    return [Example((text,), 0) for text in texts]


def real_rows(count: int = 60, seed: int = 0) -> list[Example]:
    return [Example((row["text"],), CLASS_NAMES.index(row["label"])) for row in tiny_rows(count, 3, seed)]


def verdict(text_filter: TextFilter, text: str, finish_reason: str = "stop") -> str | None:
    rejection = text_filter.check(Example((text,), 0), finish_reason)
    return rejection.filter if rejection else None


GOOD = "The new striker and the coach seemed happy in the old town yesterday."


def test_unseen_texts_like_the_real_ones_pass() -> None:
    text_filter = TextFilter(FilterConfig(), real_rows())
    known = {example.text for example in real_rows()}
    fresh = [example for example in real_rows(100, seed=1) if example.text not in known]
    turned_away = [text_filter.check(example, "stop") for example in fresh]
    assert sum(rejection is not None for rejection in turned_away) <= 0.03 * len(fresh)


@pytest.mark.parametrize(
    ("text", "finish_reason", "expected"),
    [
        (GOOD, "stop", None),
        (f"\u201c{GOOD}\u201d", "stop", None),
        (" \n\t", "stop", "empty"),
        ("\u200b\u200b", "stop", "empty"),
        (GOOD, "length", "cut_off"),
        (GOOD[:-12], "stop", "cut_off"),
        ("The goal.", "stop", "length"),
        (" ".join([GOOD] * 5), "stop", "length"),
        (GOOD.replace("coach", "co\ufffdch"), "stop", "garbage"),
        (GOOD.replace("coach", "co\x07ch"), "stop", "garbage"),
        ("goal goal goal goal goal goal goal goal goal goal goal goal.", "stop", "garbage"),
        ("goal, team! goal, team! goal, team! goal, team! goal, team! goal, team!", "stop", "garbage"),
        ("a {=<>|#} b [[]]%% c ((&&^^ d $$## e ~~~ f @@@ g +++ h ### i *** j /// k l m.", "stop", "garbage"),
        ("The new striker and the coach seemed haaaaaaaaaaaaaaaaappy in the old town.", "stop", "garbage"),
    ],
)
def test_text_filters(text: str, finish_reason: str, expected: str | None) -> None:
    assert verdict(TextFilter(FilterConfig(), real_rows()), text, finish_reason) == expected


def test_unfinished_sentences_pass_where_real_texts_are_unfinished() -> None:
    headlines = [Example((example.text.rstrip("."),), 0) for example in real_rows()]
    assert verdict(TextFilter(FilterConfig(), headlines), GOOD.rstrip(".")) is None


def test_duplicates_fold_case_space_and_punctuation_and_only_accepted_texts_count() -> None:
    text_filter = TextFilter(FilterConfig(), real_rows())
    assert verdict(text_filter, GOOD, "length") == "cut_off"  # turned away, so the next is the first of its kind
    assert verdict(text_filter, GOOD) is None
    assert verdict(text_filter, GOOD.upper().replace(" ", "  ").replace(".", "!")) == "duplicate"
    assert verdict(text_filter, GOOD.replace("coach", "player")) is None
    assert verdict(text_filter.fresh(), GOOD) is None
    assert verdict(text_filter, GOOD) == "duplicate"


def test_real_copies() -> None:
    rng = random.Random(0)
    words = [f"w{number}" for number in range(500)]
    real = examples([" ".join(rng.choices(words, k=30)) for _ in range(300)])
    text_filter = TextFilter(FilterConfig(real_copy_ngram=12), real)
    source = real[7].text.split()
    assert verdict(text_filter, real[7].text.upper() + "!") == "real_copy"

    copied = Example((" ".join([*rng.choices(words, k=8), *source[3:17], *rng.choices(words, k=8)]),), 0)
    rejection = text_filter.check(copied, "stop")
    assert rejection is not None and rejection.filter == "real_copy"
    assert "14 consecutive words" in rejection.reason

    short_of_it = [*rng.choices(words, k=10), *source[3:14], *rng.choices(words, k=9)]
    assert verdict(text_filter, " ".join(short_of_it)) is None
    # Words in a row across the border of two rows are not a copy of either.
    across = [*real[7].text.split()[-8:], *real[8].text.split()[:8], *rng.choices(words, k=14)]
    assert verdict(text_filter, " ".join(across)) is None


def test_copies_are_found_in_every_block_of_a_large_dataset() -> None:
    rng = random.Random(1)
    real = examples([" ".join(str(rng.randrange(10_000)) for _ in range(16)) for _ in range(20_000)])
    text_filter = TextFilter(FilterConfig(), real)
    for index in (0, 4_095, 4_096, 19_999):
        copied = " ".join(real[index].text.split()[1:-1])
        assert verdict(text_filter, f"7 {copied} 8") == "real_copy"
    assert verdict(text_filter, " ".join(str(rng.randrange(10_000)) for _ in range(16))) is None


def test_text_without_spaces() -> None:
    rng = random.Random(0)
    signs = [chr(code) for code in range(0x4E00, 0x4E00 + 400)]

    def sentence() -> str:
        return "".join(rng.choices(signs, k=15)) + "\uff0c" + "".join(rng.choices(signs, k=20)) + "\u3002"

    real = examples([sentence() for _ in range(100)])
    text_filter = TextFilter(FilterConfig(real_copy_ngram=5), real)  # ten characters
    fresh = sentence()
    assert verdict(text_filter, fresh) is None
    assert verdict(text_filter, sentence()[:-1]) == "cut_off"
    assert verdict(text_filter, fresh[:10] + "\u3002") == "length"
    rejection = text_filter.check(Example((fresh[:16] + real[3].text[16:],), 0), "stop")
    assert rejection is not None and rejection.filter == "real_copy" and "20 consecutive characters" in rejection.reason


def test_scripts_with_combining_marks_keep_their_words() -> None:
    hindi = "\u0939\u093f\u0928\u094d\u0926\u0940 \u092d\u093e\u0937\u093e\u0964"
    assert len(fold(hindi)) == 2
    assert fold("Stra\u00dfe, CAFE\u0301!") == ["strasse", "caf\u00e9"]


def test_every_field_of_a_pair_must_say_something() -> None:
    real = [Example((example.text, example.text), 0) for example in real_rows()]
    rejection = TextFilter(FilterConfig(), real).check(Example((GOOD, " "), 0), "stop")
    assert rejection is not None and rejection.filter == "empty"


def test_no_real_rows_is_an_error() -> None:
    with pytest.raises(DataError, match="no real rows"):
        TextFilter(FilterConfig(), [])


def unit(rows: list[list[float]]) -> np.ndarray:
    array = np.array(rows, dtype=np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def test_feature_filters_in_the_order_of_the_funnel() -> None:
    real = unit([[1, 0, 0], [0, 1, 0]])
    candidates = unit(
        [
            [1, 0.01, 0],  # a real row
            [1, 1, 0],  # good
            [1, 1, 0.01],  # repeats the one before
            [0, 1, 1],  # wrong label
            [0, 1, 1.01],  # near the wrong one, which was not kept: good
            [0, 0, 1],  # kept in an earlier round
        ]
    )
    probabilities = np.array([[0.9, 0.1]] * 6, dtype=np.float32)
    probabilities[3] = [0.2, 0.8]
    result = feature_filter(
        FilterConfig(),
        texts=[f"text {index}" for index in range(6)],
        labels=[0] * 6,
        embeddings=candidates,
        real_embeddings=real,
        probabilities=probabilities,
        kept_embeddings=unit([[0, 0.01, 1]]),
        label_names=["sport", "music"],
    )
    names = [rejection.filter if rejection else None for rejection in result.rejections]
    assert names == ["real_similarity", None, "near_duplicate", "wrong_label", None, "near_duplicate"]
    assert result.real_similarity == pytest.approx((candidates @ real.T).max(axis=1), abs=1e-6)
    repeated, wrong, earlier = (result.rejections[index] for index in (2, 3, 5))
    assert repeated and "'text 1'" in repeated.reason
    assert wrong and "sport 0.20" in wrong.reason and "sees music (0.80)" in wrong.reason
    assert earlier and "earlier round" in earlier.reason


def test_near_duplicates_agree_with_brute_force() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, 16))
    embeddings = unit((centres[rng.integers(40, size=1300)] + 0.3 * rng.normal(size=(1300, 16))).tolist())
    kept: list[int] = []
    for index in range(len(embeddings)):
        if not kept or (embeddings[kept] @ embeddings[index]).max() < 0.9:
            kept.append(index)
    count = len(embeddings)
    result = feature_filter(
        FilterConfig(near_duplicate=0.9),
        [""] * count,
        [0] * count,
        embeddings,
        np.zeros((0, 16), dtype=np.float32),
        np.ones((count, 1), dtype=np.float32),
    )
    assert [index for index, rejection in enumerate(result.rejections) if rejection is None] == kept
    assert 40 <= len(kept) < count


def test_equal_embeddings_are_duplicates_at_a_threshold_of_one() -> None:
    row = unit([[0.3, 0.2, 0.7]])
    config = FilterConfig(near_duplicate=1.0, real_copy_similarity=1.0)
    result = feature_filter(config, ["a", "b"], [0, 0], np.repeat(row, 2, axis=0), -row, np.ones((2, 1), np.float32))
    assert [rejection is None for rejection in result.rejections] == [True, False]


def test_no_candidates() -> None:
    empty = np.zeros((0, 3), dtype=np.float32)
    assert feature_filter(FilterConfig(), [], [], empty, unit([[1, 0, 0]]), empty[:, :2]).rejections == []


def test_report_counts_and_explains() -> None:
    report = FilterReport()
    assert report.summary() == "nothing turned away"
    for index in range(7):
        report.add(f"text {index}" * 1000, Rejection("wrong_label", "the teacher sees music"))
    report.add("again", Rejection("duplicate", "the same"))
    report.add("good", None)
    told = json.loads(json.dumps(report.to_dict()))
    assert (told["seen"], told["kept"]) == (9, 1)
    assert list(told["rejected"]) == list(FUNNEL)
    assert told["rejected"]["wrong_label"] == 7 and told["rejected"]["empty"] == 0
    assert list(told["examples"]) == ["duplicate", "wrong_label"]
    assert len(told["examples"]["wrong_label"]) == 5
    assert told["examples"]["wrong_label"][0]["reason"] == "the teacher sees music"
    assert len(told["examples"]["wrong_label"][0]["text"]) == 500
    assert report.summary() == "wrong_label 7, duplicate 1"
