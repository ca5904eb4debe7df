"""How well students learn from chosen real rows: every method, several datasets and budgets, one pool a set.

    python scripts/selection_quality.py choose           # sets for every method; embeddings and teachers are kept
    python scripts/selection_quality.py train --workers 2 --students minilm
    python scripts/selection_quality.py table            # Markdown

Real rows are the pool, so that only selection differs. A set s of every method is chosen from the same 2,000 rows of
train drawn by seed s; methods see those and dev (held out of train), never test. Every step can be stopped and started
again: what is in the results file is not done twice.

With ``--pool FOLDER`` the candidates are texts that a generator wrote, FOLDER/<dataset>.jsonl.gz with text and label:
set s is chosen from 0.8 of them drawn by seed s, for the same real rows. ``pool`` writes such a file from a run's
candidates that passed its filters (``python scripts/selection_quality.py pool RUN --pool FOLDER``).
"""

from __future__ import annotations

import argparse
import gzip
import json
import multiprocessing
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gendistill import Config
from gendistill.choosing import choose, held_out
from gendistill.config import StudentConfig, load_config
from gendistill.data import load_real
from gendistill.evaluate import stratified_sample
from gendistill.examples import Example
from gendistill.further import LinearEyes
from gendistill.inputs import target_rows
from gendistill.objectives import ObjectiveInputs
from gendistill.selection import INFORMED_BASELINES
from gendistill.soft_labels import soften
from gendistill.students import build_student
from gendistill.students.base import Features, Segment
from gendistill.students.encoder import FEATURE_SCALE, EncoderStudent
from gendistill.students.probe import fit_probe
from gendistill.students.segments import segments

DATASETS = ("sst2_sentence", "ag_news", "trec")
BASELINES = ("random", "herding", "k-means-nearest", "k-center")
Settings = dict[str, Any]
# A plain recipe: a fresh head, 40 steps at the rates that suit it
FRESH_HEAD: Settings = {"head_init": "random", "steps": 40, "learning_rate": 1e-4, "head_learning_rate": 1e-2}
STUDENTS: dict[str, Settings] = {
    "minilm": {},
    "tfidf": {"model": "tfidf"},
    "static": {"model": "static:builtin:minilm"},
    "minilm, fresh head": FRESH_HEAD,
}
POOL, DEV, SHARE = 2000, 500, 0.8
RECIPE: Settings = {"max_tokens": 64}  # of every student, on top of the defaults
LINEAR = ("tfidf", "static:builtin:minilm")  # the further students of "for three students"
PORTFOLIO, SOFT = "portfolio", "portfolio, soft labels"
OWN = "meta_model along training on the portfolio's set"
FULL: dict[str, Settings] = {  # recipes for all of train
    "full data": {},
    "full data, half an epoch": {"epochs": 0.5},
    "full data, 1 epoch": {"epochs": 1.0},
    "full data at 1e-4": {"learning_rate": 1e-4},
}

METHODS: dict[str, Settings] = {
    **{name: {"selection": {"method": name}} for name in BASELINES},
    "portfolio": {"selection": {"method": "portfolio"}},
    **{name: {"selection": {"method": name}} for name in ("nearest-real", "gradient-norm", "teacher-probability")},
    **{
        name: {"selection": {"method": "greedy"}, "objective": {"weights": {name: 1.0}}}
        for name in (
            *("gradient", "gradient_l2", "mean_matching", "mmd", "coverage", "trajectory", "trajectory_adam"),
            *("meta_model", "meta_model_trajectory"),
        )
    },
    **{
        f"meta_model + {other}": {
            "selection": {"method": "greedy"},
            "objective": {"weights": {"meta_model": 1.0, other: 0.5}},
        }
        for other in ("coverage", "gradient", "meta_model_trajectory")
    },
    "meta_model, no swaps": {"selection": {"method": "greedy", "swap_passes": 0}},
    "meta_model, no least distance": {"selection": {"method": "greedy", "min_distance": 0.0}},
    "meta_model, least distance 0.3": {"selection": {"method": "greedy", "min_distance": 0.3}},
    "portfolio, not refined": {"selection": {"method": "portfolio", "probe_trials": 0}},
    "portfolio, 4 finalists": {"selection": {"method": "portfolio", "finalists": 4}},
    # Features of a student trained on the portfolio's set: "the set chosen so far"
    OWN: {"selection": {"method": "greedy"}, "objective": {"weights": {"meta_model_trajectory": 1.0}}},
    "portfolio, for three students": {"selection": {"method": "portfolio"}, "objective": {"students": list(LINEAR)}},
}


