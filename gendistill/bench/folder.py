"""The folder of a benchmark: where everything lies, what is done, and who is at work on what.

    bench.yaml                                    the suite
    sets/<task>/dpc-<k>/<method>/set-<nn>.jsonl   every distilled set
    results/.../set-<nn>.<student>.json           scores of the students trained on it; also .choice.json and .text.json
    candidates/<pool>/<task>.jsonl                what the generator wrote, with the verdict of the filters
    results.md .tex .csv, accuracy.png, costs.md, README.md
    work/                                         runs, features, claims: not for publishing

A unit of work is done when its file is there, and files appear whole. Claims are file locks, which the operating system
drops with their process: any number of processes on machines that share the folder may work in it, and be killed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from gendistill.atomic import atomic_write
from gendistill.bench.suite import REAL, Suite, load_suite, slug, suite_yaml
from gendistill.config import DataConfig
from gendistill.errors import ConfigError, DataError, RunError
from gendistill.evaluate import FULL
from gendistill.examples import content_hash


@dataclass(frozen=True, order=True)
class Cell:
    """A set: the one that a method chooses for a task and budget by a seed; or all of train (``FULL``, budget 0)."""

    task: str
    per_class: int
    method: str
    set: int

    @property
    def place(self) -> Path:
        budget = f"dpc-{self.per_class}" if self.per_class else "full"
        return Path(slug(self.task), budget, slug(self.method), f"set-{self.set:02d}")


@dataclass(frozen=True)
class Unit:
    """A piece of work: what to do, for which set, and with which student."""

    kind: str  # choose, train, text
    cell: Cell
    student: str = ""


@dataclass(frozen=True)
class Only:
    """Parts of a suite to work on; None: all."""

    tasks: tuple[str, ...] | None = None
    methods: tuple[str, ...] | None = None
    students: tuple[str, ...] | None = None


class Bench:
    """A suite, its folder, and where its data are.

    :param data_dir: folder of the tasks' local files; None: the hub names of the suite.
    :param only: what to work on; tables show all that is there.
    :raises ConfigError: ``data_dir`` for a task that names no local files.
    :raises DataError: a file of a task is not there.
    """

    def __init__(self, suite: Suite, out: Path, data_dir: Path | None = None, only: Only | None = None) -> None:
        self.suite, self.out, self.data_dir, self.only = suite, out, data_dir, only or Only()
        self._done: set[Unit] = set()
        for part in ("tasks", "methods", "students"):
            for name in getattr(self.only, part) or ():
                if name not in getattr(suite, part):
                    raise ConfigError(
                        f"no {part[:-1]} {name!r} in this suite; there is {', '.join(getattr(suite, part))}"
                    )
        for task in self.tasks():
            self.data(task)

    def data(self, task: str) -> DataConfig:
        given = self.suite.tasks[task]
        if self.data_dir is None:
            return given.data
        if given.local is None:
            raise ConfigError(f"tasks.{task}: names no local files for --data-dir; add local: to it")
        files = {"dataset": self.data_dir / given.local.train, "test": self.data_dir / given.local.test}
        for file in files.values():
            if not file.is_file():
                raise DataError(f"{file}: no such file; check --data-dir")
        # Columns are the hub's; files have their own, which are found.
        plain = {"subset": None, "split": "train", "text_column": None, "text_column_b": None, "label_column": None}
        return given.data.model_copy(update={key: str(file) for key, file in files.items()} | plain)

    def given_sets(self, method: str, task: str) -> list[Path]:
        """Files of sets that are there already, in order."""
        folder = Path(self.suite.methods[method].sets[task])
        if self.data_dir is not None:
            folder = self.data_dir / folder
        files = sorted(path for path in folder.glob("*.jsonl*") if path.is_file())
        if not files:
            raise DataError(f"{folder}: no JSONL files with sets of {method!r}; check the folder")
        return files

    # -- what there is to do --------------------------------------------------------------------------------------

    def whole(self) -> Bench:
        """All that is in the folder, whatever is worked on now; what tables show."""
        return Bench(self.suite, self.out)

    def tasks(self) -> list[str]:
        return [name for name in self.suite.tasks if self.only.tasks is None or name in self.only.tasks]

    def methods(self) -> list[str]:
        return [name for name in self.suite.methods if self.only.methods is None or name in self.only.methods]

    def students(self) -> list[str]:
        return [name for name in self.suite.students if self.only.students is None or name in self.only.students]

    def pools(self) -> list[str]:
        """Those that a method chooses from."""
        wanted = {self.suite.methods[name].candidates for name in self.methods()} - {REAL}
        return [name for name in self.suite.pools if name in wanted]

    def imports(self) -> list[tuple[str, str]]:
        """(method, task) of sets that are there already."""
        given = {name: self.suite.methods[name].sets for name in self.methods()}
        return [(name, task) for name, sets in given.items() for task in sets if task in self.tasks()]

    def cells(self) -> list[Cell]:
        """Every set that there is or will be, of what is worked on."""
        suite, chosen = self.suite, [name for name in self.methods() if not self.suite.methods[name].sets]
        cells = [
            Cell(task, per_class, method, number)
            for number in range(suite.sets)
            for task in self.tasks()
            for per_class in suite.budgets(task)
            for method in chosen
        ]
        return cells + [
            Cell(task, per_class, method, number)
            for method, task in self.imports()
            for per_class in suite.budgets(task)
            for number in range(len(self.imported(method, task, per_class)))
        ]

    def imported(self, method: str, task: str, per_class: int) -> list[Path]:
        """The copies of somebody else's sets, of one budget."""
        folder = (self.out / "sets" / Cell(task, per_class, method, 0).place).parent
        return sorted(folder.glob("set-*.jsonl"))

    def units(self, turn: int = 0) -> list[Unit]:
        """Everything to do, in a good order: what comes first can be shown first.

        :param turn: workers with different ones begin with different tasks, and do not wait for each other's features.
        """
        cells, units = self.cells(), []
        for cell in cells:
            if not self.suite.methods[cell.method].sets:
                units.append(Unit("choose", cell))
            units += self._trainings(cell)
            units.append(Unit("text", cell))
        full = [Cell(task, 0, FULL, run) for run in range(self.suite.full_runs) for task in self.tasks()]
        units += [unit for cell in full for unit in self._trainings(cell)]
        order = {"choose": 0, "train": 1, "text": 1}
        tasks = self.tasks()
        place = {task: (index - turn) % len(tasks) for index, task in enumerate(tasks)}
        return sorted(units, key=lambda unit: (unit.cell.set, order[unit.kind], place[unit.cell.task]))

    def _trainings(self, cell: Cell) -> list[Unit]:
        return [Unit("train", cell, name) for name in self.students() if self.suite.measures(name, cell.per_class)]

    def path(self, unit: Unit) -> Path:
        """The file that says that a unit is done."""
        ending = {"choose": "choice", "text": "text"}.get(unit.kind) or slug(unit.student)
        place = self.out / "results" / unit.cell.place
        return place.with_name(f"{place.name}.{ending}.json")

    def done(self, unit: Unit) -> bool:
        if unit in self._done:
            return True
        result = self.result(unit)
        wanted = 1 if unit.cell.method == FULL else self.suite.runs
        done = result is not None and (unit.kind != "train" or len(result["accuracy"]) >= wanted)
        if done:
            self._done.add(unit)
        return done

    def ready(self, unit: Unit) -> bool:
        """Whether what it needs is there."""
        return unit.kind == "choose" or unit.cell.method == FULL or self.set_path(unit.cell).exists()

    def set_path(self, cell: Cell) -> Path:
        place = self.out / "sets" / cell.place
        return place.with_name(f"{place.name}.jsonl")

    def result(self, unit: Unit) -> dict[str, Any] | None:
        path = self.path(unit)
        if not path.exists():
            return None
        return json.loads(path.read_text(encoding="utf-8"))

    def write(self, unit: Unit, result: dict[str, Any]) -> None:
        atomic_write(self.path(unit), json.dumps(result, ensure_ascii=False) + "\n")

    @contextmanager
    def claim(self, *names: str, wait: bool = False) -> Iterator[bool]:
        """Whether the named work is ours for the length of the block; another process may have it."""
        folder = self.out / "work" / "claims"
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{content_hash(*names)[:24]}.lock")
        try:
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()


