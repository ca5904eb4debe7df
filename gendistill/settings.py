"""The sections of a configuration, each with its defaults and what it refuses. ``config`` puts them together.

Those of who writes the candidates are in ``generator_settings``.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

AuditCheck = Literal["memorisation", "membership", "personal_data", "poisoning", "labels", "toxicity", "balance"]
AUDIT_CHECKS: tuple[AuditCheck, ...] = get_args(AuditCheck)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False, protected_namespaces=())


# Of a training on this machine (docs/several_gpus.md). It is a matter of the machine and not of what a run is, so it is
# part of no configuration that is written or compared.
PROCESSES: Any = Field(
    None, ge=1, exclude=True, description="that train together on this machine; absent: one a GPU, if there are several"
)


class DataConfig(Section):
    task: Literal["auto", "instruction"] = Field(
        "auto",
        description="auto: classification of texts or pairs, by the columns; instruction: answers to instructions",
    )
    clusters: int = Field(
        4, ge=1, description="of skills that instruction data is parted into; each is matched by itself"
    )
    dataset: str = Field(
        "builtin:bbc-news",
        description="hub name; path, pattern, folder or address (such as s3://...) of .jsonl/.csv/.parquet files; or "
        "builtin:bbc-news",
    )
    max_rows: int | None = Field(
        None,
        ge=10,
        description="real rows that are held at most: of more, a sample by content, of each class alike; absent: all",
    )
    subset: str | None = Field(None, description="configuration of a hub dataset")
    split: str = Field("train", description="split of a hub dataset to distil")
    test: str | None = Field(
        None, description="file or split of the hub dataset to report on; carved if absent; none: no test rows are read"
    )
    text_column: str | None = None
    text_column_b: str | None = Field(None, description="of the second text, where rows are pairs")
    text_names: list[str] | None = Field(
        None, description="what a prompt calls the two texts of a pair, such as premise and hypothesis"
    )
    label_column: str | None = None
    label_separator: str | None = Field(
        None, min_length=1, description="between the labels of a multi-label row, where they are one string"
    )
    min_label_set_rows: int = Field(
        10, ge=1, description="rows that a set of labels must have to be a class; rarer ones are filed under a part"
    )
    label_names: list[str] | None = Field(None, description="the classes, in order; found from the data if absent")
    label_descriptions: dict[str, str] = Field(
        default_factory=dict, description="what a label means, shown to the generator"
    )
    label_file: Path | None = Field(
        None, description="YAML, JSON or CSV with the description of each label, and perhaps the group that it is of"
    )
    description: str | None = Field(None, description="what the texts are, shown to the generator")
    dev_fraction: float = Field(0.1, gt=0, lt=0.5, description="share of the real data held out for choosing")
    test_fraction: float = Field(
        0.2, gt=0, lt=0.9, description="share carved off for reporting when there is no test split"
    )
    max_reference_rows: int = Field(
        10_000, ge=10, description="real rows embedded for clusters, exemplars and nearest-row checks, at most"
    )
    max_chars: int = Field(20_000, ge=1, description="longer texts are cut, and counted")
    target: str | None = Field(
        None, description="file of labelled rows to distil towards, instead of the real data's own distribution"
    )

    @field_validator("text_names")
    @classmethod
    def _two_names(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and (len(value) != 2 or not all(name.strip() for name in value)):
            raise ValueError("give two names, of the first and of the second text")
        return value


class LoraConfig(Section):
    """The adapter by which a causal LM learns instructions (``students.causal``)."""

    rank: int = Field(16, ge=1)
    alpha: float = Field(32.0, gt=0, description="the adapter's output is scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1)
    learning_rate: float = Field(5e-4, gt=0)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "float32", description="of the frozen weights; the adapter is float32 always"
    )
    device_map: str | None = Field(None, description="auto: the layers over all accelerators; one device if absent")


class StudentConfig(Section):
    model: str = Field(
        "builtin:minilm",
        description="hub encoder or causal LM, folder, builtin:minilm, static:<model> (a linear model on its input "
        "embeddings), or tfidf",
    )
    pooling: Literal["auto", "mean", "last", "pooler"] = Field(
        "auto",
        description="over the tokens; auto: the last one for causal LMs, the mean for encoders; pooler: the model's "
        "own pooled output as it is, as published protocols with BERT have it",
    )
    max_tokens: int = Field(96, ge=4)
    chunks: int = Field(1, ge=1, description="of max_tokens each that are read of a long text, and pooled together")
    pairs: Literal["auto", "separate", "joint"] = Field(
        "auto",
        description="how the texts of a pair are read: apart, the head sees [u; v; |u - v|; u * v]; or as one; auto: "
        "apart, but as one where pooling is pooler",
    )
    batch_size: int = Field(8, ge=1)
    steps: int = Field(40, ge=1, description="optimiser steps of the teacher and of each student measured, at least")
    epochs: float = Field(2.0, ge=0, description="passes over the training set, if they take more steps than that")
    max_steps: int = Field(2000, ge=1, description="but never more than this, unless steps is larger")
    learning_rate: float = Field(3e-5, gt=0, description="of the body")
    head_learning_rate: float = Field(1e-4, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps")
    frozen_share: float = Field(
        0.0, ge=0, lt=1, description="share of the body's blocks, from below, that stay as pretrained"
    )
    schedule: Literal["linear", "cosine"] = Field("linear", description="of the learning rates, after the warm-up")
    dropout: bool = Field(False, description="the encoder's own; on a few dozen examples it is mostly noise")
    head_init: Literal["probe", "random"] = Field(
        "probe", description="logistic probe on frozen features, or N(0, 0.02)"
    )
    probe_rows: int = Field(2000, ge=1, description="rows that the probe is fitted on, at most")
    checkpoints: int = Field(3, ge=2, description="kept along the teacher's training, the start included")
    gradient_dims: int = Field(
        0, ge=0, description="dimensions that the body's gradients are projected to; 0: head gradients only"
    )
    gradient_kind: Literal["linear", "lora"] = Field(
        "linear", description="by the weights of linear layers, or by LoRA's B factors at their start"
    )
    gradient_seed: int = Field(0, ge=0, description="of the projection")
    embedder: str | None = Field(
        None, description="a sentence-transformers model; the student's own embeddings if absent"
    )
    lora: LoraConfig = Field(default_factory=LoraConfig)
    processes: int | None = PROCESSES
    trust_remote_code: bool = False

    @model_validator(mode="after")
    def _one_way_to_spread(self) -> StudentConfig:
        if self.lora.device_map is not None and (self.processes or 1) > 1:
            raise ValueError("lora.device_map spreads one process over all GPUs; leave it out, or set processes to 1")
        return self

    @model_validator(mode="after")
    def _checkpoints_fit(self) -> StudentConfig:
        if self.checkpoints > self.steps + 1:
            raise ValueError(f"{self.checkpoints} checkpoints do not fit into {self.steps} steps")
        return self

    @model_validator(mode="after")
    def _chunks_fit(self) -> StudentConfig:
        if self.chunks > 1 and (self.pooling == "pooler" or self.pairs == "joint"):
            raise ValueError("chunks: a pooler's output and pairs read as one have no chunks; set chunks to 1")
        return self

    @model_validator(mode="after")
    def _lora_fits(self) -> StudentConfig:
        if self.gradient_kind == "lora" and self.gradient_dims % 8:
            raise ValueError(f"gradient_dims must be a multiple of 8 for lora, not {self.gradient_dims}")
        return self

    @model_validator(mode="after")
    def _gradients_of_all(self) -> StudentConfig:
        if self.frozen_share and self.gradient_dims:
            raise ValueError("frozen_share: body gradients (gradient_dims) are of all blocks; set one of the two to 0")
        return self

    def training_steps(self, rows: int) -> int:
        """Optimiser steps that a student takes on so many examples, so that a full data set trains longer than 50."""
        by_epochs = math.ceil(self.epochs * rows / self.batch_size)
        return min(max(self.steps, by_epochs), max(self.steps, self.max_steps))


DELTA = 1e-6


class PrivacyConfig(Section):
    """A differentially private run (docs/privacy.md): set ``epsilon``, and real rows reach it by noised sums alone."""

    epsilon: float | Literal["inf"] | None = Field(
        None,
        description="of the guarantee; inf: the same way without noise, which protects nothing; absent: none",
    )
    delta: float = Field(DELTA, gt=0, lt=1, description="of the guarantee; less than 1 over the number of real rows")
    seed: int | None = Field(
        None, ge=0, description="of the noise, for tests: whoever knows it can take the noise off; absent: drawn anew"
    )

    @field_validator("epsilon", mode="before")
    @classmethod
    def _epsilon(cls, value: Any) -> Any:
        if value is None:
            return None
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not number > 0:
            raise ValueError("must be positive, or inf for no noise at all")
        return "inf" if math.isinf(number) else number

    @model_validator(mode="after")
    def _of_a_private_run(self) -> PrivacyConfig:
        if self.epsilon is None and (self.delta != DELTA or self.seed is not None):
            raise ValueError("delta and seed say nothing alone; give epsilon (--dp-epsilon) too")
        return self


class FilterConfig(Section):
    min_length_quantile: float = Field(0.001, ge=0, le=1)
    max_length_quantile: float = Field(0.99, ge=0, le=1)
    near_duplicate: float = Field(
        0.95, gt=0, le=1, description="cosine of embeddings at which two candidates are the same"
    )
    real_copy_similarity: float = Field(
        0.95, gt=0, le=1, description="cosine to the nearest real row that counts as a copy"
    )
    real_copy_ngram: int = Field(12, ge=2, description="words in a row shared with one real row that count as a copy")
    teacher_probability: float = Field(0.5, ge=0, le=1, description="least probability the teacher gives to the label")


class ObjectiveConfig(Section):
    weights: dict[str, float] = Field(
        default_factory=lambda: {"meta_model": 1.0}, description="objective name -> weight"
    )
    ridge: float | list[float] = Field(
        0.3, description="regularisation of the meta-model's kernel ridge regression; of several, the mean loss"
    )
    students: list[str] | None = Field(
        None,
        description="further students that the choice must serve: tfidf, static:<model>, or a model to fine-tune; if "
        "absent, a portfolio of meta_model also serves the student's own input embeddings",
    )
    combine: Literal["mean", "worst"] = Field("mean", description="what counts where several students are chosen for")
    target_rows_per_class: int = Field(
        100, ge=1, description="real rows whose features at every checkpoint are matched, at most"
    )

    @field_validator("weights")
    @classmethod
    def _weights(cls, value: dict[str, float]) -> dict[str, float]:
        if not value or any(weight < 0 for weight in value.values()) or not any(value.values()):
            raise ValueError("give at least one objective a positive weight")
        return value

    @field_validator("students")
    @classmethod
    def _students(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and len(set(value)) != len(value):
            raise ValueError("each further student once")
        return value

    @field_validator("ridge")
    @classmethod
    def _ridge(cls, value: float | list[float]) -> float | list[float]:
        ridges = value if isinstance(value, list) else [value]
        if not ridges or any(not ridge > 0 for ridge in ridges):
            raise ValueError("give one ridge or several, each positive")
        return value


class SelectionConfig(Section):
    method: str = Field(
        "portfolio", description="portfolio (held-out rows decide among several sets), greedy (with swaps), a baseline"
    )
    probe_trials: int = Field(160, ge=0, description="probes that a portfolio may train to improve its best set")
    finalists: int = Field(
        1, ge=1, description="sets of a portfolio that real training runs on held-out rows decide among; 1: probes do"
    )
    rollout_runs: int = Field(16, ge=1, description="real training runs to decide among finalists, at most")
    rollout_frozen_share: float = Field(
        0.67, ge=0, lt=1, description="share of the body's blocks, from below, that training runs of finalists leave"
    )
    budget: Literal["equal", "proportional"] = Field(
        "equal", description="the same number of texts for every class, or as the real data has them, of the same total"
    )
    swap_passes: int = Field(3, ge=0)
    swap_trials: int | None = Field(
        None,
        ge=0,
        description="chosen texts tried for an exchange, over all passes; 60 for sets of more than 200 texts if absent",
    )
    min_distance: float = Field(
        0.3, ge=0, le=2, description="least cosine distance between two chosen texts of a class"
    )
    min_gradient_distance: float = Field(
        0.0, ge=0, le=2, description="least cosine distance between the gradients of two chosen texts of a class"
    )
    labels: Literal["hard", "soft"] = Field(
        "hard", description="soft: the teacher's probabilities too, beside the label"
    )
    label_temperature: float = Field(2.0, gt=0, description="of soft labels; 1 leaves the probabilities as they are")


class EvaluateConfig(Section):
    seeds: int = Field(3, ge=0, description="fresh students per row of the table (full data: one); 0: no table")
    first_seed: int | None = Field(None, ge=0, description="of the students; the seed of the run if absent")
    exact_match_rows: int = Field(
        50, ge=0, description="test questions that a tuned student answers, where answers end in a marked number"
    )
    max_test_rows: int = Field(400, ge=10, description="seeded, stratified sample of the test split when it is larger")

    def test_size(self, rows: int) -> int:
        """How many of so many test rows students are scored on."""
        return min(rows, self.max_test_rows)


class AuditConfig(Section):
    """What is looked for in a set before it leaves the building (docs/audit.md). It changes nothing in the set."""

    enabled: bool = Field(True, description="whether a run audits its set at the end")
    checks: list[AuditCheck] = Field(default_factory=lambda: list(AUDIT_CHECKS), description="those that are made")
    copied_words: int = Field(12, ge=2, description="words in a row shared with one real row that count as copied")
    near_copy: float = Field(
        0.8, gt=0, le=1, description="share of the characters that a near copy has in common with a real row"
    )
    nearest_quantile: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="of the distances from held-out to training rows: a text nearer to one than that is close",
    )
    held_out_rows: int = Field(500, ge=10, description="of dev and test that are compared with, at most")
    real_rows: int = Field(
        3000, ge=10, description="real rows that the second teacher learns and rates are counted on, at most"
    )
    significance: float = Field(0.01, gt=0, lt=1, description="of tests, after correction for how many there are")
    public_rows: int = Field(
        5, ge=1, description="real rows that a person's name must stand in to be a public one, not worth a warning"
    )
    spacy: str | None = Field(
        None, description="name or folder of the spaCy pipeline that finds names; an installed English one if absent"
    )
    influence: float = Field(
        12.0, gt=0, description="robust z-score of a text's influence within its class that makes it an outlier"
    )
    trigger_rows: int = Field(3, ge=2, description="texts of a label that a trigger must stand in, at least")
    trigger_flips: float = Field(
        0.2, gt=0, le=1, description="share of other classes' real texts that a trigger turns to its label"
    )
    confident: float = Field(
        0.8, gt=0, lt=1, description="probability of another label at which the second teacher's verdict is told"
    )
    findings: int = Field(100, ge=0, description="told of each check, at most; figures count all")

    @field_validator("checks")
    @classmethod
    def _checks(cls, value: list[AuditCheck]) -> list[AuditCheck]:
        if len(set(value)) != len(value):
            raise ValueError("each check once")
        return value


class CardConfig(Section):
    """What only its publisher can say in the dataset card."""

    license: str = Field("other", description="of the distilled set, as the hub spells licences, such as cc-by-4.0")
    license_name: str | None = Field(None, description="of a licence that the hub has no name for")
    license_link: str | None = Field(None, description="to the text of that licence")
    language: list[str] = Field(default_factory=list, description="of the texts, as ISO 639 codes such as en")
    source_terms: str | None = Field(None, description="licence or terms of the real data")
    generator_terms: str | None = Field(None, description="terms of the generator that bind what it wrote")
    intended_use: str | None = Field(None, description="what the set is meant for, beside training such models")

    @field_validator("license", "license_name")
    @classmethod
    def _license(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", value):
            raise ValueError("small letters, digits, dots and dashes, such as cc-by-4.0, as the hub spells licences")
        return value

    @field_validator("language")
    @classmethod
    def _language(cls, value: list[str]) -> list[str]:
        if bad := [code for code in value if not re.fullmatch(r"[a-z]{2,3}", code)]:
            raise ValueError(f"{', '.join(bad)}: give ISO 639 codes of two or three letters, such as en")
        return value

    @model_validator(mode="after")
    def _named(self) -> CardConfig:
        if self.license != "other" and (self.license_name or self.license_link):
            raise ValueError("license_name and license_link are of licences that the hub does not know: license: other")
        return self
