"""A benchmark's folder as a dataset that others can load: its card, and the index of its sets."""

from __future__ import annotations

import json
from typing import Any

import yaml

from gendistill._version import __version__
from gendistill.bench.folder import Bench, Unit
from gendistill.bench.measuring import first_seed
from gendistill.bench.suite import slug

_USE = """Load a set, for instance the first of a method:

```python
from datasets import load_dataset

rows = load_dataset("json", data_files="{first}")["train"]
```

Every set is one JSONL file, a text and its label on each line; `sets/index.jsonl` lists them all, with the hash of the
configuration and the seeds of the choice and of the students. `bench.yaml` is the whole suite.

Measure it again, from this folder: `gendistill bench --check .` (with `--data-dir` where the datasets are local files).
"""


def bench_card(bench: Bench, tables: str, *, figure: bool) -> str:
    """README.md: the head that the hub reads, how to load and to check the sets, and the tables."""
    suite = bench.suite
    every = bench.whole()
    configs: dict[str, str] = {}
    for cell in every.cells():
        path = every.set_path(cell)
        if path.exists():
            name = f"{slug(cell.task)}-dpc{cell.per_class}-{slug(cell.method)}"
            configs.setdefault(name, str(path.parent.relative_to(every.out) / "*.jsonl"))
    head: dict[str, Any] = {
        "pretty_name": f"gendistill bench: {suite.name}",
        "license": "other",
        "task_categories": ["text-classification"],
        "tags": ["dataset-distillation", "benchmark", "gendistill"],
        "configs": [
            {"config_name": name, "data_files": [{"split": "train", "path": path}]} for name, path in configs.items()
        ],
    }
    first = next(iter(configs.values()), "sets/*.jsonl").replace("*", "set-00")
    terms = (
        "Sets of real rows are parts of the datasets that bench.yaml names, and their terms apply; generated texts "
        "carry the terms of the generator and of the rows that it was shown."
    )
    front = yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=float("inf"))
    parts = [
        f"---\n{front}---",
        f"# gendistill bench: {suite.name}",
        suite.about,
        _USE.format(first=first).strip(),
        "## Results",
        tables.strip(),
        "![Accuracy against texts a class](accuracy.png)" if figure else "",
        f"## Terms\n\n{terms}\n\nMade with gendistill {__version__}.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def index_of_sets(bench: Bench) -> str:
    """A JSON line for each set."""
    every = bench.whole()
    lines = []
    for cell in sorted(every.cells()):
        path = every.set_path(cell)
        if not path.exists():
            continue
        choice = every.result(Unit("choose", cell)) or {}
        line: dict[str, Any] = {
            "path": str(path.relative_to(every.out)),
            "task": cell.task,
            "per_class": cell.per_class,
            "method": cell.method,
            "set": cell.set,
            "suite": bench.suite.hash,
            **{key: choice[key] for key in ("config", "seed", "won", "sha256") if key in choice},
            "student_seeds": [first_seed(bench, cell) + run for run in range(bench.suite.runs)],
        }
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return "".join(lines)
