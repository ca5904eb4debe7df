"""The generator at work on a few requests of the first round: how many tokens, how fast; or what is assumed of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gendistill.config import Config, GeneratorConfig
from gendistill.cost.estimate import Estimate
from gendistill.cost.sample import BatchSpeed, CallSpeed, Written, mean_of
from gendistill.cost.watch import Clock, Stopwatch
from gendistill.errors import GenerationError
from gendistill.gathering import JSON_TOKENS
from gendistill.generators import Generator, Reply, Request, arrivals, build_generator
from gendistill.planning import BYTES_PER_TOKEN, Reference, RoundPlan, TokenBudget
from gendistill.store import Planned
from gendistill.tasks import Task

REQUESTS = 48  # that the sample asks for, about: whole prompts
PROMPTS = 200  # that are rendered to know their length, about
GIVE_UP_S = 20.0  # without an answer of a server
FIRST_SHARE = 4  # one call of so many is made first, fewer at once, to see what more at once change
LEAST_CALL_S = 1 / 4700  # of a client's time; docs/servers.md
ASSUMED_SPREAD = 0.3  # relative error of the tokens of a reply that nobody wrote yet


@dataclass(frozen=True)
class Asking:
    """:param planned: requests of the first round, more than were asked.
    :param replies: to some of them; real texts in their place where nothing was measured.
    :param prompt_bytes: of a prompt, on average.
    """

    name: str
    chat: bool
    remote: bool
    planned: list[Planned]
    replies: list[tuple[Planned, Reply]]
    prompt_bytes: float
    written: Written
    measured: bool
    assumed: list[str]


def ask(
    config: Config, task: Task, reference: Reference, budget: TokenBudget, watch: Stopwatch, clock: Clock
) -> Asking:
    """Plan as the first round plans, ask for a little of it, and say what it took."""
    began = clock()
    reason = "its replies come by files" if config.generator.kind == "batch" else ""
    name, chat, remote = (
        config.generator.model,
        config.generator.mode != "base",
        config.generator.kind != "transformers",
    )
    generator: Generator | None = None
    if not reason:
        try:
            generator = build_generator(_impatient(config.generator))
            name, chat, remote = generator.name, generator.chat, bool(getattr(generator, "remote", False))
            if hasattr(generator, "load"):
                generator.load()
        except GenerationError as error:
            generator, reason = None, str(error)
    load_s = clock() - began
    planned = _planned(config, task, reference, budget, chat=chat, name=name)
    prompt_bytes = mean_of([_prompt_bytes(one[0].request) for one in _groups(planned)])
    chosen = _some(_groups(planned), max(1, REQUESTS // config.generator.samples_per_prompt))
    came: list[_Came] = []
    if generator is not None:
        try:
            with watch.track("write", sum(map(len, chosen))) as advance:
                came = list(_ask(generator, config.generator, chosen, remote, clock, advance))
        except GenerationError as error:
            came, reason = [], str(error)
        replies = [reply for one in came for _, reply in one.arrived]
        errors = [reply.error for reply in replies if reply.error is not None]
        if replies and len(errors) == len(replies):
            came, reason = [], f"every request failed: {errors[0]}"
    limit = planned[0].request.max_new_tokens
    known = {p.request.id: p for p in planned}
    if came:
        written, notes = _written(config, came, known, prompt_bytes, limit, load_s, remote)
        pairs = [(known[reply.request_id], reply) for one in came for _, reply in one.arrived]
        return Asking(name, chat, remote, planned, pairs, prompt_bytes.value, written, True, notes)
    return _assumed(config, reference, planned, chosen, prompt_bytes, limit, name, chat, remote, reason)


def _impatient(config: GeneratorConfig) -> GeneratorConfig:
    """The same, but for how long it waits for a server that does not answer."""
    server = config.server
    waits = {"give_up_after": min(server.give_up_after, GIVE_UP_S), "tries": min(server.tries, 2)}
    return config.model_copy(update={"server": server.model_copy(update=waits)})


def _planned(
    config: Config, task: Task, reference: Reference, budget: TokenBudget, *, chat: bool, name: str
) -> list[Planned]:
    classes = len(task.label_names)
    each = config.generator.samples_per_prompt * max(1, PROMPTS // classes)
    return RoundPlan(
        config,
        task,
        reference,
        None,
        [each] * classes,
        round=1,
        chat=chat,
        generator_name=name,
        budget=budget,
        extra_tokens=JSON_TOKENS if config.generator.structured else 0,
    ).requests()


def _groups(planned: Sequence[Planned]) -> list[list[Planned]]:
    """Requests that share a prompt."""
    groups: list[list[Planned]] = []
    for p in planned:
        if groups and (groups[-1][0].label, groups[-1][0].parents) == (p.label, p.parents):
            groups[-1].append(p)
        else:
            groups.append([p])
    return groups


def _some(groups: Sequence[list[Planned]], count: int) -> list[list[Planned]]:
    """Spread evenly over all, and so over the classes; no more than ``REQUESTS`` of one prompt."""
    count = min(count, len(groups))
    return [groups[(2 * number + 1) * len(groups) // (2 * count)][:REQUESTS] for number in range(count)]


def _prompt_bytes(request: Request) -> float:
    texts = [request.prompt or "", *(content for _, content in request.messages or ())]
    return float(sum(len(text.encode("utf-8", "replace")) for text in texts))


@dataclass(frozen=True)
class _Came:
    """Replies to what was asked for at once.

    :param calls: in which it was asked.
    :param arrived: (seconds since it was asked, reply), as they came.
    """

    calls: int
    arrived: list[tuple[float, Reply]]


def _ask(
    generator: Generator,
    config: GeneratorConfig,
    groups: Sequence[list[Planned]],
    remote: bool,
    clock: Clock,
    advance: Any,
) -> Iterator[_Came]:
    """Batches of a generator in this process; of one elsewhere a few calls at once, then all the others."""
    if remote:
        first = max(1, len(groups) // FIRST_SHARE)
        parts = [[p for group in part for p in group] for part in (groups[:first], groups[first:]) if part]
    else:
        every = [p for group in groups for p in group]
        parts = [every[start : start + config.batch_size] for start in range(0, len(every), config.batch_size)]
    each = requests_a_call(config)
    done = 0
    for part in parts:
        began, arrived = clock(), []
        for replies in arrivals(generator, [p.request for p in part]):
            arrived += [(clock() - began, reply) for reply in replies]
            advance(done + len(arrived))
        done += len(part)
        yield _Came(-(-len(part) // each), arrived)


def requests_a_call(config: GeneratorConfig) -> int:
    """That one call of the kind of generator asks for."""
    return min(config.samples_per_prompt, config.server.choices_per_call) if config.kind == "server" else 1


def calls_at_once(config: GeneratorConfig) -> int:
    """That a run makes, at most."""
    if config.kind == "server":
        urls = config.server.base_urls or [os.environ.get("OPENAI_BASE_URL", "")]
        return config.server.concurrency * len(urls)
    return 256  # sequences that vLLM runs together by default


def _written(
    config: Config,
    came: Sequence[_Came],
    known: dict[str, Planned],
    prompt_bytes: Estimate,
    limit: int,
    load_s: float,
    remote: bool,
) -> tuple[Written, list[str]]:
    replies = [reply for one in came for _, reply in one.arrived if reply.error is None]
    requests = [known[reply.request_id] for reply in replies]
    counted = [(reply.prompt_tokens, p) for reply, p in zip(replies, requests, strict=True) if reply.prompt_tokens]
    notes = []
    if counted:
        ratio = sum(tokens for tokens, _ in counted) / sum(_prompt_bytes(p.request) for _, p in counted)
        shared = 1.0 if len(counted) == len(replies) else float(requests_a_call(config.generator))
    else:
        ratio, shared = 1 / BYTES_PER_TOKEN, float(requests_a_call(config.generator))
        notes.append(f"the generator does not tell tokens: a token for every {BYTES_PER_TOKEN:g} bytes")
    sizes = [len(reply.text.encode("utf-8", "replace")) for reply in replies]
    lengths = [reply.completion_tokens for reply in replies]
    if not any(lengths):
        lengths = [round(size / BYTES_PER_TOKEN) for size in sizes]
    tokens = prompt_bytes * Estimate(ratio, 0.02 * ratio)
    speed = call_speed(came, requests_a_call(config.generator)) if remote else batch_speed(came, config)
    return (
        Written(
            requests=len(replies),
            prompt_tokens=tokens,
            shared=shared,
            completion_tokens=mean_of(lengths, [p.parents for p in requests]),
            lengths=tuple(sorted(lengths)),
            limit=limit,
            reply_bytes=sum(sizes) / len(sizes),
            load_s=load_s,
            speed=speed,
        ),
        notes,
    )


def batch_speed(came: Sequence[_Came], config: Config) -> BatchSpeed:
    """By least squares: the time between two replies is that of the steps between their ends, at so many rows."""
    from scipy.optimize import nnls

    rows, seconds = [], []
    for one in came:
        live, at, step = len(one.arrived), 0.0, 0
        prompts = -(-live // config.generator.samples_per_prompt)
        prefill = prompts * sum(reply.prompt_tokens for _, reply in one.arrived) / max(live, 1)
        for end in sorted({reply.completion_tokens for _, reply in one.arrived}):
            last = max(when for when, reply in one.arrived if reply.completion_tokens <= end)
            rows.append([end - step, (end - step) * live, prefill])
            seconds.append(last - at)
            live -= sum(reply.completion_tokens == end for _, reply in one.arrived)
            at, step, prefill = last, end, 0.0
    solution, _ = nnls(np.array(rows, dtype=np.float64), np.array(seconds, dtype=np.float64))
    return BatchSpeed(*map(float, solution))


def call_speed(came: Sequence[_Came], requests_each: int) -> CallSpeed:
    """By how much longer calls took when more were under way."""
    took = [max(when for when, _ in one.arrived) for one in came]
    last = came[-1].calls
    queued = LEAST_CALL_S
    if len(came) > 1 and last > came[0].calls:
        queued = max(queued, (took[-1] - took[0]) / (last - came[0].calls))
    return CallSpeed(max(took[-1] - queued * last, 0.05 * took[-1]), queued, last, requests_each)


def _assumed(
    config: Config,
    reference: Reference,
    planned: list[Planned],
    chosen: Sequence[list[Planned]],
    prompt_bytes: Estimate,
    limit: int,
    name: str,
    chat: bool,
    remote: bool,
    reason: str,
) -> Asking:
    """Replies as long as real rows, and no speed."""
    requests = [p for group in chosen for p in group]
    rows = [next((row for row in reference.examples if row.label == p.label), reference.examples[0]) for p in requests]
    size = mean_of([float(len(row.text.encode("utf-8", "replace"))) for row in reference.examples]).value
    tokens = min(size / BYTES_PER_TOKEN, float(limit))
    written = Written(
        requests=0,
        prompt_tokens=prompt_bytes * Estimate(1 / BYTES_PER_TOKEN, 0.1 / BYTES_PER_TOKEN),
        shared=float(requests_a_call(config.generator)),
        completion_tokens=Estimate(tokens, ASSUMED_SPREAD * tokens),
        lengths=(),
        limit=limit,
        reply_bytes=size,
        load_s=0.0,
        speed=None,
    )
    replies = [(p, Reply(p.request.id, row.text, "stop")) for p, row in zip(requests, rows, strict=True)]
    notes = [
        f"the generator was not asked ({reason}): a token for every {BYTES_PER_TOKEN:g} bytes, replies as long as real "
        "rows, the shares that the filters keep assumed too, and the time of writing is not counted"
    ]
    return Asking(name, chat, remote, planned, replies, prompt_bytes.value, written, False, notes)
