"""``gendistill report``: what a finished run made and how, as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="Run directory, as 'generate --out' wrote it.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write. [default: report.html in RUN]")
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Write the report of a finished run: what students learn from it, a map of the texts, the texts beside the nearest real rows, where the candidates went.

    One HTML file that loads nothing and works offline. It holds real rows.
    """
    from gendistill.report import write_report

    path = write_report(run, out)
    typer.echo(str(path))
    if open_it:
        typer.launch(path.resolve().as_uri())
