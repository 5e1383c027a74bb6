"""Comparisons: contestants in turns, medians, ratios to one of them, as a table, JSON and Markdown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from ssdlite.benchmark.timing import take_turns, timed
from ssdlite.export.card import table


@dataclass(frozen=True)
class Settings:
    """What the comparisons are given.

    Attributes:
        threads: most that compute.
        tflite: a TensorFlow Lite SSD, for comparisons with LiteRT.
    """

    threads: int
    tflite: Path | None = None


@dataclass(frozen=True)
class Contestant:
    """``call`` does ``images`` images' work."""

    name: str
    call: Callable[[], object]
    images: float = 1


@dataclass(frozen=True)
class Comparison:
    """Contestants that do the same, or as good as the same.

    Attributes:
        reference: the contestant that the others are measured against.
        targets: by contestant, how many times as fast as the reference it should be at least.
        threads: that compute in all of them.
        rounds: where fewer than usual are enough.
        work: by contestant, how much work it does, where they do the same to different amounts.
        notes: what a reader has to know.
    """

    title: str
    contestants: Sequence[Contestant]
    reference: str
    targets: dict[str, float] = field(default_factory=dict)
    threads: int = 1
    rounds: int | None = None
    work: dict[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Line:
    """``milliseconds`` an image, median and minimum; ``speed`` as a multiple of the reference's.

    ``growth``, where contestants do different amounts of work: the exponent from the contestant before.
    """

    name: str
    milliseconds: float
    minimum: float
    speed: float
    target: float | None
    growth: float | None = None


@dataclass(frozen=True)
class Result:
    title: str
    reference: str
    threads: int
    rounds: int
    lines: tuple[Line, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def run(comparison: Comparison, rounds: int, *, warm_up: int = 2) -> Result:
    """Measure: ``rounds`` of one call of each contestant, behind ``warm_up`` that do not count."""
    calls = {one.name: partial(_milliseconds, one) for one in comparison.contestants}
    times = take_turns(calls, rounds, warm_up=min(warm_up, rounds - 1))
    return summarise(comparison, times, rounds)


def summarise(comparison: Comparison, times: dict[str, list[float]], rounds: int) -> Result:
    """Speeds are ratios of medians."""
    medians = {name: statistics.median(values) for name, values in times.items()}
    reference = medians[comparison.reference]
    totals = {one.name: medians[one.name] * one.images for one in comparison.contestants}
    growths = growth([(comparison.work[name], totals[name]) for name in times] if comparison.work else [])
    lines = tuple(
        Line(
            name,
            medians[name],
            min(values),
            reference / medians[name],
            comparison.targets.get(name),
            growths.get(number),
        )
        for number, (name, values) in enumerate(times.items())
    )
    return Result(comparison.title, comparison.reference, comparison.threads, rounds, lines, tuple(comparison.notes))


def growth(points: Sequence[tuple[float, float]]) -> dict[int, float]:
    """Points of (work, time) -> by number, from the second on, the exponent: 1 is proportional to the work."""
    return {
        number: math.log(time / time_before) / math.log(work / work_before)
        for number, ((work_before, time_before), (work, time)) in enumerate(pairwise(points), start=1)
        if work_before > 0
    }


def _milliseconds(contestant: Contestant) -> float:
    return timed(contestant.call)() / contestant.images


HEADINGS = ("", "ms an image", "images/s", "times as fast", "target", "growth")


def cells(line: Line) -> list[str]:
    """What a table says, in the order of HEADINGS."""
    target = "" if line.target is None else f"{line.target:.2f} {'' if line.speed >= line.target else 'missed'}".strip()
    rate = f"{1000 / line.milliseconds:.3g}"
    exponent = "" if line.growth is None else f"{line.growth:.2f}"
    return [line.name, f"{line.milliseconds:.3g}", rate, f"{line.speed:.2f}", target, exponent]


def build_table(result: Result) -> Table:
    """For the console."""
    shown = Table(title=escape(describe(result)), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    rows = [cells(line) for line in result.lines]
    used = [i for i in range(len(HEADINGS)) if any(row[i] for row in rows)]
    for i in used:
        shown.add_column(HEADINGS[i], justify="right" if i else "left")
    for row in rows:
        shown.add_row(*(escape(row[i]) for i in used))
    return shown


def describe(result: Result) -> str:
    threads = "1 thread" if result.threads == 1 else f"{result.threads} threads"
    return f"{result.title} ({threads}, {result.rounds} rounds)"


def to_markdown(results: Iterable[Result], facts: dict[str, Any]) -> str:
    """A section for each comparison."""
    lines = ["; ".join(f"{name}: {value}" for name, value in facts.items()) + "."]
    for result in results:
        lines += ["", f"### {describe(result)}", ""]
        lines += table(HEADINGS, [cells(line) for line in result.lines])
        lines += [f"- {note}" for note in result.notes]
    return "\n".join(lines).rstrip() + "\n"
