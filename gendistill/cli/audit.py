"""``gendistill audit``: look for copies, personal data, poison and the like in a set before it leaves the building."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gendistill.cli import options
from gendistill.cli.options import build_config, data_flags

if TYPE_CHECKING:
    from gendistill.audit import Audit

SHOWN = 3  # findings of each check


def audit(
    file: Annotated[Path, typer.Argument(help="JSONL, CSV or Parquet with text and label, or a run directory.")],
    config: options.ConfigFile = None,
    task: options.Task = None,
    real: Annotated[
        str | None,
        typer.Option(
            "--real",
            "--dataset",
            help="Real data that FILE stands in for: hub name, file, or builtin:bbc-news. [default: builtin:bbc-news]",
        ),
    ] = None,
    subset: options.Subset = None,
    split: options.Split = None,
    test: options.Test = None,
    text_column: options.TextColumn = None,
    text_column_b: options.TextColumnB = None,
    label_column: options.LabelColumn = None,
    label_names: options.LabelNames = None,
    target: options.Target = None,
    student: options.Student = None,
    checks: Annotated[
        str | None,
        typer.Option(
            help="Some of memorisation, membership, personal_data, poisoning, labels, toxicity, balance, separated by commas. [default: all]"
        ),
    ] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the whole audit to this file.")] = None,
    sarif_out: Annotated[
        Path | None, typer.Option("--sarif", help="Write the findings to this file as SARIF 2.1.0.")
    ] = None,
    fail_on: Annotated[
        str | None,
        typer.Option(
            help="Exit with 1 on a finding of this level (error, warning, note) or a graver one; or where one of these checks failed, separated by commas."
        ),
    ] = None,
    seed: options.Seed = None,
    settings: options.Set = None,
) -> None:
    """Look in FILE for copies of real rows, signs of who was in them, personal data, poison, wrong labels, offence.

    Findings are masked. docs/audit.md says what each check means, and what it does not prove.
    """
    import json

    from rich.console import Console

    flags = data_flags(task, real, subset, split, test, text_column, text_column_b, label_column, label_names)
    flags |= {"data.target": target, "student.model": student, "seed": seed}
    flags["audit.checks"] = None if checks is None else [name.strip() for name in checks.split(",")]
    resolved = build_config(config, flags, settings)
    wanted = _wanted(fail_on, list(resolved.audit.checks))
    from gendistill.quiet import quiet_libraries

    quiet_libraries()
    from gendistill.atomic import atomic_write
    from gendistill.audit import audit_file
    from gendistill.cli.terminal import TerminalReporter

    console = Console()
    made = audit_file(file, resolved, reporter=TerminalReporter(console))
    for out, content in ((json_out, made.to_json()), (sarif_out, made.to_sarif())):
        if out is not None:
            atomic_write(out, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    for line in _lines(made):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    failing = made.failing(wanted)
    if failing:
        typer.echo(f"failed on {', '.join(wanted)}: {'; '.join(failing)}", err=True)
        raise typer.Exit(1)


def _wanted(text: str | None, checks: list[str]) -> list[str]:
    """A level, or names of checks.

    :raises ConfigError: it is neither.
    """
    from gendistill.errors import ConfigError

    names = [name.strip() for name in text.split(",")] if text is not None else []
    levels = ("error", "warning", "note")
    for name in names:
        if name not in (*levels, *checks):
            raise ConfigError(
                f"--fail-on {text}: {name!r} is no level ({', '.join(levels)}) and none of the checks that are made "
                f"({', '.join(checks)})"
            )
    return names


def _lines(made: Audit) -> list[str]:
    lines = [f"{made.file}: {made.rows:,} rows against {made.real_rows:,} of {made.real}"]
    for check in made.checks:
        lines.append(f"{check.status:<8} {check.title}: {check.summary}")
        lines += [f"         line {one.row}, {one.level}: {one.message}" for one in check.findings[:SHOWN]]
        if len(check.findings) > SHOWN:
            lines.append(f"         and {len(check.findings) - SHOWN:,} more; --json writes them all")
    return lines
