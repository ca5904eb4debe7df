"""The tables, figure and card of a benchmark, from the files of its folder. The same results give the same bytes."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gendistill.atomic import atomic_write
from gendistill.bench.folder import FULL, Bench, Unit
from gendistill.bench.measuring import first_seed
from gendistill.bench.pools import pool_path
from gendistill.bench.statistics import Estimate, Sets, best_of, estimate, lead

Column = tuple[str, int]  # task, budget


@dataclass
class Scores:
    """What students of one kind reached, in per cent."""

    student: str
    columns: list[Column]
    methods: dict[str, dict[Column, dict[int, list[float]]]] = field(default_factory=dict)
    full: dict[str, list[float]] = field(default_factory=dict)  # task -> runs

    def by_name(self, method: str) -> dict[str, Sets]:
        """As ``lead`` wants it: cell -> sets."""
        return {f"{task} {per_class}": sets for (task, per_class), sets in self.methods.get(method, {}).items() if sets}


def collect(bench: Bench, student: str) -> Scores:
    """Every result of a student that is there."""
    suite = bench.suite
    columns = [(task, k) for task in suite.tasks for k in suite.budgets(task) if suite.measures(student, k)]
    scores = Scores(student, columns)
    every = bench.whole()
    for unit in every.units():
        if unit.kind != "train" or unit.student != student:
            continue
        result = every.result(unit)
        if result is None:
            continue
        cell, values = unit.cell, [100 * value for value in result["accuracy"]]
        if cell.method == FULL:
            scores.full.setdefault(cell.task, []).extend(values)
        else:
            found = scores.methods.setdefault(cell.method, {}).setdefault((cell.task, cell.per_class), {})
            found[cell.set] = values[: suite.runs]
    scores.methods = {name: scores.methods[name] for name in suite.methods if name in scores.methods}
    present = {task for cells in scores.methods.values() for task, _ in cells} | scores.full.keys()
    scores.columns = [column for column in scores.columns if column[0] in present]
    return scores


def write_report(bench: Bench) -> None:
    """results.md, results.tex, results.csv, accuracy.png (with matplotlib), costs.md, README.md, sets/index.jsonl."""
    from gendistill.bench.card import bench_card, index_of_sets
    from gendistill.bench.figure import draw

    everyone = [collect(bench, student) for student in bench.suite.students]
    told = [scores for scores in everyone if scores.methods or scores.full]
    atomic_write(bench.out / "results.md", markdown(bench, told))
    atomic_write(bench.out / "results.tex", latex(bench, told))
    atomic_write(bench.out / "results.csv", table_of_runs(bench))
    atomic_write(bench.out / "costs.md", costs(bench))
    atomic_write(bench.out / "sets" / "index.jsonl", index_of_sets(bench))
    drawn = draw(bench.out / "accuracy.png", bench.suite, told)
    atomic_write(bench.out / "README.md", bench_card(bench, markdown(bench, told, level=2), figure=drawn))


# -- tables -----------------------------------------------------------------------------------------------------------


def markdown(bench: Bench, everyone: Sequence[Scores], level: int = 1) -> str:
    suite = bench.suite
    head = "#" * level
    parts = [f"{head} {suite.name}", suite.about, protocol(bench)] if level == 1 else [protocol(bench)]
    for scores in everyone:
        parts += [f"{head}# Student: {scores.student}", *_student(bench, scores)]
    texts = _texts(bench)
    if texts:
        parts += [f"{head}# The texts", _TEXTS, texts]
    return "\n\n".join(part for part in parts if part) + "\n"


def protocol(bench: Bench) -> str:
    suite = bench.suite
    budgets = ", ".join(map(str, sorted({k for task in suite.tasks for k in suite.budgets(task)})))
    return (
        f"{_count(suite.sets, 'set')} a method and cell, {_count(suite.runs, 'student')} a set; {budgets} texts a "
        f"class; accuracy in per cent on test, of which at most {suite.max_test_rows:,} rows are used (drawn once). A "
        f"set is chosen from {suite.pool_rows:,} real rows, or {suite.pool_share:.0%} of the candidates, drawn for it, "
        "and is judged by real rows of train alone. ± and brackets: 95 % intervals of a bootstrap that resamples sets "
        f"and then runs. Suite {suite.hash}."
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _student(bench: Bench, scores: Scores) -> Iterable[str]:
    columns = scores.columns
    titles = ["trained on", *(f"{task} {k}" for task, k in columns), "mean"]
    rows = [[name, *cells] for name, *cells in _rows(scores)]
    full = [f"{np.mean(scores.full[task]):.1f}" if task in scores.full else "" for task, _ in columns]
    if any(full):
        rows.append([FULL, *full, ""])
        rows.append([f"{bench.suite.ours}, % of full data", *_shares(bench.suite.ours, scores), ""])
    yield _table(titles, rows)
    compared = list(_comparisons(bench, scores))
    if compared:
        yield _table(["", f"{bench.suite.ours} leads by", "which is"], compared)


def _rows(scores: Scores) -> Iterable[list[str]]:
    rng = np.random.default_rng(0)
    for name, cells in scores.methods.items():
        told: list[str] = []
        means: list[float] = []
        for column in scores.columns:
            sets = cells.get(column)
            if not sets:
                told.append("")
                continue
            one = estimate(sets, rng)
            means.append(one.mean)
            told.append(f"{one.mean:.1f} ± {one.half:.1f}" if _spread(sets) else f"{one.mean:.1f}")
        whole = f"{np.mean(means):.1f}" if len(means) == len(scores.columns) else ""
        yield [name, *told, whole]


def _spread(sets: Sets) -> bool:
    return sum(map(len, sets.values())) > 1


def _shares(ours: str, scores: Scores) -> list[str]:
    """What share of full-data accuracy the sets keep."""
    told = []
    for task, per_class in scores.columns:
        sets, full = scores.methods.get(ours, {}).get((task, per_class)), scores.full.get(task)
        kept = np.mean([np.mean(runs) for runs in sets.values()]) / np.mean(full) if sets and full else None
        told.append("" if kept is None else f"{100 * kept:.1f}")
    return told


def _comparisons(bench: Bench, scores: Scores) -> Iterable[list[str]]:
    suite, rng = bench.suite, np.random.default_rng(1)
    ours = scores.by_name(suite.ours)
    if not ours:
        return
    baselines = {name: scores.by_name(name) for name in scores.methods if suite.methods[name].baseline}
    if baselines:
        one = lead(ours, best_of(baselines), rng)
        if one:
            yield ["the best baseline of each cell", difference(one), verdict(one)]
    for name in scores.methods:
        if name != suite.ours:
            one = lead(ours, scores.by_name(name), rng, paired=not suite.methods[name].sets)
            if one:
                yield [name, difference(one), verdict(one)]


def difference(one: Estimate) -> str:
    if one.sets < 2:
        return f"{one.mean:+.1f}"
    return f"{one.mean:+.1f} [{one.low:+.1f}, {one.high:+.1f}]"


def verdict(one: Estimate) -> str:
    if one.sets < 2:
        return "one set: cannot be told"
    return ("ahead" if one.mean > 0 else "behind") if one.differs else "no difference"


_TEXTS = (
    "Of all sets of a method, the largest: words in a row that a text shares with a real row (0: fewer than four), and "
    "cosine of its embedding to the nearest, with train and with test. Perplexity is the generator's own, of a token, "
    "on the first set of the largest budget; real rows are those of the methods that choose from them."
)


def _texts(bench: Bench) -> str:
    suite = bench.suite
    every = bench.whole()
    found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for unit in every.units():
        if unit.kind == "text" and (result := every.result(unit)) is not None:
            found[unit.cell.method, unit.cell.task].append(result)
    if not found:
        return ""
    rows = []
    for method in suite.methods:
        for task in suite.tasks:
            results = found.get((method, task))
            if results:
                fluent = [one["perplexity"] for one in results if "perplexity" in one]
                rows.append(
                    [
                        method,
                        task,
                        *(str(max(one[f"words_{part}"] for one in results)) for part in ("train", "test")),
                        *(f"{max(one[f'cosine_{part}'] for one in results):.2f}" for part in ("train", "test")),
                        f"{np.mean(fluent):.0f}" if fluent else "",
                    ]
                )
    titles = ["texts of", "task", "words, train", "words, test", "cosine, train", "cosine, test", "perplexity"]
    return _table(titles, rows)


def costs(bench: Bench) -> str:
    """Seconds and memory, which differ from run to run, and so stand in a file of their own."""
    suite = bench.suite
    every = bench.whole()
    chosen: dict[str, list[dict[str, Any]]] = defaultdict(list)
    trained: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for unit in every.units():
        result = every.result(unit) if unit.kind in ("choose", "train") else None
        if result is not None:
            place = chosen[unit.cell.method] if unit.kind == "choose" else trained[unit.student]
            place.append(result | {"runs": len(result.get("accuracy", [0]))})
    parts = [f"# {suite.name}: what it cost", "Medians; memory is the most that the process held meanwhile."]
    rows = [[name, *_cost(chosen[name])] for name in suite.methods if name in chosen]
    parts.append(_table(["choosing a set by", "seconds", "peak memory, MB"], rows))
    rows = [[name, *_cost(trained[name])] for name in suite.students if name in trained]
    parts.append(_table(["training and scoring", "seconds a run", "peak memory, MB"], rows))
    rows = []
    for pool in suite.pools:
        for task in suite.tasks:
            path = pool_path(bench, pool, task).with_suffix(".json")
            if path.exists():
                made = json.loads(path.read_text(encoding="utf-8"))
                rows.append(
                    [
                        f"{pool}, {task}",
                        f"{made['seconds']:.0f}",
                        f"{made['peak_memory'] / 1e6:.0f}",
                        f"{made['prompt_tokens']:,}",
                        f"{made['completion_tokens']:,}",
                    ]
                )
    if rows:
        parts.append(
            _table(["writing candidates", "seconds", "peak memory, MB", "prompt tokens", "completion tokens"], rows)
        )
    return "\n\n".join(parts) + "\n"


def _cost(results: Sequence[Mapping[str, Any]]) -> list[str]:
    seconds = np.median([one["seconds"] / one["runs"] for one in results])
    return [f"{seconds:.2f}", f"{np.median([one['peak_memory'] for one in results]) / 1e6:.0f}"]


def table_of_runs(bench: Bench) -> str:
    """CSV, a line a student."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["student", "task", "per_class", "method", "set", "run", "seed", "rows", "accuracy", "macro_f1"])
    every = bench.whole()
    for unit in sorted(every.units(), key=_in_order):
        result = every.result(unit) if unit.kind == "train" else None
        if result is None:
            continue
        cell = unit.cell
        for run, (accuracy, f1) in enumerate(zip(result["accuracy"], result["macro_f1"], strict=True)):
            seed = first_seed(bench, cell) + run
            values = [cell.task, cell.per_class, cell.method, cell.set, run, seed, result["rows"]]
            writer.writerow([unit.student, *values, f"{accuracy:.6f}", f"{f1:.6f}"])
    return text.getvalue()


