"""Accuracy against the budget, with bands."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gendistill.atomic import atomic_write
from gendistill.bench.statistics import estimate
from gendistill.bench.suite import Suite
from gendistill.evaluate import FULL

if TYPE_CHECKING:
    from gendistill.bench.report import Scores

_DASHES = ("-", "--", ":", "-.")


def draw(path: Path, suite: Suite, everyone: Sequence[Scores]) -> bool:
    """A row of panels a student, a panel a task; a line a method, the band its 95 % interval.

    :returns: whether it was drawn: matplotlib must be there, and results of some method.
    """
    everyone = [scores for scores in everyone if scores.methods]
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    if not everyone:
        return False
    shown = {task for scores in everyone for task, _ in scores.columns}
    tasks, rng = [task for task in suite.tasks if task in shown], np.random.default_rng(0)
    figure = Figure(figsize=(4.2 * len(tasks), 3.4 * len(everyone) + 0.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(everyone), len(tasks), squeeze=False)
    for line, scores in zip(panels, everyone, strict=True):
        for panel, task in zip(line, tasks, strict=True):
            for number, (name, cells) in enumerate(scores.methods.items()):
                budgets = [k for k in suite.budgets(task) if cells.get((task, k))]
                if not budgets:
                    continue
                found = [estimate(cells[task, k], rng) for k in budgets]
                ours = name == suite.ours
                (drawn,) = panel.plot(
                    budgets,
                    [one.mean for one in found],
                    _DASHES[(number // 10) % len(_DASHES)],
                    label=name,
                    marker="o",
                    markersize=5 if ours else 3,
                    linewidth=2.6 if ours else 1.2,
                    color="black" if ours else f"C{number % 10}",
                    zorder=3 if ours else 2,
                )
                panel.fill_between(
                    budgets,
                    [one.low for one in found],
                    [one.high for one in found],
                    alpha=0.12,
                    linewidth=0,
                    color=drawn.get_color(),
                )
            if task in scores.full:
                panel.axhline(float(np.mean(scores.full[task])), color="0.5", linewidth=1, label=FULL)
            panel.set_title(f"{task}, {scores.student}")
            panel.set_xscale("log")
            panel.set_xticks(suite.budgets(task), [str(k) for k in suite.budgets(task)])
            panel.set_xticks([], minor=True)
            panel.set_xlabel("texts a class")
            panel.grid(alpha=0.25)
        line[0].set_ylabel("accuracy, %")
    named: dict[str, Any] = {}
    for panel in panels.flat:
        handles, labels = panel.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    columns = min(1 + len(tasks), 4)  # as many as fit below the panels
    figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=columns, frameon=False)
    image = io.BytesIO()
    figure.savefig(image, format="png", metadata={"Software": None})
    atomic_write(path, image.getvalue())
    return True
