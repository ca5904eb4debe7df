"""Bytes that a run leaves on the disk for each row: really written, into a temporary folder, and weighed."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from gendistill.config import Config
from gendistill.cost.sample import ByteSizes
from gendistill.generators import Reply
from gendistill.inputs import RealSide
from gendistill.intake import Judged
from gendistill.store import Judged as Verdict
from gendistill.store import Planned, Store

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

ID_BYTES = 22  # of a row's id in a file of features
WEIGHED_ROWS = 1024  # of a shard of features, at most
SCORES = {"teacher_probability": 0.98765, "real_similarity": 0.56789}  # as long as they mostly are


def byte_sizes(
    config: Config,
    planned: Sequence[Planned],
    replies: Sequence[tuple[Planned, Reply]],
    judged: Sequence[Judged],
    real: RealSide,
) -> ByteSizes:
    """:param planned: requests to weigh; those without a reply get that of another.
    :param judged: the candidates of the replies.
    :param real: has features such as candidates have.
    """
    arrays = {"embedding": real.embeddings[real.target_rows]}
    for t, features in enumerate(real.target_features):
        arrays |= {f"hidden.{t}": features.hidden, f"probs.{t}": features.probabilities}
        if features.gradient is not None:
            arrays[f"gradient.{t}"] = features.gradient
    rows = len(real.target_rows)
    replies_bytes, candidates_bytes, features_bytes = _shards(replies, judged, arrays, config.engine.shard_rows)
    return ByteSizes(
        journal=_journal(config, planned, replies, judged),
        features=ID_BYTES + sum(array.nbytes for array in arrays.values()) / rows,
        embedding=ID_BYTES + real.embeddings.nbytes / len(real.embeddings),
        shard_replies=replies_bytes,
        shard_candidates=candidates_bytes,
        shard_features=features_bytes,
    )


def _journal(
    config: Config, planned: Sequence[Planned], replies: Sequence[tuple[Planned, Reply]], judged: Sequence[Judged]
) -> float:
    """Of a request, its reply and its candidates in ``run.db``."""
    with tempfile.TemporaryDirectory() as folder:
        empty, full = Path(folder) / "empty", Path(folder) / "full"
        with Store(empty, config):
            pass
        of_reply: dict[str, list[Judged]] = {}
        for one in judged:
            of_reply.setdefault(one[0].request_id, []).append(one)
        weighed = [(p.request.id, reply) for p, (_, reply) in zip(planned, cycle(replies), strict=False)]
        with Store(full, config) as store:
            store.plan(1, planned)
            store.add_replies([replace(reply, request_id=id) for id, reply in weighed])
            store.add_candidates(
                [
                    Verdict(
                        replace(candidate, request_id=id),
                        verdict.filter if verdict else None,
                        verdict.reason if verdict else None,
                        {} if verdict else SCORES,
                    )
                    for id, reply in weighed
                    for candidate, verdict in of_reply.get(reply.request_id, [])
                ]
            )
        sizes = [(path / "run.db").stat().st_size for path in (empty, full)]
    return (sizes[1] - sizes[0]) / len(planned)


def _shards(
    replies: Sequence[tuple[Planned, Reply]], judged: Sequence[Judged], arrays: dict[str, Tensor], shard_rows: int
) -> tuple[float, float, float]:
    """Of a request's reply and candidates, and of the features of a candidate, in Parquet."""
    import torch

    from gendistill.engines.tables import candidates_table, features_table, replies_table

    requests = [p for p, _ in replies]
    texts = replies_table(requests, {reply.request_id: reply for _, reply in replies})
    keys = [hash(candidate.example.text) % 2**64 for candidate, _ in judged]
    # Features are weighed as a whole shard of them: Parquet encodes a few rows otherwise. Noise packs no worse.
    rows = min(shard_rows, WEIGHED_ROWS)
    noise = torch.Generator().manual_seed(0)
    like = {name: torch.randn(rows, array.shape[1], generator=noise) for name, array in arrays.items()}
    return (
        _weight(texts) / len(replies),
        _weight(candidates_table(judged, keys)) / len(replies),
        _weight(features_table(range(rows), like, {})) / rows,
    )


def _weight(table: pa.Table) -> int:
    """Bytes of the rows, as ``engines.storage`` writes them."""
    import pyarrow as pa

    from gendistill.engines.storage import write_parquet

    sizes = []
    for part in (table, table.slice(0, 0)):
        sink = pa.BufferOutputStream()
        write_parquet(part, sink)
        sizes.append(sink.getvalue().size)
    return int(sizes[0] - sizes[1])
