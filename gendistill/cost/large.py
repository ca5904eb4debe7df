"""Whether a run is so large that its cost should be told before it starts."""

from __future__ import annotations

from gendistill.config import Config
from gendistill.data import load_real
from gendistill.journal import open_journal

LARGE = 20_000  # requests that wait for their replies
FEW_EACH = 200  # candidates a class: of fewer, the data is not read to know how many classes there are


def waiting(config: Config) -> int:
    """Requests of a run that nobody has answered yet; 0 where it is small by its configuration alone.

    The real data is read to count its classes where the configuration does not name them and asks for many of each.

    :raises GendistillError: the data cannot be read, or the journal of the run.
    """
    each = config.generator.candidates_per_class
    if config.data.label_names is not None:
        classes = len(config.data.label_names)
    elif each < FEW_EACH:
        return 0
    else:
        classes = len(load_real(config.data, per_class=1, seed=config.seed).label_names)
    total = each * classes
    if total <= LARGE or not (config.out / "run.db").exists():
        return total
    with open_journal(config.out) as journal:
        return max(0, total - journal.count("replies"))
