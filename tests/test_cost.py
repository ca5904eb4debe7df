"""The cost of a run before it runs: arithmetic by hand, a sample of real parts, and what a user sees of it."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from fault_server import serving
from test_run import small_config
from test_server_runs import server_config

from gendistill import Config, distill
from gendistill.cli import main
from gendistill.config import SelectionConfig
from gendistill.cost import Cluster, Costs, Estimate, Sample, cluster_of, measure_sample, predict
from gendistill.cost.large import LARGE, waiting
from gendistill.cost.sample import BatchSpeed, ByteSizes, CallSpeed, RealRows, Written, mean_of, share_of
from gendistill.cost.told import bytes_text, count_text, short_lines, time_text
from gendistill.cost.writing import _Came, batch_speed, call_speed
from gendistill.errors import ConfigError
from gendistill.generators.base import Reply
from gendistill.journal import open_journal
from gendistill.loop import Distilled

Dirs = tuple[Path, Path, Path]


@pytest.fixture(scope="module")
def dirs(tiny_encoder_dir: Path, tiny_causal_dir: Path, tiny_jsonl: Path) -> Dirs:
    return tiny_encoder_dir, tiny_causal_dir, tiny_jsonl


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, dirs: Dirs) -> tuple[Config, Distilled]:
    """A run without what only takes time."""
    config = small_config(
        tmp_path_factory.mktemp("runs") / "run",
        *dirs,
        selection={"method": "greedy"},
        evaluate={"seeds": 0},
        audit={"enabled": False},
    )
    return config, distill(config)


def a_sample(**changes: Any) -> Sample:
    """Round figures, so that a plan can be worked out by hand."""
    written = Written(
        requests=40,
        prompt_tokens=Estimate(200.0, 4.0),
        shared=1.0,
        completion_tokens=Estimate(30.0, 1.0),
        lengths=(30,) * 40,
        limit=60,
        reply_bytes=120.0,
        load_s=3.0,
        speed=BatchSpeed(step_s=0.1, row_s=0.01, prefill_s=0.001),
    )
    values: dict[str, Any] = {
        "device": "a test",
        "on_gpu": False,
        "generator": "g",
        "remote": False,
        "classes": 5,
        "rows": RealRows(train=1000, dev=100, test=300, aim=1000),
        "written": written,
        "looked_at": Estimate(0.9, 0.03),
        "kept": Estimate(0.8, 0.04),
        "sizes": ByteSizes(1500.0, 6000.0, 1500.0, 100.0, 140.0, 8000.0),
        "start_s": 2.0,
        "step_s": 0.5,
        "embed_row_s": 0.01,
        "target_row_s": 0.02,
        "look_row_s": 0.03,
        "read_row_s": 0.001,
        "further_real_row_s": 0.0,
        "further_row_s": 0.0,
        "choices": ((100, 2.0), (400, 4.0)),
        "pair_s": 0.0,
        "memory": 1e9,
        "request_memory": 1000.0,
        "took_s": 10.0,
    }
    return Sample(**values | changes)


def config_of(**changes: Any) -> Config:
    values: dict[str, Any] = {
        "per_class": 2,
        "generator": {"batch_size": 50, "samples_per_prompt": 8},
        "student": {"steps": 40, "epochs": 0},
        "objective": {"target_rows_per_class": 20, "students": []},
        "evaluate": {"seeds": 3},
    }
    return Config(**values | changes)


def plan(candidates: int, config: Config | None = None, cluster: Cluster | None = None, **changes: Any) -> Costs:
    return predict(a_sample(**changes), config or config_of(), cluster or Cluster(), candidates)


def figures(costs: Costs) -> dict[str, Estimate]:
    found = {"requests": costs.requests, "in": costs.tokens_in, "out": costs.tokens_out, "kept": costs.kept}
    found |= {"gpu": costs.gpu_hours, "memory": costs.memory, "wall": costs.wall, "bytes": costs.bytes}
    return found | costs.stages | costs.storage | ({"money": costs.money} if costs.money is not None else {})


# -- the arithmetic ---------------------------------------------------------------------------------------------------


def test_a_plan_by_hand() -> None:
    costs = plan(100)
    assert costs.requests.value == 100 and costs.rounds == 2
    assert costs.tokens_in.value == pytest.approx(100 * 200) and costs.tokens_out.value == pytest.approx(100 * 30)
    assert costs.kept.value == pytest.approx(80)
    # a round: 50 rows, 30 steps, 1,500 tokens, 7 prompts of 200 tokens
    assert costs.stages["write"].value == pytest.approx(2 * (30 * 0.1 + 1500 * 0.01 + 7 * 200 * 0.001) + 100 * 0.001)
    assert costs.stages["score"].value == pytest.approx(100 * 0.9 * 0.03 + 100 * 0.001)
    # 1,000 real rows, dev twice, 100 targets, 40 steps
    assert costs.stages["teacher"].value == pytest.approx(10 + 2 + 2 + 20)
    # 12 students of 40 steps and 10 rows scored on 300 rows, and the teacher once more
    assert costs.stages["measure"].value == pytest.approx(12 * (20 + 3 + 0.1) + 3)
    # pools of 40 and 80 lie below what was measured
    assert costs.stages["choose"].value == pytest.approx(2.0 * 0.4 + 2.0 * 0.8)
    assert costs.wall.value == pytest.approx(sum(part.value for part in costs.stages.values()))
    assert costs.storage["journal"].value == pytest.approx(150_000)
    assert costs.storage["features"].value == pytest.approx(90 * 6000)
    assert costs.money is None and costs.gpu_hours.value == 0


def test_a_shared_prompt_counts_as_often_as_it_is_sent() -> None:
    written = replace(a_sample().written, shared=8.0)
    assert plan(800, written=written).tokens_in.value == pytest.approx(100 * 200)


def test_the_choice_grows_by_the_power_that_was_measured_and_never_faster_than_its_candidates() -> None:
    """Four times the candidates took twice the time: the square root."""
    one = config_of(rounds=1)
    assert plan(250, one).stages["choose"].value == pytest.approx(2.0 * math.sqrt(2))  # 200 of 100 and 400
    assert plan(2000, one).stages["choose"].value == pytest.approx(4.0 * 2)  # 1,600: beyond
    steep = plan(2000, one, choices=((100, 1.0), (400, 64.0)))
    assert steep.stages["choose"].value == pytest.approx(64 * 4)


def test_classes_that_would_be_short_are_asked_for_again() -> None:
    full, short = plan(1000), plan(10)
    assert full.requests.value == 1000 and full.rounds == 2
    # 2 of each class asked for, 1.6 kept, 2 wanted
    assert 12 < short.requests.value < 18 and short.rounds == 3 and short.requests.low < 11


def test_servers_write_while_this_machine_scores() -> None:
    speed = CallSpeed(alone_s=1.0, queued_s=0.01, at_once=6, requests=8)
    written = replace(a_sample().written, speed=speed)
    urls = {"base_urls": ["http://127.0.0.1:9/v1"], "concurrency": 100, "price_in": 1.0, "price_out": 10.0}
    config = config_of(rounds=1, generator={"kind": "server", "model": "m", "server": urls})
    costs = plan(80_000, config, written=written, remote=True, read_row_s=0.0)
    # 10,000 calls, 100 at once of 2 s each
    assert costs.stages["write"].value == pytest.approx(10_000 / (100 / 2))
    assert costs.stages["write"].high >= 10_000 / (6 / 1.06) * 0.9  # it may be no faster than the sample
    outside = sum(part.value for name, part in costs.stages.items() if name not in ("write", "score"))
    beside = costs.wall.value - outside
    assert costs.stages["score"].value <= beside < costs.stages["score"].value + costs.stages["write"].value
    assert costs.money is not None
    assert costs.money.value == pytest.approx((80_000 * 200 * 1.0 + 80_000 * 30 * 10.0) / 1e6)


def test_a_cluster_shares_the_work_and_is_paid_by_the_hour() -> None:
    config = config_of(engine={"kind": "ray", "shard_rows": 100})
    alone, many = (plan(100_000, config, one, read_row_s=0.0) for one in (Cluster(), Cluster(8, 8, 8, 1.0, 3.0)))
    assert many.stages["write"].value == pytest.approx(alone.stages["write"].value / 8)
    assert many.stages["score"].value == pytest.approx(alone.stages["score"].value / 8)
    busy = 8 * (many.stages["write"].value + many.stages["score"].value)
    assert many.gpu_hours.value == pytest.approx(
        (busy + many.stages["teacher"].value + many.stages["measure"].value) / 3600
    )
    assert many.money is not None and many.money.value == pytest.approx(3 * many.gpu_hours.value)
    faster = plan(100_000, config, Cluster(8, 8, 8, 4.0), read_row_s=0.0)
    assert faster.stages["write"].value == pytest.approx(many.stages["write"].value / 4)
    assert "shards of features" in many.storage and "shards of features" not in plan(100).storage


def test_what_the_options_say_of_a_cluster() -> None:
    ray = config_of(engine={"kind": "ray"})
    assert cluster_of(ray, a_sample(), nodes=4, gpus=8) == Cluster(32, 32, 32)
    assert cluster_of(ray, a_sample(), nodes=4) == Cluster(4, 4, 0)
    assert cluster_of(ray, a_sample(remote=True), gpus=2) == Cluster(1, 2, 2)
    assert cluster_of(config_of(), a_sample(on_gpu=True)) == Cluster(1, 1, 1)
    given = config_of(engine={"kind": "ray", "writers": 3, "scorers": 5})
    assert cluster_of(given, a_sample(), gpus=8) == Cluster(3, 5, 8)


SIZES = (50, 200, 1000, 20_000, 10**6, 10**7, 10**9)


@pytest.mark.parametrize("engine", ["local", "ray"])
@pytest.mark.parametrize("remote", [False, True])
def test_more_candidates_cost_no_less_and_a_billion_is_no_trouble(engine: str, remote: bool) -> None:
    config = config_of(engine={"kind": engine}, evaluate={"seeds": 1})
    speed = CallSpeed(1.0, 0.01, 6, 8) if remote else a_sample().written.speed
    written = replace(a_sample().written, speed=speed)
    cluster = Cluster(16, 16, 16, 2.0, 1.0) if engine == "ray" else Cluster()
    plans = [plan(size, config, cluster, written=written, remote=remote) for size in SIZES]
    for less, more in pairwise(plans):
        for name, figure in figures(more).items():
            if name == "journal" or name not in figures(less):
                continue  # a run of many shards keeps no journal of them
            if name in ("choose", "wall", "bytes") and less.kept.value < 10**6 < more.kept.value:
                continue  # two stages are another way of choosing, and bring nothing into the run directory
            assert figure.value >= figures(less).get(name, figure).value * (1 - 1e-9), (name, less.candidates)
    for one in plans:
        for name, figure in figures(one).items():
            assert 0 <= figure.low <= figure.value <= figure.high < math.inf, (name, one.candidates)
        assert json.loads(json.dumps(one.to_json(), allow_nan=False))["candidates"] == one.candidates
    billion = plans[-1]
    assert billion.tokens_in.value == pytest.approx(2e11) and billion.kept.value == pytest.approx(8e8)
    assert any("two stages" in note for note in billion.notes) and not plans[3].notes
    if engine == "ray":  # what is proposed is held, not everything
        assert billion.memory.value < 0.01 * billion.storage["shards of features"].value


def test_a_sample_that_varies_more_is_less_certain() -> None:
    sure, unsure = (plan(1000, kept=Estimate(0.8, error)) for error in (0.01, 0.1))
    assert unsure.kept.high - unsure.kept.low > 3 * (sure.kept.high - sure.kept.low)
    wide = replace(a_sample().written, completion_tokens=Estimate(30.0, 6.0))
    assert plan(1000, written=wide).tokens_out.low < 0.7 * 30_000


@pytest.mark.parametrize("size", [0, -5])
def test_nothing_to_ask_for_is_refused(size: int) -> None:
    with pytest.raises(ConfigError, match=f"plan: {size} candidates cannot be asked for"):
        plan(size)


def test_estimates() -> None:
    total = Estimate(10.0, 1.0) + Estimate(5.0, 2.0)
    assert (total.value, total.error) == (15.0, 3.0)
    product = Estimate(10.0, 1.0) * Estimate(4.0, 0.3)
    assert product.value == 40.0 and product.error == pytest.approx(math.hypot(4.0, 3.0))
    assert Estimate(1.0, 5.0).low == 0.0 and (Estimate(3.0, 1.0) * 2).error == 2.0
    assert mean_of([1.0, 3.0]) == Estimate(2.0, 1.0)
    assert mean_of([1.0, 1.0, 3.0, 3.0], ["a", "a", "b", "b"]).error == pytest.approx(
        1.0
    )  # two groups, not four values
    assert share_of(40, 40).value == 1.0 and share_of(40, 40).error > 0.01


def test_the_longest_of_more_replies_is_longer_up_to_the_limit() -> None:
    written = replace(a_sample().written, lengths=tuple(range(10, 50)))
    longest = [written.longest(rows) for rows in (1, 8, 40, 200, 10**6)]
    assert longest == sorted(longest) and 35 <= longest[0] < longest[2] <= 55 and longest[-1] == 60


def test_speeds_are_found_in_what_arrived() -> None:
    """A batch of a known speed: 16 rows of two prompts of 100 tokens."""
    step_s, row_s, prefill_s = 0.05, 0.004, 0.001
    ends = [3, 3, 5, 8, 8, 9, 12, 14, 15, 15, 18, 20, 22, 25, 26, 30]
    now, at, live, arrived = 2 * 100 * prefill_s, 0, 16, []
    for number, end in enumerate(ends):
        now += (end - at) * (step_s + row_s * live)
        at, live = end, live - 1 if number + 1 == len(ends) or ends[number + 1] != end else live
        arrived.append((now, Reply(str(number), "x", "stop", 100, end)))
        live = 16 - number - 1
    found = batch_speed([_Came(16, arrived)], config_of())
    assert (found.step_s, found.row_s, found.prefill_s) == pytest.approx((step_s, row_s, prefill_s), rel=0.15)
    # Two calls took 1.2 s, six 1.6: 0.1 s more for each
    came = [_Came(calls, [(1.0 + 0.1 * calls, Reply("r", "x", "stop", 1, 1))]) for calls in (2, 6)]
    calls = call_speed(came, 8)
    assert (calls.alone_s, calls.queued_s, calls.at_once, calls.requests) == pytest.approx((1.0, 0.1, 6, 8))
    assert calls.calls_a_second(100) == pytest.approx(100 / 11)


def test_figures_in_words() -> None:
    assert [count_text(value) for value in (3.0, 380.0, 12_530.0, 6.53e6, 3.3e10)] == [
        "3",
        "380",
        "12,530",
        "6.53 M",
        "33 G",
    ]
    assert [bytes_text(value) for value in (12, 9.8e6, 7.5e12)] == ["12 B", "9.8 MB", "7.5 TB"]
    assert [time_text(value) for value in (45.4, 480, 3 * 3600, 2e7)] == ["45.4 s", "8 min", "3 h", "231 days"]


# -- a real sample ----------------------------------------------------------------------------------------------------


def test_a_sample_of_a_run_predicts_it(finished: tuple[Config, Distilled]) -> None:
    """Tokens, requests and bytes of a run that was made; seconds are another test's (scripts/plan_check.py)."""
    config, result = finished
    sample = measure_sample(config)
    assert isinstance(sample.written.speed, BatchSpeed) and not sample.assumed
    assert 40 <= sample.written.requests <= 48 and sample.classes == 3
    asked = config.generator.candidates_per_class * 3
    costs = predict(sample, config, cluster_of(config, sample), asked)
    with open_journal(config.out) as journal:
        tokens_in, tokens_out = journal.tokens()
        assert costs.requests.value == journal.count("requests") == asked
    assert costs.tokens_in.value == pytest.approx(tokens_in, rel=0.1)
    assert costs.tokens_out.value == pytest.approx(tokens_out, rel=0.25)
    assert costs.kept.low - 3 <= result.pool_size <= costs.kept.high + 3
    size = sum(path.stat().st_size for path in config.out.rglob("*") if path.is_file())
    assert costs.bytes.value == pytest.approx(size, rel=0.3)
    assert costs.stages["measure"].value == 0  # none is asked for
    assert all(part.value > 0 for name, part in costs.stages.items() if name != "measure")
    assert short_lines(costs)[0].startswith("plan: 72 requests")


