"""The standard benchmark: tasks x budgets x methods x students. ``run_bench`` is the way in."""

from __future__ import annotations

import gc
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gendistill.atomic import atomic_write
from gendistill.bench.folder import FULL, Bench, Cell, Only, Unit, open_bench
from gendistill.bench.suite import REAL, SUITES, Suite, load_suite, slug
from gendistill.errors import GendistillError
from gendistill.progress import Reporter, Silent

WAIT_S = 1.0  # before looking again, where all that is left is in other hands
Failed = dict[Unit, str]


def run_bench(
    bench: Bench,
    *,
    workers: int = 1,
    candidates: Mapping[str, Path] | None = None,
    reporter: Reporter | None = None,
) -> Failed:
    """Do what is not done yet, and write the tables.

    Run it again after an interruption, or at the same time from other processes that share the folder.

    :param workers: processes of this machine; each takes a GPU in turn where there are several.
    :param candidates: pool -> folder of <task>.jsonl files to take instead of writing candidates.
    :returns: what could not be done, and why; the rest is done all the same.
    :raises GendistillError: the candidates cannot be had.
    """
    from gendistill.bench.pools import write_pool
    from gendistill.bench.report import write_report

    reporter = reporter or Silent()
    for pool in bench.pools():
        for task in bench.tasks():
            write_pool(bench, pool, task, (candidates or {}).get(pool), reporter)
    for method, task in bench.imports():
        import_sets(bench, method, task)
    units = bench.units()
    done = sum(map(bench.done, units))
    with reporter.track("bench", len(units), done=done) as advance:
        failed = work(bench, advance) if workers == 1 else _share(bench, workers, advance)
    write_report(bench)
    return failed


def work(bench: Bench, advance: Callable[[int], None] | None = None, turn: int = 0) -> Failed:
    """Take unit after unit until nothing is left that can be done.

    :param turn: of this worker among several, which says what it begins with.
    """
    from gendistill.bench.choosing import Chooser
    from gendistill.bench.measuring import Examiner

    held: Chooser | Examiner | None = None

    def do(unit: Unit) -> None:
        nonlocal held
        kind, cell = Chooser if unit.kind == "choose" else Examiner, unit.cell
        if not isinstance(held, kind) or held.task != cell.task:
            held = None  # one task at a time: the students and features of several do not fit into memory
            gc.collect()
            held = kind(bench, cell.task)
        if isinstance(held, Chooser):
            bench.write(unit, held.choose(cell))
        else:
            bench.write(unit, held.text(cell) if unit.kind == "text" else held.train(cell, unit.student))

    failed: Failed = {}
    units = bench.units(turn)
    while True:
        left, idle = False, True
        for unit in units:
            if unit in failed or bench.done(unit) or not bench.ready(unit):
                continue
            left = True
            with bench.claim(str(unit)) as ours:
                if not ours or bench.done(unit):
                    continue
                idle = False
                try:
                    do(unit)
                except GendistillError as error:
                    failed[unit] = str(error)
            if advance:
                advance(sum(map(bench.done, units)))
        if not left:
            return failed
        if idle:
            time.sleep(WAIT_S)


def _share(bench: Bench, workers: int, advance: Callable[[int], None]) -> Failed:
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    processes = [
        context.Process(target=_worker, args=(bench, index, workers, results), daemon=True) for index in range(workers)
    ]
    for process in processes:
        process.start()
    units, heard = bench.units(), 0
    failed: Failed = {}
    try:
        while any(process.is_alive() for process in processes) or not results.empty():
            advance(sum(map(bench.done, units)))
            while not results.empty():
                failed |= results.get()
                heard += 1
            time.sleep(WAIT_S)
    finally:
        for process in processes:
            process.terminate()
            process.join()
    if heard < workers:
        raise GendistillError(
            f"{workers - heard} of {workers} worker processes died; the same command goes on from here"
        )
    advance(sum(map(bench.done, units)))
    return failed


def _worker(bench: Bench, index: int, workers: int, results: multiprocessing.SimpleQueue[Failed]) -> None:
    devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    if devices is None:
        import torch

        devices = ",".join(map(str, range(torch.cuda.device_count())))
    if devices:
        every = devices.split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = every[index % len(every)]
    import torch

    torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    from gendistill.quiet import quiet_libraries

    quiet_libraries()
    results.put(work(bench, turn=index))


def import_sets(bench: Bench, method: str, task: str) -> None:
    """Copy somebody else's sets into the folder, each where its budget says; once.

    :raises DataError: a file that cannot be read, or has a label that the task does not have.
    """
    from gendistill.bench.choosing import known_rows
    from gendistill.compare import load_set
    from gendistill.data.export import json_line
    from gendistill.data.rows import texts_of

    finished = bench.out / "work" / slug(task) / f"{slug(method)}.imported"
    if finished.exists():
        return
    names = known_rows(bench, task).label_names
    numbers: dict[int, int] = {}
    for path in bench.given_sets(method, task):
        examples, _ = load_set(path, names)
        per_class = round(len(examples) / len(names))
        number = numbers.setdefault(per_class, 0)
        numbers[per_class] += 1
        rows = [
            {**texts_of(row), "label": row.label, "label_name": names[row.label], "id": row.id,
             "provenance": {"file": path.name}}
            for row in examples
        ]  # fmt: skip
        atomic_write(bench.set_path(Cell(task, per_class, method, number)), "".join(map(json_line, rows)))
    atomic_write(finished, "")


__all__: Sequence[str] = [
    "FULL",
    "REAL",
    "SUITES",
    "Bench",
    "Cell",
    "Only",
    "Suite",
    "Unit",
    "load_suite",
    "open_bench",
    "run_bench",
    "work",
]
