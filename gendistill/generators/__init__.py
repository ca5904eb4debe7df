"""The generators, by the ``kind`` that a configuration names. torch is imported when one is built, not before."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gendistill.generators.base import Generator, Reply, Request

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


GENERATORS: dict[str, Callable[[GeneratorConfig], Generator]] = {"transformers": _transformers}


def build_generator(config: GeneratorConfig) -> Generator:
    """The generator of a configuration; its model is loaded at the first use."""
    return GENERATORS[config.kind](config)


__all__ = ["GENERATORS", "Generator", "Reply", "Request", "build_generator"]
