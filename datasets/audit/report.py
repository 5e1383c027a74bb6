"""The result of a data check: tables for people, plain values for JSON, and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ssdlite.console import print_line, print_table
from ssdlite.datasets.anchor_coverage import ALL, COARSE_STRIDES, AnchorCoverage, GroupCoverage
from ssdlite.datasets.audit.checks import FINDING_KINDS, DataCheck, DataFinding
from ssdlite.datasets.audit.verdict import DataVerdict
from ssdlite.datasets.index import DetectionIndex
from ssdlite.errors import DataError
from ssdlite.files import counted, listing, write_atomically
from ssdlite.images.drawing import add_caption, class_color, contact_sheet, draw_ground_truth
from ssdlite.images.geometry import ImageArray
from ssdlite.images.reading import read_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_LINES = 8  # of each kind of finding, and of the boxes that are not covered; the JSON has them all
MOST_EXAMPLES = 3  # of each kind of finding, where not all is asked for
MOST_SIZED_CLASSES = 12  # more are shown without their size buckets
NOTED_FROM = 0.1  # share of a class's boxes from which a shortcoming of the anchors is put into words
PERCENTILES = (5, 50, 95)


def report_values(check: DataCheck, verdict: DataVerdict) -> dict[str, Any]:
    """Everything, as plain values for JSON."""
    return {
        "data": str(check.root),
        "image_size": list(check.config.input.size),
        "resize": check.config.input.resize,
        "class_names": list(check.class_names),
        "notes": list(check.notes),
        "splits": {name: _split_values(index) for name, index in check.splits.items()},
        "box_sides": {name: row for name, _, row in _side_rows(check)},
        "problems": len(check.problems),
        "verdict": verdict._asdict(),
        "findings": [finding._asdict() | {"problem": finding.is_problem} for finding in check.findings],
        "anchors": {"budget": check.budget, "fitted_to": check.train.name}
        | {
            name: audit.train.to_dict()
            | {
                "config": msgspec.to_builtins(audit.train.anchors),
                "uncovered": [_box_values(check, row) for row in audit.train.uncovered.tolist()],
                "on_val": audit.val.total.to_dict(),
            }
            for name, audit in check.anchors.items()
        },
    }


def _split_values(index: DetectionIndex) -> dict[str, Any]:
    return {
        "images": len(index),
        "images_without_objects": int((np.diff(index.offsets) == 0).sum()),
        "objects": len(index.labels),
        "ignored": int(index.ignore.sum()),
        "classes": dict(
            zip(index.class_names, np.bincount(index.labels, minlength=len(index.class_names)).tolist(), strict=True)
        ),
    }


def _box_values(check: DataCheck, row: int) -> dict[str, Any]:
    """Of a box of ``check.train_boxes``."""
    boxes = check.train_boxes
    index, image = check.train, int(boxes.images[row])
    source = int(boxes.rows[row])
    return {
        "file": index.paths[image],
        "object": source - int(index.offsets[image]),
        "class": index.class_names[int(boxes.labels[row])],
        "box": [round(float(value), 1) for value in index.boxes[source]],
        "input_size": [round(float(value), 1) for value in boxes.sides[row]],
    }


def _side_rows(check: DataCheck) -> Iterator[tuple[str, int, dict[str, list[float]]]]:
    """(class name, boxes, percentiles of width, height and side) of the split to train on, then of all classes."""
    boxes = check.train_boxes
    groups = [(name, boxes.labels == label) for label, name in enumerate(check.class_names)]
    for name, members in [*groups, (ALL, np.ones(len(boxes.labels), bool))]:
        if members.any():
            width, height = boxes.sides[members].T
            columns = {"width": width, "height": height, "side": np.sqrt(width * height)}
            rows = {key: np.percentile(column, PERCENTILES).tolist() for key, column in columns.items()}
            yield name, int(members.sum()), {key: [round(value, 1) for value in row] for key, row in rows.items()}


# --- Tables: splits, box sizes, findings, anchors before and after.


def print_report(check: DataCheck, console: Console, *, verbose: bool) -> None:
    """Tables for people, each of which fits a terminal of 80 columns, and lines that wrap between words.

    Without ``verbose`` what is there, how it was read, and the first of each kind of finding.
    """
    for part in _parts(check) if verbose else _short_parts(check):
        for piece in part.renderables if isinstance(part, Group) else [part]:
            if isinstance(piece, Table):
                print_table(piece, console)
            elif isinstance(piece, Text):
                print_line(piece.plain, console, str(piece.style))
        console.print()


def _short_parts(check: DataCheck) -> Iterator[RenderableType]:
    yield _splits_table(check, MOST_SIZED_CLASSES)
    yield from _notes(check, MOST_LINES)
    yield _findings(check, MOST_EXAMPLES)


def _parts(check: DataCheck) -> Iterator[RenderableType]:
    yield _splits_table(check)
    yield _sides_table(check)
    yield from _notes(check)
    yield _findings(check, MOST_LINES)
    if not len(check.train_boxes.labels):
        yield Text("No objects to train on: nothing to audit or fit anchors to.", style="yellow")
        return
    if check.config.head.bins:
        yield Text("Distances are counted in strides of the maps: shapes of anchors say nothing to this detector.")
        return
    titles = {"preset": "anchors of the preset", "proposed": "proposed anchors"}
    for name, audit in check.anchors.items():
        yield _coverage_table(check, f"{audit.train.anchor_count} {titles[name]}", audit.train)
    yield from _in_words(check)
    yield _uncovered_table(check)
    yield _levels_table(check)


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=escape(title), title_justify="left", caption_justify="left", box=SIMPLE_HEAD)
    table.add_column(first)
    for column in others:
        table.add_column(escape(column), justify="right")
    return table


def _notes(check: DataCheck, most: int | None = None) -> Iterator[RenderableType]:
    if check.notes:
        lines = _shortened([f"  {note}" for note in check.notes], "  ", most or len(check.notes))
        yield Group(Text("how the data were read", "bold"), *map(Text, lines))


def _splits_table(check: DataCheck, most_classes: int | None = None) -> Table:
    table = _table(f"{check.root}: images and objects by split", "class", *check.splits)
    splits = [_split_values(index) for index in check.splits.values()]
    for label, key in (
        ("images", "images"),
        ("  without objects", "images_without_objects"),
        ("objects", "objects"),
        ("  of these ignored (crowd, difficult)", "ignored"),
    ):
        table.add_row(label, *(str(split[key]) for split in splits))
    names = list(dict.fromkeys(name for split in splits for name in split["classes"]))
    if most_classes is not None and len(names) > most_classes:
        table.caption = escape(f"{len(names)} classes: {listing(names)}")
        return table
    table.add_section()
    for name in names:
        table.add_row(escape(name), *(str(split["classes"].get(name, 0)) for split in splits))
    return table


def _sides_table(check: DataCheck) -> Table:
    height, width = check.config.input.size
    title = (
        f"box sizes at {width} x {height} ({check.config.input.resize}), {check.train.name}: 5 % / median / 95 %, px"
    )
    table = _table(title, "class", "boxes", "width", "height", "side = sqrt(area)")
    for name, count, row in _side_rows(check):
        table.add_row(escape(name), str(count), *(" / ".join(f"{v:.0f}" for v in row[key]) for key in row))
    return table


def _findings(check: DataCheck, most: int) -> RenderableType:
    counts = check.finding_counts()
    if not counts:
        return Text("No problems found.", style="green")
    warnings = counted(len(check.findings) - len(check.problems), "warning")
    lines = [Text(f"{counted(len(check.problems), 'problem')}, {warnings}", "bold")]
    for kind, (meaning, is_problem) in FINDING_KINDS.items():
        if kind in counts:
            lines.append(Text(f"{kind} ({counts[kind]}): {meaning}", "red" if is_problem else "yellow"))
            found = [f"  {_finding_line(finding, check.root)}" for finding in check.findings if finding.kind == kind]
            lines += map(Text, _shortened(found, "  ", most))
    return Group(*lines)


def _finding_line(finding: DataFinding, root: Path) -> str:
    detail = finding.detail.replace(f"{root}/", "")
    place = f"{_short(finding.file, root)}: " if finding.file else ""
    return f"{finding.split}: {place}{detail}"


def _short(path: str, root: Path) -> str:
    return str(Path(path).relative_to(root)) if Path(path).is_relative_to(root) else path


def _shortened(lines: Sequence[str], indent: str = "", most: int = MOST_LINES) -> list[str]:
    rest = len(lines) - most
    return [*lines[:most], *([f"{indent}... and {rest} more"] if rest > 0 else [])]


def _coverage_table(check: DataCheck, name: str, coverage: AnchorCoverage) -> Table:
    table = _table(f"{name}, on {check.train.name} at IoU >= {coverage.threshold:g}", "class", "size, px", "boxes")
    for column in ("covered", "matches", "IoU", "coarse", "stride"):
        table.add_column(column, justify="right", no_wrap=True)
    few = len(check.class_names) <= MOST_SIZED_CLASSES
    for group in coverage.groups:
        whole = group.size == ALL
        if whole or few or group.class_name == ALL:
            table.add_row(*_coverage_cells(group), style="bold" if whole else None, end_section=whole and few)
    table.caption = (
        "covered: boxes with a match (best possible recall). matches: anchors per box. IoU: with the best anchor. "
        "coarse: boxes served by a map whose stride is more than half of their shorter side. "
        "stride: of the map that serves most of the boxes"
    )
    return table


def _coverage_cells(group: GroupCoverage) -> tuple[str, ...]:
    stride, served = max(group.strides.items(), key=lambda item: item[1], default=(0, 0))
    return (
        escape(group.class_name),
        group.size,
        str(group.boxes),
        f"{group.covered:.1%}",
        f"{group.matches:.1f}",
        f"{group.best_iou:.2f}",
        f"{group.too_coarse:.0%}",
        f"{stride} {served / max(group.boxes, 1):>4.0%}",
    )


def _in_words(check: DataCheck) -> Iterator[Text]:
    """What the tables mean."""
    for name, audit in check.anchors.items():
        if lines := _shortened(list(shortcomings(audit.train))):
            yield Text("\n  ".join([f"{name} anchors:", *lines]), "yellow")
    if "proposed" in check.anchors:
        before, after = (audit.val.total for audit in check.anchors.values())
        yield Text(
            f"on {check.splits[check.val_name].name}, not fitted to: {before.covered:.1%} -> {after.covered:.1%} of "
            f"{before.boxes} boxes covered, {before.matches:.1f} -> {after.matches:.1f} matches each, "
            f"{before.too_coarse:.0%} -> {after.too_coarse:.0%} too coarsely served"
        )


def shortcomings(coverage: AnchorCoverage) -> Iterator[str]:
    """Sentences about the classes that the anchors serve badly, those with most boxes first."""
    finest = coverage.strides[0]
    finer = "" if finest <= 8 else "--finest-stride 8, which ssdlite train decides on by itself, or "
    classes = [group for group in coverage.groups if group.size == ALL and group.class_name != ALL]
    for group in sorted(classes, key=lambda group: -group.boxes):
        if 1 - group.covered >= NOTED_FROM:
            yield f"{group.class_name}: no anchor covers {1 - group.covered:.0%} of {group.boxes} boxes"
        coarser = sum(count for stride, count in group.strides.items() if stride != finest) / group.boxes
        if group.too_coarse >= NOTED_FROM and coarser >= NOTED_FROM:
            yield (
                f"{group.class_name}: {group.too_coarse:.0%} of the boxes are served by a map that is too coarse for "
                f"them ({coarser:.0%} by one of stride {coverage.strides[1]} or more)"
            )
        elif group.too_coarse >= NOTED_FROM:
            yield (
                f"{group.class_name}: {group.too_coarse:.0%} of the boxes are small even for the finest map (stride "
                f"{finest}); {finer}a larger --image-size would help them"
            )
        if count := group.without_anchor:
            boxes = "1 box loses its" if count == 1 else f"{count} boxes lose their"
            yield f"{group.class_name}: {boxes} best anchor to a neighbour and have no other"


def _uncovered_table(check: DataCheck) -> RenderableType:
    name, audit = list(check.anchors.items())[-1]
    rows, whose = audit.train.uncovered, "preset's" if name == "preset" else name
    if not len(rows):
        return Text(f"The {whose} anchors cover every box.", style="green")
    table = _table(f"{len(rows)} boxes that none of the {whose} anchors covers", "file", "object", "at the input, px")
    smallest = rows[np.argsort(check.train_boxes.sides[rows].prod(1), kind="stable")]
    for row in smallest[:MOST_LINES].tolist():
        values = _box_values(check, row)
        corners = ", ".join(f"{value:g}" for value in values["box"])
        width, height = values["input_size"]
        place = escape(f"{values['class']} at [{corners}]")
        table.add_row(escape(_short(values["file"], check.root)), place, f"{width:.0f} x {height:.0f}")
    table.columns[0].overflow = "fold"
    if len(rows) > MOST_LINES:
        table.caption = f"the {MOST_LINES} smallest; report.json names all, and those of the preset's anchors"
    return table


def _levels_table(check: DataCheck) -> Table:
    sets = {name: audit.train for name, audit in check.anchors.items()}
    title = f"anchors per map, width x height px (scale, ratio); budget {check.budget}"
    table = _table(title, "stride", *(f"{name} ({coverage.anchor_count})" for name, coverage in sets.items()))
    for row in zip(*(coverage.levels() for coverage in sets.values()), strict=True):
        table.add_row(str(row[0]["stride"]), *(_shape_lines(level["shapes"]) for level in row), end_section=True)
    return table


def _shape_lines(shapes: Sequence[dict[str, float]]) -> str:
    return "\n".join(f"{s['width']:.0f} x {s['height']:.0f}  ({s['scale']:.3f}, {s['ratio']:.2f})" for s in shapes)


# --- Pictures: histograms, the anchors among the boxes, and a sheet of samples.

MOST_COLORS = 8  # classes drawn apart, those with most boxes; the others together
MAX_POINTS = 4000  # boxes in a scatter plot
SAMPLE_TILES = 12
COLUMNS = 4
LEVEL_COLORS = ("#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#7f7f7f", "#17becf")


def draw_report(check: DataCheck, path: Path) -> None:
    """Histograms of box sides and shapes, and the anchors of both kinds among the boxes, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 10), dpi=110, layout="constrained")
    (sides, ratios), (before, after) = figure.subplots(2, 2)
    height, width = check.config.input.size
    figure.suptitle(f"{check.train.name} at {width} x {height}: {len(check.train_boxes.labels)} boxes")
    _draw_histograms(check, sides, ratios)
    after.set_axis_off()
    for axes, (name, audit) in zip((before, after), check.anchors.items(), strict=False):
        axes.set_axis_on()
        _draw_anchors(check, axes, name, audit.train)
    write_atomically(path, lambda file: figure.savefig(file, format="png"))