def _in_order(unit: Unit) -> tuple[Any, ...]:
    return (unit.student, unit.cell)


def latex(bench: Bench, everyone: Sequence[Scores]) -> str:
    """A booktabs table for each student."""
    parts = []
    for scores in everyone:
        widths = Counter(task for task, _ in scores.columns)
        spans = [f"\\multicolumn{{{width}}}{{c}}{{{_tex(task)}}}" for task, width in widths.items()]
        lines = [
            f"% {bench.suite.name}, suite {bench.suite.hash}, student {scores.student}",
            f"\\begin{{tabular}}{{l{'r' * (len(scores.columns) + 1)}}}",
            "\\toprule",
            " & ".join(["", *spans, ""]) + r" \\",
            " & ".join(["trained on", *(str(k) for _, k in scores.columns), "mean"]) + r" \\",
            "\\midrule",
            *(" & ".join(map(_tex, row)) + r" \\" for row in _rows(scores)),
            "\\bottomrule",
            "\\end{tabular}",
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


_TEX = {"\\": r"\textbackslash{}", "±": r"$\pm$", **{sign: f"\\{sign}" for sign in "&%_#${}"}}


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = ["| " + " | ".join(titles) + " |", "|---" + "|---:" * (len(titles) - 1) + "|"]
    return "\n".join([*head, *("| " + " | ".join(row) + " |" for row in rows)])
