"""The benchmark on tiny real models: every step of a folder, and what must not be possible."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny import tiny_rows, write_jsonl

from gendistill.bench import SUITES, Bench, Only, load_suite, open_bench, run_bench
from gendistill.bench.checking import check_folder
from gendistill.bench.choosing import Chooser, looks_at_features
from gendistill.bench.folder import Cell, Unit
from gendistill.bench.overlap import SharedRuns
from gendistill.bench.report import collect
from gendistill.bench.statistics import best_of, estimate, lead
from gendistill.compare import compare_file
from gendistill.config import Config
from gendistill.errors import ConfigError, DataError, GendistillError, RunError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_jsonl(folder / "train.jsonl", tiny_rows(40, 3, seed=0))
    write_jsonl(folder / "test.jsonl", tiny_rows(12, 3, seed=5))
    rows = [{**row, "kept": index % 7 != 0} for index, row in enumerate(tiny_rows(20, 3, seed=3))]
    write_jsonl(folder / "pool" / "words.jsonl", rows)
    for number in range(2):
        write_jsonl(folder / "theirs" / f"set_{number}.jsonl", tiny_rows(3, 3, seed=20 + number))
    return folder


@pytest.fixture(scope="module")
def suite_file(data: Path, tiny_encoder_dir: Path, tiny_causal_dir: Path) -> Path:
    student = {"model": str(tiny_encoder_dir), "steps": 4, "batch_size": 8, "max_tokens": 32, "checkpoints": 2}
    suite = {
        "name": "tiny", "sets": 2, "runs": 2, "per_class": [2, 3], "ours": "ours", "max_test_rows": 30,
        "pool_rows": 60, "fluency": str(tiny_causal_dir),
        "config": {"student": student, "selection": {"probe_trials": 4}},
        "pools": {"written": {}},
        "tasks": {"words": {"data": {"dataset": "somebody/words", "test": "test"},
                            "local": {"train": "train.jsonl", "test": "test.jsonl"}}},
        "methods": {
            "random": {"baseline": True, "config": {"selection": {"method": "random"}}},
            "gradients": {"candidates": "written",
                          "config": {"selection": {"method": "greedy"}, "objective": {"weights": {"gradient": 1.0}}}},
            "unfiltered": {"candidates": "written", "filtered": False, "config": {"selection": {"method": "random"}}},
            "softly": {"config": {"selection": {"method": "random", "labels": "soft"}}},
            "ours": {"candidates": "written"},
            "theirs": {"sets": {"words": "theirs"}},
        },
        "students": {"encoder": student, "tfidf": {"model": "tfidf"}},
    }  # fmt: skip
    path = data / "suite.yaml"
    path.write_text(yaml.safe_dump(suite, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(suite_file: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole benchmark, done."""
    out = tmp_path_factory.mktemp("bench") / "out"
    bench = open_bench(load_suite(str(suite_file)), out, data)
    assert run_bench(bench, candidates={"written": data / "pool"}) == {}
    return out


def tables(folder: Path) -> dict[str, bytes]:
    names = ("results.md", "results.tex", "results.csv", "accuracy.png", "README.md", "sets/index.jsonl")
    return {name: (folder / name).read_bytes() for name in names}