def draw_samples(check: DataCheck, path: Path) -> None:
    """A contact sheet of pictures to train on with their boxes, as a JPEG; those with findings first."""
    tiles = [_tile(check, position, note) for position, note in _choose_samples(check)]
    sheet = contact_sheet([tile for tile in tiles if tile is not None], COLUMNS)
    write_atomically(path, lambda file: Image.fromarray(sheet).save(file, format="JPEG", quality=90))


def _groups(check: DataCheck) -> list[tuple[str, str, npt.NDArray[np.bool_]]]:
    """(name, colour, members) of the classes with most boxes, and of the rest together."""
    labels = check.train_boxes.labels
    counts = np.bincount(labels, minlength=len(check.class_names))
    order = [int(label) for label in np.argsort(-counts, kind="stable") if counts[label]]
    groups = [
        (f"{check.class_names[label]} ({counts[label]})", _hex(label), labels == label) for label in order[:MOST_COLORS]
    ]
    if rest := order[MOST_COLORS:]:
        members = np.isin(labels, rest)
        groups.append((f"{len(rest)} other classes ({members.sum()})", "#bbbbbb", members))
    return groups


def _hex(label: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*class_color(label))


def _draw_histograms(check: DataCheck, sides: Axes, ratios: Axes) -> None:
    size, groups = check.train_boxes.sides, _groups(check)
    side = np.sqrt(size.prod(1))
    limit = max(check.config.input.size)
    bins = np.geomspace(max(1.0, side.min(initial=limit) * 0.9), limit, 45).tolist()
    _stack(sides, [side[members] for _, _, members in groups], groups, bins)
    for level, stride in enumerate(check.config.strides):
        if stride * COARSE_STRIDES < limit:
            color = LEVEL_COLORS[level % len(LEVEL_COLORS)]
            sides.axvline(stride * COARSE_STRIDES, color=color, linestyle="--", linewidth=1.2)
            sides.text(
                stride * COARSE_STRIDES, 1.01, f" {stride}", color=color, fontsize=8,
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


def _draw_anchors(check: DataCheck, axes: Axes, name: str, coverage: AnchorCoverage) -> None:
    size = check.train_boxes.sides
    step = -(-len(size) // MAX_POINTS) or 1
    covered = coverage.boxes.matches > 0
    for members, color, label in ((covered, "#b8b8b8", "covered"), (~covered, "#000000", "not covered")):
        shown = size[members][::step]
        axes.scatter(shown[:, 0], shown[:, 1], s=3, color=color, label=f"{label} ({members.sum()})")
    for number, level in enumerate(coverage.levels()):
        shapes = level["shapes"]
        axes.scatter(
            [shape["width"] for shape in shapes], [shape["height"] for shape in shapes], s=60, marker="s",
            facecolors="none", edgecolors=LEVEL_COLORS[number % len(LEVEL_COLORS)], linewidths=2,
            label=f"stride {level['stride']}",
        )  # fmt: skip
    axes.set_title(f"{name}: {coverage.anchor_count} anchors cover {coverage.total.covered:.1%} of the boxes")
    for axis, scale in ((axes.xaxis, axes.set_xscale), (axes.yaxis, axes.set_yscale)):
        scale("log", base=2)
        axis.set_major_formatter("{x:g}")
    limits = max(1.0, size.min(initial=16) * 0.8), 1.8 * max(coverage.image_size)
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
    chosen = dict(list(noted.items())[: SAMPLE_TILES // 3])
    spread = np.linspace(0, len(check.train) - 1, min(len(check.train), SAMPLE_TILES)).round().astype(int)
    for i in spread.tolist():
        if len(chosen) < SAMPLE_TILES:
            chosen.setdefault(i, noted.get(i, ""))
    return list(chosen.items())


def _tile(check: DataCheck, position: int, note: str) -> ImageArray | None:
    record = check.train.record(position)
    try:
        image = read_image(record.path)
    except DataError:
        return None
    drawn = draw_ground_truth(image, record, check.class_names)
    return add_caption(drawn, Path(record.path).name + (f": {note}" if note else ""))
