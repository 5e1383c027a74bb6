"""What became of a checkpoint's weights in a detector that starts from them, counted for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table

from ssdlite.console import console, say
from ssdlite.wording import listing

COUNTER = "num_batches_tracked"  # of batch norms; not a tensor that a person would count
NAMED = 12  # classes that a line names


@dataclass(frozen=True)
class PartReport:
    """Tensors of one part of the detector: taken as they are, made from the source's, new, and of no use here.

    ``anchors`` says which anchor shapes a predictor got its rows from.
    """

    part: str
    loaded: int = 0
    resized: int = 0
    new: int = 0
    left: int = 0
    anchors: str = ""


@dataclass(frozen=True)
class TransferReport:
    """What became of the weights of the file ``path``.

    Attributes:
        parts: backbone, extra layers, and the predictors of each map.
        kept_classes: ours whose rows come from the source's class of that name.
        new_classes: ours that the source does not know.
        left_classes: the source's that are none of ours.
        loaded_layers: names (prefixes in the state dict) of what came over, whole or resized.
        notes: what else was done.
    """

    path: str
    parts: tuple[PartReport, ...]
    kept_classes: tuple[str, ...]
    new_classes: tuple[str, ...]
    left_classes: tuple[str, ...]
    loaded_layers: tuple[str, ...]
    notes: tuple[str, ...] = ()


def count_tensors(names: Iterable[str]) -> int:
    """Tensors that a person would count, of the names of a state dict."""
    return sum(not name.endswith(COUNTER) for name in names)


def print_transfer(report: TransferReport) -> None:
    """The table that a fine-tuning begins with, and the classes below it."""
    table = Table(title=escape(f"weights of {report.path}"), title_justify="left")
    table.add_column("tensors")
    for name in ("loaded", "resized", "new", "left over"):
        table.add_column(name, justify="right")
    table.add_column("anchor shapes")
    for part in report.parts:
        counts = (str(count) if count else "-" for count in (part.loaded, part.resized, part.new, part.left))
        table.add_row(part.part, *counts, part.anchors)
    console.print(table)
    say(f"classes kept: {_some(report.kept_classes)}")
    say(f"classes new: {_some(report.new_classes)}")
    say(f"classes left over: {_some(report.left_classes)}")
    for note in report.notes:
        say(note)


def _some(names: Sequence[str]) -> str:
    return f"{len(names)} ({listing(names, NAMED)})" if names else "none"
