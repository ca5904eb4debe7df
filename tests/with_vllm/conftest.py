"""For the tests against a real vLLM (`make test-vllm`): where its environment and the scripts that they use are."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]


@pytest.fixture(scope="session")
def vllm_python() -> Path:
    """The interpreter of vLLM's environment."""
    python = Path(os.environ.get("VENV_VLLM", ROOT / ".venv-vllm")).absolute() / "bin" / "python"
    if not python.exists():
        pytest.skip(f"no vLLM in {python.parent.parent}; make test-vllm sets it up")
    return python
