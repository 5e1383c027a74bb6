"""Timing of contestants that take turns: what disturbs the machine disturbs all of them, and their ratios hold."""

from __future__ import annotations

import gc
import os
import platform
import subprocess
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

from ssdlite.errors import ConfigError

WARM_UP = 5  # rounds that do not count: the first ones allocate
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
