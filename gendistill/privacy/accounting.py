"""How much noise a guarantee takes: Google's dp-accounting says, by privacy loss distributions. Imported when asked."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, Literal

from gendistill.errors import ConfigError, MissingExtraError

STEPS = 1e-4  # of privacy losses, over an epsilon above 1; rounding them is to the safe side, and finer ones take long
_MISSING = 'a private run needs the package dp-accounting: pip install "gendistill[dp]"'


def need_accounting() -> Any:
    """The package.

    :raises MissingExtraError: it is not installed.
    """
    try:
        import dp_accounting.pld
    except ImportError as error:
        raise MissingExtraError(_MISSING) from error
    return dp_accounting


@cache
def noise_multiplier(epsilon: float | Literal["inf"], delta: float) -> float:
    """Standard deviation of Gaussian noise over the L2 sensitivity, the least that is (epsilon, delta) private.

    Neighbours differ by one row added or removed. 0 for an epsilon of inf.

    :raises ConfigError: a guarantee that no noise of a sensible size gives.
    """
    if epsilon == "inf":
        return 0.0
    accounting = need_accounting()
    steps = STEPS * max(1.0, epsilon)
    try:
        found = accounting.calibrate_dp_mechanism(
            lambda: accounting.pld.PLDAccountant(value_discretization_interval=steps),
            accounting.GaussianDpEvent,
            epsilon,
            delta,
        )
    except Exception as error:
        raise ConfigError(f"privacy: no noise gives epsilon {epsilon} at delta {delta:g} ({error})") from error
    return float(found)


def epsilon_spent(multiplier: float, delta: float, releases: int = 1) -> float:
    """Epsilon at delta of so many releases with this noise, over the same rows; infinite without noise."""
    if not multiplier:
        return math.inf
    accounting = need_accounting()
    accountant = accounting.pld.PLDAccountant()
    accountant.compose(accounting.GaussianDpEvent(multiplier), releases)
    return float(accountant.get_epsilon(delta))
