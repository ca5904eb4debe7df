"""What a shard's files hold, as Arrow tables: replies, candidates, features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from gendistill.examples import Candidate, Example
from gendistill.filters import Rejection
from gendistill.generators.base import Reply
from gendistill.students.base import Features

if TYPE_CHECKING:
    from gendistill.store import Planned

REPLIES = pa.schema(
    [
        ("request", pa.string()),
        ("position", pa.int64()),  # of the request within the round
        ("label", pa.int32()),
        ("text", pa.string()),
        ("finish_reason", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("error", pa.string()),
    ]
)
CANDIDATES = pa.schema(
    [
        ("request", pa.string()),
        ("place", pa.int32()),  # which text of the reply
        ("label", pa.int32()),
        ("fields", pa.list_(pa.string())),
        ("template", pa.string()),
        ("parents", pa.list_(pa.string())),
        ("key", pa.uint64()),  # equal for two texts that are the same to the filter for duplicates
        ("filter", pa.string()),  # that turned it away, of those on text; null: it passed
        ("reason", pa.string()),
    ]
)


def replies_table(planned: Sequence[Planned], replies: Mapping[str, Reply]) -> pa.Table:
    """In the order planned."""
    rows = [(p, replies[p.request.id]) for p in planned]
    return pa.table(
        [
            [p.request.id for p, _ in rows],
            [p.position for p, _ in rows],
            [p.label for p, _ in rows],
            [_whole(reply.text) for _, reply in rows],
            [reply.finish_reason for _, reply in rows],
            [reply.prompt_tokens for _, reply in rows],
            [reply.completion_tokens for _, reply in rows],
            [None if reply.error is None else _whole(reply.error) for _, reply in rows],
        ],
        schema=REPLIES,
    )


def replies_of(table: pa.Table) -> list[Reply]:
    names = ("request", "text", "finish_reason", "prompt_tokens", "completion_tokens", "error")
    return [Reply(*row) for row in zip(*(table.column(name).to_pylist() for name in names), strict=True)]


def candidates_table(judged: Sequence[tuple[Candidate, Rejection | None]], keys: Sequence[int]) -> pa.Table:
    """:param keys: one a candidate; that of one that was turned away is not looked at."""
    return pa.table(
        [
            [c.request_id for c, _ in judged],
            [c.position for c, _ in judged],
            [c.example.label for c, _ in judged],
            [list(map(_whole, c.example.fields)) for c, _ in judged],
            [c.template for c, _ in judged],
            [list(c.parents) for c, _ in judged],
            np.asarray(keys, dtype=np.uint64),
            [None if v is None else v.filter for _, v in judged],
            [None if v is None else v.reason for _, v in judged],
        ],
        schema=CANDIDATES,
    )


def candidates_of(table: pa.Table, round: int, generator: str) -> list[tuple[Candidate, Rejection | None]]:
    rows = zip(*(table.column(name).to_pylist() for name in CANDIDATES.names if name != "key"), strict=True)
    return [
        (
            Candidate(Example(tuple(fields), label), request, place, round, generator, template, tuple(parents)),
            None if filter is None else Rejection(filter, reason),
        )
        for request, place, label, fields, template, parents, filter, reason in rows
    ]


def features_table(rows: Sequence[int], arrays: Mapping[str, Tensor], columns: Mapping[str, pa.Array]) -> pa.Table:
    """:param rows: (n,) places of the candidates in their shard.
    :param arrays: name -> (n, d), a row a candidate.
    :param columns: other columns of n values.
    """
    values: dict[str, pa.Array] = {"row": pa.array(rows, pa.int32()), **columns}
    for name, array in arrays.items():
        flat = np.ascontiguousarray(array.numpy(), dtype=np.float32)
        values[name] = pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])
    return pa.table(values)


def array_of(table: pa.Table, name: str) -> Tensor:
    """A column of lists of one length, (n, d) float32."""
    column = table.column(name)
    width = column.type.list_size
    parts = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks if len(chunk)]
    flat = np.concatenate(parts) if parts else np.empty(0, np.float32)
    return torch.from_numpy(np.array(flat, dtype=np.float32).reshape(-1, width))


def features_of(table: pa.Table) -> list[Features]:
    """One a checkpoint."""
    names = array_names(table)
    count = sum(name.startswith("hidden.") for name in names)
    return [
        Features(
            array_of(table, f"hidden.{t}"),
            array_of(table, f"probs.{t}"),
            array_of(table, f"gradient.{t}") if f"gradient.{t}" in names else None,
        )
        for t in range(count)
    ]


def array_names(table: pa.Table) -> list[str]:
    return [field.name for field in table.schema if pa.types.is_fixed_size_list(field.type)]


def _whole(text: str) -> str:
    """Without half characters, which no file can hold."""
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
