"""What privacy costs: students trained on sets that a private run chose, by epsilon, beside other choices of one pool.

    python scripts/privacy_quality.py pool       # candidates: one private run a dataset, by the built-in generator
    python scripts/privacy_quality.py choose     # sets by every method, each judged by a probe on frozen embeddings
    python scripts/privacy_quality.py train      # the same sets by students fine-tuned whole, or with --student tfidf
    python scripts/privacy_quality.py table      # Markdown

A dataset's candidates are those of one run at epsilon 4 that passed the filters on text. Set s of every method is
chosen from 0.8 of them drawn by seed s; a private method's noise is drawn anew with it. Test rows are looked at by the
measured students alone. Every step can be stopped and started again: what is in the results file is not done twice.

``random`` takes candidates as they came, which is what no look at real rows gives (epsilon 0). ``votes`` is the
mechanism of Aug-PE (Xie et al. 2024, arXiv 2403.01749) instead of ours: each real row votes for the nearest candidate
of its class, the histogram gets the noise, and the best-voted are taken. ``not private`` has real rows
where a private run has stand-ins.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from gendistill import Config
from gendistill.choosing import Held, choose, held_out
from gendistill.data import load_real
from gendistill.evaluate import random_rows, stratified_sample
from gendistill.examples import Example, by_class
from gendistill.filters import feature_filter
from gendistill.folder_store import FolderStore
from gendistill.folding import fold
from gendistill.inputs import RealSide, objective_inputs
from gendistill.privacy.accounting import noise_multiplier
from gendistill.privacy.model import class_model
from gendistill.privacy.release import Noise, Sums, exact_sums, noised
from gendistill.privacy.side import stand_in_side
from gendistill.privacy.teacher import PrivateTeacher
from gendistill.progress import Silent
from gendistill.selection.diversity import Diversity
from gendistill.students import build_student
from gendistill.students.base import Features
from gendistill.students.encoder import FEATURE_SCALE, EncoderStudent
from gendistill.students.probe import fit_probe
from gendistill.teacher import Teacher

Epsilon = float | Literal["inf"]
DELTA, SHARE = 1e-6, 0.8
EPSILONS: tuple[Epsilon, ...] = (0.1, 1.0, 4.0, 8.0, "inf")
TASKS: dict[str, dict[str, Any]] = {
    "ag_news": {
        "description": "short news items from a wire agency",
        "label_descriptions": {
            "World": "international politics, war, diplomacy",
            "Sports": "games, players, teams",
            "Business": "companies, markets, the economy",
            "Sci/Tech": "science, computers, the internet",
        },
    },
    "sst2_sentence": {
        "description": "sentences from film reviews",
        "label_descriptions": {"negative": "the critic dislikes the film", "positive": "the critic likes the film"},
    },
    "trec": {
        "description": "questions that people ask about facts, each on one line",
        "label_descriptions": {
            "ABBR": "asks what an abbreviation stands for",
            "DESC": "asks for a description, a definition or a reason",
            "ENTY": "asks for a thing: an animal, a product, a word, a sport",
            "HUM": "asks for a person or a group",
            "LOC": "asks for a place",
            "NUM": "asks for a number, a date or an amount",
        },
    },
}
CANDIDATES = {"ag_news": 120, "sst2_sentence": 200, "trec": 120}  # a class, over two rounds


def config_of(name: str, args: argparse.Namespace, per_class: int = 10, epsilon: Epsilon | None = 4.0) -> Config:
    folder = args.data_dir / name
    return Config(
        out=str(args.out / "runs" / name),
        per_class=per_class,
        data={**TASKS[name], "dataset": str(folder / "train.jsonl.gz"), "test": str(folder / "test.jsonl.gz")},
        student={"max_tokens": 64},
        generator={"candidates_per_class": CANDIDATES[name]},
        objective={"students": []},
        evaluate={"seeds": 0},
        privacy={} if epsilon is None else {"epsilon": epsilon, "delta": DELTA},
    )


def make_pool(args: argparse.Namespace) -> None:
    from rich.console import Console

    from gendistill import distill
    from gendistill.cli.terminal import TerminalReporter

    for name in args.datasets:
        distill(config_of(name, args), reporter=TerminalReporter(Console()))


@dataclass
class Rows:
    """A dataset's rows and candidates with their embeddings, kept in a folder."""

    name: str
    args: argparse.Namespace

    def __post_init__(self) -> None:
        self.config = config_of(self.name, self.args, epsilon=None)
        self.real = load_real(self.config.data, per_class=1, seed=0, by_row=True)
        self.classes = len(self.real.label_names)
        self.test = stratified_sample(self.real.test, self.classes, self.args.max_test_rows, 0)
        folder = self.args.out / "features" / self.name
        (folder / "features").mkdir(parents=True, exist_ok=True)
        self.student = EncoderStudent(self.config.student, self.classes)
        self.tfidf = build_student(self.config.student.model_copy(update={"model": "tfidf"}), self.classes)
        self.teacher = Teacher(self.config.student, self.student, self.real.train, FolderStore(folder), Silent(), 0)
        with sqlite3.connect(f"file:{self.config.out / 'run.db'}?mode=ro", uri=True) as db:
            found = db.execute(
                "SELECT c.fields, c.label FROM candidates c JOIN requests r ON r.id = c.request_id WHERE c.filter IS "
                "NULL OR c.filter IN ('wrong_label', 'near_duplicate') ORDER BY r.round, r.position, c.position"
            ).fetchall()
        self.candidates = [Example(tuple(json.loads(fields)), label) for fields, label in found]

    @cached_property
    def exact(self) -> Sums:
        rows = [*self.real.train, *self.real.dev]
        embeddings = self.teacher.embeddings("everything", rows).numpy()
        return exact_sums(embeddings, [row.label for row in rows], [len(fold(row.text)) for row in rows], self.classes)

    def visible(self, number: int) -> list[int]:
        """The candidates of a set's draw, ascending."""
        rng = np.random.default_rng([number, 41])
        groups = by_class(self.candidates, self.classes)
        return sorted(row for own in groups for row in rng.permutation(own)[: round(SHARE * len(own))].tolist())


