"""What a person sees of a run: progress, tables, notes. Everything goes through one rich console."""

from __future__ import annotations

import json
import re
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

WIDEST = 1000  # columns of a table
MEDIUM_WIDTH, FULL_WIDTH = 70, 110  # columns from which progress has a bar, and the loss
console = Console(highlight=False)


def training_progress(enabled: bool) -> Progress:
    """A live bar over all steps, images per second and elapsed time, and what else the console has room for.

    Its tasks have the fields ``rate`` and ``figures``.
    """
    width = console.width
    columns: list[ProgressColumn] = [TextColumn("{task.description}")]
    if width >= MEDIUM_WIDTH:
        columns += [BarColumn(bar_width=min(width - MEDIUM_WIDTH + 5, 40)), MofNCompleteColumn()]
    else:
        columns += [TaskProgressColumn()]
    if width >= FULL_WIDTH:
        columns += [TextColumn("{task.fields[figures]}")]
    columns += [TextColumn("{task.fields[rate]}"), TimeElapsedColumn()]
    if width >= MEDIUM_WIDTH:
        columns += [TextColumn("left"), TimeRemainingColumn()]
    return Progress(*columns, console=console, disable=not enabled or not console.is_terminal, transient=True)


class Interval:
    """Says at most once in so many seconds that something is due; at first it is."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self.clock = seconds, clock
        self.last: float | None = None

    def is_due(self) -> bool:
        now = self.clock()
        if self.last is not None and now - self.last < self.seconds:
            return False
        self.last = now
        return True


def format_rate(rate: float) -> str:
    """``120 images/s``, with two digits also where it is slow: ``0.31 images/s``."""
    return f"{rate:.0f} images/s" if rate >= 10 else f"{rate:.2g} images/s"


def print_line(text: str, to: Console | None = None, style: str | None = None) -> None:
    """A line, without markup: whole where it goes to a file, on a terminal wrapped between words, no word cut."""
    out = to or console
    if out.is_terminal:
        indent = text[: len(text) - len(text.lstrip())]
        lines = (
            textwrap.fill(
                line, out.width, break_long_words=False, break_on_hyphens=False, subsequent_indent=indent + "  "
            )
            for line in text.split("\n")
        )
        text = "\n".join(lines)
    out.print(text, markup=False, highlight=False, soft_wrap=True, style=style)


def print_json(value: Any) -> None:
    """To the standard output, in ASCII, so that it is JSON whatever the output's encoding."""
    print(json.dumps(value, indent=2, allow_nan=False))


def print_table(table: Table, to: Console | None = None) -> None:
    """A table whose cells wrap between words, however narrow the console; no figure and no word is cut.

    Its title is a line of its own: within the table it would be as narrow as that.
    """
    out = to or console
    options = out.options.update(max_width=WIDEST)
    for column in table.columns:
        sizes = [Measurement.get(out, options, cell) for cell in (column.header, *column.cells)]
        column.min_width = max(size.maximum if column.no_wrap else size.minimum for size in sizes)
    title, caption = table.title, table.caption
    table.title = table.caption = None
    if title:
        print_line(Text.from_markup(str(title)).plain, out, style="italic")
    width = max(Measurement.get(out, options, table).minimum, out.width)
    wide = Console(file=out.file, highlight=False, width=width, force_terminal=out.is_terminal, quiet=out.quiet)
    wide.print(table, crop=False)
    if caption:
        print_line(Text.from_markup(str(caption)).plain, out, style="dim")


def figure_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A name and figures in each row, without those columns that have nothing in them."""
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    used = _used_columns(rows)
    for i in used:
        table.add_column(headings[i], justify="right" if i else "left", overflow="fold", no_wrap=bool(i))
    for row in rows:
        table.add_row(*(escape(row[i]) for i in used))
    return table


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a table without those columns that have nothing in them, and an empty one."""
    used = _used_columns(rows)
    yield "| " + " | ".join(headings[i] for i in used) + " |"
    yield "|" + "---|" * len(used)
    for row in rows:
        yield "| " + " | ".join(row[i] for i in used) + " |"
    yield ""


def _used_columns(rows: Sequence[Sequence[str]]) -> list[int]:
    return [i for i, cells in enumerate(zip(*rows, strict=True)) if any(cells)]


def code(text: str) -> str:
    """``text`` as a code span of Markdown; line breaks become spaces, and it may stand in a table."""
    flat = re.sub(r"\s+", " ", text).strip().replace("|", r"\|")
    longest = max((len(run) for run in re.findall("`+", flat)), default=0)
    fence = "`" * (longest + 1)
    padding = " " if flat.startswith("`") or flat.endswith("`") else ""
    return f"{fence}{padding}{flat}{padding}{fence}"


POINT_COLUMNS = {"at score": "score_threshold", "precision": "precision", "recall": "recall"}  # heading: key
POINT_CAPTION = "At score: the threshold with the best F1 at IoU 0.5, and what it gives on these pictures."


def point_cells(point: Mapping[str, float] | None) -> Iterator[str]:
    """Of a class's operating point, if it has one: what stands in ``POINT_COLUMNS``."""
    return (format_figure(None if point is None else point[key]) for key in POINT_COLUMNS.values())


def print_metrics(title: str, metrics: Mapping[str, Any]) -> None:
    """A table of the main figures, overall and per class, of what ``Metrics.to_dict`` has."""
    names, points = ("AP", "AP50", "AP75"), metrics["operating_points"]
    table = Table(title=escape(title), title_justify="left", caption=POINT_CAPTION)
    table.add_column("class")
    for name in (*names, *POINT_COLUMNS):
        table.add_column(name, justify="right")
    table.add_row("all", *(format_figure(metrics[name]) for name in names), end_section=True)
    for name, values in metrics["per_class"].items():
        cells = (*(format_figure(values[key]) for key in names), *point_cells(points.get(name)))
        table.add_row(escape(name), *cells)
    print_table(table)


def format_figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
