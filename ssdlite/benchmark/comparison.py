"""Comparisons: contestants in turns, medians, ratios to one of them and to a target, as tables and JSON."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from rich.table import Table

from ssdlite.benchmark.timing import percentile, take_turns
from ssdlite.console import figure_table, markdown_table


class Stages(dict[str, float]):
    """Milliseconds of each stage of a call, in their order."""


@dataclass(frozen=True)
class Contestant:
    """``call`` does ``images`` images' work; where it returns ``Stages``, these are its times."""

    name: str
    call: Callable[[], object]
    images: float = 1

    def measure(self) -> Stages:
        """Milliseconds an image; one stage, "all", where the call tells none."""
        start = time.perf_counter()
        stages = self.call()
        if not isinstance(stages, Stages):
            stages = Stages(all=1000 * (time.perf_counter() - start))
        return Stages({name: value / self.images for name, value in stages.items()})


@dataclass(frozen=True)
class Comparison:
    """Contestants that do the same, or as good as the same.

    Attributes:
        reference: the contestant that the others are measured against.
        targets: by contestant, how many times as fast as the reference it should be at least.
        threads: that compute in all of them.
        rounds: of one call of each.
        work: by contestant, how much work it does, where they do the same to different amounts.
        notes: what a reader has to know.
    """

    title: str
    contestants: Sequence[Contestant]
    reference: str
    targets: dict[str, float] = field(default_factory=dict)
    threads: int = 1
    rounds: int = 30
    work: dict[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Line:
    """Milliseconds an image of one contestant, all stages together; ``stages`` are medians of each.

    ``speed`` is a multiple of the reference's, of medians. ``growth``, where contestants do different amounts of work:
    the exponent from the contestant before.
    """

    name: str
    minimum: float
    median: float
    p95: float
    speed: float
    target: float | None = None
    growth: float | None = None
    stages: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    title: str
    reference: str
    threads: int
    rounds: int
    lines: tuple[Line, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def run(comparison: Comparison, rounds: int | None = None, *, warm_up: int | None = None) -> Result:
    """Measure: ``rounds`` in place of the comparison's, behind ``warm_up`` (by default up to 2) that do not count."""
    rounds = comparison.rounds if rounds is None else rounds
    calls = {number: one.measure for number, one in enumerate(comparison.contestants)}
    times = take_turns(calls, rounds, warm_up=min(2, rounds - 1) if warm_up is None else warm_up)
    return summarise(comparison, list(times.values()))


def summarise(comparison: Comparison, times: Sequence[Sequence[Stages]]) -> Result:
    """Of what each contestant measured in every round."""
    totals = [[sum(stages.values()) for stages in own] for own in times]
    medians = [statistics.median(values) for values in totals]
    names = [one.name for one in comparison.contestants]
    reference = medians[names.index(comparison.reference)]
    growths: dict[int, float] = {}
    if comparison.work:
        works = [(comparison.work[one.name], one.images) for one in comparison.contestants]
        growths = growth([(work, median * images) for (work, images), median in zip(works, medians, strict=True)])
    lines = tuple(
        Line(
            name,
            minimum=min(totals[number]),
            median=medians[number],
            p95=percentile(totals[number], 0.95),
            speed=reference / medians[number],
            target=comparison.targets.get(name),
            growth=growths.get(number),
            stages={stage: statistics.median(one[stage] for one in times[number]) for stage in times[number][0]},
        )
        for number, name in enumerate(names)
    )
    return Result(
        comparison.title, comparison.reference, comparison.threads, len(totals[0]), lines, tuple(comparison.notes)
    )


def growth(points: Sequence[tuple[float, float]]) -> dict[int, float]:
    """Points of (work, time) -> by number, from the second on, the exponent: 1 is proportional to the work."""
    return {
        number: math.log(time / time_before) / math.log(work / work_before)
        for number, ((work_before, time_before), (work, time)) in enumerate(pairwise(points), start=1)
        if work_before > 0
    }


COMPARISON_COLUMNS = ("", "ms an image", "images/s", "times as fast", "target", "growth")


def cells(line: Line) -> list[str]:
    """What a table says, in the order of COMPARISON_COLUMNS."""
    target = "" if line.target is None else f"{line.target:.2f} {'' if line.speed >= line.target else 'missed'}".strip()
    exponent = "" if line.growth is None else f"{line.growth:.2f}"
    rate = f"{1000 / line.median:.3g}"
    return [line.name, format_time(line.median), rate, f"{line.speed:.2f}", target, exponent]


def format_time(milliseconds: float) -> str:
    """Three digits, or whole milliseconds."""
    return f"{milliseconds:.3g}" if milliseconds < 100 else f"{milliseconds:.0f}"


def describe(result: Result) -> str:
    threads = "1 thread" if result.threads == 1 else f"{result.threads} threads"
    return f"{result.title} ({threads}, {result.rounds} rounds)"


def build_table(result: Result) -> Table:
    """For the console."""
    return figure_table(describe(result), COMPARISON_COLUMNS, [cells(line) for line in result.lines])


def to_markdown(results: Iterable[Result], facts: Mapping[str, Any]) -> str:
    """A section for each comparison."""
    lines = [describe_facts(facts) + "."]
    for result in results:
        lines += ["", f"### {describe(result)}", ""]
        lines += markdown_table(COMPARISON_COLUMNS, [cells(line) for line in result.lines])
        lines += [f"- {note}" for note in result.notes]
    return "\n".join(lines).rstrip() + "\n"


def describe_facts(facts: Mapping[str, Any]) -> str:
    """``processor: AMD EPYC; cores: 2``"""
    return "; ".join(f"{name}: {value}" for name, value in facts.items())
