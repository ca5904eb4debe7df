"""Distribution matching on embeddings: the chosen texts should lie where the real texts of their class lie.

All are per class and averaged over classes, and look at no student.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gendistill.objectives.classwise import ClassWise
from gendistill.objectives.linear import chunks
from gendistill.objectives.matching import MeanMatching
from gendistill.objectives.vectors import Plain

if TYPE_CHECKING:
    from gendistill.objectives import ObjectiveInputs

TARGET_ROWS = 1000  # real rows of a class that kernels look at, at most
SAMPLE_SEED = 0
COLUMNS_KEPT = 100  # of a class's kernel matrix, one for each candidate chosen or tried


def mean_matching(inputs: ObjectiveInputs) -> MeanMatching:
    """Squared distance of class means: MMD with the linear kernel, the loss of distribution matching.

    Zhao & Bilen 2023 (arXiv 2110.04181), on the embeddings instead of those of random networks.
    """
    pairs = [(Plain(inputs.candidate_embeddings), Plain(inputs.real_embeddings))]
    return MeanMatching("mean_matching", inputs.candidate_labels, inputs.num_classes, pairs, inputs.real_labels)


class Mmd(ClassWise):
    """Squared maximum mean discrepancy of the real and the chosen rows of a class, over that of choosing nothing.

    The biased estimate of Gretton et al. 2012 (A Kernel Two-Sample Test, JMLR 13), squared,
    ``mean k(x, x') - 2 mean k(x, s) + mean k(s, s')`` over real x and chosen s, with
    ``k(a, b) = exp(-|a - b|^2 / (2 sigma^2))`` and sigma the median distance between real rows of the class. The kernel
    means of nothing are 0, so the empty set has ``mean k(x, x')``. A class without real rows costs nothing.

    :param target: real rows of a class that are looked at, at most; a seeded sample when there are more.
    """

    name = "mmd"

    def __init__(self, inputs: ObjectiveInputs, target: int = TARGET_ROWS) -> None:
        super().__init__(inputs.candidate_labels, inputs.num_classes)
        self._candidates = inputs.candidate_embeddings
        self._rate, self._self = [0.0] * self.num_classes, [0.0] * self.num_classes
        self._to_real = torch.zeros(self.size, dtype=torch.float64)  # mean over real x of k(x, candidate)
        self._columns: list[dict[int, Tensor]] = [{} for _ in range(self.num_classes)]
        for c, real in enumerate(_targets(inputs, target)):
            if len(real) == 0:
                continue
            squared = _squared_distances(real, real)
            median = squared[~torch.eye(len(real), dtype=torch.bool)].median() if len(real) > 1 else torch.tensor(0.0)
            self._rate[c] = 1 / (2 * float(median)) if median > 0 else 1.0  # sigma^2 is the median squared distance
            self._self[c] = float(torch.exp(-self._rate[c] * squared).mean())
            for place, part in chunks(self._candidates, self.rows[c]):
                kernel = torch.exp(-self._rate[c] * _squared_distances(part, real))
                self._to_real[self.rows[c][place]] = kernel.mean(1)
        self._unit = sum(self._self) / self.num_classes  # the mean over classes of what nothing costs

    def class_loss(self, c: int, chosen: list[int]) -> float:
        if not self._self[c]:
            return 0.0
        total, among = self._sums(c, chosen)
        count = max(len(chosen), 1)
        return (self._self[c] - 2 * total / count + among / count**2) / self._unit

    def class_gains(self, c: int, chosen: list[int], rows: Tensor) -> Tensor:
        if not self._self[c]:
            return torch.zeros(len(rows), dtype=torch.float64)
        total, among = self._sums(c, chosen)
        count = len(chosen) + 1
        place = torch.searchsorted(self.rows[c], rows)
        cross = sum((self._column(c, i)[place] for i in chosen), torch.zeros(len(rows), dtype=torch.float64))
        then = self._self[c] - 2 * (total + self._to_real[rows]) / count + (among + 2 * cross + 1) / count**2
        return self.class_loss(c, chosen) - then / self._unit

    def _sums(self, c: int, chosen: list[int]) -> tuple[float, float]:
        """``sum_s mean_x k(x, s)`` and ``sum_s,s' k(s, s')``."""
        own = self._candidates[chosen].double()
        among = torch.exp(-self._rate[c] * _squared_distances(own, own)).sum()
        return float(self._to_real[chosen].sum()), float(among)

    def _column(self, c: int, index: int) -> Tensor:
        """(n_c,): k(candidate, index) for the candidates of the class; the last of them are kept."""
        kept = self._columns[c]
        if len(kept) > COLUMNS_KEPT:
            del kept[next(iter(kept))]
        if index not in kept:
            row = self._candidates[[index]].double()
            parts = [_squared_distances(part, row)[:, 0] for _, part in chunks(self._candidates, self.rows[c])]
            kept[index] = torch.exp(-self._rate[c] * torch.cat(parts))
        return kept[index]


class Coverage(ClassWise):
    """One minus the share of a class's real mass that the chosen rows of the class cover; the empty set costs 1.

    A real row is covered as far as its most similar chosen row, similarity being the cosine, from 0 up: the facility
    location function (for data selection: Wei, Iyer & Bilmes 2015, Submodularity in Data Subset Selection and Active
    Learning). It is submodular, so greedy is lazy and within 1 - 1/e of the best coverage. A class without real rows
    counts 1.

    :param target: real rows of a class that are looked at, at most; a seeded sample when there are more.
    """

    name = "coverage"
    submodular = True

    def __init__(self, inputs: ObjectiveInputs, target: int = TARGET_ROWS) -> None:
        super().__init__(inputs.candidate_labels, inputs.num_classes)
        self._candidates = inputs.candidate_embeddings
        self._real = _targets(inputs, target)

    def class_loss(self, c: int, chosen: list[int]) -> float:
        return 1.0 - float(self._covered(c, chosen).mean()) if len(self._real[c]) else 1.0

    def class_gains(self, c: int, chosen: list[int], rows: Tensor) -> Tensor:
        gains = torch.zeros(len(rows), dtype=torch.float64)
        if len(self._real[c]):
            covered = self._covered(c, chosen)
            for place, part in chunks(self._candidates, rows):
                gains[place] = (part @ self._real[c].T - covered).clamp_min_(0).mean(1)
        return gains

    def _covered(self, c: int, chosen: Sequence[int]) -> Tensor:
        """(m_c,): of each real row of the class, the largest similarity to a chosen one."""
        real = self._real[c]
        similarities = real @ self._candidates[list(chosen)].double().T
        return torch.cat([torch.zeros(len(real), 1, dtype=torch.float64), similarities], dim=1).amax(1)


def _targets(inputs: ObjectiveInputs, limit: int) -> list[Tensor]:
    """(m_c, d) float64 real embeddings of each class, a seeded sample where there are more than ``limit``."""
    generator = torch.Generator().manual_seed(SAMPLE_SEED)
    targets = []
    for c in range(inputs.num_classes):
        rows = torch.nonzero(inputs.real_labels == c).flatten()
        if len(rows) > limit:
            rows = rows[torch.randperm(len(rows), generator=generator)[:limit].sort().values]
        targets.append(inputs.real_embeddings[rows].double())
    return targets


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """(n, m) float64, by the expansion of the square: exact enough for rows of length 1."""
    return (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * (a @ b.T)).clamp_min_(0)
