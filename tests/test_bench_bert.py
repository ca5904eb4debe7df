"""The harness against published numbers: BERT-base on SST-2 at 20 texts a class (DiLM, arXiv 2404.00264, table 1).

Needs a GPU, google-bert/bert-base-uncased (from the hub, or its folder in GENDISTILL_BERT) and GLUE's SST-2 (from the
hub, or ``sst2/train.jsonl.gz`` and ``sst2/validation.jsonl.gz`` in the folder GENDISTILL_DATA).
"""

from __future__ import annotations

import os
from pathlib import Path
from statistics import fmean

import pytest
import torch

from gendistill.bench import Only, load_suite, open_bench, run_bench
from gendistill.bench.report import collect

PUBLISHED = {"random": (70.3, 6.8), "k-means-nearest": (79.8, 3.5)}  # mean and standard deviation over models
ASKED = os.environ.get("GENDISTILL_BERT")


@pytest.mark.skipif(
    not torch.cuda.is_available() or ASKED is None,
    reason="needs a GPU, and GENDISTILL_BERT=google-bert/bert-base-uncased or the folder of its weights",
)
def test_bert_base_gives_the_published_numbers(tmp_path: Path) -> None:
    suite = load_suite("standard", sets=10, runs=2, per_class=[20], full_runs=0, fluency=None)
    assert ASKED is not None
    bert = suite.students["bert-base"].model_copy(update={"model": ASKED, "max_tokens": 68})
    config = {"student": {"model": ASKED, "max_tokens": 68}}
    suite = suite.model_copy(update={"students": {"bert-base": bert}, "config": config})
    data = os.environ.get("GENDISTILL_DATA")
    only = Only(tasks=("sst2",), methods=tuple(PUBLISHED))
    bench = open_bench(suite, tmp_path / "out", Path(data) if data else None, only)
    assert run_bench(bench) == {}
    found = collect(bench, "bert-base").methods
    means = {name: fmean(fmean(runs) for runs in found[name]["sst2", 20].values()) for name in PUBLISHED}
    for name, (mean, deviation) in PUBLISHED.items():
        assert abs(means[name] - mean) < deviation, means
    assert means["random"] < means["k-means-nearest"]