@dataclass(frozen=True)
class Key:
    dataset: str
    per_class: int
    method: str
    set: int


def key_of(row: dict[str, Any]) -> Key:
    return Key(row["dataset"], row["per_class"], row["method"], row["set"])


# -- data ------------------------------------------------------------------------------------------------------------


class Rows:
    """A dataset's rows, and on demand what a teacher says of them, kept in a file beside the results."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        folder = args.data_dir / name
        config = Config(
            data={"dataset": str(folder / "train.jsonl.gz"), "test": str(folder / "test.jsonl.gz")},
            student=RECIPE,
        )
        real = load_real(config.data, per_class=20, seed=0)
        self.classes, self.config = len(real.label_names), config
        self.train = stratified_sample(real.train, self.classes, args.max_train_rows, 0)
        self.dev = stratified_sample(real.dev, self.classes, DEV, 0)
        self.test = stratified_sample(real.test, self.classes, args.max_test_rows, 0)
        self.written = read_pool(args.pool / f"{name}.jsonl.gz", real.label_names) if args.pool else []
        self.by_id = {row.id: row for row in (*self.train, *self.written)}
        self.folder = args.out / "features" / name
        self.folder.mkdir(parents=True, exist_ok=True)

    def embeddings(self) -> dict[str, torch.Tensor]:
        """Of every part, (n, d) float32, rows of length 1."""

        def compute() -> dict[str, torch.Tensor]:
            student = EncoderStudent(self.config.student, self.classes)
            return {part: student.embed(getattr(self, part)) for part in ("train", "dev", "test", "written")}

        return self._kept("embeddings.pt", compute)

    def candidates(self, seed: int, known: dict[str, torch.Tensor]) -> tuple[list[Example], torch.Tensor]:
        """What set ``seed`` is chosen from, and its embeddings."""
        part, name, size = (
            (self.written, "written", int(SHARE * len(self.written))) if self.written else (self.train, "train", POOL)
        )
        pool = stratified_sample(part, self.classes, size, seed)
        position = {row.id: index for index, row in enumerate(part)}
        return pool, known[name][[position[row.id] for row in pool]]

    def teacher(self) -> tuple[list[Features], tuple[Segment, ...]]:
        """Features of train at the checkpoints of a teacher, and the segments of its training."""

        def compute() -> tuple[list[Features], tuple[Segment, ...]]:
            student = EncoderStudent(self.config.student, self.classes)
            student.fit(self.train, seed=0, checkpoints=3)
            return [student.features(self.train, checkpoint=t) for t in range(3)], segments(student)

        return self._kept("teacher.pt", compute)

    def soft_labels(self, ids: Sequence[str]) -> torch.Tensor:
        """(n, C) float32: what the teacher says of rows of train, tempered as by default."""
        position = {row.id: index for index, row in enumerate(self.train)}
        probabilities = self.teacher()[0][-1].probabilities[[position[identity] for identity in ids]]
        return soften(probabilities, self.config.selection.label_temperature)

    def _kept(self, name: str, compute: Callable[[], Any]) -> Any:
        if not (self.folder / name).exists():
            torch.save(compute(), self.folder / name)
        return torch.load(self.folder / name, weights_only=False)


def read_pool(path: Path, label_names: Sequence[str]) -> list[Example]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [Example((row["text"],), label_names.index(row["label"])) for row in rows]


def write_pool(args: argparse.Namespace) -> None:
    """The candidates of a run that passed its filters, in the order asked."""
    names = load_real(load_config(args.run / "config.yaml").data, per_class=1, seed=0).label_names
    with sqlite3.connect(args.run / "run.db") as db:
        found = db.execute("SELECT fields, label FROM candidates WHERE filter IS NULL ORDER BY rowid").fetchall()
    args.pool.mkdir(parents=True, exist_ok=True)
    path = args.pool / f"{args.run.name.removeprefix('pool-')}.jsonl.gz"
    lines = [json.dumps({"text": json.loads(fields)[0], "label": names[label]}) + "\n" for fields, label in found]
    path.write_bytes(gzip.compress("".join(lines).encode("utf-8"), mtime=0))
    print(f"{len(lines)} texts in {path}")


def score(probabilities: torch.Tensor, rows: Sequence[Example]) -> float:
    return float((probabilities.argmax(1) == torch.tensor([row.label for row in rows])).double().mean())


# -- the results file ------------------------------------------------------------------------------------------------


def read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.endswith("\n")]  # a torn last line is done again


def append(path: Path, row: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def keys(args: argparse.Namespace) -> Iterator[Key]:
    """Set by set, so that a table of what is done so far is balanced."""
    for number in range(args.sets):
        for name in args.datasets:
            for per_class in args.per_class:
                for method in args.methods:
                    yield Key(name, per_class, method, number)


# -- choose ----------------------------------------------------------------------------------------------------------


def choose_all(args: argparse.Namespace) -> None:
    chosen = {key_of(row): row["ids"] for row in read(args.sets_file)}
    done = set(chosen)
    for name in args.datasets:
        wanted = [key for key in keys(args) if key.dataset == name and key not in done]
        if not wanted:
            continue
        if args.pool and any(needs_teacher(key.method) for key in wanted):
            raise SystemExit("with --pool there are no features of a teacher: name --methods that need none")
        rows = Rows(name, args)
        known = rows.embeddings()
        taught = rows.teacher() if any(needs_teacher(key.method) for key in wanted) else ([], ())
        print(f"{name}: {len(wanted)} sets to choose", flush=True)
        for key in wanted:
            so_far = chosen.get(replace(key, method=PORTFOLIO))
            if key.method == OWN and so_far is None:
                raise SystemExit(f"{OWN}: choose the sets of {PORTFOLIO} first")
            append(args.sets_file, choose_one(key, rows, known, *taught, so_far=so_far))


def needs_teacher(method: str) -> bool:
    weights = METHODS[method].get("objective", {}).get("weights", {})
    along = any("gradient" in name or "trajectory" in name for name in weights)
    return method in INFORMED_BASELINES or (along and method != OWN)


def choose_one(
    key: Key,
    rows: Rows,
    known: dict[str, torch.Tensor],
    taught: list[Features],
    segments: tuple[Segment, ...],
    so_far: list[str] | None = None,
) -> dict[str, Any]:
    settings = METHODS[key.method]
    config = rows.config.model_copy(
        update={"per_class": key.per_class, "seed": key.set}
        | {name: type(getattr(rows.config, name))(**values) for name, values in settings.items()}
    )
    pool, embeddings = rows.candidates(key.set, known)
    labels = torch.tensor([row.label for row in pool])
    real = stratified_sample(rows.train, rows.classes, POOL, key.set)
    position = {row.id: index for index, row in enumerate(rows.train)}
    index = torch.tensor([position[row.id] for row in real])
    targets = torch.tensor(target_rows(real, rows.classes, config.objective.target_rows_per_class, key.set))
    features = [part.rows(index) for part in taught]
    at_targets = [part.rows(targets) for part in features]
    if key.method == OWN:
        student = EncoderStudent(rows.config.student, rows.classes)
        student.fit([rows.by_id[identity] for identity in so_far or ()], seed=key.set, checkpoints=3)
        seen = (pool, [real[row] for row in targets.tolist()])
        features, at_targets = ([student.features(part, checkpoint=t) for t in range(3)] for part in seen)
    inputs = ObjectiveInputs(
        candidate_labels=labels,
        real_labels=torch.tensor([row.label for row in real]),
        candidate_features=features,
        real_features=at_targets,
        candidate_embeddings=embeddings,
        real_embeddings=known["train"][index],
        num_classes=rows.classes,
        ridge=config.objective.ridge,
        feature_rows=targets,
        segments=segments,
    )
    dev = [known["dev"]]
    for model in config.objective.students:
        eyes = LinearEyes(build_student(StudentConfig(model=model, **RECIPE), rows.classes), real, key.set)
        views = {"candidate_embeddings": eyes.embeddings("", pool), "real_embeddings": eyes.embeddings("", real)}
        inputs = replace(inputs, others=(*inputs.others, replace(inputs, others=(), **views)))
        dev.append(eyes.embeddings("", rows.dev))
    held = held_out(config, rows.dev, dev, pool, rows.classes)
    choice = choose(config, inputs, [key.per_class] * rows.classes, held=held)
    chosen = choice.selection.chosen
    weight, bias = fit_probe(FEATURE_SCALE * embeddings[chosen], labels[chosen], rows.classes)
    logits = FEATURE_SCALE * known["test"] @ weight.T + bias
    return {
        **key.__dict__,
        "ids": [pool[i].id for i in chosen],
        "winner": choice.winner.name if choice.winner else None,
        "probe": score(logits, rows.test),
    }


# -- train -----------------------------------------------------------------------------------------------------------


def train_all(args: argparse.Namespace) -> None:
    done = {(key_of(row), row["student"], row["run"]) for row in read(args.results)}
    sets = {key_of(row): row["ids"] for row in read(args.sets_file)}
    if args.soft:
        sets |= {replace(key, method=SOFT): ids for key, ids in sets.items() if key.method == PORTFOLIO}
    if args.full:
        for name in args.datasets:
            sets |= {Key(name, 0, method, 0): [row.id for row in Rows(name, args).train] for method in FULL}
    extra = [replace(key, method=SOFT) for key in keys(args) if args.soft and key.method == PORTFOLIO]
    wanted = [*keys(args), *extra, *(key for key in sets if key.method in FULL)]
    jobs = [
        (key, student, run, sets[key])
        for run in range(args.runs)
        for key in wanted
        for student in args.students
        if key in sets and (key, student, run) not in done
    ]
    print(f"{len(jobs)} students to train", flush=True)
    context = multiprocessing.get_context("spawn")
    with context.Pool(args.workers, initializer=start_worker, initargs=(args,)) as pool:
        for count, row in enumerate(pool.imap_unordered(train_one, jobs), 1):
            append(args.results, row)
            if count % 20 == 0:
                print(f"{count}/{len(jobs)}", flush=True)


def start_worker(args: argparse.Namespace) -> None:
    global worker_args, worker_rows, worker_students
    torch.set_num_threads(max(1, (torch.get_num_threads() if args.workers == 1 else 1)))
    worker_args, worker_rows, worker_students = args, {}, {}


def train_one(job: tuple[Key, str, int, list[str]]) -> dict[str, Any]:
    key, student, run, ids = job
    if key.dataset not in worker_rows:
        worker_rows[key.dataset] = Rows(key.dataset, worker_args)
    rows = worker_rows[key.dataset]
    place = (key.dataset, student, key.method if key.method in FULL else "")
    if place not in worker_students:
        recipe = StudentConfig(**RECIPE | STUDENTS[student] | FULL.get(key.method, {}))
        worker_students[place] = build_student(recipe, rows.classes)
    model = worker_students[place]
    targets = rows.soft_labels(ids) if key.method == SOFT else None
    model.fit([rows.by_id[identity] for identity in ids], seed=1000 * key.set + run, targets=targets)
    return {**key.__dict__, "student": student, "run": run, "accuracy": score(model.predict(rows.test), rows.test)}


# -- table -----------------------------------------------------------------------------------------------------------

Cell = tuple[str, int]


def collect(args: argparse.Namespace, student: str) -> dict[str, dict[Cell, dict[int, list[float]]]]:
    """method -> (dataset, per_class) -> set -> accuracies of its runs, in per cent."""
    found: dict[str, dict[Cell, dict[int, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for row in read(args.sets_file if student == "probe" else args.results):
        if student == "probe" or row["student"] == student:
            value = row["probe" if student == "probe" else "accuracy"]
            found[row["method"]][row["dataset"], row["per_class"]][row["set"]].append(100 * value)
    return found


def interval(sets: Sequence[Sequence[float]], rng: np.random.Generator) -> tuple[float, float, float]:
    """Mean of the per-set means, and a 95 % bootstrap interval that resamples sets and then runs."""
    draws = []
    for _ in range(2000):
        picked = [sets[i] for i in rng.integers(len(sets), size=len(sets))]
        draws.append(np.mean([np.mean(rng.choice(runs, len(runs))) for runs in picked]))
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(np.mean([np.mean(runs) for runs in sets])), float(low), float(high)


def lead(ours: dict[Cell, dict[int, list[float]]], others: dict[str, Any], rng: np.random.Generator) -> str:
    """Mean over cells of our lead on the best baseline of the cell, sets resampled in pairs."""
    cells = [cell for cell in ours if all(cell in other for other in others.values())]
    best = {cell: max(others.values(), key=lambda o: np.mean([np.mean(r) for r in o[cell].values()])) for cell in cells}
    pairs = []
    for cell in cells:
        shared = sorted(set(ours[cell]) & set(best[cell][cell]))
        pairs.append(np.array([np.mean(ours[cell][s]) - np.mean(best[cell][cell][s]) for s in shared]))
    draws = [np.mean([rng.choice(p, len(p)).mean() for p in pairs]) for _ in range(2000)]
    low, high = np.percentile(draws, [2.5, 97.5])
    return f"{np.mean([p.mean() for p in pairs]):+.1f} [{low:+.1f}, {high:+.1f}]"


def table(args: argparse.Namespace) -> None:
    rng = np.random.default_rng(0)
    for student in args.students:
        found = collect(args, student)
        if not found:
            continue
        cells = [(name, k) for name in args.datasets for k in args.per_class]
        print(f"\n### student: {student}\n")
        print("| method | " + " | ".join(f"{name} {k}" for name, k in cells) + " | mean | lead on the best baseline |")
        print("|---|" + "---|" * (len(cells) + 2))
        baselines = {name: found[name] for name in BASELINES if name in found}
        for method in [name for name in (*METHODS, SOFT) if name in found]:
            told, means = [], []
            for cell in cells:
                sets = [runs for _, runs in sorted(found[method].get(cell, {}).items())]
                if not sets:
                    told.append("")
                    continue
                mean, low, high = interval(sets, rng)
                means.append(mean)
                told.append(f"{mean:.1f} ± {(high - low) / 2:.1f}")
            whole = f"{np.mean(means):.1f}" if len(means) == len(cells) else ""
            ahead = "" if method in BASELINES else lead(found[method], baselines, rng)
            print(f"| {method} | " + " | ".join(told) + f" | {whole} | {ahead} |")
        for method in [name for name in FULL if name in found]:
            for (name, _), runs in found[method].items():
                values = [value for one in runs.values() for value in one]
                print(f"\n{method}, {name}: {np.mean(values):.1f} ({len(values)} runs)")
        counts = [len(runs) for cell in found["portfolio"].values() for runs in cell.values()] or [0]
        sets_each = [len(cell) for cell in found["portfolio"].values()] or [0]
        print(f"\n{min(sets_each)} to {max(sets_each)} sets a cell, {min(counts)} to {max(counts)} runs a set.")
        runs = [one for cells in found.values() for sets in cells.values() for one in sets.values() if len(one) > 1]
        if runs:
            spread = np.sqrt(np.mean([np.var(one, ddof=1) for one in runs]))
            print(f"\nRuns of a set differ by {spread:.2f} points (standard deviation, {len(runs)} sets).")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("pool", "choose", "train", "table"))
    parser.add_argument("run", nargs="?", type=Path, help="pool: a run directory")
    parser.add_argument("--pool", type=Path, help="folder of generated candidates, <dataset>.jsonl.gz")
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS))
    parser.add_argument("--per-class", nargs="+", type=int, default=[5, 10, 20])
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--sets", type=int, default=5)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--students", nargs="+", default=["minilm"], help=f"{', '.join(STUDENTS)}; table: probe too")
    parser.add_argument("--full", action="store_true", help="train: students on all of train, by several recipes")
    parser.add_argument("--soft", action="store_true", help="train: the portfolio's sets with soft labels too")
    parser.add_argument("--max-train-rows", type=int, default=6000)
    parser.add_argument("--max-test-rows", type=int, default=500)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    args.results, args.sets_file = args.out / "results.jsonl", args.out / "sets.jsonl"
    if args.step == "pool" and not (args.run and args.pool):
        parser.error("pool needs a run directory and --pool FOLDER")
    args.out.mkdir(parents=True, exist_ok=True)
    {"pool": write_pool, "choose": choose_all, "train": train_all, "table": table}[args.step](args)


if __name__ == "__main__":
    main()
