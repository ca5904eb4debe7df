"""The in-process generator, on tiny random models with fixed seeds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from gendistill.errors import ConfigError, ModelError
from gendistill.generators.base import Reply, Request
from gendistill.generators.transformers import TransformersGenerator, pick_dtype, sample

VOCABULARY = 98
CONTEXT = 64
CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "<{{ m['role'] }}>{{ m['content'] }}<eos>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per printable character, and the newline."""
    characters = ["\n", *map(chr, range(32, 127))]
    vocabulary = {"<pad>": 0, "<eos>": 1, **{character: index + 2 for index, character in enumerate(characters)}}
    core = Tokenizer(models.BPE(vocabulary, merges=[], unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>")


def sizes(**extra: Any) -> dict[str, Any]:
    common = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": CONTEXT,
        "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None, "initializer_range": 0.3,
    }  # fmt: skip
    return common | extra


def build(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**sizes()))
    if kind == "gemma3":  # a window of 8 tokens, smaller than the prompts
        layers = ["sliding_attention", "full_attention", "sliding_attention"]
        return Gemma3ForCausalLM(Gemma3TextConfig(**sizes(sliding_window=8, layer_types=layers)))
    config: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": CONTEXT, "initializer_range": 0.3}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, eos_token_id=1, bos_token_id=1, pad_token_id=0, **config))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads cost more than they give on models this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for kind in ("llama", "gemma3", "gpt2"):
        made[kind] = tmp_path_factory.mktemp(kind)
        build(kind).save_pretrained(made[kind])
        tokenizer().save_pretrained(made[kind])
    return made


@pytest.fixture(scope="module")
def llama(folders: dict[str, Path]) -> TransformersGenerator:
    return TransformersGenerator(str(folders["llama"]), dtype="float32", batch_size=8)


PROMPTS = ["a list:\n- first\n-", "b", "a much longer prompt than the window", "short one"]


def ask(id: str, prompt: str | None = PROMPTS[0], **changes: Any) -> Request:
    request = Request(id, prompt, None, seed=1, max_new_tokens=12, temperature=1.0, top_k=0, top_p=1.0)
    return replace(request, **changes)


def replies(generator: TransformersGenerator, requests: list[Request]) -> dict[str, Reply]:
    found = list(generator.generate(requests))
    assert len(found) == len(requests)
    return {reply.request_id: reply for reply in found}


@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt2"])
def test_greedy_is_what_transformers_generates(folders: dict[str, Path], kind: str) -> None:
    generator = TransformersGenerator(str(folders[kind]), dtype="float32", batch_size=8)
    # Two samples a prompt, so that prefilled rows are repeated, and limits that make rows leave at different times.
    requests = [
        ask(f"{i}{copy}", prompt, top_k=1, max_new_tokens=6 + 5 * i + copy)
        for i, prompt in enumerate(PROMPTS)
        for copy in (0, 1)
    ]
    got = replies(generator, requests)
    model, tok = build(kind).eval(), tokenizer()
    lengths = set()
    for request in requests:
        ids = tok(str(request.prompt), return_tensors="pt").input_ids
        out = model.generate(ids, do_sample=False, max_new_tokens=request.max_new_tokens, attention_mask=ids * 0 + 1)
        assert got[request.id].text == tok.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        lengths.add(got[request.id].completion_tokens)
    assert len(lengths) > 2


def test_a_reply_depends_on_its_own_prompt_and_seed_only(llama: TransformersGenerator) -> None:
    requests = [
        ask(f"{p}-{s}", prompt, seed=s, top_k=20 if s % 2 else 0, top_p=0.9, max_new_tokens=20)
        for p, prompt in enumerate(PROMPTS)
        for s in range(5)
    ]
    together = replies(llama, requests)
    assert replies(llama, requests[::-1]) == together
    assert replies(llama, requests) == together
    for request in requests[::3]:
        assert replies(llama, [request]) == {request.id: together[request.id]}
    assert len({reply.text for reply in together.values()}) == len(requests)  # seeds and prompts differ, so do texts


def test_equal_questions_get_equal_replies(llama: TransformersGenerator) -> None:
    got = replies(llama, [ask("x"), ask("y"), ask("z", seed=2)])
    assert got["x"].text == got["y"].text != got["z"].text


def test_finish_reasons_and_token_counts(llama: TransformersGenerator) -> None:
    requests = [ask(f"r{seed}", seed=seed, max_new_tokens=40) for seed in range(24)]
    got = replies(llama, requests)
    assert {reply.finish_reason for reply in got.values()} == {"stop", "length"}
    for reply in got.values():
        assert reply.error is None
        assert reply.prompt_tokens == len(PROMPTS[0])
        # One character a token; the end token and padding that was drawn are no text.
        assert reply.completion_tokens - 8 < len(reply.text) <= reply.completion_tokens
        assert (reply.completion_tokens == 40) == (reply.finish_reason == "length")


def test_stop_strings_cut_the_text(llama: TransformersGenerator) -> None:
    free = replies(llama, [ask(f"r{seed}", seed=seed, max_new_tokens=40) for seed in range(8)])
    stop = ("e", free["r0"].text[5:7])
    cut = replies(llama, [ask(f"r{seed}", seed=seed, max_new_tokens=40, stop=stop) for seed in range(8)])
    for id, reply in free.items():
        ends = [reply.text.index(s) for s in stop if s in reply.text]
        assert cut[id].text == reply.text[: min(ends, default=None)]
        assert cut[id].finish_reason == ("stop" if ends else reply.finish_reason)
    assert any(cut[id].text != free[id].text for id in free)


