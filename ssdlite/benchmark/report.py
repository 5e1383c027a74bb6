"""A benchmark as a table for people, as Markdown, as JSON and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.markup import escape
from rich.table import Table

from ssdlite.benchmark.compare import Load, Row
from ssdlite.export.card import code, table
from ssdlite.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STAGE_LABELS = {"decode": "decode", "resize": "resize", "network": "network", "postprocess": "post-process"}
HEADINGS = ("model", *STAGE_LABELS.values(), "min", "median", "p95", "ratio", "memory", "AP", "AP50")


def by_load(rows: Sequence[Row]) -> dict[Load, list[Row]]:
    """The rows under each load, in their order."""
    groups: dict[Load, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.load, []).append(row)
    return groups


def cells(row: Row, reference: Row) -> list[str]:
    """What a table says of a row, in the order of HEADINGS; ``ratio`` is to ``reference``."""
    times = (*(row.stages[name] for name in STAGE_LABELS), row.minimum, row.median, row.p95)
    return [
        row.name,
        *(f"{time:.3g}" if time < 100 else f"{time:.0f}" for time in times),
        f"{row.median / reference.median:.2f}",
        "" if row.memory is None else f"{row.memory:.0f}",
        *(("", "") if row.accuracy is None else (f"{figure:.3f}" for figure in row.accuracy)),
    ]


def build_table(rows: Sequence[Row]) -> Table:
    """For the console: rows under one load, their ratios to the first."""
    result = Table(title=describe(rows[0].load), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    lines = [cells(row, rows[0]) for row in rows]
    used = [i for i in range(len(HEADINGS)) if any(line[i] for line in lines)]
    for i in used:
        result.add_column(HEADINGS[i], justify="right" if i else "left", overflow="fold", no_wrap=bool(i))
    for line in lines:
        result.add_row(*(escape(line[i]) for i in used))
    return result


def describe(load: Load) -> str:
    return f"threads: {load.threads}, batch size: {load.batch_size}"


def to_markdown(rows: Sequence[Row], facts: Mapping[str, Any]) -> str:
    """A table for each load, and what it was measured on."""
    lines = [f"Milliseconds a picture; memory in MB. {'; '.join(f'{name}: {value}' for name, value in facts.items())}."]
    for load, group in by_load(rows).items():
        lines += ["", f"{describe(load).capitalize()}:", ""]
        lines += table(HEADINGS, [[code(row.name), *cells(row, group[0])[1:]] for row in group])
    return "\n".join(lines)


def draw(rows: Sequence[Row], path: Path) -> None:
    """AP against latency where there are APs, else the stages as bars; of the first load."""
    from matplotlib.figure import Figure

    load, rows = next(iter(by_load(rows).items()))
    scored = [row for row in rows if row.accuracy is not None]
    figure = Figure(figsize=(9, 5 if scored else 1.2 + 0.45 * len(rows)), dpi=120, layout="constrained")
    axes = figure.subplots()
    (_draw_accuracy if scored else _draw_stages)(axes, scored or rows)
    axes.set_xlabel(f"ms a picture, {describe(load)}")
    write_atomically(path, lambda file: figure.savefig(file, format="png"))


def _draw_accuracy(axes: Axes, rows: Sequence[Row]) -> None:
    for row in rows:
        assert row.accuracy is not None  # the caller's choice
        place = row.median, row.accuracy.AP
        axes.plot(*place, marker="o")
        axes.annotate(row.name, place, xytext=(6, 4), textcoords="offset points", fontsize=8)
    axes.set_ylabel("AP")
    axes.set_xlim(left=0)
    axes.margins(x=0.25, y=0.15)
    axes.grid(alpha=0.3)


def _draw_stages(axes: Axes, rows: Sequence[Row]) -> None:
    names = [row.name for row in rows]
    left = [0.0] * len(rows)
    for stage, label in STAGE_LABELS.items():
        times = [row.stages[stage] for row in rows]
        axes.barh(names, times, left=left, label=label)
        left = [a + b for a, b in zip(left, times, strict=True)]
    axes.invert_yaxis()
    axes.legend(loc="best", frameon=False, fontsize=8)
