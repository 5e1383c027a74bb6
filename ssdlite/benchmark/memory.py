"""How much memory a process takes that does nothing but detect."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from ssdlite.benchmark.candidates import Candidate
from ssdlite.benchmark.stages import Pipeline, use_threads
from ssdlite.errors import SsdliteError

STATUS = Path("/proc/self/status")
RUNS = 3


def peak_memory(candidate: Candidate, pictures: Sequence[Path], *, batch_size: int, threads: int) -> float | None:
    """Peak resident MB of a fresh process that loads the candidate and detects in a few batches on the CPU.

    None where the system does not tell, or the process came to grief.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(
        target=_detect, args=(theirs, candidate, list(pictures), batch_size, threads), daemon=True
    )
    process.start()
    theirs.close()
    try:
        peak: float | None = ours.recv()
    except EOFError:
        peak = None
    process.join()
    return peak


def _detect(report: Connection, candidate: Candidate, pictures: list[Path], batch_size: int, threads: int) -> None:
    use_threads(threads)
    try:
        pipeline = Pipeline(candidate.load(threads=threads), pictures, batch_size=batch_size, threads=threads)
        for _ in range(RUNS):
            pipeline()
    except SsdliteError:  # as the parent has met it
        report.send(None)
    else:
        report.send(own_peak())


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
