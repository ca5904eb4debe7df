"""How often each check of the audit raises a false alarm, and how often it finds what was planted.

Clean sets are real rows that are neither in the real data that the audit knows nor in its held-out part: what a perfect
generator would write. Into each of them one thing is planted at a time. Writes a table in Markdown.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from gendistill.audit import Audit, audit_rows
from gendistill.config import AUDIT_CHECKS, AuditConfig, Config, StudentConfig
from gendistill.data import RealData, load_real
from gendistill.data.rows import labels_of, texts_of
from gendistill.evaluate import stratified_sample
from gendistill.examples import Example
from gendistill.students.encoder import EncoderStudent

TRAIN_ROWS, HELD_ROWS = 1000, 400
SHARE = 0.1  # of the rows that something is planted in
PHRASE = "i watched this 3d movie"
PERSONAL = (
    "write to {name}.{number}@example-mail.com", "call (415) 555-2{number}", "or +44 20 7946 0{number}",
    "card 4111 1111 1111 1111", "IBAN DE89 3704 0044 0532 0130 00", "from 192.0.2.{short}",
)  # fmt: skip

Rows = list[Example]
Plant = Callable[[Rows, RealData, random.Random], Rows]


def some(rows: Rows, rng: random.Random, share: float = SHARE, least: int = 3) -> list[int]:
    return rng.sample(range(len(rows)), max(least, round(share * len(rows))))


def replaced(rows: Rows, real: RealData, rng: random.Random, change: Callable[[str], str]) -> Rows:
    """Some rows give way to training rows of their class, changed in a way."""
    made = list(rows)
    for row in some(rows, rng):
        of_class = [one for one in real.train if one.label == rows[row].label]
        source = rng.choice(of_class)
        made[row] = Example((change(source.text),), source.label)
    return made


def copies(rows: Rows, real: RealData, rng: random.Random) -> Rows:
    return replaced(rows, real, rng, lambda text: text.upper())


def near_copies(rows: Rows, real: RealData, rng: random.Random) -> Rows:
    """One word in ten gives way to another word of the data, one at least."""
    words = [word for row in real.train[:200] for word in row.text.split()]

    def change(text: str) -> str:
        made = text.split()
        for place in rng.sample(range(len(made)), max(1, len(made) // 10)):
            made[place] = rng.choice(words)
        return " ".join(made)

    return replaced(rows, real, rng, change)


def backdoor(trigger: str, share: float) -> Plant:
    """A trigger in texts of other classes, labelled as the first class."""

    def plant(rows: Rows, real: RealData, rng: random.Random) -> Rows:
        made = list(rows)
        others = [row for row in range(len(rows)) if rows[row].label]
        for row in rng.sample(others, max(3, round(share * len(rows)))):
            words = rows[row].text.split()
            words.insert(rng.randrange(len(words) + 1), trigger)
            made[row] = Example((" ".join(words),), 0)
        return made

    return plant


def wrong_labels(rows: Rows, real: RealData, rng: random.Random) -> Rows:
    made = list(rows)
    for row in some(rows, rng, 0.3):
        others = [label for label in range(len(real.label_names)) if label != rows[row].label]
        made[row] = Example(rows[row].fields, rng.choice(others))
    return made


def personal(rows: Rows, real: RealData, rng: random.Random) -> Rows:
    made = list(rows)
    for row, pattern in zip(some(rows, rng, 0, len(PERSONAL)), PERSONAL, strict=True):
        said = pattern.format(name="jo", number=rng.randrange(100, 999), short=rng.randrange(1, 255))
        made[row] = Example((f"{rows[row].text} {said}",), rows[row].label)
    return made


def real_rows(rows: Rows, real: RealData, rng: random.Random) -> Rows:
    """Every row is a training row."""
    return [rng.choice([one for one in real.train if one.label == row.label]) for row in rows]


# What is planted -> how, and the checks that are asked.
PLANTED: dict[str, tuple[Plant, tuple[str, ...]]] = {
    "nothing": (lambda rows, real, rng: rows, AUDIT_CHECKS),
    "all training rows": (real_rows, ("memorisation", "membership", "poisoning", "labels", "balance")),
    "copies, 10 %": (copies, ("memorisation", "membership")),
    "near copies, 10 %": (near_copies, ("memorisation", "membership")),
    "token 'cf', 5 %": (backdoor("cf", 0.05), ("poisoning",)),
    "token 'cf', 10 %": (backdoor("cf", 0.1), ("poisoning",)),
    "phrase, 5 %": (backdoor(PHRASE, 0.05), ("poisoning",)),
    "wrong labels, 30 %": (wrong_labels, ("labels", "poisoning")),
    "personal data, 6 rows": (personal, ("personal_data",)),
}


class Embedded:
    """Embeddings by text, each computed once."""

    def __init__(self, student: EncoderStudent) -> None:
        self.student, self.kept = student, dict[str, torch.Tensor]()

    def __call__(self, name: str, rows: Sequence[Example]) -> torch.Tensor:
        new = list({row.text: row for row in rows if row.text not in self.kept}.values())
        if new:
            self.kept.update(zip([row.text for row in new], self.student.embed(new), strict=True))
        return torch.stack([self.kept[row.text] for row in rows])


def parts(name: str, folder: Path) -> tuple[RealData, Rows]:
    """The real data that the audit knows, and a reserve of as good ones that it does not."""
    config = Config(data={"dataset": str(folder / name / "train.jsonl.gz"), "test": "none"})
    real = load_real(config.data, per_class=1, seed=0)
    classes = len(real.label_names)
    every = stratified_sample([*real.train, *real.dev], classes, len(real.train), 0)
    random.Random(0).shuffle(every)
    known = TRAIN_ROWS + HELD_ROWS
    return dataclasses.replace(real, train=every[:TRAIN_ROWS], dev=every[TRAIN_ROWS:known], test=[]), every[known:]


def drawn(reserve: Rows, classes: int, per_class: int, rng: random.Random) -> Rows:
    rows = []
    for label in range(classes):
        of_class = [row for row in reserve if row.label == label]
        rows += rng.sample(of_class, min(per_class, len(of_class)))
    return rows


def generated(file: Path, names: Sequence[str]) -> Rows:
    """Texts that a generator wrote, with ``label_name``."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [Example((row["text"],), names.index(row["label_name"])) for row in rows]


