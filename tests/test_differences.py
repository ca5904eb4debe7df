"""What differs between two finished runs, and a run directory read as it lies there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from test_run import small_config

from gendistill import Config, distill
from gendistill.cli import main
from gendistill.differences import Line, differences
from gendistill.errors import RunError
from gendistill.finished import read_finished


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Path, tiny_causal_dir: Path, tiny_jsonl: Path
) -> tuple[Config, Config]:
    """The second has another seed and budget, and the same real rows and splits as far as its seed leaves them."""
    folder, dirs = tmp_path_factory.mktemp("runs"), (tiny_encoder_dir, tiny_causal_dir, tiny_jsonl)
    changes = {"evaluate": {"seeds": 2, "max_test_rows": 20}, "rounds": 1}
    a = small_config(folder / "a", *dirs, **changes)
    b = small_config(folder / "b", *dirs, **changes, per_class=2, seed=1)
    distill(a)
    distill(b)
    return a, b


def test_a_run_differs_from_itself_in_nothing(runs: tuple[Config, Config], tmp_path: Path) -> None:
    shutil.copytree(runs[0].out, tmp_path / "copy")
    for lines in differences(read_finished(runs[0].out), read_finished(tmp_path / "copy")).values():
        assert lines == []


def test_what_differs_is_named_with_both_values(runs: tuple[Config, Config]) -> None:
    a, b = (read_finished(config.out) for config in runs)
    found = differences(a, b)
    assert {line.what: (line.a, line.b) for line in found["configuration"]} == {
        "per_class": ("3", "2"),
        "seed": ("0", "1"),
    }
    shared = len({row["id"] for row in a.rows} & {row["id"] for row in b.rows})
    assert found["choice"][0] == Line("texts chosen", "9", "6", f"{shared} in both")
    assert {line.what for line in found["data"]} == {"real rows"}  # the seed also splits
    distilled = next(line for line in found["results"] if line.what == "accuracy, distilled")
    means = [100 * sum(run.table[0]["accuracy"]) / 2 for run in (a, b)]
    assert distilled.difference.startswith(f"{means[1] - means[0]:+.1f} [")
    assert distilled.a.startswith(f"{means[0]:.1f} ±")


def test_reading_changes_nothing_in_a_run(runs: tuple[Config, Config]) -> None:
    before = {path: path.stat().st_mtime_ns for path in sorted(runs[0].out.rglob("*"))}
    read_finished(runs[0].out)
    assert {path: path.stat().st_mtime_ns for path in sorted(runs[0].out.rglob("*"))} == before


def test_the_command_shows_and_writes(
    runs: tuple[Config, Config], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "differences.json"
    arguments = ["gendistill", "compare", str(runs[0].out), str(runs[1].out), "--json", str(file)]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert "per_class" in said and "accuracy, distilled" in said and "the same: audit" in said
    assert json.loads(file.read_text())["configuration"][0]["what"] == "per_class"


def test_what_is_no_finished_run_is_refused(runs: tuple[Config, Config], tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run directory"):
        read_finished(tmp_path)
    for broken, message in (("distilled.jsonl", "has not finished"), ("run.db", "cannot be read")):
        folder = tmp_path / broken
        shutil.copytree(runs[0].out, folder)
        (folder / broken).unlink()
        if broken == "run.db":
            (folder / broken).write_text("no database at all, but as long as the head of one would have to be" * 20)
        with pytest.raises(RunError, match=message):
            read_finished(folder)
