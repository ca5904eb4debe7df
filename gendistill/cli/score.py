"""``gendistill score``: what each candidate of a file is worth, without any generation."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from gendistill.cli import options
from gendistill.cli.options import (
    build_config,
    candidates_of,
    data_flags,
    engine_flags,
    objective_weights,
    shown_flags,
)


def score(
    candidates: options.Candidates,
    out: Annotated[Path, typer.Option("--out", "-o", help="JSONL to write: every row with verdict and scores.")],
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
    target: options.Target = None,
    student: options.Student = None,
    objective: options.Objective = None,
    engine: options.Engine = None,
    ray_address: options.RayAddress = None,
    storage: options.Storage = None,
    seed: options.Seed = None,
    settings: options.Set = None,
) -> None:
    """Say of every row of CANDIDATES whether the filters keep it, and what it is worth to a student.

    Each row gets the teacher's probability of its label, its likeness to the nearest real row, and the drop in the
    objective that it brings alone.
    """
    from rich.console import Console

    flags = data_flags(task, dataset, subset, split, test, text_column, text_column_b, label_column, label_names)
    flags |= {"student.model": student, "objective.weights": objective_weights(objective), "seed": seed}
    flags |= {"data.target": target} | engine_flags(engine, ray_address, storage)
    resolved = build_config(config, flags, settings)
    source = candidates_of(candidates, out)
    from gendistill.quiet import quiet_libraries

    quiet_libraries()
    from gendistill.atomic import atomic_write
    from gendistill.cli.terminal import TerminalReporter, tell
    from gendistill.data.export import json_line
    from gendistill.scoring import score_candidates

    console = Console()
    scored = score_candidates(source, resolved, reporter=TerminalReporter(console))
    atomic_write(out, "".join(json_line(row) for row in scored.rows))
    for line in (
        f"{len(scored.rows):,} rows in {out}, {len(scored.kept):,} of them kept",
        f"next: gendistill select {shlex.quote(candidates)} {shown_flags(resolved)} --per-class {resolved.per_class} "
        "-o chosen.jsonl",
    ):
        tell(console, line)
