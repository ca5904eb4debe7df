"""Any OpenAI-compatible server: vLLM, SGLang, llama.cpp's server, Ollama, hosted ones.

Many calls in flight over one pool of connections, as many as the server bears (``flow.Flow``). aiohttp, which comes
with the datasets library, makes them: of the clients for Python it costs the least time a call (docs/servers.md).
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.request import getproxies

import aiohttp

from gendistill.errors import ConfigError, GenerationError
from gendistill.generators.base import Reply, Request
from gendistill.generators.exchange import Exchange, apart, in_thread
from gendistill.generators.flow import Flow, backoff, retry_after
from gendistill.generators.meter import Usage
from gendistill.generators.urls import base_url, has_credentials, joined, shown
from gendistill.generators.wire import (
    CHAT,
    OPTIONAL,
    BadAnswer,
    Options,
    body_of,
    grouped,
    out_of_quota,
    path_of,
    refused_parameter,
    replies_in,
    told,
)

CONNECT_S = 15.0
PROBES = 4  # whether a server can chat is asked so often, at most
SECRET_CHARS = 4  # a key that is shorter ("x", for servers that want one) is no secret
FINISH_S = 30.0  # what is in flight may take this long to end when nothing new is begun any more
LOOK_S = 1.0  # between two looks at whether servers have been down for too long
STOP = {401, 402, 403, 404}
TRANSIENT = {408, 409, 425, 500, 502, 503, 504, 520, 522, 524, 529}
OVERLOADED = {429, 503, 529}
HEADERS = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "gendistill"}


@dataclass(eq=False)
class _Endpoint:
    url: str
    flow: Flow


@dataclass(eq=False)
class _Job:
    """A call to be made, for requests that differ in their seeds alone."""

    requests: list[Request]
    tries: int = 0  # that failed and count


class ServerGenerator:
    """:param base_urls: one or several that share the load, such as ``http://127.0.0.1:8000/v1``.
    :param key: sent as a bearer token; None: no key.
    :param key_name: the environment variable that it came from, for messages.
    :param mode: "chat", "base", or "auto": a chat if the server can chat with this model, which one call finds out.
    :param most_choices: answers asked for in one call, for requests that share their prompt.
    :param concurrency: calls at once and server, at most.
    :param timeout_s: of a call.
    :param tries: of a request that gets no answer, before it counts as failed.
    :param give_up_s: without an answer from any server, before it stops, all the rest unasked.
    """

    remote = True  # the work is done elsewhere: this process has its cores for itself meanwhile

    def __init__(
        self,
        model: str,
        base_urls: Sequence[str],
        *,
        key: str | None = None,
        key_name: str = "OPENAI_API_KEY",
        mode: str = "auto",
        most_choices: int = 8,
        concurrency: int = 256,
        timeout_s: float = 600.0,
        tries: int = 6,
        backoff_s: float = 0.5,
        give_up_s: float = 300.0,
        structured: bool = False,
    ) -> None:
        self.name = self.model = model
        self.urls = [base_url(url) for url in base_urls]
        self.key_name, self.mode = key_name, mode
        self.most_choices, self.concurrency, self.timeout_s = most_choices, concurrency, timeout_s
        self.tries, self.backoff_s, self.give_up_s = tries, backoff_s, give_up_s
        self.options = Options(structured=structured)
        self.usage = Usage()
        self.notices: list[str] = []  # what the user should know, until somebody shows it
        self._key = _checked_key(key, key_name)
        self._taken: set[str] = set()  # parameters that came with an answer
        self._one_by_one = False  # the server gives one answer however many are asked for
        self._chat: bool | None = None

    @property
    def chat(self) -> bool:
        """:raises GenerationError: mode is "auto" and the server does not say."""
        if self._chat is None:
            self._chat = self.mode == "chat" if self.mode != "auto" else apart(self._can_chat())
        return self._chat

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Replies as they come, one for each request; the requests are drawn on from another thread.

        :raises GenerationError: a key that is refused, a model that is not there, or no answer for ``give_up_s``; the
            requests without a reply were not answered, and may be asked again.
        """
        for replies in self.arrivals(requests):
            yield from replies

    def arrivals(self, requests: Iterable[Request]) -> Iterator[list[Reply]]:
        """The same, those that are at hand together."""

        def work(exchange: Exchange, wake: asyncio.Event) -> Coroutine[Any, Any, None]:
            return _Drive(self, requests, exchange, wake).go()

        return in_thread(work)

    async def _can_chat(self) -> bool:
        """Ask for one token of an answer; of servers that are busy or away, a few times."""
        body = body_of(Request("probe", None, (("user", "Hi"),), 0, 1, 1.0, 0, 1.0), self.model, self.options)
        rng, reason = random.Random(), ""
        async with self.session() as session:
            for attempt in range(1, PROBES + 1):
                for url in self.urls:
                    try:
                        status, answer, _ = await self.post(session, url, CHAT, body)
                    except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
                        reason = f"{shown(url)}: no answer ({self.clean(reason_of(error))})"
                        continue
                    if status in (401, 402, 403) or (
                        status == 404 and self.model not in await self.served(session, url)
                    ):
                        raise GenerationError(self.refusal(status, answer, url))
                    if status < 300 or (400 <= status < 500 and status not in (408, 425, 429)):
                        return status < 300 or refused_parameter(answer, body) is not None
                    reason = f"{shown(url)}: {status} {self.clean(told(answer))}".strip()
                if attempt < PROBES:
                    await asyncio.sleep(backoff(attempt, self.backoff_s, rng))
        raise GenerationError(f"{reason}; is the server up, and --base-url right?")

    @asynccontextmanager
    async def session(self) -> AsyncIterator[aiohttp.ClientSession]:
        timeout = aiohttp.ClientTimeout(total=self.timeout_s, sock_connect=CONNECT_S)
        connector = aiohttp.TCPConnector(limit=0)  # Flow says how many
        proxies = bool(getproxies())  # to look for them at every call costs two thirds of its time
        async with aiohttp.ClientSession(
            headers=HEADERS,
            timeout=timeout,
            connector=connector,
            trust_env=proxies,
            cookie_jar=aiohttp.DummyCookieJar(),
        ) as session:
            yield session

    async def post(
        self, session: aiohttp.ClientSession, url: str, path: str, body: dict[str, Any]
    ) -> tuple[int, Any, Mapping[str, str]]:
        """(status, answer, headers); an answer that is no JSON comes as text."""
        data = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        # Not redirected: a key must not follow to another host
        async with session.post(
            joined(url, path), data=data, headers=self.authorization(url), allow_redirects=False
        ) as response:
            raw = await response.read()
            try:
                return response.status, json.loads(raw), response.headers
            except (ValueError, RecursionError):
                return response.status, raw[:2000].decode("utf-8", "replace"), response.headers

    def authorization(self, url: str) -> dict[str, str]:
        """Of an address that holds a user, that one goes; the key otherwise."""
        return {"Authorization": f"Bearer {self._key}"} if self._key and not has_credentials(url) else {}

    async def served(self, session: aiohttp.ClientSession, url: str) -> list[str]:
        """Names of the models that a server lists; empty if it does not say."""
        try:
            return _listed(*await self._models(session, url))
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError):
            return []

    async def _models(self, session: aiohttp.ClientSession, url: str) -> tuple[int, Any]:
        async with session.get(
            joined(url, "/models"), headers=self.authorization(url), allow_redirects=False
        ) as response:
            return response.status, json.loads(await response.read())

    def look(self) -> list[tuple[str, bool, str]]:
        """(address, whether it answers, what it serves or what is wrong) of each server."""

        async def all_of_them() -> list[tuple[str, bool, str]]:
            async with self.session() as session:
                return [await self._look(session, url) for url in self.urls]

        return apart(all_of_them())

    async def _look(self, session: aiohttp.ClientSession, url: str) -> tuple[str, bool, str]:
        try:
            status, answer = await self._models(session, url)
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            return shown(url), False, self.clean(reason_of(error))
        except ValueError:
            return shown(url), False, "answers, but not as an OpenAI-compatible server does"
        if status in (401, 403):
            return shown(url), False, self.refusal(status, answer, url).partition(": ")[2]
        names = _listed(status, answer)
        return (
            shown(url),
            status == 200,
            f"serves {', '.join(names)}" if names else f"{status} {self.clean(told(answer))}",
        )

    def clean(self, text: str) -> str:
        """Without the key, which some servers repeat in what they say about it."""
        return text.replace(self._key, "***") if self._key and len(self._key) >= SECRET_CHARS else text

    def refusal(self, status: int, answer: Any, url: str) -> str:
        """One line about an answer after which nothing more is asked."""
        said = self.clean(told(answer))
        said = f" ({said})" if said else ""
        if status in (401, 403):
            key = f"the key in ${self.key_name}" if self._key else f"without a key; put one into ${self.key_name}"
            return f"{shown(url)}: the server answers {status} to {key}{said}"
        if status == 404:
            return f"{shown(url)}: no model {self.model!r} there, or no such path{said}; check --model and --base-url"
        if 300 <= status < 400:
            return f"{shown(url)}: the server redirects to another address; give that one as --base-url"
        return f"{shown(url)}: the account cannot pay for more ({status}){said}; the same command goes on from here"

    def leave_out(self, name: str) -> None:
        self.options = replace(self.options, left_out=self.options.left_out | {name})
        instead = OPTIONAL[name]
        what = f"{instead} is sent instead" if instead else "it is left out"
        self.notices.append(f"the server does not take {name}; {what}")


