"""A generator tuned on the real rows first: LoRA (Hu et al. 2022, arXiv 2106.09685), by the very prompts it will see.

Each step shows prompts of a run, with a real row of the class in the place of the reply; the loss is that of the
reply's tokens alone. What comes out is an adapter in peft's format, for this run and for later ones
(``generator.adapter``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gendistill.config import TuneConfig
from gendistill.errors import MissingExtraError, ModelError
from gendistill.generators.base import Lesson
from gendistill.generators.transformers import TransformersGenerator
from gendistill.parallel import ALONE, Progress, Split, process_count, trained
from gendistill.schedules import linear

IGNORED = -100
MOST_TOKENS = 1024  # of a prompt with its reply; a longer prompt loses its beginning
_Tokens = tuple[list[int], list[int]]  # of a prompt, of its reply
_MISSING = "a tuned generator needs the package peft: pip install peft"


def tune(
    generator: TransformersGenerator,
    lessons: Sequence[Lesson],
    config: TuneConfig,
    *,
    seed: int,
    progress: Progress | None = None,
) -> Callable[[Path], None]:
    """Train an adapter; ``config.steps`` steps over the lessons in their order, again and again if they are few.

    In several processes the generator is unloaded first, to leave its memory to them.

    :returns: a function that saves the adapter into a folder.
    :raises MissingExtraError: peft is not installed.
    :raises ModelError: the model has no linear layers to adapt.
    :raises GendistillError: one of several processes died.
    """
    count = process_count(config.processes, config.batch_size, "generator.tune.processes")
    if count == 1:
        model = _tuned(generator, lessons, config, seed, progress, ALONE)
        return lambda folder: _save(model, folder)
    generator.unload()
    with trained(count, partial(_tune_together, generator, lessons, config, seed), progress) as trained_folder:
        files = {path.name: path.read_bytes() for path in trained_folder.iterdir()}

    def write(folder: Path) -> None:
        for name, content in files.items():
            (folder / name).write_bytes(content)

    return write


def _tune_together(
    generator: TransformersGenerator,
    lessons: Sequence[Lesson],
    config: TuneConfig,
    seed: int,
    split: Split,
    folder: Path,
    progress: Progress,
) -> None:
    """What each of several processes does; the first writes the adapter."""
    generator.device = torch.device(split.device or generator.device)
    model = _tuned(generator, lessons, config, seed, progress, split)
    if split.first:
        _save(model, folder)


def _save(model: Any, folder: Path) -> None:
    model.save_pretrained(str(folder), safe_serialization=True)


def _tuned(
    generator: TransformersGenerator,
    lessons: Sequence[Lesson],
    config: TuneConfig,
    seed: int,
    progress: Progress | None,
    split: Split,
) -> Any:
    """The generator's model with a trained adapter in it.

    :param split: this process's share, where several train together.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise MissingExtraError(_MISSING) from error
    generator.load()
    rows = [_encoded(generator, lesson) for lesson in lessons]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of the factors' start and of dropout
        try:
            model: Any = get_peft_model(
                generator.model,
                LoraConfig(
                    r=config.rank,
                    lora_alpha=2 * config.rank,
                    lora_dropout=config.dropout,
                    target_modules="all-linear",
                    task_type="CAUSAL_LM",
                ),
            )
        except ValueError as error:
            raise ModelError(f"generator {generator.name}: cannot be tuned ({error})") from error
        if config.dropout:
            _share_dropout(model, config, split)
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        for weight in weights:
            weight.data = weight.data.float()  # small steps are lost in bfloat16
        split.agree(weights)
        optimizer = torch.optim.AdamW(weights, lr=config.learning_rate, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, linear(max(1, config.steps // 10), config.steps))
        model.train()
        for step in range(config.steps):
            batch = [rows[(step * config.batch_size + k) % len(rows)] for k in range(config.batch_size)]
            share = split.share(batch)
            optimizer.zero_grad(set_to_none=True)
            if tokens := _asked(share):
                with torch.autocast(generator.device.type, torch.bfloat16, enabled=generator.device.type == "cuda"):
                    loss = _loss(generator, model, share, batch)
                (loss * (tokens / _asked(batch))).backward()
            split.add_up(weights)
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            if progress:
                progress(step + 1, config.steps)
        model.eval()
    return model


class SharedDropout(nn.Module):
    """Dropout that draws for the rows of a whole batch and uses its share: the same masks in however many processes.

    :param p: share of the entries that are dropped.
    :param rows: of a batch.
    """

    def __init__(self, p: float, rows: int, split: Split) -> None:
        super().__init__()
        self.p, self.rows, self.split = p, rows, split

    def forward(self, states: Tensor) -> Tensor:
        """:param states: (rows of the share, ...)."""
        if not self.training:
            return states
        kept = torch.empty(self.rows, *states.shape[1:], dtype=torch.bool, device=states.device).bernoulli_(1 - self.p)
        return states * kept[self.split.places(self.rows)] / (1 - self.p)


def _share_dropout(model: nn.Module, config: TuneConfig, split: Split) -> None:
    """Put ``SharedDropout`` in the place of the adapter's."""
    for module in model.modules():
        layers = getattr(module, "lora_dropout", None)
        if isinstance(layers, nn.ModuleDict):
            for name in layers:
                layers[name] = SharedDropout(config.dropout, config.batch_size, split)


def with_adapter(model: nn.Module, folder: str) -> nn.Module:
    """The model with an adapter of peft's format merged into its weights.

    :raises MissingExtraError: peft is not installed.
    :raises ModelError: the folder holds no adapter for this model.
    """
    try:
        from peft import PeftModel
    except ImportError as error:
        raise MissingExtraError(_MISSING) from error
    if not (Path(folder) / "adapter_model.safetensors").is_file():
        raise ModelError(f"{folder}: no adapter here (adapter_model.safetensors); check generator.adapter")
    try:
        merged: Any = PeftModel.from_pretrained(model, folder)
        return merged.merge_and_unload()
    except Exception as error:  # sizes or names that do not fit raise several kinds
        raise ModelError(f"{folder}: does not fit the generator ({str(error).splitlines()[0][:200]})") from error


def _encoded(generator: TransformersGenerator, lesson: Lesson) -> _Tokens:
    """Token ids of the prompt and of the reply, its end included."""
    if lesson.messages is not None:
        prompt, whole = generator.chat_ids(lesson.messages), generator.chat_ids(lesson.messages, lesson.reply)
    else:  # a base model's reply is the rest of a line
        text = lesson.prompt or ""
        prompt, whole = generator.prompt_ids(text), generator.prompt_ids(f"{text} {lesson.reply}\n")
    # Tokens that the reply changes belong to it
    same = next((k for k, pair in enumerate(zip(prompt, whole, strict=False)) if pair[0] != pair[1]), len(prompt))
    reply = whole[same:][: MOST_TOKENS // 2]
    return whole[:same][len(reply) - MOST_TOKENS :], reply


def _asked(batch: Sequence[_Tokens]) -> int:
    """Tokens of the replies."""
    return sum(len(reply) for _, reply in batch)


def _loss(
    generator: TransformersGenerator, model: Any, batch: Sequence[_Tokens], beside: Sequence[_Tokens] = ()
) -> Tensor:
    """Mean cross entropy of the replies' tokens. Padding is on the left, so that replies end together.

    :param beside: rows that the batch is as wide as.
    """
    width = max(len(prompt) + len(reply) for prompt, reply in (*batch, *beside))
    last = max(len(reply) for _, reply in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    targets = torch.full((len(batch), last), IGNORED)
    for row, (prompt, reply) in enumerate(batch):
        tokens = torch.tensor([*prompt, *reply])
        ids[row, width - len(tokens) :] = tokens
        mask[row, width - len(tokens) :] = 1
        targets[row, last - len(reply) :] = torch.tensor(reply)
    ids, mask, targets = (part.to(generator.device) for part in (ids, mask, targets))
    logits = generator.logits(model, ids, mask, last + 1)[:, :-1]  # of position t, for the token at t + 1
    return nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED)
