"""Flow control by a clock of the test's own, and the dialect's odd corners."""

from __future__ import annotations

import random

import pytest

from gendistill.errors import ConfigError
from gendistill.generators.base import Reply, Request
from gendistill.generators.flow import FAILURES_TO_OPEN, FIRST_LIMIT, PROBE_MOST_S, Flow, backoff, retry_after
from gendistill.generators.urls import base_url, joined, shown
from gendistill.generators.wire import (
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


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def flow(**values: object) -> tuple[Flow, Clock]:
    clock = Clock()
    return Flow(clock=clock, **values), clock  # type: ignore[arg-type]


def full(one: Flow) -> list[int]:
    """As many calls as there is room for; their epochs."""
    epochs = []
    while one.room:
        epochs.append(one.sent())
    return epochs


def test_the_limit_doubles_a_round_until_the_first_refusal_then_grows_by_one() -> None:
    one, _ = flow()
    for _ in range(2):
        for _ in full(one):
            one.returned()
            one.succeeded()
    assert one.limit >= 1.7 * FIRST_LIMIT
    epochs = full(one)
    one.refused(epochs[0], 0.0, "429")
    for _ in epochs:
        one.returned()
    before = one.limit
    for _ in full(one):
        one.returned()
        one.succeeded()
    assert before < one.limit <= before + 1.1


def test_a_burst_of_refusals_lowers_the_limit_once() -> None:
    one, clock = flow()
    epochs = full(one)
    for epoch in epochs:
        one.refused(epoch, None, "429")
        one.returned()
    assert one.limit == pytest.approx(FIRST_LIMIT * 0.7)
    assert not one.room and 0 < one.wait_s() <= 0.5
    clock.now += 1
    one.refused(one.sent(), None, "429")
    assert one.limit == pytest.approx(FIRST_LIMIT * 0.7**2)


def test_retry_after_is_honoured_and_counts_for_the_whole_server() -> None:
    one, clock = flow()
    epochs = full(one)
    one.refused(epochs[0], 7.0, "429")
    for _ in epochs:
        one.returned()
    clock.now += 6.9
    assert not one.room
    clock.now += 0.2
    assert one.room


def test_a_limit_that_was_not_reached_does_not_grow() -> None:
    one, _ = flow()
    for _ in range(100):
        one.sent()
        one.succeeded()
        one.returned()
    assert one.limit == FIRST_LIMIT


def test_the_breaker_opens_lets_one_through_and_closes_with_a_success() -> None:
    one, clock = flow()
    for _ in range(FAILURES_TO_OPEN):
        one.failed("500")
    assert not one.down  # they may all have been on their way together
    clock.now += 2
    one.failed("500")
    assert one.down and not one.room
    waits = []
    for _ in range(8):
        waits.append(one.wait_s())
        clock.now += one.wait_s()
        assert one.room
        one.sent()
        assert not one.room  # one at a time
        one.returned()
        one.failed("500")
    assert waits[-1] > waits[0] and max(waits) <= PROBE_MOST_S
    assert one.failing_s() > 30
    clock.now += one.wait_s()
    one.sent()
    one.succeeded()
    one.returned()
    assert not one.down and one.room and one.failing_s() == 0


def test_backoff_grows_is_capped_and_jittered() -> None:
    rng = random.Random(0)
    first = [backoff(1, 0.5, rng) for _ in range(50)]
    late = [backoff(50, 0.5, rng) for _ in range(50)]
    assert 0.25 <= min(first) < max(first) <= 0.5
    assert 15 <= min(late) < max(late) <= 30


@pytest.mark.parametrize(
    ("value", "date", "seconds"),
    [
        ("3", None, 3.0),
        (" 0.5 ", None, 0.5),
        ("Wed, 21 Oct 2015 07:28:10 GMT", "Wed, 21 Oct 2015 07:28:00 GMT", 10.0),  # by the server's clock, not ours
        ("Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:10 GMT", 0.0),
        ("Wed, 21 Oct 2015 07:28:10 GMT", None, None),
        ("soon", "x", None),
        (None, None, None),
    ],
)
def test_retry_after_headers(value: str | None, date: str | None, seconds: float | None) -> None:
    assert retry_after(value, date) == seconds


def request(id: str = "a", **values: object) -> Request:
    given = {"prompt": "p", "messages": None, "seed": 2**61 + 5, "max_new_tokens": 9, "temperature": 0.9, "top_k": 50}
    return Request(**{"id": id, "top_p": 0.95, "stop": ("\n",), **given, **values})  # type: ignore[arg-type]


def test_bodies_of_prompts_and_chats() -> None:
    body = body_of(request(), "m", Options(), 3)
    assert body == {
        "model": "m", "prompt": "p", "max_tokens": 9, "temperature": 0.9, "top_p": 0.95, "top_k": 50, "seed": 5, "n": 3,
        "stop": ["\n"],
    }  # fmt: skip
    chat = request(prompt=None, messages=(("system", "s"), ("user", "u")), top_k=0, top_p=1.0, stop=())
    body = body_of(chat, "m", Options(structured=True, left_out=frozenset({"seed", "max_tokens"})))
    assert body.keys() == {"model", "messages", "max_completion_tokens", "temperature", "response_format"}
    assert body["messages"][1] == {"role": "user", "content": "u"} and body["max_completion_tokens"] == 9
    assert path_of(chat, Options()) == "/chat/completions" and path_of(request(), Options()) == "/completions"
    assert body_of(request(), "m", Options(as_chat=True))["messages"] == [{"role": "user", "content": "p"}]


def test_neighbours_that_differ_in_seed_alone_share_a_call() -> None:
    rows = [request(str(i), seed=i, prompt=f"p{i // 5}") for i in range(12)]
    assert [[row.id for row in group] for group in grouped(rows, 3)] == [
        ["0", "1", "2"], ["3", "4"], ["5", "6", "7"], ["8", "9"], ["10", "11"]
    ]  # fmt: skip


def chat_answer(*choices: object) -> dict[str, object]:
    return {"choices": list(choices), "usage": {"prompt_tokens": 10, "completion_tokens": 7}}


def message(content: object, index: int = 0, finish: object = "stop", **more: object) -> dict[str, object]:
    return {"index": index, "finish_reason": finish, "message": {"role": "assistant", "content": content, **more}}


def test_choices_in_any_order_doubled_and_too_many() -> None:
    rows = [request(str(i)) for i in range(3)]
    answer = chat_answer(message("c", 2), message("a", 0), message("a again", 0), message("b", 1), message("d", 3))
    replies = replies_in(answer, rows)
    assert [(reply.request_id, reply.text) for reply in replies] == [("0", "a"), ("1", "b"), ("2", "c")]
    assert sum(reply.completion_tokens for reply in replies) == 7
    assert [reply.prompt_tokens for reply in replies] == [10, 0, 0]
    assert [reply.text for reply in replies_in(chat_answer(message("only")), rows)] == ["only"]


@pytest.mark.parametrize(
    ("choice", "text", "finish", "error"),
    [
        (message("t"), "t", "stop", None),
        (message("t", finish=None), "t", "stop", None),
        (message("t", finish="length"), "t", "length", None),
        (message("", finish="content_filter"), "", "content_filter", None),
        (message(None, refusal="I cannot"), "", "content_filter", None),
        (message(None), "", "stop", None),
        (message([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), "ab", "stop", None),
        (message("t", reasoning_content="hm"), "t", "stop", None),
        (message(None, tool_calls=[{}]), "", "error", "the model called a tool instead of writing a text"),
        (message("t", finish="abort"), "t", "error", "the server stopped the text: abort"),
        ({"index": 0, "text": " x", "finish_reason": "stop"}, " x", "stop", None),
    ],
)
def test_what_choices_say(choice: object, text: str, finish: str, error: str | None) -> None:
    (reply,) = replies_in(chat_answer(choice), [request()])
    assert (reply.text, reply.finish_reason, reply.error) == (text, finish, error)


@pytest.mark.parametrize(
    "answer",
    ["<html>", None, [], {}, {"choices": []}, {"choices": None}, {"choices": [7]}, {"choices": [{}]}, {"error": "x"}],
)
def test_what_is_no_answer(answer: object) -> None:
    with pytest.raises(BadAnswer):
        replies_in(answer, [request()])


def test_odd_usage_is_no_reason_to_lose_a_text() -> None:
    for usage in (None, [], {"prompt_tokens": "many", "completion_tokens": -4}, {"completion_tokens": True}):
        reply = replies_in({"choices": [message("t")], "usage": usage}, [request()])[0]
        assert reply == Reply("a", "t", "stop", 0, 0, None)


def test_which_parameter_a_server_does_not_take() -> None:
    sent = ["model", "prompt", "top_k", "seed", "n", "max_tokens"]
    openai = {"error": {"message": "Unrecognized request argument supplied: top_k", "param": None}}
    assert refused_parameter(openai, sent) == "top_k"
    assert refused_parameter({"error": {"message": "bad", "param": "seed"}}, sent) == "seed"
    newer = {
        "error": {
            "message": "Unsupported parameter: 'max_tokens' ... use 'max_completion_tokens'",
            "param": "max_tokens",
        }
    }
    assert refused_parameter(newer, sent) == "max_tokens"
    assert refused_parameter({"error": {"message": "This prompt is too long: 2000 tokens"}}, sent) is None
    assert refused_parameter({"detail": "top_p must be below 1"}, sent) is None  # it was not sent
    assert refused_parameter("plain text", sent) is None


def test_words_of_servers() -> None:
    assert told({"error": {"message": "a\n b"}}) == "a b"
    assert told({"error": "plain"}) == "plain" and told({"detail": "d"}) == "d" and told("x" * 999) == "x" * 300
    assert told(None) == "" and told({}) == ""
    assert out_of_quota({"error": {"code": "insufficient_quota", "message": "You exceeded"}})
    assert not out_of_quota({"error": {"code": "rate_limit_exceeded", "message": "slow down"}})


def test_addresses() -> None:
    assert base_url("http://host:8000") == "http://host:8000/v1" == base_url(" http://host:8000/ ")
    assert base_url("https://host/openai/v1/chat/completions") == "https://host/openai/v1"
    assert joined("https://host/v1?api-version=2", "/models") == "https://host/v1/models?api-version=2"
    assert shown("https://me:secret@host:1/v1?key=secret&api-version=2") == "https://host:1/v1?key=***&api-version=2"
    assert shown("http://[::1]:80/v1") == "http://[::1]:80/v1"
    for bad in ("me:secret@host", "ftp://secret", "http://", "http://secret:99999", "http://me:secret@host:x/v1", ""):
        with pytest.raises(ConfigError, match="--base-url") as caught:
            base_url(bad)
        assert "secret" not in str(caught.value)
