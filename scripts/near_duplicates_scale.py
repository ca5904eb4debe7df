"""Near duplicates among many rows: by this process, and by Ray's workers on this machine.

python scripts/near_duplicates_scale.py                    # 100,000 rows of 384 dimensions
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time

import numpy as np

from gendistill.config import EngineConfig, GeneratorConfig
from gendistill.engines.near import search_by
from gendistill.engines.ray import RayRunner, connected
from gendistill.engines.storage import Storage
from gendistill.near_duplicates import FloatArray, near_duplicates
from gendistill.progress import Silent

LEAST = 0.9


def clustered(count: int, dims: int) -> FloatArray:
    """Rows of length 1, three around each of a third as many centres."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((count // 3, dims), dtype=np.float32)[rng.integers(count // 3, size=count)]
    rows += 0.35 * rng.standard_normal((count, dims), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dims", type=int, default=384)
    args = parser.parse_args()
    rows = clustered(args.rows, args.dims)
    began = time.perf_counter()
    here = near_duplicates(rows, 0, LEAST)
    local = time.perf_counter() - began
    engine = EngineConfig(kind="ray")
    with tempfile.TemporaryDirectory() as folder, connected(engine):
        began = time.perf_counter()
        search = search_by(RayRunner(engine, GeneratorConfig()), Storage(folder), Silent())
        there = near_duplicates(rows, 0, LEAST, search)
        far = time.perf_counter() - began
    assert here == there
    print(json.dumps({"rows": args.rows, "near": len(here), "local_s": round(local, 1), "ray_s": round(far, 1)}))


if __name__ == "__main__":
    main()
