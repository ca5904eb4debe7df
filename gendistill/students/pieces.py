"""An example as the pieces that a body reads one at a time, and their pooled states as one vector.

A text is one piece, or, if it is long, several chunks whose states are pooled together. The two texts of a pair are
read apart and combined as ``[u; v; |u - v|; u * v]`` (InferSent: Conneau et al. 2017, arXiv 1705.02364; each part of
length 1), or jointly as one piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

Piece = list[int]  # token ids
Pieces = tuple[tuple[Piece, ...], ...]  # of an example: chunks by text; one text, or the two of a pair read apart
PAIR_PARTS = 4  # vectors that a pair's is made of


def encode(tokenizer: Any, columns: Sequence[Sequence[str]], *, joint: bool, limit: int, chunks: int) -> list[Pieces]:
    """The pieces of n examples.

    :param columns: their first texts, and of pairs their second ones.
    :param joint: read the texts of a pair as one piece.
    :param limit: tokens of a piece, at most.
    :param chunks: pieces of a text, at most; what is beyond them is not read.
    """
    if joint or (len(columns) == 1 and chunks == 1):
        whole = tokenizer(*map(list, columns), truncation=True, max_length=limit)["input_ids"]
        return [((ids or [tokenizer.pad_token_id],),) for ids in whole]
    sides = [_chunked(tokenizer, column, limit, chunks) for column in columns]
    return list(zip(*sides, strict=True))


def _chunked(tokenizer: Any, texts: Sequence[str], limit: int, chunks: int) -> list[tuple[Piece, ...]]:
    if chunks == 1:
        whole = tokenizer(list(texts), truncation=True, max_length=limit)["input_ids"]
        return [(ids or [tokenizer.pad_token_id],) for ids in whole]
    read = tokenizer(list(texts), truncation=True, max_length=limit, return_overflowing_tokens=True)
    found: list[list[Piece]] = [[] for _ in texts]
    for ids, owner in zip(read["input_ids"], read["overflow_to_sample_mapping"], strict=True):
        if len(found[owner]) < chunks:
            found[owner].append(ids or [tokenizer.pad_token_id])
    return [tuple(one) for one in found]


def flat(example: Pieces) -> Piece:
    """All its tokens, by which examples are sorted and batches bounded."""
    if len(example) == 1 and len(example[0]) == 1:
        return example[0][0]
    return [token for chunks in example for piece in chunks for token in piece]


def pieces(examples: Sequence[Pieces]) -> list[Piece]:
    """All pieces, example by example."""
    return [piece for example in examples for chunks in example for piece in chunks]


def owners(examples: Sequence[Pieces]) -> Tensor:
    """(pieces,) int64: the example that each is of."""
    counts = [sum(map(len, example)) for example in examples]
    return torch.repeat_interleave(torch.arange(len(examples)), torch.tensor(counts))


def pooled(sums: Tensor, weights: Tensor, examples: Sequence[Pieces]) -> Tensor:
    """(n, d) or, of pairs read apart, (n, 4 d): one vector an example.

    :param sums: (pieces, d) of the states that are pooled.
    :param weights: (pieces, 1), how many each is the sum of.
    """
    counts = torch.tensor([len(chunks) for example in examples for chunks in example], device=sums.device)
    if len(counts) < len(sums):
        owner = torch.repeat_interleave(torch.arange(len(counts), device=sums.device), counts)
        sums = sums.new_zeros(len(counts), sums.shape[1]).index_add(0, owner, sums)
        weights = weights.new_zeros(len(counts), 1).index_add(0, owner, weights)
    means = (sums / weights).float()
    return means if len(examples[0]) == 1 else combined(means[0::2], means[1::2])


def combined(first: Tensor, second: Tensor) -> Tensor:
    """(n, 4 d) of the vectors of the two texts, (n, d) each."""
    u, v = (nn.functional.normalize(side, dim=-1) for side in (first, second))
    apart, alike = (nn.functional.normalize(part, dim=-1) for part in ((u - v).abs(), u * v))
    return torch.cat([u, v, apart, alike], dim=-1)
