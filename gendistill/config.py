"""The configuration of a run: YAML in, command-line flags on top, the resolved whole written beside the result.

Unknown keys are errors. Secrets have no field here, so none can reach a file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field, ValidationError

from gendistill.errors import ConfigError
from gendistill.generator_settings import EngineConfig, GeneratorConfig, ServerConfig, TuneConfig, VllmConfig
from gendistill.settings import (
    AUDIT_CHECKS,
    DELTA,
    AuditCheck,
    AuditConfig,
    CardConfig,
    DataConfig,
    EvaluateConfig,
    FilterConfig,
    LoraConfig,
    ObjectiveConfig,
    PrivacyConfig,
    Section,
    SelectionConfig,
    StudentConfig,
)

__all__ = [
    "AUDIT_CHECKS",
    "DELTA",
    "INSTRUCTION_DEFAULTS",
    "AuditCheck",
    "AuditConfig",
    "CardConfig",
    "Config",
    "DataConfig",
    "EngineConfig",
    "EvaluateConfig",
    "FilterConfig",
    "GeneratorConfig",
    "LoraConfig",
    "ObjectiveConfig",
    "PrivacyConfig",
    "Section",
    "SelectionConfig",
    "ServerConfig",
    "StudentConfig",
    "TuneConfig",
    "VllmConfig",
    "load_config",
    "readable",
]

# What differs where a causal LM learns instructions
INSTRUCTION_DEFAULTS: dict[str, dict[str, Any]] = {
    "student": {
        "model": "builtin:gemma-3-270m", "max_tokens": 256, "gradient_dims": 2048, "checkpoints": 2, "max_steps": 200,
    },
    # Mean gradients of few rows are noise (docs/instructions.md)
    "objective": {"weights": {"gradient_body": 1.0}, "students": [], "target_rows_per_class": 1000},
    "selection": {"method": "greedy", "budget": "proportional", "min_distance": 0.1},
    "generator": {"exemplars": 3},
}  # fmt: skip


# What differs where the run is private: no real text is shown, and every further student would cost of the guarantee
PRIVATE_DEFAULTS: dict[str, dict[str, Any]] = {"generator": {"exemplars": 0}, "objective": {"students": []}}


class Config(Section):
    """A whole run. ``Config(dataset=..., per_class=..., out=...)`` are shortcuts to the nested fields."""

    out: Path = Path("runs/demo")
    per_class: int = Field(10, ge=1, description="DPC, the budget: texts per class of the distilled set")
    rounds: int = Field(2, ge=1)
    seed: int = Field(0, ge=0)
    data: DataConfig = Field(default_factory=DataConfig)
    student: StudentConfig = Field(default_factory=StudentConfig)
    generator: GeneratorConfig = Field(default_factory=GeneratorConfig)
    filters: FilterConfig = Field(default_factory=FilterConfig)
    objective: ObjectiveConfig = Field(default_factory=ObjectiveConfig)
    selection: SelectionConfig = Field(default_factory=SelectionConfig)
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
    card: CardConfig = Field(default_factory=CardConfig)
    privacy: PrivacyConfig = Field(default_factory=PrivacyConfig)
    audit: AuditConfig = Field(default_factory=AuditConfig)
    engine: EngineConfig = Field(default_factory=EngineConfig)

    def __init__(self, **values: Any) -> None:
        if "dataset" in values:
            values["data"] = {"dataset": values.pop("dataset"), **_plain(values.get("data", {}))}
        differing = []
        if _plain(values.get("data", {})).get("task") == "instruction":
            differing.append(INSTRUCTION_DEFAULTS)
        if _plain(values.get("privacy", {})).get("epsilon") is not None:
            differing.append(PRIVATE_DEFAULTS)
        for name, defaults in (section for one in differing for section in one.items()):
            values[name] = {**defaults, **_plain(values.get(name, {}))}
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(readable(error)) from None

    @property
    def private(self) -> bool:
        """Whether real rows may reach the run by differentially private statistics alone."""
        return self.privacy.epsilon is not None

    @property
    def further_students(self) -> list[str]:
        """Those that the choice serves beside the student that chooses."""
        if self.objective.students is not None:
            return self.objective.students
        wanted = {name for name, weight in self.objective.weights.items() if weight}
        default = self.selection.method == "portfolio" and wanted == {"meta_model"}
        return [f"static:{self.student.model}"] if default else []

    @property
    def first_student_seed(self) -> int:
        """Of the students that are measured."""
        return self.seed if self.evaluate.first_seed is None else self.evaluate.first_seed


def _plain(section: Any) -> dict[str, Any]:
    """What was given of a section, with what no written configuration has."""
    if not isinstance(section, BaseModel):
        return dict(section)
    return {name: getattr(section, name) for name in section.model_fields_set}


def readable(error: ValidationError) -> str:
    problems = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"]) or "configuration"
        if item["type"] == "extra_forbidden":
            problems.append(f"{key}: no such key")
        else:
            message = item["msg"].removeprefix("Value error, ")
            # A section that does not fit together is not shown whole
            given = "" if isinstance(item["input"], dict) else f" (got {item['input']!r})"
            problems.append(f"{key}: {message}{given}")
    return "; ".join(problems)


def load_config(path: Path | None = None, overrides: dict[str, Any] | None = None) -> Config:
    """A configuration from a YAML file, with dotted keys on top (``{"generator.top_k": 20}``).

    :raises ConfigError: the file cannot be read or is no YAML mapping, a key is unknown, a value does not fit.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path given to --config") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: not UTF-8 text; save the configuration as UTF-8") from error
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f" at line {mark.line + 1}" if mark else ""
            raise ConfigError(f"{path}: not valid YAML{where}; mend it and try again") from error
        if not isinstance(loaded or {}, dict):
            raise ConfigError(f"{path}: must be a mapping of keys to values")
        values = loaded or {}
    for dotted, value in (overrides or {}).items():
        *sections, key = dotted.split(".")
        place = values
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise ConfigError(f"{dotted}: {section} is not a section of the configuration")
        place[key] = value
    try:
        return Config(**values)
    except TypeError as error:
        raise ConfigError(f"{path}: keys must be names ({error})") from error
