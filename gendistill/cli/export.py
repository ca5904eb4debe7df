"""``gendistill export``: a distilled set in the shape that a trainer reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    file: Annotated[Path, typer.Argument(help="distilled.jsonl of a run, the run directory, or any JSONL with text and label.")],
    format: Annotated[str, typer.Option("--format", "-f", help="text-label, openai, trl, alpaca, sharegpt or hub-folder.")] = "text-label",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File, or folder for hub-folder. [default: beside FILE]")] = None,
) -> None:  # fmt: skip
    """Write a distilled set as JSONL for OpenAI, TRL, Alpaca, ShareGPT, plain text/label, or as a hub folder."""
    from gendistill.data.export import export_file

    written, count = export_file(file, format, out)
    typer.echo(f"{count} rows in {written}")
