"""Training in two processes: what one process would learn, one clear error if one dies, and nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file
from test_run import small_config
from test_tuning import generator, lessons
from tiny import tiny_rows
from together import add_up, complaining, endless, killed, one_after_another

from gendistill import distill
from gendistill.config import Config, StudentConfig, TuneConfig
from gendistill.errors import ConfigError, DataError, GendistillError, MissingExtraError
from gendistill.examples import Example
from gendistill.gathering import ADAPTER
from gendistill.generators.tuning import SharedDropout, _tune_together, tune
from gendistill.parallel import ALONE, Split, process_count, trained
from gendistill.progress import Silent
from gendistill.students.causal import CausalStudent
from gendistill.students.encoder import EncoderStudent
from gendistill.teacher import MemoryStore, Teacher, _train_together

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="two processes on the CPU")
CLOSE = {"rtol": 1e-4, "atol": 2e-6}


def examples(count: int = 7) -> list[Example]:
    rows = tiny_rows(count, 3)
    names = sorted({row["label"] for row in rows})
    return [Example((row["text"],), names.index(row["label"])) for row in rows]


def conversations() -> list[Example]:
    """Answers of very unlike lengths."""
    return [
        Example(("", f"Write about {row['label']}.", row["text"] * (1 + k % 4)), 0)
        for k, row in enumerate(tiny_rows(4, 3))
    ]


def students(encoder: Path, causal: Path) -> dict[str, tuple[Any, list[Example]]]:
    """How to build one, and what it learns."""
    plain: dict[str, Any] = {"model": str(encoder), "steps": 9, "max_steps": 9, "max_tokens": 32, "batch_size": 8}
    pairs = [Example((row.text, other.text), row.label) for row, other in zip(examples(), examples()[1:], strict=False)]
    instructed = {"model": str(causal), "steps": 6, "max_steps": 6, "max_tokens": 96, "batch_size": 5}
    return {
        "even": (partial(EncoderStudent, StudentConfig(**plain), 3), examples()),
        "odd": (partial(EncoderStudent, StudentConfig(**plain | {"batch_size": 5}), 3), examples()),
        "pairs": (partial(EncoderStudent, StudentConfig(**plain), 3), pairs),
        "frozen": (partial(EncoderStudent, StudentConfig(**plain, frozen_share=0.5), 3), examples()),
        "single": (partial(EncoderStudent, StudentConfig(**plain), 3), examples()[:1]),  # none for the second process
        "causal": (partial(CausalStudent, StudentConfig(**instructed)), conversations()),
    }


SETTINGS = TuneConfig(steps=8, batch_size=5, learning_rate=1e-2, rank=4, dropout=0.2)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Path, tiny_causal_dir: Path) -> Path:
    """What two processes learnt of each kind of student, and of a generator."""
    works: dict[str, Any] = {
        name: partial(_train_together, build, rows, 3, 3)
        for name, (build, rows) in students(tiny_encoder_dir, tiny_causal_dir).items()
    }
    works["generator"] = partial(_tune_together, generator(tiny_causal_dir), lessons(7), SETTINGS, 3)
    works["sums"] = add_up
    kept = tmp_path_factory.mktemp("together")
    told: list[tuple[int, int]] = []
    with trained(2, partial(one_after_another, works), lambda *now: told.append(now)) as folder:
        for path in folder.rglob("*"):
            if path.is_file():
                (kept / path.parent.name).mkdir(exist_ok=True)
                (kept / path.parent.name / path.name).write_bytes(path.read_bytes())
    assert not folder.exists() and told[-1] == (8, 8)
    return kept


@pytest.mark.parametrize("kind", ["even", "odd", "pairs", "frozen", "single", "causal"])
def test_two_processes_learn_what_one_does(
    kind: str, together: Path, tiny_encoder_dir: Path, tiny_causal_dir: Path
) -> None:
    build, rows = students(tiny_encoder_dir, tiny_causal_dir)[kind]
    alone = build(device="cpu")
    alone.fit(rows, seed=3, checkpoints=3)
    start, *_, end = alone.states
    both = build(device="cpu")
    both.load(together / kind)
    assert len(both.states) == len(alone.states) == 3
    for one, two in zip(alone.states, both.states, strict=True):
        assert one.keys() == two.keys()
        for name, value in one.items():
            torch.testing.assert_close(two[name], value, msg=f"{kind}: {name}", **CLOSE)
    moved = max(float((end[name] - start[name]).abs().max()) for name in start)
    assert moved > 100 * CLOSE["atol"]


def _adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def test_two_processes_tune_a_generator_as_one_does(together: Path, tiny_causal_dir: Path, tmp_path: Path) -> None:
    tune(generator(tiny_causal_dir), lessons(7), SETTINGS, seed=3)(tmp_path)
    one, two = _adapter(tmp_path), _adapter(together / "generator")
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, msg=name, **CLOSE)
    assert max(float(value.abs().max()) for name, value in one.items() if "lora_B" in name) > 100 * CLOSE["atol"]
    whole = tmp_path / "whole"
    whole.mkdir()
    tune(generator(tiny_causal_dir), lessons(7), SETTINGS.model_copy(update={"dropout": 0.0}), seed=3)(whole)
    assert any(not torch.allclose(value, one[name], **CLOSE) for name, value in _adapter(whole).items())
    assert {path.name for path in whole.iterdir()} == {path.name for path in (together / "generator").iterdir()}


def test_dropout_is_of_the_whole_batch_whoever_draws_it() -> None:
    second = Split()
    second.count, second.index = 2, 1
    torch.manual_seed(0)
    whole = SharedDropout(0.4, 5, ALONE)(torch.ones(5, 7, 30))
    torch.manual_seed(0)
    share = SharedDropout(0.4, 5, second)(torch.ones(2, 7, 30))
    assert torch.equal(share, whole[1::2]) and not torch.equal(whole[0], whole[1])
    assert whole.unique().tolist() == pytest.approx([0, 1 / 0.6])
    assert whole.mean() == pytest.approx(1, abs=0.1)
    assert torch.equal(SharedDropout(0.4, 5, second).eval()(share), share)


def test_rows_and_gradients_are_shared_out_whole(together: Path) -> None:
    shares = [(together / "sums" / f"share-{index}").read_text() for index in (0, 1)]
    assert shares == ["0 2 4", "1 3"]


def test_a_run_in_two_processes_chooses_the_same(
    tmp_path: Path, tiny_encoder_dir: Path, tiny_causal_dir: Path, tiny_jsonl: Path
) -> None:
    def config(count: int) -> Config:
        models = (tiny_encoder_dir, tiny_causal_dir, tiny_jsonl)
        plain = small_config(tmp_path / str(count), *models)
        tuned = {"steps": 3, "batch_size": 3, "rank": 2, "processes": count}
        return small_config(
            tmp_path / str(count),
            *models,
            student=plain.student.model_dump() | {"processes": count},
            generator=plain.generator.model_dump() | {"tune": tuned},
            rounds=1,
            evaluate={"seeds": 0},
            audit={"enabled": False},
        )

    stages: list[str] = []

    class Told(Silent):
        def track(self, stage: str, total: int, done: int = 0) -> Any:
            stages.append(stage)
            return super().track(stage, total, done)

    one, two = distill(config(1)), distill(config(2), reporter=Told())
    assert [row["text"] for row in one.rows] == [row["text"] for row in two.rows]
    assert one.rounds[0].loss == pytest.approx(two.rounds[0].loss, rel=1e-4)
    assert (tmp_path / "2" / ADAPTER / "adapter_model.safetensors").is_file()
    assert "train teacher" in stages and "tune generator" in stages
    written = [yaml.safe_load((tmp_path / name / "config.yaml").read_text()) for name in ("1", "2")]
    assert written[0] | {"out": ""} == written[1] | {"out": ""}
    # So a run may go on in another number of processes.
    again = distill(config(2).model_copy(update={"out": tmp_path / "1"}), resume="always")
    assert [row["text"] for row in again.rows] == [row["text"] for row in one.rows]


def alive(pids: list[int]) -> list[int]:
    """Those that still run, after they had some seconds to end."""
    left = pids
    for _ in range(100):
        left = [pid for pid in left if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]
        if not left:
            break
        time.sleep(0.1)
    return left


def told_pids(folder: Path) -> list[int]:
    return [int(path.name) for path in folder.iterdir()]


def test_a_process_that_is_killed_ends_all_with_one_line(tmp_path: Path) -> None:
    with pytest.raises(GendistillError) as caught, trained(2, partial(killed, tmp_path)):
        pass
    assert "one was killed (SIGKILL)" in str(caught.value) and "\n" not in str(caught.value)
    assert len(told_pids(tmp_path)) == 3 and not alive(told_pids(tmp_path))


def test_what_a_process_raises_on_purpose_is_raised_here() -> None:
    with pytest.raises(DataError, match=r"^no such rows$"), trained(2, complaining):
        pass


def test_an_interrupt_ends_the_processes(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), trained(2, partial(endless, tmp_path), interrupt):
        pass
    assert len(told_pids(tmp_path)) == 3 and not alive(told_pids(tmp_path))


def test_no_process_outlives_the_one_that_started_it(tmp_path: Path) -> None:
    code = (
        "import sys; from functools import partial; from pathlib import Path; from together import endless\n"
        "from gendistill.parallel import trained\n"
        "with trained(2, partial(endless, Path(sys.argv[1]))): pass"
    )
    pids, left = tmp_path / "pids", tmp_path / "left"
    pids.mkdir()
    left.mkdir()
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(left)}
    parent = subprocess.Popen([sys.executable, "-c", code, str(pids)], env=env)
    try:
        for _ in range(600):
            if len(told_pids(pids)) == 3:
                break
            time.sleep(0.1)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert len(told_pids(pids)) == 3 and not alive(told_pids(pids))


def test_how_many_processes(monkeypatch: pytest.MonkeyPatch, tiny_encoder_dir: Path) -> None:
    assert process_count(None, 8, "student.processes") == 1
    assert process_count(3, 8, "student.processes") == 3
    with pytest.raises(ConfigError, match=r"student\.processes.*greater than or equal to 1 \(got 0\)"):
        Config(student={"processes": 0})
    with pytest.raises(ConfigError, match=r"tune\.processes.*greater than or equal to 1"):
        Config(generator={"tune": {"steps": 1, "processes": 0}})
    with pytest.raises(ConfigError, match="device_map spreads one process over all GPUs"):
        Config(student={"processes": 2, "lora": {"device_map": "auto"}})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert process_count(None, 8, "student.processes") == 4
    assert process_count(None, 3, "student.processes") == 3  # a row for each at least
    config = StudentConfig(model=str(tiny_encoder_dir), processes=5)
    teacher = Teacher(config, EncoderStudent(config, 3), examples(), MemoryStore(), Silent(), 0)
    with pytest.raises(ConfigError, match=r"student\.processes: 5 processes for the 4 GPUs of this machine"):
        teacher.prepare()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert process_count(None, 8, "student.processes") == 1
    with pytest.raises(MissingExtraError, match=r"student\.processes: .*pip install accelerate"):
        process_count(2, 8, "student.processes")


def test_the_sections_of_instruction_and_private_runs_keep_it() -> None:
    config = Config(data={"task": "instruction"}, student=StudentConfig(processes=2))
    assert config.student.processes == 2 and config.student.gradient_dims
