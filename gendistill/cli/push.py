"""``gendistill push``: a distilled set to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gendistill.errors import RunError


def push(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    repo: Annotated[str, typer.Argument(help="Dataset repository on the hub, such as me/bbc-distilled.")],
    send: Annotated[bool, typer.Option("--send", help="Send it. Without this nothing leaves this machine.")] = False,
    public: Annotated[bool, typer.Option("--public", help="If the repository is made now: for all to see.")] = False,
    despite_audit: Annotated[bool, typer.Option("--despite-audit", help="Send even if the audit failed.")] = False,
) -> None:
    """Show what of RUN would go to the hub; with --send, send it: set, card, audit and configuration, no real rows."""
    from rich.console import Console
    from rich.table import Table

    from gendistill.cli.terminal import tell
    from gendistill.finished import AUDIT
    from gendistill.push import KEPT_BACK, check_name, failed_checks, outgoing
    from gendistill.push import push as push_files

    console = Console()
    check_name(repo)
    files = outgoing(run)
    table = Table(title=f"to datasets/{repo}", title_justify="left")
    table.add_column("file")
    table.add_column("bytes", justify="right")
    for file in files:
        table.add_row(file.path, f"{len(file.content):,}")
    console.print(table)
    kept = [name for name in KEPT_BACK if (run / name).exists()]
    if kept:
        tell(console, f"stays here: {', '.join(kept)}, which hold or stand for real rows")
    failed = failed_checks(run)
    if failed:
        tell(console, f"the audit failed: {', '.join(failed)}")
    if not send:
        console.print("nothing was sent; look at the files, then add --send")
        return
    if failed and not despite_audit:
        raise RunError(f"{run}: the audit failed: {', '.join(failed)}; see audit.json, or add --despite-audit")
    if not (run / AUDIT).is_file():
        console.print("this run was not audited", markup=False)
    address = push_files(files, repo, private=not public)
    tell(console, f"sent: {address}")
