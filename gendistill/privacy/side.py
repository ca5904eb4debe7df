"""The real side of a private run: made from the release alone, in the shapes that the rest of a run looks at."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gendistill.choosing import Held
from gendistill.filters import TextFilter
from gendistill.folding import fold
from gendistill.inputs import RealSide
from gendistill.planning import TokenBudget
from gendistill.privacy.accounting import noise_multiplier
from gendistill.privacy.checks import check_data
from gendistill.privacy.model import ClassModel, class_model, usual_lengths
from gendistill.privacy.release import SHARES, Noise, Sums, exact_sums, noised
from gendistill.privacy.statement import statement
from gendistill.privacy.teacher import PrivateTeacher
from gendistill.progress import Reporter
from gendistill.selection.portfolio import Rows
from gendistill.students.encoder import FEATURE_SCALE, EncoderStudent
from gendistill.students.probe import fit_probe
from gendistill.teacher import TeacherStore

if TYPE_CHECKING:
    from gendistill.config import Config
    from gendistill.prepare import Prepared
    from gendistill.store import Store

RELEASE = "private release"  # in the store
RECORD = "privacy.json"  # in the run directory
HELD = 2000  # stand-ins that judge the sets of a portfolio
TOKENS_PER_UNIT = 2  # of a text, at most; an English word has 1.3


class PrivateSide:
    """What takes the real rows' place in a run, and the record of what was spent.

    The release is made once and journalled before anything is done with it: a resumed run finds it and spends nothing.

    :raises DataError: rows of a shape that the release is not made for.
    """

    def __init__(self, config: Config, prepared: Prepared, store: Store, reporter: Reporter) -> None:
        check_data(prepared.real)
        student = prepared.student
        assert isinstance(student, EncoderStudent)  # as check_private has seen to
        known = store.meta(RELEASE)
        if known is None:
            known = _release(config, prepared)
            store.remember(RELEASE, known)
        multiplier, delta = known["multiplier"], config.privacy.delta
        released = Sums.of_vector(
            np.frombuffer(base64.b64decode(known["values"])), known["width"], len(prepared.real.label_names)
        )
        model = class_model(released, Noise.of(multiplier))
        reporter.say(
            f"private: epsilon {config.privacy.epsilon} at delta {delta:g}, by one release with noise of "
            f"{multiplier:.3f} times its sensitivity"
        )
        if (rows := int(model.counts.sum())) * delta >= 1:
            reporter.say(f"privacy.delta {delta:g} is not below 1 over the rows, about {rows:,}: lower it")
        if model.drowned:
            shown = ", ".join(repr(prepared.real.label_names[label]) for label in model.drowned[:5])
            reporter.say(
                f"the noise drowns what tells {len(model.drowned)} of {len(model.means)} classes apart, such as "
                f"{shown}: texts of theirs will be mistaken; more real rows or a larger epsilon help"
            )
        self.real, self.teacher, self.held = stand_in_side(config, model, student, store, reporter)
        least, most = usual_lengths(released, Noise.of(multiplier))
        self.text_filter = TextFilter(config.filters, [], lengths=(least, most))
        self.budget = TokenBudget(config.generator.max_new_tokens or TOKENS_PER_UNIT * most + 8)
        self.statement = statement(config.privacy, multiplier)
        record = {**known, "shares": SHARES, "releases": 1, "statement": self.statement}
        del record["values"]
        store.write(RECORD, json.dumps(record, indent=2) + "\n")


def _release(config: Config, prepared: Prepared) -> dict[str, Any]:
    """The noised sums over all real rows and what they cost, JSON-able. The one place where real rows are looked at."""
    privacy, rows = config.privacy, [*prepared.real.train, *prepared.real.dev]
    multiplier = noise_multiplier(privacy.epsilon or "inf", privacy.delta)
    embeddings = prepared.teacher.embeddings("real", rows).numpy()
    lengths = [len(fold(row.text)) for row in rows]
    exact = exact_sums(embeddings, [row.label for row in rows], lengths, len(prepared.real.label_names))
    released = noised(exact, multiplier, privacy.seed)
    return {
        "epsilon": privacy.epsilon,
        "delta": privacy.delta,
        "multiplier": multiplier,
        "seeded": privacy.seed is not None,
        "width": embeddings.shape[1],
        "values": base64.b64encode(released.vector.tobytes()).decode(),
    }


def stand_in_side(
    config: Config, model: ClassModel, student: EncoderStudent, store: TeacherStore, reporter: Reporter
) -> tuple[RealSide, PrivateTeacher, Held]:
    """Stand-ins for the reference rows, a teacher whose head is fitted on them, and more of them that judge."""
    classes = len(model.means)
    per_class = max(config.data.max_reference_rows // classes, 1)
    embeddings, labels = _drawn(model, per_class, [config.seed, 29])
    sample = torch.randperm(len(labels), generator=torch.Generator().manual_seed(config.seed))
    sample = sample[: config.student.probe_rows].sort().values
    head = fit_probe(FEATURE_SCALE * embeddings[sample], labels[sample], classes)
    teacher = PrivateTeacher(config.student, student, store, reporter, config.seed, head)
    # Any of them: they are draws
    targets = torch.arange(len(labels)) % per_class < config.objective.target_rows_per_class
    rows = torch.nonzero(targets).flatten().tolist()
    features = [teacher.seen(embeddings[rows])]
    side = RealSide([], labels, embeddings, rows, features, (), classes, [config.per_class] * classes)
    held, held_labels = _drawn(model, -(-HELD // classes), [config.seed, 31])
    return side, teacher, Held(Rows((held,), held_labels), _no_rollout, "stand-ins")


def _drawn(model: ClassModel, per_class: int, seed: Sequence[int]) -> tuple[Tensor, Tensor]:
    rows, labels = model.stand_ins(per_class, seed)
    return torch.from_numpy(rows), torch.from_numpy(labels)


def _no_rollout(chosen: Sequence[int], seed: int) -> Tensor:
    raise AssertionError("finalists, who are trained and scored on held-out texts, are refused in a private run")
