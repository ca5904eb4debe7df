"""The candidates of a benchmark: written by runs of their own, or given as files; kept with the filters' verdicts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gendistill.atomic import atomic_write
from gendistill.bench.cost import Meter
from gendistill.bench.folder import Bench
from gendistill.bench.suite import slug
from gendistill.data.export import json_line
from gendistill.data.readers import open_file
from gendistill.data.rows import columns_for, fields_of, texts_of
from gendistill.errors import DataError
from gendistill.examples import Example
from gendistill.loop import distill
from gendistill.progress import Reporter
from gendistill.store import Store


def pool_path(bench: Bench, pool: str, task: str) -> Path:
    return bench.out / "candidates" / slug(pool) / f"{slug(task)}.jsonl"


def write_pool(bench: Bench, pool: str, task: str, given: Path | None, reporter: Reporter) -> None:
    """The candidates of a pool for a task, if they are not there yet: from a file, or written by a run of its own.

    :param given: folder with a ``<task>.jsonl`` (or .jsonl.gz) of texts and labels, perhaps with ``kept``.
    """
    path = pool_path(bench, pool, task)
    with bench.claim("pool", pool, task, wait=True):
        if path.exists():
            return
        if given is not None:
            atomic_write(path, "".join(map(json_line, _given_pool(given, task))))
            return
        folder = bench.out / "work" / f"run-{slug(pool)}-{slug(task)}"
        config = bench.suite.generation(pool, task, bench.data(task), folder)
        with Meter() as meter:
            made = distill(config, reporter=reporter)
        with Store(config.out, config, "always") as store:
            tokens = store.tokens()
            rows = [
                {
                    **texts_of(row),
                    "label_name": made.label_names[row.label],
                    "kept": filter is None,
                    "filter": filter,
                }
                for row, filter in store.verdicts()
                if len(row.fields) == len(made.real.text_names)  # what could not be read as a pair is no candidate
            ]
        cost = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], **meter.cost}
        atomic_write(path.with_suffix(".json"), json.dumps(cost) + "\n")
        atomic_write(path, "".join(map(json_line, rows)))


def _given_pool(folder: Path, task: str) -> list[dict[str, Any]]:
    names = [f"{name}.jsonl{ending}" for name in dict.fromkeys((task, slug(task))) for ending in ("", ".gz")]
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        raise DataError(f"{folder}: no candidates for the task {task!r} ({' or '.join(names[:2])})")
    rows = []
    for number, row in open_file(file).rows(None):
        label = row.get("label_name", row.get("label"))
        texts = {column: row.get(column) for column in (columns_for(1) if "text" in row else columns_for(2))}
        if label is None or not all(isinstance(text, str) and text.strip() for text in texts.values()):
            raise DataError(f"{file}: row {number} has no text (or one of a pair only) or no label_name")
        kept, filter = row.get("kept", True), row.get("filter")
        rows.append(
            {
                **{key: str(text).strip() for key, text in texts.items()},
                "label_name": label,
                "kept": kept,
                "filter": filter,
            }
        )
    return rows


def read_pool(bench: Bench, pool: str, task: str, label_names: Sequence[str], *, filtered: bool) -> list[Example]:
    """Candidates, each text once; a text under two labels is none."""
    path = pool_path(bench, pool, task)
    place = {name: index for index, name in enumerate(label_names)}
    found: dict[tuple[str, ...], set[int]] = {}
    for number, row in open_file(path).rows(None):
        if row["label_name"] not in place:
            raise DataError(f"{path}: row {number} has the label {row['label_name']!r}; the data has {label_names}")
        if row["kept"] or not filtered:
            found.setdefault(fields_of(row), set()).add(place[row["label_name"]])
    return [Example(texts, labels.pop()) for texts, labels in found.items() if len(labels) == 1]
