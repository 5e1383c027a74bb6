"""What a person sees of a run: progress, tables, notes. Everything goes through one rich console."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

WIDEST = 1000  # columns of a table
console = Console(highlight=False)


def training_progress(enabled: bool) -> Progress:
    """A live bar over all steps; columns show loss, learning rate, images per second and time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not enabled or not console.is_terminal,
        transient=True,
    )


def print_line(text: str) -> None:
    """One line as it is: not wrapped, no markup."""
    console.print(text, markup=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """To the standard output, in ASCII, so that it is JSON whatever the output's encoding."""
    print(json.dumps(value, indent=2, allow_nan=False))


def print_table(table: Table) -> None:
    """A table of figures in full, however narrow the console; its lines may then wrap, but no figure is cut."""
    width = Measurement.get(console, console.options.update(max_width=WIDEST), table).maximum
    wide = Console(file=console.file, highlight=False, width=max(width, console.width))
    wide.print(table)


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


def print_metrics(title: str, figures: Mapping[str, float | None], per_class: Mapping[str, Any]) -> None:
    """A table of the main figures, overall and per class; ``per_class`` values have ``AP`` and ``AP50``."""
    table = Table(title=escape(title), title_justify="left")
    table.add_column("class")
    for name in ("AP", "AP50", "AP75"):
        table.add_column(name, justify="right")
    table.add_row("all", *(format_figure(figures.get(name)) for name in ("AP", "AP50", "AP75")), end_section=True)
    for name, values in per_class.items():
        table.add_row(escape(name), *(format_figure(values.get(key)) for key in ("AP", "AP50", "AP75")))
    console.print(table)


def format_figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
