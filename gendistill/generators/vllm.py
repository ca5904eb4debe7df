"""vLLM in this process: its offline engine, whose replies are given out as they finish.

Prefix caching is on, so what prompts share is computed once. https://docs.vllm.ai/en/latest/ (EngineArgs, LLMEngine)
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from gendistill.errors import ConfigError, GenerationError, MissingExtraError, ModelError
from gendistill.generators.base import Reply, Request
from gendistill.generators.chat import chat_text
from gendistill.generators.wire import schema_of
from gendistill.models import model_error, resolve

if TYPE_CHECKING:
    from gendistill.config import VllmConfig

WAITING_MOST = 1024  # requests in the engine's hands at once; it runs as many of them as fit
# Read by vLLM when it is imported and in its processes: it reports its use to its makers unless told not to, and prints
# a page before the first text.
ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}


class VllmGenerator:
    """:param mode: "chat", "base", or "auto": a chat if the tokenizer has a chat template.
    :raises MissingExtraError: vLLM is not installed.
    :raises ConfigError: the engine is to be several, which one process cannot drive.
    """

    remote = True  # the engine has processes of its own

    def __init__(self, model: str, *, mode: str, structured: bool, engine: VllmConfig) -> None:
        if engine.data_parallel_size > 1:
            raise ConfigError(
                "generator.vllm.data_parallel_size: in this process vLLM runs one engine; start several servers and "
                "give each as --base-url to --generator server"
            )
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        try:
            import vllm
        except ImportError as error:
            raise MissingExtraError(
                f"--generator vllm needs the package vllm ({error}): pip install 'gendistill[vllm]', or start a server "
                "and use --generator server"
            ) from error
        self.vllm = vllm
        self.name = self.model = model
        self.mode, self.structured, self.settings = mode, structured, engine
        self._engine: Any = None

    @property
    def chat(self) -> bool:
        """By the tokenizer alone: whoever plans a run that others write must not hold an engine, and its GPU.

        :raises ModelError: the model's tokenizer cannot be found or read.
        """
        if self.mode == "auto":
            from transformers import AutoTokenizer

            try:
                tokenizer = AutoTokenizer.from_pretrained(resolve(self.model))
            except Exception as error:  # transformers raises a dozen kinds
                raise model_error(self.model, error) from error
            self.mode = "chat" if tokenizer.chat_template else "base"
        return self.mode == "chat"

    def load(self) -> Any:
        """The engine, started once.

        :raises ModelError: the model cannot be found or the engine does not start.
        """
        if self._engine is None:
            given = {key: value for key, value in self.settings.model_dump().items() if value is not None}
            if _on_cpu():
                # Seen with vLLM 0.32: the engine dies of a request with a seed whose prompt is read in parts
                given["enable_chunked_prefill"] = False
            arguments = self.vllm.EngineArgs(
                model=resolve(self.model), enable_prefix_caching=True, disable_log_stats=True, **given
            )
            try:
                self._engine = self.vllm.LLMEngine.from_engine_args(arguments)
            except Exception as error:
                raise ModelError(f"vLLM does not start with {self.model!r}: {_one_line(error)}") from error
        return self._engine

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Replies as the engine finishes them."""
        for replies in self.arrivals(requests):
            yield from replies

    def arrivals(self, requests: Iterable[Request]) -> Iterator[list[Reply]]:
        """The same, those of one step of the engine together.

        :raises GenerationError: the engine died.
        """
        engine = self.load()
        waiting, exhausted = iter(requests), False
        held: set[str] = set()
        try:
            while True:
                refused = []
                while not exhausted and len(held) < WAITING_MOST:
                    request = next(waiting, None)
                    if request is None:
                        exhausted = True
                        break
                    reason = self._refused(engine, request)
                    if reason is None:
                        held.add(request.id)
                    else:
                        refused.append(Reply(request.id, "", "error", error=reason))
                if refused:
                    yield refused
                if not held:
                    if exhausted:
                        return
                    continue
                done = [_reply(output) for output in self._step(engine) if output.finished]
                held.difference_update(reply.request_id for reply in done)
                if done:
                    yield done
        finally:
            if held:
                with contextlib.suppress(Exception):  # of a dead engine
                    engine.abort_request(list(held))

    def _refused(self, engine: Any, request: Request) -> str | None:
        """Give a request to the engine; the reason if it does not take it, such as a prompt that is too long."""
        # Its own class of refusals is a ValueError in some versions only
        refusal = getattr(getattr(self.vllm, "exceptions", None), "VLLMClientError", ValueError)
        try:
            engine.add_request(request.id, self._prompt(request), self._parameters(request))
        except (ValueError, TemplateError, refusal) as error:
            return _one_line(error)
        except Exception as error:
            raise GenerationError(f"vLLM stopped: {_one_line(error)}") from error
        return None

    def _step(self, engine: Any) -> Any:
        try:
            return engine.step()
        except Exception as error:  # what it raises when its processes are gone is no RuntimeError
            raise GenerationError(f"vLLM stopped: {_one_line(error)}") from error

    def _prompt(self, request: Request) -> Any:
        tokenizer = self.load().get_tokenizer()
        if request.messages is None:
            # What looks like a special token in a row ("<eos>") stays text
            return {"prompt_token_ids": tokenizer(request.prompt, split_special_tokens=True).input_ids}
        text = chat_text(tokenizer, request.messages)
        return {"prompt_token_ids": tokenizer(text, add_special_tokens=False).input_ids}

    def _parameters(self, request: Request) -> Any:
        extra = {}
        if self.structured:
            from vllm.sampling_params import StructuredOutputsParams

            extra["structured_outputs"] = StructuredOutputsParams(json=schema_of(request))
        return self.vllm.SamplingParams(
            max_tokens=request.max_new_tokens,
            temperature=request.temperature,
            top_k=request.top_k,
            top_p=request.top_p,
            seed=request.seed,
            # Between the parts of a JSON object there may be line breaks; it ends by itself
            stop=None if self.structured else list(request.stop) or None,
            **extra,
        )


def _on_cpu() -> bool:
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def _reply(output: Any) -> Reply:
    (found,) = output.outputs
    prompt, completion = len(output.prompt_token_ids or ()), len(found.token_ids)
    if found.finish_reason in ("stop", "length"):
        return Reply(output.request_id, found.text, found.finish_reason, prompt, completion)
    reason = f"vLLM stopped the text: {found.finish_reason}"
    return Reply(output.request_id, found.text, "error", prompt, completion, reason)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
