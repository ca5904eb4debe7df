"""``gendistill plan``: what a run would cost, from a little of it really done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gendistill.cli import options
from gendistill.cli.generate import GeneratorKind
from gendistill.cli.options import build_config, choice_flags, data_flags

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from gendistill.config import Config
    from gendistill.cost import Costs, Estimate


def plan(
    candidates: Annotated[str | None, typer.Option(help="Sizes to plan, candidates asked for in all: 1000,100000,1e9. [default: as configured]")] = None,
    config: options.ConfigFile = None,
    dataset: options.Dataset = None,
    subset: options.Subset = None,
    split: options.Split = None,
    test: options.Test = None,
    text_column: options.TextColumn = None,
    text_column_b: options.TextColumnB = None,
    label_column: options.LabelColumn = None,
    label_names: options.LabelNames = None,
    per_class: options.PerClass = None,
    budget: options.Budget = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds of writing and choosing. [default: 2]", min=1)] = None,
    generator: Annotated[GeneratorKind | None, typer.Option(help="Where the texts are written; it is asked for a few. [default: transformers]")] = None,
    model: Annotated[str | None, typer.Option(help="Generator, as generate has it. [default: builtin:gemma-3-270m]")] = None,
    base_url: Annotated[list[str] | None, typer.Option(help="Server, such as http://127.0.0.1:8000/v1.")] = None,
    price_in: Annotated[float | None, typer.Option(help="Price of a million prompt tokens.", min=0)] = None,
    price_out: Annotated[float | None, typer.Option(help="Price of a million completion tokens.", min=0)] = None,
    student: options.Student = None,
    method: options.Method = None,
    objective: options.Objective = None,
    engine: options.Engine = None,
    nodes: Annotated[int, typer.Option(help="Machines of the cluster.", min=1)] = 1,
    gpus: Annotated[int, typer.Option(help="GPUs of each.", min=0)] = 0,
    writers: Annotated[int | None, typer.Option(help="Generators at once. [default: one a GPU]", min=1)] = None,
    scorers: Annotated[int | None, typer.Option(help="Students at once. [default: one a GPU or machine]", min=1)] = None,
    speedup: Annotated[float, typer.Option(help="How much faster a device of the cluster is than the one here.", min=0.001)] = 1.0,
    gpu_price: Annotated[float | None, typer.Option(help="Price of a GPU for an hour.", min=0)] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.", dir_okay=False)] = None,
    seed: options.Seed = None,
    settings: options.Set = None,
) -> None:  # fmt: skip
    """Predict tokens, GPU-hours, storage, money and time of a run, to 1e9 candidates.

    A little of the job is really done here, which takes about a minute: some rows are embedded, a few texts written. No
    run directory is made. With --nodes, --gpus, --writers or --scorers the plan is for a Ray cluster.
    """
    from rich.console import Console

    flags = data_flags(None, dataset, subset, split, test, text_column, text_column_b, label_column, label_names)
    flags |= choice_flags(per_class, method, objective, None, None, budget)
    flags |= {
        "rounds": rounds,
        "generator.kind": None if generator is None else generator.value,
        "generator.model": model,
        "generator.server.base_urls": base_url or None,
        "generator.server.price_in": price_in,
        "generator.server.price_out": price_out,
        "student.model": student,
        "engine.kind": "ray" if nodes > 1 or gpus or writers or scorers else None if engine is None else engine.value,
        "engine.writers": writers,
        "engine.scorers": scorers,
        "seed": seed,
    }
    sizes = None if candidates is None else sizes_of(candidates)
    resolved = build_config(config, flags, settings)
    show_plan(
        Console(), resolved, sizes, nodes=nodes, gpus=gpus, speedup=speedup, gpu_price=gpu_price, json_file=json_file
    )


def sizes_of(text: str) -> list[int]:
    """``1000,1e9`` as numbers.

    :raises ConfigError: one that is not a whole number of 1 or more.
    """
    from gendistill.errors import ConfigError

    sizes = []
    for part in text.split(","):
        try:
            value = float(part.strip().replace("_", ""))
        except ValueError:
            value = 0.0
        if not 1 <= value <= 1e15 or value != int(value):
            raise ConfigError(
                f"--candidates {text}: {part.strip()!r} is no number of candidates; write 1000,100000,1e9"
            )
        sizes.append(int(value))
    return sizes


def show_plan(
    console: Console,
    config: Config,
    sizes: Sequence[int] | None = None,
    *,
    nodes: int = 1,
    gpus: int = 0,
    speedup: float = 1.0,
    gpu_price: float | None = None,
    json_file: Path | None = None,
) -> None:
    """Measure a sample, predict, print, and write the figures if a file is given."""
    import json
    from dataclasses import asdict

    from gendistill.quiet import quiet_libraries

    quiet_libraries()
    from gendistill.atomic import atomic_write
    from gendistill.cli.terminal import TerminalReporter, tell
    from gendistill.cost import cluster_of, measure_sample, predict
    from gendistill.cost.told import assumed_lines, measured_lines

    sample = measure_sample(config, TerminalReporter(console))
    cluster = cluster_of(config, sample, nodes=nodes, gpus=gpus, speedup=speedup, gpu_price=gpu_price)
    asked = sizes or [config.generator.candidates_per_class * sample.classes]
    costs = [predict(sample, config, cluster, size) for size in asked]
    console.print()
    console.print(costs_table(costs))
    for line in measured_lines(sample, config):
        tell(console, line)
    tell(console, "assumed:")
    for line in assumed_lines(sample, config, cluster, costs):
        tell(console, f"  {line}")
    if json_file is not None:
        figures = {
            "sample": asdict(sample),
            "cluster": asdict(cluster),
            "plans": [one.to_json() for one in costs],
        }
        atomic_write(json_file, json.dumps(figures, indent=2) + "\n")


def tell_large(console: Console, config: Config) -> None:
    """Before a large run its plan in a few lines; of a small one nothing, and nothing is measured."""
    from gendistill.cost.large import LARGE, waiting
    from gendistill.errors import ConfigError

    if config.private or config.data.task == "instruction" or waiting(config) <= LARGE:
        return
    from gendistill.cli.terminal import TerminalReporter, tell
    from gendistill.cost import cluster_of, measure_sample, predict
    from gendistill.cost.told import short_lines

    try:
        sample = measure_sample(config, TerminalReporter(console))
    except ConfigError:
        return  # the run says it too
    asked = config.generator.candidates_per_class * sample.classes
    for line in [*short_lines(predict(sample, config, cluster_of(config, sample), asked)), *sample.assumed]:
        tell(console, line)


def costs_table(costs: Sequence[Costs]) -> Table:
    """A column a size."""
    from rich.table import Table

    from gendistill.cost.told import STAGE_NAMES, bytes_text, count_text, estimate_text, money_text, time_text

    table = Table(
        title="a run that asks for so many candidates; with half the width of 95 % intervals", title_justify="left"
    )
    table.add_column("candidates")
    for one in costs:
        table.add_column(f"{one.candidates:,}", justify="right")

    def row(name: str, figures: Sequence[Estimate | None], text: Callable[[float], str], style: str = "") -> None:
        cells = ["no price" if figure is None else estimate_text(figure, text) for figure in figures]
        table.add_row(name, *cells, style=style)

    row("requests", [one.requests for one in costs], count_text)
    row("tokens in", [one.tokens_in for one in costs], count_text)
    row("tokens out", [one.tokens_out for one in costs], count_text)
    row("candidates kept", [one.kept for one in costs], count_text)
    row("GPU-hours", [one.gpu_hours for one in costs], count_text)
    row("money", [one.money for one in costs], money_text)
    row("storage", [one.bytes for one in costs], bytes_text)
    row("memory of the driver", [one.memory for one in costs], bytes_text)
    row("time in all", [one.wall for one in costs], time_text, style="bold")
    for stage, name in STAGE_NAMES.items():
        row(f"  {name}", [one.stages[stage] for one in costs], time_text)
    return table
