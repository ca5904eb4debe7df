"""An encoder classifier: a pretrained encoder, mean pooling, and a linear softmax head, fine-tuned whole.

The head reads ``h = scale * mean_pooled / |mean_pooled|`` and starts from a logistic probe on the frozen features, so
training begins where a linear probe ends (LP-FT: Kumar et al., ICLR 2022, arXiv 2202.10054). That makes runs on a few
dozen examples far less noisy than a random head. ``head_init: random`` in the configuration gives the plain recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gendistill.config import StudentConfig
from gendistill.errors import DataError, ModelError
from gendistill.examples import Example
from gendistill.models import model_error, resolve, safe_load_kwargs
from gendistill.students.base import Features

FEATURE_SCALE = 10.0  # unit-length features make a softmax head far too timid at ordinary learning rates
PREDICT_BATCH = 64
FROZEN_KEPT = 50_000  # rows whose pretrained features are remembered: 77 MB at 384 dimensions
Progress = Callable[[int, int], None]  # done, total


class EncoderStudent:
    """A ``Student`` on any encoder that ``AutoModel`` loads.

    :param config: model name and training recipe.
    :param num_classes: C.
    :raises ModelError: the model cannot be found or has no safe weights.
    """

    def __init__(self, config: StudentConfig, num_classes: int, *, device: str | None = None) -> None:
        from transformers import AutoModel, AutoTokenizer

        self.config = config
        self.num_classes = num_classes
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
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
                raise ModelError(f"student {config.model}: its tokenizer has no padding token; choose another encoder")
            self.tokenizer.pad_token = self.tokenizer.eos_token
        width = getattr(self.encoder.config, "hidden_size", None)
        if not isinstance(width, int):
            raise ModelError(f"student {config.model}: no hidden_size in its configuration; is it a text encoder?")
        self.head = nn.Linear(width, num_classes).to(self.device)
        self._pretrained = _copy_state(self.encoder)
        self._states: list[dict[str, Tensor]] = []
        self._present: dict[str, Tensor] | None = None  # the checkpoint that is loaded, if any
        self._frozen: dict[str, Tensor] = {}  # example id -> head input at the pretrained weights

    @property
    def checkpoints(self) -> int:
        return len(self._states)

    # -- training -------------------------------------------------------------------------------------------------

    def fit(
        self,
        examples: Sequence[Example],
        *,
        seed: int,
        targets: Tensor | None = None,
        checkpoints: int = 1,
        progress: Progress | None = None,
    ) -> None:
        """Train from the pretrained weights.

        :param targets: soft labels to train towards instead of the examples' own, (n, C) float32, rows of sum 1.
        :param checkpoints: how many states to keep, evenly spaced, the last being the trained student; with two or
            more the first is the start of training (pretrained body, probe head).
        :raises DataError: no examples.
        """
        if not examples:
            raise DataError("a student cannot be trained on no examples")
        recipe = self.config
        self.encoder.load_state_dict(self._pretrained)
        self._states, self._present = [], None
        labels = torch.tensor([example.label for example in examples])
        goal = labels if targets is None else targets
        encoded = self._encode(examples)
        generator = torch.Generator().manual_seed(seed)
        self._initialise_head(examples, labels, generator)
        keep_at = {round(recipe.steps * k / max(checkpoints - 1, 1)) for k in range(checkpoints - 1)}
        optimizer = torch.optim.AdamW(
            [
                {"params": self.encoder.parameters(), "lr": recipe.learning_rate},
                {"params": self.head.parameters(), "lr": recipe.head_learning_rate},
            ],
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        warmup = max(1, round(recipe.warmup * recipe.steps))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / warmup, (recipe.steps - step) / max(1, recipe.steps - warmup))
        )
        batches = _shuffled_batches(len(examples), min(recipe.batch_size, len(examples)), generator)
        with torch.random.fork_rng(devices=[]):  # dropout draws from the global generator
            torch.manual_seed(seed)
            for step in range(recipe.steps):
                if step in keep_at:
                    self._states.append(self._state())
                rows = next(batches)
                self.encoder.train(recipe.dropout)
                with self._autocast():
                    logits = self.head(self._pool([encoded[row] for row in rows]))
                    loss = nn.functional.cross_entropy(logits.float(), goal[rows].to(self.device))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(self.encoder.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                if progress:
                    progress(step + 1, recipe.steps)
        self.encoder.eval()
        self._states.append(self._state())
        self._present = self._states[-1]

    def _initialise_head(self, examples: Sequence[Example], labels: Tensor, generator: torch.Generator) -> None:
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(self.head.weight.shape, generator=generator) * 0.02)
            self.head.bias.zero_()
        if self.config.head_init == "random":
            return
        rows = torch.randperm(len(examples), generator=generator)[: self.config.probe_rows].sort().values.tolist()
        hidden = self._frozen_hidden([examples[row] for row in rows])
        weight, bias = fit_probe(hidden, labels[rows], self.num_classes)
        with torch.no_grad():
            self.head.weight.copy_(weight)
            self.head.bias.copy_(bias)

    # -- using ----------------------------------------------------------------------------------------------------

    def predict(self, examples: Sequence[Example]) -> Tensor:
        return self.features(examples).probabilities

    def features(
        self, examples: Sequence[Example], *, checkpoint: int = -1, progress: Progress | None = None
    ) -> Features:
        if not self._states:
            raise ModelError("this student has not been trained yet; call fit first")
        self._load(self._states[checkpoint])
        return self.classify(self._hidden(examples, progress), checkpoint=checkpoint)

    def classify(self, hidden: Tensor, *, checkpoint: int = -1) -> Features:
        """The head of a checkpoint on given head inputs, (n, d) float32."""
        state = self._states[checkpoint]
        logits = nn.functional.linear(hidden, state["head.weight"], state["head.bias"])
        return Features(hidden, logits.softmax(-1))

    def embed(self, examples: Sequence[Example], *, progress: Progress | None = None) -> Tensor:
        """Mean-pooled embeddings of the pretrained encoder, (n, d) float32, rows of length 1."""
        return self._frozen_hidden(examples, progress) / FEATURE_SCALE

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
        # Ties broken by content, so that a batch holds the same rows whatever order they come in.
        order = sorted(range(len(encoded)), key=lambda row: (len(encoded[row]), encoded[row]))
        hidden = torch.empty(len(encoded), self.head.in_features)
        with torch.inference_mode():
            for start in range(0, len(order), PREDICT_BATCH):
                rows = order[start : start + PREDICT_BATCH]
                with self._autocast():
                    pooled = self._pool([encoded[row] for row in rows])
                hidden[rows] = pooled.float().cpu()
                if progress:
                    progress(min(start + PREDICT_BATCH, len(order)), len(order))
        return hidden

    def _encode(self, examples: Sequence[Example]) -> list[list[int]]:
        if not examples:
            return []
        limit = min(self.config.max_tokens, _context_length(self.encoder.config))
        columns = list(zip(*(example.fields for example in examples), strict=True))
        encoded = self.tokenizer(*(list(column) for column in columns), truncation=True, max_length=limit)
        return encoded["input_ids"]

    def _pool(self, encoded: list[list[int]]) -> Tensor:
        """Scaled unit-length mean of the last hidden states, (batch, d)."""
        batch = self.tokenizer.pad({"input_ids": encoded}, return_tensors="pt").to(self.device)
        states = self.encoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1).to(states.dtype)
        mean = (states * mask).sum(1) / mask.sum(1)
        return FEATURE_SCALE * nn.functional.normalize(mean.float(), dim=-1)

    def _autocast(self) -> Any:
        # Opened inside each step: autocast caches weight casts until its outermost context ends.
        fast = self.device.type == "cuda"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=fast)

    # -- states ---------------------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Tensor]:
        state = {f"encoder.{name}": value for name, value in _copy_state(self.encoder).items()}
        return {**state, **{f"head.{name}": value for name, value in _copy_state(self.head).items()}}

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
        self._present = None


def fit_probe(hidden: Tensor, labels: Tensor, num_classes: int, *, decay: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Logistic regression by L-BFGS from zero; deterministic.

    :param hidden: (n, d) float32.
    :param labels: (n,) int64.
    :returns: weight (C, d) and bias (C,), float32.
    """
    data = hidden.double().clone()
    weight = torch.zeros(num_classes, data.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(num_classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(data @ weight.T + bias, labels) + decay * weight.pow(2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach().float(), bias.detach().float()


def _shuffled_batches(count: int, batch_size: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Endless batches, every row once a pass; a short last batch is filled from the next pass."""
    pending: list[int] = []
    while True:
        while len(pending) < batch_size:
            pending += torch.randperm(count, generator=generator).tolist()
        yield pending[:batch_size]
        pending = pending[batch_size:]


def _copy_state(module: nn.Module) -> dict[str, Tensor]:
    # state_dict() aliases the live weights
    return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}


def _context_length(config: Any) -> int:
    positions = getattr(config, "max_position_embeddings", 512)
    # RoBERTa's positions start after its padding index
    return positions - 2 if getattr(config, "model_type", "") in {"roberta", "xlm-roberta", "camembert"} else positions