# -- methods: (rows, candidates in sight, texts a class, number of the set) -> chosen ----------------------------------


def by_chance(rows: Rows, seen: list[int], per_class: int, number: int) -> list[Example]:
    return random_rows([rows.candidates[row] for row in seen], rows.classes, [per_class] * rows.classes, number)


def real_by_chance(rows: Rows, seen: list[int], per_class: int, number: int) -> list[Example]:
    return random_rows(rows.real.train, rows.classes, [per_class] * rows.classes, number)


def private(epsilon: Epsilon, shares: dict[str, float] | None = None) -> Callable[..., list[Example]]:
    def method(rows: Rows, seen: list[int], per_class: int, number: int) -> list[Example]:
        multiplier = noise_multiplier(epsilon, DELTA)
        model = class_model(noised(rows.exact, multiplier, seed=number), Noise.of(multiplier))
        config = config_of(rows.name, rows.args, per_class, epsilon)
        side, teacher, held = stand_in_side(config, model, rows.student, rows.teacher.store, Silent())
        embeddings = rows.teacher.embeddings("candidates", rows.candidates)[seen]
        return _chosen(config, rows, seen, embeddings, [teacher.seen(embeddings)], side, held)

    return method


def not_private(rows: Rows, seen: list[int], per_class: int, number: int) -> list[Example]:
    """With real rows where a private run has stand-ins: for the head that checks labels, the objective, the judging."""
    config = config_of(rows.name, rows.args, per_class, None)
    real, labels = rows.teacher.embeddings("real", rows.real.train), torch.tensor([r.label for r in rows.real.train])
    head = fit_probe(FEATURE_SCALE * real, labels, rows.classes)
    teacher = PrivateTeacher(config.student, rows.student, rows.teacher.store, Silent(), 0, head)
    side = RealSide([], labels, real, [0], [teacher.seen(real[:1])], (), rows.classes, [per_class] * rows.classes)
    dev = [rows.teacher.embeddings("dev", rows.real.dev)]
    held = held_out(config, rows.real.dev, dev, [], rows.classes)
    embeddings = rows.teacher.embeddings("candidates", rows.candidates)[seen]
    return _chosen(config, rows, seen, embeddings, [teacher.seen(embeddings)], side, held)


