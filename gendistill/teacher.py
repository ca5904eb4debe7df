"""The teacher: a student trained on the real data once, whose checkpoints give features and label checks.

Everything it computes goes to a store. A run's is its directory, so a resumed run loads the teacher only if features
are missing, and trains it only if it was killed before training ended; ``MemoryStore`` is for work without one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from gendistill.config import StudentConfig
from gendistill.examples import Example
from gendistill.models import model_error, resolve
from gendistill.parallel import Split, process_count, trained
from gendistill.progress import Advance, Reporter
from gendistill.students.base import Features, Segment
from gendistill.students.causal import CausalStudent
from gendistill.students.encoder import FEATURE_SCALE, EncoderStudent, Progress
from gendistill.students.segments import segments

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_Tick = Callable[[float], None]  # the share that is done
_Compute = Callable[[Sequence[Example], _Tick], dict[str, Tensor]]

FOLDER = "teacher"
# Rows per feature file. A chunk is computed whole, so its batches never depend on where a run was cut; and while
# candidates are still being written, so not too large.
CHUNK = 1024


class TeacherStore(Protocol):
    """Where a teacher keeps what it computed. ``Store``, the run directory, is one."""

    def load_features(self, name: str, ids: Sequence[str]) -> dict[str, Tensor] | None: ...

    def save_features(self, name: str, ids: Sequence[str], tensors: dict[str, Tensor]) -> None: ...

    def saved_folder(self, name: str) -> Path | None:
        """The folder that ``save_folder`` made, or None."""
        ...

    def save_folder(self, name: str, write: Callable[[Path], None]) -> None:
        """A folder filled by ``write``, which appears whole or not at all."""
        ...


class MemoryStore:
    """Keeps nothing: a teacher holds its own checkpoints, and whoever asked for features has them."""

    def load_features(self, name: str, ids: Sequence[str]) -> dict[str, Tensor] | None:
        return None

    def save_features(self, name: str, ids: Sequence[str], tensors: dict[str, Tensor]) -> None:
        pass

    def saved_folder(self, name: str) -> Path | None:
        return None

    def save_folder(self, name: str, write: Callable[[Path], None]) -> None:
        pass


class KeepingStore(MemoryStore):
    """Keeps features in memory by row, for one teacher that is asked for the same rows again under other names."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, Tensor]] = {}  # id -> what is known of the row

    def load_features(self, name: str, ids: Sequence[str]) -> dict[str, Tensor] | None:
        rows = [self._kept.get(id) for id in ids]
        if not rows or None in rows:
            return None
        known = [row for row in rows if row is not None]
        keys = [key for key in known[0] if all(key in row for row in known)]
        return {key: torch.stack([row[key] for row in known]) for key in keys}

    def save_features(self, name: str, ids: Sequence[str], tensors: dict[str, Tensor]) -> None:
        for position, id in enumerate(ids):
            self._kept.setdefault(id, {}).update({key: values[position] for key, values in tensors.items()})


