"""Freed memory is kept: large arrays come and go without page faults."""

import subprocess
import sys

import pytest

SCRIPT = """
import platform, resource, sys
import numpy as np
from ssdlite.allocator import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def use():
    for _ in range(10):
        np.ones(16 << 20, np.uint8), np.ones(64 << 20, np.uint8)

if sys.argv[1] == "keep":
    keep_freed_memory()
use()
before = faults()
use()
print(platform.libc_ver()[0], faults() - before)
"""


def page_faults(mode: str) -> tuple[str, int]:
    done = subprocess.run([sys.executable, "-c", SCRIPT, mode], capture_output=True, text=True, check=True)
    library, _, count = done.stdout.strip().rpartition(" ")
    return library, int(count)


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator of glibc, on Linux")
def test_large_arrays_come_back_without_page_faults() -> None:
    library, kept = page_faults("keep")
    if library != "glibc":
        pytest.skip("the C library is another than glibc")
    _, returned = page_faults("return")
    assert kept < 100 < returned


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    from ssdlite.training import step as allocator

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(allocator.ctypes, "CDLL", None)
    allocator.keep_freed_memory()
