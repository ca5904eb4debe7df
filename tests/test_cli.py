"""The command line as a user meets it: fast help, one clear line for every wrong input, files in every format."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gendistill.cli import main

COMMANDS = ("generate", "plan", "score", "select", "evaluate", "audit", "export", "batch", "doctor")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["gendistill", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_no_help_imports_torch(command: list[str]) -> None:
    code = (
        "import sys\nfrom gendistill.cli import main\n"
        f"sys.argv = ['gendistill', *{command!r}, '--help']\n"
        "try:\n    main()\nexcept SystemExit as stopped:\n    assert not stopped.code\n"
        "heavy = {'torch', 'transformers', 'faiss', 'datasets', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert "Usage:" in result.stdout


def test_help_answers_at_once() -> None:
    """0.3 s on a quiet machine; twice a bare interpreter plus that where the machine is busy."""

    def seconds(*command: str) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run([sys.executable, *command], capture_output=True, timeout=60, check=True)
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    seconds("-m", "gendistill", "--help")  # the first time compiles bytecode
    bare = seconds("-c", "pass")
    assert seconds("-m", "gendistill", "--help") < 0.3 + 4 * bare


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from gendistill import __version__

    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"gendistill {__version__}\n"


@pytest.fixture
def rows_csv(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    lines = [f"row number {i} of class {label},{label}" for label in ("good", "bad") for i in range(20)]
    path.write_text("text,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return path


WRONG = {
    "no such file": (["--dataset", "./nothing.csv"], r"nothing\.csv"),
    "unknown column": (["--dataset", "ROWS", "--text-column", "body"], r"body.*text, label|body.*'text'"),
    "label not among the names": (["--dataset", "ROWS", "--label-names", "good,great"], r"bad"),
    "budget above the rows": (["--dataset", "ROWS", "--per-class", "500"], r"500"),
    "unknown key": (["--dataset", "ROWS", "--set", "generator.tempratur=1"], r"generator\.tempratur: no such key"),
    "value that does not fit": (["--dataset", "ROWS", "--set", "generator.top_p=7"], r"generator\.top_p.*less than"),
    "no KEY=VALUE": (["--set", "generator"], r"KEY=VALUE"),
    "objective that is no number": (["--objective", "gradient=much"], r"much.*not a number"),
    "unknown student": (["--dataset", "ROWS", "--per-class", "2", "--student", "./no-model"], r"no-model"),
    "unknown built-in model": (
        ["--dataset", "ROWS", "--per-class", "2", "--student", "builtin:gpt"],
        r"builtin:minilm",
    ),
    "hub name without a hub": (
        ["--dataset", "ROWS", "--per-class", "2", "--student", "someone/some-model"],
        r"some-model",
    ),
    "no configuration file": (["--config", "none.yaml"], r"none\.yaml"),
    "a server without an address": (["--dataset", "ROWS", "--generator", "server", "--model", "m"], r"--base-url"),
    "an address that is none": (
        ["--dataset", "ROWS", "--generator", "server", "--model", "m", "--base-url", "localhost:8000"],
        r"--base-url: not an http",
    ),
    "a server that serves nothing by name": (
        ["--dataset", "ROWS", "--generator", "server", "--base-url", "http://127.0.0.1:9"],
        r"--model: name the model",
    ),
    "nobody listens": (
        [
            "--dataset",
            "ROWS",
            "--per-class",
            "2",
            "--generator",
            "server",
            "--base-url",
            "http://127.0.0.1:9",
            "--model",
            "m",
        ],
        r"127\.0\.0\.1:9.*cannot connect.*is the server up",
    ),
    "an adapter for a server": (["--generator", "server", "--adapter", "a"], r"tune and adapter are for"),
    "a storage of no engine": (["--dataset", "ROWS", "--storage", "s3://bucket/run"], r"--storage is of --engine ray"),
    "an address for this process": (
        ["--dataset", "ROWS", "--engine", "local", "--ray-address", "10.0.0.1:6379"],
        r"--ray-address is of --engine ray",
    ),
    "vllm that is not installed": (["--dataset", "ROWS", "--generator", "vllm", "--model", "m"], r"gendistill\[vllm\]"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_line_and_leaves_nothing_half_written(
    name: str, rows_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, expected = WRONG[name]
    out = tmp_path / "run"
    code = run(monkeypatch, "generate", "--out", str(out), *(str(rows_csv) if a == "ROWS" else a for a in arguments))
    error = capsys.readouterr().err.strip()
    assert code != 0
    assert len(error.splitlines()) == 1 and error.startswith("error: "), error
    assert "Traceback" not in error
    import re

    assert re.search(expected, error), error
    assert not (out / "distilled.jsonl").exists()


@pytest.mark.parametrize("command", [("export-requests",), ("import-replies", "replies.jsonl")])
def test_batch_files_of_no_run(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "batch", command[0], str(tmp_path), *command[1:]) == 6
    assert "no run here" in capsys.readouterr().err


def test_a_wrong_flag_is_said_by_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "generate", "--per-clas", "3") == 2
    assert "--per-clas" in capsys.readouterr().err


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from gendistill.errors import ConfigError

    monkeypatch.setattr(sys, "argv", ["gendistill", "generate", "--config", "none.yaml", "--debug"])
    with pytest.raises(ConfigError):
        main()


def test_remote_code_runs_only_by_its_flag() -> None:
    from gendistill import Config

    config = Config()
    assert not config.student.trust_remote_code and not config.generator.trust_remote_code


def test_help_names_every_method(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from gendistill.choosing import PORTFOLIO
    from gendistill.selection import METHODS

    for command in ("generate", "select"):
        assert run(monkeypatch, command, "--help") == 0
        told = capsys.readouterr().out.replace("\n", " ")
        assert all(name in " ".join(told.split()).replace("- ", "-") for name in (PORTFOLIO, *METHODS))


def test_score_then_select_then_evaluate_with_soft_labels(
    tmp_path: Path,
    tiny_encoder_dir: Path,
    tiny_jsonl: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from tiny import tiny_rows, write_jsonl

    candidates = write_jsonl(tmp_path / "c.jsonl", [*tiny_rows(12, 3, seed=51), {"text": "", "label": "food"}])
    common = ["--dataset", str(tiny_jsonl), "--student", str(tiny_encoder_dir)]
    for setting in ("student.steps=6", "student.max_tokens=32", "filters.teacher_probability=0.05",
                    "filters.near_duplicate=1.0", "filters.real_copy_similarity=1.0"):  # fmt: skip
        common += ["--set", setting]

    scored = tmp_path / "scored.jsonl"
    assert run(monkeypatch, "score", str(candidates), *common, "-o", str(scored)) == 0
    told = capsys.readouterr().out
    assert "1 excluded as empty (line 37)" in told and "next: gendistill select" in told
    rows = [json.loads(line) for line in scored.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 37 and not rows[-1]["kept"] and rows[-1]["filter"] == "empty"

    chosen = tmp_path / "chosen.jsonl"
    arguments = ["select", str(candidates), *common, "--per-class", "3", "--labels", "soft", "-o", str(chosen)]
    assert run(monkeypatch, *arguments) == 0
    told = capsys.readouterr().out
    assert f"9 texts in {chosen}, loss " in told and "on held-out rows" in told
    assert (
        f"next: gendistill evaluate {chosen} --dataset {tiny_jsonl} --student {tiny_encoder_dir} --labels soft" in told
    )

    # what was written is read again as candidates, and by every format
    assert run(monkeypatch, "select", str(chosen), *common, "--per-class", "2", "-o", str(tmp_path / "few.jsonl")) == 0
    assert run(monkeypatch, "export", str(chosen), "-o", str(tmp_path / "text-label.jsonl")) == 0
    first = json.loads((tmp_path / "text-label.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert set(first["probabilities"]) == {"food", "music", "sport"}

    figures = tmp_path / "figures.json"
    arguments = [
        "evaluate",
        str(chosen),
        *common,
        "--labels",
        "soft",
        "--seeds",
        "1",
        "--no-full",
        "--json",
        str(figures),
    ]
    assert run(monkeypatch, *arguments) == 0
    methods = {row["method"]: row["rows"] for row in json.loads(figures.read_text(encoding="utf-8"))}
    assert methods["chosen.jsonl, soft labels"] == methods["chosen.jsonl"] == 9
    capsys.readouterr()

    assert run(monkeypatch, "evaluate", str(tmp_path / "few.jsonl"), *common, "--labels", "soft", "--seeds", "1") != 0
    assert "row 1 has no soft labels" in capsys.readouterr().err
    assert run(monkeypatch, "select", str(candidates), *common, "-o", str(candidates)) != 0
    assert "write over the candidates" in capsys.readouterr().err
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"text": "a", "label": "food"}\n{"text"\n', encoding="utf-8")
    assert run(monkeypatch, "score", str(broken), *common, "-o", str(scored)) != 0
    error = capsys.readouterr().err.strip()
    assert "broken.jsonl, line 2" in error and len(error.splitlines()) == 1
    assert len(scored.read_text(encoding="utf-8").splitlines()) == 37  # the earlier file is untouched


def test_generate_then_export_then_evaluate(
    tmp_path: Path,
    tiny_encoder_dir: Path,
    tiny_causal_dir: Path,
    tiny_jsonl: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from test_run import small_config

    out = tmp_path / "run"
    config = small_config(out, tiny_encoder_dir, tiny_causal_dir, tiny_jsonl)
    import yaml

    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(json.loads(config.model_dump_json())), encoding="utf-8")
    assert run(monkeypatch, "generate", "-c", str(file)) == 0
    told = capsys.readouterr().out
    for words in ("distilled", "random real rows", "k-means-nearest", "random of the pool", "full data", "next:"):
        assert words in told
    assert "generate 1: 36/36" in told  # a truthful total where there is no terminal

    exported = tmp_path / "openai.jsonl"
    assert run(monkeypatch, "export", str(out), "--format", "openai", "-o", str(exported)) == 0
    first = json.loads(exported.read_text(encoding="utf-8").splitlines()[0])
    assert [message["role"] for message in first["messages"]][-2:] == ["user", "assistant"]

    figures = tmp_path / "figures.json"
    arguments = ["evaluate", str(out / "distilled.jsonl"), "-c", str(file), "--seeds", "1", "--json", str(figures)]
    assert run(monkeypatch, *arguments) == 0
    methods = {row["method"]: row for row in json.loads(figures.read_text(encoding="utf-8"))}
    assert set(methods) == {"distilled.jsonl", "random real rows", "k-means-nearest real rows", "full data"}
    assert methods["distilled.jsonl"]["rows"] == 9

    wrong = ["export", str(out), "--format", "parquet"]
    assert run(monkeypatch, *wrong) != 0
    assert "openai" in capsys.readouterr().err
