"""A generator tuned on the real rows: it learns them, its adapter is kept and used again, runs resume."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from test_run import final_bytes, small_config
from tiny import tiny_rows

from gendistill import distill
from gendistill.config import Config, TuneConfig
from gendistill.errors import ConfigError, ModelError
from gendistill.examples import Example
from gendistill.gathering import ADAPTER
from gendistill.generators import build_generator
from gendistill.generators.base import Lesson, Request
from gendistill.generators.transformers import TransformersGenerator
from gendistill.generators.tuning import _encoded, _loss, tune

SETTINGS = TuneConfig(steps=150, batch_size=8, learning_rate=1e-2, rank=4, dropout=0.0)


def lessons(count: int = 24, chat: bool = False) -> list[Lesson]:
    """Texts that the tiny model would never write by itself."""
    made = []
    for number in range(count):
        label, text = ("sport", "The penguins won again.") if number % 2 else ("music", "The walrus sang all night.")
        if chat:
            made.append(Lesson(None, (("user", f"Write about {label}"),), text))
        else:
            made.append(Lesson(f"Category: {label}\n\n-", None, text))
    return made


def generator(folder: Path, **values: object) -> TransformersGenerator:
    return TransformersGenerator(str(folder), dtype="float32", device="cpu", **values)  # type: ignore[arg-type]


def loss_of(one: TransformersGenerator, given: list[Lesson]) -> float:
    one.load()
    with torch.inference_mode():
        return float(_loss(one, one.model, [_encoded(one, lesson) for lesson in given]))


@pytest.mark.parametrize("chat", [False, True])
def test_it_learns_the_rows_of_each_class(
    chat: bool, tiny_causal_dir: Path, tiny_chat_dir: Path, tmp_path: Path
) -> None:
    folder = tiny_chat_dir if chat else tiny_causal_dir
    before = loss_of(generator(folder), lessons(8, chat))
    told: list[tuple[int, int]] = []
    save = tune(generator(folder), lessons(chat=chat), SETTINGS, seed=0, progress=lambda *now: told.append(now))
    save(tmp_path)
    assert told[-1] == (150, 150)
    tuned = generator(folder, adapter=str(tmp_path))
    assert loss_of(tuned, lessons(8, chat)) < 0.3 * before
    requests = [
        Request(id=str(k), prompt=one.prompt, messages=one.messages, seed=k, max_new_tokens=40, temperature=0.1,
                top_k=50, top_p=1.0, stop=() if chat else ("\n",))
        for k, one in enumerate(lessons(2, chat))
    ]  # fmt: skip
    texts = {reply.request_id: reply.text for reply in tuned.generate(requests)}
    assert "walrus" in texts["0"] and "penguins" in texts["1"]


def test_the_loss_is_that_of_the_reply_alone_and_does_not_depend_on_padding(tiny_causal_dir: Path) -> None:
    one = generator(tiny_causal_dir)
    one.load()
    short, long = (
        Lesson("-", None, "Rain."),
        Lesson("Category: weather\n\n- The rain fell.\n-", None, "A storm near town."),
    )
    rows = [_encoded(one, lesson) for lesson in (short, long)]
    assert one._text(rows[1][1]).strip() == "A storm near town." and rows[1][1]
    with torch.inference_mode():
        alone = [float(_loss(one, one.model, [row])) for row in rows]
        both = float(_loss(one, one.model, rows))
        prompt, reply = rows[1]
        logits = one.model(input_ids=torch.tensor([[*prompt, *reply]])).logits[0].log_softmax(-1)
        by_hand = -float(logits[len(prompt) - 1 : -1].gather(1, torch.tensor(reply)[:, None]).mean())
    counts = [len(row[1]) for row in rows]
    assert alone[1] == pytest.approx(by_hand, rel=1e-4)
    assert both == pytest.approx((alone[0] * counts[0] + alone[1] * counts[1]) / sum(counts), rel=1e-4)


def test_a_tuned_run_keeps_its_adapter_resumes_and_another_run_uses_it(
    tmp_path: Path, tiny_encoder_dir: Path, tiny_causal_dir: Path, tiny_jsonl: Path
) -> None:
    tuned = {"steps": 3, "batch_size": 4, "rank": 2}
    quick = {"method": "greedy"}
    models = (tiny_encoder_dir, tiny_causal_dir, tiny_jsonl)
    tiny = small_config(tmp_path, *models).generator.model_dump()
    config = small_config(tmp_path / "run", *models, generator=tiny | {"tune": tuned}, selection=quick)
    result = distill(config)
    assert (config.out / ADAPTER / "adapter_model.safetensors").is_file()
    assert all("tuned on the real rows" in row["provenance"]["generator"] for row in result.rows)
    assert "tuned on the real rows" in (config.out / "README.md").read_text(encoding="utf-8")
    weights = (config.out / ADAPTER / "adapter_model.safetensors").read_bytes()
    before = final_bytes(config.out)
    distill(config)
    assert final_bytes(config.out) == before
    again = small_config(tmp_path / "same", *models, generator=tiny | {"tune": tuned}, selection=quick)
    distill(again)
    assert (again.out / ADAPTER / "adapter_model.safetensors").read_bytes() == weights
    texts = [row["text"] for row in result.rows]
    assert [json.loads(line)["text"] for line in (again.out / "distilled.jsonl").read_text().splitlines()] == texts
    adapter = tiny | {"adapter": str(config.out / ADAPTER)}
    plain = small_config(tmp_path / "used", *models, generator=adapter, selection=quick)
    assert "with the adapter" in distill(plain).rows[0]["provenance"]["generator"]


def test_what_cannot_be_tuned_or_loaded_is_said(
    tmp_path: Path, tiny_encoder_dir: Path, tiny_causal_dir: Path, tiny_jsonl: Path
) -> None:
    with pytest.raises(ConfigError, match="adapter is tuned already"):
        Config(generator={"adapter": "x", "tune": {"steps": 3}})
    with pytest.raises(ModelError, match="no adapter here"):
        generator(tiny_causal_dir, adapter=str(tmp_path)).load()
    (tmp_path / "adapter_model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="does not fit"):
        generator(tiny_causal_dir, adapter=str(tmp_path)).load()
    config = small_config(tmp_path / "run", tiny_encoder_dir, tiny_causal_dir, tiny_jsonl,
                          generator={"tune": {"steps": 1}})  # fmt: skip
    with pytest.raises(ConfigError, match="a generator of your own"):
        distill(config, generator=build_generator(config.generator))


def test_lessons_show_other_rows_of_the_class() -> None:
    import numpy as np

    from gendistill.clusters import class_clusters
    from gendistill.planning import Reference, TokenBudget, plan_lessons
    from gendistill.tasks import TextClassification

    rows = tiny_rows(12, 3)
    names = sorted({row["label"] for row in rows})
    examples = [Example((row["text"],), names.index(row["label"])) for row in rows]
    labels = np.array([example.label for example in examples])
    embeddings = np.random.default_rng(0).normal(size=(len(rows), 8)).astype("float32")
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    clusters = class_clusters(embeddings, labels, 3, 4, 0)
    config = Config(generator={"tune": {"steps": 5, "batch_size": 6}, "exemplars": 3})
    made = plan_lessons(
        config,
        TextClassification(tuple(names)),
        Reference(examples, embeddings, labels, clusters),
        chat=False,
        budget=TokenBudget(64),
    )
    assert len(made) == 30
    by_text = {example.text: example.label for example in examples}
    for number, lesson in enumerate(made):
        assert by_text[lesson.reply] == number % 3
        shown = [text for text in by_text if f"- {text}" in (lesson.prompt or "")]
        assert len(shown) == 3 and lesson.reply not in shown
        assert {by_text[text] for text in shown} == {number % 3}
    assert len({lesson.reply for lesson in made}) == 30  # a class has twelve rows, ten of which are asked
