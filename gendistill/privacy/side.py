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
from gendistill.filters import TextFilter, fold
from gendistill.inputs import RealSide
from gendistill.planning import TokenBudget
from gendistill.privacy.accounting import noise_multiplier
from gendistill.privacy.checks import check_data
from gendistill.privacy.model import class_model, usual_lengths
from gendistill.privacy.release import SHARES, Noise, Sums, exact_sums, noised, sizes
from gendistill.privacy.statement import statement
from gendistill.privacy.teacher import PrivateTeacher
from gendistill.progress import Reporter
from gendistill.selection import class_budgets
from gendistill.selection.portfolio import Rows
from gendistill.students.encoder import FEATURE_SCALE, EncoderStudent
from gendistill.students.probe import fit_probe

if TYPE_CHECKING:
    from gendistill.config import Config
    from gendistill.prepare import Prepared
    from gendistill.store import Store

RELEASE = "private release"  # of the store
RECORD = "privacy.json"  # of the run directory
HELD = 2000  # stand-ins that judge the sets of a portfolio
TOKENS_PER_UNIT = 2  # of a text, at most; an English word has 1.3


class PrivateSide:
    """What takes the real rows' place, and what is said of it.

    The release is made once and journalled before anything is done with it: a resumed run finds it and spends nothing.

    :raises DataError: rows of a shape that the release is not made for.
    """

    def __init__(self, config: Config, prepared: Prepared, store: Store, reporter: Reporter) -> None:
        self.config, self.store = config, store
        self.classes = len(prepared.real.label_names)
        check_data(prepared.real)
        released = self._released(prepared, reporter)
        noise = Noise.of(self.journal["multiplier"])
        model = class_model(released, noise)
        if (rows := int(model.counts.sum())) * config.privacy.delta >= 1 and config.privacy.epsilon != "inf":
            reporter.say(
                f"privacy.delta {config.privacy.delta:g} is not below 1 over the {rows:,} rows, or about; lower it"
            )
        self.real, self.teacher = self._stand_ins(model.stand_ins, prepared, reporter)
        held, labels = model.stand_ins(-(-HELD // self.classes), [config.seed, 31])
        self.held = Held(Rows((torch.from_numpy(held),), torch.from_numpy(labels)), _no_rollout)
        least, most = usual_lengths(released, noise)
        self.text_filter = TextFilter(config.filters, [], lengths=(least, most))
        self.budget = TokenBudget(config.generator.max_new_tokens or TOKENS_PER_UNIT * most + 8)
        store.write(RECORD, json.dumps(self.record, indent=2) + "\n")

    @property
    def record(self) -> dict[str, Any]:
        """What was spent on what, and the statement; JSON-able, without the noised numbers."""
        known = {key: value for key, value in self.journal.items() if key != "values"}
        return {
            **known,
            "shares": SHARES,
            "releases": 1,
            "statement": statement(self.config.privacy, known["multiplier"]),
        }

    def _released(self, prepared: Prepared, reporter: Reporter) -> Sums:
        """The noised sums: those of the journal, or new ones."""
        privacy, known = self.config.privacy, self.store.meta(RELEASE)
        if known is None:
            multiplier = noise_multiplier(privacy.epsilon or "inf", privacy.delta)
            rows = [*prepared.real.train, *prepared.real.dev]
            embeddings = prepared.teacher.embeddings("real", rows).numpy()
            lengths = [len(fold(row.text)) for row in rows]
            exact = exact_sums(embeddings, [row.label for row in rows], lengths, self.classes)
            released = noised(exact, multiplier, privacy.seed)
            known = {
                "epsilon": privacy.epsilon,
                "delta": privacy.delta,
                "multiplier": multiplier,
                "seeded": privacy.seed is not None,
                "width": embeddings.shape[1],
                "values": base64.b64encode(released.vector.tobytes()).decode(),
            }
            self.store.remember(RELEASE, known)
            reporter.say(
                f"private: epsilon {privacy.epsilon}, delta {privacy.delta:g}; one release with noise of "
                f"{multiplier:.3f} times its sensitivity"
            )
        self.journal = known
        vector = np.frombuffer(base64.b64decode(known["values"]))
        assert len(vector) == sum(sizes(known["width"], self.classes))  # as it was written
        return Sums.of_vector(vector, known["width"], self.classes)

    def _stand_ins(self, draw: Any, prepared: Prepared, reporter: Reporter) -> tuple[RealSide, PrivateTeacher]:
        """Stand-ins for the reference rows, and a teacher whose head is fitted on them."""
        config = self.config
        per_class = max(config.data.max_reference_rows // self.classes, 1)
        rows, classes = draw(per_class, [config.seed, 29])
        embeddings, labels = torch.from_numpy(rows), torch.from_numpy(classes)
        student = prepared.student
        assert isinstance(student, EncoderStudent)  # as check_private has seen to
        sample = torch.randperm(len(labels), generator=torch.Generator().manual_seed(config.seed))
        sample = sample[: config.student.probe_rows].sort().values
        head = fit_probe(FEATURE_SCALE * embeddings[sample], labels[sample], self.classes)
        teacher = PrivateTeacher(config.student, student, self.store, reporter, config.seed, head)
        targets = _targets(labels, self.classes, config.objective.target_rows_per_class)
        budgets = class_budgets([per_class] * self.classes, config.per_class, config.selection.budget)
        features = [teacher.seen(embeddings[targets])]
        return RealSide([], labels, embeddings, targets, features, (), self.classes, budgets), teacher


def _targets(labels: Tensor, classes: int, limit: int) -> list[int]:
    """The first ``limit`` stand-ins of each class: they are draws anyway."""
    return [row for label in range(classes) for row in torch.nonzero(labels == label).flatten()[:limit].tolist()]


def _no_rollout(chosen: Sequence[int], seed: int) -> Tensor:
    raise AssertionError("finalists are refused in a private run")
