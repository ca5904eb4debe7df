"""One training in several processes of this machine, one a GPU, started from within a run and gone when it ends.

torch's own launcher (torchrun) starts the processes and ends them all if one dies; accelerate gives each its device and
the means to talk to the others. A batch's rows are shared out and the gradients added up, so that every step is the
step that one process would take, up to rounding.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from gendistill.atomic import atomic_write
from gendistill.errors import ConfigError, GendistillError, MissingExtraError

Item = TypeVar("Item")
Progress = Callable[[int, int], None]  # done, total

POLL_S = 0.2  # between two looks at how far the processes are
STOP_S = 20.0  # that they are given to end
JOB, DONE, LOG, RESULT = "job.pickle", "done", "log.txt", "result"


class Split:
    """This process's share of a training.

    :param accelerator: accelerate's, in one of several processes; None: there is one, and every share is the whole.
    """

    def __init__(self, accelerator: Any = None) -> None:
        self._accelerator = accelerator
        self.count: int = accelerator.num_processes if accelerator else 1
        self.index: int = accelerator.process_index if accelerator else 0
        self.device: str | None = str(accelerator.device) if accelerator else None  # None: as where there is one

    @property
    def first(self) -> bool:
        """Whether this process keeps and writes what is learnt."""
        return self.index == 0

    def share(self, batch: Sequence[Item]) -> Sequence[Item]:
        """The rows of a batch that are this process's; none if there are fewer than processes."""
        return batch[self.places(len(batch))]

    def places(self, rows: int) -> slice:
        """Where this process's rows lie in a batch."""
        return slice(self.index, rows, self.count)

    def agree(self, weights: Iterable[Tensor]) -> None:
        """Start every process from the first one's weights."""
        if self._accelerator:
            for weight in weights:
                torch.distributed.broadcast(weight.detach(), 0)

    def add_up(self, weights: Iterable[Tensor]) -> None:
        """Make each weight's gradient the sum of all processes'; one that no process has a gradient of stays without.

        Not by DistributedDataParallel: it wants one forward pass through itself a step in every process, where a share
        may be empty or take several passes.
        """
        if not self._accelerator:
            return
        weights = list(weights)
        # In float32: not every way of sending takes truth values.
        found = torch.tensor([float(weight.grad is not None) for weight in weights], device=self.device)
        torch.distributed.all_reduce(found)
        under_way = []
        for weight, count in zip(weights, found.tolist(), strict=True):
            if count:
                weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad.contiguous()
                under_way.append(torch.distributed.all_reduce(weight.grad, async_op=True))
        for sending in under_way:
            sending.wait()


ALONE = Split()
Work = Callable[[Split, Path, Progress], None]  # the folder is for the first process to write into


def process_count(wanted: int | None, batch_size: int, key: str) -> int:
    """How many processes are to train.

    :param wanted: as configured; None: one a GPU where there are several, but none without a row of the batch.
    :param key: of the configuration, for messages.
    :raises ConfigError: more than there are GPUs, on a machine that has any.
    :raises MissingExtraError: several, and accelerate is not installed.
    """
    gpus, installed = torch.cuda.device_count(), importlib.util.find_spec("accelerate") is not None
    if wanted is None:
        return max(1, min(gpus, batch_size)) if installed else 1
    if gpus and wanted > gpus:
        raise ConfigError(f"{key}: {wanted} processes for the {gpus} GPUs of this machine; give one a GPU at most")
    if wanted > 1 and not installed:
        raise MissingExtraError(f"{key}: several processes need the package accelerate: pip install accelerate")
    return wanted


