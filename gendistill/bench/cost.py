"""What a piece of work cost: seconds, and the most memory that the process held meanwhile."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from pathlib import Path
from types import TracebackType

_STATUS, _REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Meter:
    """Use as a context manager; ``cost`` is there afterwards.

    The peak of memory begins anew with each meter where the system can do that (Linux); elsewhere it is the process's.
    """

    def __enter__(self) -> Meter:
        self._start = time.perf_counter()
        self.cost: dict[str, float] = {}
        with contextlib.suppress(OSError):
            _REFS.write_text("5", encoding="ascii")
        self._cuda = "torch" in sys.modules and sys.modules["torch"].cuda.is_available()
        if self._cuda:
            sys.modules["torch"].cuda.reset_peak_memory_stats()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cost = {"seconds": round(time.perf_counter() - self._start, 3), "peak_memory": _peak()}
        if self._cuda:
            self.cost["peak_gpu_memory"] = sys.modules["torch"].cuda.max_memory_allocated()


def _peak() -> int:
    """Bytes."""
    try:
        line = next(line for line in _STATUS.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
