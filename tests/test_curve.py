"""The figures by number of texts that a round journals, and the report of a real run that has them."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
import torch
from objective_inputs import make_inputs

from gendistill import Config, distill
from gendistill.choosing import Choice
from gendistill.curve import curve
from gendistill.objectives import build_objective
from gendistill.report import read_report, report_html, write_report
from gendistill.selection import Selection
from gendistill.selection.portfolio import Rows
from gendistill.students.encoder import FEATURE_SCALE
from gendistill.students.probe import fit_probe


def test_the_first_texts_of_each_class() -> None:
    inputs = make_inputs(0, n=40)
    places = [torch.nonzero(inputs.candidate_labels == label).flatten().tolist() for label in range(3)]
    chosen = [*places[0][:4], *places[1][:2], *places[2][:4]]  # the second class could not be filled
    objective = build_objective({"meta_model": 1.0}, inputs)
    dev = Rows((inputs.real_embeddings,), inputs.real_labels)
    found = curve(Choice(objective, Selection(chosen, None)), inputs, dev)
    assert [(point["per_class"], point["chosen"]) for point in found] == [(1, 3), (2, 6), (3, 8), (4, 10)]
    assert found[-1]["objective"] == pytest.approx(objective.loss(chosen))
    assert found[0]["objective"] == pytest.approx(objective.loss([places[0][0], places[1][0], places[2][0]]))
    weight, bias = fit_probe(FEATURE_SCALE * inputs.candidate_embeddings[chosen], inputs.candidate_labels[chosen], 3)
    predicted = (FEATURE_SCALE * inputs.real_embeddings @ weight.T + bias).argmax(1)
    assert found[-1]["probe_accuracy"] == pytest.approx(float((predicted == inputs.real_labels).float().mean()))
    assert all(
        "probe_accuracy" not in point for point in curve(Choice(objective, Selection(chosen, None)), inputs, None)
    )
    assert curve(Choice(objective, Selection([], None)), inputs, dev) == []


def test_a_real_run_journals_them_and_its_report_shows_them(
    tmp_path: Path, tiny_encoder_dir: Path, tiny_causal_dir: Path, tiny_jsonl: Path
) -> None:
    config = Config(
        out=tmp_path / "run",
        per_class=3,
        rounds=1,
        data={"dataset": str(tiny_jsonl)},
        student={"model": str(tiny_encoder_dir), "steps": 6, "batch_size": 8, "max_tokens": 32, "checkpoints": 2},
        generator={
            "model": str(tiny_causal_dir), "candidates_per_class": 24, "samples_per_prompt": 3, "exemplars": 3,
            "batch_size": 12, "dtype": "float32",
        },
        filters={"teacher_probability": 0.05, "real_copy_similarity": 1.0, "near_duplicate": 1.0},
        evaluate={"seeds": 2, "max_test_rows": 20},
    )  # fmt: skip
    result = distill(config)
    with sqlite3.connect(config.out / "run.db") as db:
        (journalled,) = db.execute("SELECT result FROM rounds ORDER BY round DESC LIMIT 1").fetchone()
    db.close()
    points = json.loads(journalled)["curve"]
    assert [point["per_class"] for point in points] == [1, 2, 3] and points[-1]["chosen"] == 9
    assert all(0 <= point["probe_accuracy"] <= 1 for point in points)

    given = write_report(config.out, tmp_path / "given.html", result.real).read_bytes()
    assert write_report(config.out).read_bytes() == given
    data = read_report(config.out)
    assert data.notes == [] and len(data.rows) == 9 and data.rounds[-1].curve == points
    assert {one.method for one in data.measured} == {row.method for row in result.table}
    ours = next(row for row in result.table if row.method == "distilled")
    assert data.measured[0].values("accuracy") == ours.accuracy
    assert data.funnel.parsed == result.filters.seen and data.funnel.pool == result.pool_size
    assert {one.filter: one.count for one in data.funnel.rejected} == {
        k: v for k, v in result.filters.counts.items() if v
    }
    for row, written in zip(data.rows, result.rows, strict=True):
        assert row.nearest[0][1] == pytest.approx(written["scores"]["real_similarity"], abs=2e-3)
        assert all(parent.parts for parent in row.parents)
    html = report_html(data)
    assert "Accuracy by texts of each class" in html and "Probe on dev" in html

    distill(config)  # again: the journal and so the report stay as they were
    assert write_report(config.out).read_bytes() == given
