"""vLLM's engine in gendistill's own process, on the CPU; run in vLLM's environment, which has gendistill too."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import vllm_server
from small_run import BUDGET, SMALL, Journal, gendistill, labels

from gendistill.config import VllmConfig
from gendistill.errors import ConfigError
from gendistill.generators.base import Reply, Request
from gendistill.generators.vllm import VllmGenerator

pytest.importorskip("vllm", reason="make test-vllm runs this in vLLM's environment")
pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

ENGINE = VllmConfig(dtype="bfloat16", max_model_len=vllm_server.CONTEXT, enforce_eager=True)
HEADLINES = "BBC news\n\nCategory: sports\n\n- Robinson sees red over fly-half injury\n- Henman hopes ended in Dubai\n-"


def test_a_run_with_vllm_in_its_process(tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = [f"generator.vllm.{name}={value}" for name, value in ENGINE.model_dump(exclude_defaults=True).items()]
    status, output = gendistill(
        ["generate", *SMALL, "--out", str(run), "--generator", "vllm", "--model", "builtin:gemma-3-270m",
         *(word for setting in settings for word in ("--set", setting))],
        **vllm_server.environment(),
    )  # fmt: skip
    assert status == 0, output
    journal = Journal(run)
    assert labels(run) == BUDGET and journal.meta["generator"]["chat"] is False
    assert journal.replies.keys() == journal.asked.keys() and len(journal.asked) >= 40
    assert all(error is None for *_, error in journal.replies.values())
    card = (run / "README.md").read_text(encoding="utf-8")
    assert f"{journal.prompt_tokens:,} prompt and {journal.completion_tokens:,} completion tokens" in card


@pytest.fixture(scope="module")
def generator() -> Iterator[VllmGenerator]:
    os.environ.update(vllm_server.environment())
    one = VllmGenerator("builtin:gemma-3-270m", mode="auto", structured=False, engine=ENGINE)
    assert not one.chat and one._engine is None  # the tokenizer alone says so
    yield one
    one.load().engine_core.shutdown()


def requests(count: int, *, tokens: int = 40, stop: tuple[str, ...] = ("\n",)) -> list[Request]:
    return [Request(f"r{i}", HEADLINES, None, 1000 + i, tokens, 0.9, 50, 0.95, stop) for i in range(count)]


def asked(one: VllmGenerator, rows: list[Request]) -> dict[str, Reply]:
    """Replies by id; each request has exactly one."""
    replies = list(one.generate(rows))
    found = {reply.request_id: reply for reply in replies}
    assert len(found) == len(replies) and found.keys() == {row.id for row in rows}
    return found


def test_replies_come_as_they_are_finished_and_stop_where_they_are_told_to(generator: VllmGenerator) -> None:
    rows = [Request("long", HEADLINES, None, 1, 120, 0.9, 50, 0.95), *requests(12)]
    arrived = list(generator.arrivals(rows))
    assert len(arrived) > 1  # several steps of the engine
    replies = [reply for together in arrived for reply in together]
    assert replies[-1].request_id == "long" and len(replies) == 13
    assert all(reply.error is None and reply.prompt_tokens > 20 for reply in replies)
    short = [reply for reply in replies if reply.request_id != "long"]
    assert all("\n" not in reply.text and 0 < reply.completion_tokens <= 40 for reply in short)
    assert {reply.finish_reason for reply in short} <= {"stop", "length"}
    assert sum(reply.finish_reason == "stop" for reply in short) > 6
    assert len({reply.text for reply in short}) > 8


def test_equal_seeds_give_equal_texts(generator: VllmGenerator) -> None:
    rows = requests(6, tokens=10)
    asked(generator, rows)  # from now on what the prompts share is in the engine's cache
    first, second = asked(generator, rows), asked(generator, rows)
    assert {id: reply.text for id, reply in first.items()} == {id: reply.text for id, reply in second.items()}


def test_what_the_engine_refuses_is_a_reply_and_the_rest_is_answered(generator: VllmGenerator) -> None:
    long = Request("long", "word " * 2000, None, 1, 8, 0.9, 50, 0.95)
    replies = asked(generator, [*requests(2, tokens=8), long])
    assert replies["long"].finish_reason == "error" and str(vllm_server.CONTEXT) in (replies["long"].error or "")
    assert replies["r0"].error is None and replies["r1"].error is None


def test_who_stops_listening_leaves_the_engine_free(generator: VllmGenerator) -> None:
    for reply in generator.generate(requests(20)):
        assert reply.error is None
        break
    assert not generator.load().has_unfinished_requests()
    assert len(asked(generator, requests(2, tokens=8))) == 2


def test_special_tokens_in_a_row_stay_text(generator: VllmGenerator) -> None:
    tokenizer = generator.load().get_tokenizer()
    prompt = generator._prompt(Request("r", "a<eos>b<end_of_turn>", None, 1, 8, 0.9, 50, 0.95))["prompt_token_ids"]
    assert prompt[0] == tokenizer.bos_token_id
    assert not set(prompt[1:]) & set(tokenizer.all_special_ids)


def test_structured_replies_are_json_objects(generator: VllmGenerator) -> None:
    generator.structured = True
    try:
        replies = asked(generator, requests(6, tokens=160))
    finally:
        generator.structured = False
    ended = [json.loads(reply.text) for reply in replies.values() if reply.finish_reason == "stop"]
    assert len(ended) >= 2 and all(value.keys() == {"text"} for value in ended)


def test_several_engines_in_one_process_are_refused() -> None:
    with pytest.raises(ConfigError, match="start several servers"):
        VllmGenerator("m", mode="base", structured=False, engine=VllmConfig(data_parallel_size=2))
