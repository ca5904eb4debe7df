"""What a benchmark measures: tasks x budgets x methods x students, from one YAML file."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from gendistill.config import Config, DataConfig, Section, StudentConfig, readable
from gendistill.data.load import NO_TEST
from gendistill.errors import ConfigError
from gendistill.examples import content_hash

REAL = "real"
MOST_EXTENDED = 4  # suites that stand behind one
SUITES = ("lite", "standard", "decoder", "ablation", "shapes")
Values = dict[str, Any]


class LocalData(Section):
    """Where a task's rows lie within ``--data-dir``."""

    train: str
    test: str


class Task(Section):
    data: DataConfig = Field(description="as in a run's configuration; test must be a file or split of its own")
    local: LocalData | None = Field(None, description="used instead of data's dataset and test where --data-dir is")
    per_class: list[int] | None = Field(None, description="budgets of this task, instead of the suite's")
    generation: Values = Field(
        default_factory=dict, description="of the runs that write its candidates, on top of what the pool says"
    )


class Method(Section):
    """A row of the table: a way of choosing, or sets that somebody else made."""

    candidates: str = Field(REAL, description="what it chooses from: real, or the name of a pool")
    filtered: bool = Field(True, description="of a pool, only the candidates that passed the filters")
    config: Values = Field(default_factory=dict, description="sections of a run's configuration: selection, objective")
    sets: dict[str, str] = Field(
        default_factory=dict, description="task -> folder of JSONL files, each a set; instead of choosing"
    )
    baseline: bool = Field(False, description="one of those that leads are measured against")

    @model_validator(mode="after")
    def _one_of_two(self) -> Method:
        if self.sets and (self.config or self.candidates != REAL):
            raise ValueError("sets that are there already are not chosen: leave candidates and config out")
        unknown = set(self.config) - {"selection", "objective"}
        if unknown:
            raise ValueError(f"config has {sorted(unknown)[0]!r}; a method sets selection and objective alone")
        return self


class Suite(Section):
    """A benchmark. Everything that its figures depend on is in here."""

    name: str
    about: str = ""
    seed: int = Field(0, ge=0, description="of the splits and samples of the data; sets and runs add to it")
    per_class: list[int] = Field(default_factory=lambda: [5, 10, 20], description="budgets, texts a class")
    sets: int = Field(5, ge=1, description="sets that a method chooses for a cell")
    runs: int = Field(1, ge=1, description="students trained on each set")
    full_runs: int = Field(1, ge=0, description="students trained on all of train")
    max_train_rows: int = Field(10_000, ge=10)
    max_dev_rows: int = Field(500, ge=10)
    max_test_rows: int = Field(2000, ge=10)
    pool_rows: int = Field(2000, ge=10, description="real rows that a set is chosen from and judged by, drawn for it")
    pool_share: float = Field(0.8, gt=0, le=1, description="of the candidates of a pool that a set is chosen from")
    config: Values = Field(default_factory=dict, description="of every choice, on top of a run's defaults")
    pools: dict[str, Values] = Field(
        default_factory=dict, description="name -> configuration of the runs that write its candidates"
    )
    tasks: dict[str, Task]
    methods: dict[str, Method]
    students: dict[str, StudentConfig]
    student_budgets: dict[str, list[int]] = Field(
        default_factory=dict, description="student -> the only budgets that it is trained for; not on full data either"
    )
    ours: str = Field(description="the method that all others are compared with")
    fluency: str | None = Field(None, description="a causal LM whose perplexity says how fluent the texts are")

    @field_validator("per_class")
    @classmethod
    def _budgets(cls, value: list[int]) -> list[int]:
        if not value or min(value) < 1 or len(set(value)) < len(value):
            raise ValueError("give one budget or several, each once and at least 1")
        return sorted(value)

    @model_validator(mode="after")
    def _names(self) -> Suite:
        for part in ("tasks", "methods", "students"):
            names = list(getattr(self, part))
            slugs = [slug(name) for name in names]
            if not names or not all(slugs) or len(set(slugs)) < len(slugs):
                raise ValueError(f"{part}: give each a name of its own, with letters or digits in it")
        taken = {"choice", "text"} & {slug(name) for name in self.students}
        if taken:
            raise ValueError(f"students: {taken.pop()!r} is a name of the folder's own; choose another")
        unknown_students = self.student_budgets.keys() - self.students.keys()
        if unknown_students:
            raise ValueError(f"student_budgets: no student {unknown_students.pop()!r}")
        if self.ours not in self.methods:
            raise ValueError(f"ours: {self.ours!r} is none of the methods: {', '.join(self.methods)}")
        for name, method in self.methods.items():
            if method.candidates not in (REAL, *self.pools):
                raise ValueError(f"methods.{name}: no pool {method.candidates!r}; pools has {', '.join(self.pools)}")
            unknown = [task for task in method.sets if task not in self.tasks]
            if unknown:
                raise ValueError(f"methods.{name}: sets of the task {unknown[0]!r}, which is not in tasks")
        return self

    def choice(self, method: str, per_class: int, seed: int) -> Config:
        """The configuration by which a method chooses a set."""
        values = merged(self.config, self.methods[method].config)
        return Config(**values | {"per_class": per_class, "seed": self.seed + seed})

    def generation(self, pool: str, task: str, data: DataConfig, out: Path) -> Config:
        """The configuration of the run that writes a pool's candidates for a task; it sees no test rows."""
        values = merged(self.config, self.pools[pool], self.tasks[task].generation)
        largest = max(self.budgets(task))
        given = {"data": blind(data).model_dump(), "per_class": largest, "seed": self.seed, "out": str(out)}
        return Config(**merged(values, {"evaluate": {"seeds": 0}}) | given)

    def budgets(self, task: str) -> list[int]:
        """Texts a class, rising."""
        return sorted(self.tasks[task].per_class or self.per_class)

    def measures(self, student: str, per_class: int) -> bool:
        """Whether a student is trained on sets of this budget; 0 is full data."""
        return student not in self.student_budgets or per_class in self.student_budgets[student]

    @property
    def hash(self) -> str:
        return content_hash(self.model_dump(mode="json"))[:12]