def open_bench(suite: Suite, out: Path, data_dir: Path | None = None, only: Only | None = None) -> Bench:
    """A folder for the suite: a new one, or one that holds the same suite, perhaps of fewer sets, runs or budgets.

    :raises RunError: the folder holds another suite, or something else.
    """
    bench = Bench(suite, out, data_dir, only)
    file = out / "bench.yaml"
    with bench.claim("folder", wait=True):
        if file.exists():
            before = load_suite(str(file))
            changed = _differing(before, suite)
            if changed:
                raise RunError(
                    f"{out}: holds a benchmark with another {', '.join(changed)}; choose another --out, or leave that "
                    "as it was"
                )
            # What earlier commands added, such as --external, stays in the tables, but only what is asked now is done.
            own = {part: tuple(getattr(suite, part)) for part in ("tasks", "methods", "students")}
            kept = {part: {**getattr(before, part), **getattr(suite, part)} for part in (*own, "pools")}
            suite = suite.model_copy(update=kept)
            asked = {part: getattr(bench.only, part) or names for part, names in own.items()}
            bench = Bench(suite, out, data_dir, Only(**asked))
        elif any(path.name != "work" for path in out.iterdir()):
            raise RunError(f"{out}: not empty and no benchmark; choose another --out")
        atomic_write(file, suite_yaml(suite))
    return bench


def _differing(before: Suite, now: Suite) -> list[str]:
    """Parts that must stay, since files that are there were made by them; more of anything may be asked for."""
    may_grow = {"sets", "runs", "full_runs", "per_class", "student_budgets", "about", "fluency", "ours"}
    named = {"tasks", "methods", "students", "pools"}
    fixed = Suite.model_fields.keys() - may_grow - named
    changed = sorted(name for name in fixed if getattr(before, name) != getattr(now, name))
    for part in sorted(named):
        old, new = getattr(before, part), getattr(now, part)
        changed += [f"{part}.{name}" for name in old.keys() & new.keys() if old[name] != new[name]]
    return changed
