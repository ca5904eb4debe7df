"""A chosen example as a row of distilled.jsonl; a run and ``gendistill select`` write the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gendistill.data import RealData
from gendistill.data.rows import labels_of, texts_of
from gendistill.examples import Example
from gendistill.pool import DECIMALS
from gendistill.soft_labels import KEY, named


def chosen_row(
    example: Example,
    real: RealData,
    scores: Mapping[str, Any],
    gain: float,
    provenance: Mapping[str, Any],
    soft: Tensor | None = None,
) -> dict[str, Any]:
    """:param gain: what the example adds to those chosen before it, of the objective.
    :param soft: (C,) its soft label, if the set has them.
    """
    return {
        **texts_of(example),
        **labels_of(example, real.label_names, real.label_sets),
        **({} if soft is None else {KEY: named(soft, real.label_names)}),
        "id": example.id,
        "scores": {**scores, "gain": round(gain, DECIMALS)},
        "provenance": dict(provenance),
    }
