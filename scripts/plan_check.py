"""Predicted against measured: the plan of ``gendistill plan`` beside real runs of three sizes.

    python scripts/plan_check.py --sizes 50 200 800               # BBC News, Gemma 3 270M in this process, MiniLM
    python scripts/plan_check.py --server --sizes 2000 8000 20000 # tiny models, a loopback server that answers at once

Seconds are of the clock; with ``--cpu`` CPU seconds of this process, to be run with ``OMP_NUM_THREADS=1`` where other
work shares the machine. Writes a table and a JSON file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from gendistill import Config, distill
from gendistill.cost import Costs, cluster_of, measure_sample, predict
from gendistill.cost.watch import Clock
from gendistill.journal import open_journal
from gendistill.progress import Advance

STAGES = {
    "train": "teacher",
    "features of real": "teacher",
    "features of target": "teacher",
    "features of dev": "teacher",
    "generate": "write",
    "features of round": "score",
    "choose": "choose",
    "measure": "measure",
    "audit": "audit",
}


class Times:
    """A reporter that adds up seconds by the stages of a plan."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.seconds = dict.fromkeys([*STAGES.values()], 0.0)
        self._depth = 0

    def say(self, line: str) -> None:
        print(f"  {line}", flush=True)

    @contextmanager
    def track(self, stage: str, total: int, done: int = 0) -> Iterator[Advance]:
        began = self.clock()
        self._depth += 1
        try:
            yield lambda done, note="": None
        finally:
            self._depth -= 1
        if not self._depth:
            name = next(own for start, own in STAGES.items() if stage.startswith(start))
            self.seconds[name] += self.clock() - began


def measured(config: Config, clock: Clock) -> dict[str, Any]:
    """Do the run, and say what it took."""
    shutil.rmtree(config.out, ignore_errors=True)
    times, began = Times(clock), clock()
    result = distill(config, reporter=times)
    total = clock() - began
    with open_journal(config.out) as journal:
        tokens_in, tokens_out = journal.tokens()
        requests = journal.count("requests")
    return {
        "requests": requests,
        "tokens in": tokens_in,
        "tokens out": tokens_out,
        "kept": result.pool_size,
        "bytes": sum(path.stat().st_size for path in config.out.rglob("*") if path.is_file()),
        **{f"s {name}": seconds for name, seconds in times.seconds.items()},
        "s start and rest": total - sum(times.seconds.values()),
        "s in all": total,
    }


def predicted(costs: Costs) -> dict[str, Any]:
    figures = {
        "requests": costs.requests,
        "tokens in": costs.tokens_in,
        "tokens out": costs.tokens_out,
        "kept": costs.kept,
        "bytes": costs.bytes,
        **{f"s {name}": seconds for name, seconds in costs.stages.items() if name != "start"},
        "s start and rest": costs.stages["start"],
        "s in all": sum(costs.stages.values(), costs.stages["start"] * 0.0),
    }
    return {name: figure.to_json() for name, figure in figures.items()}


def demo(folder: Path, candidates: int) -> Config:
    """The demo with a shorter training of its students, which every size would pay alike."""
    return Config(
        out=folder / f"bbc-{candidates}",
        data={"max_reference_rows": 400},
        student={"epochs": 0},
        generator={"candidates_per_class": candidates // 5},
        objective={"target_rows_per_class": 40},
        evaluate={"seeds": 1, "max_test_rows": 100},
        audit={"held_out_rows": 100},
    )


@contextmanager
def loopback(folder: Path) -> Iterator[Any]:
    from fault_server import serving
    from tiny import tiny_encoder, tiny_rows, write_jsonl

    rows = write_jsonl(folder / "rows.jsonl", tiny_rows(300, 3))
    encoder = tiny_encoder(folder / "encoder")
    with serving(folder / "server") as server:

        def config(folder: Path, candidates: int) -> Config:
            return Config(
                out=folder / f"server-{candidates}",
                data={"dataset": str(rows)},
                student={"model": str(encoder), "max_tokens": 32},
                generator={
                    "kind": "server",
                    "model": "m",
                    "mode": "base",
                    "candidates_per_class": -(-candidates // 3),
                    "server": {"base_urls": [server.url], "price_in": 1.0, "price_out": 2.0},
                },
                filters={"teacher_probability": 0.05, "real_copy_similarity": 1.0, "near_duplicate": 1.0},
            )

        yield config


def line(name: str, figures: list[tuple[dict[str, float], float]]) -> str:
    cells = []
    for expected, found in figures:
        off = f" ({expected['expected'] / found - 1:+.0%})" if found else ""
        cells.append(
            f"{shown(expected['expected'])} [{shown(expected['low'])}, {shown(expected['high'])}] | {shown(found)}{off}"
        )
    return f"| {name} | " + " | ".join(cells) + " |"


def shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[50, 200, 800])
    parser.add_argument("--server", action="store_true")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("runs/plan-check"))
    arguments = parser.parse_args()
    folder, sizes = arguments.out, arguments.sizes
    clock: Clock = time.process_time if arguments.cpu else time.perf_counter
    folder.mkdir(parents=True, exist_ok=True)
    with loopback(folder) if arguments.server else contextlib.nullcontext(demo) as configured:
        first = configured(folder, sizes[-1])
        sample = measure_sample(first, clock=clock)
        print(sample, flush=True)
        rows: dict[str, list[tuple[dict[str, float], float]]] = {}
        for size in sizes:
            config = configured(folder, size)
            asked = config.generator.candidates_per_class * sample.classes
            expected = predicted(predict(sample, config, cluster_of(config, sample), asked))
            found = measured(config, clock)
            for name, figure in expected.items():
                rows.setdefault(name, []).append((figure, found[name]))
            print(f"{size}: {json.dumps(found)}", flush=True)
    name = "server" if arguments.server else "demo"
    (folder / f"{name}.json").write_text(json.dumps({"sample": asdict(sample), "sizes": sizes, "rows": rows}, indent=1))
    table = [
        "| | " + " | ".join(f"{size:,}: predicted | measured" for size in sizes) + " |",
        "|---|" + "---|---|" * len(sizes),
        *(line(name, figures) for name, figures in rows.items()),
    ]
    (folder / f"{name}.md").write_text("\n".join(table) + "\n")
    print("\n".join(table))


if __name__ == "__main__":
    main()
