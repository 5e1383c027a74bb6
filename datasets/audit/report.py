"""The result of a data check as tables for people and as plain values for JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ssdlite.datasets.anchor_coverage import ALL, AnchorReport, GroupCoverage, describe_levels
from ssdlite.datasets.audit.checks import PROBLEMS, WARNINGS, DataCheck, Finding
from ssdlite.datasets.index import DetectionIndex

SHOWN = 8  # of each kind of finding, and of the boxes out of reach; the JSON has them all
MOST_CLASSES = 12  # more are shown without their size buckets
MUCH = 0.1  # share of a class's boxes from which a shortcoming of the anchors is put into words
PERCENTILES = (5, 50, 95)


def print_report(check: DataCheck, console: Console) -> None:
    """Tables: splits, box sizes, findings, anchors before and after."""
    for part in _parts(check):
        console.print(part)
        console.print()


def report_values(check: DataCheck) -> dict[str, Any]:
    """Everything, as plain values for JSON."""
    comparison = check.anchors
    reports = {"preset": comparison.preset, "proposed": comparison.proposed}
    on_val = {"preset": comparison.preset_val, "proposed": comparison.proposed_val}
    return {
        "data": str(check.root),
        "image_size": list(check.config.input.size),
        "resize": check.config.input.resize,
        "class_names": list(check.class_names),
        "splits": {name: _split_values(index) for name, index in check.splits.items()},
        "box_sides": {name: row for name, _, row in _side_rows(check)},
        "problems": len(check.problems),
        "findings": [finding._asdict() | {"problem": finding.is_problem} for finding in check.findings],
        "anchors": {"budget": comparison.budget, "fitted_to": check.train.name}
        | {
            name: report.to_dict()
            | {
                "config": vars(report.anchors),
                "unreached": [_unreached_values(check, row) for row in report.unreached.tolist()],
                "on_val": vars(val.total) | {"strides": {str(k): n for k, n in val.total.strides.items()}},
            }
            for (name, report), val in zip(reports.items(), on_val.values(), strict=True)
            if report is not None and val is not None
        },
    }


def describe_box(check: DataCheck, row: int) -> tuple[str, str, str]:
    """(file, class and place, size at the network's resolution) of a box of ``check.train_boxes``."""
    values = _unreached_values(check, row)
    corners = ", ".join(f"{value:g}" for value in values["box"])
    width, height = values["input_size"]
    return values["file"], f"{values['class']} at [{corners}]", f"{width:.0f} x {height:.0f}"


def _parts(check: DataCheck) -> Iterator[RenderableType]:
    yield _splits_table(check)
    yield _sides_table(check)
    yield _findings(check)
    if not len(check.train_boxes.labels):
        yield Text("No objects to train on: nothing to audit or fit anchors to.", style="yellow")
        return
    yield from _reach_tables(check)
    yield from _in_words(check)
    yield _unreached_table(check)
    yield _levels_table(check)


def _splits_table(check: DataCheck) -> Table:
    table = _table(f"{check.root}: images and objects by split", "class", *check.splits)
    for label, values in (
        ("images", [len(index) for index in check.splits.values()]),
        ("  without objects", [int((np.diff(index.offsets) == 0).sum()) for index in check.splits.values()]),
        ("objects", [len(index.labels) for index in check.splits.values()]),
        ("  of these ignored (crowd, difficult)", [int(i.ignore.sum()) for i in check.splits.values()]),
    ):
        table.add_row(label, *map(str, values))
    table.add_section()
    counts = [class_counts(index) for index in check.splits.values()]
    for name in dict.fromkeys(name for count in counts for name in count):
        table.add_row(escape(name), *(str(count.get(name, 0)) for count in counts))
    return table


def class_counts(index: DetectionIndex) -> dict[str, int]:
    """Objects by class name, crowds and ``difficult`` ones among them."""
    counts = np.bincount(index.labels, minlength=len(index.class_names)).tolist()
    return dict(zip(index.class_names, counts, strict=True))


def _split_values(index: DetectionIndex) -> dict[str, Any]:
    return {
        "images": len(index),
        "images_without_objects": int((np.diff(index.offsets) == 0).sum()),
        "objects": len(index.labels),
        "ignored": int(index.ignore.sum()),
        "classes": class_counts(index),
    }


def _side_rows(check: DataCheck) -> Iterator[tuple[str, int, dict[str, list[float]]]]:
    """(class name, boxes, percentiles of width, height and side) of the split to train on, then of all classes."""
    boxes = check.train_boxes
    groups = [(name, boxes.labels == label) for label, name in enumerate(check.class_names)]
    for name, members in [*groups, (ALL, np.ones(len(boxes.labels), bool))]:
        if members.any():
            width, height = boxes.sides[members].T
            columns = {"width": width, "height": height, "side": np.sqrt(width * height)}
            yield (
                name,
                int(members.sum()),
                {
                    key: [round(float(v), 1) for v in np.percentile(column, PERCENTILES)]
                    for key, column in columns.items()
                },
            )


def _sides_table(check: DataCheck) -> Table:
    height, width = check.config.input.size
    title = (
        f"box sizes at {width} x {height} ({check.config.input.resize}), {check.train.name}: 5 % / median / 95 %, px"
    )
    table = _table(title, "class", "boxes", "width", "height", "side = sqrt(area)")
    for name, count, row in _side_rows(check):
        table.add_row(escape(name), str(count), *(" / ".join(f"{v:.0f}" for v in row[key]) for key in row))
    return table


def _findings(check: DataCheck) -> RenderableType:
    counts = check.finding_counts()
    if not counts:
        return Text("No problems found.", style="green")
    lines = [Text(f"{len(check.problems)} problems, {len(check.findings) - len(check.problems)} warnings", "bold")]
    for kind, meaning in (PROBLEMS | WARNINGS).items():
        if kind not in counts:
            continue
        lines.append(Text(f"{kind} ({counts[kind]}): {meaning}", "red" if kind in PROBLEMS else "yellow"))
        found = [finding for finding in check.findings if finding.kind == kind]
        lines += [Text(f"  {_finding_line(finding, check.root)}") for finding in found[:SHOWN]]
        if len(found) > SHOWN:
            lines.append(Text(f"  ... and {len(found) - SHOWN} more"))
    return Group(*lines)


def _finding_line(finding: Finding, root: Path) -> str:
    detail = finding.detail.replace(f"{root}/", "")
    place = f"{_short(finding.file, root)}: " if finding.file else ""
    return f"{finding.split}: {place}{detail}"


def _short(path: str, root: Path) -> str:
    return str(Path(path).relative_to(root)) if Path(path).is_relative_to(root) else path


def _reach_tables(check: DataCheck) -> Iterator[Table]:
    """One table for the preset's anchors and one for the proposed ones; each fits a terminal of 80 columns."""
    preset, proposed = check.anchors.preset, check.anchors.proposed
    yield _reach_table(check, f"{preset.anchor_count} anchors of the preset", preset)
    if proposed:
        yield _reach_table(check, f"{proposed.anchor_count} proposed anchors", proposed)


def _reach_table(check: DataCheck, name: str, report: AnchorReport) -> Table:
    table = _table(f"{name}, on {check.train.name} at IoU >= {report.threshold:g}", "class", "size, px", "boxes")
    for column in ("reached", "matches", "IoU", "coarse", "stride"):
        table.add_column(column, justify="right", no_wrap=True)
    few = len(check.class_names) <= MOST_CLASSES
    for group in report.groups:
        if group.size != ALL and not few and group.class_name != ALL:
            continue
        whole = group.size == ALL
        table.add_row(
            escape(group.class_name), group.size, str(group.boxes), *_reach_cells(group),
            style="bold" if whole else None, end_section=whole and few,
        )  # fmt: skip
    table.caption = (
        "reached: boxes with a match. matches: anchors per box. IoU: with the best anchor. coarse: boxes served by a "
        "map whose stride is more than half of their shorter side. stride: of the map that serves most of the boxes"
    )
    return table


def _reach_cells(group: GroupCoverage) -> tuple[str, ...]:
    stride, served = max(group.strides.items(), key=lambda item: item[1], default=(0, 0))
    return (
        f"{group.reached:.1%}",
        f"{group.matches:.1f}",
        f"{group.best_iou:.2f}",
        f"{group.too_coarse:.0%}",
        f"{stride} {served / max(group.boxes, 1):>4.0%}",
    )


def _in_words(check: DataCheck) -> Iterator[Text]:
    """What the table means, for the preset's anchors and for the proposed ones."""
    comparison = check.anchors
    for title, report in (("preset", comparison.preset), ("proposed", comparison.proposed)):
        if report is not None and (lines := list(shortcomings(report))):
            rest = [f"... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
            yield Text("\n  ".join([f"{title} anchors:", *lines[:SHOWN], *rest]), "yellow")
    if comparison.proposed_val:
        before, after = comparison.preset_val.total, comparison.proposed_val.total
        yield Text(
            f"on {check.splits[check.val_name].name}, not fitted to: {before.reached:.1%} -> {after.reached:.1%} of "
            f"{before.boxes} boxes reached, {before.matches:.1f} -> {after.matches:.1f} matches each, "
            f"{before.too_coarse:.0%} -> {after.too_coarse:.0%} too coarsely served"
        )


def shortcomings(report: AnchorReport) -> Iterator[str]:
    """Sentences about the classes that the anchors serve badly, those with most boxes first."""
    finest = report.strides[0]
    classes = [group for group in report.groups if group.size == ALL and group.class_name != ALL]
    for group in sorted(classes, key=lambda group: -group.boxes):
        if 1 - group.reached >= MUCH:
            yield f"{group.class_name}: no anchor reaches {1 - group.reached:.0%} of {group.boxes} boxes"
        coarser = sum(count for stride, count in group.strides.items() if stride != finest) / group.boxes
        if group.too_coarse >= MUCH and coarser >= MUCH:
            yield (
                f"{group.class_name}: {group.too_coarse:.0%} of the boxes are served by a map that is too coarse for "
                f"them ({coarser:.0%} by one of stride {report.strides[1]} or more)"
            )
        elif group.too_coarse >= MUCH:
            yield (
                f"{group.class_name}: {group.too_coarse:.0%} of the boxes are small even for the finest map (stride "
                f"{finest}); a larger --image-size would help them"
            )
        if count := group.without_anchor:
            boxes = "1 box loses its" if count == 1 else f"{count} boxes lose their"
            yield f"{group.class_name}: {boxes} best anchor to a neighbour and have no other"


def _unreached_table(check: DataCheck) -> RenderableType:
    report = check.anchors.proposed or check.anchors.preset
    name = "proposed" if check.anchors.proposed else "preset's"
    rows = report.unreached
    if not len(rows):
        return Text(f"The {name} anchors reach every box.", style="green")
    table = _table(f"{len(rows)} boxes that none of the {name} anchors reaches", "file", "object", "at the input, px")
    smallest = rows[np.argsort(check.train_boxes.sides[rows].prod(1), kind="stable")]
    for row in smallest[:SHOWN].tolist():
        file, place, size = describe_box(check, row)
        table.add_row(escape(_short(file, check.root)), escape(place), size)
    table.columns[0].overflow = "fold"
    if len(rows) > SHOWN:
        table.caption = f"the {SHOWN} smallest; report.json names all, and those of the preset's anchors"
    return table


def _unreached_values(check: DataCheck, row: int) -> dict[str, Any]:
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


def _levels_table(check: DataCheck) -> Table:
    comparison = check.anchors
    reports = [("preset", comparison.preset), ("proposed", comparison.proposed)]
    title = f"anchors per map, width x height px (scale, ratio); budget {comparison.budget}"
    table = _table(title, "stride", *(f"{name} ({r.anchor_count})" for name, r in reports if r))
    levels = [describe_levels(r.anchors, r.image_size, r.strides) for _, r in reports if r]
    for row in zip(*levels, strict=True):
        table.add_row(str(row[0]["stride"]), *(_shape_lines(level["shapes"]) for level in row), end_section=True)
    return table


def _shape_lines(shapes: Sequence[dict[str, float]]) -> str:
    return "\n".join(f"{s['width']:.0f} x {s['height']:.0f}  ({s['scale']:.3f}, {s['ratio']:.2f})" for s in shapes)


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=escape(title), title_justify="left", caption_justify="left", box=SIMPLE_HEAD)
    table.add_column(first)
    for column in others:
        table.add_column(escape(column), justify="right")
    return table
