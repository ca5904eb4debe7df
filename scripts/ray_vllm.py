"""Tokens a second of ``--engine ray`` with vLLM in its workers beside Ray's own ``ray.data.llm``, and what each asks
again when its worker is killed.

    .venv-vllm/bin/python scripts/ray_vllm.py                   # 3 runs of each, in turn; on the CPU
    .venv-vllm/bin/python scripts/ray_vllm.py --runs 1 --kill 100       # SIGKILL to the worker after 100 answers
    .venv-vllm/bin/python scripts/ray_vllm.py --runs 1 --kill 100 --checkpoint     # with Ray Data's CheckpointConfig

Both send the same prompts to one engine in one worker, with the same settings of the engine. Seconds are from the
first request that the engine is given to the last answer that it gives; starting Ray, the worker and the engine is in
"all" only. What is asked and answered, a log says that the workers write to.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import ray
import ray.data
import vllm_server
from ray.data.checkpoint import CheckpointConfig
from ray.data.llm import build_processor, vLLMEngineProcessorConfig
from ray.llm._internal.batch.stages.vllm_engine_stage import vLLMEngineStageUDF
from ray_processors import Plan, Unwatched, writers_of
from server_throughput import prompts

from gendistill.config import EngineConfig, GeneratorConfig, VllmConfig
from gendistill.engines.ray import RayRunner, connected
from gendistill.engines.runner import Step
from gendistill.engines.stages import Job, Write
from gendistill.engines.storage import Storage
from gendistill.engines.tables import replies_of
from gendistill.generators.base import Reply, Request
from gendistill.generators.vllm import VllmGenerator
from gendistill.models import resolve

BATCH = 32  # rows of theirs that come back together
ENGINE = {"dtype": "bfloat16", "max_model_len": vllm_server.CONTEXT, "enforce_eager": True}


def note(log: Path, what: str, id: str) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write(f"{what} {id} {time.time():.3f}\n")


class Ours(VllmGenerator):
    """A generator that writes down what it asks its engine."""

    log: Path

    def _refused(self, engine: Any, request: Request) -> str | None:
        note(self.log, "asked", request.id)
        return super()._refused(engine, request)

    def arrivals(self, requests: Any) -> Iterator[list[Reply]]:
        for replies in super().arrivals(requests):
            for reply in replies:
                note(self.log, "answered", reply.request_id)
            yield replies


class Theirs(vLLMEngineStageUDF):
    """Ray's worker, which writes down what it asks its engine."""

    async def _generate_with_error_handling(self, row: dict[str, Any], batch_uuid: Any) -> dict[str, Any]:
        log, id = Path(row["log"]), row["id"]
        note(log, "asked", id)
        found = await super()._generate_with_error_handling(row, batch_uuid)
        note(log, "answered", id)
        return found


def ours(folder: Path, log: Path, model: str, texts: Sequence[str], tokens: int) -> list[tuple[str, int]]:
    """(id, tokens completed) of every row, by the first stage of ``--engine ray``."""
    generator = Ours(model, mode="base", structured=False, engine=VllmConfig(**ENGINE))
    generator.log = log
    plan = Plan(len(texts), lambda number: Request(f"r{number}", texts[number], None, number, tokens, 0.0, 0, 1.0))
    job = Job(plan, Storage(str(folder)), 1024)  # type: ignore[arg-type]
    runner = RayRunner(EngineConfig(kind="ray", writers=1), GeneratorConfig(kind="vllm", model=model))
    with runner.keeper(folder / "keeper.db") as keeper:
        for _ in runner.run([Step(partial(Write, job, keeper, generator, Unwatched()), "write")], range(job.shards)):
            pass
    found = [reply for shard in range(job.shards) for reply in replies_of(job.storage.read(job.name("replies", shard)))]
    return [(reply.request_id, reply.completion_tokens) for reply in found]


