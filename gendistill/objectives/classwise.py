"""What objectives share whose loss is a mean over classes, each looking at what is chosen of its own class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor


class ClassWise(ABC):
    """``mean_c loss_c(chosen of class c)``. A subclass gives ``class_loss`` and ``class_gains``.

    A class's gains depend on what is chosen of that class only, so they are kept until that changes: a greedy step
    renews one class.
    """

    name: str
    submodular = False

    def __init__(self, labels: Tensor, num_classes: int) -> None:
        self.size, self.num_classes = len(labels), num_classes
        self.labels = labels
        self.rows = [torch.nonzero(labels == c).flatten() for c in range(num_classes)]
        self._kept: dict[int, tuple[list[int], Tensor]] = {}

    @abstractmethod
    def class_loss(self, c: int, chosen: list[int]) -> float:
        """The loss of class c; ``chosen`` are candidates of it, in rising order."""

    @abstractmethod
    def class_gains(self, c: int, chosen: list[int], rows: Tensor) -> Tensor:
        """(r,) float64: the drop in ``class_loss`` that adding each of ``rows``, candidates of class c, brings."""

    def loss(self, chosen: Sequence[int]) -> float:
        groups = self._by_class(chosen)
        return sum(self.class_loss(c, group) for c, group in enumerate(groups)) / self.num_classes

    def gains(self, chosen: Sequence[int], rows: Tensor | None = None) -> Tensor:
        """As the protocol says; classes that ``rows`` has no part of cost nothing."""
        groups = self._by_class(chosen)
        every = torch.full((self.size,), -torch.inf, dtype=torch.float64)
        parts = list(enumerate(self.rows)) if rows is None else self._parts(rows)
        for c, mine in parts:
            every[mine] = self._class_gains(c, groups[c], mine) / self.num_classes
        every[list(chosen)] = -torch.inf
        return every if rows is None else every[rows]

    def _class_gains(self, c: int, chosen: list[int], rows: Tensor) -> Tensor:
        kept = self._kept.get(c)
        whole = len(rows) == len(self.rows[c])
        if kept is None or kept[0] != chosen:
            if not whole:
                return self.class_gains(c, chosen, rows)
            kept = self._kept[c] = (chosen, self.class_gains(c, chosen, self.rows[c]))
        return kept[1] if whole else kept[1][torch.searchsorted(self.rows[c], rows)]

    def _parts(self, rows: Tensor) -> list[tuple[int, Tensor]]:
        labels = self.labels[rows]
        return [(c, rows[labels == c]) for c, count in enumerate(torch.bincount(labels).tolist()) if count]

    def _by_class(self, chosen: Sequence[int]) -> list[list[int]]:
        groups: list[list[int]] = [[] for _ in range(self.num_classes)]
        for i in sorted(set(chosen)):  # sorted, so that no bit of a sum depends on the order
            groups[int(self.labels[i])].append(i)
        return groups
