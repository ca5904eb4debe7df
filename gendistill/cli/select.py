"""``gendistill select``: the best few of a file of candidates, or of the real rows, without any generation."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from gendistill.cli import options
from gendistill.cli.options import build_config, candidates_of, choice_flags, data_flags, engine_flags, shown_flags


def select(
    candidates: options.Candidates,
    out: Annotated[Path, typer.Option("--out", "-o", help="JSONL to write: the chosen rows.")],
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
    per_class: options.PerClass = None,
    budget: options.Budget = None,
    student: options.Student = None,
    method: options.Method = None,
    objective: options.Objective = None,
    finalists: options.Finalists = None,
    labels: options.Labels = None,
    engine: options.Engine = None,
    ray_address: options.RayAddress = None,
    storage: options.Storage = None,
    seed: options.Seed = None,
    settings: options.Set = None,
) -> None:
    """Choose the few rows of CANDIDATES that together stand in best for the real data."""
    from rich.console import Console

    flags = data_flags(task, dataset, subset, split, test, text_column, text_column_b, label_column, label_names)
    flags |= choice_flags(per_class, method, objective, finalists, labels, budget)
    flags |= engine_flags(engine, ray_address, storage)
    resolved = build_config(config, flags | {"student.model": student, "seed": seed, "data.target": target}, settings)
    source = candidates_of(candidates, out)
    from gendistill.quiet import quiet_libraries

    quiet_libraries()
    from gendistill.atomic import atomic_write
    from gendistill.cli.terminal import TerminalReporter, tell
    from gendistill.data.export import json_line
    from gendistill.scoring import select_candidates

    console = Console()
    chosen = select_candidates(source, resolved, reporter=TerminalReporter(console))
    atomic_write(out, "".join(json_line(row) for row in chosen.rows))
    for line in (
        *chosen.notes,
        f"{len(chosen.rows)} texts in {out}, "
        + (
            f"loss {chosen.loss:.4f} on held-out rows"
            if resolved.selection.method == "portfolio"
            else f"objective {chosen.loss:.4f} (1 is that of choosing nothing)"
        ),
        f"next: gendistill evaluate {shlex.quote(str(out))} {shown_flags(resolved)}"
        + (" --labels soft" if resolved.selection.labels == "soft" else ""),
    ):
        tell(console, line)
