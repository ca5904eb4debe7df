"""Against vLLM's real server and its batch runner, both with the demo's Gemma, on the CPU."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import vllm_server
from small_run import BUDGET, SMALL, Journal, gendistill, labels

from gendistill.config import GeneratorConfig
from gendistill.generators import build_generator
from gendistill.generators.base import Request
from gendistill.models import resolve

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

AS_IT_IS = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
HEADLINES = "BBC news\n\nCategory: sports\n\n- Robinson sees red over fly-half injury\n- Henman hopes ended in Dubai\n-"


@dataclass(frozen=True)
class Served:
    url: str
    model: str
    log: Path

    def calls(self, path: str = "") -> int:
        """That the server has answered so far."""
        return self.log.read_text(encoding="utf-8", errors="replace").count(f'"POST /v1{path}')


@pytest.fixture(scope="module")
def served(vllm_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    log = tmp_path_factory.mktemp("server") / "log"
    with vllm_server.serving(vllm_python, resolve("builtin:gemma-3-270m"), log) as running:
        yield Served(running.url, running.model, log)


@pytest.fixture(scope="module")
def finished(served: Served, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """The command of a whole run, and its directory."""
    run = tmp_path_factory.mktemp("runs") / "run"
    command = ["generate", *SMALL, "--out", str(run), "--generator", "server", "--base-url", served.url, "--model",
               served.model]  # fmt: skip
    status, output = gendistill(command)
    assert status == 0, output
    return command, run


def test_a_run_on_a_real_server_gives_the_budget_and_a_true_card(
    served: Served, finished: tuple[list[str], Path]
) -> None:
    _, run = finished
    journal = Journal(run)
    assert labels(run) == BUDGET
    assert journal.meta["generator"] == {"name": served.model, "chat": False}  # found out: it has no chat template
    assert journal.replies.keys() == journal.asked.keys() and len(journal.asked) >= 40
    assert all(error is None for *_, error in journal.replies.values())
    card = (run / "README.md").read_text(encoding="utf-8")
    assert f"{journal.prompt_tokens:,} prompt and {journal.completion_tokens:,} completion tokens" in card
    assert journal.completion_tokens > 5 * len(journal.replies)
    # Four requests share a prompt and a call; each was made once, and each was answered
    assert f"{len(journal.asked) // 4} for {len(journal.asked)} replies and 0 failures" in card
    assert served.calls("/completions") == len(journal.asked) // 4
    assert served.calls("/chat/completions") == 1  # whether it can chat


def test_the_same_command_again_asks_nothing(served: Served, finished: tuple[list[str], Path]) -> None:
    command, run = finished
    before = served.calls(), {path: path.read_bytes() for path in (run / "distilled.jsonl", run / "README.md")}
    status, output = gendistill(command)
    assert status == 0, output
    assert served.calls() == before[0]
    assert {path: path.read_bytes() for path in before[1]} == before[1]


def test_structured_replies_are_json_objects(served: Served) -> None:
    config = GeneratorConfig(
        kind="server", model=served.model, mode="base", structured=True, server={"base_urls": [served.url]}
    )
    requests = [Request(f"r{i}", HEADLINES, None, 7 * i, 160, 0.9, 50, 0.95, ("\n",)) for i in range(8)]
    replies = list(build_generator(config).generate(requests))
    assert sorted(reply.request_id for reply in replies) == [request.id for request in requests]
    ended = [json.loads(reply.text) for reply in replies if reply.finish_reason == "stop"]
    assert len(ended) >= 2  # a small base model likes to go on until its tokens are used up
    assert all(reply.text.lstrip().startswith("{") and reply.finish_reason in ("stop", "length") for reply in replies)
    assert all(value.keys() == {"text"} and isinstance(value["text"], str) for value in ended)


def test_a_prompt_that_is_too_long_is_a_failure_with_the_servers_words(served: Served) -> None:
    generator = build_generator(
        GeneratorConfig(kind="server", model=served.model, mode="base", server={"base_urls": [served.url]})
    )
    requests = [
        Request(str(i), f"{i} {'word ' * count}", None, i, 4, 0.9, 50, 0.95) for i, count in ((0, 2000), (1, 9))
    ]
    replies = {reply.request_id: reply for reply in generator.generate(requests)}
    assert replies["1"].error is None and replies["1"].completion_tokens == 4
    assert str(vllm_server.CONTEXT) in (replies["0"].error or "")


def test_a_batch_file_goes_through_vllm_and_back(vllm_python: Path, tmp_path: Path) -> None:
    run, requests, answers, template = (tmp_path / name for name in ("run", "in.jsonl", "out.jsonl", "chat.jinja"))
    template.write_text(AS_IT_IS, encoding="utf-8")
    command = ["generate", *SMALL, "--out", str(run), "--generator", "batch", "--mode", "base", "--model",
               vllm_server.MODEL]  # fmt: skip
    status, output = gendistill(command)
    assert status == 5 and "40 requests wait" in output and "gendistill batch export-requests" in output
    status, output = gendistill(["batch", "export-requests", str(run), "-o", str(requests), "--as-chat"])
    assert status == 0 and "40 requests" in output
    vllm_server.run(
        vllm_python,
        ["-m", "vllm.entrypoints.launchers.run_batch", "-i", str(requests), "-o", str(answers), "--model",
         resolve("builtin:gemma-3-270m"), "--served-model-name", vllm_server.MODEL, "--chat-template", str(template),
         *vllm_server.ENGINE],
    )  # fmt: skip
    status, output = gendistill(["batch", "import-replies", str(run), str(answers)])
    assert status == 0 and "40 new replies" in output and "every request has its reply" in output, output
    status, output = gendistill(command)
    assert status == 0, output
    journal = Journal(run)
    assert labels(run) == BUDGET and len(journal.replies) == 40
    assert all(error is None and tokens > 0 for *_, tokens, error in journal.replies.values())
