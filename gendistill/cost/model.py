"""From a sample to the cost of a whole run: arithmetic alone, the same for a hundred candidates and for 10**9."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from scipy.stats import norm

from gendistill.config import Config
from gendistill.cost.estimate import NOTHING, Estimate, largest
from gendistill.cost.sample import BatchSpeed, CallSpeed, Sample
from gendistill.cost.writing import calls_at_once
from gendistill.engines.near import ALONE_ROWS
from gendistill.engines.proposals import GROUP_ROWS, MOST_GROUPS, PASSES, factor_of
from gendistill.errors import ConfigError
from gendistill.planning import TOP_UP_FACTOR
from gendistill.teacher import CHUNK

# What is not measured but known from docs/scaling.md and docs/cost.md, all of two cores of a server
TWO_STAGES_S = 1.1e-4  # a candidate of 384 dimensions, 80 chosen, two rounds, one process
TWO_STAGES_DIMS, TWO_STAGES_CHOSEN = 384, 80
BASELINES = 4  # sets that students are trained on for the table, beside the full data
AUDIT_S, AUDIT_ROW_S = 3.0, 0.001  # the audit, and of a real row that it looks at
# Bytes: the page of a report, a point of its map and a chosen text beside what they quote; a round in the journal;
# card, audit and configuration
REPORT_BYTES, POINT_BYTES, CHOSEN_BYTES, ROUND_BYTES, RESULT_BYTES = 67_000, 50, 800, 8_000, 30_000
QUOTED_CHARS, QUOTED_TIMES = 300, 6  # of a text on the map; how often a chosen text and its like are quoted
EMPTY_JOURNAL = 45_000
MAP_POINTS = (2_000, 5_000)  # real rows and candidates on the map, at most

SPEED_ERROR = 0.1  # relative standard error of a speed that was measured
KNOWN_ERROR = 0.3  # of one that is known from elsewhere
CHOICE_ERROR = 0.25
LATER_PROMPTS = 0.03  # later rounds show chosen texts: relative error of the length of their prompts
COPIES = 2.0  # of the pool in memory while a round is added to it


@dataclass(frozen=True)
class Cluster:
    """:param writers: generators at once.
    :param scorers: students at once.
    :param gpus: in all; none where nothing runs on a GPU.
    :param speedup: how much faster one of its devices writes and scores than the one that measured.
    :param gpu_price: of a GPU for an hour.
    """

    writers: int = 1
    scorers: int = 1
    gpus: int = 0
    speedup: float = 1.0
    gpu_price: float | None = None


@dataclass(frozen=True)
class Costs:
    """What a run takes. Seconds are of wall time, bytes of disk or memory, money in the currency of the prices.

    :param stages: seconds of each; ``write`` and ``score`` may lie side by side, so that ``wall`` is less than the sum.
    :param storage: bytes that are left at the end, by what they hold.
    :param money: None where no price is known.
    """

    candidates: int
    requests: Estimate
    rounds: int
    tokens_in: Estimate
    tokens_out: Estimate
    kept: Estimate
    gpu_hours: Estimate
    storage: dict[str, Estimate]
    memory: Estimate
    money: Estimate | None
    stages: dict[str, Estimate]
    wall: Estimate
    notes: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> Estimate:
        return sum(self.storage.values(), NOTHING)

    def to_json(self) -> dict[str, Any]:
        """Plain values; figures as {"expected", "low", "high"}, of 95 % intervals."""
        return {
            "candidates": self.candidates,
            "requests": self.requests.to_json(),
            "rounds": self.rounds,
            "tokens_in": self.tokens_in.to_json(),
            "tokens_out": self.tokens_out.to_json(),
            "kept": self.kept.to_json(),
            "gpu_hours": self.gpu_hours.to_json(),
            "storage_bytes": {name: part.to_json() for name, part in self.storage.items()},
            "storage_bytes_in_all": self.bytes.to_json(),
            "driver_memory_bytes": self.memory.to_json(),
            "money": None if self.money is None else self.money.to_json(),
            "seconds": {name: part.to_json() for name, part in self.stages.items()},
            "seconds_in_all": self.wall.to_json(),
            "notes": self.notes,
        }


def cluster_of(
    config: Config,
    sample: Sample,
    *,
    nodes: int = 1,
    gpus: int = 0,
    speedup: float = 1.0,
    gpu_price: float | None = None,
) -> Cluster:
    """What ``engine.writers`` and ``engine.scorers`` say, or else one of each a GPU.

    :param gpus: of a node.
    """
    total = nodes * gpus
    if not total and sample.on_gpu:
        total = nodes
    spread = max(1, total or nodes) if config.engine.kind == "ray" else 1
    writers = config.engine.writers or (1 if sample.remote else spread)
    scorers = config.engine.scorers or spread
    if config.engine.kind == "local":
        writers = scorers = 1
    return Cluster(writers, scorers, total, speedup, gpu_price)


def predict(sample: Sample, config: Config, cluster: Cluster, candidates: int) -> Costs:
    """The cost of a run that asks for so many candidates in all.

    :raises ConfigError: fewer than one candidate.
    """
    if candidates < 1:
        raise ConfigError(f"plan: {candidates} candidates cannot be asked for; give 1 or more")
    return _Run(sample, config, cluster, candidates).costs()


class _Run:
    """The values that the parts of a prediction share."""

    def __init__(self, sample: Sample, config: Config, cluster: Cluster, candidates: int) -> None:
        self.sample, self.config, self.cluster, self.candidates = sample, config, cluster, candidates
        self.budget = config.per_class * sample.classes
        self.notes: list[str] = []
        planned = [
            candidates * (r + 1) // config.rounds - candidates * r // config.rounds for r in range(config.rounds)
        ]
        self.rounds = [float(size) for size in planned if size] + self._top_ups()
        self.requests = Estimate(sum(self.rounds), (sum(self.rounds) - candidates) / 2)
        self.kept = self._count(sample.kept, self.requests)
        self.looked_at = self._count(sample.looked_at, self.requests)

    def costs(self) -> Costs:
        stages, wall, gpu_s = self._seconds()
        tokens_in, tokens_out = self._tokens()
        gpu_hours = gpu_s * (1 / 3600)
        return Costs(
            candidates=self.candidates,
            requests=self.requests,
            rounds=len(self.rounds),
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            kept=self.kept,
            gpu_hours=gpu_hours,
            storage=self._storage(),
            memory=self._memory(),
            money=self._money(tokens_in, tokens_out, gpu_hours),
            stages=stages,
            wall=wall,
            notes=self.notes,
        )

    # -- how many -------------------------------------------------------------------------------------------------

    def _top_ups(self) -> list[float]:
        """Requests of the one more round for classes that are expected to be short of their budget."""
        share, classes = self.sample.kept.value, self.sample.classes
        if share <= 0:
            return []
        asked = self.candidates / classes
        spread = math.sqrt(asked * share * (1 - share)) or 1e-9
        below = (self.config.per_class - asked * share) / spread
        short = spread * float(norm.pdf(below) + below * norm.cdf(below))  # expected, of a class
        more = classes * min(short / share, float(TOP_UP_FACTOR * self.config.per_class))
        return [more] if more >= 0.5 else []

    def _count(self, share: Estimate, of: Estimate) -> Estimate:
        """So many of them, each by itself as likely as the share."""
        drawn = math.sqrt(max(0.0, share.value * (1 - share.value)) * of.value)
        mean = of * share
        return Estimate(mean.value, math.hypot(mean.error, drawn))

    def _tokens(self) -> tuple[Estimate, Estimate]:
        written, rounds = self.sample.written, self.rounds
        prompts = self.requests * (1 / written.shared)
        later = 1 - rounds[0] / self.requests.value
        tokens_in = prompts * written.prompt_tokens * Estimate(1.0, LATER_PROMPTS * later)
        mean = self.requests * written.completion_tokens
        drawn = written.spread * math.sqrt(self.requests.value)
        return tokens_in, Estimate(mean.value, math.hypot(mean.error, drawn))

    # -- how long -------------------------------------------------------------------------------------------------

    def _seconds(self) -> tuple[dict[str, Estimate], Estimate, Estimate]:
        """Seconds by stage, of wall time in all, and of GPUs."""
        stages = {"start": self._start(), "teacher": self._teacher(), "write": NOTHING, "score": NOTHING}
        stages["choose"] = NOTHING
        gathering, pool = NOTHING, 0.0
        for requests in self.rounds:
            write, score = self._write(requests), self._score(requests)
            stages["write"] += write
            stages["score"] += score
            gathering += self._together(requests, write, score)
            pool += requests * self.sample.kept.value
            stages["choose"] += self._choose(requests, pool)
        stages["measure"] = self._measure()
        stages["audit"] = self._audit()
        outside = [part for name, part in stages.items() if name not in ("write", "score")]
        wall = sum(outside, gathering)
        alone = stages["teacher"] + stages["measure"]
        gpu_s = gathering * self.cluster.gpus + alone if self.cluster.gpus else NOTHING
        return stages, wall, gpu_s

    def _fast(self, seconds: float) -> Estimate:
        """Of a device of the cluster."""
        return Estimate(seconds / self.cluster.speedup, SPEED_ERROR * seconds / self.cluster.speedup)

    def _start(self) -> Estimate:
        load = self.sample.start_s + self.sample.written.load_s
        return Estimate(load, SPEED_ERROR * load)

    def _teacher(self) -> Estimate:
        """Real rows embedded, also those that the head starts from; features of some; training; further students."""
        sample, rows = self.sample, self.sample.rows
        reference = min(rows.aim, self.config.data.max_reference_rows)
        targets = min(reference, sample.classes * self.config.objective.target_rows_per_class)
        probed = min(rows.train, self.config.student.probe_rows) if self.config.student.head_init == "probe" else 0
        embedded = reference + probed * (1 - min(1.0, reference / rows.train)) + 2 * rows.dev
        seconds = embedded * sample.embed_row_s + targets * sample.target_row_s
        steps = self.config.student.training_steps(rows.train)
        return self._fast(seconds + steps * sample.step_s) + self._known(rows.train * sample.further_real_row_s)

    def _write(self, requests: float) -> Estimate:
        """All writers at once that have a shard to write; every reply is looked at as it comes, against garbage."""
        speed, writers = self.sample.written.speed, self._busy(self.cluster.writers, requests)
        watched = self._known(requests * self.sample.read_row_s / writers)
        if isinstance(speed, CallSpeed):
            return self._by_calls(speed, requests) + watched
        if isinstance(speed, BatchSpeed):
            return self._by_batches(speed, requests / writers) + watched
        return NOTHING

    def _by_batches(self, speed: BatchSpeed, requests: float) -> Estimate:
        """Of one writer, in batches; each shard is batched by itself."""
        if self.config.engine.kind == "ray" and requests > self.config.engine.shard_rows:
            shard = self.config.engine.shard_rows
            return self._by_batches(speed, float(shard)) * (requests / shard)
        written, size = self.sample.written, self.config.generator.batch_size
        whole, rest = divmod(requests, size)
        seconds = 0.0
        for batches, rows in ((whole, float(size)), (1.0, rest)):
            if batches and rows:
                prompts = math.ceil(rows / self.config.generator.samples_per_prompt)
                seconds += batches * speed.seconds(
                    written.longest(rows),
                    rows * written.completion_tokens.value,
                    prompts * written.prompt_tokens.value,
                )
        return self._fast(seconds) * Estimate(1.0, written.completion_tokens.relative)

    def _by_calls(self, speed: CallSpeed, requests: float) -> Estimate:
        """With as many calls at once as the run makes; surely no slower than the sample was."""
        calls = requests / speed.requests
        at_once = min(calls, float(calls_at_once(self.config.generator)) * self.cluster.writers)
        seconds = calls / speed.calls_a_second(at_once)
        slowest = calls / speed.calls_a_second(min(calls, speed.at_once))
        error = max(SPEED_ERROR * seconds, (slowest - seconds) / 2)
        return Estimate(seconds, error)

    def _score(self, requests: float) -> Estimate:
        """Parsing, filters on text, features and the filters on those, by all scorers at once."""
        sample, config = self.sample, self.config
        rows = requests * sample.looked_at.value
        real = min(sample.rows.aim, config.data.max_reference_rows)
        seconds = rows * (sample.look_row_s + real * sample.pair_s)
        kept = requests * sample.kept.value * sample.further_row_s
        features = self._fast(seconds + kept) * Estimate(1.0, sample.looked_at.relative)
        return (features + self._known(requests * sample.read_row_s)) * (1 / self._busy(self.cluster.scorers, requests))

    def _busy(self, workers: int, requests: float) -> float:
        """Of so many workers, those that have a shard to do."""
        if self.config.engine.kind == "local":
            return 1.0
        return min(float(workers), max(1.0, requests / self.config.engine.shard_rows))

    def _together(self, requests: float, write: Estimate, score: Estimate) -> Estimate:
        """Writing elsewhere leaves this machine free to score meanwhile, whole chunks of candidates at a time."""
        if not self.sample.remote:
            return write + score
        rows = requests * self.sample.looked_at.value
        chunk = float(CHUNK) if self.config.engine.kind == "local" else self.config.engine.shard_rows
        left = score * (min(1.0, (rows % chunk) / rows) if rows else 0.0)
        return largest(write, score + left * -1.0) + left

    def _choose(self, requests: float, pool: float) -> Estimate:
        """Near duplicates of the round, and the choice among the pool."""
        held = min(pool, float(self.config.engine.held_rows))
        added = min(requests * self.sample.looked_at.value, held)
        compare = Estimate(1.0, KNOWN_ERROR) * (added * (held - added / 2) * self.sample.pair_s)
        if added * held > ALONE_ROWS**2:
            compare = compare * (1 / self._busy(self.cluster.scorers, requests))
        if pool <= self.config.engine.held_rows:
            return compare + self._choice(pool)
        self._say(
            f"more than engine.held_rows candidates ({self.config.engine.held_rows:,}) pass: chosen in two stages, and "
            "near duplicates are looked for among so many at once only"
        )
        seconds = pool * TWO_STAGES_S * self.budget / TWO_STAGES_CHOSEN * self._dims() / TWO_STAGES_DIMS
        return (
            compare + Estimate(1.0, KNOWN_ERROR) * (seconds / self.cluster.scorers) + self._choice(self._proposed(pool))
        )

    def _choice(self, pool: float) -> Estimate:
        """By a power of the candidates between two that were measured, and beyond them."""
        points = self.sample.choices
        if not points:
            return NOTHING
        if len(points) == 1 or pool <= points[0][0]:
            nearer = pool / points[0][0]
            seconds = points[0][1] * (nearer if nearer < 1 else nearer**0.5)
            return Estimate(seconds, CHOICE_ERROR * seconds)
        after = next((k for k in range(1, len(points)) if points[k][0] >= pool), len(points) - 1)
        (low, fast), (high, slow) = points[after - 1], points[after]
        power = min(1.0, max(0.0, math.log(slow / fast) / math.log(high / low)))
        seconds = slow * (pool / high) ** power
        # An exponent that is off by 0.1 is off by more the farther away
        off = math.hypot(CHOICE_ERROR, 0.1 * math.log(max(1.0, pool / high)))
        return Estimate(seconds, off * seconds)

    def _measure(self) -> Estimate:
        """Fresh students, trained on sets of the budget's size, scored on test rows; the full data by the teacher."""
        sample, config = self.sample, self.config
        if not config.evaluate.seeds or not sample.rows.test:
            return NOTHING
        test = config.evaluate.test_size(sample.rows.test) * sample.embed_row_s
        one = config.student.training_steps(self.budget) * sample.step_s + test + self.budget * sample.embed_row_s
        students = config.evaluate.seeds * BASELINES * one
        finals = 0.0
        if config.selection.method == "portfolio" and config.selection.finalists > 1:
            finals = config.selection.rollout_runs * (one - test + sample.rows.dev * sample.embed_row_s)
        return self._fast(students + test + finals)

    def _audit(self) -> Estimate:
        """The audit, if there is one, and the report."""
        if not self.config.audit.enabled:
            return self._known(0.5)
        rows, settings = self.sample.rows, self.config.audit
        looks = self.budget + min(rows.dev + rows.test, settings.held_out_rows)
        known = AUDIT_S + AUDIT_ROW_S * min(rows.train, settings.real_rows)
        return self._fast(looks * self.sample.embed_row_s) + self._known(known)

    def _known(self, seconds: float) -> Estimate:
        return Estimate(seconds, KNOWN_ERROR * seconds)

    # -- how much -------------------------------------------------------------------------------------------------

    def _dims(self) -> float:
        return self.sample.sizes.embedding / 4

    def _proposed(self, pool: float) -> float:
        """Candidates that the shards propose together."""
        groups = math.ceil(pool / max(GROUP_ROWS, pool / MOST_GROUPS))
        each = factor_of(self.config.engine.held_rows, groups, [self.budget], PASSES)
        return min(pool, float(PASSES * groups * each * self.budget))

    def _storage(self) -> dict[str, Estimate]:
        sample, config, sizes = self.sample, self.config, self.sample.sizes
        here = config.engine.kind == "local" or self.requests.value <= config.engine.held_rows
        reference = min(sample.rows.aim, config.data.max_reference_rows)
        targets = min(reference, sample.classes * config.objective.target_rows_per_class)
        held_out = min(sample.rows.dev + sample.rows.test, config.audit.held_out_rows) if config.audit.enabled else 0
        audited = self.budget if config.audit.enabled else 0
        real = (reference + sample.rows.dev + held_out + audited) * sizes.embedding + targets * sizes.features
        seen, drawn = MAP_POINTS
        points = min(reference, seen) + min(self.requests.value, drawn)
        text = sample.written.reply_bytes
        fixed: float = EMPTY_JOURNAL + len(self.rounds) * ROUND_BYTES + RESULT_BYTES + REPORT_BYTES
        fixed += points * (POINT_BYTES + min(text, QUOTED_CHARS)) + self.budget * (CHOSEN_BYTES + QUOTED_TIMES * text)
        parts = {
            "journal": self.requests * Estimate(sizes.journal, 0.05 * sizes.journal),
            "features": self.looked_at * sizes.features,
        }
        shards = {
            "shards of replies": self.requests * Estimate(sizes.shard_replies, 0.1 * sizes.shard_replies),
            "shards of candidates": self.requests * Estimate(sizes.shard_candidates, 0.1 * sizes.shard_candidates),
            "shards of features": self.looked_at * Estimate(sizes.shard_features, 0.05 * sizes.shard_features),
        }
        chosen = (parts if here else {}) | (shards if config.engine.kind == "ray" else {})
        return {**chosen, "real rows": Estimate(real), "results": Estimate(fixed, 0.2 * fixed)}

    def _memory(self) -> Estimate:
        """Of the process that chooses."""
        sizes, config = self.sample.sizes, self.config
        held = self.kept.value
        if held > config.engine.held_rows:
            held = max(float(config.engine.held_rows), self._proposed(held))
        planned = max(self.rounds)
        if config.engine.kind == "ray":
            planned = min(planned, float(config.engine.held_rows))
        bytes = COPIES * held * sizes.features + planned * self.sample.request_memory
        return Estimate(self.sample.memory, 0.1 * self.sample.memory) + Estimate(bytes, KNOWN_ERROR * bytes)

    def _money(self, tokens_in: Estimate, tokens_out: Estimate, gpu_hours: Estimate) -> Estimate | None:
        prices, parts = self.config.generator.server, []
        if self.config.generator.kind in ("server", "batch"):
            for price, tokens in ((prices.price_in, tokens_in), (prices.price_out, tokens_out)):
                if price is not None:
                    parts.append(tokens * (price / 1e6))
        if self.cluster.gpu_price is not None:
            parts.append(gpu_hours * self.cluster.gpu_price)
        return sum(parts, NOTHING) if parts else None

    def _say(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)
