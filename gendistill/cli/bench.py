"""``gendistill bench``: the standard benchmark, and somebody else's folder measured again."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from gendistill.bench import Bench, Failed, Only

SHOWN_FAILURES = 5


def bench(
    suite: Annotated[
        str | None,
        typer.Argument(help="lite, standard, decoder, or a YAML file. Not needed for a folder that has one."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder. [default: runs/bench-SUITE]")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder with the tasks' files, instead of the hub.", file_okay=False)
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes; others may work in the same folder.", min=1)] = 1,
    sets: Annotated[int | None, typer.Option(help="Sets a method and cell; --check: at most so many.", min=1)] = None,
    runs: Annotated[int | None, typer.Option(help="Students a set.", min=1)] = None,
    per_class: Annotated[str | None, typer.Option(help="Budgets, such as 5,10,20.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="Only this task; may be repeated.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Only this method; may be repeated.")] = None,
    student: Annotated[list[str] | None, typer.Option(help="Only this student; may be repeated.")] = None,
    candidates: Annotated[
        list[str] | None,
        typer.Option(metavar="POOL=FOLDER", help="Take TASK.jsonl files there instead of writing candidates."),
    ] = None,
    external: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=TASK:FOLDER", help="A row of sets that somebody else made: a JSONL file each."),
    ] = None,
    check: Annotated[
        Path | None, typer.Option(help="Measure the sets of this published folder again.", file_okay=False)
    ] = None,
) -> None:
    """Measure methods, tasks, budgets and students against each other; goes on where it was stopped."""
    from rich.console import Console

    from gendistill.errors import ConfigError

    console = Console()
    if (suite is None) == (check is None):
        raise ConfigError("name a suite (lite, standard, decoder or a YAML file), or a folder with --check")
    from gendistill.quiet import quiet_libraries

    quiet_libraries()
    from gendistill.bench import Only

    only = Only(*(tuple(part) if part else None for part in (task, method, student)))
    if check is not None:
        _check(console, check, data_dir, only, sets)
        return
    assert suite is not None
    from gendistill.bench import load_suite, open_bench, run_bench
    from gendistill.cli.terminal import TerminalReporter

    given = load_suite(suite, external=_external(external), sets=sets, runs=runs, per_class=_budgets(per_class))
    pools = _folders(candidates, given.pools)
    folder = out or Path("runs") / f"bench-{given.name}"
    opened = open_bench(given, folder, data_dir, only)
    _announce(console, opened)
    failed = run_bench(opened, workers=workers, candidates=pools, reporter=TerminalReporter(console))
    _tell(console, opened, failed)


def _announce(console: Console, opened: Bench) -> None:
    from gendistill.cli.terminal import tell

    units = opened.units()
    students = sum(unit.kind == "train" for unit in units)
    tell(
        console,
        f"{opened.suite.name}: {len(opened.tasks())} tasks, {len(opened.methods())} methods, "
        f"{len(opened.students())} students; {students:,} trainings, {sum(map(opened.done, units)):,} of {len(units):,} "
        f"steps done",
    )


def _tell(console: Console, opened: Bench, failed: Failed) -> None:
    from gendistill.cli.terminal import tell

    tell(console, (opened.out / "results.md").read_text(encoding="utf-8"))
    tell(
        console,
        f"results.md, .tex, .csv, accuracy.png, costs.md and the sets are in {opened.out}; next: "
        f"gendistill bench --check {opened.out}",
    )
    if failed:
        from gendistill.errors import GendistillError

        reasons = list(dict.fromkeys(failed.values()))
        for reason in reasons[:SHOWN_FAILURES]:
            tell(console, f"failed: {reason}")
        raise GendistillError(
            f"{len(failed)} steps could not be done, for {len(reasons)} reasons; the rest is in the tables"
        )


def _check(console: Console, folder: Path, data_dir: Path | None, only: Only, sets: int | None) -> None:
    from gendistill.bench.checking import check_folder, holds
    from gendistill.cli.terminal import TerminalReporter, tell
    from gendistill.errors import GendistillError

    checked = check_folder(folder, data_dir=data_dir, only=only, sets=sets, reporter=TerminalReporter(console))
    for one in checked:
        tell(
            console,
            f"{one.student}, {one.task} {one.per_class}, {one.method}: published {one.published:.1f}, now {one.measured:.1f} "
            f"({one.sets} sets, ± {one.tolerance:.1f} allowed): {'holds' if one.holds else 'DOES NOT HOLD'}",
        )
    if not holds(checked):
        broken = sum(not one.holds for one in checked)
        raise GendistillError(f"{folder}: {broken} of {len(checked)} cells do not hold")
    tell(console, f"{folder}: all {len(checked)} cells hold")


def _budgets(text: str | None) -> list[int] | None:
    from gendistill.errors import ConfigError

    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--per-class {text}: write whole numbers with commas, such as 5,10,20") from None


def _folders(given: list[str] | None, pools: Iterable[str]) -> dict[str, Path]:
    from gendistill.errors import ConfigError

    folders = {}
    for text in given or []:
        pool, equals, folder = text.partition("=")
        if not equals or not pool or not folder:
            raise ConfigError(f"--candidates {text}: write POOL=FOLDER, such as generated=pools")
        if pool not in pools:
            raise ConfigError(
                f"--candidates {text}: no pool {pool!r} in this suite; there is {', '.join(pools) or 'none'}"
            )
        folders[pool] = Path(folder)
    return folders


def _external(given: list[str] | None) -> dict[str, dict[str, str]]:
    from gendistill.errors import ConfigError

    sets: dict[str, dict[str, str]] = {}
    for text in given or []:
        name, equals, rest = text.partition("=")
        task, colon, folder = rest.partition(":")
        if not equals or not colon or not name or not task or not folder:
            raise ConfigError(f"--external {text}: write NAME=TASK:FOLDER, such as theirs=sst2:their/sets")
        sets.setdefault(name, {})[task] = folder
    return sets
