"""Processes that load pictures: how they hand batches over, and one error where they cannot or die."""

from __future__ import annotations

import errno
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor
from torch._C import _error_if_any_worker_fails
from torch.utils.data import get_worker_info

from ssdlite.errors import SsdliteError

SHARED_MEMORY = "/dev/shm"  # where Linux has it; a container has 64 MB of it by default
LEAST_FREE = 1 << 16  # bytes; below, it is what an error of a full disk is about
REMEDY = "use a smaller --batch-size, fewer --workers or --workers 0, or a larger memory (docker run --shm-size 1g)"
ASKED = 20  # times in a second
TORCH_SAYS = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) ([^.]+)")


class WorkerError(SsdliteError, RuntimeError):
    """A process that loads pictures has died, or cannot hand over what it loaded."""


class SharedMemoryError(WorkerError):
    """There is no room for a batch in shared memory.

    What it is made with does not matter: torch raises it anew in the main process, with a traceback for a message.
    """

    def __init__(self, *_: object) -> None:
        super().__init__(f"no room for a batch of the loading processes in shared memory{_size()}: {REMEDY}")


def hand_over(tensors: Sequence[Tensor]) -> None:
    """Put the tensors of a loading process into shared memory; in any other process nothing is done.

    Left to torch it happens in a thread behind the worker's back, whose error nobody hears of: the main process
    waits for that batch for ever.

    Raises:
        SharedMemoryError: there is no room.
    """
    if get_worker_info() is None:
        return
    try:
        for tensor in tensors:
            tensor.share_memory_()  # type: ignore[no-untyped-call]
    except (RuntimeError, OSError) as error:
        raise SharedMemoryError from error


@contextmanager
def explained_worker_failures() -> Iterator[None]:
    """A loading process that dies while the block runs, or cannot be started for want of shared memory, ends it with a
    WorkerError, wherever torch notices.

    It looks every five seconds, and in the main thread hears of it at once, whatever that is doing.
    """
    try:
        yield
    except WorkerError as error:
        raise error from None
    except (ConnectionError, EOFError) as error:
        died = _notice_death()
        if died is None:
            raise
        raise WorkerError(died) from error
    except OSError as error:  # of the queues and locks that loading processes are started with
        if error.errno != errno.ENOSPC or not _is_full():
            raise
        raise SharedMemoryError from error
    except RuntimeError as error:
        died = _death(error)
        if died is None:
            raise
        raise WorkerError(died) from error


def _death(error: RuntimeError) -> str | None:
    """What to say where it is torch's word that a loading process died."""
    died = TORCH_SAYS.match(str(error))
    if died is None:
        return None
    full = "Bus error" in died[2]
    cause = f"no room in shared memory{_size()}" if full else "out of memory, or ended from outside"
    return f"a process that loads pictures died (pid {died[1]} {died[2]}): {cause}; {REMEDY}"


def _notice_death() -> str | None:
    """The same where a connection broke over which a batch was fetched: torch, which is asked, may hear of it a little
    later, and then speaks up itself."""
    try:
        for _ in range(ASKED):
            _error_if_any_worker_fails()
            time.sleep(1 / ASKED)
    except RuntimeError as error:
        return _death(error)
    return None


def _is_full() -> bool:
    try:
        return shutil.disk_usage(SHARED_MEMORY).free < LEAST_FREE
    except OSError:
        return False


def _size() -> str:
    """All of it: by the time of the error, what filled it is gone."""
    try:
        return f" ({SHARED_MEMORY} has {shutil.disk_usage(SHARED_MEMORY).total / 1e6:.0f} MB)"
    except OSError:
        return ""
