"""The command line. Each command parses, calls one function of the library, and prints.

Nothing heavy is imported before a command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from gendistill._version import __version__
from gendistill.cli.audit import audit
from gendistill.cli.batch import batch
from gendistill.cli.bench import bench
from gendistill.cli.compare import compare
from gendistill.cli.doctor import doctor
from gendistill.cli.evaluate import evaluate
from gendistill.cli.export import export
from gendistill.cli.generate import generate
from gendistill.cli.plan import plan
from gendistill.cli.push import push
from gendistill.cli.report import report
from gendistill.cli.score import score
from gendistill.cli.select import select
from gendistill.errors import GendistillError
from gendistill.visible import visible

app = typer.Typer(
    name="gendistill",
    help="Distil a large labelled text dataset into a small, readable one that trains models almost as well.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help is whole, never cut to columns, and comes in half the time
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(generate)
app.command()(plan)
app.command()(score)
app.command()(select)
app.command()(evaluate)
app.command()(compare)
app.command()(audit)
app.command()(bench)
app.command()(export)
app.command()(report)
app.add_typer(batch, name="batch")
app.command()(push)
app.command()(doctor)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"gendistill {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (works after any command).")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run a command; errors become one line on standard error and a non-zero exit."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    for name, value in {
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin at barriers crawl when anything else runs on the machine
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
    }.items():
        os.environ.setdefault(name, value)
    try:
        # In this mode click raises its own exceptions, and returns the code of a typer.Exit.
        code = app(args=arguments, standalone_mode=False)
    except Exception as error:
        if debug:
            raise
        show = getattr(error, "show", None)  # a click exception: a wrong flag, a missing argument
        if show is not None:
            show()
            sys.exit(getattr(error, "exit_code", 2))
        if type(error).__name__ == "Abort":
            _interrupted()
        if isinstance(error, GendistillError):
            _fail(str(error), error.exit_code)
        _fail(f"unexpected {type(error).__name__}: {error} (run again with --debug for the traceback)", 1)
    except KeyboardInterrupt:
        _interrupted()
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> None:
    print("error: " + visible(" ".join(message.split())), file=sys.stderr)
    sys.exit(code)


def _interrupted() -> None:
    _fail("interrupted; the same command goes on from here", 130)
