"""``gendistill batch``: requests out to a batch service, replies back in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

batch = typer.Typer(
    help="Batch files of OpenAI's form, for hosted batch services and vllm run-batch.", no_args_is_help=True
)
SHOWN = 3  # ids and lines that are named

Run = Annotated[Path, typer.Argument(help="Run directory: what gendistill generate was told as --out.")]


@batch.command("export-requests")
def export_requests(
    run: Run,
    out: Annotated[Path, typer.Option("--out", "-o", help="JSONL file; of several, numbers are added to its name.")] = Path("requests.jsonl"),
    model: Annotated[str | None, typer.Option(help="Model, as the service names it. [default: the run's]")] = None,
    as_chat: Annotated[bool, typer.Option("--as-chat", help="Prompts of a base model as a user's message: vllm run-batch takes chats alone.")] = False,
) -> None:  # fmt: skip
    """Write the requests of a run that have no reply yet."""
    from gendistill import batch as files

    exported = files.export_requests(run, out, model=model, as_chat=as_chat)
    if not exported.requests:
        typer.echo(f"every request has its reply; next: gendistill generate -c {run}/config.yaml")
        return
    for file in exported.files:
        typer.echo(str(file))
    typer.echo(f"{exported.requests:,} requests; next: gendistill batch import-replies {run} REPLIES.jsonl")


@batch.command("import-replies")
def import_replies(
    run: Run,
    replies: Annotated[list[Path], typer.Argument(help="Output and error files of the service, in any order.")],
) -> None:
    """Take the answers of a batch service into a run."""
    from gendistill import batch as files

    found = files.import_replies(run, replies)
    typer.echo(f"{found.replies:,} new replies, {found.known:,} that were there already")
    for what, items in (("of no request of this run", found.unknown), ("not readable", found.unreadable)):
        if items:
            more = ", ..." if len(items) > SHOWN else ""
            typer.echo(f"{len(items):,} lines {what}: {', '.join(items[:SHOWN])}{more}")
    for reason, count in found.failed.most_common(SHOWN):
        typer.echo(f"{count:,} without an answer: {reason}")
    if found.missing:
        typer.echo(
            f"{found.missing:,} requests still wait; next: gendistill batch export-requests {run} -o requests.jsonl"
        )
    else:
        typer.echo(f"every request has its reply; next: gendistill generate -c {run}/config.yaml")
