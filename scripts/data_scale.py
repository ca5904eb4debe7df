"""How sampling real data that is never held whole, and looking for copies of all of it, scale with its rows.

    python scripts/data_scale.py                                     # 1,000,000 and 5,000,000 rows; a Markdown table
    python scripts/data_scale.py --sizes 200000 --kind jsonl --processes 2

Rows are short texts made of those of AG News, numbered so that each differs, in files of at most 1,000,000 rows in a
temporary folder. Each measurement runs in a process of its own, so that its peak memory is its own. Candidates are
halves of two real texts, but for one in a hundred, which is a real row.
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
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

from gendistill.config import Config
from gendistill.data import load_real
from gendistill.data.copies import copies_of_all
from gendistill.data.readers import Source
from gendistill.data.sources import data_shards, in_processes
from gendistill.examples import Example

AG_NEWS = Path(__file__).parents[2] / "shared/data/ag_news/train.jsonl.gz"
FILE_ROWS, GROUP_ROWS = 1_000_000, 100_000
WORDS = 14  # of a real text, at most
COPIED = 100  # one candidate in so many is a real row


def texts(source: Path) -> list[tuple[str, str]]:
    """The beginnings of real texts, with their labels."""
    with gzip.open(source, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [(" ".join(row["text"].split()[:WORDS]), str(row["label"])) for row in rows]


def row(real: list[tuple[str, str]], number: int) -> dict[str, str]:
    """A text of two real ones, and a number that no other has."""
    first, label = real[number % len(real)]
    second = real[number * 7919 % len(real)][0]
    return {"text": f"{' '.join(first.split()[:9])} {number} {' '.join(second.split()[:6])}.", "label": label}


def write(folder: Path, real: list[tuple[str, str]], count: int, kind: str) -> None:
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    numbers = iter(range(count))
    for part in range(-(-count // FILE_ROWS)):
        path = folder / f"part-{part:03d}.{kind}"
        if kind == "jsonl":
            with path.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(row(real, number)) + "\n" for number in islice(numbers, FILE_ROWS))
            continue
        schema = pyarrow.schema([("text", pyarrow.string()), ("label", pyarrow.string())])
        with ParquetWriter(path, schema) as writer:
            for _ in range(FILE_ROWS // GROUP_ROWS):
                rows = [row(real, number) for number in islice(numbers, GROUP_ROWS)]
                if rows:
                    writer.write_table(pyarrow.Table.from_pylist(rows, schema))


def made_candidates(real: list[tuple[str, str]], rows: int, count: int) -> Iterator[Example]:
    rng = random.Random(1)
    for number in range(count):
        if number % COPIED == 0:
            yield Example((row(real, rng.randrange(rows))["text"],), 0)
        else:
            first, second = (rng.choice(real)[0].split() for _ in range(2))
            yield Example((" ".join([*first[:4], f"c{number}", *second[-4:]]) + ".",), 0)


def peak() -> float:
    """Of this process so far, in GB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e6


def cpu() -> float:
    """Seconds of this process and of those it has ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def with_peak(work: Callable[[Source], object], shard: Source) -> tuple[object, float]:
    return work(shard), peak()


def measure(options: argparse.Namespace) -> dict[str, float]:
    folder, processes = options.folder, options.processes[0]
    settings = {"dataset": f"{folder}/*.{options.kind}", "max_rows": options.max_rows, "test": "none"}
    config = Config(data=settings)
    workers = [0.0]

    def run(work: Callable, shards: list[Source]) -> Iterator:
        each = map if processes == 1 else in_processes(processes)
        for result, used in each(partial(with_peak, work), shards):
            workers.append(used)
            yield result
            del result

    began, cpu_began = time.perf_counter(), cpu()
    real = load_real(config.data, per_class=1, seed=0, run=run)
    sampled, cpu_sampled = time.perf_counter(), cpu()
    sample_peak, sample_workers, workers = peak(), max(workers), [0.0]
    candidates = list(made_candidates(texts(options.source), options.one, options.candidates))
    before, cpu_before = time.perf_counter(), cpu()
    found = copies_of_all(config, real, candidates, run)
    done = time.perf_counter()
    return {
        "shards": len(data_shards(config.data)),
        "held": len(real.train) + len(real.dev),
        "sample_s": sampled - began,
        "sample_cpu_s": cpu_sampled - cpu_began,
        "sample_gb": sample_peak,
        "sample_worker_gb": sample_workers if processes > 1 else 0.0,
        "copies_s": done - before,
        "copies_cpu_s": cpu() - cpu_before,
        "found": len(found),
        "copies_gb": peak(),
        "copies_worker_gb": max(workers) if processes > 1 else 0.0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000_000, 5_000_000])
    parser.add_argument("--max-rows", type=int, default=100_000)
    parser.add_argument("--candidates", type=int, default=100_000)
    parser.add_argument("--kind", choices=["parquet", "jsonl"], default="parquet")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--source", type=Path, default=AG_NEWS, help="texts to make rows of, .jsonl.gz")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options)))
        return
    columns = ["rows", "GB", "shards", "processes", "held", "sample s", "CPU s", "peak GB", "copies s", "CPU s"]
    print("|", " | ".join([*columns, "found", "peak GB"]), "|", flush=True)
    print("|---" * (len(columns) + 2) + "|", flush=True)
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), texts(options.source), size, options.kind)
            bytes_ = sum(path.stat().st_size for path in Path(folder).iterdir())
            for processes in options.processes:
                arguments = ["--one", str(size), "--folder", folder, "--processes", str(processes)]
                arguments += ["--max-rows", str(options.max_rows), "--candidates", str(options.candidates)]
                arguments += ["--kind", options.kind, "--source", str(options.source)]
                command = [sys.executable, __file__, *arguments]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                one = json.loads(done.stdout.splitlines()[-1])
                more = f" + {processes} x {{:.2f}}" if processes > 1 else ""
                print(
                    f"| {size:,} | {bytes_ / 1e9:.2f} | {one['shards']} | {processes} | {one['held']:,} "
                    f"| {one['sample_s']:.0f} | {one['sample_cpu_s']:.0f} "
                    f"| {one['sample_gb']:.2f}{more.format(one['sample_worker_gb'])} "
                    f"| {one['copies_s']:.0f} | {one['copies_cpu_s']:.0f} | {one['found']:,} "
                    f"| {one['copies_gb']:.2f}{more.format(one['copies_worker_gb'])} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
