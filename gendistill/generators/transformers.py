"""The in-process generator: any causal language model that transformers loads, on the CPU or one GPU.

It has a decode loop of its own, because ``transformers.generate`` prefills a prompt once per sample, carries finished
rows along, draws from the whole vocabulary, and has one seed for the whole batch. Here a prompt is prefilled once for
all its samples, finished rows leave the batch, and every request draws from its own seed, so that its reply does not
depend on its neighbours (up to the rounding of batched matrix products: float32 keeps replies the same, bfloat16
may not).
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jinja2 import TemplateError
from torch import Tensor

from gendistill.errors import ConfigError, GenerationError
from gendistill.generators.base import Reply, Request
from gendistill.generators.chat import chat_text
from gendistill.models import load_causal_lm

STOP_MARGIN = 4  # tokens looked at beyond the stop string's bytes, since decoding may drop a leading blank


class TransformersGenerator:
    """A causal language model in this process.

    :param model: hub name, folder, ``.gguf`` file or ``builtin:`` name. Loaded at the first use.
    :param mode: ``auto`` is ``chat`` when the tokenizer has a chat template, else ``base``.
    :param batch_size: rows decoded together; halved by itself when memory runs out.
    :param dtype: ``auto`` is bfloat16 on a GPU or a CPU with bfloat16 instructions, else float32.
    :param device: ``cuda`` when there is one and None is given.
    :param adapter: folder of a LoRA adapter, merged into the weights.
    """

    def __init__(
        self,
        model: str = "builtin:gemma-3-270m",
        *,
        mode: Literal["auto", "base", "chat"] = "auto",
        batch_size: int = 32,
        dtype: str = "auto",
        trust_remote_code: bool = False,
        device: str | None = None,
        adapter: str | None = None,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"generator batch_size must be at least 1 (got {batch_size})")
        self.model_name, self.adapter = model, adapter
        self.name = model if adapter is None else f"{model} with the adapter {Path(adapter).name}"
        self.mode: Literal["auto", "base", "chat"] = mode
        self.batch_size = batch_size
        self.trust_remote_code = trust_remote_code
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.dtype = pick_dtype(dtype, self.device)
        self._model: Any = None
        self._tokenizer: Any = None

    @property
    def chat(self) -> bool:
        """Whether requests carry messages. Loads the model when the mode is ``auto``."""
        if self.mode == "auto":
            self.load()
            self.chat = bool(self._tokenizer.chat_template)
        return self.mode == "chat"

    @chat.setter
    def chat(self, value: bool) -> None:
        self.mode = "chat" if value else "base"

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Yield one reply per request, as each is finished; batches depend on the requests only, not on their order.

        Raises ModelError when the model cannot be loaded. Whatever goes wrong with a request is its reply's ``error``.
        """
        self.load()
        rows = []
        for request in requests:
            try:
                rows.append(self._row(request))
            except (GenerationError, TemplateError) as error:
                yield _failure(request, str(error))
        # Longest first: memory trouble shows at once, and neighbours are alike in length, so there is little padding.
        rows.sort(key=lambda row: (-len(row.prompt), row.prompt, row.request.id))
        batches = [rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)]
        while batches:
            batch = batches.pop(0)
            try:
                for row in self._decode(batch):
                    row.done = True
                    yield self._reply(row)
            except (RuntimeError, MemoryError, IndexError, ValueError, GenerationError) as error:
                left = [row.fresh() for row in batch if not row.done]
                if _out_of_memory(error) and len(left) > 1:
                    if self.device.type == "cuda":
                        torch.cuda.empty_cache()
                    self.batch_size = max(1, min(self.batch_size, (len(batch) + 1) // 2))
                    pending = left + [row for later in batches for row in later]
                    batches = [pending[i : i + self.batch_size] for i in range(0, len(pending), self.batch_size)]
                    continue
                for row in left:
                    yield _failure(row.request, _one_line(error))

    @property
    def model(self) -> Any:
        """The loaded model; None before ``load``."""
        return self._model

    def load(self) -> None:
        """Load the model and its tokenizer, once.

        :raises ModelError: it cannot be found or loaded, or the adapter does not fit it.
        """
        if self._model is not None:
            return
        model, self._tokenizer = load_causal_lm(self.model_name, self.dtype, trust_remote_code=self.trust_remote_code)
        if self.adapter is not None:
            from gendistill.generators.tuning import with_adapter

            model = with_adapter(model, self.adapter)
        self._model = model.to(self.device).eval()
        config = model.config.get_text_config()
        self._context: int | None = getattr(config, "max_position_embeddings", None)
        ends = [self._tokenizer.eos_token_id, config.eos_token_id, model.generation_config.eos_token_id]
        self._ends = {end for item in ends if item is not None for end in (item if isinstance(item, list) else [item])}
        accepted = inspect.signature(model.forward).parameters
        self._positions = "position_ids" in accepted
        self._keeps = "logits_to_keep" in accepted

    def unload(self) -> None:
        """Let go of the model's memory; it is loaded again when it is next used."""
        self._model = self._tokenizer = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _row(self, request: Request) -> _Row:
        if request.messages is not None:
            prompt = self.chat_ids(request.messages)
        elif request.prompt is not None:
            prompt = self.prompt_ids(request.prompt)
        else:
            raise GenerationError("the request has neither a prompt nor messages")
        if not prompt:
            raise GenerationError("the prompt has no tokens")
        limit = request.max_new_tokens
        if self._context is not None:
            if len(prompt) >= self._context:
                raise GenerationError(
                    f"the prompt has {len(prompt)} tokens and {self.name} takes fewer than {self._context}: "
                    "show fewer or shorter exemplars"
                )
            limit = min(limit, self._context - len(prompt))
        return _Row(request, tuple(prompt), limit, random.Random(request.seed))

    def prompt_ids(self, text: str) -> list[int]:
        """Tokens of a base model's prompt; what looks like a special token ("<eos>" in a row) stays text."""
        return self._tokenizer(text, split_special_tokens=True).input_ids

    def chat_ids(self, messages: Sequence[tuple[str, str]], reply: str | None = None) -> list[int]:
        """Tokens of a chat up to where the model is to answer; or with its answer, the turn ended."""
        return self._tokenizer(self._chat_text(messages, reply), add_special_tokens=False).input_ids

    def _chat_text(self, messages: Sequence[tuple[str, str]], reply: str | None = None) -> str:
        if not self._tokenizer.chat_template:
            raise GenerationError(f"{self.name} has no chat template: set the generator's mode to base")
        return chat_text(self._tokenizer, messages, reply)

    @torch.inference_mode()
    def _decode(self, rows: Sequence[_Row]) -> Iterator[_Row]:
        """Decode one batch, yielding each row when it is finished. ``live`` maps batch positions to rows."""
        prompts = list(dict.fromkeys(row.prompt for row in rows))
        width = max(map(len, prompts))
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        mask = torch.zeros(len(prompts), width, dtype=torch.long)
        for index, prompt in enumerate(prompts):
            ids[index, width - len(prompt) :] = torch.tensor(prompt)
            mask[index, width - len(prompt) :] = 1
        ids, mask = ids.to(self.device), mask.to(self.device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        logits, cache = self._forward(ids, mask, positions, None)
        if cache is None:
            raise GenerationError(f"{self.name} keeps no key-value cache, which this generator needs")
        # One prefilled row per prompt becomes one row per sample.
        where = torch.tensor([prompts.index(row.prompt) for row in rows], device=self.device)
        cache.batch_select_indices(where)
        logits, mask, position = logits[where], mask[where], positions[where, -1:]
        live = list(rows)
        while True:
            drawn = self._draw(logits, live)
            for row, token in zip(live, drawn, strict=True):
                if row.finish is None:
                    row.tokens.append(token)
                    row.finish = self._finish(row)
                    if row.finish is not None:
                        yield row
            unfinished = [index for index, row in enumerate(live) if row.finish is None]
            if not unfinished:
                return
            if len(live) - len(unfinished) >= max(1, len(live) // 8):  # copying the cache for each row costs more
                keep = torch.tensor(unfinished, device=self.device)
                cache.batch_select_indices(keep)
                mask, position = mask[keep], position[keep]
                live, drawn = [live[index] for index in unfinished], [drawn[index] for index in unfinished]
            mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=1)
            position = position + 1
            logits, cache = self._forward(torch.tensor(drawn, device=self.device)[:, None], mask, position, cache)

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """(n, V) float32 logits of the last position, and the cache."""
        extra = {"position_ids": positions} if self._positions else {}
        output = self._model(
            input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **extra, **self._keep(ids, 1)
        )
        return output.logits[:, -1].float(), getattr(output, "past_key_values", None)

    def _keep(self, ids: Tensor, last: int) -> dict[str, Tensor]:
        """Of most models, to be given the logits of the last positions alone: all of them are gigabytes.

        By indices, since a slice would not be contiguous and torch then copies the vocabulary's weights for each row.
        """
        width = ids.shape[1]
        return {"logits_to_keep": torch.arange(max(0, width - last), width, device=ids.device)} if self._keeps else {}

    def logits(self, model: Any, ids: Tensor, mask: Tensor, last: int) -> Tensor:
        """(B, last, V): a forward pass of this model, or of one around it, for rows padded on the left."""
        extra = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)} if self._positions else {}
        extra |= self._keep(ids, last)
        return model(input_ids=ids, attention_mask=mask, use_cache=False, **extra).logits[:, -last:]

    def _draw(self, logits: Tensor, rows: Sequence[_Row]) -> list[int]:
        """The next token of each row. Rows that ask alike are drawn together."""
        groups: dict[tuple[float, int, float], list[int]] = {}
        for index, row in enumerate(rows):
            request = row.request
            groups.setdefault((request.temperature, request.top_k, request.top_p), []).append(index)
        drawn = [0] * len(rows)
        for (temperature, top_k, top_p), indices in groups.items():
            uniforms = torch.tensor([rows[index].random.random() for index in indices], dtype=torch.float64)
            part = logits if len(groups) == 1 else logits[torch.tensor(indices, device=logits.device)]
            tokens = sample(part, uniforms, temperature=temperature, top_k=top_k, top_p=top_p)
            for index, token in zip(indices, tokens.tolist(), strict=True):
                drawn[index] = token
        return drawn

    def _finish(self, row: _Row) -> str | None:
        if row.tokens[-1] in self._ends:
            row.tokens.pop()
            return "stop"
        if row.request.stop:
            # A token stands for at least one byte, so a stop string just completed lies within this many tokens.
            span = max(len(stop.encode()) for stop in row.request.stop) + STOP_MARGIN
            tail = self._text(row.tokens[-span:])
            if any(stop in tail for stop in row.request.stop):
                text = self._text(row.tokens)
                cuts = [text.index(stop) for stop in row.request.stop if stop in text]
                if cuts:
                    row.text = text[: min(cuts)]
                    return "stop"
        return "length" if len(row.tokens) >= row.limit else None

    def _text(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _reply(self, row: _Row) -> Reply:
        text = self._text(row.tokens) if row.text is None else row.text
        assert row.finish is not None
        return Reply(row.request.id, text, row.finish, len(row.prompt), len(row.tokens))


@dataclass(slots=True, eq=False)
class _Row:
    """A request on its way through a batch."""

    request: Request
    prompt: tuple[int, ...]
    limit: int  # most tokens it may still be given
    random: random.Random
    tokens: list[int] = field(default_factory=list)
    text: str | None = None  # set when a stop string cut it
    finish: str | None = None
    done: bool = False  # its reply was given out

    def fresh(self) -> _Row:
        return _Row(self.request, self.prompt, self.limit, random.Random(self.request.seed))


def sample(logits: Tensor, uniforms: Tensor, *, temperature: float, top_k: int, top_p: float) -> Tensor:
    """(n,) token ids drawn by inverse CDF from the tempered, truncated distribution of each row.

    top_k comes first (0: the whole vocabulary), then temperature, then the nucleus: the likeliest tokens up to and
    including the one that brings their probability to top_p (Holtzman et al. 2020).

    :param logits: (n, V) float32.
    :param uniforms: (n,) float64 in [0, 1), one draw per row.
    Temperature 0 takes the likeliest token. Raises GenerationError when a row's logits are not numbers.
    """
    vocabulary = logits.shape[1]
    top_k = 1 if temperature == 0 else min(top_k, vocabulary) or vocabulary
    if top_k < vocabulary or top_p < 1:
        values, tokens = logits.topk(top_k, dim=1)
    else:
        values, tokens = logits, None  # no need to sort
    if not torch.isfinite(values.amax(1)).all():
        raise GenerationError("the model's logits are not finite: try another dtype")
    probabilities = (values.double() / (temperature or 1.0)).softmax(1)
    if top_p < 1:
        before = probabilities.cumsum(1) - probabilities
        probabilities = probabilities.masked_fill(before >= top_p, 0.0)
    cumulative = probabilities.cumsum(1)
    target = uniforms.to(logits.device)[:, None] * cumulative[:, -1:]
    # right=True: the first token whose cumulative probability exceeds the draw, so never one of probability 0.
    picked = torch.searchsorted(cumulative, target, right=True).clamp(max=top_k - 1)
    return (picked if tokens is None else tokens.gather(1, picked)).squeeze(1)


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The torch dtype of a configuration's ``dtype``; ``auto`` is bfloat16 where it is computed natively."""
    if name == "auto":
        native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        if device.type == "cpu":
            # Not every torch that is supported can tell.
            capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
            native = any(bool(capabilities.get(key)) for key in ("amx_bf16", "avx512_bf16"))
        return torch.bfloat16 if native else torch.float32
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in dtypes:
        raise ConfigError(f"generator dtype {name!r} is not one of auto, {', '.join(dtypes)}")
    return dtypes[name]


def _failure(request: Request, reason: str) -> Reply:
    return Reply(request.id, "", "error", error=reason)


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"


def _out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "not enough memory" in text
