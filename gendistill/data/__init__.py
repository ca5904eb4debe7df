"""Real data in, distilled data out: load, split, export, card."""

from gendistill.data.findings import DataReport
from gendistill.data.load import RealData, load_real
from gendistill.data.split import stratified_split

__all__ = ["DataReport", "RealData", "load_real", "stratified_split"]
