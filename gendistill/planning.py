"""What to ask the generator for in a round: prompts with exemplars, a seed for each request."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from gendistill.clusters import Clusters, draw_exemplars, gap_weights
from gendistill.config import Config
from gendistill.examples import CONVERSATION_FIELDS, Example, content_hash
from gendistill.generators.base import Lesson, Reply, Request
from gendistill.prompts import load_template, render, render_messages
from gendistill.store import Planned

if TYPE_CHECKING:
    from gendistill.tasks import Task

_SENTENCE_END = re.compile(r"[.!?\u3002\uff01\uff1f\u0964][\"'\u201d\u2019)\]]*(?=\s|\Z|[^\x00-\x7f])")
BYTES_PER_TOKEN = 4.0  # UTF-8; English has about 4.5 with the tokenizers of today's models
TOP_UP_FACTOR = 4  # a class that is short is not asked for more than this many times its shortfall at once
BEST_SHOWN = 2  # chosen candidates shown beside the real exemplars in later rounds
PRIVATE_SHOWN = 4  # the same in a private run, which shows no real ones


@dataclass(frozen=True)
class Reference:
    """Real rows that prompts and comparisons draw on, with their embeddings and clusters."""

    examples: list[Example]
    embeddings: np.ndarray  # (m, d) float32, rows of length 1
    labels: np.ndarray  # (m,) int64
    clusters: Clusters


@dataclass(frozen=True)
class Chosen:
    """The choice of the round before."""

    examples: list[Example]
    embeddings: np.ndarray  # (k, d) float32, rows of length 1


@dataclass(frozen=True)
class TokenBudget:
    """How many tokens a text may take, and whether that is less than the real texts need.

    If it is, prompts show the beginnings of real texts, whole sentences that fit, and a text that was stopped at the
    limit keeps its whole sentences.
    """

    tokens: int
    short: bool = False

    def fit(self, example: Example) -> Example:
        """The example, each of its texts no longer than the budget."""
        if not self.short:
            return example
        size = int(self.tokens * BYTES_PER_TOKEN)
        return Example(tuple(whole_sentences(text, size) or text[:size] for text in example.fields), example.label)

    def whole(self, reply: Reply) -> Reply:
        """The reply; if it was stopped at the limit, its whole sentences."""
        if not self.short or reply.finish_reason != "length" or not (kept := whole_sentences(reply.text)):
            return reply
        return replace(reply, text=kept, finish_reason="stop")


def token_budget(config: Config, real: Sequence[Example]) -> TokenBudget:
    """What is configured, or what all but the longest real texts need."""
    needed = learnt_max_tokens(real, config.filters.max_length_quantile)
    given = config.generator.max_new_tokens
    return TokenBudget(given or needed, given is not None and given < needed)


def whole_sentences(text: str, size: int | None = None) -> str:
    """The sentences of a text that end within its first ``size`` bytes; empty if none does."""
    if size is not None:
        if len(text.encode("utf-8", "replace")) <= size:
            return text
        text = text.encode("utf-8", "replace")[:size].decode("utf-8", "ignore")
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]] if ends else ""


def plan_lessons(config: Config, task: Task, reference: Reference, *, chat: bool, budget: TokenBudget) -> list[Lesson]:
    """Prompts as a run has them, each with a real row of its class for a reply; the classes in turn.

    No more than ``generator.tune`` takes. A row is not shown in its own prompt.
    """
    settings = config.generator
    template = load_template(settings.template or f"{task.name}.{'chat' if chat else 'base'}")
    count = settings.exemplars
    rng = np.random.default_rng([config.seed, 13])
    rows = [rng.permutation(np.flatnonzero(reference.labels == label)) for label in range(len(task.label_names))]
    lessons = []
    for number in range(settings.tune.steps * settings.tune.batch_size):
        turn, label = divmod(number, len(rows))
        row = int(rows[label][turn % len(rows[label])])
        shown = [other for other in draw_exemplars(reference.clusters, label, count + 1, rng) if other != row][:count]
        values = task.prompt_values(label, [budget.fit(reference.examples[other]) for other in shown])
        prompt = None if chat else render(template, **values)
        messages = render_messages(template, **values) if chat else None
        lessons.append(Lesson(prompt, messages, task.answer(budget.fit(reference.examples[row]), chat)))
    return lessons


def requests_per_class(
    config: Config, round: int, budgets: Sequence[int], kept: Sequence[int], asked: Sequence[int]
) -> list[int]:
    """How many candidates to ask for of each class.

    Rounds up to ``config.rounds`` share ``candidates_per_class`` evenly; a later one (a top-up) asks only for classes
    that have fewer than their budget in the pool, in proportion to how many of theirs were turned away so far.
    """
    if round <= config.rounds:
        rounds = config.rounds
        # As many for each text of the budget, whatever the class's budget is
        totals = [math.ceil(config.generator.candidates_per_class * own / config.per_class) for own in budgets]
        return [total * round // rounds - total * (round - 1) // rounds for total in totals]
    counts = []
    for budget, have, tried in zip(budgets, kept, asked, strict=True):
        short = budget - have
        needed = math.ceil(short * max(tried, 1) / max(have, 1))
        counts.append(0 if short <= 0 else min(max(needed, short), TOP_UP_FACTOR * budget))
    return counts


def learnt_max_tokens(real: Sequence[Example], quantile: float) -> int:
    """A token budget that fits all but the longest real texts, from their length in bytes."""
    # Of a conversation a generator writes one turn and its answer, between headings
    texts = [
        "\n### Response:\n".join(row.fields[1:3]) if len(row.fields) >= CONVERSATION_FIELDS else row.text
        for row in real
    ]
    lengths = [len(text.encode("utf-8", "replace")) for text in texts]
    return math.ceil(float(np.quantile(lengths, quantile)) / BYTES_PER_TOKEN) + 8


@dataclass(frozen=True)
class RoundPlan:
    """The requests of a round, as a function of these values alone, so that a resumed run asks the same things, and
    any process can say what a part of the round is.

    A *group* is the requests that share a prompt; groups are counted from 0, class by class.

    :param counts: requests for each class.
    :param chosen: the choice so far; exemplars then come from the real clusters that it covers worst, and the best
        candidates are shown beside them.
    :param extra_tokens: that a text takes beyond the budget, for what stands around it.
    """

    config: Config
    task: Task
    reference: Reference
    chosen: Chosen | None
    counts: Sequence[int]
    _: KW_ONLY
    round: int
    chat: bool
    generator_name: str
    budget: TokenBudget
    extra_tokens: int = 0

    @property
    def size(self) -> int:
        """Requests in all."""
        return sum(self.counts)

    @property
    def groups(self) -> int:
        return sum(self._groups_of(count) for count in self.counts)

    def _groups_of(self, count: int) -> int:
        return math.ceil(count / self.config.generator.samples_per_prompt)

    def requests(self, groups: range | None = None) -> list[Planned]:
        """Those of some groups, or all."""
        config, settings, size = self.config, self.config.generator, self.config.generator.samples_per_prompt
        template_name = f"{self.task.name}.{'chat' if self.chat else 'base'}"
        template = load_template(settings.template or template_name)
        planned: list[Planned] = []
        most_shown = PRIVATE_SHOWN if config.private else min(BEST_SHOWN, settings.exemplars // 2)
        first = position = 0  # of the class: its first group, its first request
        for label, count in enumerate(self.counts):
            own = range(self._groups_of(count))
            if groups is not None:
                own = own[max(0, groups.start - first) : max(0, groups.stop - first)]
            weights, best_pool = None, []
            if own and self.chosen is not None:
                labels = np.array([example.label for example in self.chosen.examples])
                weights = gap_weights(
                    self.reference.clusters, self.reference.embeddings, self.chosen.embeddings, labels, label
                )
                best_pool = [example for example in self.chosen.examples if example.label == label]
            for group in own:
                rng = np.random.default_rng([config.seed, self.round, label, group])
                shown = min(most_shown, len(best_pool))
                rows = draw_exemplars(self.reference.clusters, label, settings.exemplars - shown, rng, weights)
                exemplars = [self.reference.examples[row] for row in rows]
                best = [best_pool[i] for i in rng.permutation(len(best_pool))[:shown]]
                values = self.task.prompt_values(label, list(map(self.budget.fit, exemplars)), best)
                prompt = None if self.chat else render(template, **values)
                messages = render_messages(template, **values) if self.chat else None
                parents = tuple(example.id for example in [*exemplars, *best])
                for sample in range(min(size, count - group * size)):
                    seed = int(rng.integers(2**62))
                    identity = content_hash(
                        self.generator_name, prompt, messages, seed, self.round, label, group, sample
                    )
                    planned.append(
                        Planned(
                            Request(
                                id=identity,
                                prompt=prompt,
                                messages=messages,
                                seed=seed,
                                max_new_tokens=self.budget.tokens + self.extra_tokens,
                                temperature=settings.temperature,
                                top_k=settings.top_k,
                                top_p=settings.top_p,
                                stop=self.task.stop(self.chat),
                                json_keys=self.task.json_keys,
                            ),
                            label=label,
                            position=position + group * size + sample,
                            template=str(settings.template or template_name),
                            parents=parents,
                        )
                    )
            first += self._groups_of(count)
            position += count
        return planned