def votes(epsilon: Epsilon) -> Callable[..., list[Example]]:
    def method(rows: Rows, seen: list[int], per_class: int, number: int) -> list[Example]:
        embeddings = rows.teacher.embeddings("candidates", rows.candidates)[seen]
        labels = torch.tensor([rows.candidates[row].label for row in seen])
        real = [*rows.real.train, *rows.real.dev]
        points, of_class = rows.teacher.embeddings("everything", real), torch.tensor([row.label for row in real])
        cosines = (points @ embeddings.T).masked_fill(of_class[:, None] != labels, -2.0)
        histogram = torch.bincount(cosines.argmax(1), minlength=len(seen)).double()
        noise = np.random.default_rng([number, 43]).standard_normal(len(seen))
        histogram += noise_multiplier(epsilon, DELTA) * torch.from_numpy(noise)
        diversity = Diversity(embeddings, labels, rows.config.selection.min_distance)
        chosen: list[int] = []
        for label in range(rows.classes):
            own: list[int] = []
            for row in histogram.masked_fill(labels != label, -torch.inf).argsort(descending=True).tolist():
                if len(own) < per_class and labels[row] == label and bool(diversity.allowed(own)[row]):
                    own.append(row)
            chosen += own
        return [rows.candidates[seen[row]] for row in chosen]

    return method


def _chosen(
    config: Config,
    rows: Rows,
    seen: list[int],
    embeddings: Tensor,
    features: list[Features],
    side: RealSide,
    held: Held,
) -> list[Example]:
    """As a run filters and chooses; the filters on text are passed already."""
    candidates = [rows.candidates[row] for row in seen]
    verdicts = feature_filter(
        config.filters,
        [row.text for row in candidates],
        [row.label for row in candidates],
        embeddings.numpy(),
        np.empty((0, embeddings.shape[1]), dtype=np.float32),
        features[-1].probabilities.numpy(),
    )
    kept = [row for row, verdict in enumerate(verdicts.rejections) if verdict is None]
    labels = torch.tensor([candidates[row].label for row in kept])
    inputs = objective_inputs(config, side, labels, embeddings[kept], [one.rows(kept) for one in features])
    choice = choose(config, inputs, [config.per_class] * rows.classes, held=held)
    return [candidates[kept[row]] for row in choice.selection.chosen]


METHODS: dict[str, Callable[..., list[Example]]] = {
    "random": by_chance,
    **{f"private, epsilon {epsilon}": private(epsilon) for epsilon in EPSILONS},
    "not private": not_private,
    **{f"votes, epsilon {epsilon}": votes(epsilon) for epsilon in EPSILONS},
    "random real rows": real_by_chance,
}


# -- measuring --------------------------------------------------------------------------------------------------------


