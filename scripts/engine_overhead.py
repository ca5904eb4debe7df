"""What Ray costs on one machine: the same scoring job by this process and by ``--engine ray``, in turn.

    python scripts/engine_overhead.py                              # 20,000 candidates, three times each
    python scripts/engine_overhead.py --candidates 2000 --times 1

Each is a whole ``gendistill score`` in a process of its own: the start, the teacher's training and the writing of the
rows are in the time. A candidate is the beginning of one row of AG News and the end of another of its class, of rows
that the real data does not have. Both must write the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROWS = 600  # of real data


def rows_of(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def recombined(rows: list[dict[str, str]], count: int) -> list[dict[str, str]]:
    """So many texts, each of two rows of one class."""
    rng = random.Random(0)
    by_label: dict[str, list[list[str]]] = {}
    for row in rows:
        by_label.setdefault(row["label"], []).append(row["text"].split())
    made = []
    for number in range(count):
        label = sorted(by_label)[number % len(by_label)]
        first, second = rng.sample(by_label[label], 2)
        made.append({"text": " ".join(first[: len(first) // 2] + second[len(second) // 2 :]), "label": label})
    return made


def write(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def score(folder: Path, engine: str, number: int) -> tuple[float, Path]:
    """(seconds, the rows written)."""
    out = folder / f"{engine}-{number}.jsonl"
    command = [sys.executable, "-m", "gendistill", "score", str(folder / "candidates.jsonl"), "--dataset"]
    command += [str(folder / "real.jsonl"), "--engine", engine, "-o", str(out), "--set", "filters.near_duplicate=1.0"]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started, out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/ag_news/train.jsonl.gz"))
    parser.add_argument("--candidates", type=int, default=20_000)
    parser.add_argument("--times", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rows = rows_of(args.data)
        write(folder / "real.jsonl", rows[:ROWS])
        write(folder / "candidates.jsonl", recombined(rows[ROWS:], args.candidates))
        taken: dict[str, list[float]] = {"local": [], "ray": []}
        for number in range(args.times):
            written = {}
            for engine in ("local", "ray") if number % 2 == 0 else ("ray", "local"):
                seconds, out = score(folder, engine, number)
                taken[engine].append(seconds)
                written[engine] = out.read_bytes()
                print(f"{engine} {seconds:.1f} s", flush=True)
            assert written["local"] == written["ray"], "the engines do not agree"
            print(f"ratio {taken['ray'][-1] / taken['local'][-1]:.3f}", flush=True)
        ratios = [far / near for near, far in zip(taken["local"], taken["ray"], strict=True)]
        print(json.dumps({"candidates": args.candidates, "seconds": taken, "ratio": statistics.median(ratios)}))


if __name__ == "__main__":
    main()
