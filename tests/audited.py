"""Real data and clean sets for the audit's tests: texts of random words, and embeddings that need no model."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from gendistill.audit import Audit, audit_rows
from gendistill.audit.result import Check
from gendistill.config import AuditConfig, Config
from gendistill.data import RealData
from gendistill.data.load import DataReport
from gendistill.data.rows import labels_of, texts_of
from gendistill.examples import Example
from gendistill.folding import fold

NAMES = ["north", "south", "west"]
SHARED = [f"word{number}" for number in range(300)]
OWN = [[f"{name}{number}" for number in range(60)] for name in NAMES]
DIMS = 96


def text(label: int, rng: random.Random) -> str:
    """Twelve to twenty words, a third of them its class's own."""
    size = rng.randrange(12, 21)
    words = [rng.choice(OWN[label]) if rng.random() < 0.35 else rng.choice(SHARED) for _ in range(size)]
    return " ".join(words).capitalize() + "."


def examples(per_class: int, seed: int) -> list[Example]:
    rng = random.Random(seed)
    return [Example((text(row % len(NAMES), rng),), row % len(NAMES)) for row in range(per_class * len(NAMES))]


def real_data(train: int = 100, held: int = 50, **changes: Any) -> RealData:
    """So many rows a class; half of the held-out ones are dev, the others test."""
    rows = examples(held, 2)
    values: dict[str, Any] = {
        "train": examples(train, 1),
        "dev": rows[::2],
        "test": rows[1::2],
        "label_names": NAMES,
        "label_descriptions": {},
        "description": "texts",
        "source": "made up",
        "report": DataReport(),
    }
    return RealData(**{**values, **changes})


def embed(name: str, rows: Sequence[Example]) -> Tensor:
    """(n, 96) float32 of length 1: the sum of a random vector for each word, but for rows without any."""
    vectors = np.zeros((len(rows), DIMS), dtype=np.float32)
    for place, row in enumerate(rows):
        for word in fold(row.text)[:200]:
            vectors[place] += np.random.default_rng(crc32(word.encode())).standard_normal(DIMS)
    return torch.nn.functional.normalize(torch.from_numpy(vectors), dim=1)


def written(rows: Sequence[Example], **extra: Any) -> list[dict[str, Any]]:
    return [{**texts_of(row), **labels_of(row, NAMES, None), "id": row.id, **extra} for row in rows]


def audited(
    rows: Sequence[Example],
    *checks: str,
    real: RealData | None = None,
    extra: dict[str, Any] | None = None,
    **audit: Any,
) -> Audit:
    settings = AuditConfig(**({"checks": list(checks)} if checks else {}), **audit)
    return audit_rows(written(rows, **(extra or {})), real or real_data(), Config(audit=settings), embed=embed)


def checked(rows: Sequence[Example], name: str, **values: Any) -> Check:
    (check,) = audited(rows, name, **values).checks
    return check


def sentences(texts: Sequence[str], label: int = 0) -> list[Example]:
    return [Example((one,), label) for one in texts]
