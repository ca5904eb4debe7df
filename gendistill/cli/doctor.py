"""``gendistill doctor``: what is installed, which models are at hand, what would be used."""

from __future__ import annotations

from typing import Annotated

import typer


def doctor(
    base_url: Annotated[list[str] | None, typer.Option(help="A server to look at too; several may be given.")] = None,
    api_key_env: Annotated[str, typer.Option(help="Environment variable that holds its key.")] = "OPENAI_API_KEY",
) -> None:
    """Say what is installed, what the machine has, which built-in models and servers answer, and what would be used."""
    from rich.console import Console
    from rich.table import Table

    from gendistill.diagnosis import diagnose, look_at_servers

    console = Console()
    found = diagnose()
    if base_url:
        found["servers"] = look_at_servers(base_url, api_key_env)
    for title, lines in found.items():
        table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2))
        for name, good, detail in lines:
            mark = {True: "[green]ok[/]", False: "[red]no[/]", None: "[dim]--[/]"}[good]
            table.add_row(mark, name, detail)
        console.print(table)
    if any(good is False for _, good, _ in found.get("servers", [])):
        raise typer.Exit(1)
    needed = [name for name, good, _ in found["packages"] if good is False]
    if needed:
        typer.echo(f"missing: {', '.join(needed)}; install them with: pip install gendistill")
        raise typer.Exit(1)
