"""``gendistill evaluate``: train fresh students on any JSONL and compare it with baselines of its size."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gendistill.cli import options
from gendistill.cli.options import build_config, data_flags


def evaluate(
    file: Annotated[Path, typer.Argument(help="JSONL with text and label (or label_name), such as distilled.jsonl.")],
    config: options.ConfigFile = None,
    task: options.Task = None,
    dataset: options.Dataset = None,
    subset: options.Subset = None,
    split: options.Split = None,
    test: options.Test = None,
    text_column: options.TextColumn = None,
    text_column_b: options.TextColumnB = None,
    label_column: options.LabelColumn = None,
    label_names: options.LabelNames = None,
    student: options.Student = None,
    labels: Annotated[
        options.LabelKind | None,
        typer.Option(help="soft: train on FILE's soft labels too, beside its hard ones. [default: hard]"),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Students per row of the table, one for the full data. [default: 3]", min=1)
    ] = None,
    full: Annotated[bool, typer.Option(help="Also train on the whole real data.")] = True,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file as well.")] = None,
    seed: options.Seed = None,
    settings: options.Set = None,
) -> None:
    """Train fresh students on FILE and on equal-sized samples of the real data, and compare them on the test split."""
    from rich.console import Console

    flags = data_flags(task, dataset, subset, split, test, text_column, text_column_b, label_column, label_names)
    flags |= {"student.model": student, "evaluate.seeds": seeds, "seed": seed}
    flags["selection.labels"] = None if labels is None else labels.value
    resolved = build_config(config, flags, settings)
    from gendistill.quiet import quiet_libraries

    quiet_libraries()
    from gendistill.cli.terminal import TerminalReporter, results_table
    from gendistill.compare import compare_file

    console = Console()
    table, test_size = compare_file(file, resolved, full=full, reporter=TerminalReporter(console), json_out=json_out)
    console.print(results_table(table, test_size))
