"""What a comparison says of the times it measured."""

import pytest

from ssdlite.benchmark.comparison import (
    Comparison,
    Contestant,
    Stages,
    build_table,
    cells,
    growth,
    run,
    summarise,
    to_markdown,
)


def compare(**changes) -> Comparison:
    contestants = [Contestant(name, lambda: None) for name in ("slow", "fast")]
    return Comparison("something", contestants, reference="slow", **changes)


def times(*contestants: list[float]) -> list[list[Stages]]:
    return [[Stages(all=value) for value in values] for values in contestants]


def test_speeds_are_ratios_of_medians():
    slow, fast = summarise(compare(targets={"fast": 2.5}, threads=2), times([9, 10, 50], [5, 4, 4])).lines
    assert (slow.median, slow.minimum, slow.p95, slow.speed) == (10, 9, 50, 1)
    assert (fast.median, fast.minimum, fast.p95, fast.speed) == (4, 4, 5, 2.5)
    assert cells(fast) == ["fast", "4", "250", "2.50", "2.50", ""]
    assert cells(slow) == ["slow", "10", "100", "1.00", "", ""]


def test_a_target_that_is_missed_is_said_so():
    (_, fast) = summarise(compare(targets={"fast": 2.6}), times([10], [4])).lines
    assert cells(fast)[4] == "2.60 missed"


def test_growth_is_the_exponent_between_neighbours():
    assert growth([(1, 3), (2, 6), (4, 24), (40, 24)]) == pytest.approx({1: 1, 2: 2, 3: 0})
    assert growth([(0, 1), (5, 2), (10, 2)]) == pytest.approx({2: 0})  # from nothing there is no factor
    result = summarise(compare(work={"slow": 1, "fast": 10}), times([1], [1000]))
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


def test_a_call_that_tells_its_stages_is_believed():
    rounds = iter([Stages(load=8.0, run=4.0), Stages(load=2.0, run=40.0), Stages(load=4.0, run=8.0)])
    comparison = Comparison("stages", [Contestant("a", lambda: next(rounds), 4)], reference="a")
    (line,) = run(comparison, 3, warm_up=0).lines
    assert line.stages == {"load": 1, "run": 2}
    assert (line.minimum, line.median, line.p95) == (3, 3, 10.5)


def test_contestants_of_one_name_are_not_taken_for_one():
    """As the best.pt of two runs."""
    contestants = [Contestant("best.pt", lambda value=value: Stages(all=value)) for value in (6.0, 2.0)]
    lines = run(Comparison("twins", contestants, reference="best.pt"), 1).lines
    assert [(line.name, line.median, line.speed) for line in lines] == [("best.pt", 6, 1), ("best.pt", 2, 3)]