def greedy(config: Config) -> Config:
    """The same with a choice that is made in a moment."""
    return config.model_copy(update={"selection": SelectionConfig(method="greedy")})


def test_a_sample_of_a_server(tmp_path: Path, dirs: Dirs) -> None:
    log = tmp_path / "log"
    with serving(tmp_path / "server", log=str(log)) as server:
        config = greedy(
            server_config(tmp_path / "run", dirs, server.url, choices_per_call=3, price_in=1.0, price_out=2.0)
        )
        sample = measure_sample(config)
        assert isinstance(sample.written.speed, CallSpeed) and sample.remote and not sample.assumed
    calls = len(log.read_text().splitlines())
    assert sample.written.requests <= 48 and calls == math.ceil(sample.written.requests / 3)
    assert sample.written.shared == 3 and sample.written.completion_tokens.value == pytest.approx(20)
    costs = predict(sample, config, cluster_of(config, sample), 10**9)
    assert costs.money is not None
    expected = (costs.tokens_in.value + 2 * costs.tokens_out.value) / 1e6
    assert costs.money.value == pytest.approx(expected)
    assert not config.out.exists()


@pytest.mark.parametrize("kind", ["server", "batch"])
def test_a_generator_that_cannot_be_asked_is_assumed(kind: str, tmp_path: Path, dirs: Dirs) -> None:
    config = greedy(
        server_config(tmp_path / "run", dirs, "http://127.0.0.1:9/v1", kind=kind, give_up_after=0.5, price_in=1.0)
    )
    sample = measure_sample(config)
    assert sample.written.speed is None
    (line,) = sample.assumed
    assert "the generator was not asked" in line and ("files" in line if kind == "batch" else "127.0.0.1:9" in line)
    costs = predict(sample, config, cluster_of(config, sample), 1000)
    assert costs.stages["write"].value == 0 and costs.tokens_out.value > 0
    assert costs.tokens_out.low < 0.6 * costs.tokens_out.value and costs.money is not None