def done(args: argparse.Namespace) -> list[dict[str, Any]]:
    file = args.out / "results.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def add(args: argparse.Namespace, row: dict[str, Any]) -> None:
    with (args.out / "results.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["dataset"], row["per_class"], row["method"], row["set"]


def wanted(args: argparse.Namespace) -> Iterator[tuple[str, int, int, str]]:
    for number in range(args.sets):
        for name in args.datasets:
            for per_class in args.per_class:
                yield from ((name, per_class, number, method) for method in args.methods)


def choose_sets(args: argparse.Namespace) -> None:
    known = {key(row) for row in done(args) if row["student"] == "probe"}
    all_rows: dict[str, Rows] = {}
    for name, per_class, number, method in wanted(args):
        if (name, per_class, method, number) in known:
            continue
        if name not in all_rows:
            all_rows[name] = Rows(name, args)
        rows = all_rows[name]
        chosen = METHODS[method](rows, rows.visible(number), per_class, number)
        hidden = FEATURE_SCALE * rows.student.embed(chosen)
        head = fit_probe(hidden, torch.tensor([row.label for row in chosen]), rows.classes)
        test = FEATURE_SCALE * rows.teacher.embeddings("test", rows.test)
        right = nn.functional.linear(test, *head).argmax(1) == torch.tensor([row.label for row in rows.test])
        texts = [[row.text, row.label] for row in chosen]
        result = {"dataset": name, "per_class": per_class, "method": method, "set": number, "student": "probe"}
        add(args, {**result, "accuracy": float(right.double().mean()), "texts": texts})


def train_students(args: argparse.Namespace) -> None:
    sets = {key(row): row["texts"] for row in done(args) if row["student"] == "probe"}
    known = {(*key(row), row["seed"]) for row in done(args) if row["student"] == args.student}
    all_rows: dict[str, Rows] = {}
    for name, per_class, number, method in wanted(args):
        for seed in range(args.students):
            if (name, per_class, method, number, seed) in known or (name, per_class, method, number) not in sets:
                continue
            if name not in all_rows:
                all_rows[name] = Rows(name, args)
            rows = all_rows[name]
            student = rows.student if args.student == "minilm" else rows.tfidf
            student.fit([Example((t,), c) for t, c in sets[name, per_class, method, number]], seed=seed)
            right = student.predict(rows.test).argmax(1) == torch.tensor([row.label for row in rows.test])
            result = {"dataset": name, "per_class": per_class, "method": method, "set": number, "student": args.student}
            add(args, {**result, "seed": seed, "accuracy": float(right.double().mean())})


def table(args: argparse.Namespace) -> None:
    """Mean accuracy by method, with an interval of 95 % by bootstrap over sets of the lead over random."""
    cells: dict[tuple[str, str, int], dict[str, dict[int, list[float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for row in done(args):
        cells[row["student"], row["dataset"], row["per_class"]][row["method"]][row["set"]].append(row["accuracy"])
    for (student, name, per_class), methods in sorted(cells.items()):
        print(f"\n{student}, {name}, {per_class} a class\n")
        print("| method | accuracy | over random | sets |\n|---|---|---|---|")
        for method in (one for one in METHODS if one in methods):
            means = {number: float(np.mean(values)) for number, values in methods[method].items()}
            both = sorted(set(means) & set(methods["random"]))
            leads = [100 * (means[number] - float(np.mean(methods["random"][number]))) for number in both]
            low, high = interval(leads)
            mean = 100 * float(np.mean(list(means.values())))
            print(f"| {method} | {mean:.1f} | {np.mean(leads):+.1f} [{low:.1f}, {high:.1f}] | {len(means)} |")


def interval(values: Sequence[float]) -> tuple[float, float]:
    draws = np.random.default_rng(0).choice(np.asarray(values), (10_000, len(values))).mean(1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("pool", "choose", "train", "table"))
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/privacy"))
    parser.add_argument("--datasets", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--per-class", nargs="+", type=int, default=[10, 20])
    parser.add_argument("--sets", type=int, default=10)
    parser.add_argument("--student", default="minilm", choices=("minilm", "tfidf"), help="that train fits on each set")
    parser.add_argument("--students", type=int, default=1, help="of them, on each set")
    parser.add_argument("--max-test-rows", type=int, default=1000)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    {"pool": make_pool, "choose": choose_sets, "train": train_students, "table": table}[args.step](args)


if __name__ == "__main__":
    main()
