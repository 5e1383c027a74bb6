"""The C library's allocator, told to keep what is freed."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """From now on this process returns no memory to the system before it ends. Does nothing without glibc.

    A training step frees some gigabytes of large tensors and asks for them again. Returned each time, they come back
    page by page, a fault for each: a sixth of the step on a CPU (docs/performance.md).
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
