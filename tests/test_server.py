"""The server generator over real HTTP, against a server that has every fault servers have."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from fault_server import Running, serving

from gendistill.errors import ConfigError, GenerationError
from gendistill.generators.base import Reply, Request
from gendistill.generators.server import ServerGenerator

PROMPT = "Category: food\n\n- The bread and the soup were good.\n-"


def requests(count: int, prompt: str = PROMPT, chat: bool = False) -> list[Request]:
    """In groups of four that share a prompt."""
    rows = []
    for i in range(count):
        text = f"{i // 4} {prompt}"
        given: dict[str, Any] = (
            {"prompt": None, "messages": (("user", text),)} if chat else {"prompt": text, "messages": None}
        )
        rows.append(Request(f"r{i}", seed=1000 + i, max_new_tokens=40, temperature=0.9, top_k=50, top_p=0.95, **given))
    return rows


def generator(*urls: str, **values: Any) -> ServerGenerator:
    return ServerGenerator(
        "m",
        urls,
        **{"mode": "base", "backoff_s": 0.01, "give_up_s": 20.0, "most_choices": 1, "timeout_s": 5.0, **values},
    )


def asked(one: ServerGenerator, rows: list[Request]) -> dict[str, Reply]:
    """Replies by id; each request has exactly one."""
    replies = list(one.generate(rows))
    found = {reply.request_id: reply for reply in replies}
    assert len(found) == len(replies) and found.keys() == {row.id for row in rows}
    return found


def stats(server: Running) -> dict[str, int]:
    with urllib.request.urlopen(f"{server.url}/stats", data=b"{}", timeout=5) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What the server writes without any fault."""
    with serving(tmp_path_factory.mktemp("plain")) as server:
        yield {id: reply.text for id, reply in asked(generator(server.url), requests(300)).items()}


def test_prompts_and_chats_are_answered_each_request_once(tmp_path: Path, plain: dict[str, str]) -> None:
    with serving(tmp_path) as server:
        one = generator(server.url, mode="auto")
        assert one.chat
        replies = asked(one, requests(40, chat=True))
        assert all(reply.error is None and reply.finish_reason == "stop" for reply in replies.values())
        assert one.usage.calls == one.usage.answered == 40 and one.usage.retries == one.usage.failed == 0
        assert sum(reply.completion_tokens for reply in replies.values()) == 40 * 20
        assert len(set(plain.values())) > 290


def test_a_server_that_cannot_chat_gets_prompts(tmp_path: Path) -> None:
    with serving(tmp_path, no_chat=True) as server:
        assert not generator(server.url, mode="auto").chat


def test_it_works_where_an_event_loop_runs_already(tmp_path: Path) -> None:
    async def notebook(url: str) -> tuple[bool, int]:
        one = generator(url, mode="auto")
        return one.chat, len(asked(one, requests(8)))

    with serving(tmp_path) as server:
        assert asyncio.run(notebook(server.url)) == (True, 8)


def test_choices_share_a_call_where_a_prompt_is_shared(tmp_path: Path) -> None:
    with serving(tmp_path, shuffle=True) as server:
        one = generator(server.url, most_choices=8)
        replies = asked(one, requests(42))
        assert one.usage.calls == 11  # groups of four, the last of two
        assert len({reply.text for reply in replies.values()}) > 38
        assert sum(reply.completion_tokens for reply in replies.values()) == 42 * 20


def test_a_server_that_gives_one_choice_is_asked_one_by_one(tmp_path: Path) -> None:
    with serving(tmp_path, single=True) as server:
        one = generator(server.url, most_choices=4)
        replies = asked(one, requests(40))
        assert all(reply.error is None for reply in replies.values())
        assert one.usage.calls == 40  # nothing is paid for twice


def test_parameters_that_a_server_does_not_take_are_left_out_and_said(tmp_path: Path) -> None:
    with serving(tmp_path, refuses=["top_k", "n", "max_tokens", "response_format"]) as server:
        one = generator(server.url, most_choices=4, structured=True)
        replies = asked(one, requests(24))
        assert all(reply.error is None for reply in replies.values())
        assert one.options.left_out == {"top_k", "n", "max_tokens", "response_format"}
        assert len(one.notices) == 4 and any("max_completion_tokens is sent" in line for line in one.notices)


FAULTS = {
    "errors of the server": {"500": 0.2, "503": 0.1},
    "lost connections": {"drop": 0.3},
    "no answers": {"garbage": 0.15, "empty": 0.15},
    "refusals": {"429": 0.3},
    "thirty in a hundred of everything": {
        "500": 0.06,
        "503": 0.04,
        "drop": 0.06,
        "garbage": 0.05,
        "empty": 0.04,
        "429": 0.05,
    },
}


