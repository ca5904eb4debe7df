"""Measured proof for instruction data: causal LMs tuned on a set, by their loss on real answers that they never saw."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gendistill.answers import number_accuracy
from gendistill.config import EvaluateConfig, StudentConfig
from gendistill.evaluate import Draw, Journal
from gendistill.examples import Example, content_hash
from gendistill.progress import Reporter, Silent

if TYPE_CHECKING:
    from gendistill.students.causal import CausalStudent

UNTRAINED = "not tuned"
MARKED_SHARE = 0.95  # of the test answers that must end in a marked number, as GSM8K's, for exact match to be measured
MARK = "####"
ANSWER_TOKENS = 256  # of an answer that is written to be checked


@dataclass(frozen=True)
class MeasuredAnswers:
    """One row of the table: what the students tuned for a method lose on held-out answers, one a seed."""

    method: str
    size: int  # rows of the training set
    loss: list[float]  # nats per token of the answers
    exact: list[float] | None = None  # share of answers with the right final number, where answers have one

    @property
    def runs(self) -> int:
        return len(self.loss)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.loss)

    @property
    def spread(self) -> float | None:
        """Standard deviation over runs; None for a single run."""
        return statistics.stdev(self.loss) if len(self.loss) > 1 else None


def evaluate_answers(
    methods: Mapping[str, Draw],
    test: Sequence[Example],
    student: CausalStudent,
    recipe: StudentConfig,
    settings: EvaluateConfig,
    *,
    first_seed: int = 0,
    journal: Journal | None = None,
    reporter: Reporter | None = None,
) -> list[MeasuredAnswers]:
    """Tune ``settings.seeds`` students for every method, and one for none; score each on ``test``.

    Run k of every method uses the same seed, so that methods may be compared in pairs. Where the test answers end in a
    marked number, ``settings.exact_match_rows`` of them are also answered, greedily, and compared.

    :param methods: name -> function from the run's number to the training set; an empty set is not trained on.
    """
    reporter = reporter or Silent()
    marked = sum(MARK in example.fields[-1] for example in test) >= MARKED_SHARE * len(test)
    asked = test[: settings.exact_match_rows] if marked else []
    sets = {(name, run): list(draw(run)) for name, draw in methods.items() for run in range(settings.seeds)}
    sets[UNTRAINED, 0] = []
    test_key = content_hash([example.id for example in test], len(asked))
    keys = {
        (name, run): content_hash(recipe.model_dump(), test_key, first_seed + run, [row.id for row in rows])
        for (name, run), rows in sets.items()
    }
    results: dict[tuple[str, int], dict] = {}
    for (name, run), key in keys.items():
        if journal is not None and (known := journal.evaluation(name, run, key)):
            results[name, run] = known
    with reporter.track("measure", len(sets), done=len(results)) as advance:
        # That of no training first: it asks the pretrained model, which is there until a fit.
        for name, run in sorted(sets.keys() - results.keys(), key=lambda item: (item[0] != UNTRAINED, item)):
            rows = sets[name, run]
            if rows:
                student.fit(rows, seed=first_seed + run)
            results[name, run] = _score(student, test, asked, -1 if rows else None)
            if journal is not None:
                journal.add_evaluation(name, run, keys[name, run], results[name, run])
            advance(len(results))
    return [
        MeasuredAnswers(
            name,
            len(sets[name, 0]),
            [results[one]["loss"] for one in sets if one[0] == name],
            [results[one]["exact"] for one in sets if one[0] == name] if asked else None,
        )
        for name in (*methods, UNTRAINED)
        if settings.seeds
    ]


def _score(
    student: CausalStudent, test: Sequence[Example], asked: Sequence[Example], checkpoint: int | None
) -> dict[str, float]:
    losses = student.losses(test, checkpoint=checkpoint)
    scores = {"loss": float(losses[:, 0].sum() / losses[:, 1].sum())}
    if asked:
        written = student.generate([example.fields[:-1] for example in asked], ANSWER_TOKENS, checkpoint=checkpoint)
        scores["exact"] = number_accuracy(written, [example.fields[-1] for example in asked])
    return scores
