"""A little of a job, really done, so that the whole can be predicted: the configured data, student and generator."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from gendistill.choosing import check_names
from gendistill.clusters import class_clusters
from gendistill.config import Config
from gendistill.cost.estimate import Estimate
from gendistill.cost.rehearsal import pair_seconds, time_choices
from gendistill.cost.sample import RealRows, Sample, mean_of, share_of
from gendistill.cost.sizes import byte_sizes
from gendistill.cost.watch import Clock, Stopwatch
from gendistill.cost.writing import Asking, ask
from gendistill.errors import ConfigError
from gendistill.evaluate import stratified_sample
from gendistill.examples import Example, by_class
from gendistill.filters import TextFilter
from gendistill.further import FurtherStudent, further_students
from gendistill.inputs import real_side
from gendistill.intake import Judged, texts_of
from gendistill.planning import Reference, token_budget
from gendistill.pool import judge
from gendistill.prepare import prepare
from gendistill.progress import Reporter, Silent
from gendistill.selection import class_budgets
from gendistill.students.encoder import EncoderStudent
from gendistill.teacher import FOLDER, MemoryStore

SAMPLE_ROWS = 256  # real rows that the student looks at, at most
TARGETS = 128  # of them whose features are computed at every checkpoint
TEACHER_STEPS = 8  # of its training, the first of which is not counted
FEW = 16  # texts that passed; of fewer the speed is taken from real rows
ASSUMED_LOOKED_AT, ASSUMED_KEPT = Estimate(0.85, 0.08), Estimate(0.7, 0.15)  # of a generator that wrote nothing yet
EACH_REQUEST = 1000  # bytes of a planned request in memory, beside its share of a prompt


def measure_sample(config: Config, reporter: Reporter | None = None, clock: Clock = time.perf_counter) -> Sample:
    """Do a little of the job and time it: under a minute for the demo on two cores.

    Reads the real data, embeds some of it, begins to train a teacher, asks the generator for a few requests planned as
    the first round plans them, judges what it wrote, and makes the configured choice among synthetic candidates. A
    generator that cannot be reached is assumed, and the sample says so. Nothing is written but into a temporary folder.

    :param clock: in seconds; ``time.process_time`` where other work shares the machine.
    :raises ConfigError: settings that do not go together, or of a kind that is not planned.
    :raises GendistillError: data or models that cannot be loaded.
    """
    check_plannable(config)
    check_names(config)
    began = clock()
    watch = Stopwatch(reporter or Silent(), clock)
    steps = max(TEACHER_STEPS, config.student.checkpoints - 1)
    small = config.model_copy(
        update={
            "student": config.student.model_copy(update={"steps": steps, "epochs": 0.0}),
            "objective": config.objective.model_copy(update={"target_rows_per_class": 1}),
        }
    )
    prepared = prepare(small, MemoryStore(), watch)
    real, teacher, student = prepared.real, prepared.teacher, prepared.student
    assert isinstance(student, EncoderStudent)  # instructions are not planned
    classes = len(real.label_names)
    known = [*real.train, *real.target]
    text_filter = TextFilter(config.filters, known, extra=prepared.task.checks(known))
    start_s = clock() - began

    each = max(1, TARGETS // classes)
    small.objective.target_rows_per_class = each
    few = stratified_sample(real.aim, classes, SAMPLE_ROWS, config.seed)
    teacher.real = few
    side = real_side(small, replace(real, train=few, target=[]), teacher)
    embed_row_s, target_row_s = watch.row_s("features of real"), watch.row_s("features of target")
    training = watch.steps[f"train {FOLDER}"]

    asked = clock()
    others = further_students(small, side, few, real.dev[:1], MemoryStore(), watch)
    further_real_row_s = (clock() - asked) / len(few)

    count = max(config.generator.exemplars, config.per_class, 2)
    embeddings, labels = side.embeddings.numpy(), side.labels.numpy()
    clusters = class_clusters(embeddings, labels, classes, count, config.seed)
    reference = Reference(side.examples, embeddings, labels, clusters)
    budget = token_budget(config, real.aim)
    asking = ask(config, prepared.task, reference, budget, watch, clock)

    began_reading = clock()
    judged: list[Judged] = []
    for p, reply in asking.replies:
        judged += texts_of(p, budget.whole(reply), prepared.task, asking.chat, text_filter, 1, asking.name)
    read_row_s = (clock() - began_reading) / len(asking.replies)
    result = judge(
        config.filters,
        [candidate.example for candidate, _ in judged],
        [verdict for _, verdict in judged],
        teacher,
        "sample",
        real_embeddings=embeddings,
        label_names=real.label_names,
    )
    looked_at, kept = _shares(asking, judged, set(result.kept))
    passed = [candidate.example for candidate, verdict in judged if verdict is None]
    look_row_s = watch.row_s("features of sample") if len(passed) >= FEW else embed_row_s + target_row_s
    further_row_s = _see(others, passed or few[:FEW], clock)

    counts = [len(members) for members in by_class(real.aim, classes)]
    budgets = class_budgets(counts, config.per_class, config.selection.budget)
    return Sample(
        device=_device(student),
        on_gpu=student.device.type == "cuda",
        generator=asking.name,
        remote=asking.remote,
        classes=classes,
        rows=RealRows(len(real.train), len(real.dev), len(real.test), len(real.aim)),
        written=asking.written,
        looked_at=looked_at,
        kept=kept,
        sizes=byte_sizes(config, asking.planned, asking.replies, judged, side),
        start_s=start_s,
        step_s=mean_of(training).value,
        embed_row_s=embed_row_s,
        target_row_s=target_row_s,
        look_row_s=look_row_s,
        read_row_s=read_row_s,
        further_real_row_s=further_real_row_s,
        further_row_s=further_row_s,
        choices=time_choices(config, side, others, real, budgets, watch, clock),
        pair_s=pair_seconds(config, side, clock),
        memory=_peak_memory(),
        request_memory=EACH_REQUEST + asking.prompt_bytes / config.generator.samples_per_prompt,
        took_s=clock() - began,
        assumed=tuple(asking.assumed),
    )


def check_plannable(config: Config) -> None:
    """:raises ConfigError: a kind of run whose cost is not modelled."""
    if config.private:
        raise ConfigError(
            "plan: the cost of a private run is not modelled; leave privacy.epsilon out to plan one without"
        )
    if config.data.task == "instruction":
        raise ConfigError(
            "plan: the cost of a run on instructions is not modelled; there are texts and pairs with labels"
        )


def _shares(asking: Asking, judged: Sequence[Judged], kept: set[int]) -> tuple[Estimate, Estimate]:
    """Candidates a request that pass the filters on text, and that pass every filter."""
    if not asking.measured:
        return ASSUMED_LOOKED_AT, ASSUMED_KEPT
    prompts = [p.parents for p, _ in asking.replies]
    place = {p.request.id: index for index, (p, _) in enumerate(asking.replies)}
    passed, through = [0.0] * len(prompts), [0.0] * len(prompts)
    for row, (candidate, verdict) in enumerate(judged):
        passed[place[candidate.request_id]] += verdict is None
        through[place[candidate.request_id]] += row in kept
    return _share(passed, prompts), _share(through, prompts)


def _share(counts: Sequence[float], prompts: Sequence[object]) -> Estimate:
    """A mean of counts that are mostly 0 or 1, whose error is not nought where all are alike."""
    mean = mean_of(counts, prompts)
    least = share_of(min(round(sum(counts)), len(counts)), len(counts))
    return Estimate(mean.value, max(mean.error, least.error))


def _see(others: Sequence[FurtherStudent], rows: Sequence[Example], clock: Clock) -> float:
    """Seconds a row that further students take to look at candidates."""
    began = clock()
    for other in others:
        other.see("sample", rows)
    return (clock() - began) / len(rows)


def _device(student: EncoderStudent) -> str:
    if student.device.type == "cuda":
        return torch.cuda.get_device_name(student.device)
    return f"{torch.get_num_threads()} threads of a CPU"


def _peak_memory() -> float:
    """Bytes that this process has taken at most so far; 0 where the system does not say."""
    with contextlib.suppress(ImportError):
        import resource
        import sys

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1.0 if sys.platform == "darwin" else 1024.0)
    return 0.0
