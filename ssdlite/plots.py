"""The curves of a training as a picture. Loads matplotlib only when something is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdlite.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOSSES = ("loss", "class_loss", "box_loss")  # in this order; other keys with "loss" in them follow
PRECISIONS = ("AP", "AP50", "AP75")


def plot_curves(history: Sequence[Mapping[str, Any]], path: Path | str) -> None:
    """Draw losses (left) and average precision (right) over the epochs; ``path`` ends in .png, .svg or .pdf.

    ``history`` has one mapping an epoch, as in ``metrics.jsonl``: ``epoch`` (counted from 1 where it is
    missing), any keys that contain ``loss``, and ``AP``, ``AP50``, ``AP75``. None is passed over.
    """
    from matplotlib.figure import Figure

    losses = [key for key in LOSSES if _has(history, key)]
    losses += sorted({key for row in history for key in row if "loss" in key and _has(history, key)} - set(losses))
    figure = Figure(figsize=(11, 4), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw(left, history, losses, "loss")
    _draw(right, history, [key for key in PRECISIONS if _has(history, key)], "average precision")
    right.set_ylim(0, 1)
    kind = Path(path).suffix.lstrip(".") or "png"
    write_atomically(path, lambda file: figure.savefig(file, format=kind))


def _draw(axes: Axes, history: Sequence[Mapping[str, Any]], keys: Sequence[str], title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    for key in keys:
        points = [
            (row.get("epoch", number), row[key])
            for number, row in enumerate(history, start=1)
            if _is_number(row.get(key))
        ]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, linewidth=1.5, label=key)
    axes.set_title(title)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if keys:
        axes.legend(loc="best", frameon=False)


def _has(history: Sequence[Mapping[str, Any]], key: str) -> bool:
    return any(_is_number(row.get(key)) for row in history)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
