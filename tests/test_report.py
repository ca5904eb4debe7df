"""The report of a run: what it reads, what it says, what it says is missing, and clear refusals."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_rows
from typer.testing import CliRunner
from written_runs import write_run

from gendistill.cli import app
from gendistill.errors import RunError
from gendistill.report import read_report, report_html, write_report
from gendistill.report.charts import Line, line_plot, ticks
from gendistill.report.data import NOT_JOURNALLED
from gendistill.report.map import main_axes, nearest, sampled
from gendistill.report.page import TEXT_CHARS
from gendistill.report.text import script_json, shown
from gendistill.visible import visible

NAMES = ("sport", "music", "food")


def texts(count: int, seed: int = 11) -> list[tuple[tuple[str, ...], int]]:
    rows = tiny_rows(count, 3, seed=seed)
    return [((row["text"],), sorted(NAMES).index(row["label"])) for row in rows]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_run(tmp_path / "run", tiny_rows(20, 3), texts(20))
    return tmp_path / "run"


def block(html: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    loaded: dict[str, Any] = json.loads(found[1])
    return loaded


def state(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


def test_nothing_in_the_run_directory_changes_but_the_report(run: Path) -> None:
    before = state(run)
    path = write_report(run)
    after = state(run)
    assert path == run / "report.html" and after.pop("report.html")
    assert after == before


def test_it_reads_while_the_run_is_open(run: Path) -> None:
    closed = read_report(run)
    from gendistill import Config
    from gendistill.config import load_config
    from gendistill.store import Store

    config: Config = load_config(run / "config.yaml")
    with Store(run, config) as store:
        store.add_evaluation("distilled", 2, "another", {"accuracy": 0.5, "macro_f1": 0.5})
        held = read_report(run)
    assert len(closed.measured[0].scores) == 2 and len(held.measured[0].scores) == 3


def test_the_same_run_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    real = write_run(tmp_path / "other" / "run", tiny_rows(20, 3), texts(20))
    first = write_report(run).read_bytes()
    assert write_report(run, tmp_path / "again.html").read_bytes() == first
    given = write_report(tmp_path / "other" / "run", real=real).read_bytes()
    assert write_report(tmp_path / "other" / "run").read_bytes() == given
    assert given.replace(str(tmp_path / "other").encode(), str(tmp_path).encode()) == first


def test_what_it_says(run: Path) -> None:
    data = read_report(run)
    assert data.notes == [] and data.label_names == sorted(NAMES) and len(data.rows) == 9
    assert data.funnel.asked == data.funnel.replies == data.funnel.parsed == 60
    assert [(one.filter, one.count, len(one.examples)) for one in data.funnel.rejected] == [("wrong_label", 12, 3)]
    assert data.funnel.pool == 48 and data.funnel.chosen == 9
    assert [one.method for one in data.measured] == ["distilled", "random real rows"]
    assert data.spending.prompt_tokens == 1200 and data.spending.completion_tokens == 600
    assert data.map is not None
    totals = {layer.name: (layer.total, len(layer.points)) for layer in data.map.layers}
    assert totals["chosen"] == (9, 9) and totals["kept"] == (39, 39) and totals["turned away"] == (12, 12)
    row = data.rows[0]
    assert len(row.nearest) == 3 and row.nearest[0][1] >= row.nearest[2][1]
    assert [parent.kind for parent in row.parents] == ["real row"] * 2 and row.parents[0].parts
    html = report_html(data)
    for said in ("80.5 ± 0.7", "70.5 ± 0.7", "+10.0", "the teacher does not give it the label", "reason 4", "Checks"):
        assert said in html, said
    assert "://" not in html.replace("http://www.w3.org/2000/svg", "")
    held = block(html)
    assert len(held["rows"]) == 9 and len(held["map"]["x"]) == sum(n for n, _ in totals.values())


def test_the_policy_allows_its_own_script_and_style_only(run: Path) -> None:
    import base64

    html = report_html(read_report(run))
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)
    assert policy is not None
    allowed = policy[1].replace("&#39;", "'")
    assert allowed.startswith("default-src 'none'") and "unsafe" not in allowed
    for name in ("style", "script"):
        (source,) = re.findall(rf"<{name}>(.*?)</{name}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in allowed
    assert not re.search(r"\son\w+=|\sstyle=|javascript:", html)


def test_a_run_of_an_older_version(run: Path) -> None:
    with sqlite3.connect(run / "run.db") as db:
        result = json.loads(db.execute("SELECT result FROM rounds").fetchone()[0])
        del result["curve"]
        result["history"] = [1 / (1 + k) for k in range(9)] + [0.09]
        db.execute("UPDATE rounds SET result = ?", (json.dumps(result),))
    db.close()
    data = read_report(run)
    assert data.notes == [NOT_JOURNALLED]
    assert "after each text that it added" in report_html(data)


def test_real_data_that_is_gone_or_changed(run: Path) -> None:
    rows = run.parent / "rows.jsonl"
    given = rows.read_text(encoding="utf-8")
    rows.write_text(given.replace("The", "A"), encoding="utf-8")
    changed = read_report(run)
    assert "not what this run saw" in changed.notes[0]
    rows.unlink()
    gone = read_report(run)
    assert "cannot be loaded any more" in gone.notes[0]
    for data in (changed, gone):
        assert data.real_rows is None and data.real_texts == {} and len(data.rows[0].nearest) == 3
        assert data.map is not None and data.map.layers[0].total > 0
        html = report_html(data)
        assert block(html)["rows"][0]["near"][0][0] == -1 and "What is missing" in html


def test_without_features_there_is_no_map_and_the_rest_stays(run: Path) -> None:
    (run / "features" / "real-00000.safetensors").write_bytes(b"no tensors")
    broken = read_report(run)
    assert broken.map is None and any("real-00000" in note for note in broken.notes)
    for path in (run / "features").iterdir():
        path.unlink()
    html = report_html(read_report(run))
    assert 'id="map"' not in html and 'id="texts"' in html


def test_the_audit(run: Path) -> None:
    check = {
        "name": "personal_data", "title": "Personal data", "status": "failed", "summary": "<b>1</b> address.",
        "figures": {"emails": 1},
        "findings": [{"row": 3, "id": "x", "level": "error", "message": "An address.", "excerpt": "<i>", "real": None}],
    }  # fmt: skip
    (run / "audit.json").write_text(json.dumps({"version": 1, "rows": 9, "real_rows": 42, "checks": [check]}))
    html = report_html(read_report(run))
    assert "&lt;b&gt;1&lt;/b&gt; address." in html and "<b>1" not in html and "9 rows against 42 real rows" in html
    odd = [{"title": 7, "status": "<b>", "figures": [1], "findings": [3, {"row": None}]}, "no check"]
    (run / "audit.json").write_text(json.dumps({"checks": odd}))
    audit = read_report(run).audit
    assert audit is not None and [(one.title, one.status, len(one.findings)) for one in audit.checks] == [
        ("7", "noted", 1)
    ]
    report_html(read_report(run))
    (run / "audit.json").write_bytes(b"{\xff")
    data = read_report(run)
    assert data.audit is None and "audit.json" in data.notes[0]


@pytest.mark.parametrize("shape", ["pairs", "multi-label", "instruction"])
def test_other_shapes(tmp_path: Path, shape: str) -> None:
    rows = tiny_rows(20, 2)
    single = [row["text"] for row in rows]
    task = "auto"
    if shape == "pairs":
        real = [{"text_a": a, "text_b": b, "label": str(k % 2)} for k, (a, b) in enumerate(itertools.pairwise(single))]
        candidates = [((f"{text} New.", text), k % 2) for k, text in enumerate(single)]
    elif shape == "multi-label":
        real = [{"text": t, "labels": ["a", "b"] if k % 2 else []} for k, t in enumerate(single)]
        candidates = [((f"{text} New.",), k % 2) for k, text in enumerate(single)]
    else:
        task = "instruction"
        real = [{"instruction": f"Say {k}.", "output": t} for k, t in enumerate(single)]
        candidates = [(("", f"Say {k} anew.", f"{text} New."), k % 2) for k, text in enumerate(single)]
    write_run(tmp_path / "run", real, candidates, task=task)
    data = read_report(tmp_path / "run")
    held = block(report_html(data))
    names = [name for name, _ in held["texts"][held["rows"][0]["text"]]]
    expected = {"pairs": ["text_a", "text_b"], "multi-label": [""], "instruction": ["user", "assistant"]}
    assert names == expected[shape] and data.notes == []
    assert held["rows"][0]["near"][0][0] >= 0
    if shape == "multi-label":
        assert sorted({tag for row in held["rows"] for tag in row["tags"]}) == ["a", "b", "none"]
    if shape == "instruction":
        html = report_html(data)
        assert "lower is better" in html and "nats a token" in html and "skill 0" in held["classes"]


def test_unseen_characters_are_written_out() -> None:
    assert visible("a\u202eb\x00c\u2066\ufeff\ud800\x85") == r"a\u202eb\u0000c\u2066\ufeff\ud800\u0085"
    assert visible("one\r\ntwo\tthree") == "one\ntwo\tthree"
    family = "\U0001f468\u200d\U0001f469"  # joined by a zero-width joiner, which stays
    assert visible(family) == family
    assert shown("x" * 50, 10) == "xxxxxxxxxx … [10 of 50 characters shown]"


def test_no_text_ends_the_script() -> None:
    written = script_json(["</script><!-- <script>", "a & b", "\u2028\u2029"])
    assert not set("<>&\u2028\u2029") & set(written)
    assert json.loads(written) == ["</script><!-- <script>", "a & b", "\u2028\u2029"]


def test_very_long_texts_are_cut_and_the_page_says_so(tmp_path: Path) -> None:
    candidates = [((text + "w" * 1_000_000,) if k == 0 else (text,), c) for k, ((text,), c) in enumerate(texts(20))]
    write_run(tmp_path / "run", tiny_rows(20, 3), candidates)
    html = report_html(read_report(tmp_path / "run"))
    assert len(html) < 1_000_000 and f"[{TEXT_CHARS:,} of 1,000,0" in html
    assert "1 of the texts here are longer than 4,000 characters" in html


def test_a_seeded_sample_keeps_every_class() -> None:
    labels = [0] * 990 + [1] * 10
    drawn = sampled(labels, 100, 0)
    assert drawn == sampled(labels, 100, 0) != sampled(labels, 100, 1)
    assert 95 <= len(drawn) <= 101 and any(labels[place] == 1 for place in drawn)
    assert sampled(labels, 1000, 0) == list(range(1000))


def test_nearest_rows_and_axes() -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    real = rng.normal(size=(200, 6)).astype(np.float32)
    real /= np.linalg.norm(real, axis=1, keepdims=True)
    found = nearest({5: real[17]}, real, 3)[5]
    cosines = real @ real[17]
    assert [row for row, _ in found] == np.argsort(-cosines)[:3].tolist() and found[0] == (17, 1.0)
    axes = main_axes(real)
    assert axes is not None
    values = np.linalg.eigvalsh(np.cov(real.T))[::-1]
    assert axes.explained == pytest.approx(values[:2] / values.sum(), abs=1e-3)
    assert main_axes(real[:2]) is None and main_axes(np.ones((9, 4), np.float32)) is None


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (88.2, 95.1), (0.276, 0.45), (3.0, 3.0), (1.0, 100_000.0)])
def test_ticks_hold_what_they_must(low: float, high: float) -> None:
    found = ticks(low, high)
    assert found[0] <= low and found[-1] >= high and 2 <= len(found) <= 9
    line_plot([Line("one", [(1, low), (40, high)])], "x", "y", "label")


def test_refusals_are_one_line_each(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"not a run directory \(no run.db\)"):
        read_report(tmp_path)
    with pytest.raises(RunError, match="not a run directory"):
        read_report(tmp_path / "nowhere")
    (tmp_path / "taken").mkdir()
    with pytest.raises(RunError, match="cannot write"):
        write_report(run, tmp_path / "taken")
    with pytest.raises(RunError, match="cannot write"):
        write_report(run, run / "config.yaml" / "report.html")
    result = run / "distilled.jsonl"
    given = result.read_text(encoding="utf-8")
    result.write_text(given + "{}\n", encoding="utf-8")
    with pytest.raises(RunError, match="line 10"):
        read_report(run)
    result.unlink()
    with pytest.raises(RunError, match="not finished"):
        read_report(run)
    result.write_text(given, encoding="utf-8")
    (run / "run.db").write_bytes(b"SQLite format 3\x00" + os.urandom(5000))
    with pytest.raises(RunError, match="cannot be read") as caught:
        read_report(run)
    assert "\n" not in str(caught.value)
    (run / "run.db").unlink()
    sqlite3.connect(run / "run.db").execute("CREATE TABLE t (x)").connection.close()
    with pytest.raises(RunError, match="no such table"):
        read_report(run)


def test_the_command(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "page.html"
    done = CliRunner().invoke(app, ["report", str(run), "--out", str(out)])
    assert done.exit_code == 0 and done.output.strip() == str(out) and out.stat().st_size > 20_000
    failed = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert isinstance(failed.exception, RunError)


def test_passwords_in_addresses_stay_out(tmp_path: Path) -> None:
    server = {"base_urls": ["http://user:hunter2@127.0.0.1:8000/v1"]}
    write_run(tmp_path / "run", tiny_rows(20, 3), texts(20), generator={"kind": "server", "server": server})
    html = report_html(read_report(tmp_path / "run"))
    assert "hunter2" not in html and "127.0.0.1:8000" in html
