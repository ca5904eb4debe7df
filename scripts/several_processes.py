"""Seconds of an optimiser step in one process and in several, and what it takes to start and end them.

    python scripts/several_processes.py                       # the demo's teacher, 1 and 2 processes
    python scripts/several_processes.py --generator --steps 6 # its generator's tuning
    python scripts/several_processes.py --processes 1 2 4 8 --student FacebookAI/roberta-large

A line a training: what the clock says, and what the processors worked. "around" is everything but the steps: the head's
start, and with several processes their start, the model read again in each, and their end. Where other work runs beside
it, the quickest of ``--runs`` says most.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gendistill.config import DataConfig, StudentConfig, TuneConfig
from gendistill.data import load_real
from gendistill.examples import Example
from gendistill.generators.base import Lesson
from gendistill.generators.transformers import TransformersGenerator
from gendistill.generators.tuning import tune
from gendistill.parallel import Progress
from gendistill.progress import Advance, Silent
from gendistill.students.encoder import EncoderStudent
from gendistill.teacher import MemoryStore, Teacher

SHOWN = 3  # exemplars of a lesson
WORDS = 40  # of each


class Clock(Silent):
    """Notes when steps were done."""

    def __init__(self) -> None:
        self.ticks: list[tuple[int, float]] = []

    def tick(self, done: int, total: int = 0) -> None:
        self.ticks.append((done, time.perf_counter()))

    @contextmanager
    def track(self, stage: str, total: int, done: int = 0) -> Iterator[Advance]:
        yield lambda done, note="": self.tick(done)

    @property
    def step(self) -> float:
        """Seconds of one, without the first."""
        (first, start), *_, (last, end) = self.ticks
        return (end - start) / (last - first)


def busy() -> float:
    """Processor seconds of this process and of those that it started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def teacher(rows: list[Example], classes: int, args: argparse.Namespace, count: int) -> Callable[[Clock], None]:
    recipe = StudentConfig(
        model=args.student, batch_size=args.batch_size, steps=args.steps, max_steps=args.steps, processes=count
    )
    built = Teacher(recipe, EncoderStudent(recipe, classes), rows, MemoryStore(), Silent(), 0)

    def train(clock: Clock) -> None:
        built.reporter = clock
        built.prepare()

    return train


def tuning(rows: list[Example], args: argparse.Namespace, count: int) -> Callable[[Clock], None]:
    texts = [" ".join(row.text.split()[:WORDS]) for row in rows]
    lessons = [
        Lesson("".join(f"- {text}\n" for text in texts[k : k + SHOWN]) + "-", None, texts[k + SHOWN])
        for k in range(min(len(texts) - SHOWN, args.steps * args.batch_size))
    ]
    settings = TuneConfig(steps=args.steps, batch_size=args.batch_size, processes=count)
    generator = TransformersGenerator(args.generator, mode="base")

    def train(clock: Clock) -> None:
        progress: Progress = clock.tick
        tune(generator, lessons, settings, seed=0, progress=progress)

    return train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rows", type=int, default=400, help="real rows that are learnt")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--student", default="builtin:minilm")
    parser.add_argument("--generator", nargs="?", const="builtin:gemma-3-270m", help="tune this one instead")
    args = parser.parse_args()
    real = load_real(DataConfig(), per_class=1, seed=0)
    rows = real.train[: args.rows]
    for _ in range(args.runs):
        for count in args.processes:
            clock = Clock()
            train = tuning(rows, args, count) if args.generator else teacher(rows, len(real.label_names), args, count)
            before, start = busy(), time.perf_counter()
            train(clock)
            total = time.perf_counter() - start
            around = total - args.steps * clock.step
            print(
                f"{count} processes: {1000 * clock.step:.0f} ms a step, {around:.1f} s around {args.steps} steps, "
                f"{busy() - before:.1f} processor seconds in all",
                flush=True,
            )


if __name__ == "__main__":
    main()
