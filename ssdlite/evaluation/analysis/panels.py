"""Ground truth and detections of a few pictures side by side: what was found, missed, and seen where there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from ssdlite.datasets.index import DetectionIndex, Record
from ssdlite.detections import Detections
from ssdlite.evaluation.analysis.matching import MATCH_IOU, Matches, match
from ssdlite.files import counted
from ssdlite.images.drawing import (
    IGNORED_COLOR,
    Outline,
    Style,
    add_caption,
    add_legend,
    contact_sheet,
    draw_boxes,
    side_by_side,
)
from ssdlite.images.geometry import ImageArray
from ssdlite.images.prediction import DEFAULT_SCORE_THRESHOLD
from ssdlite.images.reading import read_image

PANE_WIDTH, PANE_HEIGHT = 480, 480  # px: a picture is as wide, unless it would be higher
PANEL_COLUMNS = 2
BEST_BELOW = 3  # detections that are shown of a picture that has none with a sufficient score
STYLE = Style(line=3, font_size=14, padding=3)
# told apart by colour-blind readers as well, by lightness and by the dashes
HIT = Outline((0, 190, 130))
MISSED = Outline((240, 228, 66), dash=(12, 6))
FALSE_ALARM = Outline((255, 105, 30), dash=(5, 4))
BELOW = Outline((235, 235, 235), dash=(2, 6))
IGNORED_LINE = Outline(IGNORED_COLOR)


class DrawnBoxes(NamedTuple):
    """What is drawn in a pane: boxes [N, 4], and of each its caption and line."""

    boxes: npt.NDArray[np.float64]
    captions: list[str]
    lines: list[Outline]


def draw_panels(
    index: DetectionIndex, results: Mapping[int, Detections], score_threshold: float = DEFAULT_SCORE_THRESHOLD
) -> ImageArray:
    """A sheet of the pictures at the places in ``results``: ground truth left, detections right.

    An object has one label, as ``ssdlite predict`` shows it. Where no detection has a score of ``score_threshold``, the
    best ones below it are drawn, marked as such.
    """
    matches = match(index, {place: found.with_nms(class_agnostic=True) for place, found in results.items()})
    panels = [_panel(index, place, matches.where(matches.pictures == place), score_threshold) for place in results]
    sheet = contact_sheet(panels, PANEL_COLUMNS, cell=max((panel.shape[1] for panel in panels), default=PANE_WIDTH))
    entries = {
        f"found (IoU {MATCH_IOU:g} or more)": HIT,
        "missed": MISSED,
        "false alarm": FALSE_ALARM,
        f"best scores below {score_threshold:g}, where none reaches it": BELOW,
        "ignored (crowd, difficult)": IGNORED_LINE,
    }
    title = f"Left: ground truth. Right: detections with a score of {score_threshold:g} or more, as predict shows them."
    return add_legend(sheet, title, entries, STYLE)


def _panel(index: DetectionIndex, place: int, matches: Matches, score_threshold: float) -> ImageArray:
    record = index.record(place)
    shown = matches.where(matches.scores >= score_threshold)
    found = set((shown.objects[shown.objects >= 0] - index.offsets[place]).tolist())
    false_alarms = int(((shown.objects < 0) & ~shown.ignored).sum())
    objects = int((~record.ignore).sum())
    image, scale = fitted(read_image(record.path), PANE_WIDTH, PANE_HEIGHT)
    left = ground_truth_boxes(record, index.class_names, found)
    below = not len(shown)
    right = detection_boxes(matches.where(np.arange(len(matches)) < BEST_BELOW) if below else shown, index, below=below)
    panes = [
        draw_boxes(image, (boxes * scale).astype(np.float32), captions, lines, STYLE)
        for boxes, captions, lines in (left, right)
    ]
    title = f"{len(found)} found, {counted(false_alarms, 'false alarm')}"
    if below:
        title = f"no score of {score_threshold:g}" + (f"; best {matches.scores.max():.2f}" if len(matches) else "")
    name = f"{Path(record.path).name}: {counted(objects, 'object')}, {objects - len(found)} missed"
    titled = zip(panes, (name, title), strict=True)
    return side_by_side([add_caption(_centered(pane), text, STYLE) for pane, text in titled])


def ground_truth_boxes(record: Record, class_names: Sequence[str], found: set[int]) -> DrawnBoxes:
    """``found``: which of the record's objects."""
    captions, lines = [], []
    for row, (label, ignore) in enumerate(zip(record.labels.tolist(), record.ignore.tolist(), strict=True)):
        line = IGNORED_LINE if ignore else HIT if row in found else MISSED
        captions.append(class_names[label] + (" (ignored)" if ignore else ""))
        lines.append(line)
    return DrawnBoxes(record.boxes.astype(np.float64), captions, lines)


def detection_boxes(matches: Matches, index: DetectionIndex, *, below: bool = False) -> DrawnBoxes:
    captions, lines = [], []
    columns = (matches.labels, matches.scores, matches.objects >= 0, matches.ignored)
    for label, score, hit, ignored in zip(*(column.tolist() for column in columns), strict=True):
        captions.append(f"{index.class_names[label]} {score:.2f}" + (" (below)" if below else ""))
        lines.append(BELOW if below else HIT if hit else IGNORED_LINE if ignored else FALSE_ALARM)
    return DrawnBoxes(matches.boxes, captions, lines)


def fitted(image: ImageArray, most_width: int, most_height: int) -> tuple[ImageArray, npt.NDArray[np.float64]]:
    """The picture as large as it can be, and [4] what its boxes are to be multiplied with."""
    height, width = image.shape[:2]
    scale = min(most_width / width, most_height / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    how = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    picture = np.asarray(Image.fromarray(image).resize(size, how))
    return picture, np.array([size[0] / width, size[1] / height] * 2)


def _centered(pane: ImageArray) -> ImageArray:
    rest = PANE_WIDTH - pane.shape[1]
    return np.pad(pane, ((0, 0), (rest // 2, rest - rest // 2), (0, 0)), constant_values=255)
