"""What tests do in several processes: a module of its own, for the processes import it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from gendistill.errors import DataError
from gendistill.parallel import Progress, Split, Work


def one_after_another(works: Mapping[str, Work], split: Split, folder: Path, progress: Progress) -> None:
    """Several trainings, each into a folder of its name."""
    for name, work in works.items():
        (folder / name).mkdir(exist_ok=True)
        work(split, folder / name, progress)


def add_up(split: Split, folder: Path, progress: Progress) -> None:
    """Gradients of three weights: one that all have, one that the second alone has, one that nobody has."""
    weights = [torch.zeros(2, 3, requires_grad=True) for _ in range(3)]
    with torch.no_grad():
        weights[0] += split.index
    split.agree(weights)
    weights[0].grad = torch.full((2, 3), 1.0 + split.index)
    if split.index == 1:
        weights[1].grad = torch.full((2, 3), 5.0)
    split.add_up(weights)
    assert weights[0].grad.unique().tolist() == [3.0] and weights[1].grad is not None
    assert weights[1].grad.unique().tolist() == [5.0] and weights[2].grad is None
    assert not weights[0].any()  # as the first had it
    (folder / f"share-{split.index}").write_text(" ".join(map(str, split.share(range(5)))))


def killed(pids: Path, split: Split, folder: Path, progress: Progress) -> None:
    """The second is killed while the first waits for it."""
    _tell_pid(pids, split)
    progress(1, 2)
    split.agree([torch.zeros(1)])
    if split.index == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    split.agree([torch.zeros(1)])


def complaining(split: Split, folder: Path, progress: Progress) -> None:
    if split.index == 1:
        raise DataError("no such rows")
    split.agree([torch.zeros(1)])


def endless(pids: Path, split: Split, folder: Path, progress: Progress) -> None:
    _tell_pid(pids, split)
    split.agree([torch.zeros(1)])
    progress(1, 2)
    time.sleep(600)


def _tell_pid(pids: Path, split: Split) -> None:
    for pid in (os.getpid(), os.getppid()):  # its own and the launcher's
        (pids / str(pid)).touch()