def test_a_benchmark_ends_with_every_table(folder: Path) -> None:
    text = (folder / "results.md").read_text(encoding="utf-8")
    for line in ("| random |", "| theirs |", "| full data |", "ours, % of full data", "the best baseline of each cell"):
        assert line in text
    rows = list(csv.DictReader((folder / "results.csv").open(encoding="utf-8")))
    chosen = [row for row in rows if row["method"] not in ("full data", "theirs")]
    assert len(chosen) == 2 * 5 * 2 * 2 * 2  # budgets, methods, sets, runs, students
    assert len([row for row in rows if row["method"] == "theirs"]) == 2 * 2 * 2  # of one budget
    assert {row["seed"] for row in chosen if row["set"] == "1"} == {"1000", "1001"}
    assert (folder / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert "peak memory" in (folder / "costs.md").read_text(encoding="utf-8")
    assert "\\toprule" in (folder / "results.tex").read_text(encoding="utf-8")
    head = yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    for config in head["configs"]:
        assert list(folder.glob(config["data_files"][0]["path"]))
    lines = [json.loads(line) for line in (folder / "sets" / "index.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 2 * 5 * 2 + 2 and all((folder / line["path"]).is_file() for line in lines)


def test_the_same_suite_gives_the_same_tables_from_several_processes(
    folder: Path, suite_file: Path, data: Path, tmp_path: Path
) -> None:
    bench = open_bench(load_suite(str(suite_file)), tmp_path / "again", data)
    assert run_bench(bench, workers=2, candidates={"written": data / "pool"}) == {}
    assert tables(tmp_path / "again") == tables(folder)


def test_a_student_may_be_trained_at_some_budgets_only(suite_file: Path, data: Path, tmp_path: Path) -> None:
    values = yaml.safe_load(suite_file.read_text(encoding="utf-8")) | {"student_budgets": {"tfidf": [3]}}
    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    bench = open_bench(load_suite(str(path)), tmp_path / "out", data)
    of_tfidf = {unit.cell.per_class for unit in bench.units() if unit.student == "tfidf"}
    assert of_tfidf == {3} and {column[1] for column in collect(bench, "tfidf").columns} <= {3}
    assert {unit.cell.per_class for unit in bench.units() if unit.student == "encoder"} == {0, 2, 3}
    path.write_text(yaml.safe_dump(values | {"student_budgets": {"nobody": [3]}}), encoding="utf-8")
    with pytest.raises(ConfigError, match="student_budgets: no student 'nobody'"):
        load_suite(str(path))


def test_a_suite_may_extend_another(suite_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "more.yaml"
    path.write_text(yaml.safe_dump({"extends": str(suite_file), "name": "more", "sets": 7}), encoding="utf-8")
    first, second = load_suite(str(suite_file)), load_suite(str(path))
    assert second.sets == 7 and second.name == "more" and second.tasks == first.tasks
    path.write_text(yaml.safe_dump({"extends": str(path)}), encoding="utf-8")
    with pytest.raises(ConfigError, match="come back"):
        load_suite(str(path))
    assert set(load_suite("ablation").tasks) == set(load_suite("lite").tasks)


def test_choosing_cannot_read_the_test_split(suite_file: Path, data: Path, tmp_path: Path) -> None:
    """There is no test file at all while sets are chosen; afterwards there is one, and students are scored on it."""
    for name in ("train.jsonl", "pool/words.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((data / name).read_bytes())
    (tmp_path / "test.jsonl").write_text("{this is no JSON\n", encoding="utf-8")
    suite = load_suite(str(suite_file))
    bench = open_bench(suite, tmp_path / "out", tmp_path, Only(methods=("ours", "random", "gradients", "softly")))
    failed = run_bench(bench, candidates={"written": tmp_path / "pool"})
    assert failed and all("test.jsonl" in reason for reason in failed.values())
    assert {unit.kind for unit in failed} == {"train", "text"}
    chosen = [unit for unit in bench.units() if unit.kind == "choose"]
    assert chosen and all(map(bench.done, chosen))
    before = {path: path.read_bytes() for path in (tmp_path / "out" / "sets").rglob("set-*.jsonl")}
    (tmp_path / "test.jsonl").write_bytes((data / "test.jsonl").read_bytes())
    assert run_bench(bench) == {}
    assert {path: path.read_bytes() for path in before} == before


def test_the_choosing_side_has_no_way_to_the_test_rows() -> None:
    import gendistill.bench.choosing as side

    assert not {"load_test", "Examiner"} & vars(side).keys()


def test_evaluate_gives_the_same_numbers(folder: Path, suite_file: Path, data: Path) -> None:
    suite = load_suite(str(suite_file))
    student = suite.students["encoder"].model_dump()
    config = Config(
        data={"dataset": str(data / "train.jsonl"), "test": str(data / "test.jsonl")},
        student=student,
        evaluate={"seeds": 2, "max_test_rows": suite.max_test_rows, "first_seed": 1000},
    )
    for method in ("ours", "random"):
        cell = Cell("words", 3, method, 1)
        bench = Bench(suite, folder)
        table, _ = compare_file(bench.set_path(cell), config, full=False)
        given = next(row for row in table if row.method == bench.set_path(cell).name)
        published = bench.result(Unit("train", cell, "encoder"))
        assert published is not None and given.accuracy == published["accuracy"]


def test_a_published_folder_is_checked(folder: Path, data: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "published"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("work"))
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()}
    only = Only(methods=("random", "softly", "theirs"), students=("tfidf",))
    checked = check_folder(copy, data_dir=data, only=only, sets=1)
    assert len(checked) == 5 and all(one.measured == one.published and one.holds for one in checked)
    after = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file() and "work" not in path.parts}
    assert after == before
    cell = Cell("words", 3, "random", 0)
    result = Bench(load_suite(str(copy / "bench.yaml")), copy).path(Unit("train", cell, "tfidf"))
    told = json.loads(result.read_text(encoding="utf-8"))
    for number in range(2):
        path = Bench(load_suite(str(copy / "bench.yaml")), copy).path(
            Unit("train", Cell("words", 3, "random", number), "tfidf")
        )
        path.write_text(json.dumps(told | {"accuracy": [1.0, 1.0], "macro_f1": [1.0, 1.0]}), encoding="utf-8")
    broken = check_folder(copy, data_dir=data, only=Only(methods=("random",), students=("tfidf",)), sets=1)
    assert [one.holds for one in broken] == [True, False]


def test_more_sets_are_added_to_a_folder_and_another_suite_is_refused(
    folder: Path, suite_file: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    only = Only(methods=("random",), students=("tfidf",))
    run_bench(open_bench(load_suite(str(suite_file), sets=1, runs=1), out, data, only))
    first = {path: path.stat().st_mtime_ns for path in (out / "sets").rglob("set-*.jsonl")}
    run_bench(open_bench(load_suite(str(suite_file), sets=3), out, data, only))
    scores = collect(Bench(load_suite(str(suite_file), sets=3), out), "tfidf")
    assert {len(runs) for runs in scores.methods["random"]["words", 2].values()} == {2}
    assert len(scores.methods["random"]["words", 2]) == 3
    assert all(path.stat().st_mtime_ns == when for path, when in first.items())
    theirs = load_suite(str(suite_file), external={"more": {"words": str(data / "theirs")}})
    run_bench(open_bench(theirs, out, data, Only(methods=("more",), students=("tfidf",))))
    copies = {path: path.stat().st_mtime_ns for path in (out / "sets").rglob("more/set-*.jsonl")}
    run_bench(open_bench(theirs, out, data, Only(methods=("more",), students=("tfidf",))))
    assert copies and all(path.stat().st_mtime_ns == when for path, when in copies.items())  # copied once
    again = open_bench(load_suite(str(suite_file)), out, data, only)
    run_bench(again)
    assert "more" in again.suite.methods and again.methods() == ["random"]  # kept in the tables, and not worked on
    assert "| more |" in (out / "results.md").read_text(encoding="utf-8")
    with pytest.raises(RunError, match="another pool_rows"):
        open_bench(load_suite(str(suite_file), pool_rows=50), out, data)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(RunError, match="no benchmark"):
        open_bench(load_suite(str(suite_file)), tmp_path / "other", data)


def test_killed_and_run_again_it_ends_with_the_same_tables(
    folder: Path, suite_file: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    command = [
        sys.executable, "-m", "gendistill", "bench", str(suite_file), "--out", str(out), "--data-dir", str(data),
        "--candidates", f"written={data / 'pool'}",
    ]  # fmt: skip
    for seconds in (8.0, 14.0):
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=240)
    assert tables(out) == tables(folder)


@pytest.mark.parametrize("name", SUITES)
def test_shipped_suites_fit_together(name: str) -> None:
    suite = load_suite(name)
    assert suite.ours in suite.methods
    assert any(method.baseline for method in suite.methods.values())
    for method, given in suite.methods.items():
        if not given.sets:
            looks_at_features(suite.choice(method, 5, 0))
    for pool in suite.pools:
        for task, given in suite.tasks.items():
            made = suite.generation(pool, task, given.data, Path("x"))
            assert made.data.test == "none" and made.evaluate.seeds == 0


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"ours": "nobody"}, ConfigError, "none of the methods"),
        ({"per_class": [0]}, ConfigError, "at least 1"),
        ({"sets": 0}, ConfigError, "sets"),
        ({"methods": {"ours": {"candidates": "nowhere"}}}, ConfigError, "no pool 'nowhere'"),
        ({"methods": {"ours": {"config": {"student": {}}}}}, ConfigError, "selection and objective alone"),
        ({"methods": {"ours": {"config": {"selection": {"metod": "x"}}}}}, ConfigError, "no such key"),
        ({"methods": {"ours": {}, "OURS": {}}}, ConfigError, "a name of its own"),
        ({"students": {}}, ConfigError, "students"),
        ({"students": {"Text": {"model": "tfidf"}}}, ConfigError, "a name of the folder's own"),
        ({"methods": {"ours": {"sets": {"poems": "x"}}}}, ConfigError, "not in tasks"),
        ({"colour": "red"}, ConfigError, "no such key"),
    ],
)
def test_suites_that_do_not_fit_are_refused(
    change: dict[str, object], error: type[GendistillError], message: str, suite_file: Path
) -> None:
    with pytest.raises(error, match=message):
        load_suite(str(suite_file), **change)


