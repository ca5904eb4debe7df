"""The first blocks of a body, left as pretrained, and what they make of each text, computed once.

A student whose lower blocks stay as they are (Howard & Ruder 2018, arXiv 1801.06146, freeze from below) costs a half or
a third: nothing flows back through them, and every later pass over a text, in training or in scoring, begins above.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gendistill.errors import ModelError

KEPT_BYTES = 1 << 29  # of remembered states; what does not fit is computed again
Tokens = list[int]


class NoBlocksError(ModelError):
    """A body is no stack of blocks, so that the lower ones cannot stay frozen."""


class FrozenBlocks:
    """The lower blocks of a body.

    :param body: a transformer whose blocks take the hidden states first and return them, alone or first of a tuple.
    :param share: of its blocks, in (0, 1), rounded to whole ones, one at least and not all.
    :raises NoBlocksError: the body has no stack of blocks.
    """

    def __init__(self, body: nn.Module, share: float) -> None:
        blocks = stack_of(body)
        count = min(max(round(share * len(blocks)), 1), len(blocks) - 1)
        self.body, self.blocks = body, blocks[:count]
        self._kept: dict[tuple[int, ...], Tensor] = {}  # token ids -> (tokens, width), of the last frozen block
        self._bytes = 0
        self._in_tuple = False  # how a block returns its states

    @contextmanager
    def given(self, states: Tensor) -> Iterator[None]:
        """In the block, a forward pass of the body begins with these states above the frozen blocks.

        Nothing flows back into what is below.

        :param states: (B, T, width), of the rows of that pass.
        """
        *below, last = self.blocks
        output = (states,) if self._in_tuple else states
        try:
            for block in below:
                block.forward = _unchanged(self._in_tuple)
            last.forward = lambda *_, **__: output
            yield
        finally:
            for block in self.blocks:
                vars(block).pop("forward", None)

    def states(self, rows: list[Tokens], batches: Iterator[list[int]], pad: Callable[[list[Tokens]], Any]) -> Tensor:
        """(B, longest, width): the frozen blocks' output for these rows, zero at padding.

        :param batches: positions of rows to compute together, if they have to be computed.
        :param pad: makes the body's input of some rows.
        """
        found = [self._kept.get(tuple(row)) for row in rows]
        if any(one is None for one in found):
            for batch in batches:
                new = [position for position in batch if found[position] is None]
                if new:
                    for position, one in zip(new, self._compute([rows[k] for k in new], pad), strict=True):
                        found[position] = one
        return nn.utils.rnn.pad_sequence([one for one in found if one is not None], batch_first=True)

    def _compute(self, rows: list[Tokens], pad: Callable[[list[Tokens]], Any]) -> list[Tensor]:
        captured: list[Tensor] = []

        def stop(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._in_tuple = isinstance(output, tuple)
            captured.append(output[0] if isinstance(output, tuple) else output)
            raise _Enough

        training = self.body.training
        self.body.eval()
        handle = self.blocks[-1].register_forward_hook(stop)
        try:
            # Not in inference mode, whatever the caller is in: training must be able to go on from these tensors.
            with torch.inference_mode(False), torch.no_grad():
                batch = pad(rows)
                self.body(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        except _Enough:
            pass
        finally:
            handle.remove()
            self.body.train(training)
        computed = [states[: len(row)].clone() for states, row in zip(captured[0], rows, strict=True)]
        for row, states in zip(rows, computed, strict=True):
            size = states.numel() * states.element_size()
            if self._bytes + size <= KEPT_BYTES and tuple(row) not in self._kept:
                self._kept[tuple(row)] = states
                self._bytes += size
        return computed


class _Enough(Exception):
    """Ends a forward pass above the frozen blocks."""


def stack_of(body: nn.Module) -> list[nn.Module]:
    """The blocks of a transformer, first to last: its longest list of modules of one class.

    :raises NoBlocksError: there is none of two or more.
    """
    stacks = [
        list(module)
        for module in body.modules()
        if isinstance(module, nn.ModuleList) and len({type(block) for block in module}) == 1
    ]
    longest = max(stacks, key=len, default=[])
    if len(longest) < 2:
        raise NoBlocksError(
            "this student's body is no stack of like blocks of which the lower ones could stay frozen; "
            "set student.frozen_share to 0"
        )
    return longest


def _unchanged(in_tuple: bool) -> Callable[..., Any]:
    def forward(hidden_states: Tensor, *_: Any, **__: Any) -> Any:
        return (hidden_states,) if in_tuple else hidden_states

    return forward
