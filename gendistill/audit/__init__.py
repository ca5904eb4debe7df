"""The audit of what leaves the building: copies, membership, personal data, poisoning, labels, offence, balance.

``audit_rows`` looks at rows at hand, as a run does at its end; ``audit_file`` at a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gendistill.audit import balance, labels, membership, memorisation, personal_data, poisoning, toxicity
from gendistill.audit.masking import Masker
from gendistill.audit.material import Embed, Material, Named
from gendistill.audit.result import LEVELS, Audit, Check, Finding
from gendistill.compare import labelled
from gendistill.config import Config, StudentConfig
from gendistill.data import RealData
from gendistill.data.distilled import read_distilled
from gendistill.data.readers import open_file
from gendistill.data.rows import fields_of
from gendistill.data.shapes import common_shape
from gendistill.errors import DataError
from gendistill.evaluate import stratified_sample
from gendistill.examples import Example
from gendistill.prepare import prepare
from gendistill.progress import Reporter, Silent
from gendistill.students import STUDENTS
from gendistill.teacher import KeepingStore

__all__ = ["LEVELS", "Audit", "Check", "Finding", "audit_file", "audit_rows"]

CHECKS: dict[str, Callable[[Material], Check]] = {
    memorisation.NAME: memorisation.check,
    membership.NAME: membership.check,
    personal_data.NAME: personal_data.check,
    poisoning.NAME: poisoning.check,
    labels.NAME: labels.check,
    toxicity.NAME: toxicity.check,
    balance.NAME: balance.check,
}


def audit_rows(
    rows: Sequence[Mapping[str, Any]],
    real: RealData,
    config: Config,
    *,
    embed: Embed,
    file: str = "distilled.jsonl",
    lines: Sequence[int] | None = None,
    reporter: Reporter | None = None,
) -> Audit:
    """Every check of ``config.audit`` on the rows of a set. The same rows give the same audit; nothing is downloaded.

    :param rows: as in distilled.jsonl: texts, ``label_name`` or ``labels``, perhaps ``id`` and ``provenance``.
    :param embed: name and examples -> (n, d) float32, rows of length 1, such as a teacher's ``embeddings``. It is asked
        for the real rows under the name that a run keeps theirs by, and for others as ``audit`` and ``audit-held``.
    :param file: the name that findings give, with ``lines`` of it, from 1; those of a JSONL without empty lines if
        absent.
    :raises DataError: no rows, or a label that the real data does not have.
    :raises ConfigError: the spaCy pipeline that is asked for cannot be loaded.
    """
    if not rows:
        raise DataError(f"{file}: no rows to audit")
    answers = real.shape == "instruction"
    examples = [Example(fields_of(row), 0) for row in rows] if answers else labelled(rows, real.label_names, file)
    groups, known = len(real.label_names), [*real.train, *real.target]
    material = Material(
        rows=rows,
        lines=range(1, len(rows) + 1) if lines is None else lines,
        examples=examples,
        known=known,
        reference=Named(
            "audit-real" if real.target else "real",
            stratified_sample(known, groups, config.data.max_reference_rows, config.seed),
        ),
        held=Named(
            "audit-held",
            stratified_sample([*real.dev, *real.test], groups, config.audit.held_out_rows, config.seed),
        ),
        label_names=[] if answers else list(real.label_names),
        config=config.audit,
        embed=embed,
        masker=Masker.installed(config.audit.spacy),
        seed=config.seed,
        student=config.student.model,
    )
    made = []
    with (reporter or Silent()).track("audit", len(config.audit.checks)) as advance:
        for done, name in enumerate(config.audit.checks, 1):
            made.append(CHECKS[name](material))
            advance(done)
    return Audit(file, len(rows), real.source, len(known), made)


def audit_file(file: Path, config: Config, *, reporter: Reporter | None = None) -> Audit:
    """Audit a file against the real data that ``config`` names, with embeddings of its pretrained student.

    :param file: any that ``gendistill evaluate`` reads, or a run directory.
    :raises DataError: the file or the real data cannot be read, or a label is not of the real data.
    """
    if file.is_dir():
        file = file / "distilled.jsonl"
    rows, _ = read_distilled(file)
    answers = config.data.task == "instruction"
    if answers != ((shape := common_shape(rows)) == "instruction"):
        wanted = "instruction" if not answers else "auto"
        raise DataError(f"{file}: rows of {shape} against real data of another kind; see --task {wanted}")
    lines = [number for number, _ in open_file(file).rows(None)]
    reporter = reporter or Silent()
    prepared = prepare(_embedding(config), KeepingStore(), reporter)
    return audit_rows(
        rows,
        prepared.real,
        config,
        embed=prepared.teacher.embeddings,
        file=file.as_posix(),
        lines=lines,
        reporter=reporter,
    )


def _embedding(config: Config) -> Config:
    """The same with a student that embeds: linear ones do not, and the default encoder does it for them."""
    if config.student.model.partition(":")[0] not in STUDENTS:
        return config
    return config.model_copy(update={"student": StudentConfig()})
