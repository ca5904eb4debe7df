"""Memory of a causal student: predicted before anything is loaded, and measured in a process of its own.

    python scripts/instruction_memory.py                   # Markdown: SmolLM2-135M and Gemma-270M, and predictions

Measured is the rise of the process's peak resident memory (Linux's VmHWM) above what it has after its imports; four
rows of ``--tokens`` tokens, half of them answers, on one thread. The last column is measured with
``MALLOC_MMAP_THRESHOLD_=100000``: glibc's heap otherwise keeps what large tensors leave behind.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

MODELS = {"SmolLM2-135M": "builtin:smollm2-135m-instruct", "Gemma-3-270M": "builtin:gemma-3-270m"}
# As published: Llama-3.2-1B and Qwen2.5-7B
LARGER: dict[str, tuple[str, dict[str, Any]]] = {
    "1B (Llama 3.2's sizes)": (
        "llama",
        {
            "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "tie_word_embeddings": True,
        },
    ),
    "7B (Qwen 2.5's sizes)": (
        "qwen2",
        {
            "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
            "num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False,
        },
    ),
}  # fmt: skip
ROWS = 4  # one batch


def settings(model: str, dtype: str, tokens: int) -> dict[str, Any]:
    return {
        "model": model, "max_tokens": tokens, "gradient_dims": 2048, "steps": 1, "epochs": 0, "checkpoints": 2,
        "batch_size": ROWS, "lora": {"dtype": dtype},
    }  # fmt: skip


def peak() -> int:
    """Bytes."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024


def measure(model: str, dtype: str, tokens: int, job: str) -> None:
    import torch

    from gendistill.config import StudentConfig
    from gendistill.examples import Example
    from gendistill.models import quiet_transformers
    from gendistill.students.causal import CausalStudent

    torch.set_num_threads(1)
    with quiet_transformers():
        import peft  # noqa: F401
        from transformers import AutoModelForCausalLM, Gemma3ForCausalLM, LlamaForCausalLM  # noqa: F401
    before = peak()
    student = CausalStudent(StudentConfig(**settings(model, dtype, tokens)), device="cpu")
    loaded = peak() - before
    text = "word " * tokens
    rows = [Example(("", text, f"{k} {text}"), 0) for k in range(ROWS)]
    if job == "fit":
        student.fit(rows, seed=0)
    else:
        student.features(rows)
    print(json.dumps({"loaded": loaded, "peak": peak() - before}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--measure", nargs=3, metavar=("MODEL", "DTYPE", "JOB"))
    options = parser.parse_args()
    if options.measure:
        model, dtype, job = options.measure
        measure(model, dtype, options.tokens, job)
        return
    from transformers import AutoConfig

    from gendistill.config import StudentConfig
    from gendistill.students.memory import memory_estimate

    print(
        "| student | weights | job | predicted GB | measured GB | with the threshold GB |\n|---|---|---|---|---|---|",
        flush=True,
    )
    for name, model in MODELS.items():
        for dtype in ("float32", "bfloat16"):
            for job in ("features", "fit"):
                config = StudentConfig(**settings(model, dtype, options.tokens))
                found = memory_estimate(config, training=job == "fit", rows=ROWS)
                command = [sys.executable, __file__, "--tokens", str(options.tokens), "--measure", model, dtype, job]
                measured = []
                for variables in ({}, {"MALLOC_MMAP_THRESHOLD_": "100000"}):
                    done = subprocess.run(
                        command, capture_output=True, text=True, check=True, env={**os.environ, **variables}
                    )
                    measured.append(json.loads(done.stdout.strip().splitlines()[-1])["peak"] / 1e9)
                print(
                    f"| {name} | {dtype} | {job} | {found.total / 1e9:.2f} | "
                    + " | ".join(f"{part:.2f}" for part in measured)
                    + " |",
                    flush=True,
                )
    for name, (kind, sizes) in LARGER.items():
        for device, tokens in (("cpu", 256), ("cuda", 1024)):
            for job in ("features", "fit"):
                config = StudentConfig(**settings("builtin:minilm", "bfloat16", tokens))
                model_settings = AutoConfig.for_model(kind, max_position_embeddings=8192, **sizes)
                found = memory_estimate(
                    config, training=job == "fit", rows=10_000, device=device, settings=model_settings
                )
                print(
                    f"| {name} | bfloat16, {device}, {tokens} tokens | {job} | {found.total / 1e9:.1f} | | |",
                    flush=True,
                )
                print(f"<!-- {found} -->", flush=True)


if __name__ == "__main__":
    main()
