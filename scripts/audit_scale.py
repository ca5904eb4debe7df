"""Time and memory of the audit's checks on a large set against large real data: random words, frequent and rare ones.

Embeddings are random vectors, since what an encoder takes for them says nothing of the checks. Names are looked for by
patterns alone unless --names is given.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Sequence

import numpy as np
import torch

from gendistill.audit import CHECKS
from gendistill.audit.masking import Masker
from gendistill.audit.material import Material, Named
from gendistill.config import AuditConfig
from gendistill.evaluate import stratified_sample
from gendistill.examples import Example

WORDS, VOCABULARY, CLASSES, DIMS = 40, 50_000, 4, 384


def texts(count: int, seed: int) -> list[Example]:
    """Of words whose frequencies fall with their rank, as those of a language do."""
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, VOCABULARY + 1)
    drawn = rng.choice(VOCABULARY, size=(count, WORDS), p=weights / weights.sum())
    return [
        Example((" ".join(f"w{word}" for word in row),), place % CLASSES) for place, row in enumerate(drawn.tolist())
    ]


def embed(name: str, rows: Sequence[Example]) -> torch.Tensor:
    vectors = torch.randn(len(rows), DIMS, generator=torch.Generator().manual_seed(len(name)))
    return torch.nn.functional.normalize(vectors, dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--real-rows", type=int, default=100_000)
    parser.add_argument("--names", action="store_true", help="find names by an installed spaCy pipeline too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    known, rows = texts(options.real_rows, 1), texts(options.rows, 2)
    material = Material(
        rows=[{"text": row.text} for row in rows],
        lines=range(1, len(rows) + 1),
        examples=rows,
        known=known,
        reference=Named("real", stratified_sample(known, CLASSES, 10_000, 0)),
        held=Named("held", texts(500, 3)),
        label_names=[f"class {label}" for label in range(CLASSES)],
        config=AuditConfig(),
        embed=embed,
        masker=Masker.installed() if options.names else Masker(),
        seed=0,
        student="builtin:minilm",
    )
    for name, check in CHECKS.items():
        start = time.perf_counter()
        made = check(material)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(f"{name}: {time.perf_counter() - start:.1f} s, at most {peak:.1f} GB so far ({made.status})", flush=True)


if __name__ == "__main__":
    main()
