"""Flow control of one server: how many calls it is given at once, and when it counts as down.

Clocks are monotonic: setting the machine's clock changes nothing here.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

FIRST_LIMIT = 32.0  # calls at once, before anything is known; from 8 a server idles while the limit doubles
DECREASE = 0.7  # of the limit, when the server refuses
FAILURES_TO_OPEN, SECONDS_TO_OPEN = 10, 2.0  # in a row, and for so long, without a success between
UNREACHABLE_S = 0.25
PROBE_FIRST_S, PROBE_MOST_S = 1.0, 30.0  # between two calls to a server that counts as down

Clock = Callable[[], float]


@dataclass
class Flow:
    """Additive increase, multiplicative decrease (Chiu & Jain 1989), with slow start, and a circuit breaker.

    :param most: calls at once that are never exceeded.
    :param backoff_s: of the first wait after a refusal that does not say how long to wait.
    """

    most: int = 256
    backoff_s: float = 0.5
    clock: Clock = time.monotonic
    limit: float = FIRST_LIMIT
    in_flight: int = 0
    paused_until: float = 0.0  # by the clock
    failures: int = 0  # in a row
    failing_since: float | None = None
    reason: str = ""  # of the last failure
    _asked_until: float = 0.0  # by a Retry-After
    _epoch: int = 0  # grows with every decrease
    _growing_fast: bool = True
    _refusals: int = 0  # bursts in a row
    _probe_s: float = PROBE_FIRST_S
    _random: random.Random = field(default_factory=random.Random)

    def __post_init__(self) -> None:
        self.limit = min(self.limit, float(self.most))

    @property
    def down(self) -> bool:
        """The breaker is open: one call at a time finds out whether the server is back."""
        return self.failures >= FAILURES_TO_OPEN and self._for_s() >= SECONDS_TO_OPEN

    @property
    def room(self) -> bool:
        if self.clock() < self.paused_until:
            return False
        return self.in_flight < (1 if self.down else int(self.limit))

    def wait_s(self) -> float:
        """Until a pause is over."""
        return max(0.0, self.paused_until - self.clock())

    def sent(self) -> int:
        """A call begins; gives the epoch that its outcome is to be told with."""
        self.in_flight += 1
        return self._epoch

    def returned(self) -> None:
        self.in_flight -= 1

    def succeeded(self) -> None:
        self.failures, self.failing_since, self._refusals, self._probe_s = 0, None, 0, PROBE_FIRST_S
        if 2 * (self.in_flight + 1) >= self.limit:  # a limit that nobody comes near says nothing
            self.limit = min(self.limit + (1.0 if self._growing_fast else 1.0 / self.limit), float(self.most))

    def refused(self, epoch: int, retry_after: float | None, reason: str) -> None:
        """The server has too much to do: fewer calls, once for all that were on their way together, after a pause."""
        self.reason = reason
        if self.failing_since is None:
            self.failing_since = self.clock()
        wait = retry_after
        if wait is not None:
            self.reason += f", asks to wait {wait:.0f} s"
            self._asked_until = max(self._asked_until, self.clock() + wait)
        if epoch == self._epoch:
            self._epoch += 1
            self._growing_fast = False
            self.limit = max(1.0, self.limit * DECREASE)
            self._refusals += 1
            if wait is None:
                wait = backoff(self._refusals, self.backoff_s, self._random)
        if wait is not None:
            self.paused_until = max(self.paused_until, self.clock() + wait)

    def failed(self, reason: str, *, unreachable: bool = False) -> None:
        """No answer, or an error of the server's own.

        :param unreachable: nobody listens there; the next call can wait a moment.
        """
        self.reason = reason
        self.failures += 1
        if self.failing_since is None:
            self.failing_since = self.clock()
        if self.clock() < self.paused_until:
            return  # one of those that were on their way together
        wait = UNREACHABLE_S if unreachable else 0.0
        if self.down:
            wait = self._probe_s
            self._probe_s = min(2 * self._probe_s, PROBE_MOST_S)
        if wait:
            self.paused_until = self.clock() + wait * self._random.uniform(0.5, 1.0)

    def failing_s(self) -> float:
        """Seconds since the first failure that no success came after; a wait that the server asks for counts."""
        return self._for_s(self._asked_until)

    def _for_s(self, until: float = 0.0) -> float:
        return 0.0 if self.failing_since is None else max(self.clock(), until) - self.failing_since


def backoff(tries: int, first_s: float, rng: random.Random, most_s: float = 30.0) -> float:
    """Seconds before the next try, after so many: exponential, capped, jittered so that calls do not come together."""
    return min(first_s * 2.0 ** (tries - 1), most_s) * rng.uniform(0.5, 1.0)


def retry_after(value: str | None, date: str | None) -> float | None:
    """Seconds that a Retry-After header asks for; of a date, by the server's own clock (its Date header).

    https://www.rfc-editor.org/rfc/rfc9110#name-retry-after
    """
    if value is None:
        return None
    value = value.strip()
    if re.fullmatch(r"\d+(\.\d+)?", value):
        return float(value)
    try:
        then = parsedate_to_datetime(value)
        now = parsedate_to_datetime(date) if date else None
    except (TypeError, ValueError):
        return None
    return None if now is None else max(0.0, (then - now).total_seconds())
