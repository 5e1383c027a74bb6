"""Comparisons: contestants in turns, medians, ratios to one of them, as a table, JSON and Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from ssdlite.export.markdown import table
from ssdlite.timing import take_turns, timed


@dataclass(frozen=True)
class Contestant:
    """``call`` does ``images`` images' work."""

    name: str
    call: Callable[[], object]
    images: int = 1


@dataclass(frozen=True)
class Comparison:
    """Contestants that do the same, or as good as the same.

    Attributes:
        reference: the contestant that the others are measured against.
        targets: by contestant, how many times as fast as the reference it should be at least.
        threads: that compute in all of them.
        notes: what a reader has to know.
    """

    title: str
    contestants: Sequence[Contestant]
    reference: str
    targets: dict[str, float] = field(default_factory=dict)
    threads: int = 1
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Line:
    """``milliseconds`` an image, median and minimum; ``speed`` as a multiple of the reference's."""

    name: str
    milliseconds: float
    minimum: float
    speed: float
    target: float | None


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
    times = take_turns(calls, rounds, warm_up=warm_up)
    return summarise(comparison, times, rounds)


def summarise(comparison: Comparison, times: dict[str, list[float]], rounds: int) -> Result:
    """Speeds are ratios of medians."""
    medians = {name: statistics.median(values) for name, values in times.items()}
    reference = medians[comparison.reference]
    lines = tuple(
        Line(name, medians[name], min(values), reference / medians[name], comparison.targets.get(name))
        for name, values in times.items()
    )
    return Result(comparison.title, comparison.reference, comparison.threads, rounds, lines, tuple(comparison.notes))


def _milliseconds(contestant: Contestant) -> float:
    return timed(contestant.call)() / contestant.images


HEADINGS = ("", "ms an image", "images/s", "times as fast", "target")


def cells(line: Line) -> list[str]:
    """What a table says, in the order of HEADINGS."""
    target = "" if line.target is None else f"{line.target:.2f} {'' if line.speed >= line.target else 'missed'}".strip()
    return [line.name, f"{line.milliseconds:.3g}", f"{1000 / line.milliseconds:.3g}", f"{line.speed:.2f}", target]


def build_table(result: Result) -> Table:
    """For the console."""
    shown = Table(title=escape(describe(result)), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in HEADINGS:
        shown.add_column(heading, justify="right" if heading else "left")
    for line in result.lines:
        shown.add_row(*map(escape, cells(line)))
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
