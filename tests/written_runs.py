"""Run directories written through ``Store`` itself, without any model: for tests of what reads a finished run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tiny import write_jsonl

from gendistill import Config
from gendistill.data import RealData, load_real
from gendistill.data.load_instructions import load_instructions
from gendistill.data.rows import labels_of, texts_of
from gendistill.examples import Candidate, Example
from gendistill.generators.base import Reply, Request
from gendistill.store import Judged, Planned, Store, fingerprint

CHUNK = 1024  # rows of a feature file, as a run has them
Fields = tuple[str, ...]


def embedded(rows: Sequence[Example], classes: int, dims: int, seed: int) -> torch.Tensor:
    """(n, dims) float32 of length 1: one direction a class, and noise."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.nn.functional.normalize(
        torch.randn(classes, dims, generator=torch.Generator().manual_seed(1)), dim=1
    )
    noise = torch.randn(len(rows), dims, generator=generator) / dims**0.5
    return torch.nn.functional.normalize(centres[[row.label for row in rows]] + noise, dim=1)


def write_run(
    out: Path,
    real_rows: Sequence[dict[str, Any]],
    candidates: Sequence[tuple[Fields, int]],
    *,
    per_class: int = 3,
    dims: int = 8,
    data_name: str = "rows.jsonl",
    task: str = "auto",
    rejected: Sequence[str] = ("wrong_label",),
    every: int = 5,
    **settings: Any,
) -> RealData:
    """A finished run at ``out`` whose real rows lie beside it, in ``data_name``.

    :param candidates: (texts, class) in the order asked; each ``every``-th is turned away, by ``rejected`` in turn, and
        the first ``per_class`` of the others of each class are chosen.
    """
    data = write_jsonl(out.parent / data_name, real_rows)
    config = Config(out=out, per_class=per_class, data={"dataset": str(data), "task": task}, **settings)
    with Store(out, config) as store:
        real = _load(config)
        parts = (real.train, real.dev, real.test, real.target)
        store.remember("real data", fingerprint([row for part in parts for row in part]))
        store.remember("generator", {"name": "writer", "chat": False})
        store.remember("teacher dev accuracy", 0.9)
        classes = 1 + max(label for _, label in candidates)
        planned = list(_planned(candidates, [row.id for row in real.train[:2]]))
        store.plan(1, planned)
        store.add_replies(Reply(one.request.id, "text", "stop", 20, 10) for one in planned)
        judged = list(_judged(planned, candidates, rejected, every))
        store.add_candidates(judged)
        _features(store, "real", real.train, embedded(real.train, classes, dims, 2))
        seen = [one.candidate.example for one in judged if one.filter is None or one.filter == "wrong_label"]
        _features(store, "round-1", seen, embedded(seen, classes, dims, 3))
        chosen = [
            one
            for label in range(classes)
            for one in [j for j in judged if j.filter is None and j.candidate.example.label == label][:per_class]
        ]
        curve = [
            {"per_class": k, "chosen": k * classes, "objective": 1 / (1 + k), "probe_accuracy": 1 - 0.5**k}
            for k in range(1, per_class + 1)
        ]
        result = {"asked": len(planned), "history": [], "portfolio": [], "curve": curve, "filters": {}}
        store.add_round(1, 0.25, [one.candidate.id for one in chosen], result)
        key, worse = ("loss", 0.1) if task == "instruction" else ("accuracy", -0.1)
        for seed in range(2):
            for method, value in (("distilled", 0.8), ("random real rows", 0.8 + worse)):
                scores = {key: value + seed / 100, **({} if key == "loss" else {"macro_f1": value})}
                store.add_evaluation(method, seed, f"{method} {seed}", scores)
        names = [f"skill {label}" for label in range(classes)] if task == "instruction" else real.label_names
        lines = [json.dumps(_row(one, names, real), ensure_ascii=False) for one in chosen]
        store.write("distilled.jsonl", "".join(line + "\n" for line in lines))
    return real


def _load(config: Config) -> RealData:
    if config.data.task == "instruction":
        return load_instructions(config.data, seed=config.seed)
    return load_real(config.data, per_class=1, seed=config.seed)


def _planned(candidates: Sequence[tuple[Fields, int]], parents: list[str]) -> Iterator[Planned]:
    for number, (_, label) in enumerate(candidates):
        request = Request(f"request-{number:06d}", "Write.", None, number, 20, 1.0, 0, 1.0)
        yield Planned(request, label, number, "text_classification.base", tuple(parents))


def _judged(
    planned: Sequence[Planned], candidates: Sequence[tuple[Fields, int]], rejected: Sequence[str], every: int
) -> Iterator[Judged]:
    out = 0
    for number, (one, (fields, label)) in enumerate(zip(planned, candidates, strict=True)):
        candidate = Candidate(Example(fields, label), one.request.id, 0, 1, "writer", one.template, one.parents)
        if number % every == every - 1:
            yield Judged(candidate, rejected[out % len(rejected)], f"reason {number}", {})
            out += 1
        else:
            scores = {"teacher_probability": round(1 - number / (2 * len(planned)), 5), "real_similarity": 0.5}
            yield Judged(candidate, None, None, scores)


def _row(one: Judged, names: Sequence[str], real: RealData) -> dict[str, Any]:
    candidate = one.candidate
    return {
        **texts_of(candidate.example),
        **labels_of(candidate.example, names, real.label_sets),
        "id": candidate.id,
        "scores": {**one.scores, "gain": 0.01},
        "provenance": {
            "generator": candidate.generator,
            "template": candidate.template,
            "round": candidate.round,
            "request": candidate.request_id,
            "parents": list(candidate.parents),
        },
    }


def _features(store: Store, name: str, rows: Sequence[Example], embeddings: torch.Tensor) -> None:
    for index, start in enumerate(range(0, len(rows), CHUNK)):
        ids = [row.id for row in rows[start : start + CHUNK]]
        store.save_features(f"{name}-{index:05d}", ids, {"embedding": embeddings[start : start + CHUNK].clone()})
