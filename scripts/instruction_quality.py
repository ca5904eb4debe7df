"""How well a causal LM learns from 100 chosen instructions: real rows of Dolly and GSM8K, one pool a set.

    python scripts/instruction_quality.py features --data DATA --out OUT   # once: embeddings, clusters, gradients
    python scripts/instruction_quality.py fit --out OUT --sets 5 --methods random k-means-nearest gradient
    python scripts/instruction_quality.py table --out OUT                  # Markdown

DATA holds dolly/train.jsonl.gz and gsm8k/{train,test}.jsonl.gz with instruction, input, output. Four fifths of the rows
are of Dolly. A set s of every method is chosen from the same four fifths of the pool, drawn by seed s; methods see
those and the target rows, never dev (on which recipes were chosen: ``--on dev``) and never test. Results are added to
OUT/results.jsonl, and what is there is not done twice.
"""

from __future__ import annotations

import argparse
import gzip
import json
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize

from gendistill.config import StudentConfig
from gendistill.examples import Example
from gendistill.folder_store import FolderStore
from gendistill.objectives import ObjectiveInputs, build_objective
from gendistill.selection import select
from gendistill.students.base import Features
from gendistill.students.causal import CausalStudent

# (rows of Dolly, rows of GSM8K); test rows of GSM8K are of its test split
PARTS = {"pool": (480, 120), "target": (128, 32), "dev": (64, 16), "test": (128, 32)}
LONGEST = {"dolly": 96, "gsm8k": 160}  # tokens of prompt and answer
SHARE, BUDGET, CLUSTERS = 0.8, 100, 4
CONFIG: dict[str, Any] = {
    "model": "builtin:smollm2-135m-instruct",
    "max_tokens": 192,
    "batch_size": 8,
    "steps": 1,
    "epochs": 1.0,
    "checkpoints": 2,
    "gradient_dims": 2048,
    "lora": {"dtype": "bfloat16"},
}
WARM_ROWS, WARM_EPOCHS = 160, 1.0  # of the fit whose end is the second checkpoint

# name -> (objective weights or a baseline, checkpoints, clusters, are gradients of length 1)
METHODS: dict[str, tuple[dict[str, float] | str, tuple[int, ...], int, bool]] = {
    "random": ("random", (), 1, False),
    "k-means-nearest": ("k-means-nearest", (), 1, False),
    "herding": ("herding", (), 1, False),
    "random, as long": ("as long", (), 1, False),
    "gradient": ({"gradient_body": 1.0}, (0, 1), CLUSTERS, False),
    "gradient, start": ({"gradient_body": 1.0}, (0,), CLUSTERS, False),
    "gradient, trained": ({"gradient_body": 1.0}, (1,), CLUSTERS, False),
    "gradient, one cluster": ({"gradient_body": 1.0}, (0, 1), 1, False),
    "gradient, rows of length 1": ({"gradient_body": 1.0}, (0, 1), CLUSTERS, True),
    "meta_model_gradient": ({"meta_model_gradient": 1.0}, (0, 1), CLUSTERS, True),
    "gradient + meta_model": ({"gradient_body": 1.0, "meta_model": 1.0}, (0, 1), CLUSTERS, False),
}
LIKE = "gradient, one cluster"  # what "random, as long" is as long as


def student() -> CausalStudent:
    made = CausalStudent(StudentConfig(**CONFIG), device="cpu")
    made.batch_tokens = 400  # less padding where a batch of a fit holds short and long rows
    made.conversations.chat = False  # the plain template: a chat template's own system text is a third of a short row
    return made


def read(path: Path) -> list[Example]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [
        Example(("", "\n\n".join(filter(None, (row["instruction"], row["input"]))), row["output"]), 0) for row in rows
    ]


def drawn(data: Path, model: CausalStudent) -> dict[str, list[tuple[str, Example]]]:
    """Rows of every part, none in two."""
    rng = np.random.default_rng(0)
    found: dict[str, list[tuple[str, Example]]] = {name: [] for name in PARTS}
    for place, source in enumerate(("dolly", "gsm8k")):
        pools = {"train": read(data / source / "train.jsonl.gz")}
        if source == "gsm8k":
            pools["test"] = read(data / source / "test.jsonl.gz")
        left = {}
        for split, rows in pools.items():
            short = [row for row in rows if 8 <= len(model.conversations.encode(row.fields).ids) <= LONGEST[source]]
            left[split] = [short[k] for k in rng.permutation(len(short))]
        for name, counts in PARTS.items():
            split = "test" if name == "test" and "test" in left else "train"
            taken, left[split] = left[split][: counts[place]], left[split][counts[place] :]
            assert len(taken) == counts[place], f"{source}: too few short rows"
            found[name] += [(source, row) for row in taken]
    return found