class _Drive:
    """One call of ``arrivals``, in its event loop."""

    def __init__(
        self, generator: ServerGenerator, requests: Iterable[Request], exchange: Exchange, wake: asyncio.Event
    ) -> None:
        self.generator, self.exchange, self.wake = generator, exchange, wake
        self.usage = generator.usage
        self.groups = grouped(requests, generator.most_choices)
        self.endpoints = [
            _Endpoint(url, Flow(most=generator.concurrency, backoff_s=generator.backoff_s)) for url in generator.urls
        ]
        self.most = generator.concurrency * len(generator.urls)
        self.ready: deque[_Job] = deque()  # to be asked again
        self.waiting = 0  # jobs whose time to be asked again has not come
        self.tasks: set[asyncio.Task[None]] = set()
        self.stopped: GenerationError | None = None
        self.exhausted = False
        self.rng = random.Random()

    async def go(self) -> None:
        started = time.monotonic()
        before = self.usage.seconds
        loop = asyncio.get_running_loop()
        async with self.generator.session() as session:
            try:
                while self.stopped is None:
                    self._start_all(session, loop)
                    if not (self.tasks or self.waiting or self.ready) and self.exhausted:
                        break
                    await self._until_something_happens(loop)
                    self.usage.seconds = before + time.monotonic() - started
                    self._look_for_the_end()
                if self.stopped is not None:
                    # What is on its way is paid for: take it, if it does not last
                    if self.tasks:
                        await asyncio.wait(self.tasks, timeout=min(FINISH_S, self.generator.timeout_s))
                    raise self.stopped
            finally:
                for task in list(self.tasks):
                    task.cancel()
                if self.tasks:
                    await asyncio.gather(*self.tasks, return_exceptions=True)

    def _start_all(self, session: aiohttp.ClientSession, loop: asyncio.AbstractEventLoop) -> None:
        # A reply that is not kept yet is as good as on its way: a kill takes both
        while len(self.tasks) + self.exchange.behind < self.most:
            free = [endpoint for endpoint in self.endpoints if endpoint.flow.room]
            if not free:
                break
            endpoint = min(free, key=lambda one: (one.flow.down, one.flow.in_flight / one.flow.limit))
            job = self._next()
            if job is None:
                break
            epoch = endpoint.flow.sent()
            task = loop.create_task(self._ask(session, endpoint, job, epoch))
            self.tasks.add(task)
            task.add_done_callback(self._ended)

    def _next(self) -> _Job | None:
        if self.ready:
            return self.ready.popleft()
        group = next(self.groups, None)
        if group is None:
            self.exhausted = True
            return None
        if self.generator._one_by_one:
            self._singly(group)
            return self.ready.popleft()
        return _Job(group)

    def _singly(self, requests: Sequence[Request]) -> None:
        """Ask for each of them in a call of its own."""
        self.ready.extend(_Job([request]) for request in requests)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            error = task.exception()
            self._stop(f"{type(error).__name__}: {self.generator.clean(str(error))}")
        self.wake.set()

    async def _until_something_happens(self, loop: asyncio.AbstractEventLoop) -> None:
        waits = [endpoint.flow.wait_s() for endpoint in self.endpoints]
        timer = loop.call_later(min([LOOK_S, *(wait for wait in waits if wait > 0)]) + 0.001, self.wake.set)
        await self.wake.wait()
        timer.cancel()
        self.wake.clear()

    def _look_for_the_end(self) -> None:
        failing = [endpoint.flow.failing_s() for endpoint in self.endpoints]
        if self.stopped is None and min(failing) >= self.generator.give_up_s:
            worst = self.endpoints[failing.index(max(failing))]
            self._stop(
                f"{shown(worst.url)}: no answer for {max(failing):.0f} s ({worst.flow.reason}); what came is kept, and "
                "the same command goes on from here"
            )

    async def _ask(self, session: aiohttp.ClientSession, endpoint: _Endpoint, job: _Job, epoch: int) -> None:
        generator, flow, options = self.generator, endpoint.flow, self.generator.options
        path = path_of(job.requests[0], options)
        body = body_of(job.requests[0], generator.model, options, len(job.requests))
        self.usage.calls += 1
        try:
            status, answer, headers = await generator.post(session, endpoint.url, path, body)
        except aiohttp.ClientConnectorError as error:
            flow.failed(generator.clean(reason_of(error)), unreachable=True)
            return self._again(job)
        except asyncio.TimeoutError as error:
            flow.refused(epoch, None, reason_of(error))  # a server that queues what it has no room for says so by time
            return self._failed(endpoint, job, reason_of(error))
        except (aiohttp.ClientError, OSError) as error:
            return self._failed(endpoint, job, reason_of(error))
        finally:
            flow.returned()
        if status == 200:
            self._answered(endpoint, job, answer, body)
        elif status in STOP or 300 <= status < 400 or (status == 429 and out_of_quota(answer)):
            self._stop(generator.refusal(402 if status == 429 else status, answer, endpoint.url))
        elif status == 429 or (status in OVERLOADED and "Retry-After" in headers):
            wait = retry_after(headers.get("Retry-After"), headers.get("Date"))
            flow.refused(epoch, wait, f"{status} {generator.clean(told(answer))}")
            self.usage.refusals += 1
            self.ready.append(job)
        elif status in TRANSIENT or status >= 500:
            self._failed(endpoint, job, f"{status} {told(answer)}")
        else:
            self._refused(endpoint, job, status, answer, body)

    def _answered(self, endpoint: _Endpoint, job: _Job, answer: Any, body: dict[str, Any]) -> None:
        try:
            replies = replies_in(answer, job.requests)
        except BadAnswer as error:
            return self._failed(endpoint, job, str(error))
        endpoint.flow.succeeded()
        self.generator._taken |= body.keys()
        self._deliver(replies)
        rest = job.requests[len(replies) :]
        if rest:  # it gives one answer, however many are asked for
            self.generator._one_by_one = True
            self._singly(rest)

    def _refused(self, endpoint: _Endpoint, job: _Job, status: int, answer: Any, body: dict[str, Any]) -> None:
        """A 400 and the like: a parameter that this server does not know is left out, anything else is final."""
        generator = self.generator
        name = refused_parameter(answer, body.keys() - generator._taken)
        if name is None:
            endpoint.flow.succeeded()  # the server is well; it is this request that it cannot answer
            return self._give_up(job, f"{status} {generator.clean(told(answer))}".strip())
        if name not in generator.options.left_out:
            generator.leave_out(name)
        if name == "n":
            generator._one_by_one = True
            self.usage.retries += 1
            return self._singly(job.requests)
        self._again(job)

    # -- what becomes of a job ------------------------------------------------------------------------------------

    def _failed(self, endpoint: _Endpoint, job: _Job, reason: str) -> None:
        """An error that may be this request's own: it counts unless the whole server is down."""
        reason = self.generator.clean(reason).strip()
        endpoint.flow.failed(reason)
        if endpoint.flow.down:
            return self._again(job)
        job.tries += 1
        if job.tries >= self.generator.tries:
            return self._give_up(job, f"{reason}, {job.tries} times")
        self.waiting += 1
        self.usage.retries += 1
        wait = backoff(job.tries, self.generator.backoff_s, self.rng)
        asyncio.get_running_loop().call_later(wait, self._due, job)

    def _again(self, job: _Job) -> None:
        """Ask it as soon as the server has room."""
        self.usage.retries += 1
        self.ready.append(job)

    def _due(self, job: _Job) -> None:
        self.waiting -= 1
        self.ready.append(job)
        self.wake.set()

    def _give_up(self, job: _Job, reason: str) -> None:
        self._deliver([Reply(request.id, "", "error", error=reason) for request in job.requests])

    def _deliver(self, replies: list[Reply]) -> None:
        failed = sum(reply.error is not None for reply in replies)
        self.usage.failed += failed
        self.usage.answered += len(replies) - failed
        self.exchange.put(replies)

    def _stop(self, reason: str) -> None:
        self.stopped = self.stopped or GenerationError(reason)


def _listed(status: int, answer: Any) -> list[str]:
    """Names of the models in an answer that lists them; empty if it does not."""
    try:
        return [str(model["id"]) for model in answer["data"]] if status == 200 else []
    except (KeyError, TypeError):
        return []


def reason_of(error: BaseException) -> str:
    """Of a call that got no answer, in a few words."""
    if isinstance(error, asyncio.TimeoutError):
        return "timed out"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect ({error.os_error.strerror or type(error.os_error).__name__})"
    if isinstance(error, (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError, ConnectionError)):
        return "the connection broke off"
    return type(error).__name__


def _checked_key(key: str | None, name: str) -> str | None:
    key = (key or "").strip()
    if any(not " " < character < "\x7f" for character in key):
        raise ConfigError(f"${name}: a key has no blanks, line breaks or letters beyond ASCII; check what it is set to")
    return key or None
