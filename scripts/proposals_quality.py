"""What a run loses that proposes from groups of shards by Ray, beside the choice from everything at once.

    python scripts/proposals_quality.py                       # 20,000 candidates
    python scripts/proposals_quality.py --candidates 4000 --rounds 2

Two whole runs with the same replies: by this process with every candidate held, and by ``--engine ray`` with
``engine.held_rows`` a tenth of them. The generator joins the beginning of one row of AG News and the end of another of
its class, of rows that the real data does not have. The loss is that of the last choice by the configured objective,
before the portfolio is tried.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from gendistill import Config, distill
from gendistill.engines import proposals
from gendistill.generators.base import Reply, Request

ROWS = 2000  # of real data
PER_CLASS = 10


class Joins:
    """A generator that needs no model; a reply depends on its request alone."""

    name, chat, remote = "joins", False, True

    def __init__(self, rows: list[dict[str, str]]) -> None:
        self.by_label: dict[str, list[list[str]]] = {}
        for row in rows:
            self.by_label.setdefault(row["label"], []).append(row["text"].split())

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        for request in requests:
            rng, prompt = random.Random(request.seed), request.prompt or ""
            label = max(self.by_label, key=lambda name: prompt.rfind(f": {name}"))
            first, second = rng.sample(self.by_label[label], 2)
            text = " ".join(first[: len(first) // 2] + second[len(second) // 2 :])
            yield Reply(request.id, text, "stop", len(prompt) // 4, len(text) // 4)


def run(args: argparse.Namespace) -> None:
    """One of the two, in a process of its own; its figures on a line."""
    with gzip.open(args.data, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    real = args.folder / "real.jsonl"
    real.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows[:ROWS]), encoding="utf-8")
    proposals.GROUP_ROWS = max(1, args.candidates // args.groups)
    config = Config(
        out=args.folder / args.engine,
        per_class=PER_CLASS,
        rounds=args.rounds,
        data={"dataset": str(real)},
        student={"max_tokens": 48, "max_steps": 100},
        generator={"candidates_per_class": args.candidates // 4},
        selection={"method": "greedy"},
        evaluate={"seeds": 1},
        audit={"checks": []},
        engine={"kind": args.engine, "held_rows": args.candidates // 10 if args.engine == "ray" else 10**9},
    )
    began = time.perf_counter()
    result = distill(config, generator=Joins(rows[ROWS:]))
    told = {
        "engine": args.engine,
        "seconds": round(time.perf_counter() - began, 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "kept": sum(round.kept for round in result.rounds),
        "pool": result.pool_size,
        "losses": [round.loss for round in result.rounds],
    }
    print(json.dumps(told), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/ag_news/train.jsonl.gz"))
    parser.add_argument("--candidates", type=int, default=20_000)
    parser.add_argument("--groups", type=int, default=8, help="that propose")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--engine", choices=["local", "ray"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.engine:
        run(args)
        return
    with tempfile.TemporaryDirectory() as folder:
        for engine in ("local", "ray"):
            subprocess.run([sys.executable, *sys.argv, "--engine", engine, "--folder", folder], check=True)


if __name__ == "__main__":
    main()