@pytest.mark.parametrize("name", FAULTS)
def test_with_faults_every_request_ends_with_the_text_that_it_has_without(
    name: str, tmp_path: Path, plain: dict[str, str]
) -> None:
    with serving(tmp_path, faults=FAULTS[name]) as server:
        one = generator(server.url, tries=12)
        replies = asked(one, requests(300))
        assert {id: reply.text for id, reply in replies.items()} == plain
        assert one.usage.retries + one.usage.refusals > 30 and one.usage.answered == 300


def test_a_request_that_only_fails_is_a_counted_failure_with_its_reason(tmp_path: Path) -> None:
    with serving(tmp_path, faults={"500": 0.6}) as server:
        one = generator(server.url, tries=2)
        replies = asked(one, requests(200))
        failed = [reply for reply in replies.values() if reply.error]
        assert 20 < len(failed) < 120 and one.usage.failed == len(failed)
        assert {reply.error for reply in failed} == {"500 fault 500, 2 times"}
        assert all(reply.finish_reason == "error" and not reply.text for reply in failed)


def test_a_400_is_recorded_and_not_asked_again(tmp_path: Path) -> None:
    with serving(tmp_path, always=400, message="the prompt is too long") as server:
        one = generator(server.url)
        replies = asked(one, requests(30))
        assert {reply.error for reply in replies.values()} == {"400 the prompt is too long"}
        assert one.usage.calls == 30 and stats(server)["calls"] == 30


def test_slow_calls_time_out_and_are_asked_again(tmp_path: Path, plain: dict[str, str]) -> None:
    with serving(tmp_path, faults={"slow": 0.1}) as server:
        replies = asked(generator(server.url, timeout_s=1.0), requests(60))
        assert {id: reply.text for id, reply in replies.items()} == {f"r{i}": plain[f"r{i}"] for i in range(60)}


def test_cut_and_withheld_texts_say_so(tmp_path: Path) -> None:
    with serving(tmp_path, cut=0.5) as server:
        reasons = {reply.finish_reason for reply in asked(generator(server.url), requests(60)).values()}
        assert reasons == {"stop", "length", "content_filter"}


def test_concurrency_finds_what_a_server_bears(tmp_path: Path) -> None:
    with serving(tmp_path, capacity=24, delay=0.05) as server:
        one = generator(server.url, concurrency=128)
        replies = asked(one, requests(1200))
        assert all(reply.error is None for reply in replies.values())
        assert one.usage.refusals < 0.1 * 1200  # it keeps near what there is room for
        assert stats(server)["most"] < 64


def test_without_a_limit_of_the_server_the_limit_given_holds(tmp_path: Path) -> None:
    with serving(tmp_path, delay=0.02) as server:
        asked(generator(server.url, concurrency=20), requests(400))
        assert 15 <= stats(server)["most"] <= 20


def test_retry_after_is_waited_for(tmp_path: Path) -> None:
    with serving(tmp_path, capacity=4, retry_after=1, delay=0.05) as server:
        started = time.monotonic()
        replies = asked(generator(server.url), requests(40))
        assert all(reply.error is None for reply in replies.values())
        assert time.monotonic() - started > 1.0


def test_servers_share_the_load_and_one_that_dies_leaves_it_to_the_other(tmp_path: Path, plain: dict[str, str]) -> None:
    with serving(tmp_path / "a", delay=0.03) as first, serving(tmp_path / "b", delay=0.03) as second:
        one = generator(first.url, second.url, concurrency=8)
        found = {}
        for number, reply in enumerate(one.generate(requests(300))):
            found[reply.request_id] = reply
            if number == 100:
                shares = stats(first)["calls"], stats(second)["calls"]
                second.end()
        assert {id: reply.text for id, reply in found.items()} == plain
        assert min(shares) > 30


def test_a_server_that_comes_back_is_found_again(tmp_path: Path, plain: dict[str, str]) -> None:
    with serving(tmp_path, delay=0.02) as server:
        one = generator(server.url, give_up_s=60.0)
        back: list[Running] = []

        def away_for_a_while() -> None:
            time.sleep(3)
            back.append(Running(tmp_path, server.port, {}))

        found = {}
        for number, reply in enumerate(one.generate(requests(300))):
            found[reply.request_id] = reply
            if number == 60:
                server.end()
                thread = threading.Thread(target=away_for_a_while)
                thread.start()
        thread.join()
        back[0].end()
        assert {id: reply.text for id, reply in found.items()} == plain


def test_a_server_that_stays_down_ends_it_with_what_came_given_out(tmp_path: Path) -> None:
    with serving(tmp_path, delay=0.02) as server:
        one = generator(server.url, give_up_s=2.0)
        found = []
        with pytest.raises(GenerationError, match=r"127\.0\.0\.1.* no answer for .*cannot connect.*goes on from here"):
            for reply in one.generate(requests(300)):
                found.append(reply)
                if len(found) == 50:
                    server.end()
        assert len(found) >= 50 and all(reply.error is None for reply in found)


