"""The dataset card of a run: what ``data.card`` writes, filled from the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gendistill.config import Config
from gendistill.data.card import CardInfo, Result, dataset_card
from gendistill.data.label_sets import single_labels
from gendistill.evaluate import interval
from gendistill.generators.meter import cost
from gendistill.models import model_terms

if TYPE_CHECKING:
    from gendistill.loop import Distilled


@dataclass(frozen=True)
class Spent:
    """What generation took: tokens of all replies, and what servers were asked, if they were."""

    prompt_tokens: int
    completion_tokens: int
    usage: dict[str, float] | None = None


def run_card(
    config: Config, result: Distilled, generator_name: str, spent: Spent, audit: Mapping[str, Any] | None = None
) -> str:
    """The card's Markdown. A function of the run's outcome alone, without dates and durations, but for what a run that
    asked servers says of its calls and their speed.
    """
    real = result.real
    source = _public(real.source)
    answers = real.shape == "instruction"
    weights = " + ".join(f"{weight:g} {name}" for name, weight in config.objective.weights.items())
    tokens = f"{spent.prompt_tokens:,} prompt and {spent.completion_tokens:,}"
    made_with = {
        "real data": f"{source} ({len(real.train):,} rows to distil from)",
        "generator": f"{generator_name} ({tokens} completion tokens)",
        **_calls(config, spent),
        "student": " and ".join([config.student.model, *config.further_students]),
        **_teacher(config, result),
        "pool": f"{result.pool_size} of {result.filters.seen} candidates passed the filters",
        "objective": f"{weights}: " + ", ".join(f"{r.loss:.4f} after round {r.round}" for r in result.rounds),
        "selection": f"{config.selection.method}, {config.per_class} per {'cluster' if answers else 'class'}",
        **({"labels": _soft(config)} if config.selection.labels == "soft" else {}),
        "seed": config.seed,
    }
    test_rows = config.evaluate.test_size(len(real.test))
    said = config.card
    source_terms = said.source_terms or "not given by who made this set; look them up where the data come from"
    generator_terms = said.generator_terms or model_terms(config.generator.model)
    info = CardInfo(
        name=f"{config.out.name}: {source}, distilled",
        label_names=real.label_names if real.label_sets is None else single_labels(real.label_sets),
        rows=result.rows,
        description=real.description or "",
        source=source,
        made_with=made_with,
        filters={name: count for name, count in result.filters.counts.items() if count},
        results=[Result(row.method, row.mean, row.spread, row.runs, interval(row, test_rows)) for row in result.table],
        losses=answers,
        results_note=(
            f"Fresh {config.student.model} students, {test_rows} test rows that nothing was chosen on. ± is the "
            "standard deviation over students; the interval of the mean counts which students were trained"
            + (", so a single one has none." if answers else " and, binomially, which rows were tested.")
        ),
        license=said.license,
        license_name=said.license_name,
        license_link=said.license_link,
        language=said.language,
        intended_use=said.intended_use,
        terms={f"real data ({source})": source_terms, f"generator ({config.generator.model})": generator_terms},
        audit=[(check["title"], check["status"], check["summary"]) for check in audit["checks"]] if audit else (),
        privacy=result.privacy,
        command=f"gendistill generate -c config.yaml --out {config.out.name}-again",
    )
    return dataset_card(info)


def _public(source: str) -> str:
    """A source without the folders that it lies in on somebody's machine."""
    path = Path(source)
    return path.name if path.is_absolute() or path.exists() else source


def _teacher(config: Config, result: Distilled) -> dict[str, str]:
    if config.private:
        return {"label check": "a probe on its frozen embeddings, fitted on stand-ins drawn from the private release"}
    if result.teacher_accuracy is None:
        return {"checkpoints": "the same, tuned by LoRA on a sample of the real rows"}
    right = f"{result.teacher_accuracy:.1%} right on held-out rows"
    return {"teacher": f"the same, trained on the real data; {right}"}


def _calls(config: Config, spent: Spent) -> dict[str, str]:
    """What was asked of servers, and what it cost."""
    lines = {}
    if spent.usage:
        count = {name: int(value) for name, value in spent.usage.items()}
        seconds = spent.usage["seconds"]
        rate = f", {spent.completion_tokens / seconds:.0f} tokens a second" if seconds else ""
        lines["calls"] = (
            f"{count['calls']:,} for {count['answered']:,} replies and {count['failed']:,} failures; "
            f"{count['retries']:,} again after an error, {count['refusals']:,} refused for load{rate}"
        )
    price = cost(spent.prompt_tokens, spent.completion_tokens, config.generator.server)
    if price is not None:
        server = config.generator.server
        lines["cost"] = (
            f"{price:.2f} at {server.price_in or 0:g} and {server.price_out or 0:g} a million tokens in and out"
        )
    return lines


def _soft(config: Config) -> str:
    temperature = config.selection.label_temperature
    return f"the teacher's probabilities at temperature {temperature:g} beside the label; students trained on them"
