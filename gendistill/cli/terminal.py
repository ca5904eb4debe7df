"""Progress bars and tables on a terminal, plain lines everywhere else."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from gendistill.progress import Advance
from gendistill.visible import visible

if TYPE_CHECKING:
    from gendistill.evaluate import Measured
    from gendistill.evaluate_answers import MeasuredAnswers

PLAIN_EVERY_S = 15.0  # seconds between two lines of a stage where there is no terminal


class _Rate(ProgressColumn):
    """Units a second and the time left, counting only what this process did."""

    def render(self, task: Task) -> Text:
        fresh = task.completed - task.fields.get("before", 0)
        elapsed = task.finished_time if task.finished else task.elapsed
        if fresh <= 0 or not elapsed:
            return Text("")
        rate = fresh / elapsed
        if task.finished:
            return Text(f"{rate:.1f}/s", style="dim")
        left = ((task.total or 0) - task.completed) / rate
        return Text(f"{rate:.1f}/s, {_clock(left)} left", style="dim")


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def tell(console: Console, line: str) -> None:
    """Print text as it is: nothing in it is taken for a style, or steers the terminal."""
    console.print(visible(line), markup=False, highlight=False, soft_wrap=True)


class TerminalReporter:
    """A ``Reporter`` with rich bars, or a line now and then where the output is no terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, line: str) -> None:
        tell(self.console, line)

    @contextmanager
    def track(self, stage: str, total: int, done: int = 0) -> Iterator[Advance]:
        if not self.console.is_terminal:
            with self._plain(stage, total, done) as advance:
                yield advance
            return
        columns = (
            TextColumn("{task.description:<26}"), BarColumn(bar_width=30), MofNCompleteColumn(), TimeElapsedColumn(), _Rate(), TextColumn("{task.fields[note]}", style="dim")
        )  # fmt: skip
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(stage, total=total, completed=done, before=done, note="")
            yield lambda done, note="": progress.update(task, completed=done, note=note)

    @contextmanager
    def _plain(self, stage: str, total: int, before: int) -> Iterator[Advance]:
        started = last = time.monotonic()
        now, told = before, ""

        def line() -> str:
            seconds = time.monotonic() - started
            rate = (now - before) / seconds if seconds > 0 else 0.0
            resumed = f", {before} of them before" if before else ""
            left = f", {_clock((total - now) / rate)} left" if now < total and rate else ""
            said = f", {told}" if told else ""
            return f"{stage}: {now}/{total}{resumed} in {_clock(seconds)} ({rate:.1f}/s{left}){said}"

        def advance(done: int, note: str = "") -> None:
            nonlocal last, now, told
            now, told = done, note
            if time.monotonic() - last >= PLAIN_EVERY_S and now < total:
                last = time.monotonic()
                self.say(line())

        yield advance
        self.say(line())


def results_table(rows: Sequence[Measured] | Sequence[MeasuredAnswers], test_size: int) -> Table:
    table = Table(title=f"fresh students, scored on {test_size} test rows", title_justify="left")
    table.add_column("trained on")
    answers = any(hasattr(row, "loss") for row in rows)
    for name in ("rows", "runs", *(("loss", "spread", "exact") if answers else ("accuracy", "spread", "macro F1"))):
        table.add_column(name, justify="right")
    for row in rows:
        style = "bold" if row.method == "distilled" else ""
        table.add_row(row.method, str(row.size), str(row.runs), *_figures(row), style=style)
    return table


def _figures(row: Measured | MeasuredAnswers) -> tuple[str, str, str]:
    """What was measured, its spread, and the second figure."""
    loss: list[float] | None = getattr(row, "loss", None)
    unit, decimals = (1, 3) if loss is not None else (100, 1)
    second: list[float] | None = getattr(row, "exact" if loss is not None else "macro_f1")
    spread = "" if row.spread is None else f"± {unit * row.spread:.{decimals}f}"
    shown = "" if second is None else f"{100 * sum(second) / len(second):.1f}"
    return f"{unit * row.mean:.{decimals}f}", spread, shown
