"""gendistill: distil a large labelled text dataset into a small, readable one.

    from gendistill import Config, distill

    result = distill(Config(dataset="reviews.csv", per_class=10, out="runs/reviews"))
    for row in result.rows:
        print(row["label_name"], row["text"])

Heavy imports (torch and the like) happen when a name that needs them is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gendistill._version import __version__

if TYPE_CHECKING:
    from gendistill.config import Config, load_config
    from gendistill.data import load_real
    from gendistill.errors import GendistillError
    from gendistill.evaluate import evaluate
    from gendistill.examples import Candidate, Example
    from gendistill.loop import Distilled, distill
    from gendistill.objectives import OBJECTIVES, build_objective
    from gendistill.scoring import score_candidates, select_candidates
    from gendistill.selection import select

_HOMES = {
    "Candidate": "examples",
    "Config": "config",
    "Distilled": "loop",
    "Example": "examples",
    "GendistillError": "errors",
    "OBJECTIVES": "objectives",
    "build_objective": "objectives",
    "distill": "loop",
    "evaluate": "evaluate",
    "load_config": "config",
    "load_real": "data",
    "score_candidates": "scoring",
    "select": "selection",
    "select_candidates": "scoring",
}

__all__ = [
    "OBJECTIVES",
    "Candidate",
    "Config",
    "Distilled",
    "Example",
    "GendistillError",
    "__version__",
    "build_objective",
    "distill",
    "evaluate",
    "load_config",
    "load_real",
    "score_candidates",
    "select",
    "select_candidates",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gendistill' has no attribute {name!r}")
    return getattr(import_module(f"gendistill.{_HOMES[name]}"), name)
