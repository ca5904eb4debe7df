"""The candidates of a run that are too many to hold: what the shards proposed, and counts of all the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from gendistill.engines.chunks import Chunks
from gendistill.engines.proposals import (
    PASSES,
    Group,
    Propose,
    factor_of,
    groups_of,
    places_of,
    proposal_of,
    proposed,
)
from gendistill.engines.runner import Step
from gendistill.engines.stages import Job
from gendistill.engines.tables import candidates_of
from gendistill.examples import Candidate
from gendistill.filters import Rejection
from gendistill.further import EMBEDDINGS_ALONE
from gendistill.gathering import Gathered
from gendistill.inputs import objective_inputs
from gendistill.objectives import ObjectiveInputs
from gendistill.planning import Chosen
from gendistill.selection.shards import ShardRows
from gendistill.selection.two_stage import Plan, TwoStage, choose_among, first_reference

if TYPE_CHECKING:
    from gendistill.engines.sharded import ShardedGathering


class Union:
    """:param gathering: whose pool the proposals become."""

    def __init__(self, gathering: ShardedGathering) -> None:
        self.of = gathering
        self.kept = [0] * len(gathering.real.label_names)
        self._jobs: list[Job] = []
        self._dropped: dict[tuple[int, int], npt.NDArray[np.int32]] = {}
        self._taken: dict[tuple[str, int], str] = {}  # group, place in it -> id, of all that were proposed
        self._totals = dict.fromkeys(("asked", "replies", "failed", "prompt_tokens", "completion_tokens"), 0)
        weights = gathering.config.objective.weights
        self._with_features = any(weight > 0 and name not in EMBEDDINGS_ALONE for name, weight in weights.items())

    def add(self, job: Job, chosen: Chosen | None) -> Gathered:
        """Count what a round brought, and take in what all shards so far propose now."""
        seen, kept = self._sift(job)
        self._jobs.append(job)
        groups = groups_of(self._jobs)
        config, real = self.of.config, self._real()
        passes = PASSES if job.plan.round >= config.rounds else 1
        plan = Plan(
            budgets=self.of.side.budgets,
            weights={name: weight for name, weight in config.objective.weights.items() if weight},
            factor=factor_of(config.engine.held_rows, len(groups), self.of.side.budgets, passes),
            min_distance=config.selection.min_distance,
        )
        reference = first_reference(real, plan) if chosen is None else self._rows_of(chosen)
        result: TwoStage | None = None
        features = Chunks(self.of.teacher, f"round-{job.plan.round}")
        judged: list[tuple[Candidate, Rejection | None]] = []
        for number in range(passes):
            turn = f"{job.plan.round:03d}-{number}"
            self._propose(turn, groups, real, reference, plan)
            proposals = []
            for group, candidates, table in proposed(self.of.storage, turn, groups):
                judged += self._take(group, candidates, table, features)
                proposals.append(proposal_of(group, candidates, table, self._with_features))
            if proposals:
                result = choose_among(proposals, real, plan, previous=result)
                reference = result.candidates
        features.close()
        self.of.judge_proposed(judged, features.name)
        if chosen is None and result is not None:
            place = {candidate.id: index for index, candidate in enumerate(self.of.pool.candidates)}
            picked = [self._taken[group, row] for group, row in result.picks]
            self.of.start = [place[id] for id in picked if id in place]
        return Gathered(job.plan.size, seen, kept)

    def _propose(
        self, turn: str, groups: Sequence[Group], real: ObjectiveInputs, reference: ShardRows, plan: Plan
    ) -> None:
        build = partial(
            Propose, self.of.storage, turn, groups, self._dropped, real, reference, plan, self._with_features
        )
        with self.of.reporter.track(f"propose {turn}", len(groups)) as advance:
            for done, _ in enumerate(self.of.runner.run([Step(build, "work")], range(len(groups))), 1):
                advance(done)

    def _take(
        self, group: Group, candidates: pa.Table, table: pa.Table, features: Chunks
    ) -> list[tuple[Candidate, Rejection | None]]:
        """Those that no group proposed before; their features into the run directory."""
        keys = [(group.name, row) for row in places_of(candidates, table).tolist()]
        new = np.array([key not in self._taken for key in keys], dtype=np.bool_)
        came = candidates_of(candidates.filter(pa.array(new)), group.job.plan.round, group.job.plan.generator_name)
        fresh = [key for key, is_new in zip(keys, new, strict=True) if is_new]
        self._taken.update({key: candidate.id for key, (candidate, _) in zip(fresh, came, strict=True)})
        features.add([candidate.id for candidate, _ in came], table, np.flatnonzero(new))
        return came

    def _real(self) -> ObjectiveInputs:
        """The real side, without candidates."""
        real = self.of.side
        none = real.embeddings[:0]
        features = [part.rows([]) for part in real.target_features]
        inputs = objective_inputs(self.of.config, real, torch.empty(0, dtype=torch.int64), none, features)
        if self._with_features:
            return inputs
        return replace(inputs, candidate_features=[], real_features=[], feature_rows=None)

    def _rows_of(self, chosen: Chosen) -> ShardRows:
        place = {candidate.id: index for index, candidate in enumerate(self.of.pool.candidates)}
        rows = torch.tensor([place[example.id] for example in chosen.examples])
        features = tuple(part.rows(rows) for part in self.of.pool.features) if self._with_features else ()
        return ShardRows(self.of.pool.labels[rows], self.of.pool.embeddings[rows], features)

    # -- counts ---------------------------------------------------------------------------------------------------

    def _sift(self, job: Job) -> tuple[int, int]:
        """Find the duplicates over shards, and count the verdicts; (texts, kept)."""
        before = sum(self.kept)
        seen = 0
        for shard, fresh in enumerate(self.of.fresh(job)):
            texts = job.storage.read(job.name("candidates", shard), ["filter"])
            looked = job.storage.read(job.name("features", shard), ["row", "label", "filter"])
            seen += len(texts)
            gone = looked.column("row").to_numpy()[~fresh]
            rejected = _counts(texts.column("filter"))
            if len(gone):
                self._dropped[job.plan.round, shard] = gone
                rejected["duplicate"] = rejected.get("duplicate", 0) + len(gone)
                looked = looked.filter(pc.invert(pc.is_in(looked.column("row"), value_set=pa.array(gone))))
            for name, count in _counts(looked.column("filter")).items():
                rejected[name] = rejected.get(name, 0) + count
            passed = looked.filter(pc.is_null(looked.column("filter"))).column("label").to_numpy()
            for label, count in enumerate(np.bincount(passed, minlength=len(self.kept)).tolist()):
                self.kept[label] += count
            self.of.report.add_counts(len(passed), rejected)
            self._total(job.storage.read(job.name("replies", shard), ["prompt_tokens", "completion_tokens", "error"]))
        self.of.store.note_shards(self._totals)
        return seen, sum(self.kept) - before

    def _total(self, replies: pa.Table) -> None:
        told: dict[str, Any] = {
            "asked": len(replies),
            "replies": len(replies),
            "failed": len(replies) - replies.column("error").null_count,
            "prompt_tokens": pc.sum(replies.column("prompt_tokens")).as_py() or 0,
            "completion_tokens": pc.sum(replies.column("completion_tokens")).as_py() or 0,
        }
        for name, count in told.items():
            self._totals[name] += count


def _counts(filters: pa.ChunkedArray) -> dict[str, int]:
    """How many each filter turned away."""
    return {row["values"]: row["counts"] for row in filters.value_counts().to_pylist() if row["values"] is not None}
