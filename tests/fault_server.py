"""A small server that speaks the OpenAI dialect and does whatever servers do: the tests' own, run as a process.

``python fault_server.py PLAN.json PORT`` serves until it is ended. What a text is depends on the prompt, the seed and
the choice alone, so runs with and without faults can be compared; which call meets which fault depends on the body and
on how often it came.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tiny import CLASS_NAMES, KEYWORDS, _sentence


class Server:
    """``plan`` may have:

    ``delay`` (seconds), ``faults`` (name -> share of the calls), ``capacity`` (calls at once, 429 above it),
    ``retry_after`` (its header), ``key`` (that must be sent), ``refuses`` (parameters answered with 400), ``single``
    (one choice however many are asked for), ``no_chat``, ``always`` (a status, and ``message``), ``cut`` (share of
    texts cut or withheld), ``log`` (a file that gets a line for each call answered), ``shuffle`` (choices in any order,
    one twice), ``fast`` (one fixed text, nothing counted).
    """

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        self.busy = self.calls = self.most = 0
        self.came: Counter[str] = Counter()
        self.log = open(plan["log"], "a", buffering=1) if plan.get("log") else None  # noqa: SIM115, PTH123
        self.fixed = _body([("A short text about the market.", "stop")], 100, 20)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        data = b""
        while True:
            message = await receive()
            data += message.get("body", b"")
            if not message.get("more_body"):
                break
        if self.plan.get("fast"):
            return await _answer(send, 200, self.fixed)
        if scope["path"].endswith("/stats"):
            return await _answer(send, 200, json.dumps({"calls": self.calls, "most": self.most}).encode())
        if scope["path"].endswith("/models"):
            return await _answer(send, 200, b'{"data": [{"id": "m"}]}')
        self.calls += 1
        self.busy += 1
        self.most = max(self.most, self.busy)
        try:
            await self._serve(scope, json.loads(data), data, send)
        finally:
            self.busy -= 1

    async def _serve(self, scope: dict[str, Any], body: dict[str, Any], data: bytes, send: Any) -> None:
        plan = self.plan
        headers = {name: value.decode() for name, value in scope["headers"]}
        if plan.get("key") and headers.get(b"authorization") != f"Bearer {plan['key']}":
            said = headers.get(b"authorization", "")
            return await _answer(send, 401, _error(f"Incorrect API key provided: {said}", "invalid_api_key"))
        if plan.get("always"):
            return await _answer(send, plan["always"], _error(plan.get("message", "no"), plan.get("code", "")))
        for name in plan.get("refuses", ()):
            if name in body:
                return await _answer(send, 400, _error(f"Unrecognized request argument supplied: {name}", "", name))
        if plan.get("no_chat") and "messages" in body:
            return await _answer(send, 400, _error("the tokenizer does not define a chat template", ""))
        if plan.get("capacity") and self.busy > plan["capacity"]:
            extra = [(b"retry-after", str(plan["retry_after"]).encode())] if "retry_after" in plan else []
            return await _answer(send, 429, _error("too many requests", "rate_limit"), extra)
        key = hashlib.sha256(data).hexdigest()
        self.came[key] += 1
        fault = self._fault(key)
        if fault == "slow":
            await asyncio.sleep(60)
        if fault in ("500", "503", "429", "400"):
            return await _answer(send, int(fault), _error(f"fault {fault}", ""))
        await asyncio.sleep(plan.get("delay", 0) * (0.5 + int(key[:4], 16) / 65536))
        answer = self._text(body)
        if fault == "drop":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100000")]})
            await send({"type": "http.response.body", "body": answer[:20], "more_body": True})
            raise ConnectionAbortedError
        if fault == "garbage":
            return await _answer(send, 200, b"<html>Bad gateway</html>")
        if fault == "empty":
            return await _answer(send, 200, b'{"choices": []}')
        await _answer(send, 200, answer)
        if self.log:
            self.log.write(json.dumps({"prompt": _prompt(body), "seed": body.get("seed")}) + "\n")

    def _fault(self, key: str) -> str | None:
        draw = random.Random(f"{key} {self.came[key]}").random()
        for name, share in self.plan.get("faults", {}).items():
            draw -= share
            if draw < 0:
                return name
        return None

    def _text(self, body: dict[str, Any]) -> bytes:
        prompt = _prompt(body)
        found = re.findall(rf"(?:Category|to write for): ({'|'.join(CLASS_NAMES)})", prompt)
        label = found[-1] if found else CLASS_NAMES[0]
        choices = []
        for index in range(1 if self.plan.get("single") else body.get("n", 1)):
            rng = random.Random(f"{prompt} {body.get('seed')} {index}")
            text = _sentence(rng, KEYWORDS[label])
            finish = "stop"
            if rng.random() < self.plan.get("cut", 0):
                text, finish = text[: len(text) // 2], rng.choice(["length", "content_filter"])
            choices.append((text, finish))
        return _body(choices, len(prompt) // 4, 20 * len(choices), "messages" in body, self.plan.get("shuffle", False))


def _prompt(body: dict[str, Any]) -> str:
    return body["prompt"] if "prompt" in body else "\n".join(message["content"] for message in body["messages"])


def _body(
    choices: list[tuple[str, str]], prompt_tokens: int, tokens: int, chat: bool = True, shuffle: bool = False
) -> bytes:
    rows: list[dict[str, Any]] = []
    for index, (text, finish) in enumerate(choices):
        written = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        rows.append({"index": index, "finish_reason": finish, **written})
    if shuffle:
        rows = [*rows[::-1], rows[0]]
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": tokens}
    return json.dumps({"object": "x", "choices": rows, "usage": usage}).encode()


def _error(message: str, code: str, param: str | None = None) -> bytes:
    return json.dumps({"error": {"message": message, "code": code, "param": param}}).encode()


async def _answer(send: Any, status: int, body: bytes, extra: Any = ()) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *extra]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@contextlib.contextmanager
def serving(folder: Path, port: int = 0, **plan: Any) -> Iterator[Running]:
    """A server process, ended with the block."""
    running = Running(folder, port, plan)
    try:
        yield running
    finally:
        running.end()


class Running:
    def __init__(self, folder: Path, port: int, plan: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = port or _free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"
        file = folder / f"plan-{self.port}-{time.monotonic_ns()}.json"
        file.write_text(json.dumps(plan))
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(file), str(self.port)], stderr=subprocess.DEVNULL
        )
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            if self.process.poll() is not None:
                raise RuntimeError("the fault server did not start")
            time.sleep(0.05)
        self.end()
        raise RuntimeError("the fault server does not answer")

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main() -> None:
    import uvicorn

    plan = json.loads(Path(sys.argv[1]).read_text())
    uvicorn.run(
        Server(plan), host="127.0.0.1", port=int(sys.argv[2]), log_level="critical", access_log=False, lifespan="off"
    )


if __name__ == "__main__":
    main()