def test_a_server_that_only_refuses_ends_it_too(tmp_path: Path) -> None:
    with serving(tmp_path, always=429, message="slow down") as server:
        with pytest.raises(GenerationError, match=r"no answer for .*429 slow down"):
            list(generator(server.url, give_up_s=1.5).generate(requests(10)))
        assert stats(server)["calls"] < 60


def test_a_wait_that_is_too_long_is_not_waited_for(tmp_path: Path) -> None:
    with serving(tmp_path, capacity=0.5, retry_after=3600) as server:
        started = time.monotonic()
        with pytest.raises(GenerationError, match="asks to wait 3600 s"):
            list(generator(server.url).generate(requests(10)))
        assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ({"key": "another"}, r"401 to the key in \$OPENAI_API_KEY"),
        ({"always": 403, "message": "not for you"}, r"403 .*not for you"),
        ({"always": 404, "message": "model not found"}, "no model 'm' there"),
        ({"always": 402, "message": "top up"}, "cannot pay for more"),
        (
            {"always": 429, "message": "You exceeded your current quota", "code": "insufficient_quota"},
            "cannot pay for more",
        ),
        ({"always": 307, "message": ""}, "redirects"),
    ],
)
def test_what_waiting_does_not_mend_ends_it_at_once_in_one_line(
    plan: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with serving(tmp_path, **plan) as server:
        one = generator(server.url, key="canary-1234567")
        started = time.monotonic()
        with pytest.raises(GenerationError, match=words) as caught:
            list(one.generate(requests(500)))
        assert time.monotonic() - started < 5 and stats(server)["calls"] < 60
        assert "canary" not in str(caught.value) and "\n" not in str(caught.value)
        if plan.get("key"):
            with pytest.raises(GenerationError, match="without a key"):
                list(generator(server.url).generate(requests(1)))


def test_the_clock_of_the_machine_may_jump(
    tmp_path: Path, plain: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path, faults={"500": 0.2, "429": 0.1}) as server:
        real, jumps = time.time, iter(range(10**9))
        monkeypatch.setattr(time, "time", lambda: real() + (-1) ** next(jumps) * 1e7)
        replies = asked(generator(server.url, tries=12), requests(100))
        assert {id: reply.text for id, reply in replies.items()} == {f"r{i}": plain[f"r{i}"] for i in range(100)}


def test_whoever_stops_taking_leaves_no_thread_and_no_flood(tmp_path: Path) -> None:
    with serving(tmp_path, delay=0.01) as server:
        one = generator(server.url, concurrency=50)
        replies = one.generate(Request(f"r{i}", PROMPT, None, i, 40, 0.9, 50, 0.95) for i in range(10**7))
        next(replies)
        calls = [-1, stats(server)["calls"]]
        for _ in range(60):  # until it stands still: nobody takes replies, so no more is asked
            if calls[-1] == calls[-2]:
                break
            time.sleep(1.0)
            calls.append(stats(server)["calls"])
        assert calls[-1] == calls[-2] <= 50
        replies.close()  # type: ignore[attr-defined]
        assert "gendistill-generator" not in {thread.name for thread in threading.enumerate()}


def test_an_iterable_that_breaks_is_not_swallowed(tmp_path: Path) -> None:
    def broken() -> Iterator[Request]:
        yield from requests(5)
        raise RuntimeError("the plan is broken")

    with serving(tmp_path) as server, pytest.raises(RuntimeError, match="the plan is broken"):
        list(generator(server.url).generate(broken()))


def test_memory_stays_flat_and_thousands_go_through_in_a_second(tmp_path: Path) -> None:
    process, sizes, count = psutil.Process(), [], 0
    rows = (Request(f"r{i}", PROMPT * 8, None, i, 40, 0.9, 50, 0.95) for i in range(20_000))
    with serving(tmp_path, fast=True) as server:
        for replies in generator(server.url).arrivals(rows):
            count += len(replies)
            if count >= 2000 * (len(sizes) + 1):
                sizes.append(process.memory_info().rss / 2**20)
    assert count == 20_000
    assert sizes[-1] - sizes[2] < 20


def test_wrong_keys_and_addresses_are_said_without_repeating_them() -> None:
    with pytest.raises(ConfigError, match=r"\$OPENAI_API_KEY"):
        generator("http://127.0.0.1", key="secret\nsecret")
    with pytest.raises(ConfigError, match="--base-url"):
        generator("me:secret@127.0.0.1")
    with pytest.raises(GenerationError, match=r"no answer \(cannot connect"):
        generator("http://me:secret@127.0.0.1:9", mode="auto").chat  # noqa: B018
