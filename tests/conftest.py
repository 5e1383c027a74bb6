"""Fixtures that more than one test file uses."""

import os
from pathlib import Path

import pytest

# Before torch is imported. The tests' networks gain nothing from threads, and where other work has the processors
# torch's threads wait for one another: the same tests then take many times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The development data beside the repository; tests that need it are skipped where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the development data (shared/data beside the repository), which is not here")
    return folder