def test_what_is_not_modelled_is_said(tmp_path: Path, dirs: Dirs) -> None:
    private = small_config(tmp_path / "run", *dirs, privacy={"epsilon": 8})
    instructions = Config(data={"task": "instruction", "dataset": str(dirs[2])})
    for config, words in ((private, "private run"), (instructions, "run on instructions")):
        with pytest.raises(ConfigError, match=f"plan: the cost of a {words} is not modelled"):
            measure_sample(config)


# -- the command line -------------------------------------------------------------------------------------------------


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["gendistill", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


@pytest.fixture
def config_file(tmp_path: Path, dirs: Dirs) -> Path:
    config = small_config(tmp_path / "run", *dirs, selection={"method": "greedy"})
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(json.loads(config.model_dump_json())), encoding="utf-8")
    return path


def test_plan_prints_a_column_a_size_and_writes_json(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "plan.json"
    arguments = ["plan", "-c", str(config_file), "--candidates", "60,1_000, 1e9", "--json", str(out)]
    arguments += ["--nodes", "2", "--gpus", "4", "--gpu-price", "2.5", "--speedup", "30"]
    monkeypatch.setenv("COLUMNS", "160")
    assert run(monkeypatch, *arguments) == 0
    told = capsys.readouterr().out
    for words in (
        "1,000,000,000",
        "GPU-hours",
        "money",
        "storage",
        "time in all",
        "writing",
        "measured on this machine",
    ):
        assert words in told
    assert "8 GPUs: 8 generators and 8 students at once, each 30 times as fast as here" in " ".join(told.split())
    written = json.loads(out.read_text())
    assert [one["candidates"] for one in written["plans"]] == [60, 1000, 10**9]
    assert written["cluster"]["writers"] == 8 and written["plans"][2]["gpu_hours"]["expected"] > 0
    assert not (tmp_path / "run").exists()


def test_dry_run_plans_and_leaves_nothing(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.iterdir())
    assert run(monkeypatch, "generate", "-c", str(config_file), "--dry-run") == 0
    told = capsys.readouterr().out
    assert "time in all" in told and "72" in told and "round 1" not in told
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("sizes", ["0", "many", "10,-3", "1.5", "nan", "", "1e99"])
def test_a_nonsense_size_is_one_line(
    sizes: str, config_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "plan", "-c", str(config_file), "--candidates", sizes) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1 and "is no number of candidates; write 1000,100000,1e9" in error


def test_a_large_run_is_told_what_it_costs_and_a_small_one_is_not_measured(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    from gendistill.cli.plan import tell_large
    from gendistill.config import load_config

    small = load_config(config_file)
    large = load_config(config_file, {"generator.candidates_per_class": LARGE})
    asked: list[Config] = []
    monkeypatch.setattr("gendistill.cost.measure_sample", lambda config, reporter: asked.append(config) or a_sample())
    tell_large(Console(), small)
    assert not asked and not capsys.readouterr().out
    tell_large(Console(), large)
    told = capsys.readouterr().out
    assert len(asked) == 1 and told.startswith("plan: 100,000 requests, 20 M tokens in") and len(told.splitlines()) == 3


def test_only_what_is_not_answered_yet_counts(finished: tuple[Config, Distilled]) -> None:
    config, _ = finished
    assert waiting(config) == 0  # small by its configuration alone
    nowhere = config.model_copy(update={"data": config.data.model_copy(update={"dataset": "./nowhere.csv"})})
    assert waiting(nowhere) == 0  # so the data is not read
    many = config.model_copy(
        update={"generator": config.generator.model_copy(update={"candidates_per_class": LARGE // 3 + 30})}
    )
    assert waiting(many) == 3 * (LARGE // 3 + 30) - 72
