"""Instruction data in: reads it, counts what cannot be learnt from, and parts it into train, dev and test.

Rows that ask the same stay together in one part, or a test would be known beforehand.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Sequence

from gendistill.config import DataConfig
from gendistill.data.findings import DataReport
from gendistill.data.instructions import (
    Fields,
    InstructionShape,
    common_system,
    find_shape,
    prompt_of,
    read_fields,
    unique,
)
from gendistill.data.load import NO_TEST, TARGET_DEV, RealData
from gendistill.data.readers import Source
from gendistill.data.sources import open_named, open_source, open_test
from gendistill.errors import ConfigError, DataError
from gendistill.examples import Example

_SAMPLE_ROWS = 100  # looked at to find the columns
SHAPES = "instruction and output, prompt and completion, or messages"


def load_instructions(config: DataConfig, *, seed: int) -> RealData:
    """Read, check and split instruction data. All rows have the label 0 until they are clustered.

    Dev is held out of the training rows; test is the given file or split, else a hub dataset's own, else carved. More
    training rows than ``data.max_reference_rows`` are a seeded sample of them.

    :raises DataError: the data cannot be read, is no instruction data, or is too little.
    :raises ConfigError: ``data.max_rows`` is set.
    """
    if config.max_rows is not None:
        raise ConfigError("data.max_rows: instruction data is not sampled by it; see data.max_reference_rows")
    source, splits = open_source(config)
    report = DataReport(source=source.name, max_chars=config.max_chars, encoding_note=source.encoding_note)
    rows, problems, report.rows_read = _read(source, config)
    report.problems = dict(problems)
    rows, report.exact_duplicates = unique(rows)
    given = None if config.test == NO_TEST else open_test(config, splits)
    test: list[Fields] = []
    if given is not None:
        test, dropped, _ = _read(given, config)
        report.test_rows_dropped, report.test_source = sum(dropped.values()), given.name
        if not test:
            raise DataError(f"{given.name}: no row has both an instruction and an answer; give another --test")
        rows = _without(rows, test, report)
    elif config.test == NO_TEST:
        report.test_source = "not read"
    else:
        rows, test = _split(rows, config.test_fraction, seed)
        report.test_source = f"{config.test_fraction:.0%} of the rows, held out"
    target: list[Fields] = []
    if config.target is not None:
        aim = open_named(config.target)
        target, dropped, _ = _read(aim, config)
        target, _ = unique(target)
        rows = _without(rows, target, report)
        if len(target) < 4:
            raise DataError(f"{aim.name}: a target needs four rows or more, and has {len(target)}")
        lost = f" ({sum(dropped.values()):,} that cannot be learnt from)" if dropped else ""
        report.target = f"{aim.name}, {len(target):,} rows{lost}"
    train, dev = _split(rows, config.dev_fraction, seed + 1)
    if target:
        target, dev = _split(target, TARGET_DEV, seed + 2)
    if len(train) > config.max_reference_rows:
        keep = sorted(random.Random(seed).sample(range(len(train)), config.max_reference_rows))
        train = [train[row] for row in keep]
    parts = {"train": train, "dev": dev, "test": test, "target": target}
    for name, part in parts.items():
        if part or name == "train":
            report.class_counts[name] = {"": len(part)}
    if len(train) < config.clusters or not dev or (not test and config.test != NO_TEST):
        raise DataError(
            f"{source.name}: {len(rows):,} usable rows are too few for {config.clusters} clusters, dev and test; add "
            f"rows, or lower data.clusters ({_told(report)})"
        )
    found = {name: [Example(fields, 0) for fields in part] for name, part in parts.items()}
    return RealData(
        train=found["train"],
        dev=found["dev"],
        test=found["test"],
        target=found["target"],
        label_names=[""],
        label_descriptions={},
        description=config.description or "",
        source=source.name,
        report=report,
        text_names=(),
        system=common_system(train),
    )


def _read(source: Source, config: DataConfig) -> tuple[list[Fields], Counter[str], int]:
    """The rows that can be learnt from, how many have which problem, and how many there are."""
    shape = _shape(source)
    rows: list[Fields] = []
    problems: Counter[str] = Counter()
    count = 0
    for _, values in source.rows(list(shape.columns)):
        count += 1
        fields = read_fields(values, shape, config.max_chars)
        if isinstance(fields, str):
            problems[fields] += 1
        else:
            rows.append(fields)
    return rows, problems, count


def _shape(source: Source) -> InstructionShape:
    columns = source.names(row for _, row in itertools.islice(source.rows(None), _SAMPLE_ROWS))
    shape = find_shape(columns)
    if shape is None:
        there = ", ".join(columns) or "none"
        raise DataError(f"{source.name}: no instruction data ({SHAPES}); the columns there are: {there}")
    return shape


def _without(rows: Sequence[Fields], other: Sequence[Fields], report: DataReport) -> list[Fields]:
    """The rows that ask something else than the other ones."""
    known = set(map(prompt_of, other))
    kept = [fields for fields in rows if prompt_of(fields) not in known]
    report.leaked_rows += len(rows) - len(kept)
    return kept


def _split(rows: Sequence[Fields], fraction: float, seed: int) -> tuple[list[Fields], list[Fields]]:
    """(kept, held out), each in order; prompts are held out, with all their answers."""
    prompts = list(dict.fromkeys(map(prompt_of, rows)))
    held = set(random.Random(seed).sample(prompts, min(max(1, round(fraction * len(prompts))), len(prompts))))
    return [row for row in rows if prompt_of(row) not in held], [row for row in rows if prompt_of(row) in held]


def _told(report: DataReport) -> str:
    dropped = ", ".join(f"{name} {count}" for name, count in report.problems.items())
    return f"{report.rows_read:,} rows read" + (f"; dropped: {dropped}" if dropped else "")
