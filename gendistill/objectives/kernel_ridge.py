"""Kernel ridge regression trained on the chosen texts and tested on the real ones, in closed form, at scale."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gendistill.errors import ConfigError, DataError
from gendistill.objectives.linear import chunks, each_chunk, products, with_constant

Key = tuple[frozenset[int], int]  # of a step: the set without the index, and the index
EXPECT_ROWS = 20_000  # candidates from which on hints are taken
MANY_CLASSES = 12
FITS_KEPT = 32  # solved systems remembered: the classes of one call ask for the same few


class KernelRidge:
    """Squared error on the real rows of kernel ridge regression trained on the chosen ones; the empty set has loss 1.

    The loss of KIP (kernel inducing points, Nguyen et al. 2021, arXiv 2011.00050),
    ``|Y_real - K_rs (K_ss + ridge I)^-1 Y_s|^2``, with the support set s picked from the candidates instead of learnt.
    Targets are one-hot minus 1/C. The kernel is ``x . x' + 1``: the constant feature is the bias, under the same
    penalty as the rest. Real rows are weighted so that each class counts equally, and the error is divided by the mean
    squared norm of the real targets, which is the error of predicting nothing.

    With D = d + 1 features, the real rows count only through their weighted moments S = X^T W X (D, D) and X^T W Y
    (D, C). With M = I - X_s^T (K_ss + ridge I)^-1 X_s, adding x_i changes the prediction by the rank-one
    ``X_real M x_i e_i / (ridge + x_i^T M x_i)``, e_i being the error on i and the divisor the Schur complement. So all
    gains follow from four things a candidate has: ``x^T M x``, ``x^T M S M x``, its error and the slope of the loss
    along M x. They are kept, and a changed set moves them by a rank-one step for each index added or removed, with the
    two products ``X r`` and ``X M S r``; a call makes one pass over the candidates, however many indices changed. M
    itself is solved anew for every step, so errors do not build up. Nothing of size n x n or n x m is formed, and the
    candidates stay float32: 8 (2 + 2 C) bytes a candidate, at most three times, are added to them, and 16 for each step
    at hand.

    :param candidates: (n, d) float32.
    :param labels: (n,) int64.
    :param real: (m, d) float32.
    :param real_labels: (m,) int64.
    :param ridge: positive.
    :raises ConfigError: the ridge is not positive.
    """

    submodular = False

    def __init__(
        self,
        candidates: Tensor,
        labels: Tensor,
        real: Tensor,
        real_labels: Tensor,
        num_classes: int,
        ridge: float,
        name: str = "meta_model",
    ) -> None:
        if not ridge > 0:
            raise ConfigError(f"objective.ridge must be positive, got {ridge}")
        self.name, self.size, self.ridge = name, len(labels), ridge
        self._candidates, self._labels = candidates, labels
        self._one_hot = torch.eye(num_classes, dtype=torch.float64) - 1.0 / num_classes  # a row a class
        weights = 1.0 / torch.bincount(real_labels, minlength=num_classes)[real_labels].double()
        weights /= weights.sum()
        wide = candidates.shape[1] + 1
        self._moment = torch.zeros(wide, wide, dtype=torch.float64)
        self._cross = torch.zeros(wide, num_classes, dtype=torch.float64)
        for place, part in chunks(real):
            x = with_constant(part)
            weighted = x * weights[place, None]
            self._moment += weighted.T @ x
            self._cross += weighted.T @ self._one_hot[real_labels[place]]
        if num_classes < 2:
            raise DataError(f"the objective {name} tells classes apart: it needs 2 of them, got {num_classes}")
        self._scale = float((weights * self._one_hot.square().sum(1)[real_labels]).sum())
        # Of many small classes, all candidates together: the work by class would be mostly overhead
        self._together = num_classes > MANY_CLASSES and self.size < EXPECT_ROWS
        self._classes = [self._empty_class(rows) for rows in self._parts(labels)]
        self._fits: dict[frozenset[int], _Fit] = {}
        self._step_cache: dict[tuple[Key, int], _Step] = {}

    def loss(self, chosen: Sequence[int]) -> float:
        coefficients = self._fit(frozenset(chosen)).coefficients
        fitted = (coefficients * (self._moment @ coefficients - 2 * self._cross)).sum()
        return (float(fitted) + self._scale) / self._scale

    def gains(self, chosen: Sequence[int], rows: Tensor | None = None) -> Tensor:
        """As the protocol says; whole classes are computed: O(n_c D) for each class that ``rows`` has a part of."""
        target = frozenset(chosen)
        gains = torch.full((self.size,), -torch.inf, dtype=torch.float64)
        wanted = self._wanted(rows)
        starts = [own.nearest(target) for own in wanted]
        # Most classes start from the same set, and their steps are more than are remembered
        moves = {held: self._steps(held, target) for held in dict.fromkeys(start.held for start in starts)}
        plans = [moves[start.held] for start in starts]
        self._fetch(wanted, plans)
        for own, start, steps in zip(wanted, starts, plans, strict=True):
            values = self._move(own, start, target, steps)
            errors, slopes = values[2:].tensor_split(2)
            schur = values[0].clamp_min(0) + self.ridge
            on_real = values[1] * errors.square().sum(0) / schur
            gains[own.rows] = (2 * (slopes * errors).sum(0) + on_real) / schur / -self._scale
        gains[list(chosen)] = -torch.inf
        return gains if rows is None else gains[rows]

    def _parts(self, labels: Tensor) -> list[Tensor]:
        """The candidates that are computed together: those of a class, or all."""
        if self._together:
            return [torch.arange(len(labels))]
        return [torch.nonzero(labels == c).flatten() for c in range(len(self._one_hot))]

    def _empty_class(self, rows: Tensor) -> _Class:
        """What candidates of a class have at the empty set, where M is I and all coefficients are 0."""
        classes = len(self._one_hot)
        values = torch.empty(2 + 2 * classes, len(rows), dtype=torch.float64)

        def fill(place: slice, part: Tensor) -> None:
            x = with_constant(part)
            values[0, place] = x.square().sum(1)
            values[1, place] = (x @ self._moment * x).sum(1)
            values[2 + classes :, place] = -(x @ self._cross).T

        each_chunk(self._candidates, fill, rows)
        values[2 : 2 + classes] = self._one_hot[self._labels[rows]].T
        empty = _State(frozenset(), values)
        return _Class(rows, empty, empty, empty)

    def expect(self, chosen: Sequence[int], ahead: Sequence[Sequence[int]], rows: Tensor | None = None) -> None:
        """A hint that gains at ``chosen`` and then at the sets ``ahead`` may be asked for, of the classes of ``rows``.

        The products that they need are made in one pass, which costs little more for many sets than for one. Nothing
        depends on whether the hint is right but the time. Of few candidates a pass costs less than the solves ahead.
        """
        if self.size < EXPECT_ROWS:
            return
        wanted = self._wanted(rows)
        plans: list[list[_Step]] = []
        for own in wanted:
            own.columns = {}
            known = [state.held for state in (own.current, own.anchor, own.empty)]
            plan: list[_Step] = []
            for target in map(frozenset, (chosen, *ahead)):
                plan += self._steps(min(known, key=lambda held: len(held ^ target)), target)
                known.append(target)
            plans.append(plan)
        self._fetch(wanted, plans)

    def restricted(self, rows: Tensor) -> KernelRidge:
        """The same objective over some of the candidates; rows (r,) int64 in rising order, index i being rows[i]."""
        part = copy.copy(self)
        part.size, part._candidates, part._labels = len(rows), self._candidates[rows], self._labels[rows]
        part._classes, part._fits, part._step_cache = [], {}, {}
        for own, some in zip(self._classes, self._parts(part._labels), strict=True):
            values = own.empty.values[:, torch.searchsorted(own.rows, rows[some])]
            empty = _State(frozenset(), values)
            part._classes.append(_Class(some, empty, empty, empty))
        return part

    def _wanted(self, rows: Tensor | None) -> list[_Class]:
        if rows is None or self._together:
            return self._classes
        parts = torch.bincount(self._labels[rows]).tolist()
        return [own for own, part in zip(self._classes, parts, strict=False) if part]

    def _fetch(self, wanted: list[_Class], plans: list[list[_Step]]) -> None:
        """See to it that each class has ``X r`` and ``X M S r`` of its steps; what it had and does not need may go."""
        lacking = []
        for own, steps in zip(wanted, plans, strict=True):
            if any(step.key not in own.columns for step in steps):
                own.columns = {}
            lacking.append([step for step in steps if step.key not in own.columns])
        keys = [[step.key for step in steps] for steps in lacking]
        if len(wanted) == len(self._classes) and all(one == keys[0] for one in keys):
            # All classes make the same move, as in greedy: one pass over rows that lie side by side is the fastest.
            passed = self._pass(lacking[0], None)
            for own in wanted:
                own.columns |= {key: columns[:, own.rows] for key, columns in passed.items()}
        else:
            for own, steps in zip(wanted, lacking, strict=True):
                own.columns |= self._pass(steps, own.rows)

    def _pass(self, steps: list[_Step], rows: Tensor | None) -> dict[Key, Tensor]:
        """(2, r) of each step, by one pass over the candidates."""
        if not steps:
            return {}
        directions = torch.stack([direction for step in steps for direction in (step.residual, step.on_real)])
        passed = products(self._candidates, directions, rows)
        return {step.key: passed[2 * number : 2 * number + 2] for number, step in enumerate(steps)}

    def _move(self, own: _Class, start: _State, target: frozenset[int], steps: list[_Step]) -> Tensor:
        """(2 + 2C, n_c): spread x^T M x, spread on real, errors and slopes of a class's candidates at ``target``.

        Moves there from the nearest state at hand. The one from before a removal stays as the anchor, so that trying
        to exchange each of the chosen in turn takes one step a trial.
        """
        if start.held == target:
            return start.values
        added = len(target - start.held)
        values = start.values if start is own.current and start is not own.empty else start.values.clone()
        for number, step in enumerate(steps):
            if number == added and (added or start is not own.anchor):
                own.anchor = _State(start.held | target, values)
                values = values.clone()
            along, across = own.columns[step.key]
            step.apply(values, along=along, across=across)
        own.current = _State(target, values)
        return values

    def _steps(self, held: frozenset[int], target: frozenset[int]) -> list[_Step]:
        """From one set to another: first the additions, then the removals, each in the order of the indices."""
        steps, now = [], held
        for index in sorted(target - held):
            steps.append(self._step(now, index, +1))
            now |= {index}
        for index in sorted(held - target):
            now -= {index}
            # Undoing an addition, from M without the row, is stable; dividing by ridge - x^T M x would not be.
            steps.append(self._step(now, index, -1))
        return steps

    def _step(self, held: frozenset[int], index: int, sign: int) -> _Step:
        """The effect of adding ``index`` to ``held``, or (-1) of undoing that."""
        known = ((held, index), sign)
        if known not in self._step_cache:
            if len(self._step_cache) >= FITS_KEPT:
                del self._step_cache[next(iter(self._step_cache))]
            self._step_cache[known] = self._solve_step(held, index, sign)
        return self._step_cache[known]

    def _solve_step(self, held: frozenset[int], index: int, sign: int) -> _Step:
        fit = self._fit(held)
        x = with_constant(self._candidates[[index]])[0]
        residual = fit.remaining(x)
        root = (self.ridge + x @ residual).sqrt()
        residual /= root
        moved = self._moment @ residual
        error = (self._one_hot[self._labels[index]] - x @ fit.coefficients) / root
        curvature = residual @ moved
        slope = residual @ (self._moment @ fit.coefficients - self._cross) + curvature * error
        return _Step(sign, (held, index), residual, fit.remaining(moved), error, float(curvature), slope)

    def _fit(self, held: frozenset[int]) -> _Fit:
        if held not in self._fits:
            if len(self._fits) >= FITS_KEPT:
                del self._fits[next(iter(self._fits))]
            rows = sorted(held)  # sorted, so that no bit depends on the order
            x, y = with_constant(self._candidates[rows]), self._one_hot[self._labels[rows]]
            self._fits[held] = _Fit(x, y, self.ridge)
        return self._fits[held]


class _Fit:
    """Ridge regression on k rows x (k, D) with targets y (k, C), by the smaller of the two systems."""

    def __init__(self, x: Tensor, y: Tensor, ridge: float) -> None:
        few = len(x) < x.shape[1]
        gram = x @ x.T if few else x.T @ x
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram + ridge * torch.eye(len(gram), dtype=gram.dtype)))
        self._left = x.T @ inverse if few else ridge * inverse
        self._right = x if few else None
        self.coefficients = self._left @ y if few else inverse @ (x.T @ y)  # (D, C)

    def remaining(self, vector: Tensor) -> Tensor:
        """``M vector``, M = I - x^T (x x^T + ridge I)^-1 x = ridge (x^T x + ridge I)^-1."""
        return self._left @ vector if self._right is None else vector - self._left @ (self._right @ vector)


@dataclass(frozen=True, eq=False)
class _State:
    held: frozenset[int]
    values: Tensor  # (2 + 2C, n_c) float64


@dataclass(eq=False)
class _Class:
    rows: Tensor  # (n_c,) int64
    empty: _State
    current: _State
    anchor: _State
    columns: dict[Key, Tensor] = field(default_factory=dict)  # (2, n_c) of steps from here, or to be expected

    def nearest(self, target: frozenset[int]) -> _State:
        """Of the states at hand, the one that the fewest steps lead from."""
        return min((self.current, self.anchor, self.empty), key=lambda state: len(state.held ^ target))


@dataclass(frozen=True, eq=False)
class _Step:
    """A rank-one change: M' = M - r r^T and coefficients' = coefficients + r error^T, for sign +1."""

    sign: int
    key: Key
    residual: Tensor  # (D,) r = M x / sqrt(ridge + x^T M x)
    on_real: Tensor  # (D,) M S r
    error: Tensor  # (C,) of the added row, over the same root
    curvature: float  # r^T S r
    slope: Tensor  # (C,)

    def apply(self, values: Tensor, *, along: Tensor, across: Tensor) -> None:
        """Move a class's values (2 + 2C, n_c) in place; ``along`` is X r and ``across`` X M S r, (n_c,) each."""
        errors, slopes = values[2:].tensor_split(2)
        values[0].addcmul_(along, along, value=-self.sign)
        values[1].add_(along * (self.curvature * along - 2 * across), alpha=self.sign)
        errors.addr_(self.error, along, alpha=-self.sign)
        slopes.addr_(self.error, across, alpha=self.sign).addr_(self.slope, along, alpha=-self.sign)
