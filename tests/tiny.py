"""Tiny real models and data, built with fixed seeds: what the tests use instead of downloads.

The causal model is trained for a moment on lists of same-class rows, so that it continues such a list with sentences
of that class, more or less; the encoder is untrained but for word vectors in which a linear probe finds the classes.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

CLASS_NAMES = ("sport", "music", "food", "weather", "travel", "health")
KEYWORDS = {
    label: words.split()
    for label, words in {
        "sport": "match striker goal team league coach race medal tennis stadium player referee trophy sprint",
        "music": "band guitar song album concert singer drum piano melody choir violin chorus stage tune",
        "food": "bread soup kitchen recipe butter cheese salad pepper oven chef dinner onion apple sauce",
        "weather": "rain storm cloud wind snow thunder sunshine forecast fog frost hail heat drought breeze",
        "travel": "train airport hotel ticket luggage harbour tourist passport beach flight ferry map island",
        "health": "doctor nurse clinic vaccine fever medicine surgeon patient disease therapy muscle virus diet",
    }.items()
}
ADJECTIVES, VERBS, OTHERS, PLACES, TIMES = (
    words.split()
    for words in (
        "new old great small local famous quiet strong early late simple strange happy final second",
        "was is seemed looked stayed became felt remained",
        "good bad long short nice calm busy ready popular different important better worse slow fast open",
        "town city street house market school park village river valley",
        "today yesterday tomorrow again tonight soon",
    )
)


def tiny_rows(n_per_class: int, num_classes: int = 3, seed: int = 0) -> list[dict[str, str]]:
    """Distinct short sentences, classes in turn: ``{"text": "The new match and the goal ...", "label": "sport"}``."""
    rng = random.Random(seed)
    rows: list[dict[str, str]] = []
    seen: set[str] = set()
    while len(rows) < n_per_class * num_classes:
        label = CLASS_NAMES[len(rows) % num_classes]
        text = _sentence(rng, KEYWORDS[label])
        if text not in seen:
            seen.add(text)
            rows.append({"text": text, "label": label})
    return rows


def _sentence(rng: random.Random, keywords: Sequence[str]) -> str:
    first, second, third = rng.sample(keywords, 3)
    adjective, verb, other, place, time = map(rng.choice, (ADJECTIVES, VERBS, OTHERS, PLACES, TIMES))
    return rng.choice(
        (
            f"The {adjective} {first} and the {second} {verb} {other} in the {place} {time}.",
            f"A {first} near the {place} {verb} {other}, but the {second} {verb} {adjective}.",
            f"In the {place} the {first} {verb} {adjective} and the {second} with the {third} {verb} {other}.",
            f"The {first} of the {place} {verb} {other} {time}, like a {adjective} {second} or {third}.",
        )
    )


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def tiny_encoder(folder: Path) -> Path:
    """A BERT of two layers with hidden size 32, and a WordPiece tokenizer of words and characters."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = sorted(
        {word.strip(".,").lower() for row in tiny_rows(300, len(CLASS_NAMES)) for word in row["text"].split()}
    )
    characters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{c}" for c in characters), *words]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=128,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    ).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=128,
        )
        model = BertModel(config)
        # As in a trained model, words weigh more than their positions and words of one subject lie together.
        words_of = model.embeddings.word_embeddings.weight
        torch.nn.init.normal_(words_of)
        with torch.no_grad():
            for name in CLASS_NAMES:
                words_of[[vocabulary[word] for word in KEYWORDS[name]]] += torch.randn(32)
        model.eval().save_pretrained(folder)
    return folder


CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def tiny_causal(folder: Path, chat: bool = False) -> Path:
    """A Llama of two layers with hidden size 32 and a byte-level BPE, trained for a moment; chat adds a template."""
    from transformers import PreTrainedTokenizerFast

    tokenizer, model = _trained_causal()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=512,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
    )
    if chat:
        fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


@lru_cache(maxsize=1)
def _trained_causal() -> tuple[Any, Any]:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM

    rows = tiny_rows(120, len(CLASS_NAMES), seed=1)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=800,
        special_tokens=["<pad>", "<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([row["text"] for row in rows] + ["\n", "\n\n"], trainer)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=512,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            tie_word_embeddings=True,
            initializer_range=0.1,
        )
        model = LlamaForCausalLM(config)
        _know_the_classes(model, tokenizer)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # so small a model is slower on two, much slower when the cores are shared
        _train(model, tokenizer, rows)
        torch.set_num_threads(threads)
    return tokenizer, model.eval()


def _know_the_classes(model: Any, tokenizer: Any) -> None:
    """Start with a hidden direction per class that attention carries on, for training alone would take minutes."""
    import torch

    with torch.no_grad():
        first = model.model.layers[0].self_attn
        for direction, name in enumerate(CLASS_NAMES):
            for word in KEYWORDS[name]:
                for token in tokenizer.encode(f" {word}").ids:
                    model.model.embed_tokens.weight[token, direction] += 1.0
            first.v_proj.weight[direction, direction] += 1.0
            first.o_proj.weight[direction, direction] += 2.0


def _train(model: Any, tokenizer: Any, rows: list[dict[str, str]], steps: int = 300) -> None:
    import torch

    rng = random.Random(2)
    by_label = {name: [row["text"] for row in rows if row["label"] == name] for name in CLASS_NAMES}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps)
    for _ in range(steps):
        batch = [tokenizer.encode(_list(rng, by_label)).ids for _ in range(8)]
        width = max(map(len, batch))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in batch])
        loss = model(input_ids=ids, labels=ids.masked_fill(ids == 0, -100)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def _list(rng: random.Random, by_label: dict[str, list[str]]) -> str:
    """Same-class rows in the ways that prompts list them; the tiny model must not depend on one template."""
    label = rng.choice(CLASS_NAMES)
    texts = rng.sample(by_label[label], 4)
    header = rng.choice(("", f"{label}\n", f"{label}:\n\n"))
    style = rng.randrange(5)
    if style == 0:
        return header + "\n".join(texts) + "\n"
    if style == 1:
        return header + "\n\n".join(texts) + "\n\n"
    if style == 2:
        return header + "".join(f"- {text}\n" for text in texts)
    if style == 3:
        return header + "".join(f"{number}. {text}\n" for number, text in enumerate(texts, 1))
    shown = "\n".join(texts[:3])
    return f"<|user|>\n{header}{shown}\n<|assistant|>\n{texts[3]}<eos>"
