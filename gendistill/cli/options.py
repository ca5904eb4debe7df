"""Options that several commands share."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from gendistill.config import Config


class LabelKind(str, enum.Enum):
    hard = "hard"
    soft = "soft"


class TaskKind(str, enum.Enum):
    auto = "auto"
    instruction = "instruction"


class EngineKind(str, enum.Enum):
    local = "local"
    ray = "ray"


class BudgetKind(str, enum.Enum):
    equal = "equal"
    proportional = "proportional"


Dataset = Annotated[
    str | None,
    typer.Option(help="Hub name, .jsonl/.csv/.parquet file, or builtin:bbc-news. [default: builtin:bbc-news]"),
]
Task = Annotated[
    TaskKind | None,
    typer.Option(
        help="auto: texts or pairs with labels; instruction: answers to instructions, learnt by a causal LM. [default: auto]"
    ),
]
Subset = Annotated[str | None, typer.Option(help="Configuration of a hub dataset.")]
Split = Annotated[str | None, typer.Option(help="Split of a hub dataset to distil. [default: train]")]
Test = Annotated[
    str | None, typer.Option(help="File, or split of the hub dataset, to report on; carved off if absent.")
]
TextColumn = Annotated[str | None, typer.Option(help="Column of the text; found by itself when obvious.")]
TextColumnB = Annotated[
    str | None, typer.Option(help="Column of the second text, where rows are pairs; found by itself when obvious.")
]
LabelFile = Annotated[
    Path | None,
    typer.Option(help="What each label means: YAML, JSON or CSV (label, description, perhaps group).", dir_okay=False),
]
Target = Annotated[
    str | None,
    typer.Option(help="File of labelled rows to distil towards, instead of the real data's own distribution."),
]
Budget = Annotated[
    BudgetKind | None,
    typer.Option(help="equal: as many of every class; proportional: as the real data has them. [default: equal]"),
]
LabelColumn = Annotated[str | None, typer.Option(help="Column of the label; found by itself when obvious.")]
LabelNames = Annotated[str | None, typer.Option(help="The classes in order, separated by commas.")]
Student = Annotated[
    str | None,
    typer.Option(
        help="Model that learns: encoder or causal LM, hub name or folder; evaluate: tfidf too. [default: builtin:minilm]"
    ),
]
ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="YAML file, such as the config.yaml of a run.")]
Candidates = Annotated[
    str,
    typer.Argument(help="JSONL, CSV or Parquet with text and label, or the word real: the real training rows."),
]
PerClass = Annotated[int | None, typer.Option(help="Budget: texts per class. [default: 10]", min=1)]
Method = Annotated[
    str | None,
    typer.Option(
        help="portfolio, greedy, or a baseline: random, herding, k-means-nearest, k-center, nearest-real, gradient-norm, "
        "teacher-probability. [default: portfolio]"
    ),
]
Objective = Annotated[str | None, typer.Option(help="Weights, e.g. meta_model=1,coverage=0.5. [default: meta_model=1]")]
Finalists = Annotated[
    int | None,
    typer.Option(help="Sets that real training runs on held-out rows decide among; 1: probes do. [default: 1]", min=1),
]
Labels = Annotated[
    LabelKind | None,
    typer.Option(help="soft: rows carry the teacher's probabilities beside the label. [default: hard]"),
]
Engine = Annotated[
    EngineKind | None,
    typer.Option(help="What carries the work: local, this process; ray, a Ray cluster. [default: local]"),
]
RayAddress = Annotated[
    str | None,
    typer.Option(help="Ray cluster, host:port. [default: $RAY_ADDRESS, else a cluster of this machine alone]"),
]
Storage = Annotated[
    str | None,
    typer.Option(
        help="Of --engine ray: a folder that every node sees, s3:// or gs://, for what passes between them. [default: on "
        "this machine]"
    ),
]
Seed = Annotated[int | None, typer.Option(help="Seed of everything. [default: 0]", min=0)]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any key of the configuration: --set generator.top_k=20.", metavar="KEY=VALUE"),
]


def build_config(path: Path | None, flags: dict[str, Any], settings: list[str] | None) -> Config:
    """The file, then the flags that were given, then every ``--set``."""
    import yaml

    from gendistill.config import load_config
    from gendistill.errors import ConfigError

    overrides = {key: value for key, value in flags.items() if value is not None}
    for setting in settings or []:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {setting}: write KEY=VALUE, for example generator.top_k=20")
        try:
            overrides[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {setting}: the value is not valid YAML") from error
    config = load_config(path, overrides)
    if config.engine.kind == "local":  # a file may have them for another time; who types them means them
        for flag, key in (("--ray-address", "engine.address"), ("--storage", "engine.storage")):
            if flags.get(key) is not None:
                raise ConfigError(
                    f"{flag} is of --engine ray, and this is --engine local; give --engine ray, or leave it out"
                )
    return config


def data_flags(
    task: TaskKind | None, dataset: str | None, subset: str | None, split: str | None, test: str | None,
    text_column: str | None, text_column_b: str | None, label_column: str | None, label_names: str | None,
) -> dict[str, Any]:  # fmt: skip
    names = None if label_names is None else [name.strip() for name in label_names.split(",")]
    return {
        "data.task": None if task is None else task.value,
        "data.dataset": dataset,
        "data.subset": subset,
        "data.split": split,
        "data.test": test,
        "data.text_column": text_column,
        "data.text_column_b": text_column_b,
        "data.label_column": label_column,
        "data.label_names": names,
    }


def choice_flags(
    per_class: int | None,
    method: str | None,
    objective: str | None,
    finalists: int | None,
    labels: LabelKind | None,
    budget: BudgetKind | None,
) -> dict[str, Any]:
    return {
        "per_class": per_class,
        "selection.method": method,
        "objective.weights": objective_weights(objective),
        "selection.finalists": finalists,
        "selection.budget": None if budget is None else budget.value,
        "selection.labels": None if labels is None else labels.value,
    }


def engine_flags(engine: EngineKind | None, ray_address: str | None, storage: str | None) -> dict[str, Any]:
    """An address alone means Ray."""
    if engine is None and ray_address is not None:
        engine = EngineKind.ray
    return {
        "engine.kind": None if engine is None else engine.value,
        "engine.address": ray_address,
        "engine.storage": storage,
    }


def objective_weights(text: str | None) -> dict[str, float] | None:
    """``meta_model=1,gradient=0.5`` as a mapping; a name alone weighs 1."""
    from gendistill.errors import ConfigError

    if text is None:
        return None
    weights = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        try:
            weights[name.strip()] = float(value) if equals else 1.0
        except ValueError:
            raise ConfigError(
                f"--objective {text}: {value!r} is not a number; write meta_model=1,gradient=0.5"
            ) from None
    return weights


def candidates_of(text: str, out: Path) -> Path | Literal["real"]:
    """The argument of a command that takes candidates.

    :raises ConfigError: what is to be written is what is read.
    """
    from gendistill.errors import ConfigError

    if text == "real":
        return "real"
    if out.resolve() == Path(text).resolve():
        raise ConfigError(f"{out}: would write over the candidates; give another --out")
    return Path(text)


def shown_flags(config: Config) -> str:
    """The flags for data and student that differ from the defaults, for a command to type next."""
    import shlex

    from gendistill.config import Config

    plain = Config()
    flags = ["--dataset", config.data.dataset]
    if config.data.task != plain.data.task:
        flags += ["--task", config.data.task]
        plain = Config(data={"task": config.data.task})
    for key in ("subset", "split", "test", "text_column", "text_column_b", "label_column", "label_names"):
        value = getattr(config.data, key)
        if value != getattr(plain.data, key):
            flags += [f"--{key.replace('_', '-')}", ",".join(value) if isinstance(value, list) else value]
    if config.data.max_rows is not None:
        flags += ["--set", f"data.max_rows={config.data.max_rows}"]
    if config.student.model != plain.student.model:
        flags += ["--student", config.student.model]
    return shlex.join(flags)
