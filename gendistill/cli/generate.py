"""``gendistill generate``: the main job."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gendistill.cli import options
from gendistill.cli.options import build_config, choice_flags, data_flags, engine_flags

if TYPE_CHECKING:
    from rich.console import Console

    from gendistill.config import Config
    from gendistill.loop import Distilled


class ResumeChoice(str, enum.Enum):
    never = "never"
    always = "always"
    if_possible = "if-possible"


class GeneratorKind(str, enum.Enum):
    transformers = "transformers"
    server = "server"
    vllm = "vllm"
    batch = "batch"


class GeneratorMode(str, enum.Enum):
    auto = "auto"
    base = "base"
    chat = "chat"


def generate(
    config: Annotated[Path | None, typer.Option("--config", "-c", help="YAML file; the config.yaml of a run replays it.")] = None,
    task: options.Task = None,
    dataset: options.Dataset = None,
    subset: options.Subset = None,
    split: options.Split = None,
    test: options.Test = None,
    text_column: options.TextColumn = None,
    text_column_b: options.TextColumnB = None,
    label_column: options.LabelColumn = None,
    label_names: options.LabelNames = None,
    label_file: options.LabelFile = None,
    target: options.Target = None,
    description: Annotated[str | None, typer.Option(help="What the texts are, in a few words, for the prompts.")] = None,
    per_class: options.PerClass = None,
    budget: options.Budget = None,
    out: Annotated[Path | None, typer.Option(help="Run directory. [default: runs/demo]")] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds of writing and choosing. [default: 2]", min=1)] = None,
    generator: Annotated[GeneratorKind | None, typer.Option(help="Where the texts are written: transformers, in this process; server, OpenAI-compatible; vllm, in this process; batch, by files. [default: transformers]")] = None,
    model: Annotated[str | None, typer.Option(help="Generator: hub causal LM, base or chat, or folder; or as the server names it. [default: builtin:gemma-3-270m]")] = None,
    base_url: Annotated[list[str] | None, typer.Option(help="Server, such as http://127.0.0.1:8000/v1; several share the load. [default: $OPENAI_BASE_URL]")] = None,
    api_key_env: Annotated[str | None, typer.Option(help="Environment variable that holds the server's key. [default: OPENAI_API_KEY]")] = None,
    mode: Annotated[GeneratorMode | None, typer.Option(help="base: continue a prompt; chat: answer messages. [default: auto, what the model can do]")] = None,
    price_in: Annotated[float | None, typer.Option(help="Price of a million prompt tokens, to show the cost.", min=0)] = None,
    price_out: Annotated[float | None, typer.Option(help="Price of a million completion tokens.", min=0)] = None,
    candidates: Annotated[int | None, typer.Option(help="Candidates asked for per class, over all rounds. [default: 76]", min=1)] = None,
    tune_generator: Annotated[int | None, typer.Option(help="LoRA steps of the generator on the real rows first; needs gendistill[tune]. [default: 0]", min=0)] = None,
    adapter: Annotated[Path | None, typer.Option(help="LoRA adapter of the generator, such as the adapter/ of a tuned run.", file_okay=False)] = None,
    student: options.Student = None,
    method: options.Method = None,
    objective: options.Objective = None,
    finalists: options.Finalists = None,
    labels: options.Labels = None,
    eval_seeds: Annotated[int | None, typer.Option(help="Students per row of the final table, one for the full data; 0 for none. [default: 3]", min=0)] = None,
    engine: options.Engine = None,
    ray_address: options.RayAddress = None,
    storage: options.Storage = None,
    seed: options.Seed = None,
    dp_epsilon: Annotated[float | None, typer.Option(help="Differentially private: real rows reach prompts and selection by noised sums alone, for this epsilon; inf: without noise. Needs gendistill[dp].")] = None,
    dp_delta: Annotated[float | None, typer.Option(help="Delta of that guarantee, below 1 over the number of real rows. [default: 1e-6]")] = None,
    resume: Annotated[ResumeChoice, typer.Option(help="What to do where a run is already.")] = ResumeChoice.if_possible,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what this run would cost, and stop. A little of it is really done, nothing is written.")] = False,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with a model. Off unless you say so.")] = False,
    settings: options.Set = None,
) -> None:  # fmt: skip
    """Real data in, a small readable dataset out.

    Without any option this is the demo: BBC News, 10 texts a class, written by Gemma 3 270M, chosen by a MiniLM student.
    """
    from rich.console import Console

    flags = data_flags(task, dataset, subset, split, test, text_column, text_column_b, label_column, label_names)
    flags |= choice_flags(per_class, method, objective, finalists, labels, budget)
    flags |= engine_flags(engine, ray_address, storage)
    flags |= {
        "data.description": description,
        "data.label_file": None if label_file is None else str(label_file),
        "data.target": target,
        "out": None if out is None else str(out),
        "rounds": rounds,
        "generator.kind": None if generator is None else generator.value,
        "generator.model": model,
        "generator.mode": None if mode is None else mode.value,
        "generator.server.base_urls": base_url or None,
        "generator.server.api_key_env": api_key_env,
        "generator.server.price_in": price_in,
        "generator.server.price_out": price_out,
        "generator.candidates_per_class": candidates,
        "generator.tune.steps": tune_generator,
        "generator.adapter": None if adapter is None else str(adapter),
        "student.model": student,
        "evaluate.seeds": eval_seeds,
        "seed": seed,
        "privacy.epsilon": dp_epsilon,
        "privacy.delta": dp_delta,
    }
    if trust_remote_code:
        flags |= {"generator.trust_remote_code": True, "student.trust_remote_code": True}
    resolved = build_config(config, flags, settings)
    console = Console()
    _announce(console, resolved)

    from gendistill.quiet import quiet_libraries

    quiet_libraries()
    from gendistill.cli.plan import show_plan, tell_large

    if dry_run:
        show_plan(console, resolved)
        return
    tell_large(console, resolved)
    from gendistill.cli.terminal import TerminalReporter
    from gendistill.loop import distill

    result = distill(resolved, resume=resume.value, reporter=TerminalReporter(console))
    _tell(console, resolved, result)


def _announce(console: Console, config: Config) -> None:
    from gendistill.cli.terminal import tell

    lines = (
        f"real data   {config.data.dataset}",
        f"generator   {config.generator.model}, {config.generator.candidates_per_class} candidates a class in {config.rounds} rounds",
        f"student     {config.student.model}",
        f"choose      {config.per_class} a class by {config.selection.method}, objective "
        + " + ".join(f"{weight:g} {name}" for name, weight in config.objective.weights.items()),
        *([f"private     epsilon {config.privacy.epsilon}, delta {config.privacy.delta:g}"] if config.private else []),
        f"into        {config.out}",
    )
    for line in lines:
        tell(console, line)


def _tell(console: Console, config: Config, result: Distilled) -> None:
    from gendistill.cli.terminal import results_table, tell
    from gendistill.data.rows import fields_of

    console.print()
    tell(console, f"turned away: {result.filters.summary() or 'nothing'}")
    if result.table:
        test_size = config.evaluate.test_size(len(result.real.test))
        console.print(results_table(result.table, test_size))
    key = "cluster_name" if "messages" in result.rows[0] else "label_name"
    first = result.rows[0][key]
    tell(console, f"\nThe texts chosen for {first!r}:")
    for row in result.rows:
        if row[key] == first:
            shown = "\n    ".join(filter(None, fields_of(row)))
            tell(console, f"  - {shown}")
    tell(console, f"\n{len(result.rows)} texts in {result.path}, dataset card in {config.out}/README.md")
    audit = f", audit in {config.out}/audit.json" if config.audit.enabled else ""
    tell(console, f"report in {config.out}/report.html{audit}")
    tell(console, f"next: gendistill export {result.path} --format openai -o train.jsonl")
