"""Linear students that train in a moment: on TF-IDF, and on the mean of a pretrained model's input embeddings.

They are not fine-tuned, so they have one checkpoint, the trained one, and no random choices.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gendistill.config import StudentConfig
from gendistill.errors import DataError, ModelError
from gendistill.examples import Example
from gendistill.models import model_error, resolve, safe_load_kwargs
from gendistill.students.base import Features
from gendistill.students.pieces import combined
from gendistill.students.probe import fit_probe, training_targets

STATIC_PREFIX = "static:"
SKETCH_DIMS = 512
FEATURE_SCALE = 10.0  # as the encoder student's


class StaticStudent:
    """A logistic probe on ``10 * m / |m|``, m the mean input embedding of a text's tokens: a bag of words vectors.

    :param config: ``model`` is ``static:`` and the name of the model whose input embeddings and tokenizer are used.
    :param num_classes: C.
    :raises ModelError: the model cannot be found or has no safe weights.
    """

    def __init__(self, config: StudentConfig, num_classes: int) -> None:
        from transformers import AutoModel, AutoTokenizer

        self.config, self.num_classes = config, num_classes
        name = config.model.removeprefix(STATIC_PREFIX)
        folder = resolve(name)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=config.trust_remote_code)
            model = AutoModel.from_pretrained(folder, dtype=torch.float32, **safe_load_kwargs(config.trust_remote_code))
        except Exception as error:
            raise model_error(name, error) from error
        self._table: Tensor = model.get_input_embeddings().weight.detach().clone()
        self._head: tuple[Tensor, Tensor] | None = None

    @property
    def checkpoints(self) -> int:
        return 0 if self._head is None else 1

    def fit(self, examples: Sequence[Example], *, seed: int, targets: Tensor | None = None) -> None:
        """As the protocol says; the same for every seed."""
        wanted = training_targets(examples, targets, self.num_classes)
        self._head = fit_probe(self._hidden(examples), wanted, self.num_classes)

    def predict(self, examples: Sequence[Example]) -> Tensor:
        return self.features(examples).probabilities

    def features(self, examples: Sequence[Example], *, checkpoint: int = -1) -> Features:
        if self._head is None:
            raise ModelError("this student has not been trained yet; call fit first")
        _only_checkpoint(checkpoint)
        hidden = self._hidden(examples)
        return Features(hidden, nn.functional.linear(hidden, *self._head).softmax(-1))

    def _hidden(self, examples: Sequence[Example]) -> Tensor:
        """(n, d) float32, of pairs (n, 4 d); zero for a text without tokens."""
        if not examples:
            return torch.empty(0, self._table.shape[1])
        if len(examples[0].fields) == 2:
            first, second = zip(*(example.fields for example in examples), strict=True)
            return FEATURE_SCALE * nn.functional.normalize(combined(self._means(first), self._means(second)), dim=-1)
        return FEATURE_SCALE * nn.functional.normalize(self._means([example.text for example in examples]), dim=-1)

    def _means(self, texts: Sequence[str]) -> Tensor:
        """(n, d) float32: the mean input embedding of each text."""
        encoded = self.tokenizer(
            list(texts),
            truncation=True,
            max_length=self.config.max_tokens * self.config.chunks,
            add_special_tokens=False,
        )["input_ids"]
        starts = torch.tensor([0, *(len(ids) for ids in encoded[:-1])]).cumsum(0)
        tokens = torch.tensor([token for ids in encoded for token in ids], dtype=torch.int64)
        return nn.functional.embedding_bag(tokens, self._table, starts, mode="mean")


class TfidfStudent:
    """Logistic regression on TF-IDF of words, pairs of words and character 2-5-grams.

    The head input that ``features`` gives is a count sketch of the TF-IDF row (Charikar et al. 2002; feature hashing:
    Weinberger et al. 2009, arXiv 0902.2206), (n, 512): inner products are kept without bias, with an error of about
    1/sqrt(512) of the norms. The probabilities are the logistic regression's on the whole row.

    :param config: its recipe is not used.
    :param num_classes: C.
    """

    def __init__(self, config: StudentConfig, num_classes: int) -> None:
        self.config, self.num_classes = config, num_classes
        self._vectors: Any = None  # scikit-learn's, all three made by fit
        self._model: Any = None
        self._sketch: Any = None

    @property
    def checkpoints(self) -> int:
        return 0 if self._vectors is None else 1

    def fit(self, examples: Sequence[Example], *, seed: int, targets: Tensor | None = None) -> None:
        """As the protocol says; the same for every seed."""
        from scipy.sparse import vstack
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import FeatureUnion

        wanted = training_targets(examples, targets, self.num_classes)
        words = TfidfVectorizer(
            ngram_range=(1, 2), token_pattern=r"(?u)\w+|[^\w\s]", sublinear_tf=True, max_features=100_000
        )
        characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, max_features=100_000)
        vectors = FeatureUnion([("words", words), ("characters", characters)])
        try:
            rows = vectors.fit_transform([example.text for example in examples]).tocsr()
        except ValueError as error:
            raise DataError("the TF-IDF student found no words in its training texts; are they all empty?") from error
        weights = nn.functional.one_hot(wanted, self.num_classes) if not wanted.is_floating_point() else wanted
        # A soft target is the same row once for each class, weighted.
        members = [np.flatnonzero(column > 0) for column in weights.numpy().T]
        classes = np.concatenate([np.full(len(group), c) for c, group in enumerate(members)])
        model: Any = int(classes[0])  # a single class: nothing to tell apart
        if len(np.unique(classes)) > 1:
            shares = np.concatenate([weights.numpy()[group, c] for c, group in enumerate(members)])
            model = LogisticRegression(C=10.0, max_iter=1000)
            model.fit(vstack([rows[group] for group in members]), classes, sample_weight=shares)
        self._vectors, self._model = vectors, model
        self._sketch = _count_sketch(vectors.get_feature_names_out())

    def predict(self, examples: Sequence[Example]) -> Tensor:
        return self.features(examples).probabilities

    def features(self, examples: Sequence[Example], *, checkpoint: int = -1) -> Features:
        if self._vectors is None:
            raise ModelError("this student has not been trained yet; call fit first")
        _only_checkpoint(checkpoint)
        probabilities = torch.zeros(len(examples), self.num_classes)
        if not examples:
            return Features(torch.empty(0, SKETCH_DIMS), probabilities)
        rows = self._vectors.transform([example.text for example in examples])
        if isinstance(self._model, int):
            probabilities[:, self._model] = 1.0
        else:
            probabilities[:, self._model.classes_] = torch.from_numpy(self._model.predict_proba(rows)).float()
        return Features(torch.from_numpy((rows @ self._sketch).toarray()).float(), probabilities)


def _count_sketch(names: Sequence[str]) -> Any:
    """(features, 512) sparse: one +-1 a row, its place and sign taken from a hash of the feature's name."""
    from scipy.sparse import csr_matrix

    hashes = np.array([zlib.crc32(name.encode("utf-8", "surrogatepass")) for name in names], dtype=np.int64)
    signs = 1.0 - 2.0 * (hashes // SKETCH_DIMS % 2)
    return csr_matrix((signs, (np.arange(len(hashes)), hashes % SKETCH_DIMS)), shape=(len(hashes), SKETCH_DIMS))


def _only_checkpoint(checkpoint: int) -> None:
    if checkpoint not in (0, -1):
        raise ModelError(f"a linear student has one checkpoint, 0; checkpoint {checkpoint} was asked for")
