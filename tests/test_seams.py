"""The shape of the package: light imports, one import direction, errors that can be told apart."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import gendistill.errors
from gendistill.errors import GendistillError

PACKAGE = Path(gendistill.errors.__file__).parent
HEAVY = ("torch", "transformers", "sentence_transformers", "faiss", "datasets", "pyarrow", "pandas")


@pytest.mark.parametrize(
    "module",
    [
        "gendistill",
        "gendistill.examples",
        "gendistill.config",
        "gendistill.filters",
        "gendistill.data",
        "gendistill.tasks",
    ],
)
def test_imports_nothing_heavy(module: str) -> None:
    script = f"import sys, {module}; print(' '.join(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PACKAGE.parent, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def at_run_time(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below one, without those that only a type checker sees."""
    yield node
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        return
    for child in ast.iter_child_nodes(node):
        yield from at_run_time(child)


def imported(module: str, path: Path) -> set[str]:
    """Full dotted names of all that a module imports when it runs, at its top or inside functions."""
    names: set[str] = set()
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in at_run_time(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *filter(None, [node.module])])
            names.update([source, *(f"{source}.{alias.name}" for alias in node.names)])
    return names


def reaches(names: set[str], *targets: str) -> set[str]:
    return {name for name in names for target in targets if name == target or name.startswith(f"{target}.")}


# The public names of `gendistill` re-export the loop, so a room may not import from there either.
TOP = ("gendistill.loop", "gendistill.cli", "gendistill.distill")
MAY_USE_THE_LOOP = ("gendistill", "gendistill.__main__", "gendistill.cli", "gendistill.loop", "gendistill.bench.pools")


@pytest.mark.parametrize(("module", "path"), list(modules()), ids=lambda value: value if isinstance(value, str) else "")
def test_import_direction(module: str, path: Path) -> None:
    names = imported(module, path)
    if module not in MAY_USE_THE_LOOP and not module.startswith("gendistill.cli."):
        assert not reaches(names, *TOP), f"{module} is below the loop and the command line"
    if module == "gendistill.loop":
        assert not reaches(names, "gendistill.cli")
    if module in ("gendistill.examples", "gendistill.errors"):
        assert not reaches(names, "gendistill") - reaches(names, "gendistill.errors"), f"{module} is the bottom"
    if module.endswith(".base"):
        bottom = reaches(names, "gendistill.examples", "gendistill.errors", "gendistill.config")
        assert not reaches(names, "gendistill") - bottom, f"{module} is a seam: values only"


def test_the_import_reader_sees_every_way_to_import(tmp_path: Path) -> None:
    source = tmp_path / "greedy.py"
    source.write_text(
        "from gendistill import loop\n"
        "def late():\n"
        "    import gendistill.cli.main\n"
        "    from ..data import load\n"
        "    from . import swap\n"
        "if TYPE_CHECKING:\n"
        "    from gendistill.loop import Distilled\n"
    )
    names = imported("gendistill.selection.greedy", source)
    assert reaches(names, *TOP) == {"gendistill.loop", "gendistill.cli.main"}
    assert {"gendistill.data.load", "gendistill.selection.swap"} <= names


def test_errors_have_one_root_and_their_own_exit_codes() -> None:
    public = [
        error
        for name, error in vars(gendistill.errors).items()
        if inspect.isclass(error) and issubclass(error, BaseException) and not name.startswith("_")
    ]
    assert len(public) >= 7
    assert all(issubclass(error, GendistillError) for error in public)
    codes = [error.exit_code for error in public]
    assert len(set(codes)) == len(codes)
    assert 0 not in codes
