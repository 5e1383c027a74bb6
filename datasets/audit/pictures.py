"""The result of a data check as pictures: histograms, the anchors among the boxes, and a sheet of samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from ssdlite.datasets.anchor_coverage import AnchorReport, describe_levels
from ssdlite.datasets.audit.checks import DataCheck
from ssdlite.errors import DataError
from ssdlite.files import write_atomically
from ssdlite.images.drawing import add_caption, class_colour, contact_sheet, draw_ground_truth
from ssdlite.images.geometry import ImageArray
from ssdlite.images.reading import read_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes


MOST_CLASSES = 8  # drawn apart, those with most boxes; the others together
MAX_POINTS = 4000  # boxes in a scatter plot
SAMPLES = 12
COLUMNS = 4
LEVEL_COLOURS = ("#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#7f7f7f", "#17becf")
SERVED_FROM = 2.0  # strides per side from which a map can serve a box, see ``ssdlite.datasets.anchor_coverage``


def draw_report(check: DataCheck, path: Path) -> None:
    """Histograms of box sides and shapes, and the anchors of both kinds among the boxes, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 10), dpi=110, layout="constrained")
    (sides, ratios), (before, after) = figure.subplots(2, 2)
    height, width = check.config.input.size
    figure.suptitle(f"{check.train.name} at {width} x {height}: {len(check.train_boxes.labels)} boxes")
    _draw_histograms(check, sides, ratios)
    _draw_anchors(check, before, "preset", check.anchors.preset)
    if check.anchors.proposed:
        _draw_anchors(check, after, "proposed", check.anchors.proposed)
    else:
        after.set_axis_off()
    write_atomically(path, lambda file: figure.savefig(file, format="png"))


def draw_samples(check: DataCheck, path: Path) -> None:
    """A contact sheet of pictures to train on with their boxes, as a PNG; those with findings first."""
    tiles = [_tile(check, position, note) for position, note in _choose_samples(check)]
    sheet = contact_sheet([tile for tile in tiles if tile is not None], COLUMNS)
    write_atomically(path, lambda file: Image.fromarray(sheet).save(file, format="PNG"))


def _groups(check: DataCheck) -> list[tuple[str, str, npt.NDArray[np.bool_]]]:
    """(name, colour, members) of the classes with most boxes, and of the rest together."""
    labels = check.train_boxes.labels
    counts = np.bincount(labels, minlength=len(check.class_names))
    order = [int(label) for label in np.argsort(-counts, kind="stable") if counts[label]]
    groups = [
        (f"{check.class_names[label]} ({counts[label]})", _hex(label), labels == label)
        for label in order[:MOST_CLASSES]
    ]
    if rest := order[MOST_CLASSES:]:
        members = np.isin(labels, rest)
        groups.append((f"{len(rest)} other classes ({members.sum()})", "#bbbbbb", members))
    return groups


def _hex(label: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*class_colour(label))


def _draw_histograms(check: DataCheck, sides: Axes, ratios: Axes) -> None:
    size, groups = check.train_boxes.sides, _groups(check)
    side = np.sqrt(size.prod(1))
    limit = max(check.config.input.size)
    bins = np.geomspace(max(1.0, side.min(initial=limit) * 0.9), limit, 45).tolist()
    _stack(sides, [side[members] for _, _, members in groups], groups, bins)
    for level, stride in enumerate(check.config.strides):
        if stride * SERVED_FROM < limit:
            colour = LEVEL_COLOURS[level % len(LEVEL_COLOURS)]
            sides.axvline(stride * SERVED_FROM, color=colour, linestyle="--", linewidth=1.2)
            sides.text(
                stride * SERVED_FROM, 1.01, f" {stride}", color=colour, fontsize=8,
                transform=sides.get_xaxis_transform(),
            )  # fmt: skip
    sides.set_xlabel("box side = sqrt(width x height), px of the input; dashed: large enough for a map of that stride")
    ratio = size[:, 0] / size[:, 1]
    _stack(ratios, [ratio[members] for _, _, members in groups], groups, np.geomspace(1 / 8, 8, 41).tolist())
    ratios.set_xlabel("width / height, at the input")
    for axes, ticks in ((sides, (8, 16, 32, 64, 128, 256, 512)), (ratios, (0.125, 0.25, 0.5, 1, 2, 4, 8))):
        axes.set_xscale("log", base=2)
        low, high = axes.get_xlim()
        axes.set_xticks([tick for tick in ticks if low <= tick <= high])
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_ylabel("boxes")
    if groups:
        ratios.legend(fontsize=8)


def _stack(
    axes: Axes,
    columns: Sequence[npt.NDArray[np.float32]],
    groups: Sequence[tuple[str, str, npt.NDArray[np.bool_]]],
    bins: list[float],
) -> None:
    if columns:
        axes.hist(columns, bins, stacked=True, color=[g[1] for g in groups], label=[g[0] for g in groups])


def _draw_anchors(check: DataCheck, axes: Axes, name: str, report: AnchorReport) -> None:
    size = check.train_boxes.sides
    step = -(-len(size) // MAX_POINTS) or 1
    reached = report.boxes.matches > 0
    for members, colour, label in ((reached, "#b8b8b8", "reached"), (~reached, "#000000", "not reached")):
        shown = size[members][::step]
        axes.scatter(shown[:, 0], shown[:, 1], s=3, color=colour, label=f"{label} ({members.sum()})")
    for number, level in enumerate(describe_levels(report.anchors, report.image_size, report.strides)):
        shapes = level["shapes"]
        axes.scatter(
            [shape["width"] for shape in shapes], [shape["height"] for shape in shapes], s=60, marker="s",
            facecolors="none", edgecolors=LEVEL_COLOURS[number % len(LEVEL_COLOURS)], linewidths=2,
            label=f"stride {level['stride']}",
        )  # fmt: skip
    axes.set_title(f"{name}: {report.anchor_count} anchors, {report.total.reached:.1%} of the boxes reached")
    for axis, scale in ((axes.xaxis, axes.set_xscale), (axes.yaxis, axes.set_yscale)):
        scale("log", base=2)
        axis.set_major_formatter("{x:g}")
    limits = max(1.0, size.min(initial=16) * 0.8), 1.8 * max(report.image_size)
    axes.set_xlim(limits)
    axes.set_ylim(limits)
    axes.set_xlabel("width, px of the input")
    axes.set_ylabel("height, px")
    axes.set_aspect("equal")
    axes.legend(fontsize=8, loc="lower right")


def _choose_samples(check: DataCheck) -> list[tuple[int, str]]:
    """(position, note): some pictures with findings, then others evenly spread over the split."""
    positions = {path: i for i, path in enumerate(check.train.paths)}
    noted: dict[int, str] = {}
    for finding in check.findings:
        if finding.file in positions:
            noted.setdefault(positions[finding.file], finding.kind)
    chosen = dict(list(noted.items())[: SAMPLES // 3])
    spread = np.linspace(0, len(check.train) - 1, min(len(check.train), SAMPLES)).round().astype(int)
    for i in spread.tolist():
        if len(chosen) < SAMPLES:
            chosen.setdefault(i, noted.get(i, ""))
    return list(chosen.items())


def _tile(check: DataCheck, position: int, note: str) -> ImageArray | None:
    record = check.train.record(position)
    try:
        image = read_image(record.path, record.size)
    except DataError:
        return None
    drawn = draw_ground_truth(image, record, check.class_names)
    return add_caption(drawn, Path(record.path).name + (f": {note}" if note else ""))