def test_what_is_not_there_is_said(suite_file: Path, data: Path, tmp_path: Path) -> None:
    suite = load_suite(str(suite_file))
    with pytest.raises(ConfigError, match="no such suite"):
        load_suite("liet")
    with pytest.raises(DataError, match="check --data-dir"):
        open_bench(suite, tmp_path / "a", tmp_path)
    with pytest.raises(ConfigError, match="no method 'nobody'"):
        open_bench(suite, tmp_path / "b", data, Only(methods=("nobody",)))
    with pytest.raises(DataError, match="no candidates for the task 'words'"):
        run_bench(open_bench(suite, tmp_path / "c", data), candidates={"written": tmp_path})
    with pytest.raises(DataError, match=r"no bench\.yaml"):
        check_folder(tmp_path)
    unfit = write_jsonl(tmp_path / "unfit" / "words.jsonl", [{"text": "so so", "label": "nonsense"}]).parent
    only = Only(methods=("ours",), students=("tfidf",))
    failed = run_bench(open_bench(suite, tmp_path / "d", data, only), candidates={"written": unfit})
    assert any("'nonsense'" in reason for reason in failed.values())


def test_soft_labels_are_trained_on(folder: Path, suite_file: Path) -> None:
    bench = Bench(load_suite(str(suite_file)), folder)
    soft, hard = (bench.set_path(Cell("words", 3, method, 0)).read_text() for method in ("softly", "random"))
    rows = [[json.loads(line) for line in text.splitlines()] for text in (soft, hard)]
    assert [row["id"] for row in rows[0]] == [row["id"] for row in rows[1]]
    assert all(abs(sum(row["probabilities"].values()) - 1) < 1e-3 for row in rows[0])


