"""Ray's own processor for requests (``ray.data.llm``) with Ray Data's checkpoints, beside ``--engine ray``.

    python scripts/ray_processors.py                               # everything, about half an hour
    python scripts/ray_processors.py --parts kills --requests 512

Both ask the same requests of the same server, a process of its own on this machine: it takes ``--latency`` seconds for
a call (half to one and a half times as much, by the prompt), works on ``--room`` calls at once, lets others wait, ends
those that nobody waits for any more, and counts by prompt. Each job is a process with a Ray of its own. Prints a line
of JSON for each job, then tables.

speed: requests a second, and calls in flight.
kills: SIGKILL to every worker that writes, when 20, 40 and 60 % are answered; how many prompts are asked for again, how
    many of them had been answered to a worker that was alive, and so are paid twice, and how many were answered in the
    instant that the system takes to close a killed worker's connections. A job that fails is started again.
faults: one prompt that is answered with 400, with 503 every time, or with 429 and a Retry-After of two seconds.
addresses: two servers.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
from aiohttp import web

from gendistill import Config
from gendistill.config import EngineConfig, GeneratorConfig, ServerConfig
from gendistill.engines.ray import ENVIRONMENT
from gendistill.generators.base import Reply, Request
from gendistill.generators.wire import Options, body_of
from gendistill.pool import GarbageWatch
from gendistill.store import Planned

WORDS = "word " * 150  # of a prompt, as many as four exemplars have
FEW = 256  # requests where one of them meets a fault
RETRY_AFTER_S = 2.0
TRIES, BACKOFF_S = 6, 0.5  # the defaults of our client, given to Ray's too
CORES = 4  # that Ray's own job believes there are
RESULT = "result.json"
MOST_S = 600.0  # that a job may take
MOMENTS = (0.2, 0.4, 0.6)  # shares answered, when workers are killed
BATCHES = "RAY_DATA_DEFAULT_ASYNC_BATCH_UDF_MAX_CONCURRENCY"  # of a worker at once; Ray reads it when it is imported


@dataclass(frozen=True)
class Way:
    """How requests are made.

    :param engine: "processor" is Ray's own; "ray" and "local" are ours, as they are configured by default.
    :param batches: of a worker at once; 4 unless the environment says more.
    :param block: rows that Ray hands to a worker together, at least what it can ask for at once.
    """

    name: str
    engine: str = "processor"
    batch_size: int = 64
    batches: int = 4
    workers: int = 2
    block: int = 64


LARGE = Way("processor, batches of 64", block=256)
MIDDLE = Way("processor, batches of 16", batch_size=16)
SINGLE = Way("processor, batches of 1", batch_size=1)
WIDE = Way("processor, batches of 16, 16 workers", batch_size=16, workers=16)
TUNED = Way("processor, 64 batches of 1 at once, blocks of 256", batch_size=1, batches=64, block=256)
SMALL = Way("processor, 64 batches of 1 at once, blocks of 64", batch_size=1, batches=64)
OURS, LOCAL = Way("--engine ray", "ray"), Way("--engine local", "local")


@dataclass(frozen=True)
class Job:
    """What one process does.

    :param starts: of a job that fails, at most; each goes on from what the one before left.
    :param keep_going: Ray's ``max_errored_blocks`` is lifted, and an answer without a text is taken.
    """

    way: Way
    requests: int
    urls: tuple[str, ...] = ()
    folder: str = ""
    starts: int = 1
    keep_going: bool = False


# -- the server -------------------------------------------------------------------------------------------------------


class Server:
    """Counts by prompt, which begins with its number.

    :param fault: a status for the prompt ``at``: 400 and 503 always, 429 for ``RETRY_AFTER_S`` from the first call.
    """

    def __init__(self, latency: float, room: int, fault: int = 0, at: int = -1) -> None:
        self.latency, self.fault, self.at = latency, fault, at
        self.room = asyncio.Semaphore(room)
        self.asked: Counter[int] = Counter()
        self.answered: set[int] = set()
        self.twice: set[int] = set()  # asked for when they were answered already
        self.kills = self.late = 0  # answers to workers that had been killed
        self.at_times: list[float] = []  # that the prompt with the fault was asked for
        self.busy = self.most = 0
        self.first = self.last = 0.0

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        number = int(body["messages"][0]["content"].split()[0])
        self.first, kills = self.first or time.monotonic(), self.kills
        self.asked[number] += 1
        if number in self.answered:
            self.twice.add(number)
        if number == self.at and (refusal := self._refusal()) is not None:
            return refusal
        self.busy += 1
        self.most = max(self.most, self.busy)
        try:
            async with self.room:
                await asyncio.sleep(self.latency * (0.5 + random.Random(number).random()))
        finally:
            self.busy -= 1
        message = {"role": "assistant", "content": f"Text {number}."}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        response = web.json_response(
            {"choices": [choice], "usage": {"prompt_tokens": len(WORDS.split()), "completion_tokens": 3}}
        )
        with contextlib.suppress(ConnectionError):
            await response.prepare(request)
            await response.write_eof()
            if request.transport is not None and not request.transport.is_closing():
                if kills == self.kills:  # whoever asked is alive
                    self.answered.add(number)
                    self.last = time.monotonic()
                else:
                    self.late += 1
        return response

    async def killed(self, _: web.Request) -> web.Response:
        """All who have asked so far are no more."""
        self.kills += 1
        return web.Response()

    def _refusal(self) -> web.Response | None:
        self.at_times.append(time.monotonic())
        if self.fault == 429 and self.at_times[-1] - self.at_times[0] >= RETRY_AFTER_S:
            return None
        headers = {"Retry-After": f"{RETRY_AFTER_S:.0f}"} if self.fault == 429 else {}
        error = {"error": {"message": f"fault {self.fault}", "code": "fault"}}
        return web.json_response(error, status=self.fault, headers=headers)

    async def stats(self, _: web.Request) -> web.Response:
        told = {
            "calls": self.asked.total(),
            "prompts": len(self.asked),
            "answered": len(self.answered),
            "again": sum(count > 1 for count in self.asked.values()),
            "paid_twice": len(self.twice),
            "answered_late": self.late,
            "most_in_flight": self.most,
            "writing_s": round(self.last - self.first, 2),
            "fault_asked_at_s": [round(at - self.at_times[0], 2) for at in self.at_times],
        }
        return web.json_response(told)


def serve(pipe: Connection, settings: dict[str, Any]) -> None:
    """Until the process is ended; its port goes into the pipe."""

    async def go() -> None:
        server, app = Server(**settings), web.Application()
        app.add_routes(
            [
                web.post("/v1/chat/completions", server.complete),
                web.get("/stats", server.stats),
                web.post("/killed", server.killed),
            ]
        )
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True)  # as vLLM ends what nobody waits for
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        pipe.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(go())


@contextlib.contextmanager
def served(settings: dict[str, Any]) -> Iterator[str]:
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(there, settings), daemon=True)
    process.start()
    try:
        if not here.poll(60):
            raise SystemExit("the server does not start")
        yield f"http://127.0.0.1:{here.recv()}"
    finally:
        process.kill()
        process.join()


def stats_of(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/stats", timeout=30) as answer:
        told: dict[str, Any] = json.load(answer)
    return told


# -- a job, in a process of its own -----------------------------------------------------------------------------------


def request_of(number: int) -> Request:
    return Request(f"r{number:06d}", None, (("user", f"{number} {WORDS}"),), number, 60, 0.9, 50, 0.95)


class Plan:
    """What a ``Write`` stage asks of a round's plan; every request with a prompt of its own.

    :param request: gives that of a number.
    """

    round = 1

    def __init__(self, count: int, request: Callable[[int], Request] = request_of) -> None:
        self.size = self.groups = count
        self.request = request
        self.config = Config(generator=GeneratorConfig(samples_per_prompt=1))

    def requests(self, groups: range) -> list[Planned]:
        return [Planned(self.request(number), 0, number, "", ()) for number in groups]


class Unwatched(GarbageWatch):
    """Lets everything pass: the texts are no texts."""

    def __init__(self) -> None:
        pass

    def fresh(self) -> GarbageWatch:
        return self

    def see(self, label: int, reply: Reply) -> None:
        pass

    def check(self) -> None:
        pass


def ours(job: Job) -> dict[str, Any]:
    from gendistill.engines import stages
    from gendistill.engines.keeper import FILE
    from gendistill.engines.ray import RayRunner, connected
    from gendistill.engines.runner import LocalRunner, Runner, Step
    from gendistill.engines.storage import Storage

    folder, engine, plan = Path(job.folder), EngineConfig(kind="ray"), Plan(job.requests)
    urls = [f"{url}/v1" for url in job.urls]
    generator = GeneratorConfig(kind="server", model="m", mode="chat", server=ServerConfig(base_urls=urls))
    shards = stages.Job(plan, Storage(str(folder / "shards")), engine.shard_rows)  # type: ignore[arg-type]

    def work(runner: Runner) -> None:
        with runner.keeper(folder / FILE) as keeper:
            step = Step(partial(stages.Write, shards, keeper, generator, Unwatched()), "write")
            for _ in runner.run([step], range(shards.shards)):
                pass

    if job.way.engine == "local":
        ended = _ended(lambda: work(LocalRunner()), job.starts)
    else:
        with connected(engine):
            ended = _ended(lambda: work(RayRunner(engine, generator)), job.starts)
    return ended | _rows(folder / "shards", "request")


def processor(job: Job) -> dict[str, Any]:
    import ray
    from ray.data.checkpoint import CheckpointConfig
    from ray.data.llm import HttpRequestProcessorConfig, build_processor

    from gendistill.engines.ray import connected

    way, folder, options = job.way, Path(job.folder), Options()

    def asked(row: dict[str, Any]) -> dict[str, Any]:
        return {"payload": body_of(request_of(row["id"]), "m", options)}

    def read(row: dict[str, Any]) -> dict[str, Any]:
        answer = row["http_response"]
        if job.keep_going and not answer.get("choices"):
            return {"id": row["id"], "text": None, "error": json.dumps(answer.get("error"))}
        return {"id": row["id"], "text": answer["choices"][0]["message"]["content"], "error": None}

    small: dict[str, Any] = {"num_cpus": 0.1}
    # On two cores the filter of a start from a checkpoint, which takes one, leaves no place for what it should read
    ray.init("local", num_cpus=CORES, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    with connected(EngineConfig(kind="ray")):
        context = ray.data.DataContext.get_current()
        context.checkpoint_config = CheckpointConfig("id", str(folder / "checkpoint"))
        context.max_errored_blocks = -1 if job.keep_going else 0

        def work() -> None:
            urls = [f"{url}/v1/chat/completions" for url in job.urls]
            config = HttpRequestProcessorConfig(
                url=urls[0] if len(urls) == 1 else urls,
                batch_size=way.batch_size,
                concurrency=(way.workers, way.workers),
                max_retries=TRIES - 1,
                base_retry_wait_time_in_s=BACKOFF_S,
                http_request_stage={"num_cpus": 0.01},  # of a core that each reserves; it waits, nearly always
            )
            made = build_processor(config, asked, read, preprocess_map_kwargs=small, postprocess_map_kwargs=small)
            rows = ray.data.range(job.requests, override_num_blocks=-(-job.requests // way.block))
            made(rows).write_parquet(str(folder / "out"), ray_remote_args=small)

        ended = _ended(work, job.starts)
    return ended | _rows(folder / "out", "id")


def _ended(work: Callable[[], None], starts: int) -> dict[str, Any]:
    """How a job ended, begun again as often as it may if it fails."""
    began, number, said = time.perf_counter(), 0, ["not begun"]
    while said[-1] and number < starts:
        number += 1
        try:
            work()
            said.append("")
        except Exception as error:  # whatever a job ends with is what is measured
            said.append(_cause(error))
    return {"job_s": round(time.perf_counter() - began, 1), "starts": number, "raised": said[1:]}


def _rows(folder: Path, key: str) -> dict[str, Any]:
    """What it left."""
    from pyarrow import parquet

    rows = [row for path in folder.rglob("*.parquet") for row in parquet.read_table(path).to_pylist()]
    errors = [row["error"] for row in rows if row["error"] is not None]
    texts = {row[key] for row in rows if row["error"] is None}
    return {"texts": len(texts), "rows_with_error": len(errors), "such_as": errors[:1]}


def _cause(error: BaseException) -> str:
    """What went wrong in a worker, of the traceback that Ray hands on as text."""
    said = re.findall(r"^(?!ray\.)[\w.]*(?:Error|Exception): .*", str(error), re.MULTILINE)
    return " ".join((said[-1] if said else f"{type(error).__name__}: {error}").split())[:100]


# -- measuring --------------------------------------------------------------------------------------------------------


def writers_of(job: psutil.Process) -> list[psutil.Process]:
    """Ray's workers that make requests, of this job's Ray."""
    found = []
    for process in job.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            if line and line[0].startswith("ray::MapWorker") and "Checkpoint" not in line[0]:
                found.append(process)
    return found


def disturb(job: subprocess.Popen[bytes], url: str, count: int) -> list[dict[str, int]]:
    """SIGKILL to all writers at each moment; what was answered then, and how many they were."""
    done: list[dict[str, int]] = []
    until = time.monotonic() + MOST_S
    for share in MOMENTS:
        while (answered := stats_of(url)["answered"]) < share * count:
            if job.poll() is not None or time.monotonic() > until:
                return done
            time.sleep(0.02)
        workers = writers_of(psutil.Process(job.pid))
        for worker in workers:
            worker.kill()
        urllib.request.urlopen(f"{url}/killed", data=b"", timeout=30).close()
        done.append({"answered": answered, "killed": len(workers)})
    return done


def measure(part: str, job: Job, settings: Mapping[str, Any], servers: int = 1) -> dict[str, Any]:
    """One job from start to end; whatever it leaves running is ended."""
    with contextlib.ExitStack() as stack:
        urls = tuple(stack.enter_context(served(dict(settings))) for _ in range(servers))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        job = replace(job, urls=urls, folder=folder)
        environment = {**os.environ, **ENVIRONMENT, BATCHES: str(job.way.batches)}
        log, result = stack.enter_context((Path(folder) / "log").open("w+")), Path(folder) / RESULT
        command = [sys.executable, __file__, "--job", json.dumps(asdict(job))]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        stack.callback(_end, process)
        killed = disturb(process, urls[0], job.requests) if part == "kills" else []
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(MOST_S)
        log.seek(0)
        told = json.loads(result.read_text()) if result.exists() else {"raised": [f"no end: {log.read()[-500:]}"]}
        seen = [stats_of(url) for url in urls]
    row = {"part": part, "way": job.way.name, "fault": settings.get("fault", 0), "keep_going": job.keep_going}
    row |= {"requests": job.requests, **told, "kills": killed, **seen[0], "calls": [one["calls"] for one in seen]}
    row["requests_a_second"] = round(seen[0]["answered"] / max(seen[0]["writing_s"], 0.01), 1)
    print(json.dumps(row), flush=True)
    return row


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        for one in [*psutil.Process(process.pid).children(recursive=True), process]:
            with contextlib.suppress(psutil.Error):
                one.kill()
        process.wait()


SHOWN = {
    "speed": ("requests_a_second", "most_in_flight", "writing_s", "job_s", "texts"),
    "kills": ("again", "paid_twice", "answered_late", "most_in_flight", "starts", "texts", "raised", "job_s"),
    "faults": ("fault", "keep_going", "texts", "rows_with_error", "starts", "raised", "fault_asked_at_s"),
    "addresses": ("calls", "texts", "raised"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(SHOWN), default=list(SHOWN))
    parser.add_argument("--requests", type=int, default=2048)
    parser.add_argument("--latency", type=float, default=0.5, help="seconds")
    parser.add_argument("--room", type=int, default=64, help="calls that the server works on at once")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        given = json.loads(args.job)
        job = Job(**given | {"way": Way(**given["way"])})
        told = processor(job) if job.way.engine == "processor" else ours(job)
        (Path(job.folder) / RESULT).write_text(json.dumps(told))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    settings = {"latency": args.latency, "room": args.room}
    done: dict[str, list[dict[str, Any]]] = {part: [] for part in args.parts}
    if "speed" in done:
        for way in (LARGE, MIDDLE, SINGLE, WIDE, TUNED, SMALL, OURS, LOCAL):
            done["speed"].append(measure("speed", Job(way, args.requests), settings))
    if "kills" in done:
        for way in (LARGE, TUNED, SMALL, OURS):
            done["kills"].append(measure("kills", Job(way, args.requests, starts=5), settings))
    if "faults" in done:
        for fault in (400, 503, 429):
            faulty = settings | {"fault": fault, "at": FEW // 2 - 28}
            for job in (Job(SMALL, FEW, starts=2), Job(SMALL, FEW, keep_going=True), Job(OURS, FEW, starts=2)):
                done["faults"].append(measure("faults", job, faulty))
    if "addresses" in done:
        for way in (SMALL, OURS):
            done["addresses"].append(measure("addresses", Job(way, FEW), settings, servers=2))
    for part, rows in done.items():
        print(f"\n{part} | " + " | ".join(SHOWN[part]))
        for row in rows:
            print(f"{row['way']} | " + " | ".join(str(row.get(name, "")) for name in SHOWN[part]))


if __name__ == "__main__":
    main()
