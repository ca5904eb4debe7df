"""The sections of a configuration that say who writes the candidates, and what carries the work."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_serializer, model_validator

from gendistill.generators.urls import shown
from gendistill.settings import PROCESSES, Section


class TuneConfig(Section):
    """LoRA on the real rows, before anything is generated."""

    steps: int = Field(0, ge=0, description="optimiser steps; 0: the generator is used as it is")
    batch_size: int = Field(8, ge=1)
    learning_rate: float = Field(3e-4, gt=0)
    rank: int = Field(16, ge=1)
    dropout: float = Field(0.05, ge=0, lt=1)
    processes: int | None = PROCESSES


class ServerConfig(Section):
    """An OpenAI-compatible server; none of it changes what is asked for. A key is never in a configuration."""

    base_urls: list[str] = Field(
        default_factory=list, repr=False, description="one or several that share the load; $OPENAI_BASE_URL if absent"
    )
    api_key_env: str = Field("OPENAI_API_KEY", description="environment variable that holds the key")
    concurrency: int = Field(256, ge=1, description="calls at once and server, at most; fewer if it has no room")
    choices_per_call: int = Field(8, ge=1, description="answers asked for in one call, where a prompt is shared")
    timeout: float = Field(600.0, gt=0, description="seconds that a call may take")
    tries: int = Field(6, ge=1, description="of a request that gets no answer, before it counts as failed")
    give_up_after: float = Field(300.0, gt=0, description="seconds without any answer before the run stops")
    price_in: float | None = Field(None, ge=0, description="of a million prompt tokens, for the cost shown")
    price_out: float | None = Field(None, ge=0, description="of a million completion tokens")

    @field_serializer("base_urls")
    def _without_secrets(self, urls: list[str]) -> list[str]:
        return [shown(url) for url in urls]


class VllmConfig(Section):
    """The in-process engine; none of it changes what is asked for."""

    tensor_parallel_size: int = Field(1, ge=1)
    data_parallel_size: int = Field(1, ge=1)
    max_model_len: int | None = Field(None, ge=1)
    gpu_memory_utilization: float | None = Field(None, gt=0, le=1)
    dtype: str = "auto"
    enforce_eager: bool = False


class GeneratorConfig(Section):
    kind: Literal["transformers", "server", "vllm", "batch"] = Field(
        "transformers", description="in this process; an OpenAI-compatible server; vLLM in this process; batch files"
    )
    model: str = Field(
        "builtin:gemma-3-270m", description="hub causal LM, folder, builtin:gemma-3-270m; or as the server names it"
    )
    mode: Literal["auto", "base", "chat"] = Field("auto", description="auto: chat if the tokenizer has a chat template")
    candidates_per_class: int = Field(76, ge=1, description="asked for over all rounds")
    samples_per_prompt: int = Field(8, ge=1, description="requests that share one prompt, and so its prefill")
    exemplars: int = Field(4, ge=0, description="real texts of the class shown in a prompt")
    temperature: float = Field(0.9, gt=0)
    top_k: int = Field(50, ge=0)
    top_p: float = Field(0.95, gt=0, le=1)
    max_new_tokens: int | None = Field(None, ge=1, description="learnt from the real lengths if absent")
    batch_size: int = Field(192, ge=1, description="rows decoded together")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    template: Path | None = Field(None, description="a prompt template of your own instead of the one shipped")
    adapter: str | None = Field(None, description="folder of a LoRA adapter in peft's format, such as a run's adapter/")
    tune: TuneConfig = Field(default_factory=TuneConfig)
    structured: bool = Field(False, description="server, vllm: ask for JSON with the text in it")
    server: ServerConfig = Field(default_factory=ServerConfig)
    vllm: VllmConfig = Field(default_factory=VllmConfig)
    trust_remote_code: bool = False

    @model_validator(mode="after")
    def _in_process(self) -> GeneratorConfig:
        if self.kind != "transformers" and (self.tune.steps or self.adapter is not None):
            raise ValueError(f"tune and adapter are for kind transformers; {self.kind} serves a model as it is")
        return self

    @model_validator(mode="after")
    def _one_adapter(self) -> GeneratorConfig:
        if self.adapter is not None and self.tune.steps:
            raise ValueError("adapter is tuned already; leave it out, or set tune.steps to 0")
        return self


class EngineConfig(Section):
    """What carries the work (docs/scaling.md): this process, or a Ray cluster. Both choose the same from the same
    replies, up to ``held_rows`` requests."""

    kind: Literal["local", "ray"] = "local"
    address: str | None = Field(
        None, description="of a Ray cluster; absent: $RAY_ADDRESS, or a cluster of this machine alone"
    )
    storage: str | None = Field(
        None,
        description="where candidates and features lie: a folder that every node sees, s3:// or gs://; absent: shards/ "
        "in the run directory",
    )
    shard_rows: int = Field(1024, ge=1, description="requests whose texts one Parquet file holds")
    held_rows: int = Field(
        1_000_000,
        ge=1,
        description="requests of a run of which every candidate is held; of more, groups of shards propose some",
    )
    writers: int | None = Field(None, ge=1, description="generators at once; absent: one a GPU, or 2 that ask servers")
    scorers: int | None = Field(None, ge=1, description="students at once; absent: one a GPU or core")