def theirs(folder: Path, log: Path, model: str, texts: Sequence[str], tokens: int) -> list[tuple[str, int]]:
    """The same, by ``build_processor``; its rows are written to Parquet files, as Ray Data's checkpoints need it."""
    config = vLLMEngineProcessorConfig(
        model_source=model,
        engine_kwargs=ENGINE | {"enable_chunked_prefill": False, "distributed_executor_backend": "mp"},
        placement_group_config={"bundles": [{"CPU": 1}]},  # without it, a GPU is asked for
        batch_size=BATCH, concurrency=1, log_engine_metrics=False,
        chat_template_stage=False, tokenize_stage=False, detokenize_stage=False,
    )  # fmt: skip
    sampling = {"max_tokens": tokens, "temperature": 0.0}
    processor = build_processor(
        config,
        preprocess=lambda row: {**row, "log": str(log), "sampling_params": sampling},
        postprocess=lambda row: {"id": row["id"], "tokens": row["num_generated_tokens"]},
    )
    # Not assigned: that would make the stage anew, which forgets that no GPU is asked for
    processor.get_stage_by_name("vLLMEngineStage").__dict__["fn"] = Theirs
    rows = ray.data.from_items([{"id": f"r{i}", "prompt": text} for i, text in enumerate(texts)])
    processor(rows).write_parquet(str(folder / "out"))
    return [(row["id"], row["tokens"]) for row in ray.data.read_parquet(str(folder / "out")).take_all()]


def kill(log: Path, after: int) -> None:
    """SIGKILL to the process with the engine, when there are so many answers."""
    while not log.exists() or log.read_text(encoding="utf-8").count("answered") < after:
        time.sleep(0.05)
    for process in writers_of(psutil.Process()):
        process.kill()
    note(log, "killed", "-")


def left() -> str:
    """vLLM's processes that are there."""
    found = [process for process in psutil.process_iter(["name"]) if "VLLM::" in process.info["name"]]
    return f"{len(found)} with {sum(process.memory_info().rss for process in found) / 1e9:.1f} GB"


def measure(kind: Callable[..., list[tuple[str, int]]], given: argparse.Namespace, texts: list[str]) -> float:
    with tempfile.TemporaryDirectory() as name:
        folder, log = Path(name), Path(name) / "log"
        ray.data.DataContext.get_current().checkpoint_config = (
            CheckpointConfig("id", str(folder / "checkpoint")) if given.checkpoint and kind is theirs else None
        )
        if given.kill:
            threading.Thread(target=kill, args=(log, given.kill), daemon=True).start()
        began = time.time()
        rows = kind(folder, log, resolve(given.model), texts, given.tokens)
        lines = [line.split() for line in log.read_text(encoding="utf-8").splitlines()]
        seconds = float(lines[-1][2]) - float(lines[0][2])
        tokens = sum(count for _, count in rows)
        whole = time.time() - began
        print(f"| {kind.__name__} | {tokens:,} | {seconds:.1f} | {whole:.1f} | {tokens / seconds:.1f} |", flush=True)
        if given.kill:
            asked = [id for what, id, _ in lines if what == "asked"]
            at = next(place for place, line in enumerate(lines) if line[0] == "killed")
            had = {id for what, id, _ in lines[:at] if what == "answered"}
            again = [id for what, id, _ in lines[at:] if what == "asked" and id in had]
            lost, twice = len(texts) - len({id for id, _ in rows}), len(asked) - len(set(asked))
            print(f"  lost {lost}, asked twice {twice}; of {len(had)} answered before, {len(again)}; vLLM has {left()}")
    return tokens / seconds


@contextlib.contextmanager
def started(kind: Callable[..., Any]) -> Iterator[None]:
    """A cluster of this machine: as ``--engine ray`` starts it, or as it is by itself."""
    ray.data.DataContext._set_current(ray.data.DataContext())
    if kind is ours:
        with connected(EngineConfig(kind="ray")):
            yield
        return
    ray.init("local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin:gemma-3-270m", help="folder of a model, or a built-in one")
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=32, help="to write for each request, at most")
    parser.add_argument("--runs", type=int, default=3, help="of each")
    parser.add_argument("--kill", type=int, default=0, help="the worker, after so many answers")
    parser.add_argument("--checkpoint", action="store_true", help="of Ray Data, for its own processor")
    parser.add_argument("--only", choices=("ours", "theirs"))
    given = parser.parse_args()
    os.environ |= vllm_server.environment() | {"VLLM_LOGGING_LEVEL": "WARNING"}
    texts = prompts(given.requests)
    kinds = [kind for kind in (ours, theirs) if given.only in (None, kind.__name__)]
    rates: dict[str, list[float]] = {kind.__name__: [] for kind in kinds}
    print("| | tokens | seconds | all | tokens/s |\n|---|---|---|---|---|", flush=True)
    for number in range(given.runs):
        for kind in kinds if number % 2 == 0 else kinds[::-1]:
            with started(kind):
                rates[kind.__name__].append(measure(kind, given, texts))
    print("medians:", {name: round(statistics.median(found), 1) for name, found in rates.items()})


if __name__ == "__main__":
    main()
