"""Soft labels: tempering, writing and reading, and what an export makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from gendistill.data.export import export
from gendistill.errors import DataError
from gendistill.soft_labels import named, read_soft, soften

NAMES = ["a", "b", "c"]


def test_tempering_is_the_softmax_of_logits_over_the_temperature() -> None:
    logits = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    probabilities = logits.softmax(1)
    assert torch.allclose(soften(probabilities, 2.5), (logits / 2.5).softmax(1), atol=1e-6)
    assert torch.allclose(soften(probabilities, 1.0), probabilities, atol=1e-6)


def test_a_teacher_that_is_quite_sure_gives_numbers() -> None:
    soft = soften(torch.tensor([[1.0, 0.0, 0.0]]), 2.0)
    assert torch.isfinite(soft).all() and float(soft.sum()) == pytest.approx(1)
    assert float(soft[0, 0]) > 0.999


def test_what_is_written_is_read_again() -> None:
    soft = soften(torch.randn(8, 3, generator=torch.Generator().manual_seed(1)).softmax(1), 2.0)
    rows = [{"probabilities": json.loads(json.dumps(named(row, NAMES)))} for row in soft]
    assert torch.allclose(read_soft(rows, NAMES, "f"), soft, atol=2e-5)
    assert torch.allclose(read_soft(rows, NAMES, "f").sum(1), torch.ones(8))
    # another order of the classes, and one that a row leaves out
    swapped = read_soft([{"probabilities": {"c": 0.25, "a": 0.75}}], NAMES, "f")
    assert swapped.tolist() == [[0.75, 0.0, 0.25]]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (None, r"f: row 2 has no soft labels .*--labels soft"),
        ([0.5, 0.5, 0.0], r"row 2 has no soft labels"),
        ({"a": 0.5, "z": 0.5}, r"row 2: probabilities of 'z'; the real data has a, b, c"),
        ({"a": 1.5}, r"row 2: the probability of 'a' is 1.5"),
        ({"a": float("nan")}, r"row 2: the probability of 'a' is nan"),
        ({"a": "0.5"}, r"row 2: the probability of 'a' is '0.5'"),
        ({"a": 0.5, "b": 0.4}, r"row 2: its probabilities add up to 0.900"),
    ],
)
def test_what_are_no_probabilities_is_refused_with_its_row(given: Any, says: str) -> None:
    rows = [{"probabilities": {"a": 1.0}}, {} if given is None else {"probabilities": given}]
    with pytest.raises(DataError, match=says):
        read_soft(rows, NAMES, "f")


def soft_rows() -> list[dict[str, Any]]:
    shares = [{"a": 0.7, "b": 0.2, "c": 0.1}, {"a": 0.1, "b": 0.8, "c": 0.1}, {"b": 0.25, "c": 0.75}]
    return [{"text": f"text {i}", "label": i, "label_name": NAMES[i], "probabilities": p} for i, p in enumerate(shares)]


def test_exports_carry_soft_labels_where_they_can(tmp_path: Path) -> None:
    path = export(soft_rows(), "text-label", tmp_path / "t.jsonl", NAMES)
    written = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [row["probabilities"] for row in written] == [row["probabilities"] for row in soft_rows()]
    path = export(soft_rows(), "openai", tmp_path / "o.jsonl", NAMES)
    assert "probabilities" not in path.read_text(encoding="utf-8")
    mixed = [*soft_rows()[:2], {"text": "text 2", "label": 2}]
    for format in ("text-label", "hub-folder"):
        path = export(mixed, format, tmp_path / f"mixed-{format}", NAMES)
        file = path / "data" / "train.jsonl" if path.is_dir() else path
        assert "probabilities" not in file.read_text(encoding="utf-8")


def test_datasets_reads_a_hub_folder_with_soft_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    folder = export(soft_rows(), "hub-folder", tmp_path / "hub", NAMES)
    data = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))["train"]
    assert data.features["label"].names == NAMES
    assert data["probabilities"][0] == pytest.approx([0.7, 0.2, 0.1])
    assert data["probabilities"][2] == pytest.approx([0.0, 0.25, 0.75])
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "a soft label beside the hard one, in the order of the classes" in card
