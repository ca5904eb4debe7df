"""The generators, by the ``kind`` that a configuration names. torch is imported when one is built, not before."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gendistill.errors import ConfigError
from gendistill.generators.base import Generator, Reply, Request, arrivals
from gendistill.generators.urls import shown

if TYPE_CHECKING:
    from gendistill.config import GeneratorConfig


def _transformers(config: GeneratorConfig) -> Generator:
    from gendistill.generators.transformers import TransformersGenerator

    return TransformersGenerator(
        config.model,
        mode=config.mode,
        batch_size=config.batch_size,
        dtype=config.dtype,
        trust_remote_code=config.trust_remote_code,
        adapter=config.adapter,
    )


def _server(config: GeneratorConfig) -> Generator:
    import os

    from gendistill.generators.server import ServerGenerator

    settings = config.server
    urls = settings.base_urls or [url for url in (os.environ.get("OPENAI_BASE_URL"),) if url]
    if not urls:
        raise ConfigError("--base-url: where is the server? for example http://127.0.0.1:8000/v1")
    return ServerGenerator(
        _served(config),
        urls,
        key=os.environ.get(settings.api_key_env),
        key_name=settings.api_key_env,
        mode=config.mode,
        most_choices=settings.choices_per_call,
        concurrency=settings.concurrency,
        timeout_s=settings.timeout,
        tries=settings.tries,
        give_up_s=settings.give_up_after,
        structured=config.structured,
    )


def _vllm(config: GeneratorConfig) -> Generator:
    from gendistill.generators.vllm import VllmGenerator

    return VllmGenerator(config.model, mode=config.mode, structured=config.structured, engine=config.vllm)


def _batch(config: GeneratorConfig) -> Generator:
    from gendistill.generators.batch import BatchGenerator

    return BatchGenerator(_served(config), mode=config.mode)


def _served(config: GeneratorConfig) -> str:
    if config.model.startswith("builtin:"):
        raise ConfigError("--model: name the model as the server does; built-in ones are for --generator transformers")
    return config.model


GENERATORS: dict[str, Callable[[GeneratorConfig], Generator]] = {
    "transformers": _transformers,
    "server": _server,
    "vllm": _vllm,
    "batch": _batch,
}


def build_generator(config: GeneratorConfig) -> Generator:
    """The generator of a configuration; its model is loaded at the first use."""
    return GENERATORS[config.kind](config)


def loading_line(config: GeneratorConfig) -> str:
    """What a user is told before the generator is first used."""
    if config.kind in ("server", "batch"):
        return f"{config.model} on {', '.join(map(shown, config.server.base_urls)) or 'its server'}"
    return f"loading {config.model}; a built-in model is unpacked the first time, about a minute"


__all__ = ["GENERATORS", "Generator", "Reply", "Request", "arrivals", "build_generator", "loading_line"]
