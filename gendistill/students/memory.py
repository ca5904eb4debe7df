"""How much memory a causal student will take, said before anything is loaded.

The model is built without its weights (torch's meta device) and one batch is sent through it; what autograd would keep
for the backward pass is added up as it is. ``scripts/instruction_memory.py`` compares the figures with measured ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from gendistill.config import StudentConfig
from gendistill.generators.transformers import pick_dtype
from gendistill.models import resolve
from gendistill.students.causal import ACCELERATOR_BATCH_TOKENS, BATCH_TOKENS, LOGITS_AT_ONCE, with_adapter
from gendistill.students.gradients import BodyGradients, LayerMap, linear_layers

FLOAT = 4  # bytes
LOGIT_COPIES = 4  # at once: as made, in float32, their log-softmax, and its gradient


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes, at the fullest moment, beside what Python and torch take themselves (about half a gigabyte)."""

    weights: int  # of the frozen model
    adapter: int  # LoRA's weights; in training also gradients, Adam's moments and the checkpoints kept
    activations: int  # of one batch, kept for the backward pass, and what the widest layer needs besides
    logits: int  # of the positions that are worked on at once
    projections: int  # the maps of gradients to a few dimensions; features only
    rows: int  # the features of all rows

    @property
    def total(self) -> int:
        return sum(getattr(self, part.name) for part in fields(self))


def memory_estimate(
    config: StudentConfig,
    *,
    training: bool,
    rows: int = 0,
    checkpoints: int = 1,
    tokens: int | None = None,
    settings: Any = None,
    device: str = "cpu",
) -> Memory:
    """What ``CausalStudent.fit`` (``training``) or ``.features`` will take.

    :param rows: whose features are computed.
    :param checkpoints: that ``fit`` keeps.
    :param tokens: of one batch, padding included; the student's own number if absent. In training no batch has more
        than ``batch_size`` rows of ``max_tokens``.
    :param settings: a transformers configuration, of a model that need not exist; the student's own if absent.
    :param device: whose batch size and dtype count: ``cpu`` or ``cuda``.
    :raises ModelError: the model cannot be found or adapted.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    if settings is None:
        settings = AutoConfig.from_pretrained(resolve(config.model), trust_remote_code=config.trust_remote_code)
    dtype = pick_dtype(config.lora.dtype, torch.device(device))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(settings, dtype=dtype, attn_implementation="eager")
        weights = sum(weight.numel() for weight in model.parameters()) * dtype.itemsize
        with_adapter(model, config)
    body: nn.Module = model.base_model
    adapter = FLOAT * sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    length = config.max_tokens
    room = tokens or BATCH_TOKENS.get(device, ACCELERATOR_BATCH_TOKENS)
    size = max(1, room // length)
    if training:
        size = min(size, config.batch_size)
    shape = (size, length)
    layers = {name: layer for name, layer in linear_layers(body).items() if name.endswith("base_layer")}
    widest = max(max(layer.in_features, layer.out_features) for layer in layers.values())
    columns = 0 if training else config.gradient_dims // config.lora.rank
    maps = {
        name: LayerMap(
            torch.empty(layer.out_features, max(1, columns), device="meta", dtype=dtype),
            torch.empty(layer.in_features, config.lora.rank, device="meta"),
        )
        for name, layer in layers.items()
    }
    ids = torch.zeros(shape, dtype=torch.int64, device="meta")
    if training:
        activations = _kept(body, ids)
    elif columns:
        with BodyGradients(body, maps, config.gradient_dims).capture(torch.ones(shape, device="meta")):
            # Each layer's projected inputs wait for the backward pass, twice once the adapter is trained.
            activations = _kept(body, ids) + len(layers) * ids.numel() * (config.lora.rank + columns) * FLOAT
    else:
        activations = 0
    activations += 4 * ids.numel() * widest * FLOAT  # the layer at work
    vocabulary = settings.get_text_config().vocab_size
    answers = min(ids.numel(), max(1, LOGITS_AT_ONCE // vocabulary))
    both = sum(layer.in_features + layer.out_features for layer in layers.values())
    return Memory(
        weights=weights,
        adapter=adapter * ((4 + 2 * checkpoints) if training else 1 + 2 * checkpoints),
        activations=activations,
        logits=LOGIT_COPIES * answers * vocabulary * FLOAT,
        projections=both * columns * dtype.itemsize,
        rows=0 if training else FLOAT * rows * (settings.get_text_config().hidden_size + 1 + config.gradient_dims) * 2,
    )


def _kept(body: nn.Module, ids: Tensor) -> int:
    """Bytes of the tensors that autograd keeps after a forward pass, each storage once, without the weights."""
    own = {weight.untyped_storage()._cdata for weight in body.parameters()}
    held: dict[int, Sequence[Any]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            held[storage._cdata] = (storage.nbytes(), tensor)  # held on to, so that no other takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        # A mask as attention adds it: models that make their own look into it, and there is nothing to look at.
        size, length = ids.shape
        mask = torch.zeros(size, 1, length, length, device="meta", dtype=next(body.parameters()).dtype)
        body(input_ids=ids, attention_mask=mask, use_cache=False)
    return sum(size for size, _ in held.values())
