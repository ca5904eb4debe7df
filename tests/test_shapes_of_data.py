"""Pairs, several labels a row, many and uneven classes, label files, targets: what is read, and what is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_rows, write_jsonl

from gendistill.config import Config, DataConfig
from gendistill.data import RealData, load_real
from gendistill.data.candidates import read_candidates
from gendistill.errors import ConfigError, DataError
from gendistill.planning import TokenBudget, requests_per_class, token_budget, whole_sentences
from gendistill.tasks import task_of


def load(path: Path, **values: Any) -> RealData:
    return load_real(DataConfig(dataset=str(path), **values), per_class=1, seed=0)


def pairs(count: int = 20, first: str = "premise", second: str = "hypothesis") -> list[dict[str, Any]]:
    return [
        {first: f"Somebody said {k}.", second: f"It was {k * 7}.", "label": ("yes", "no")[k % 2]} for k in range(count)
    ]


# -- pairs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("premise", "hypothesis"), ("text_a", "text_b"), ("Question1", "Question2")])
def test_usual_pairs_are_found(tmp_path: Path, names: tuple[str, str]) -> None:
    data = load(write_jsonl(tmp_path / "d.jsonl", pairs(20, *names)))
    assert data.shape == "pair_classification" and len(data.train[0].fields) == 2
    assert data.text_names == tuple(name.replace("_", " ") for name in names)


def test_named_columns_make_pairs_and_one_named_column_does_not(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "d.jsonl", pairs(20, "claim", "source"))
    data = load(path, text_column="claim", text_column_b="source", text_names=["claim", "evidence"])
    assert data.text_names == ("claim", "evidence") and data.train[0].fields[0].startswith("Somebody")
    single = load(write_jsonl(tmp_path / "e.jsonl", pairs()), text_column="premise")
    assert single.shape == "text_classification"


def test_pairs_with_one_side_are_counted_and_the_same_pair_is_one(tmp_path: Path) -> None:
    rows = [*pairs(), pairs()[0], {"premise": "Alone.", "hypothesis": " ", "label": "yes"}]
    rows += [{"premise": None, "hypothesis": "Alone.", "label": "no"}, {"premise": "", "hypothesis": "", "label": "no"}]
    # One premise with two hypotheses is two pairs; one pair under two labels is none
    rows += [{"premise": "Somebody said 0.", "hypothesis": "Nothing was.", "label": "no"}]
    rows += [{"premise": "Both.", "hypothesis": "Ways.", "label": label} for label in ("yes", "no")]
    report = load(write_jsonl(tmp_path / "d.jsonl", rows)).report
    assert (report.exact_duplicates, report.missing_sides, report.missing_texts, report.conflict_rows) == (1, 2, 1, 2)
    assert sum(sum(counts.values()) for counts in report.class_counts.values()) == 21
    assert any("2 pairs with one text only" in line for line in report.lines())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"text_column_b": "nope"}, "no column 'nope' for the second text"),
        ({"text_column": "nope", "text_column_b": "hypothesis"}, "no column 'nope' for the text"),
        ({"text_column": "premise", "text_column_b": "premise"}, "cannot be both texts"),
        (
            {"text_column": "premise", "text_column_b": "label", "label_column": "label"},
            "cannot be both text and label",
        ),
    ],
)
def test_pair_columns_that_cannot_be_are_refused(tmp_path: Path, values: dict[str, str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        load(write_jsonl(tmp_path / "d.jsonl", pairs()), **values)


def test_names_for_pairs_are_refused_for_single_texts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="text_names"):
        load(write_jsonl(tmp_path / "d.jsonl", tiny_rows(10)), text_names=["a", "b"])
    with pytest.raises(ConfigError, match="two names"):
        Config(data={"text_names": ["one"]})


def test_a_test_of_another_shape_is_refused(tmp_path: Path) -> None:
    test = write_jsonl(tmp_path / "t.jsonl", tiny_rows(5, 2))
    with pytest.raises(DataError, match="for texts where the real data has premise and hypothesis"):
        load(write_jsonl(tmp_path / "d.jsonl", pairs()), test=str(test))


def test_candidates_of_pairs_are_read_with_a_reason_for_each_that_is_none(tmp_path: Path) -> None:
    real = load(write_jsonl(tmp_path / "d.jsonl", pairs()))
    rows = [
        {"text_a": "New.", "text_b": "Newer.", "label_name": "yes"},
        {"text_a": "New.", "text_b": "Newest.", "label_name": "no"},
        {"text_a": "New.", "text_b": "", "label_name": "no"},
        {"text_a": "New.", "text_b": "Newest.", "label_name": "no"},
        {"text_a": "Old.", "text_b": "Older.", "label_name": "maybe"},
    ]
    found = read_candidates(write_jsonl(tmp_path / "c.jsonl", rows), DataConfig(), real)
    assert [row.excluded and row.excluded.filter for row in found.rows] == [
        None, None, "empty", "duplicate", "unknown_label",
    ]  # fmt: skip
    assert found.rows[0].example is not None and found.rows[0].example.fields == ("New.", "Newer.")
    with pytest.raises(DataError, match="the real data are pairs"):
        read_candidates(write_jsonl(tmp_path / "s.jsonl", tiny_rows(5, 2)), DataConfig(), real)


# -- several labels ---------------------------------------------------------------------------------------------------


def several() -> list[dict[str, Any]]:
    sets = [["joy"]] * 30 + [["joy", "surprise"]] * 20 + [["fear"]] * 20 + [[]] * 12
    sets += [["joy", "surprise", "fear"]] * 2 + [["anger"]] * 3
    return [{"text": f"text number {k} here", "labels": labels} for k, labels in enumerate(sets)]


def test_sets_of_labels_become_classes_and_rare_ones_are_filed_under_a_part(tmp_path: Path) -> None:
    data = load(write_jsonl(tmp_path / "d.jsonl", several()))
    assert data.label_names == ["none", "fear", "joy", "joy + surprise"]
    assert data.label_sets == [(), ("fear",), ("joy",), ("joy", "surprise")]
    assert (data.report.rare_label_sets, data.report.reduced_label_sets) == (3, 2)
    counts = [sum(part[name] for part in data.report.class_counts.values()) for name in data.label_names]
    assert counts == [12, 20, 30, 22]  # the three labels of two rows: filed under the two that are frequent together
    assert any("3 rows dropped: their set of labels" in line for line in data.report.lines())


def test_a_separator_reads_the_same_and_a_given_test_uses_the_same_classes(tmp_path: Path) -> None:
    rows = [{"text": row["text"], "labels": "|".join(row["labels"])} for row in several()]
    test = [{"text": f"test {k}", "labels": labels} for k, labels in enumerate(("surprise|joy", "fear|joy", "anger"))]
    data = load(
        write_jsonl(tmp_path / "d.jsonl", rows),
        test=str(write_jsonl(tmp_path / "t.jsonl", test)),
        label_separator="|",
    )
    assert data.label_names == ["none", "fear", "joy", "joy + surprise"]
    assert [data.label_names[row.label] for row in data.test] == ["joy + surprise", "fear"]
    assert data.report.test_rows_dropped == 1


def test_f1_of_several_labels_is_one_a_label() -> None:
    import numpy as np

    from gendistill.evaluate import score
    from gendistill.examples import Example

    sets = [("a",), ("b",), ("a", "b")]
    test = [Example(("x",), label) for label in (0, 1, 2)]
    found = score(np.array([2, 1, 2]), test, 3, sets)
    assert found["accuracy"] == pytest.approx(2 / 3)
    # by hand: a is said of rows 0 and 2, which have it; b of rows 0, 1, 2, and rows 1 and 2 have it
    assert found["macro_f1"] == pytest.approx((1.0 + 2 * 2 / (3 + 2)) / 2)


# -- many and uneven classes ------------------------------------------------------------------------------------------


def test_a_class_of_three_rows_can_be_distilled(tmp_path: Path) -> None:
    rows = tiny_rows(40, 2) + [{"text": f"a rare text {k}", "label": "rare"} for k in range(3)]
    data = load(write_jsonl(tmp_path / "d.jsonl", rows))
    assert data.report.class_counts["train"]["rare"] >= 1


def test_requests_follow_the_budgets() -> None:
    config = Config(per_class=4, rounds=2)
    config.generator.candidates_per_class = 20
    assert requests_per_class(config, 1, [4, 4], [0, 0], [0, 0]) == [10, 10]
    both = [requests_per_class(config, number, [7, 1], [0, 0], [0, 0]) for number in (1, 2)]
    assert [sum(counts) for counts in zip(*both, strict=True)] == [35, 5]


@pytest.mark.parametrize("suffix", [".yaml", ".json", ".csv"])
def test_label_files_describe_and_group(tmp_path: Path, suffix: str) -> None:
    said = {"sport": {"description": "games", "group": "leisure"}, "music": "songs"}
    path = tmp_path / f"labels{suffix}"
    if suffix == ".csv":
        path.write_text("label,description,group\nsport,games,leisure\nmusic,songs,\n")
    else:
        path.write_text(json.dumps(said))
    data = load(write_jsonl(tmp_path / "d.jsonl", tiny_rows(10, 2)), label_file=path)
    assert data.label_descriptions == {"sport": "games", "music": "songs"} and data.label_groups == {"sport": "leisure"}
    values = task_of(data, [["music"], ["sport"]]).prompt_values(data.label_names.index("sport"), [])
    assert (values["group"] == "leisure" and values["related"] == ["sport"]) or values["related"] == ["music"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nope: x", "'nope' is no label"),
        ("[1, 2]", "label: description"),
        ("sport: [1]", "must be a text"),
        ("a: [", "YAML"),
    ],
)
def test_label_files_that_do_not_fit_are_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "labels.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load(write_jsonl(tmp_path / "d.jsonl", tiny_rows(10, 2)), label_file=path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "d.jsonl", label_file=tmp_path / "absent.yaml")


# -- targets ----------------------------------------------------------------------------------------------------------


def test_a_target_is_what_is_distilled_towards_and_is_not_trained_on(tmp_path: Path) -> None:
    rows, target = tiny_rows(40, 2), tiny_rows(10, 2, seed=5)
    target += rows[:4]
    data = load(write_jsonl(tmp_path / "d.jsonl", rows), target=str(write_jsonl(tmp_path / "target.jsonl", target)))
    texts = {row["text"] for row in target}
    assert {row.text for row in data.aim} <= texts and {row.text for row in data.dev} <= texts
    assert not texts & {row.text for row in data.train} and data.report.leaked_rows >= 3
    assert "distilled towards" in data.report.lines()[-1]


def test_a_target_without_a_class_is_refused(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "target.jsonl", [row for row in tiny_rows(10, 2) if row["label"] == "sport"])
    with pytest.raises(DataError, match="two rows of each class"):
        load(write_jsonl(tmp_path / "d.jsonl", tiny_rows(40, 2, seed=3)), target=str(path))


# -- long texts -------------------------------------------------------------------------------------------------------


def test_whole_sentences() -> None:
    text = 'It rained. "Did it?" Yes! And th'
    assert whole_sentences(text) == 'It rained. "Did it?" Yes!'
    assert (
        whole_sentences(text, 12) == "It rained."
        and whole_sentences("No end", 3) == ""
        and whole_sentences("a", 3) == "a"
    )
    assert whole_sentences("Version 1.5 of") == ""


def test_a_token_budget_below_the_real_lengths_shortens_prompts_and_keeps_whole_sentences(tmp_path: Path) -> None:
    from gendistill.examples import Example
    from gendistill.generators.base import Reply

    real = [Example(("A sentence of some words. " * 40,), 0)] * 5
    config = Config()
    assert not token_budget(config, real).short
    config.generator.max_new_tokens = 30
    budget = token_budget(config, real)
    assert budget.short and len(budget.fit(real[0]).text) <= 120 and budget.fit(real[0]).text.endswith(".")
    cut = Reply("r", "It rained. And th", "length")
    assert budget.whole(cut) == Reply("r", "It rained.", "stop")
    assert budget.whole(Reply("r", "And th", "length")).finish_reason == "length"
    assert TokenBudget(30).whole(cut) is cut