def test_only_candidates_that_passed_are_chosen_unless_asked_otherwise(
    folder: Path, suite_file: Path, data: Path
) -> None:
    lines = (data / "pool" / "words.jsonl").read_text(encoding="utf-8").splitlines()
    turned_away = {row["text"] for row in map(json.loads, lines) if not row["kept"]}
    bench = Bench(load_suite(str(suite_file)), folder, data)
    assert len(Chooser(bench, "words", None)._source("written", True)[0]) == 60 - len(turned_away)
    for cell in bench.cells():
        if cell.method in ("ours", "gradients"):
            texts = {json.loads(line)["text"] for line in bench.set_path(cell).read_text(encoding="utf-8").splitlines()}
            assert not texts & turned_away


def test_intervals_are_those_of_nested_runs() -> None:
    rng = np.random.default_rng(0)
    generator = np.random.default_rng(1)
    between, within = 3.0, 1.0
    sets = {
        number: list(80 + between * generator.standard_normal() + within * generator.standard_normal(4))
        for number in range(40)
    }
    one = estimate(sets, rng)
    expected = 1.96 * np.sqrt((between**2 + within**2 / 4) / 40)
    assert abs(one.half - expected) < 0.35 * expected
    assert one.low < one.mean < one.high
    # Resampling all runs as if they were independent would make the interval half as wide.
    pooled = estimate({number: [run] for number, run in enumerate(x for runs in sets.values() for x in runs)}, rng)
    assert pooled.half < 0.7 * one.half


def test_leads_are_paired_and_no_difference_is_said() -> None:
    rng, generator = np.random.default_rng(0), np.random.default_rng(2)
    base = generator.normal(70, 5, 12)
    theirs = {"a 5": {number: [value] for number, value in enumerate(base)}}
    ours = {"a 5": {number: [value + 2 + generator.normal(0, 0.3)] for number, value in enumerate(base)}}
    found = lead(ours, theirs, rng)
    assert found is not None and found.differs and abs(found.mean - 2) < 0.3 and found.half < 0.5
    same = lead(ours, {"a 5": {n: [r[0] + generator.normal(0, 2)] for n, r in ours["a 5"].items()}}, rng)
    assert same is not None and not same.differs
    assert lead(ours, {"b 5": {0: [1.0]}}, rng) is None
    theirs = {"a 5": {0: [60.0], 1: [61.0], 2: [60.5]}}
    elsewhere = lead(ours, theirs, rng, paired=False)
    assert elsewhere is not None and elsewhere.mean > 5 and elsewhere.half > 1  # of ours, whose sets differ by 5
    alone = lead({"a 5": {0: [70.0]}}, theirs, rng)
    assert alone is not None and not alone.differs  # one set has no interval
    best = best_of({"x": {"a 5": {0: [1.0]}, "b 5": {0: [5.0]}}, "y": {"a 5": {0: [2.0]}}})
    assert best == {"a 5": {0: [2.0]}, "b 5": {0: [5.0]}}


def test_shared_runs_of_words_are_found() -> None:
    index = SharedRuns(["The quick brown fox jumps over the lazy dog.", "An entirely different sentence about cats"])
    assert index.longest("see how the QUICK, brown fox jumps! away") == 5
    assert index.longest("the lazy dog sleeps") == 0  # three words
    assert index.longest("over the lazy dog") == 4
    assert index.longest("") == 0