def features(data: Path, out: Path) -> None:
    models = [student(), student()]
    rows = drawn(data, models[0])
    saved = {name: [[source, *row.fields] for source, row in part] for name, part in rows.items()}
    (out / "rows.json").write_text(json.dumps(saved, ensure_ascii=False), encoding="utf-8")
    seen = [name for name in rows if name != "test"]
    every = [row for name in seen for _, row in rows[name]]
    start = time.time()
    told = lambda done, total: print(f"  {done}/{total} after {time.time() - start:.0f} s", flush=True)  # noqa: E731

    def halves(call: Any) -> list[Any]:
        with ThreadPoolExecutor(2) as workers:
            return list(workers.map(call, models, (every[::2], every[1::2])))

    def woven(parts: list[Tensor]) -> Tensor:
        result = torch.empty(len(every), *parts[0].shape[1:], dtype=parts[0].dtype)
        result[::2], result[1::2] = parts
        return result

    tokens = torch.tensor([len(row.answer) for row in models[0].encode(every)])
    save_file({"tokens": tokens}, out / "tokens.st")
    if not (out / "embed.st").exists():
        save_file({"embeddings": woven(halves(lambda model, part: model.embed(part, progress=told)))}, out / "embed.st")
    for checkpoint in (0, 1):
        if (out / f"gradient{checkpoint}.st").exists():
            continue
        if checkpoint:
            targets = [row for _, row in rows["target"]][:: max(1, len(rows["target"]) // WARM_ROWS)]
            models[0].config = StudentConfig(**CONFIG | {"epochs": WARM_EPOCHS})
            models[0].fit(targets, seed=1000, checkpoints=1, progress=told)
            models[1]._states = models[0]._states
        computed = halves(lambda model, part: model.features(part, progress=told))
        save_file({"gradient": woven([one.gradient for one in computed])}, out / f"gradient{checkpoint}.st")


class Kept:
    """What ``features`` wrote."""

    def __init__(self, out: Path) -> None:
        saved = json.loads((out / "rows.json").read_text(encoding="utf-8"))
        self.rows = {name: [Example(tuple(row[1:]), 0) for row in part] for name, part in saved.items()}
        self.sources = {name: [row[0] for row in part] for name, part in saved.items()}
        sizes = np.cumsum([0, *(len(part) for part in saved.values())])
        self.place = {name: slice(sizes[k], sizes[k + 1]) for k, name in enumerate(saved)}
        self.embeddings = load_file(out / "embed.st")["embeddings"]
        found = [out / f"gradient{k}.st" for k in (0, 1)]
        self.gradients = [load_file(path)["gradient"] if path.exists() else None for path in found]
        self.tokens = load_file(out / "tokens.st")["tokens"]

    def pool(self, seed: int) -> np.ndarray:
        count = len(self.rows["pool"])
        return np.sort(np.random.default_rng([7, seed]).permutation(count)[: round(SHARE * count)])

    def clusters(self, count: int) -> Tensor:
        """Skill clusters of all rows: k-means on the target rows' embeddings."""
        points = self.embeddings.numpy()
        if count == 1:
            return torch.zeros(len(points), dtype=torch.int64)
        kmeans = faiss.Kmeans(points.shape[1], count, niter=50, nredo=5, seed=0, spherical=True)
        kmeans.train(np.ascontiguousarray(points[self.place["target"]]))
        return torch.from_numpy(kmeans.index.search(points, 1)[1][:, 0])

    def inputs(self, rows: np.ndarray, checkpoints: Sequence[int], count: int, unit: bool) -> ObjectiveInputs:
        """The real rows to stand in for are those of the pool and the target rows: a mean of few is mostly noise."""
        labels, pool = self.clusters(count), torch.from_numpy(rows)
        real = torch.cat([pool, torch.arange(self.place["target"].start, self.place["target"].stop)])

        def of(index: Any) -> list[Features]:
            found = []
            for checkpoint in checkpoints:
                gradient = self.gradients[checkpoint][index]
                gradient = normalize(gradient, dim=1) if unit else gradient
                found.append(Features(self.embeddings[index], torch.ones(len(gradient), 1), gradient))
            return found

        return ObjectiveInputs(
            candidate_labels=labels[pool],
            real_labels=labels[real],
            candidate_features=of(pool),
            real_features=of(real),
            candidate_embeddings=self.embeddings[pool],
            real_embeddings=self.embeddings[real],
            num_classes=max(2, count),
            ridge=0.1,
        )

    def choose(self, method: str, seed: int) -> list[int]:
        """Rows of the pool."""
        what, checkpoints, count, unit = METHODS[method]
        rows = self.pool(seed)
        if what == "as long":
            return self.alike(self.choose(LIKE, seed), rows, seed)
        inputs = self.inputs(rows, checkpoints, count, unit)
        if isinstance(what, str):
            chosen = select(what, None, inputs.candidate_embeddings, inputs.candidate_labels, [BUDGET], seed=seed)
        else:
            shares = torch.bincount(inputs.real_labels, minlength=inputs.num_classes)
            have = torch.bincount(inputs.candidate_labels, minlength=inputs.num_classes)
            budgets = proportional(shares.tolist(), have.tolist())
            objective = build_objective(what, inputs)
            chosen = select("greedy", objective, inputs.candidate_embeddings, inputs.candidate_labels, budgets)
        return [int(rows[k]) for k in chosen.chosen]

    def alike(self, chosen: Sequence[int], rows: np.ndarray, seed: int) -> list[int]:
        """A random set with as many rows of each source as another, and of many such the nearest in answer tokens."""
        math = np.array([source == "gsm8k" for source in self.sources["pool"]])
        tokens, rng = self.tokens.numpy(), np.random.default_rng([9, seed])
        wanted, count = tokens[list(chosen)].sum(), int(math[list(chosen)].sum())
        draws = [
            np.concatenate(
                [rng.permutation(rows[math[rows]])[:count], rng.permutation(rows[~math[rows]])[: BUDGET - count]]
            )
            for _ in range(300)
        ]
        return min(draws, key=lambda draw: abs(int(tokens[draw].sum()) - int(wanted))).tolist()

    def pull(self, chosen: Sequence[int], against: str) -> list[float]:
        """Cosine of the summed gradients of chosen rows and of a part's rows, for each checkpoint there is."""
        found = []
        for gradient in self.gradients:
            if gradient is not None:
                mine, theirs = gradient[list(chosen)].sum(0), gradient[self.place[against]].sum(0)
                found.append(float(torch.cosine_similarity(mine, theirs, dim=0)))
        return found


def proportional(shares: list[int], have: list[int]) -> list[int]:
    """``BUDGET`` in parts as ``shares``, none more than there are."""
    exact = [BUDGET * share / sum(shares) for share in shares]
    budgets = [min(int(part), count) for part, count in zip(exact, have, strict=True)]
    order = sorted(range(len(shares)), key=lambda c: budgets[c] - exact[c])
    while sum(budgets) < BUDGET:
        for c in order:
            if sum(budgets) < BUDGET and budgets[c] < have[c]:
                budgets[c] += 1
    return budgets


def fit(out: Path, sets: Sequence[int], methods: Sequence[str], on: str, workers: int) -> None:
    kept, path = Kept(out), out / "results.jsonl"
    done = set()
    if path.exists():
        done = {(r["method"], r["set"], r["on"]) for r in map(json.loads, path.read_text().splitlines())}
    todo = [(m, s) for s in sets for m in methods if (m, s, on) not in done]
    lock, own, adapters = threading.Lock(), threading.local(), FolderStore(out / "adapters")
    (out / "adapters").mkdir(exist_ok=True)
    models = [student() for _ in range(min(workers, len(todo)))]

    def one(job: tuple[str, int]) -> None:
        method, seed = job
        with lock:
            if not hasattr(own, "model"):
                own.model = models.pop()
            chosen = kept.choose(method, seed)
        start, name = time.time(), f"{method}-{seed}".replace(" ", "_")
        if fitted := adapters.saved_folder(name):
            own.model.load(fitted)
        else:
            own.model.fit([kept.rows["pool"][row] for row in chosen], seed=seed)
            adapters.save_folder(name, own.model.save)
        taught = time.time() - start
        losses = own.model.losses(kept.rows[on])
        result = {
            "method": method,
            "set": seed,
            "on": on,
            "loss": float(losses[:, 0].sum() / losses[:, 1].sum()),
            "rows": losses.tolist(),
            "chosen": chosen,
            "answer_tokens": sum(len(c.answer) for c in own.model.encode([kept.rows["pool"][r] for r in chosen])),
            "gsm8k": sum(kept.sources["pool"][row] == "gsm8k" for row in chosen),
            "pull": kept.pull(chosen, "dev"),
            "fit_s": round(taught, 1),
            "wall_s": round(time.time() - start, 1),
        }
        with lock, path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(result) + "\n")
        print({k: v for k, v in result.items() if k not in ("rows", "chosen")}, flush=True)

    with ThreadPoolExecutor(max(1, workers)) as pool:
        list(pool.map(one, todo))


def table(out: Path, on: str) -> str:
    """Means over sets; differences from random with 95 % bootstrap intervals that resample sets and held-out rows."""
    kept = Kept(out)
    results = [r for r in map(json.loads, (out / "results.jsonl").read_text().splitlines()) if r["on"] == on]
    found: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for result in results:
        found[result["method"]][result["set"]] = result
    math = np.array([source == "gsm8k" for source in kept.sources[on]])
    lines = ["| chosen by | sets | loss a token | of Dolly | of GSM8K | answer tokens | GSM8K rows | minus random |"]
    lines[0] += " minus k-means-nearest |"
    lines.append("|---" * 9 + "|")
    for method, sets in found.items():
        per = np.stack([sets[s]["rows"] for s in sorted(sets)])  # (sets, rows, 2)
        ratio = lambda part: (part[..., 0].sum(1) / part[..., 1].sum(1)).mean()  # noqa: E731
        cells = [
            method,
            str(len(sets)),
            f"{ratio(per):.4f}",
            f"{ratio(per[:, ~math]):.4f}",
            f"{ratio(per[:, math]):.4f}",
        ]
        cells += [f"{np.mean([sets[s][key] for s in sets]):.0f}" for key in ("answer_tokens", "gsm8k")]
        cells += [
            difference(sets, found.get(other, {})) if other != method else "" for other in ("random", "k-means-nearest")
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def difference(mine: dict[int, dict[str, Any]], theirs: dict[int, dict[str, Any]]) -> str:
    both = sorted(mine.keys() & theirs.keys())
    if not both:
        return ""
    ours, other = (np.stack([part[s]["rows"] for s in both]) for part in (mine, theirs))
    rng = np.random.default_rng(0)

    def drop(sets: np.ndarray, rows: np.ndarray) -> float:
        tokens = ours[0, rows, 1].sum()
        return float((ours[np.ix_(sets, rows)][..., 0] - other[np.ix_(sets, rows)][..., 0]).sum(1).mean() / tokens)

    count, held = ours.shape[:2]
    draws = [drop(rng.integers(count, size=count), rng.integers(held, size=held)) for _ in range(5000)]
    low, high = np.percentile(draws, [2.5, 97.5])
    wins = sum(mine[s]["loss"] < theirs[s]["loss"] for s in both)
    return f"{drop(np.arange(count), np.arange(held)):+.4f} [{low:+.4f}, {high:+.4f}], lower in {wins} of {count}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["features", "choose", "fit", "table"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--on", choices=["dev", "test"], default="dev")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # two fits side by side, of a thread each: on shared cores, threads wait for each other
    if options.step == "features":
        features(options.data, options.out)
    elif options.step == "choose":
        kept = Kept(options.out)
        for method in options.methods:
            for seed in options.sets:
                chosen = kept.choose(method, seed)
                tokens = float(kept.tokens[chosen].sum())
                print(method, seed, [f"{x:.3f}" for x in kept.pull(chosen, "dev")], f"{tokens:.0f} answer tokens")
    elif options.step == "fit":
        fit(options.out, options.sets, options.methods, options.on, options.workers)
    else:
        print(table(options.out, options.on))


if __name__ == "__main__":
    main()
