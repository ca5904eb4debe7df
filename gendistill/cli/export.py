"""``gendistill export``: a distilled set in the format that a trainer reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    file: Annotated[Path, typer.Argument(help="distilled.jsonl of a run, the run directory, or any file of rows of one shape (docs/shapes.md).")],
    format: Annotated[str, typer.Option("--format", "-f", help="text-label, openai, trl, alpaca, sharegpt, llama-factory or hub-folder.")] = "text-label",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File, or folder for llama-factory and hub-folder. [default: beside FILE]")] = None,
) -> None:  # fmt: skip
    """Write a distilled set in the format of a trainer.

    Rows may be texts with a label, pairs of texts, texts with several labels, or conversations.

    text-label: plain JSONL (no conversations). openai: chat messages, which Axolotl reads too. trl: prompt and completion. alpaca, sharegpt: JSONL of those names. llama-factory: a folder with dataset_info.json. hub-folder: a folder with a dataset card.
    """
    from gendistill.data.export import FORMATS, export_file

    written, count = export_file(file, format, out)
    typer.echo(f"{count} rows in {written}")
    if count < FORMATS[format].least_rows:
        typer.echo(f"note: OpenAI's fine-tuning asks for at least {FORMATS[format].least_rows} rows", err=True)
