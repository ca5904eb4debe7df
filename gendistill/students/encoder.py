"""A classifier on a pretrained body (an encoder, or the body of a causal LM), pooling and a linear softmax head.

Everything is fine-tuned, or with ``frozen_share`` the upper blocks alone.

The head reads ``h = scale * pooled / |pooled|``, pooled being the mean over tokens (encoders) or the last token (causal
LMs, where it alone has seen the whole text). It starts from a logistic probe on the frozen features, so training begins
where a linear probe ends (LP-FT: Kumar et al., ICLR 2022, arXiv 2202.10054). That makes runs on a few dozen examples
far less noisy than a random head. ``head_init: random`` gives the plain recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gendistill.config import StudentConfig
from gendistill.errors import ModelError
from gendistill.examples import Example
from gendistill.models import model_error, resolve, safe_load_kwargs
from gendistill.parallel import ALONE, Split
from gendistill.schedules import Schedule, cosine, linear
from gendistill.students.base import Features
from gendistill.students.frozen import FrozenBlocks
from gendistill.students.gradients import BodyGradients, random_maps
from gendistill.students.pieces import PAIR_PARTS, Pieces, encode, flat, owners, pieces, pooled
from gendistill.students.probe import fit_probe, training_targets

FEATURE_SCALE = 10.0  # unit-length features make a softmax head far too timid at ordinary learning rates
# Tokens of a batch when nothing is trained. On a CPU what a layer writes should still be in the cache when the next one
# reads it.
BATCH_TOKENS = {"cpu": 512}
ACCELERATOR_BATCH_TOKENS = 16_384
FROZEN_KEPT = 50_000  # rows whose pretrained features are remembered: 77 MB at 384 dimensions
Progress = Callable[[int, int], None]  # done, total


class EncoderStudent:
    """A ``Student`` on any body that ``AutoModel`` loads, encoder or causal LM.

    :param config: model name and training recipe.
    :param num_classes: C.
    :raises ModelError: the model cannot be found or has no safe weights.
    """

    def __init__(self, config: StudentConfig, num_classes: int, *, device: str | None = None) -> None:
        from transformers import AutoModel, AutoTokenizer

        self.config = config
        self.num_classes = num_classes
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.batch_tokens = BATCH_TOKENS.get(self.device.type, ACCELERATOR_BATCH_TOKENS)
        folder = resolve(config.model)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=config.trust_remote_code)
            # Eager attention: fused kernels round differently for different batch shapes.
            self.encoder: nn.Module = AutoModel.from_pretrained(
                folder, attn_implementation="eager", dtype=torch.float32, **safe_load_kwargs(config.trust_remote_code)
            ).to(self.device)
        except Exception as error:
            raise model_error(config.model, error) from error
        if self.tokenizer.pad_token is None:
            if self.tokenizer.eos_token is None:
                raise ModelError(f"student {config.model}: its tokenizer has no padding token; choose another model")
            self.tokenizer.pad_token = self.tokenizer.eos_token
        # On the right, positions count from the text's start and no token of a causal LM sees the padding.
        self.tokenizer.padding_side = "right"
        self.encoder.config.use_cache = False  # causal LMs would return keys and values that nobody reads
        self.pooling = _pooling(self.encoder.config) if config.pooling == "auto" else config.pooling
        if self.pooling == "pooler" and getattr(self.encoder, "pooler", None) is None:
            raise ModelError(f"student {config.model}: has no pooler; set student.pooling to auto")
        width = getattr(self.encoder.config, "hidden_size", None)
        if not isinstance(width, int):
            raise ModelError(f"student {config.model}: no hidden_size in its configuration; is it a text model?")
        self.width = width
        self.head = nn.Linear(width, num_classes).to(self.device)
        self._pretrained = _copy_state(self.encoder)
        self._states: list[dict[str, Tensor]] = []
        self._present: dict[str, Tensor] | None = None  # the checkpoint that is loaded, if any
        self._frozen: dict[str, Tensor] = {}  # example id -> head input at the pretrained weights
        dims = config.gradient_dims
        maps = random_maps(self.encoder, dims, kind=config.gradient_kind, seed=config.gradient_seed) if dims else {}
        self.gradients = BodyGradients(self.encoder, maps, dims) if dims else None
        self.lower = FrozenBlocks(self.encoder, config.frozen_share) if config.frozen_share else None

    @property
    def checkpoints(self) -> int:
        return len(self._states)

    @property
    def states(self) -> tuple[Mapping[str, Tensor], ...]:
        """Every checkpoint: ``encoder.*`` and ``head.*`` weights, and from the first step on ``adam.weight`` and
        ``adam.bias``, the bias-corrected second moments of the head's gradients."""
        return tuple(self._states)

    # -- training -------------------------------------------------------------------------------------------------

    def fit(
        self,
        examples: Sequence[Example],
        *,
        seed: int,
        targets: Tensor | None = None,
        checkpoints: int = 1,
        progress: Progress | None = None,
        split: Split = ALONE,
    ) -> None:
        """Train from the pretrained weights, for ``config.training_steps(len(examples))`` steps.

        :param targets: (n, C) float32 probabilities that replace the labels, in the probe and in the loss.
        :param checkpoints: how many states to keep, evenly spaced, the last being the trained student; with two or
            more the first is the start of training (pretrained body, probe head).
        :param split: this process's share, where several train together; all but the first keep the last state alone.
        :raises DataError: no examples, or targets that are no probabilities of theirs.
        """
        wanted = training_targets(examples, targets, self.num_classes)
        recipe, steps = self.config, self.config.training_steps(len(examples))
        self.encoder.load_state_dict(self._pretrained)
        self._states, self._present = [], None
        encoded = self._encode(examples)
        self._widen(self._width(examples))
        generator = torch.Generator().manual_seed(seed)
        self._initialise_head(examples, wanted, generator, split)
        weights = [*self.encoder.parameters(), *self.head.parameters()]
        split.agree(weights)
        keep_at = {round(steps * k / max(checkpoints - 1, 1)) for k in range(checkpoints - 1)} if split.first else set()
        optimizer = torch.optim.AdamW(
            [
                {"params": self.encoder.parameters(), "lr": recipe.learning_rate},
                {"params": self.head.parameters(), "lr": recipe.head_learning_rate},
            ],
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate_schedule(recipe, steps))
        batches = shuffled_batches(len(examples), min(recipe.batch_size, len(examples)), generator)
        with torch.random.fork_rng(devices=[]):  # dropout draws from the global generator
            torch.manual_seed(seed + split.index)  # each process's rows have masks of their own
            for step in range(steps):
                if step in keep_at:
                    self._states.append(self._state(optimizer))
                batch = next(batches)
                rows = split.share(batch)
                self.encoder.train(recipe.dropout)
                optimizer.zero_grad(set_to_none=True)
                if rows:
                    texts = [encoded[row] for row in rows]
                    with self._autocast(), self._from_below(texts):
                        logits = self.head(self._pool(self._pad(pieces(texts)), texts))
                        loss = nn.functional.cross_entropy(logits.float(), wanted[rows].to(self.device))
                    (loss * (len(rows) / len(batch))).backward()
                split.add_up(weights)
                nn.utils.clip_grad_norm_(self.encoder.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                if progress:
                    progress(step + 1, steps)
        self.encoder.eval()
        self._states.append(self._state(optimizer))
        self._present = self._states[-1]

    def _initialise_head(
        self, examples: Sequence[Example], wanted: Tensor, generator: torch.Generator, split: Split
    ) -> None:
        """All processes draw the same numbers, but only the first's head counts: the others take it over."""
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(self.head.weight.shape, generator=generator) * 0.02)
            self.head.bias.zero_()
        if self.config.head_init == "random":
            return
        rows = torch.randperm(len(examples), generator=generator)[: self.config.probe_rows].sort().values.tolist()
        if not split.first:
            return
        hidden = self._frozen_hidden([examples[row] for row in rows])
        weight, bias = fit_probe(hidden, wanted[rows], self.num_classes)
        with torch.no_grad():
            self.head.weight.copy_(weight)
            self.head.bias.copy_(bias)

    # -- using ----------------------------------------------------------------------------------------------------

    def predict(self, examples: Sequence[Example]) -> Tensor:
        return self.features(examples).probabilities

    def features(
        self, examples: Sequence[Example], *, checkpoint: int = -1, progress: Progress | None = None
    ) -> Features:
        """As the protocol says; with ``gradient_dims`` in the configuration the body's gradients are among them."""
        if not self._states:
            raise ModelError("this student has not been trained yet; call fit first")
        self._load(self._states[checkpoint])
        if self.gradients is None:
            return self.classify(self._hidden(examples, progress), checkpoint=checkpoint)
        hidden, gradient = self._hidden_and_gradient(examples, self.gradients, progress)
        return replace(self.classify(hidden, checkpoint=checkpoint), gradient=gradient)

    def classify(self, hidden: Tensor, *, checkpoint: int = -1) -> Features:
        """The head of a checkpoint on given head inputs, (n, d) float32."""
        state = self._states[checkpoint]
        logits = nn.functional.linear(hidden, state["head.weight"], state["head.bias"])
        return Features(hidden, logits.softmax(-1))

    def embed(self, examples: Sequence[Example], *, progress: Progress | None = None) -> Tensor:
        """Pooled embeddings of the pretrained body, (n, d) float32, rows of length 1."""
        hidden = self._frozen_hidden(examples, progress)
        return nn.functional.normalize(hidden, dim=-1) if self.pooling == "pooler" else hidden / FEATURE_SCALE

    def _frozen_hidden(self, examples: Sequence[Example], progress: Progress | None = None) -> Tensor:
        """Head inputs at the pretrained weights, remembered, since every fit begins from them."""
        ids = [example.id for example in examples]
        new = [row for row, identity in enumerate(ids) if identity not in self._frozen]
        if len(self._frozen) + len(new) > FROZEN_KEPT:
            self._frozen.clear()
            new = list(range(len(ids)))
        if new:
            self.encoder.load_state_dict(self._pretrained)
            self._present = None
            hidden = self._hidden([examples[row] for row in new], progress)
            self._frozen.update(zip((ids[row] for row in new), hidden, strict=True))
        return (
            torch.stack([self._frozen[identity] for identity in ids]) if ids else torch.empty(0, self.head.in_features)
        )

    def _hidden(self, examples: Sequence[Example], progress: Progress | None = None) -> Tensor:
        """(n, d) float32 on the CPU, at the present weights, computed in batches of like length."""
        self.encoder.eval()
        encoded = self._encode(examples)
        hidden = torch.empty(len(encoded), self._width(examples))
        with torch.inference_mode():
            for rows in alike([flat(text) for text in encoded], self.batch_tokens, progress):
                texts = [encoded[row] for row in rows]
                with self._autocast(), self._from_below(texts):
                    vectors = self._pool(self._pad(pieces(texts)), texts)
                hidden[rows] = vectors.float().cpu()
        return hidden

    def _hidden_and_gradient(
        self, examples: Sequence[Example], gradients: BodyGradients, progress: Progress | None
    ) -> tuple[Tensor, Tensor]:
        """(n, d) as ``_hidden``, and the projected gradients of the own labels' cross entropies, (n, k) float32."""
        self.encoder.eval()
        encoded = self._encode(examples)
        labels = torch.tensor([example.label for example in examples], dtype=torch.int64)
        hidden = torch.empty(len(encoded), self._width(examples))
        gradient = torch.zeros(len(encoded), gradients.dims)
        weight, bias = self.head.weight.detach(), self.head.bias.detach()
        for rows in alike([flat(text) for text in encoded], self.batch_tokens, progress):
            texts = [encoded[row] for row in rows]
            batch = self._pad(pieces(texts))
            with gradients.capture(batch["attention_mask"]) as captured:
                with self._autocast():
                    vectors = self._pool(batch, texts)
                logits = nn.functional.linear(vectors.float(), weight, bias)
                # Summed, not averaged: a row's gradient must not depend on its company. In float64, for p - 1 of a
                # row that has been learnt is lost to rounding in float32.
                nn.functional.cross_entropy(logits.double(), labels[rows].to(self.device), reduction="sum").backward()
            hidden[rows] = vectors.detach().float().cpu()
            gradient.index_add_(0, torch.tensor(rows)[owners(texts)], captured.cpu())
        return hidden, gradient

    def unread(self, examples: Sequence[Example]) -> int:
        """How many of the examples have more text than the student reads."""
        limit, chunks = self._limit(), self.config.chunks
        encoded = self._encode(examples)
        return sum(any(len(one) == chunks and len(one[-1]) >= limit for one in example) for example in encoded)

    def _joint(self, examples: Sequence[Example]) -> bool:
        """Whether pairs are read as one piece."""
        joint = self.config.pairs == "joint" or (self.config.pairs == "auto" and self.pooling == "pooler")
        return joint and len(examples[0].fields) > 1

    def _width(self, examples: Sequence[Example]) -> int:
        """Of the vectors that the head reads of such examples."""
        apart = bool(examples) and len(examples[0].fields) > 1 and not self._joint(examples)
        return self.width * (PAIR_PARTS if apart else 1)

    def _widen(self, width: int) -> None:
        """A head for vectors of this width."""
        if self.head.in_features != width:
            self.head = nn.Linear(width, self.num_classes).to(self.device)

    def _limit(self) -> int:
        return min(self.config.max_tokens, _context_length(self.encoder.config))

    def _encode(self, examples: Sequence[Example]) -> list[Pieces]:
        if not examples:
            return []
        columns = list(zip(*(example.fields for example in examples), strict=True))
        joint = self._joint(examples)
        # Tokenizers of causal LMs may add nothing, and an empty text needs one token to be pooled.
        return encode(self.tokenizer, columns, joint=joint, limit=self._limit(), chunks=self.config.chunks)

    def _pad(self, encoded: list[list[int]]) -> Any:
        """input_ids and attention_mask, (batch, longest)."""
        return self.tokenizer.pad({"input_ids": encoded}, return_tensors="pt").to(self.device)

    def _from_below(self, texts: list[Pieces]) -> AbstractContextManager[None]:
        """In the block, a pass over these texts begins above the frozen blocks, if there are any."""
        if self.lower is None:
            return nullcontext()
        rows = pieces(texts)
        return self.lower.given(self.lower.states(rows, alike(rows, self.batch_tokens), self._pad))

    def _pool(self, batch: Any, texts: list[Pieces]) -> Tensor:
        """Scaled and of unit length, (len(texts), d); a model's own pooled output as it is."""
        output = self.encoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        if self.pooling == "pooler":
            return output.pooler_output.float()
        states = output.last_hidden_state
        if self.pooling == "last":
            sums = states[torch.arange(len(states), device=self.device), batch["attention_mask"].sum(1) - 1]
            weights = torch.ones_like(sums[:, :1])
        else:
            mask = batch["attention_mask"].unsqueeze(-1).to(states.dtype)
            sums, weights = (states * mask).sum(1), mask.sum(1)
        return FEATURE_SCALE * nn.functional.normalize(pooled(sums, weights, texts), dim=-1)

    def _autocast(self) -> Any:
        # Opened inside each step: autocast caches weight casts until its outermost context ends.
        fast = self.device.type == "cuda"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=fast)

    # -- states ---------------------------------------------------------------------------------------------------

    def _state(self, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        state = {f"encoder.{name}": value for name, value in _copy_state(self.encoder).items()}
        state |= {f"head.{name}": value for name, value in _copy_state(self.head).items()}
        for name, weight in self.head.named_parameters():
            if moments := optimizer.state.get(weight):  # none before the first step
                correction = 1 - optimizer.param_groups[-1]["betas"][1] ** float(moments["step"])
                state[f"adam.{name}"] = (moments["exp_avg_sq"] / correction).cpu()
        return state

    def _load(self, state: dict[str, Tensor]) -> None:
        if self._present is state:
            return
        split = {"encoder": self.encoder, "head": self.head}
        for prefix, module in split.items():
            module.load_state_dict({n.removeprefix(f"{prefix}."): v for n, v in state.items() if n.startswith(prefix)})
        self._present = state

    def save(self, folder: Path) -> None:
        """Write every checkpoint as safetensors; the caller makes the folder appear whole."""
        for index, state in enumerate(self._states):
            save_file({name: value.contiguous() for name, value in state.items()}, folder / f"{index:03d}.safetensors")

    def load(self, folder: Path) -> None:
        """Read what ``save`` wrote."""
        self._states = [load_file(path) for path in sorted(folder.glob("*.safetensors"))]
        self._widen(self._states[-1]["head.weight"].shape[1])
        self._present = None


def rate_schedule(recipe: StudentConfig, steps: int) -> Schedule:
    """Shares of the learning rates, by step."""
    warmup = max(1, round(recipe.warmup * steps))
    return linear(warmup, steps) if recipe.schedule == "linear" else cosine(warmup, steps)


def shuffled_batches(count: int, batch_size: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Endless batches, every row once a pass; a short last batch is filled from the next pass."""
    pending: list[int] = []
    while True:
        while len(pending) < batch_size:
            pending += torch.randperm(count, generator=generator).tolist()
        yield pending[:batch_size]
        pending = pending[batch_size:]


def alike(encoded: list[list[int]], tokens: int, progress: Progress | None = None) -> Iterator[list[int]]:
    """Rows in batches of like length, each of at most so many tokens with its padding (but one row at least).

    Ties are broken by content: a batch holds the same rows in whatever order they come.
    """
    order = sorted(range(len(encoded)), key=lambda row: (len(encoded[row]), encoded[row]))
    start = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end + 1 - start) * len(encoded[order[end]]) > tokens:
            yield order[start:end]
            if progress:
                progress(end, len(order))
            start = end


def _copy_state(module: nn.Module) -> dict[str, Tensor]:
    # state_dict() aliases the live weights
    return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}


def _pooling(config: Any) -> Literal["mean", "last"]:
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    # Encoders such as BERT have a causal variant too, but no causal LM has a masked one.
    kind = getattr(config, "model_type", "")
    causal = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return "last" if causal else "mean"


def _context_length(config: Any) -> int:
    positions = getattr(config, "max_position_embeddings", 512)
    # RoBERTa's positions start after its padding index
    return positions - 2 if getattr(config, "model_type", "") in {"roberta", "xlm-roberta", "camembert"} else positions
