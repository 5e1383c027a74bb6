"""Contestants that take turns."""

import gc
import time

import pytest

from ssdlite.benchmark.timing import take_turns, timed
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
