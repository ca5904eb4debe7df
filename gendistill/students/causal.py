"""A decoder that learns instructions by LoRA (Hu et al. 2022, arXiv 2106.09685), the loss on the answers alone.

The frozen body may be in bfloat16; the adapter, its gradients and its optimiser are float32. Logits are made at the
answers' positions only, and never for more than a few million entries at once: a vocabulary of 262,144 would otherwise
take more memory than the model. Per-row gradients by the adapter are projected on the fly (``students.gradients``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gendistill.config import StudentConfig
from gendistill.errors import ConfigError, DataError, MissingExtraError, ModelError
from gendistill.examples import Example
from gendistill.generators.transformers import pick_dtype
from gendistill.models import load_causal_lm
from gendistill.parallel import ALONE, Split
from gendistill.students.base import Features, joined
from gendistill.students.conversations import Conversation, Conversations, Cut
from gendistill.students.encoder import alike, rate_schedule, shuffled_batches
from gendistill.students.gradients import BodyGradients, LayerMap, linear_layers, signs

BATCH_TOKENS = {"cpu": 1024}  # of one pass, padding included
ACCELERATOR_BATCH_TOKENS = 4096  # eager attention keeps its weights for the backward pass
LOGITS_AT_ONCE = 2**25  # entries: 128 MB in float32
ADAPTER = "default"  # peft's name of the only adapter
Progress = Callable[[int, int], None]  # done, total


class CausalStudent:
    """A student of instruction data: fits a LoRA adapter, and says what each answer costs it and where it pulls.

    Labels of examples count for nothing here. Before a fit, features and losses are those of the pretrained model; the
    gradients are then by an adapter at its start, drawn by ``gradient_seed``.

    :param config: model name and recipe; ``config.lora`` has the adapter's, ``max_tokens`` counts prompt and answer.
    :raises ModelError: the model cannot be found, has no safe weights or is no decoder that this code understands.
    :raises MissingExtraError: peft is not installed.
    :raises ConfigError: ``gradient_dims`` is no multiple of the adapter's rank.
    """

    num_classes = 1

    def __init__(self, config: StudentConfig, *, device: str | None = None) -> None:
        self.config, lora = config, config.lora
        if config.gradient_dims % lora.rank:
            raise ConfigError(
                f"student.gradient_dims must be a multiple of lora.rank {lora.rank}, got {config.gradient_dims}"
            )
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.batch_tokens = BATCH_TOKENS.get(self.device.type, ACCELERATOR_BATCH_TOKENS)
        model, self.tokenizer = load_causal_lm(
            config.model,
            pick_dtype(lora.dtype, self.device),
            trust_remote_code=config.trust_remote_code,
            device_map=lora.device_map,
        )
        # Fused kernels round differently for different batch shapes.
        model.set_attn_implementation("eager")
        if lora.device_map is None:
            model.to(self.device)
        self.device = model.get_input_embeddings().weight.device
        model.config.use_cache = False
        self._settings = model.config.get_text_config()
        context = getattr(self._settings, "max_position_embeddings", None) or config.max_tokens
        ends = _ends(self.tokenizer, model)
        if not ends:
            raise ModelError(f"student {config.model}: its tokenizer has no end token; choose another model")
        self._ends = ends
        self.conversations = Conversations(self.tokenizer, ends, min(config.max_tokens, context))
        self.cut = Cut(0, 0, 0)  # of the examples that were last encoded
        self.model = with_adapter(model, config)
        self._model = model  # as it was loaded, with the adapter's layers in it
        self.body: nn.Module = model.base_model
        self._output: nn.Module = model.get_output_embeddings()
        self._check_head()
        self._weights = {
            name: weight for name, weight in self.body.named_parameters() if f"lora_A.{ADAPTER}" in name
        } | {name: weight for name, weight in self.body.named_parameters() if f"lora_B.{ADAPTER}" in name}
        self._start = self._drawn(config.gradient_seed)
        self._states: list[dict[str, Tensor]] = []
        self._present: Mapping[str, Tensor] | None = None
        self._signs: dict[tuple[str, str], Tensor] = {}

    @property
    def checkpoints(self) -> int:
        return len(self._states)

    @property
    def states(self) -> tuple[Mapping[str, Tensor], ...]:
        """Every checkpoint: the adapter's weights by name, and from the first step on ``adam.<name>``, the
        bias-corrected second moments of their gradients. All float32, on the CPU."""
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
        """Train a fresh adapter for ``config.training_steps(len(examples))`` steps.

        The loss of a step is the mean over the answers' tokens of its batch, as supervised fine-tuning in TRL has it.

        :param targets: not for instructions; must be None.
        :param checkpoints: how many states to keep, evenly spaced, the last being the trained adapter; with two or
            more the first is the adapter's start.
        :param split: this process's share, where several train together; all but the first keep the last state alone.
        :raises DataError: no examples, soft labels, or fields that are no conversation.
        """
        if targets is not None:
            raise DataError("soft labels are for classes; instruction data has none")
        if not examples:
            raise DataError("a student needs examples to learn from, got none")
        recipe, steps = self.config, self.config.training_steps(len(examples))
        encoded = self.encode(examples)
        self._states = []
        self._load(self._drawn(seed))
        self._present = None
        weights = list(self._weights.values())
        optimizer = torch.optim.AdamW(weights, lr=recipe.lora.learning_rate, weight_decay=recipe.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate_schedule(recipe, steps))
        split.agree(weights)
        keep_at = {round(steps * k / max(checkpoints - 1, 1)) for k in range(checkpoints - 1)} if split.first else set()
        generator = torch.Generator().manual_seed(seed)
        batches = shuffled_batches(len(examples), min(recipe.batch_size, len(examples)), generator)
        with torch.random.fork_rng(devices=[]):  # dropout draws from the global generator
            torch.manual_seed(seed + split.index)  # each process's rows have masks of their own
            for step in range(steps):
                if step in keep_at:
                    self._states.append(self._state(optimizer))
                self.model.train(recipe.dropout or recipe.lora.dropout > 0)
                whole = [encoded[row] for row in next(batches)]
                batch = split.share(whole)
                optimizer.zero_grad(set_to_none=True)
                share = 1 / sum(len(row.answer) for row in whole)
                # In parts of like length: less padding, and a bound on memory whatever the batch size.
                for rows in alike([row.ids for row in batch], self.batch_tokens):
                    self._pass([batch[row] for row in rows], share)
                split.add_up(weights)
                nn.utils.clip_grad_norm_(weights, 1.0)
                optimizer.step()
                schedule.step()
                if progress:
                    progress(step + 1, steps)
        self.model.eval()
        self._states.append(self._state(optimizer))
        self._present = self._states[-1]

    def _drawn(self, seed: int) -> dict[str, Tensor]:
        """The adapter's start: A uniform as peft draws it, B zero. From one CPU generator: the same on every device."""
        generator = torch.Generator().manual_seed(seed)
        state = {}
        for name, weight in self._weights.items():
            bound = 1 / math.sqrt(weight.shape[1]) if "lora_A" in name else 0.0
            state[name] = (torch.rand(weight.shape, generator=generator) * 2 - 1) * bound
        return state

    # -- using ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def losses(
        self, examples: Sequence[Example], *, checkpoint: int | None = -1, progress: Progress | None = None
    ) -> Tensor:
        """(n, 2) float64: the summed negative log-likelihood (nats) of an answer's tokens, and how many they are.

        :param checkpoint: of the last fit; None, and before any fit, for the pretrained model.
        """
        self._at(checkpoint)
        encoded = self.encode(examples)
        result = torch.zeros(len(encoded), 2, dtype=torch.float64)
        for rows in self._batches(encoded, progress):
            states, _ = self._states_of([encoded[row] for row in rows])
            own, places, tokens = _answers([encoded[row] for row in rows], self.device)
            nll, _ = self._head_losses(states[own, places], tokens)
            result[rows, 0] = torch.zeros(len(rows), dtype=torch.float64).index_add_(0, own.cpu(), nll.double().cpu())
            result[rows, 1] = torch.bincount(own, minlength=len(rows)).double().cpu()
        return result

    @torch.no_grad()
    def embed(self, examples: Sequence[Example], *, progress: Progress | None = None) -> Tensor:
        """Mean last hidden states of prompt and answer at the pretrained weights, (n, d) float32, rows of length 1."""
        self._at(None)
        return nn.functional.normalize(self._hidden(examples, progress), dim=-1)

    def features(
        self, examples: Sequence[Example], *, checkpoint: int | None = -1, progress: Progress | None = None
    ) -> Features:
        """Mean last hidden states, and with ``gradient_dims`` the projected gradients of the answers' summed losses.

        The sum is what a row brings to a batch's gradient, whose loss is a mean over tokens. There are no classes:
        ``probabilities`` is a column of ones. The gradient is by all of the adapter's weights, ``scale G A^T`` by B
        and ``scale B^T G`` by A, G being the gradient by the layer's own weight, which is never formed.

        :param checkpoint: as ``losses``.
        """
        self._at(checkpoint)
        if not self.config.gradient_dims:
            with torch.no_grad():
                hidden = self._hidden(examples, progress)
            return Features(hidden, torch.ones(len(hidden), 1))
        encoded = self.encode(examples)
        parts = [Features(torch.empty(0, self._width), torch.empty(0, 1), torch.empty(0, self.config.gradient_dims))]
        order: list[int] = []
        projections = self._projections()
        for rows in self._batches(encoded, progress):
            batch = [encoded[row] for row in rows]
            with ExitStack() as stack:
                mask = self._pad(batch)[1]
                captured = [stack.enter_context(each.capture(mask)) for each in projections]
                hidden = self._pass(batch, 1.0)
            parts.append(Features(hidden.cpu(), torch.ones(len(rows), 1), torch.stack(captured).sum(0).cpu()))
            order += rows
        return joined(parts).rows(torch.tensor(order, dtype=torch.int64).argsort())

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[Sequence[str]], max_new_tokens: int = 256, *, checkpoint: int | None = -1
    ) -> list[str]:
        """The likeliest answers, token by token, to prompts: the fields of examples without their answers.

        :raises DataError: fields that are no prompt.
        """
        self._at(checkpoint)
        room = max(1, self.conversations.limit - 1)
        encoded = [self.conversations.prompt(fields, room) for fields in prompts]
        answers = [""] * len(encoded)
        for rows in alike(encoded, self.batch_tokens):
            width = max(len(encoded[row]) for row in rows)
            ids = torch.full((len(rows), width), self._ends[0])
            mask = torch.zeros_like(ids)
            for place, row in enumerate(rows):  # on the left, so that all answers begin together
                ids[place, width - len(encoded[row]) :] = torch.tensor(encoded[row])
                mask[place, width - len(encoded[row]) :] = 1
            made = self._model.generate(
                input_ids=ids.to(self.device),
                attention_mask=mask.to(self.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                temperature=None,
                top_k=None,
                top_p=None,
                use_cache=True,
                eos_token_id=self._ends,
                pad_token_id=self._ends[0],
            )
            for row, tokens in zip(rows, made[:, width:].tolist(), strict=True):
                answers[row] = self.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        return answers

    def encode(self, examples: Sequence[Example]) -> list[Conversation]:
        """The examples' tokens; ``cut`` then says how many were too long.

        :raises DataError: an example's fields are no conversation.
        """
        encoded = [self.conversations.encode(example.fields) for example in examples]
        self.cut = Cut.of(encoded)
        return encoded

    def _hidden(self, examples: Sequence[Example], progress: Progress | None) -> Tensor:
        encoded = self.encode(examples)
        result = torch.empty(len(encoded), self._width)
        for rows in self._batches(encoded, progress):
            states, mask = self._states_of([encoded[row] for row in rows])
            result[rows] = _mean(states, mask).cpu()
        return result

    # -- passes ---------------------------------------------------------------------------------------------------

    def _batches(self, encoded: Sequence[Conversation], progress: Progress | None) -> Iterator[list[int]]:
        self.model.eval()
        return alike([row.ids for row in encoded], self.batch_tokens, progress)

    def _pad(self, batch: Sequence[Conversation]) -> tuple[Tensor, Tensor]:
        """Token ids and mask, (B, T) int64, padded on the right, where no token of a decoder sees it."""
        width = max(len(row.ids) for row in batch)
        ids = torch.full((len(batch), width), self._ends[0])
        mask = torch.zeros_like(ids)
        for place, row in enumerate(batch):
            ids[place, : len(row.ids)] = torch.tensor(row.ids)
            mask[place, : len(row.ids)] = 1
        return ids.to(self.device), mask.to(self.device)

    def _states_of(self, batch: Sequence[Conversation]) -> tuple[Tensor, Tensor]:
        """Last hidden states (B, T, d), as the output layer sees them, and the mask."""
        ids, mask = self._pad(batch)
        states = self.body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        return states.to(self.device), mask

    def _pass(self, batch: Sequence[Conversation], weight: float) -> Tensor:
        """One forward and one backward pass of the summed loss times ``weight``; (B, d) float32 mean hidden states."""
        states, mask = self._states_of(batch)
        own, places, tokens = _answers(batch, self.device)
        picked = states[own, places]
        _, slope = self._head_losses(picked, tokens, weight)
        picked.backward(slope)
        return _mean(states.detach(), mask)

    def _head_losses(self, states: Tensor, tokens: Tensor, weight: float | None = None) -> tuple[Tensor, Tensor | None]:
        """(N,) float32 losses of tokens (N,) given states (N, d), and the gradient (N, d) of their weighted sum."""
        losses = torch.empty(len(tokens), device=states.device)
        slope = None if weight is None else torch.empty_like(states)
        size = max(1, LOGITS_AT_ONCE // self._settings.vocab_size)
        for start in range(0, len(tokens), size):
            part = slice(start, start + size)
            own = states[part].detach()
            with torch.set_grad_enabled(slope is not None):
                own.requires_grad_(slope is not None)
                each = nn.functional.cross_entropy(self._logits(own).float(), tokens[part], reduction="none")
                if slope is not None and weight is not None:
                    (slope[part],) = torch.autograd.grad(each.sum() * weight, own)
            losses[part] = each.detach()
        return losses, slope

    def _logits(self, states: Tensor) -> Tensor:
        """As the model's own forward pass makes them of its last hidden states."""
        logits: Tensor = self._output(states.to(next(self._output.parameters()).device))
        logits = logits.to(states.device)
        if scale := getattr(self._settings, "logit_scale", None):  # Cohere
            logits = logits * scale
        if scale := getattr(self._settings, "logits_scaling", None):  # Granite
            logits = logits / scale
        if cap := getattr(self._settings, "final_logit_softcapping", None):  # Gemma 2
            logits = cap * torch.tanh(logits / cap)
        return logits

    @torch.no_grad()
    def _check_head(self) -> None:
        """See that ``_logits`` is this model's own way.

        :raises ModelError: it is not.
        """
        self.model.eval()
        if self._output is None or self.body is self._model:
            raise ModelError(f"student {self.config.model}: no output layer on a body of its own; choose another model")
        ids = torch.tensor([[self._ends[0], *range(5, 8)]], device=self.device)
        states = self.body(input_ids=ids, use_cache=False).last_hidden_state.to(self.device)
        self._width = states.shape[-1]
        wanted = self._model(input_ids=ids, use_cache=False).logits.to(self.device).float()
        error = (self._logits(states).float() - wanted).abs().max()
        if not error <= 1e-2 * wanted.abs().max():
            raise ModelError(
                f"student {self.config.model}: makes its logits in a way that is not known here; choose another model"
            )

    # -- gradients ------------------------------------------------------------------------------------------------

    def _projections(self) -> list[BodyGradients]:
        """Maps to ``gradient_dims`` numbers of the gradients by B and, where B is not zero, by A, at the loaded state.

        Both are ``U^T G V`` with the adapter itself on one side and signs on the other, drawn for each layer, so that
        inner products of the sums over layers are right in expectation.
        """
        dims, lora = self.config.gradient_dims, self.config.lora
        columns = dims // lora.rank
        scale = lora.alpha / lora.rank / columns**0.5
        by_b, by_a = {}, {}
        for name, layer in linear_layers(self.body).items():
            stem, _, last = name.rpartition(".")
            if last != "base_layer":
                continue
            a = self._weights[f"{stem}.lora_A.{ADAPTER}.weight"].detach()
            b = self._weights[f"{stem}.lora_B.{ADAPTER}.weight"].detach()
            by_b[name] = LayerMap(self._sign(layer, name, "outputs", columns), a.T * scale)
            if b.any():
                by_a[name] = LayerMap(b * scale, self._sign(layer, name, "inputs", columns))
        return [BodyGradients(self.body, maps, dims) for maps in (by_b, by_a) if maps or maps is by_b]

    def _sign(self, layer: nn.Linear, name: str, side: str, columns: int) -> Tensor:
        """(features, columns) of +-1 in the layer's dtype, remembered: drawing them takes longer than using them."""
        if (name, side) not in self._signs:
            size = layer.out_features if side == "outputs" else layer.in_features
            drawn = signs(size, columns, self.config.gradient_seed, name, side)
            self._signs[name, side] = drawn.to(layer.weight.device, layer.weight.dtype)
        return self._signs[name, side]

    # -- states ---------------------------------------------------------------------------------------------------

    def _at(self, checkpoint: int | None) -> None:
        """Load a checkpoint."""
        self._load(self._start if checkpoint is None or not self._states else self._states[checkpoint])

    def _load(self, state: Mapping[str, Tensor]) -> None:
        if self._present is not state:
            with torch.no_grad():
                for name, weight in self._weights.items():
                    weight.copy_(state[name])
            self._present = state

    def _state(self, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        state = {name: weight.detach().cpu().clone() for name, weight in self._weights.items()}
        for name, weight in self._weights.items():
            if moments := optimizer.state.get(weight):  # none before the first step
                correction = 1 - optimizer.param_groups[-1]["betas"][1] ** float(moments["step"])
                state[f"adam.{name}"] = (moments["exp_avg_sq"] / correction).cpu()
        return state

    def save(self, folder: Path) -> None:
        """Write every checkpoint as safetensors; the caller makes the folder appear whole."""
        for index, state in enumerate(self._states):
            save_file({name: value.contiguous() for name, value in state.items()}, folder / f"{index:03d}.safetensors")

    def load(self, folder: Path) -> None:
        """Read what ``save`` wrote.

        :raises ModelError: the checkpoints are of another model or rank.
        """
        states = [load_file(path) for path in sorted(folder.glob("*.safetensors"))]
        for state in states:
            if any(name not in state or state[name].shape != weight.shape for name, weight in self._weights.items()):
                raise ModelError(f"{folder}: adapters of another model or rank; fit the student again")
        self._states, self._present = states, None


def with_adapter(model: Any, config: StudentConfig) -> nn.Module:
    """The model with LoRA in all linear layers but the output: itself changed, and only the adapter trained."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise MissingExtraError("a student of instruction data needs the package peft: pip install peft") from error
    lora = config.lora
    try:
        adapted: nn.Module = get_peft_model(
            model,
            LoraConfig(
                r=lora.rank,
                lora_alpha=lora.alpha,  # type: ignore[arg-type]
                lora_dropout=lora.dropout,
                target_modules="all-linear",
                task_type="CAUSAL_LM",
            ),
        )
    except ValueError as error:
        raise ModelError(f"student {config.model}: cannot be adapted ({error})") from error
    for weight in adapted.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()  # small steps are lost in bfloat16
    return adapted


def _ends(tokenizer: Any, model: Any) -> list[int]:
    """Token ids at which an answer ends, the tokenizer's own first."""
    found: list[int] = []
    for item in (tokenizer.eos_token_id, model.generation_config.eos_token_id, model.config.eos_token_id):
        found += item if isinstance(item, list) else [] if item is None else [item]
    return list(dict.fromkeys(found))


def _answers(batch: Sequence[Conversation], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each token of the answers its row in the batch, the place whose state foretells it, and the token; (N,)."""
    own = [place for place, row in enumerate(batch) for _ in row.answer]
    # A prompt has one token at least, so there is a state before the first of the answer.
    places = [len(row.prompt) - 1 + k for row in batch for k in range(len(row.answer))]
    tokens = [token for row in batch for token in row.answer]
    return (
        torch.tensor(own, device=device),
        torch.tensor(places, device=device),
        torch.tensor(tokens, device=device),
    )


def _mean(states: Tensor, mask: Tensor) -> Tensor:
    """(B, d) float32 means over tokens of (B, T, d)."""
    kept = mask.unsqueeze(-1).float()
    return (states.float() * kept).sum(1) / kept.sum(1)
