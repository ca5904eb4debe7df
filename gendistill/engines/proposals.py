"""More candidates than can be held: groups of shards propose some, and the run goes on with what was proposed.

The two stages of ``selection.two_stage``, over shards that lie in a storage. A group is as many shards of one round as
a worker can hold; what it proposes it writes beside them, candidates with their features, so the run's own process
reads no more than that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from gendistill.engines.stages import Job
from gendistill.engines.storage import Storage
from gendistill.engines.tables import array_of, features_of
from gendistill.objectives import ObjectiveInputs
from gendistill.selection.shards import ShardRows
from gendistill.selection.two_stage import Plan, Proposal, propose

GROUP_ROWS = 131_072  # requests of a group, about: of 384 dimensions 0.2 GB, held twice
MOST_GROUPS = 1000  # beyond that groups are larger: what they propose must be held
LEAST_FACTOR = 8
PASSES = 2  # in the last round: one pass alone may end above the choice from everything (docs/scaling.md)

Dropped = Mapping[tuple[int, int], npt.NDArray[np.int32]]
"""(round, shard) -> rows of it that are duplicates of others."""


@dataclass(frozen=True)
class Group:
    """Shards of one round that propose together."""

    job: Job
    shards: range

    @property
    def name(self) -> str:
        return f"{self.job.plan.round:03d}-{self.shards.start:06d}"


def groups_of(jobs: Sequence[Job]) -> list[Group]:
    rows = max(GROUP_ROWS, sum(job.plan.size for job in jobs) // MOST_GROUPS)
    found = []
    for job in jobs:
        each = max(1, rows // job.shard_rows)
        found += [Group(job, range(start, min(start + each, job.shards))) for start in range(0, job.shards, each)]
    return found


def factor_of(held_rows: int, groups: int, budgets: Sequence[int], passes: int) -> int:
    """How many times the budgets a group may propose, so that what all propose can be held."""
    return max(LEAST_FACTOR, min(Plan.factor, held_rows // max(1, groups * sum(budgets) * passes)))


class Propose:
    """A stage: what one group proposes. Leaves two tables, ``candidates`` and ``features``, row by row the same.

    :param turn: names what is proposed; whoever asks with another reference gives another.
    :param with_features: whether the objectives look at more than embeddings.
    """

    def __init__(
        self,
        storage: Storage,
        turn: str,
        groups: Sequence[Group],
        dropped: Dropped,
        real: ObjectiveInputs,
        reference: ShardRows,
        plan: Plan,
        with_features: bool,
    ) -> None:
        self.storage, self.turn, self.groups, self.dropped = storage, turn, groups, dropped
        self.real, self.reference, self.plan, self.with_features = real, reference, plan, with_features

    def __call__(self, number: int) -> dict[str, Any]:
        group = self.groups[number]
        name = f"proposals/{self.turn}/{{}}/{group.name}"
        if self.storage.has(name.format("candidates")):  # the last that is written
            return {}
        shard = _Held(group, self.dropped, self.with_features)
        rows = propose(shard, self.real, self.reference, self.plan).rows if len(shard.features) else torch.empty(0)
        index = pa.array(rows.numpy().astype(np.int64))
        self.storage.write(name.format("features"), shard.features.take(index))
        self.storage.write(name.format("candidates"), shard.candidates().take(index))
        return {}


class _Held:
    """The rows of a group that passed, as ``propose`` reads a shard."""

    def __init__(self, group: Group, dropped: Dropped, with_features: bool) -> None:
        self.name, self.with_features = group.name, with_features
        self._group = group
        storage, job = group.job.storage, group.job
        parts = []
        self._rows: list[tuple[int, pa.Array]] = []  # shard, its rows
        for shard in group.shards:
            table = storage.read(job.name("features", shard))
            passed = pc.is_null(table.column("filter"))
            if (job.plan.round, shard) in dropped:
                gone = pa.array(dropped[job.plan.round, shard])
                passed = pc.and_(passed, pc.invert(pc.is_in(table.column("row"), value_set=gone)))
            table = table.filter(passed)
            if len(table):
                parts.append(table)
                self._rows.append((shard, table.column("row")))
        self.features: pa.Table = pa.concat_tables(parts) if parts else pa.table({"row": pa.array([], pa.int32())})

    def read(self) -> ShardRows:
        labels = torch.from_numpy(self.features.column("label").to_numpy().astype(np.int64))
        features = tuple(features_of(self.features)) if self.with_features else ()
        return ShardRows(labels, array_of(self.features, "embedding"), features)

    def candidates(self) -> pa.Table:
        """Row by row as ``features``, with the round and the shard."""
        job = self._group.job
        parts = []
        for shard, rows in self._rows:
            table = job.storage.read(job.name("candidates", shard)).take(rows)
            parts.append(table.append_column("shard", pa.array([shard] * len(table), pa.int64())))
        return pa.concat_tables(parts) if parts else pa.table({"shard": pa.array([], pa.int64())})


def proposed(storage: Storage, turn: str, groups: Sequence[Group]) -> Iterator[tuple[Group, pa.Table, pa.Table]]:
    """(group, candidates, features) of each that proposed any, in the order of the groups."""
    for group in groups:
        candidates = storage.read(f"proposals/{turn}/candidates/{group.name}")
        if len(candidates):
            yield group, candidates, storage.read(f"proposals/{turn}/features/{group.name}")


def places_of(candidates: pa.Table, features: pa.Table) -> npt.NDArray[np.int64]:
    """(n,) of a group's rows, each another number however often it is proposed."""
    shards, rows = (table.column(name).to_numpy() for table, name in ((candidates, "shard"), (features, "row")))
    return shards.astype(np.int64) << 32 | rows.astype(np.int64)


def proposal_of(group: Group, candidates: pa.Table, features: pa.Table, with_features: bool) -> Proposal:
    """As ``two_stage.choose_among`` takes it."""
    labels = torch.from_numpy(features.column("label").to_numpy().astype(np.int64))
    seen = tuple(features_of(features)) if with_features else ()
    rows = ShardRows(labels, array_of(features, "embedding"), seen)
    places = torch.from_numpy(places_of(candidates, features))
    return Proposal(group.name, places, rows, len(labels), torch.empty(0, dtype=torch.int64))
