"""vLLM in this process: its offline engine, whose replies are given out as they finish.

Prefix caching is on, so what prompts share is computed once. https://docs.vllm.ai/en/latest/ (EngineArgs, LLMEngine)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from gendistill.errors import GenerationError, MissingExtraError, ModelError
from gendistill.generators.base import Reply, Request
from gendistill.generators.wire import SCHEMA
from gendistill.models import resolve

if TYPE_CHECKING:
    from gendistill.config import VllmConfig

WAITING_MOST = 1024  # requests in the engine's hands at once; it runs as many of them as fit


class VllmGenerator:
    """:param mode: "chat", "base", or "auto": a chat if the tokenizer has a chat template.
    :raises MissingExtraError: vLLM is not installed.
    """

    remote = True  # the engine has processes of its own

    def __init__(self, model: str, *, mode: str, structured: bool, engine: VllmConfig) -> None:
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
        if self.mode != "auto":
            return self.mode == "chat"
        return bool(getattr(self.load().get_tokenizer(), "chat_template", None))

    def load(self) -> Any:
        """The engine, started once.

        :raises ModelError: the model cannot be found or the engine does not start.
        """
        if self._engine is None:
            given = {key: value for key, value in self.settings.model_dump().items() if value is not None}
            arguments = self.vllm.EngineArgs(model=resolve(self.model), enable_prefix_caching=True, **given)
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
                    try:
                        engine.add_request(request.id, self._prompt(request), self._parameters(request))
                        held.add(request.id)
                    except ValueError as error:  # a prompt that is too long, and the like
                        refused.append(Reply(request.id, "", "error", error=_one_line(error)))
                if refused:
                    yield refused
                if not held:
                    if exhausted:
                        return
                    continue
                done = [_reply(output) for output in engine.step() if output.finished]
                held.difference_update(reply.request_id for reply in done)
                if done:
                    yield done
        except (RuntimeError, OSError) as error:
            raise GenerationError(f"vLLM stopped: {_one_line(error)}") from error
        finally:
            if held:
                engine.abort_request(list(held))

    def _prompt(self, request: Request) -> Any:
        if request.messages is None:
            return request.prompt
        turns = [{"role": role, "content": content} for role, content in request.messages]
        tokenizer = self.load().get_tokenizer()
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=False)
        return {"prompt_token_ids": ids}

    def _parameters(self, request: Request) -> Any:
        extra = {}
        if self.structured:
            from vllm.sampling_params import StructuredOutputsParams

            extra["structured_outputs"] = StructuredOutputsParams(json=SCHEMA)
        return self.vllm.SamplingParams(
            max_tokens=request.max_new_tokens,
            temperature=request.temperature,
            top_k=request.top_k,
            top_p=request.top_p,
            seed=request.seed,
            stop=list(request.stop) or None,
            **extra,
        )


def _reply(output: Any) -> Reply:
    (found,) = output.outputs
    finish = "length" if found.finish_reason == "length" else "stop"
    return Reply(output.request_id, found.text, finish, len(output.prompt_token_ids or ()), len(found.token_ids))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