class Teacher:
    """:param real: the rows that it is trained on.
    :param name: of its folder in the store; what a further student's teacher keeps is named after it.
    """

    def __init__(
        self,
        config: StudentConfig,
        student: EncoderStudent | CausalStudent,
        real: Sequence[Example],
        store: TeacherStore,
        reporter: Reporter,
        seed: int,
        name: str = FOLDER,
    ) -> None:
        self.config, self.student, self.real, self.folder = config, student, real, name
        self._prefix = "" if name == FOLDER else f"{name}."
        self.store, self.reporter, self.seed = store, reporter, seed
        self._ready = False
        self._embedder: SentenceTransformer | None = None
        self.centre: Tensor | None = None  # (d,) taken from its own embeddings: those of a causal LM are all alike

    @property
    def available(self) -> bool:
        """Whether it is trained already, in memory or in the store."""
        return self._ready or self.store.saved_folder(self.folder) is not None

    @property
    def judges_labels(self) -> bool:
        """Whether it says how probable a candidate's label is; a causal LM knows no labels."""
        return isinstance(self.student, EncoderStudent)

    def prepare(self) -> EncoderStudent | CausalStudent:
        """The trained student: loaded from the store, or trained and saved there."""
        if self._ready:
            return self.student
        folder = self.store.saved_folder(self.folder)
        if folder is not None:
            self.student.load(folder)
        else:
            with self.reporter.track(f"train {self.folder}", self.config.training_steps(len(self.real))) as advance:
                self._train(lambda done, total: advance(done))
            self.store.save_folder(self.folder, self.student.save)
        self._ready = True
        return self.student

    def _train(self, progress: Progress) -> None:
        causal = isinstance(self.student, CausalStudent)
        count = 1
        if not causal or self.config.lora.device_map is None:  # that one takes all GPUs itself
            count = process_count(self.config.processes, self.config.batch_size, "student.processes")
        if count == 1:
            self.student.fit(self.real, seed=self.seed, checkpoints=self.config.checkpoints, progress=progress)
            return
        recipe = self.student.config
        build = partial(CausalStudent, recipe) if causal else partial(EncoderStudent, recipe, self.student.num_classes)
        work = partial(_train_together, build, self.real, self.seed, self.config.checkpoints)
        with trained(count, work, progress) as folder:
            self.student.load(folder)

    def accuracy(self, rows: Sequence[Example]) -> float:
        """Share of the rows that it gives their label."""
        student = self.prepare()
        assert isinstance(student, EncoderStudent)  # ``judges_labels``
        predicted = student.predict(rows).argmax(1).tolist()
        return sum(label == row.label for label, row in zip(predicted, rows, strict=True)) / len(rows)

    def embeddings(self, name: str, examples: Sequence[Example]) -> Tensor:
        """(n, d) float32, rows of length 1: sentence-transformers if configured, the pretrained student otherwise."""
        return self._stored(name, examples, self._embedding_alone)["embedding"]

    def features(self, name: str, examples: Sequence[Example]) -> tuple[Tensor, list[Features]]:
        """Embeddings (n, d) and the features at every checkpoint."""
        arrays = self._stored(name, examples, self._everything)
        count = self.config.checkpoints
        return arrays["embedding"], [
            Features(arrays[f"hidden.{t}"], arrays[f"probs.{t}"], arrays.get(f"gradient.{t}")) for t in range(count)
        ]

    def ahead(self, name: str, index: int, rows: Sequence[Example]) -> None:
        """Compute one chunk of what ``features`` will be asked for, and keep it; may be called from another thread.

        :param index: of the chunk, which holds ``CHUNK`` rows.
        """
        file, ids = self.file_of(name, index), [row.id for row in rows]
        if self.store.load_features(file, ids) is None:
            self.store.save_features(file, ids, self.arrays(rows))

    def file_of(self, name: str, index: int) -> str:
        """What a chunk of ``CHUNK`` rows is called in the store."""
        return f"{self._prefix}{name}-{index:05d}"

    def arrays(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """What is kept of n examples, computed now: embedding (n, d), and hidden.t, probs.t and perhaps gradient.t."""
        return self._everything(examples, lambda share: None)

    def segments(self) -> tuple[Segment, ...]:
        """What its training did to it from one checkpoint to the next, in order."""
        arrays = self.store.load_features(f"{self._prefix}segments", [])
        if arrays is None:
            student = self.prepare()
            assert isinstance(student, EncoderStudent)  # no objective of instructions asks for segments
            arrays = {
                f"{part}.{t}": values
                for t, segment in enumerate(segments(student))
                for part in ("head", "head_scale", "body")
                if (values := getattr(segment, part)) is not None
            }
            self.store.save_features(f"{self._prefix}segments", [], arrays)
        return tuple(
            Segment(arrays[f"head.{t}"], arrays.get(f"head_scale.{t}"), arrays.get(f"body.{t}"))
            for t in range(self.config.checkpoints - 1)
        )

    def _embedding_alone(self, rows: Sequence[Example], tick: _Tick) -> dict[str, Tensor]:
        return {"embedding": self._embed(rows, tick)}

    def _everything(self, rows: Sequence[Example], tick: _Tick) -> dict[str, Tensor]:
        student = self.prepare()
        arrays = {}
        total = self.config.checkpoints
        embedding = self._embed(rows, lambda share: tick(share / total))
        for t in range(total):
            encoder = isinstance(student, EncoderStudent) and student.pooling != "pooler"
            if t == 0 and encoder and self.config.embedder is None and not self.config.gradient_dims:
                assert isinstance(student, EncoderStudent)
                # The first checkpoint has the pretrained body: its features are the embeddings, scaled.
                features = student.classify(embedding * FEATURE_SCALE, checkpoint=0)
            else:
                features = student.features(rows, checkpoint=t, progress=_part(tick, t, total))
            arrays[f"hidden.{t}"], arrays[f"probs.{t}"] = features.hidden, features.probabilities
            if features.gradient is not None:
                arrays[f"gradient.{t}"] = features.gradient
        return {"embedding": embedding, **arrays}

    def _embed(self, rows: Sequence[Example], tick: _Tick) -> Tensor:
        if self.config.embedder is None:
            vectors = self.student.embed(rows, progress=lambda done, count: tick(done / count))
            return vectors if self.centre is None else nn.functional.normalize(vectors - self.centre, dim=1)
        if self._embedder is None:
            from sentence_transformers import SentenceTransformer

            try:
                self._embedder = SentenceTransformer(
                    resolve(self.config.embedder),
                    trust_remote_code=self.config.trust_remote_code,
                    model_kwargs={"use_safetensors": True},
                )
            except Exception as error:
                raise model_error(self.config.embedder, error) from error
        vectors = self._embedder.encode(
            [row.text for row in rows], convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False
        )
        return vectors.float().cpu()

    def _stored(self, name: str, examples: Sequence[Example], compute: _Compute) -> dict[str, Tensor]:
        """Arrays for the examples, chunk by chunk, each chunk from its file if it is there."""
        chunks = [examples[start : start + CHUNK] for start in range(0, max(len(examples), 1), CHUNK)]
        files = [self.file_of(name, index) for index in range(len(chunks))]
        ids = [[row.id for row in rows] for rows in chunks]
        parts = [self.store.load_features(file, keys) for file, keys in zip(files, ids, strict=True)]
        if compute == self._everything:  # a store may know the embeddings alone
            parts = [part if part is not None and "hidden.0" in part else None for part in parts]
        if compute == self._everything and None in parts:
            self.prepare()  # before the bar of this stage: it has one of its own
        done = sum(len(rows) for rows, part in zip(chunks, parts, strict=True) if part is not None)
        whole: list[dict[str, Tensor]] = []
        with self.reporter.track(f"features of {self._prefix}{name}", len(examples), done=done) as advance:
            for file, keys, rows, part in zip(files, ids, chunks, parts, strict=True):
                if part is None:
                    part = compute(rows, _rows_done(advance, done, len(rows)))
                    self.store.save_features(file, keys, part)
                    done += len(rows)
                    advance(done)
                whole.append(part)
        return {key: torch.cat([part[key] for part in whole]) for key in whole[0]}


def _train_together(
    build: Callable[..., EncoderStudent | CausalStudent],
    real: Sequence[Example],
    seed: int,
    checkpoints: int,
    split: Split,
    folder: Path,
    progress: Progress,
) -> None:
    """What each of several processes does; the first writes the checkpoints."""
    student = build(device=split.device)
    student.fit(real, seed=seed, checkpoints=checkpoints, progress=progress, split=split)
    if split.first:
        student.save(folder)


def _part(tick: _Tick, index: int, parts: int) -> Progress:
    """Progress within one of several equal parts, as a share of the whole."""
    return lambda done, total: tick((index + done / total) / parts)


def _rows_done(advance: Advance, before: int, count: int) -> _Tick:
    """The share done of a chunk, as rows done of its stage."""
    return lambda share: advance(before + int(share * count))