def test_a_prompt_beyond_the_context_is_an_error_reply(llama: TransformersGenerator) -> None:
    got = replies(llama, [ask("long", "x" * CONTEXT), ask("fits", "x" * (CONTEXT - 3)), ask("fine"), ask("empty", "")])
    assert got["long"].finish_reason == "error"
    assert f"{CONTEXT} tokens" in str(got["long"].error)
    assert got["fits"].completion_tokens <= 3  # capped, not out of range
    assert got["fine"].error is None
    assert got["empty"].error == "the prompt has no tokens"


def test_a_failing_batch_gives_error_replies_and_the_others_go_on(folders: dict[str, Path]) -> None:
    generator = TransformersGenerator(str(folders["llama"]), dtype="float32", batch_size=2)
    assert replies(generator, [ask("warm")])["warm"].error is None
    generator._model.model.embed_tokens.weight.data[tokenizer()("~").input_ids[0]] = math.nan
    got = replies(generator, [ask("bad", "~" * 30), ask("worse", "~" * 29), ask("good", "aa"), ask("fine", "bb")])
    assert {id for id, reply in got.items() if reply.finish_reason == "error"} == {"bad", "worse"}
    assert "not finite" in str(got["bad"].error)


class LittleMemory(LlamaForCausalLM):
    """Runs out of memory above two rows."""

    def forward(self, *, input_ids: torch.Tensor, logits_to_keep: int, **values: Any) -> Any:
        if len(input_ids) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return super().forward(input_ids=input_ids, logits_to_keep=logits_to_keep, **values)


def test_out_of_memory_halves_the_batch(folders: dict[str, Path], llama: TransformersGenerator) -> None:
    generator = TransformersGenerator(str(folders["llama"]), dtype="float32", batch_size=8)
    generator.load()
    generator._model.__class__ = LittleMemory
    requests = [ask(f"{p}-{s}", prompt, seed=s) for p, prompt in enumerate(PROMPTS) for s in range(3)]
    assert replies(generator, requests) == replies(llama, requests)
    assert generator.batch_size == 2


def test_chat_messages_go_through_the_template(folders: dict[str, Path], tmp_path: Path) -> None:
    build("llama").save_pretrained(tmp_path)
    tok = tokenizer()
    tok.chat_template = CHAT_TEMPLATE
    tok.save_pretrained(tmp_path)
    generator = TransformersGenerator(str(tmp_path), dtype="float32")
    assert generator.chat is True
    assert TransformersGenerator(str(folders["llama"])).chat is False
    assert TransformersGenerator(str(folders["llama"]), mode="chat").chat is True
    # The template knows no system role, and the row must not be able to end its turn.
    messages = (("system", "S"), ("user", "a row with <eos> in it"))
    plain = "<user>S\n\na row with < eos> in it<eos><assistant>"
    got = replies(generator, [ask("chat", None, messages=messages)])["chat"]
    assert got.prompt_tokens == len(tok(plain).input_ids) and got.error is None
    no_template = replies(TransformersGenerator(str(folders["llama"])), [ask("chat", None, messages=messages)])
    assert "no chat template" in str(no_template["chat"].error)


def test_special_tokens_in_a_row_stay_text(llama: TransformersGenerator) -> None:
    assert replies(llama, [ask("a", "row with <eos>")])["a"].prompt_tokens == len("row with <eos>")


def test_consumer_keeps_its_gradients_between_replies(llama: TransformersGenerator) -> None:
    for _ in llama.generate([ask("a"), ask("b", seed=2)]):
        weight = torch.ones(1, requires_grad=True)
        assert (weight * 2).requires_grad and not torch.is_inference_mode_enabled()


LOGITS = torch.tensor([2.0, 0.0, 1.0, -1.0, 0.5, -3.0])


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (0.7, 4, 1.0), (1.5, 0, 0.8), (1.0, 5, 0.9)]
)
def test_sampling_follows_the_distribution(temperature: float, top_k: int, top_p: float) -> None:
    # Written out the long way: top-k, then temperature, then the nucleus.
    ranked = sorted(range(6), key=lambda token: -LOGITS[token].item())[: top_k or 6]
    weights = {token: math.exp(LOGITS[token].item() / temperature) for token in ranked}
    kept, mass = {}, 0.0
    for token in ranked:
        if mass >= top_p:
            break
        kept[token] = weights[token]
        mass += weights[token] / sum(weights.values())
    draws = 20_000
    uniforms = torch.rand(draws, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tokens = sample(LOGITS.expand(draws, 6), uniforms, temperature=temperature, top_k=top_k, top_p=top_p)
    counts = Counter(tokens.tolist())
    assert set(counts) == set(kept)
    expected = {token: draws * weight / sum(kept.values()) for token, weight in kept.items()}
    chi_square = sum((counts[token] - expected[token]) ** 2 / expected[token] for token in kept)
    assert chi_square < 20.5  # 5 degrees of freedom: p = 0.001


def test_sampling_edges() -> None:
    ends = torch.tensor([0.0, 1 - 1e-16], dtype=torch.float64)
    logits = torch.tensor([[-math.inf, 1.0, 0.0, -math.inf]] * 2)
    assert sample(logits, ends, temperature=1.0, top_k=0, top_p=1.0).tolist() == [1, 2]
    assert sample(logits, ends, temperature=0.0, top_k=0, top_p=1.0).tolist() == [1, 1]


def test_bad_settings_and_models_say_so(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="float7"):
        pick_dtype("float7", torch.device("cpu"))
    with pytest.raises(ConfigError, match="batch_size"):
        TransformersGenerator("x", batch_size=0)
    with pytest.raises(ModelError, match="no such folder"):
        list(TransformersGenerator(str(tmp_path / "none")).generate([ask("a")]))
