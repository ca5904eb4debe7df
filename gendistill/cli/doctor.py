"""``gendistill doctor``: what is installed, which models are at hand, what would be used."""

from __future__ import annotations

import typer


def doctor() -> None:
    """Say what is installed, what the machine has, which built-in models are ready, and what would be used."""
    from rich.console import Console
    from rich.table import Table

    from gendistill.diagnosis import diagnose

    console = Console()
    found = diagnose()
    for title, lines in found.items():
        table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2))
        for name, good, detail in lines:
            mark = {True: "[green]ok[/]", False: "[red]no[/]", None: "[dim]--[/]"}[good]
            table.add_row(mark, name, detail)
        console.print(table)
    needed = [name for name, good, _ in found["packages"] if good is False]
    if needed:
        typer.echo(f"missing: {', '.join(needed)}; install them with: pip install gendistill")
        raise typer.Exit(1)
