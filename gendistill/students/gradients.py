"""Projected per-sample gradients of a body's linear layers, for a whole batch in one forward and one backward pass.

With a_t the input of a linear layer at token t and b_t the gradient of a row's loss by its output, the gradient of that
loss by the weight is ``G = sum_t b_t outer a_t``. LoGra (Choe et al. 2024, arXiv 2405.13954) projects both factors
before the sum over tokens, ``sum_t (U^T b_t) outer (V^T a_t) = U^T G V``, so no gradient of a sample is ever formed and
rows of a batch never mix. Weights need no gradient meanwhile, which makes this pass cheaper than one of training.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from gendistill.errors import ConfigError, ModelError

LORA_RANK = 8


@dataclass(frozen=True, slots=True)
class LayerMap:
    """The two sides of a layer's projection ``G -> U^T G V``."""

    outputs: Tensor  # U, (out, k_b) float32
    inputs: Tensor  # V, (in, k_a) float32


class BodyGradients:
    """A fixed linear map from gradients (or displacements) of a body's linear weights to ``dims`` numbers.

    Every layer is mapped to ``k_b x k_a >= dims`` numbers, of which the first ``dims`` are kept, and layers are added
    up. As their maps are independent, inner products stay unbiased, with an error of about 2/sqrt(dims) of the norms
    (``scripts/feature_speed.py`` measures it). Laying short pieces of each layer side by side would be worse: text
    gradients have a low rank, for which two sides of few dimensions are far noisier than two of many.

    :param maps: layer name within the body -> its two sides. ``random_maps`` makes them.
    :raises ModelError: the body has no such layer.
    """

    def __init__(self, body: nn.Module, maps: Mapping[str, LayerMap], dims: int) -> None:
        layers = linear_layers(body)
        if not maps or not maps.keys() <= layers.keys():
            raise ModelError(
                "body gradients need torch.nn.Linear layers, and this student's body lacks them: "
                "choose another student, or set student.gradient_dims to 0"
            )
        self.body, self.dims = body, dims
        self.maps = dict(maps)
        self._layers = {name: layers[name] for name in maps}

    @contextmanager
    def capture(self, mask: Tensor) -> Iterator[Tensor]:
        """Gives (B, dims) float32 zeros, which a backward pass in the block fills with the projected gradients.

        In the block there must be one forward pass of the body and one backward pass of a loss that is summed over
        rows. The body's weights get no gradient.

        :param mask: (B, T), 1 at tokens and 0 at padding.
        """
        total = torch.zeros(len(mask), self.dims, device=mask.device)
        trained = [weight for weight in self.body.parameters() if weight.requires_grad]
        handles = [
            layer.register_forward_hook(_watch(name, self.maps[name], mask, total))
            for name, layer in self._layers.items()
        ]
        for weight in trained:
            weight.requires_grad_(False)
        try:
            with torch.enable_grad():
                yield total
        finally:
            for handle in handles:
                handle.remove()
            for weight in trained:
                weight.requires_grad_(True)

    def project(self, weights: Mapping[str, Tensor]) -> Tensor:
        """(dims,) float32: the same map of one matrix a layer, (out, in), such as a displacement of the weights.

        :param weights: layer name within the body -> matrix; a layer that is absent counts as zero.
        """
        total = torch.zeros(self.dims, dtype=torch.float64)
        for name, matrix in weights.items():
            sides = self.maps[name]
            both = sides.outputs.double().cpu().T @ matrix.double().cpu() @ sides.inputs.double().cpu()
            total += both.flatten()[: self.dims]
        return total.float()


def random_maps(
    body: nn.Module, dims: int, *, kind: Literal["linear", "lora"] = "linear", seed: int = 0
) -> dict[str, LayerMap]:
    """Seeded random signs, scaled so that the expected inner product of two images is that of the originals.

    ``linear`` uses two nearly square sides. ``lora`` gives the gradient by the B factors of a LoRA of rank 8 at its
    start (Hu et al. 2021, arXiv 2106.09685: ``W + B A``, B zero), which is ``G A^T``, projected on the output side; A
    is the input side here, with entries of +-1/sqrt(rank).

    The signs come from the bits of a PCG64 seeded by a hash of seed, layer name and shape: the same on every machine.

    :raises ConfigError: ``dims`` is no multiple of the rank for ``lora``.
    """
    if kind == "lora" and dims % LORA_RANK:
        raise ConfigError(f"student.gradient_dims must be a multiple of {LORA_RANK} for gradient_kind lora, got {dims}")
    inner = LORA_RANK if kind == "lora" else math.isqrt(dims)
    outer = math.ceil(dims / inner)
    maps = {}
    for name, layer in linear_layers(body).items():
        device = layer.weight.device
        outputs = signs(layer.out_features, outer, seed, name, "outputs") * (inner / dims) ** 0.5
        inputs = signs(layer.in_features, inner, seed, name, "inputs") / inner**0.5
        maps[name] = LayerMap(outputs.to(device), inputs.to(device))
    return maps


def linear_layers(body: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of a body by name, in its order."""
    return {name: module for name, module in body.named_modules() if isinstance(module, nn.Linear)}


def signs(rows: int, columns: int, seed: int, *key: str) -> Tensor:
    """(rows, columns) float32 of +-1, from a hash of seed, shape and key."""
    digest = hashlib.sha256(repr((seed, rows, columns, *key)).encode()).digest()
    words = np.random.PCG64(int.from_bytes(digest, "little")).random_raw(math.ceil(rows * columns / 64))
    bits = np.unpackbits(words.astype("<u8").view(np.uint8))[: rows * columns]
    return torch.from_numpy(bits.reshape(rows, columns).astype(np.float32)) * 2 - 1


def _watch(name: str, sides: LayerMap, mask: Tensor, total: Tensor) -> Any:
    """A forward hook that keeps the layer's projected input and adds its gradient to ``total`` in the backward pass."""

    def forward(layer: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        seen = _by_row(arguments[0].detach(), mask, name)
        inputs = (seen @ sides.inputs.to(seen.dtype)).float()
        if inputs.shape[1] == mask.shape[1]:
            inputs = inputs * mask.unsqueeze(-1).to(inputs.device)
        if not output.requires_grad:
            # As no weight asks for gradients, the graph begins here, at the outputs of the first linear layers.
            output.requires_grad_()

        def backward(gradient: Tensor) -> None:
            outputs = (_by_row(gradient, mask, name) @ sides.outputs.to(gradient.dtype)).float()
            both = torch.bmm(outputs.transpose(1, 2), inputs)
            total.add_(both.flatten(1)[:, : total.shape[1]].to(total.device))  # layers may lie on several devices

        output.register_hook(backward)

    return forward


def _by_row(values: Tensor, mask: Tensor, name: str) -> Tensor:
    """(B, T, width) of what a layer saw: (B, T, width), (B * T, width), or (B, width) of one vector a row."""
    if values.shape[0] not in (len(mask), mask.numel()):
        raise ModelError(
            f"body gradients: layer {name} sees {tuple(values.shape)} for a batch of {tuple(mask.shape)} tokens, "
            "so rows cannot be told apart: set student.gradient_dims to 0"
        )
    return values.reshape(len(mask), -1, values.shape[-1])
