"""The report of a finished run: one HTML file that needs nothing else (docs/report.md).

``read_report`` reads the run directory without changing it, ``report_html`` is a pure function of what was read, and
``write_report`` does both and writes the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gendistill.atomic import atomic_write
from gendistill.report.data import ReportData, read_report
from gendistill.report.page import report_html

if TYPE_CHECKING:
    from gendistill.data import RealData

NAME = "report.html"


def write_report(run: Path, out: Path | None = None, real: RealData | None = None) -> Path:
    """Write the report of a run; the same run directory and real data give the same bytes.

    :param out: the file; ``report.html`` in the run directory if None.
    :param real: the run's real data, if at hand; loaded by the run's configuration if None.
    :raises RunError: not a finished run, its journal is broken, or the file cannot be written.
    """
    data = read_report(run, real)
    path = run / NAME if out is None else out
    atomic_write(path, report_html(data))
    return path


__all__ = ["NAME", "ReportData", "read_report", "report_html", "write_report"]
