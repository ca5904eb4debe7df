"""How candidates are gathered: a round's requests, the replies to them, and what of those the filters keep.

``Gathering`` works in this process, ``engines.sharded`` spreads the work; to the loop they are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gendistill.config import Config, TuneConfig
from gendistill.data import RealData
from gendistill.data.copies import copies_of_all
from gendistill.data.sources import Run, tracked
from gendistill.errors import GenerationError
from gendistill.examples import Candidate, by_class
from gendistill.filters import FilterReport, Rejection, TextFilter
from gendistill.further import FurtherStudent
from gendistill.generators import Generator, arrivals, build_generator
from gendistill.generators.meter import Meter
from gendistill.intake import Intake
from gendistill.near_duplicates import Search, search_here
from gendistill.planning import Chosen, Reference, RoundPlan, TokenBudget, plan_lessons
from gendistill.pool import GarbageWatch, Judgement, Pool, judge
from gendistill.progress import Reporter
from gendistill.store import Judged, Planned, Store
from gendistill.tasks import Task
from gendistill.teacher import Teacher

ADAPTER = "adapter"  # folder of a tuned generator's
JSON_TOKENS = 24  # that a text takes more of inside an object, escapes included


@dataclass(frozen=True)
class Gathered:
    """What a round brought."""

    asked: int
    replies: int  # texts that came, turned away or not
    kept: int


@dataclass
class Gathering:
    """The candidates of a run so far, and what adds to them.

    :param real: the real data, of which candidates must not be copies.
    :param reference: real rows that prompts show and candidates are compared with.
    :param others: further students, who look at every candidate that is kept.
    """

    config: Config
    store: Store
    reporter: Reporter
    generator: Generator
    chat: bool
    task: Task
    teacher: Teacher
    text_filter: TextFilter
    budget: TokenBudget
    reference: Reference
    real: RealData
    others: list[FurtherStudent]
    run: Run  # works through the shards of the real data

    def __post_init__(self) -> None:
        self.pool, self.report = Pool(), FilterReport()
        self.asked = [0] * len(self.real.label_names)
        self.start: list[int] = []  # of the pool, a choice that was made on the way to it
        self._tuned = False

    def round(self, number: int, counts: Sequence[int], chosen: Chosen | None) -> Gathered:
        """Ask for so many candidates of each class, and add to the pool what passes.

        :param chosen: the choice of the round before.
        :raises GenerationError: the generator gives nothing usable, or stopped; what came is kept.
        """
        planned = self.plan(number, counts, chosen).requests()
        self.store.plan(number, planned)
        intake = self._generate(number, planned)
        kept, replies = self._judge(intake.finish(), intake.name)
        return Gathered(len(planned), replies, kept)

    def close(self) -> None:
        """The run has ended: what only it needed can go."""

    def kept_per_class(self) -> list[int]:
        return [len(members) for members in by_class(self.pool.examples, len(self.real.label_names))]

    def plan(self, number: int, counts: Sequence[int], chosen: Chosen | None) -> RoundPlan:
        """What the round asks for; counts towards ``asked``."""
        self.asked = [asked + count for asked, count in zip(self.asked, counts, strict=True)]
        return RoundPlan(
            self.config,
            self.task,
            self.reference,
            chosen,
            counts,
            round=number,
            chat=self.chat,
            generator_name=self.generator.name,
            budget=self.budget,
            extra_tokens=JSON_TOKENS if self.config.generator.structured else 0,
        )

    def tuned(self) -> Generator:
        """The generator with its adapter, which is tuned now if this run has none yet."""
        settings = self.config.generator
        if settings.tune.steps and not self._tuned:
            from gendistill.generators.tuning import tune

            folder = self.store.saved_folder(ADAPTER)
            if folder is None:
                from gendistill.generators.transformers import TransformersGenerator

                assert isinstance(self.generator, TransformersGenerator)  # the one kind that there is
                lessons = plan_lessons(self.config, self.task, self.reference, chat=self.chat, budget=self.budget)
                with self.reporter.track("tune generator", settings.tune.steps) as advance:
                    save = tune(
                        self.generator,
                        lessons,
                        settings.tune,
                        seed=self.config.seed,
                        progress=lambda done, total: advance(done),
                    )
                self.store.save_folder(ADAPTER, save)
                folder = self.store.folder / ADAPTER
            plain = settings.model_copy(update={"tune": TuneConfig(), "mode": "chat" if self.chat else "base"})
            name = self.generator.name
            self.generator = build_generator(plain.model_copy(update={"adapter": str(folder)}))
            self.generator.name, self._tuned = name, True
        return self.generator

    def _generate(self, number: int, planned: Sequence[Planned]) -> Intake:
        """Ask for what the journal does not hold yet."""
        missing = self.store.missing(planned)
        done = len(planned) - len(missing)
        if missing and self.config.generator.kind == "batch":
            raise GenerationError(
                f"{len(missing)} requests wait for their replies: write them with 'gendistill batch export-requests "
                f"{self.config.out} -o requests.jsonl', bring the answers in with 'gendistill batch import-replies', "
                "and run the same command again"
            )
        generator = self.tuned() if missing else self.generator
        watch = GarbageWatch(self.task, self.text_filter.fresh(), self.chat, self.budget.whole)
        intake = Intake(
            self.store,
            planned,
            self.task,
            self.chat,
            self.text_filter,
            self.teacher,
            round=number,
            generator_name=self.generator.name,
            whole=self.budget.whole,
        )
        labels = {p.request.id: p.label for p in planned}
        if missing and getattr(generator, "remote", False):
            self.teacher.prepare()
            intake.start()
        try:
            with self.reporter.track(f"generate {number}", len(planned), done=done) as advance:
                for p, reply in self.store.replies(planned):
                    watch.see(p.label, reply)
                    intake.came([reply])
                watch.check()
                if not missing:
                    return intake
                meter = Meter(generator, self.config.generator.server, self.store)
                try:
                    for replies in arrivals(generator, missing):
                        self.store.add_replies(replies)
                        done += len(replies)
                        advance(done, meter.line(replies))
                        intake.came(replies)
                        for reply in replies:
                            watch.see(labels[reply.request_id], reply)
                        for notice in meter.notices():
                            self.reporter.say(notice)
                        watch.check()
                finally:
                    meter.keep()
        except BaseException as error:
            intake.stop()
            if isinstance(error, GenerationError):
                self._judge_text_only(intake)
            raise
        return intake

    def _judge_text_only(self, intake: Intake) -> None:
        """Keep what a failing generator wrote, with the reasons, for the user to look at."""
        judged = intake.finish()
        self.store.add_candidates([Judged(c, v.filter if v else None, v.reason if v else None, {}) for c, v in judged])

    def _judge(
        self, judged: Sequence[tuple[Candidate, Rejection | None]], name: str, *, counted: bool = True
    ) -> tuple[int, int]:
        """Filter a round's texts by their features and add those that pass to the pool; returns (kept, seen).

        :param judged: every candidate, with the verdict of the filters on text.
        :param name: of its features.
        :param counted: False where the report has them already.
        """
        result = judge(
            self.config.filters,
            [candidate.example for candidate, _ in judged],
            [verdict for _, verdict in judged],
            self.teacher,
            name,
            real_embeddings=self.reference.embeddings[:0] if self.config.private else self.reference.embeddings,
            label_names=self.real.label_names,
            kept_embeddings=self.pool.embeddings.numpy() if self.pool.candidates else None,
            search=self._search(),
        )
        result = self._without_copies(judged, result)
        verdicts = result.verdicts
        if result.features:
            kept = [judged[row][0] for row in result.kept]
            self.pool.extend(kept, [result.scores[row] for row in result.kept], result.embeddings, result.features)
            for other in self.others:
                other.see(name, [candidate.example for candidate in kept])
        for (candidate, _), verdict in zip(judged, verdicts, strict=True) if counted else ():
            self.report.add(candidate.example.text, verdict)
        self.store.add_candidates(
            [
                Judged(candidate, v.filter if v else None, v.reason if v else None, s)
                for (candidate, _), v, s in zip(judged, verdicts, result.scores, strict=True)
            ]
        )
        return sum(v is None for v in verdicts), len(judged)

    def _search(self) -> Search:
        return search_here

    def _without_copies(self, judged: Sequence[tuple[Candidate, Rejection | None]], result: Judgement) -> Judgement:
        """Of real rows that are not held: only what passed everything else is looked for in all of them."""
        examples = [judged[row][0].example for row in result.kept]
        copied = copies_of_all(self.config, self.real, examples, tracked(self.reporter, "copies", self.run))
        if not copied:
            return result
        verdicts = list(result.verdicts)
        for row, example in zip(result.kept, examples, strict=True):
            verdicts[row] = copied.get(example.id)
        left = [i for i, example in enumerate(examples) if example.id not in copied]
        features = [part.rows(left) for part in result.features]
        return replace(
            result,
            verdicts=verdicts,
            kept=[result.kept[i] for i in left],
            embeddings=result.embeddings[left],
            features=features,
        )
