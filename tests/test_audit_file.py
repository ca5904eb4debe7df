"""``gendistill audit`` on files, with a tiny real encoder: outputs, exit codes, and what a wrong input says."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_rows, write_jsonl

from gendistill.audit import audit_file
from gendistill.cli import main
from gendistill.config import Config
from gendistill.data import load_real
from gendistill.data.load_instructions import load_instructions
from gendistill.errors import DataError
from gendistill.scoring import select_candidates


@pytest.fixture(scope="module")
def config(tiny_encoder_dir: Path, tiny_jsonl: Path) -> Config:
    return Config(data={"dataset": str(tiny_jsonl)}, student={"model": str(tiny_encoder_dir), "max_tokens": 32})


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, config: Config) -> Path:
    """Twelve new rows, an empty line, and a copy of a training row."""
    real = load_real(config.data, per_class=1, seed=0)
    texts = {row.text for row in (*real.train, *real.dev, *real.test)}
    rows = [row for row in tiny_rows(10, 3, seed=41) if row["text"] not in texts][:12]
    copy = {"text": real.train[0].text, "label": real.label_names[real.train[0].label]}
    path = write_jsonl(tmp_path_factory.mktemp("set") / "distilled.jsonl", rows)
    path.write_text(path.read_text(encoding="utf-8") + "\n" + json.dumps(copy) + "\n", encoding="utf-8")
    return path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> int:
    monkeypatch.setattr(sys, "argv", ["gendistill", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def command(file: Path, config: Config, *more: Any) -> list[Any]:
    return ["audit", file, "--real", config.data.dataset, "--student", config.student.model,
            "--set", "student.max_tokens=32", *more]  # fmt: skip


def test_a_file_is_audited_with_the_line_of_each_finding(file: Path, config: Config) -> None:
    audit = audit_file(file, config)
    copies = audit.checks[0]
    assert copies.status == "failed" and [one.row for one in copies.findings if one.level == "error"] == [14]
    assert audit.rows == 13 and audit.file == file.as_posix() and len(audit.checks) == 7
    assert audit_file(file.parent, config).to_json() == audit.to_json()  # as of a run directory


def test_a_linear_student_leaves_embeddings_to_the_default_encoder(config: Config) -> None:
    from gendistill.audit import _embedding

    for name in ("tfidf", f"static:{config.student.model}"):
        changed = Config(data=config.data, student={"model": name})
        assert _embedding(changed).student.model == "builtin:minilm"
    assert _embedding(config) is config


def test_the_command_writes_both_files_and_fails_only_on_what_it_is_told_to(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, file: Path, config: Config
) -> None:
    out, sarif = tmp_path / "audit.json", tmp_path / "audit.sarif"
    assert run(monkeypatch, *command(file, config, "--json", out, "--sarif", sarif)) == 0
    shown = capsys.readouterr().out
    assert "failed   Copies of real rows: 1 exact copy" in shown and "line 14, error: the same text" in shown
    content = json.loads(out.read_text(encoding="utf-8"))
    assert content == json.loads(json.dumps(audit_file(file, config).to_json()))
    assert json.loads(sarif.read_text(encoding="utf-8"))["runs"][0]["results"]

    some = ("--checks", "memorisation,labels")
    assert run(monkeypatch, *command(file, config, *some, "--fail-on", "error")) == 1
    told = capsys.readouterr()
    assert "failed on error: memorisation: error" in told.err and "Personal data" not in told.out
    assert run(monkeypatch, *command(file, config, *some, "--fail-on", "memorisation")) == 1
    clean = tmp_path / "clean.jsonl"
    clean.write_text("".join(file.read_text(encoding="utf-8").splitlines(keepends=True)[:12]), encoding="utf-8")
    strict = ("--set", "audit.near_copy=1.0", "--set", "audit.copied_words=30")
    assert run(monkeypatch, *command(clean, config, "--checks", "memorisation", *strict, "--fail-on", "error")) == 0


@pytest.mark.parametrize(
    ("more", "code", "told"),
    [
        (("--fail-on", "fatal"), 2, "'fatal' is no level"),
        (("--checks", "labels", "--fail-on", "toxicity"), 2, "none of the checks that are made (labels)"),
        (("--checks", "colour"), 2, "audit.checks"),
        (("--set", "audit.copied=1"), 2, "audit.copied: no such key"),
        (("--task", "instruction"), 3, "see --task auto"),
    ],
)
def test_wrong_arguments_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: Path, config: Config,
    more: tuple[str, ...], code: int, told: str,
) -> None:  # fmt: skip
    assert run(monkeypatch, *command(file, config, *more)) == code
    error = capsys.readouterr().err
    assert told in error and len(error.splitlines()) == 1


def test_wrong_files_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, config: Config
) -> None:
    assert run(monkeypatch, *command(tmp_path / "none.jsonl", config)) == DataError.exit_code
    empty = write_jsonl(tmp_path / "empty.jsonl", [{"text": "", "label": "sport"}])
    assert run(monkeypatch, *command(empty, config)) == DataError.exit_code
    unknown = write_jsonl(tmp_path / "unknown.jsonl", [{"text": "Some words.", "label": "poetry"}])
    assert run(monkeypatch, *command(unknown, config)) == DataError.exit_code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and "none.jsonl" in lines[0] and "line 1" in lines[1] and "'poetry'" in lines[2]


def test_instructions_are_audited_without_labels(tmp_path: Path, tiny_causal_dir: Path) -> None:
    rows = [
        {"instruction": f"Write about {row['label']}, please, number {k}.", "output": row["text"]}
        for k, row in enumerate(tiny_rows(30, 3))
    ]
    config = Config(
        data={"task": "instruction", "dataset": str(write_jsonl(tmp_path / "real.jsonl", rows)), "clusters": 3},
        student={"model": str(tiny_causal_dir), "max_tokens": 64, "gradient_dims": 64},
    )
    fresh = [
        {"instruction": f"Say something on {row['label']}, number {k}.", "output": row["text"]}
        for k, row in enumerate(tiny_rows(4, 3, seed=41))
    ]
    real = load_instructions(config.data, seed=0)
    copy = {"instruction": real.train[0].fields[1], "output": real.train[0].fields[2]}
    audit = audit_file(write_jsonl(tmp_path / "set.jsonl", [*fresh, copy]), config)
    found = {check.name: check for check in audit.checks}
    assert found["memorisation"].figures["exact_copies"] == 1
    assert [one.row for one in found["memorisation"].findings if one.message.startswith("the same text")] == [13]
    assert found["labels"].status == found["poisoning"].status == "skipped"
    assert found["membership"].status != "skipped" and audit.rows == 13


def test_a_choice_among_real_rows_is_known_by_its_provenance(tmp_path: Path, config: Config) -> None:
    settings = config.model_copy(update={"per_class": 3})
    settings.selection.method = "random"
    chosen = select_candidates("real", settings)
    file = write_jsonl(tmp_path / "chosen.jsonl", chosen.rows)
    audit = audit_file(file, config)
    assert audit.checks[0].status == "noted" and "chosen as they stand" in audit.checks[0].summary
    assert not audit.checks[0].findings and not audit.checks[1].findings


@pytest.mark.parametrize("shape", ["pairs", "multi-label"])
def test_other_shapes_are_audited_too(tmp_path: Path, tiny_encoder_dir: Path, shape: str) -> None:
    def shaped(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
        if shape == "pairs":
            return [
                {"text_a": r["text"], "text_b": s["text"], "label": r["label"]}
                for r, s in zip(rows[:-3], rows[3:], strict=True)
            ]
        return [{"text": row["text"], "labels": [row["label"], "any"][: 1 + k % 2]} for k, row in enumerate(rows)]

    real, fresh = shaped(tiny_rows(40, 3)), shaped(tiny_rows(6, 3, seed=41))
    names = {"text_column": "text_a", "text_column_b": "text_b"} if shape == "pairs" else {"label_column": "labels"}
    config = Config(
        data={"dataset": str(write_jsonl(tmp_path / "real.jsonl", real)), **names},
        student={"model": str(tiny_encoder_dir), "max_tokens": 32},
    )
    audit = audit_file(write_jsonl(tmp_path / "set.jsonl", [*fresh, *real]), config)
    copies = audit.checks[0]
    assert copies.figures["exact_copies"] >= 60 and copies.status == "failed"
    assert all(one.row > len(fresh) for one in copies.findings if one.message.startswith("the same text"))
    assert all(check.status != "skipped" for check in audit.checks if check.name in ("poisoning", "labels"))
