"""What a benchmark says of the times it measured."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.apart import Apart
from benchmarks.coco_data import write_coco
from benchmarks.harness import Comparison, Contestant, build_table, cells, growth, run, summarise, to_markdown
from ssdlite.datasets.formats.registry import load_split


def compare(**changes) -> Comparison:
    contestants = [Contestant(name, lambda: None) for name in ("slow", "fast")]
    return Comparison("something", contestants, reference="slow", **changes)


def test_speeds_are_ratios_of_medians():
    result = summarise(compare(targets={"fast": 2.5}, threads=2), {"slow": [9.0, 10, 50], "fast": [5.0, 4, 4]}, 3)
    slow, fast = result.lines
    assert (slow.milliseconds, slow.minimum, slow.speed) == (10, 9, 1)
    assert (fast.milliseconds, fast.minimum, fast.speed) == (4, 4, 2.5)
    assert cells(fast) == ["fast", "4", "250", "2.50", "2.50", ""]
    assert cells(slow) == ["slow", "10", "100", "1.00", "", ""]


def test_a_target_that_is_missed_is_said_so():
    (_, fast) = summarise(compare(targets={"fast": 2.6}), {"slow": [10.0], "fast": [4.0]}, 1).lines
    assert cells(fast)[4] == "2.60 missed"


def test_growth_is_the_exponent_between_neighbours():
    assert growth([(1, 3), (2, 6), (4, 24), (40, 24)]) == pytest.approx({1: 1, 2: 2, 3: 0})
    assert growth([(0, 1), (5, 2), (10, 2)]) == pytest.approx({2: 0})  # from nothing there is no factor
    result = summarise(compare(work={"slow": 1, "fast": 10}), {"slow": [1.0], "fast": [1000.0]}, 1)
    assert [line.growth for line in result.lines] == [None, pytest.approx(3)]


def test_contestants_run_in_turns_and_times_are_per_image():
    calls: list[str] = []
    contestants = [Contestant("a", lambda: calls.append("a"), 4), Contestant("b", lambda: calls.append("b"))]
    result = run(Comparison("turns", contestants, reference="a", notes=["a note"]), 3, warm_up=1)
    assert "".join(calls) == "ab" * 4
    text = to_markdown([result], {"cores": 2})
    assert text.startswith("cores: 2.\n\n### turns (1 thread, 3 rounds)\n\n|")
    assert text.endswith("- a note\n")
    assert len(build_table(result).rows) == 2


def test_made_up_data_are_coco(tmp_path):
    assert write_coco(tmp_path, 40) == round(40 * 860_000 / 118_000)
    index = load_split(tmp_path, "train2017")
    content = json.loads((tmp_path / "annotations" / "instances_train2017.json").read_text())
    assert len(index) == len(content["images"]) == 40
    assert len(index.labels) == len(content["annotations"]) == 292
    assert len(index.class_names) == 80 and not index.problems


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
