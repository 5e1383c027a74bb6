"""How much memory a process takes that does nothing but detect."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

from ssdlite.benchmark.candidates import Candidate
from ssdlite.benchmark.stages import Pipeline, use_threads
from ssdlite.errors import SsdliteError

STATUS = Path("/proc/self/status")
RUNS = 3
T = TypeVar("T")


def peak_memory(candidate: Candidate, pictures: Sequence[Path], *, batch_size: int, threads: int) -> float | None:
    """Peak resident MB of a fresh process that loads the candidate and detects in a few batches on the CPU.

    None where the system does not tell, or the process came to grief.
    """
    try:
        return run_apart(_detect, candidate, list(pictures), batch_size, threads)
    except BrokenProcessPool:
        return None


def run_apart(work: Callable[..., T], *arguments: Any) -> T:
    """What ``work`` returns in a fresh process, in which nothing else has taken memory.

    Raises what it does, and BrokenProcessPool where the process comes to grief.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(work, *arguments).result()


def _detect(candidate: Candidate, pictures: list[Path], batch_size: int, threads: int) -> float | None:
    use_threads(threads)
    try:
        pipeline = Pipeline(candidate.load(threads=threads), pictures, batch_size=batch_size, threads=threads)
        for _ in range(RUNS):
            pipeline()
    except SsdliteError:  # as the parent has met it
        return None
    return own_peak()


def own_peak() -> float | None:
    """Peak resident MB of this process; None where the system does not tell.

    Linux hands ``ru_maxrss`` on from parent to child, so there it is read elsewhere.
    """
    if STATUS.is_file():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
