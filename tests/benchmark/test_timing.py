"""Contestants that take turns, percentiles, and processes of their own."""

import gc
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ssdlite.benchmark.timing import Apart, percentile, take_turns, timed
from ssdlite.errors import ConfigError


def test_contestants_take_turns() -> None:
    calls: list[str] = []

    def call(name: str) -> tuple[int, bool]:
        calls.append(name)
        return len(calls), gc.isenabled()

    results = take_turns({"a": lambda: call("a"), "b": lambda: call("b")}, runs=3, warm_up=2)
    assert "".join(calls) == "ab" * 5
    assert results == {"a": [(5, False), (7, False), (9, False)], "b": [(6, False), (8, False), (10, False)]}
    assert gc.isenabled()
    with pytest.raises(ConfigError, match="expected 1 or more, got 0"):
        take_turns({"a": lambda: None}, runs=0)


def test_milliseconds() -> None:
    assert 20 <= timed(lambda: time.sleep(0.02))() < 1000


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (0.5, 10), (0.95, 19), (0.951, 20), (1.0, 20)])
def test_percentiles_are_nearest_ranks(share: float, expected: int) -> None:
    assert percentile(list(range(1, 21)), share) == expected


def count_calls(path: str) -> Callable[[], object]:
    """Every call appends the process and how many threads it has."""

    def call() -> None:
        with Path(path).open("a") as file:
            file.write(f"{os.getpid()} {torch.get_num_threads()}\n")

    return call


def test_a_contestant_apart_runs_in_one_process_of_its_own(tmp_path: Path) -> None:
    contestant = Apart(1, count_calls, str(tmp_path / "calls"))
    contestant()
    contestant()
    first, second = (tmp_path / "calls").read_text().splitlines()
    assert first == second != f"{os.getpid()} 1"
    assert first.endswith(" 1")
