"""``gendistill compare``: what differs between two runs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def compare(
    run_a: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    run_b: Annotated[Path, typer.Argument(help="Folder of another.")],
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the differences to this file as well.")] = None,
) -> None:
    """Show what differs between two finished runs: configuration, data, choice, results and audit."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from gendistill.atomic import atomic_write
    from gendistill.cli.terminal import tell
    from gendistill.differences import differences
    from gendistill.finished import read_finished
    from gendistill.visible import visible

    console = Console()
    found = differences(read_finished(run_a), read_finished(run_b))
    for name, run in (("A", run_a), ("B", run_b)):
        tell(console, f"{name}  {run}")
    for heading, lines in found.items():
        if not lines:
            continue
        table = Table(title=heading, title_justify="left")
        for name in ("", "A", "B", *(["B against A"] if any(line.difference for line in lines) else [])):
            table.add_column(name, overflow="fold")
        for line in lines:
            cells = (line.what, line.a, line.b, *((line.difference,) if len(table.columns) > 3 else ()))
            table.add_row(*(Text(visible(cell)) for cell in cells))
        console.print(table)
    same = [heading for heading, lines in found.items() if not lines]
    if same:
        tell(console, f"the same: {', '.join(same)}")
    if json_out is not None:
        shown = {heading: [asdict(line) for line in lines] for heading, lines in found.items()}
        atomic_write(json_out, json.dumps(shown, indent=2, ensure_ascii=False) + "\n")
