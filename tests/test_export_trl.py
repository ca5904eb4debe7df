"""Exports in TRL itself: two steps of its SFTTrainer on each, and a loss that falls on the answers and nothing else."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from shaped import NAMES, ROWS

from gendistill.data.export import export

pytest.importorskip("trl")

# The words between the marks are the assistant's, as TRL's assistant_only_loss wants a template to say.
TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def tiny_random(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of one layer with random weights, and a tokenizer for which every byte is a token."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-random")
    pieces = ["<pad>", "<bos>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=1024, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(pieces),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def trained(model: Path, file: Path, tmp_path: Path, **settings: Any) -> tuple[list[list[str]], list[float]]:
    """What of each row has a loss, as runs of text; and the losses of two steps."""
    import datasets
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    data = datasets.load_dataset("json", data_files=str(file), cache_dir=str(tmp_path / "cache"), split="train")
    tokenizer = AutoTokenizer.from_pretrained(model)
    config = SFTConfig(
        output_dir=str(tmp_path / "out"),
        max_steps=2,
        per_device_train_batch_size=2,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        disable_tqdm=True,
        **settings,
    )
    weights = AutoModelForCausalLM.from_pretrained(model)
    before = {name: value.clone() for name, value in weights.named_parameters()}
    trainer = SFTTrainer(model=weights, args=config, train_dataset=data, processing_class=tokenizer)
    learnt = []
    for row in trainer.train_dataset:
        labels = trainer.data_collator([row])["labels"][0].tolist()
        runs: list[list[int]] = [[]]
        for label in labels:
            if label == -100:
                runs.append([])
            else:
                runs[-1].append(label)
        learnt.append([tokenizer.decode(run) for run in runs if run])
    trainer.train()
    assert trainer.state.global_step == 2
    assert any((value != before[name]).any() for name, value in trainer.model.named_parameters())
    return learnt, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


TRL_ANSWERS = {
    "classification": [[" business<eos>"], [" sports<eos>"]],
    "pairs": [[" entailment<eos>"], [" neutral<eos>"]],
    "multi-label": [[" joy, surprise<eos>"], [" none<eos>"], [" surprise<eos>"]],
    "instruction": [["Blue.<eos>"], ["Six.<eos>"]],  # of several turns the last
}


@pytest.mark.parametrize("shape", ROWS)
def test_trl_learns_the_completion_alone(tiny_random: Path, tmp_path: Path, shape: str) -> None:
    file = export(ROWS[shape], "trl", tmp_path / "train.jsonl", NAMES[shape])
    learnt, losses = trained(tiny_random, file, tmp_path)
    assert learnt == TRL_ANSWERS[shape]
    assert len(losses) == 2 and all(math.isfinite(loss) and loss > 0 for loss in losses)


@pytest.mark.parametrize("shape", ROWS)
def test_trl_learns_the_assistants_messages_alone(tiny_random: Path, tmp_path: Path, shape: str) -> None:
    file = export(ROWS[shape], "openai", tmp_path / "train.jsonl", NAMES[shape])
    learnt, losses = trained(tiny_random, file, tmp_path, assistant_only_loss=True)
    answers = [[text.lstrip() for text in row] for row in TRL_ANSWERS[shape]]
    if shape == "instruction":
        answers[1] = ["Hello.<eos>", "Six.<eos>"]  # here every turn of the assistant's
    assert learnt == answers
    assert len(losses) == 2 and all(math.isfinite(loss) and loss > 0 for loss in losses)
