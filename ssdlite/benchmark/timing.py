"""Timing: contestants that take turns, so that what disturbs the machine disturbs all; what it is; processes apart."""

from __future__ import annotations

import gc
import multiprocessing
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from ssdlite.errors import ConfigError
from ssdlite.images.geometry import find_opencv

WARM_UP = 5  # rounds that do not count: the first ones allocate
STATUS = Path("/proc/self/status")
K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


def take_turns(calls: Mapping[K, Callable[[], T]], runs: int, *, warm_up: int = WARM_UP) -> dict[K, list[T]]:
    """What each of ``calls`` returned in ``runs`` rounds of one call of each, after ``warm_up`` rounds.

    The garbage collector waits meanwhile.

    Raises:
        ConfigError: fewer than 1 run.
    """
    if runs < 1:
        raise ConfigError(f"runs: expected 1 or more, got {runs}")
    results: dict[K, list[T]] = {name: [] for name in calls}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for number in range(warm_up + runs):
            for name, call in calls.items():
                result = call()
                if number >= warm_up:
                    results[name].append(result)
    finally:
        if collecting:
            gc.enable()
    return results


def timed(call: Callable[[], object]) -> Callable[[], float]:
    """The same call, which returns the milliseconds that it took."""

    def run() -> float:
        start = time.perf_counter()
        call()
        return (time.perf_counter() - start) * 1000

    return run


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest of ``values`` that at least ``share`` of them do not exceed (the nearest rank)."""
    ordered = sorted(values)
    rank = -(-len(ordered) * share // 1)
    return ordered[max(int(rank), 1) - 1]


# --- The machine.


def use_threads(count: int) -> None:
    """Let OpenCV, and torch where it is loaded, compute with ``count`` threads."""
    if (cv2 := find_opencv()) is not None:
        cv2.setNumThreads(count)
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != count:
        torch.set_num_threads(count)


def describe_machine(packages: Iterable[str]) -> dict[str, str | int]:
    """What times were measured on: processor, cores, and the versions of those ``packages`` that are installed."""
    facts: dict[str, str | int] = {"processor": processor_name(), "cores": os.cpu_count() or 1}
    for package in packages:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            continue
    return facts


def processor_name() -> str:
    """What the system calls its processor, such as "AMD EPYC 9B14"; the architecture where it has no name for it."""
    if platform.system() == "Darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


# --- Processes of their own.


def run_apart(work: Callable[..., T], *arguments: Any) -> T:
    """What ``work`` returns in a fresh process, in which nothing else has taken memory.

    Raises what it does, and BrokenProcessPool where the process comes to grief.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(work, *arguments).result()


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


class Apart:
    """Calls what ``make(*arguments)`` gave in a process of its own, and waits until that is done.

    So what one contestant asks of its process (threads, an allocator) does not reach another.
    """

    def __init__(self, threads: int, make: Callable[..., Callable[[], object]], *arguments: object) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        context.Process(target=_serve, args=(theirs, threads, make, arguments), daemon=True).start()
        theirs.close()

    def __call__(self) -> None:
        self._pipe.send(None)
        self._pipe.recv()


def _serve(
    pipe: Connection, threads: int, make: Callable[..., Callable[[], object]], arguments: Sequence[object]
) -> None:
    use_threads(threads)
    call = make(*arguments)
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        call()
        pipe.send(None)