@contextmanager
def trained(count: int, work: Work, progress: Progress | None = None) -> Iterator[Path]:
    """Call ``work`` in ``count`` new processes; in the block, the folder that it filled, which is then gone.

    None of them outlives the block, whatever ends it, nor this process.

    :param work: picklable, of an importable module; every process calls it with its own share.
    :param progress: told what the first process tells.
    :raises GendistillError: what one of them raised, or one line on how it died.
    """
    with tempfile.TemporaryDirectory(prefix="gendistill-") as name:
        folder = Path(name)
        (folder / JOB).write_bytes(pickle.dumps(work))
        (folder / RESULT).mkdir()
        process = _launched(count, folder)
        try:
            told = ""
            while process.poll() is None:
                told = _tell(folder, told, progress)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_S)
            _tell(folder, told, progress)
        finally:
            _end(process)
        if process.returncode:
            raise _failure(count, folder)
        yield folder / RESULT


def _launched(count: int, folder: Path) -> subprocess.Popen[bytes]:
    """torchrun, whose processes read the end of this one's life from their standard input."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    command += [f"--nproc-per-node={count}", "--max-restarts=0", "-m", "gendistill.parallel", str(folder)]
    # They find what this process finds, and nothing else that happens to lie in the working directory.
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONSAFEPATH": "1"}
    env.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // count)))
    if torch.cuda.is_available():
        from accelerate.utils import check_cuda_p2p_ib_support

        if not check_cuda_p2p_ib_support():  # some GPUs cannot reach each other's memory, and accelerate wants it said
            env |= {"NCCL_P2P_DISABLE": "1", "NCCL_IB_DISABLE": "1"}
    with (folder / LOG).open("wb") as log:
        # In a session of its own: an interrupt from the keyboard is for this process, which then ends them.
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=env, start_new_session=True)


def _tell(folder: Path, told: str, progress: Progress | None) -> str:
    """Pass on what the first process has told since ``told``."""
    now = (folder / DONE).read_text() if (folder / DONE).exists() else ""
    if progress and now != told and len(now.split()) == 2:  # it may be half written
        done, total = now.split()
        progress(int(done), int(total))
        return now
    return told


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()  # which ends those that are left, and they their launcher
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _failure(count: int, folder: Path) -> GendistillError:
    """Why the processes ended: what one raised on purpose, else a signal, else the first error."""
    raised = [pickle.loads(path.read_bytes()) for path in sorted(folder.glob("error-*"), key=_written)]
    for error in raised:
        if isinstance(error, GendistillError):
            return error
    log = (folder / LOG).read_text(errors="replace")
    killed = [name for name in re.findall(r"Signal \d+ \((SIG\w+)\)", log) if name != "SIGTERM"]  # its own
    why = raised[0] if raised else (log.strip().splitlines() or ["they were ended from outside"])[-1][:300]
    if killed:
        why = f"one was killed ({killed[0]}), as happens when memory runs out"
    return GendistillError(f"training in {count} processes failed: {why}; set processes to 1 to train in one")


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns


# -- in one of the processes ------------------------------------------------------------------------------------------


def main() -> None:
    """What one of the processes does: the folder is the command's only argument."""
    folder, rank = Path(sys.argv[1]), os.environ["RANK"]
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        from accelerate import Accelerator

        work: Work = pickle.loads((folder / JOB).read_bytes())
        accelerator = Accelerator(cpu=not torch.cuda.is_available())
        split = Split(accelerator)
        work(split, folder / RESULT, partial(_note, folder) if split.first else lambda done, total: None)
        accelerator.wait_for_everyone()
        accelerator.end_training()
    except Exception as error:
        line = (str(error).strip().splitlines() or [""])[0][:300]
        told = error if isinstance(error, GendistillError) else f"{type(error).__name__}: {line}"
        atomic_write(folder / f"error-{rank}", pickle.dumps(told))
        raise


def _note(folder: Path, done: int, total: int) -> None:
    (folder / DONE).write_text(f"{done} {total}")


def _end_with_parent() -> None:
    """The other end of the standard input is held by the process that wants the training, and by no other."""
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    from gendistill import parallel

    parallel.main()  # of the module that others import, so that there is one of each class