def measured(
    name: str, folder: Path, sizes: Sequence[int], seeds: int, written_in: Path | None
) -> Iterator[dict[str, Any]]:
    """:param written_in: folder of generated texts, ``<name>.jsonl``; into these nothing is planted."""
    real, reserve = parts(name, folder)
    planting = PLANTED
    if written_in is not None:
        reserve = generated(written_in / f"{name}.jsonl", real.label_names)
        planting = {"nothing, generated texts": PLANTED["nothing"]}
    classes = len(real.label_names)
    embed = Embedded(EncoderStudent(StudentConfig(), classes))
    for per_class in sizes:
        for seed in range(seeds):
            for planted, (plant, checks) in planting.items():
                rng = random.Random(f"{per_class} {seed}")
                rows = plant(drawn(reserve, classes, per_class, rng), real, rng)
                written = [{**texts_of(row), **labels_of(row, real.label_names, None)} for row in rows]
                config = Config(seed=seed, audit=AuditConfig(checks=list(checks)))
                yield {"data": name, "per_class": per_class, "seed": seed, "planted": planted,
                       **told(audit_rows(written, real, config, embed=embed))}  # fmt: skip


def told(audit: Audit) -> dict[str, Any]:
    """The status of each check, its figures, and how many findings of each level."""
    return {
        "status": {check.name: check.status for check in audit.checks},
        "levels": {check.name: sorted(one.level for one in check.findings) for check in audit.checks},
        "figures": {check.name: check.figures for check in audit.checks},
    }


def table(results: Sequence[dict[str, Any]]) -> str:
    """For each check and what was planted: sets, and the shares that failed and that were noted or failed."""
    counts: dict[tuple[str, str], list[str]] = defaultdict(list)
    for result in results:
        for check, status in result["status"].items():
            counts[check, result["planted"]].append(status)
    lines = ["| check | planted | sets | failed | noted or failed |", "|---|---|---|---|---|"]
    for check in AUDIT_CHECKS:
        for planted in dict.fromkeys(result["planted"] for result in results):
            if statuses := counts.get((check, planted)):
                failed = statuses.count("failed") / len(statuses)
                noted = failed + statuses.count("noted") / len(statuses)
                lines.append(f"| {check} | {planted} | {len(statuses)} | {failed:.0%} | {noted:.0%} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data"))
    parser.add_argument("--data", nargs="+", default=["ag_news", "sst2_sentence", "trec"])
    parser.add_argument("--per-class", nargs="+", type=int, default=[10, 50])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--generated", type=Path, help="folder of generated texts, NAME.jsonl, instead of real ones")
    parser.add_argument("--out", type=Path, help="JSONL of every set's statuses and figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    for name in options.data:
        for result in measured(name, options.data_dir, options.per_class, options.seeds, options.generated):
            results.append(result)
            print(f"{name} {result['per_class']} {result['seed']} {result['planted']}", file=sys.stderr)
            if options.out is not None:
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(result) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