def blind(data: DataConfig) -> DataConfig:
    """The same data without its test rows."""
    return data.model_copy(update={"test": NO_TEST})


def merged(*parts: Values) -> Values:
    """Nested dictionaries as one, the later over the earlier."""
    result: Values = {}
    for part in parts:
        for key, value in part.items():
            known = result.get(key)
            result[key] = merged(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return result


def slug(name: str) -> str:
    """A name as it stands in paths."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.").lower()


def load_suite(name: str, *, external: dict[str, dict[str, str]] | None = None, **changes: Any) -> Suite:
    """A suite that is shipped, or a YAML file's.

    :param external: more methods, name -> task -> folder of sets.
    :param changes: fields to set, such as ``sets=20``; None leaves a field as it is.
    :raises ConfigError: no such suite, or one that does not fit together.
    """
    values = _suite_values(name)
    values |= {key: value for key, value in changes.items() if value is not None}
    for method, folders in (external or {}).items():
        places = {task: str(Path(folder).resolve()) for task, folder in folders.items()}
        values.setdefault("methods", {})[method] = {"sets": places}
    try:
        suite = Suite(**values)
    except ValidationError as error:
        raise ConfigError(f"{name}: {readable(error)}") from None
    for key in suite.methods:
        if not suite.methods[key].sets:
            suite.choice(key, 1, 0)  # a wrong key is an error now, not hours later
    for pool in suite.pools:
        for task, given in suite.tasks.items():
            suite.generation(pool, task, given.data, Path("x"))
    return suite


def suite_yaml(suite: Suite) -> str:
    return yaml.safe_dump(suite.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True)


def _suite_values(name: str, depth: int = 0) -> Values:
    """What a suite says, over the suite that it extends, key by key."""
    try:
        values = yaml.safe_load(_suite_text(name))
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML; mend it and try again") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{name}: must be a mapping of keys to values")
    base = values.pop("extends", None)
    if base is None:
        return values
    if depth >= MOST_EXTENDED or not isinstance(base, str):
        raise ConfigError(f"{name}: extends must name one suite, and not come back to this one")
    return _suite_values(base, depth + 1) | values


def _suite_text(name: str) -> str:
    if name in SUITES:
        return (resources.files("gendistill.bench") / "suites" / f"{name}.yaml").read_text(encoding="utf-8")
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        shipped = ", ".join(SUITES)
        raise ConfigError(f"{name}: no such suite ({shipped}), nor a YAML file that can be read") from error
