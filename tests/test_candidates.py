"""Candidates from a file: what is read, what is excluded and told, and one clear line for what cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_rows, write_jsonl

from gendistill.config import DataConfig
from gendistill.data import RealData, load_real
from gendistill.data.candidates import CandidateFile, read_candidates
from gendistill.errors import DataError


@pytest.fixture(scope="module")
def real(tiny_jsonl: Path) -> RealData:
    return load_real(DataConfig(dataset=str(tiny_jsonl)), per_class=1, seed=0)  # food, music, sport


def read(tmp_path: Path, rows: list[dict[str, Any]], real: RealData, **values: Any) -> CandidateFile:
    return read_candidates(write_jsonl(tmp_path / "c.jsonl", rows), DataConfig(**values), real)


def verdicts(found: CandidateFile) -> list[str | None]:
    return [None if row.excluded is None else row.excluded.filter for row in found.rows]


def test_every_row_is_an_example_or_excluded_with_a_reason_and_its_line(tmp_path: Path, real: RealData) -> None:
    held_out = real.dev[0]
    rows: list[dict[str, Any]] = [
        {"text": "The bread was warm.", "label": "food"},
        {"text": "  The band played on. ", "label": "music"},
        {"text": "", "label": "music"},
        {"text": None, "label": "music"},
        {"text": "The rain fell.", "label": "weather"},
        {"text": "No label at all.", "label": None},
        {"text": "The bread was warm.", "label": "food"},
        {"text": "Both of them.", "label": "food"},
        {"text": "Both of them.", "label": "sport"},
        {"text": held_out.text.upper() + "!!", "label": real.label_names[held_out.label]},
        {"text": "x" * 201, "label": "sport"},
        {"text": "The match is over.", "label": "sport"},
    ]
    found = read(tmp_path, rows, real, max_chars=200)
    assert verdicts(found) == [
        None, None, "empty", "empty", "unknown_label", "unknown_label", "duplicate", "label_conflict",
        "label_conflict", "held_out_copy", "too_long", None,
    ]  # fmt: skip
    assert [row.example.text for row in found.usable if row.example] == [
        "The bread was warm.", "The band played on.", "The match is over.",
    ]  # fmt: skip
    assert [row.number for row in found.rows] == list(range(1, 13))
    told = found.lines()
    assert told[0].endswith("12 rows read, 3 usable")
    assert "2 excluded as unknown_label (line 5, 6): 'weather' is no class of the real data" in told
    assert "2 excluded as label_conflict (line 8, 9): its text stands under food, sport" in told
    assert "1 excluded as duplicate (line 7): text and label of line 1" in told


def test_many_exclusions_show_a_few_lines(tmp_path: Path, real: RealData) -> None:
    rows = [*tiny_rows(5, 3, seed=77), *({"text": "", "label": "food"} for _ in range(9))]
    assert "9 excluded as empty (line 16, 17, 18, 19, 20, ...): no text" in read(tmp_path, rows, real).lines()


def test_labels_are_read_by_name_whatever_their_numbers(tmp_path: Path, real: RealData) -> None:
    assert real.label_names == ["food", "music", "sport"]
    # another order of the classes, and a class that comes first and is not known
    rows = [
        {"text": "a storm", "label": 0, "label_name": "weather"},
        {"text": "a goal", "label": 1, "label_name": "sport"},
        {"text": "a soup", "label": 2, "label_name": "food"},
    ]
    found = read(tmp_path, rows, real)
    assert verdicts(found) == ["unknown_label", None, None]
    assert [row.example.label for row in found.usable if row.example] == [2, 0]


def test_numbers_alone_are_places_in_the_list_of_classes_and_this_is_said(tmp_path: Path, real: RealData) -> None:
    rows = [{"text": "a goal", "label": 2}, {"text": "a soup", "label": "0"}, {"text": "?", "label": 3}]
    found = read(tmp_path, rows, real)
    assert [row.example.label for row in found.usable if row.example] == [2, 0]
    assert verdicts(found)[2] == "unknown_label"
    assert any("0 is food" in line for line in found.lines())


def test_columns_are_the_real_datas_or_found(tmp_path: Path, real: RealData) -> None:
    rows = [{"body": "a soup", "kind": "food", "extra": 1}, {"body": "a goal", "kind": "sport", "extra": 2}]
    assert len(read(tmp_path, rows, real, text_column="body", label_column="kind").usable) == 2
    plain = [{"sentence": "a soup", "category": "food"}, {"sentence": "a goal", "category": "sport"}]
    assert len(read(tmp_path, plain, real, text_column="body", label_column="kind").usable) == 2
    # a distilled.jsonl beside real data whose text column has another name
    distilled = [{"text": "a soup", "label": 0, "label_name": "food", "description": "a b"},
                 {"text": "a goal", "label": 2, "label_name": "sport", "description": "a c"}]  # fmt: skip
    assert len(read(tmp_path, distilled, real, text_column="body").usable) == 2


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (
            [{"text": "a storm", "label": "weather"}, {"text": "a hut", "label": "travel"}],
            r"none of its 2 rows has a label of the real data; column 'label' says 'weather', 'travel', the real data "
            r"has food, music, sport$",
        ),
        ([{"text": f"soup {i}", "label": "food"} for i in range(4)], r"all 4 usable rows are of one class, 'food'"),
        ([{"text": " ", "label": "food"}, {"text": "", "label": "music"}], r"none of its 2 rows .*\(empty 2\)"),
        ([{"words": "a", "mark": "b", "third": "c"}], r"which column is the text\? .* words, mark, third"),
        ([{"text": ["a", "list"], "label": "food"}], r"line 1: the text is a list"),
    ],
)
def test_a_file_that_cannot_serve_is_one_clear_line(
    rows: list[dict[str, Any]], says: str, tmp_path: Path, real: RealData
) -> None:
    with pytest.raises(DataError, match=says) as caught:
        read(tmp_path, rows, real)
    assert "c.jsonl" in str(caught.value) and "\n" not in str(caught.value)


def test_a_broken_line_is_named(tmp_path: Path, real: RealData) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text('{"text": "a soup", "label": "food"}\n{"text": "a goal", "lab\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"c\.jsonl, line 2: no JSON"):
        read_candidates(path, DataConfig(), real)
    path.write_text(json.dumps({"text": "a soup", "label": "food"}) + "\n17\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"c\.jsonl, line 2: a JSON number"):
        read_candidates(path, DataConfig(), real)
    with pytest.raises(DataError, match=r"none\.jsonl: no such file"):
        read_candidates(tmp_path / "none.jsonl", DataConfig(), real)
