"""The pictures of a report, as JPEG in data URIs: small, and in all no more than a page can hold."""

from __future__ import annotations

import base64
import io
import time

import numpy as np
from PIL import Image

from ssdlite.errors import DataError
from ssdlite.evaluation.analysis.analyze import Analysis
from ssdlite.evaluation.analysis.panels import (
    FALSE_ALARM,
    HIT,
    MISSED,
    STYLE,
    DrawnBoxes,
    detection_boxes,
    fitted,
    ground_truth_boxes,
)
from ssdlite.evaluation.analysis.pictures import LabelSuspect
from ssdlite.images.drawing import draw_boxes
from ssdlite.images.geometry import ImageArray
from ssdlite.images.reading import read_image

PANE_SIDE = 560  # pixels, the longer side of a whole picture
CROP_SIDE = 300  # and of a part of one
PAGE_JPEG_QUALITY = 80
MOST_PAGE_BYTES = 8 << 20  # of all pictures of a page together, encoded
MOST_SECONDS = 60.0  # spent on reading and drawing them
CONTEXT = 0.75  # beside a box, in parts of its longer side
LEAST_CONTEXT = 24  # pixels


class Drawer:
    """Draws pictures of ``analysis`` until the bytes or the seconds are used up; from then on gives None."""

    def __init__(self, analysis: Analysis, *, most_bytes: int = MOST_PAGE_BYTES, seconds: float = MOST_SECONDS) -> None:
        self.analysis = analysis
        self.bytes_left = most_bytes
        self.end = time.monotonic() + seconds

    def panes(self, position: int) -> tuple[str, str] | None:
        """(annotations, detections) of a picture."""
        picture = self._read(position)
        if picture is None:
            return None
        index = self.analysis.index
        matches = self.analysis.matches.where(self.analysis.matches.pictures == position)
        found = set((matches.objects[matches.objects >= 0] - index.offsets[position]).tolist())
        annotations = ground_truth_boxes(index.record(position), index.class_names, found)
        panes = [
            self._encoded(_drawn(picture, boxes, PANE_SIDE)) for boxes in (annotations, detection_boxes(matches, index))
        ]
        return None if panes[0] is None or panes[1] is None else (panes[0], panes[1])

    def crop(self, suspect: LabelSuspect) -> str | None:
        """The part of the picture around a suspicious box, among the annotated ones."""
        picture = self._read(suspect.position)
        if picture is None:
            return None
        box, names = np.array(suspect.box), self.analysis.index.class_names
        center, side = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]).max()
        reach = side / 2 + max(side * CONTEXT, LEAST_CONTEXT)
        height, width = picture.shape[:2]
        x0, y0 = np.floor((center - reach).clip(0)).astype(int).tolist()
        x1, y1 = np.ceil(np.minimum(center + reach, [width, height])).astype(int).tolist()
        record = self.analysis.index.record(suspect.position)
        boxes = record.boxes.astype(np.float64) - [x0, y0, x0, y0]
        shown = (boxes[:, 2:] > 0).all(axis=1) & (boxes[:, :2] < [x1 - x0, y1 - y0]).all(axis=1)
        shown &= np.abs(record.boxes - box).max(axis=1, initial=0) > 1  # not the suspect's own
        others = np.flatnonzero(shown).tolist()
        drawn = DrawnBoxes(
            np.concatenate([[box - [x0, y0, x0, y0]], boxes[others]]),
            [suspect.caption, *(names[record.labels[number]] for number in others)],
            [FALSE_ALARM if suspect.annotated is None else MISSED, *[HIT] * len(others)],
        )
        return self._encoded(_drawn(picture[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)], drawn, CROP_SIDE))

    def _read(self, position: int) -> ImageArray | None:
        """None where it cannot be read, or nothing is left to spend."""
        if self.bytes_left <= 0 or time.monotonic() > self.end:
            return None
        try:
            return read_image(self.analysis.index.paths[position])
        except DataError:
            return None

    def _encoded(self, picture: ImageArray) -> str | None:
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, "JPEG", quality=PAGE_JPEG_QUALITY)
        text = base64.b64encode(stream.getvalue()).decode("ascii")
        if len(text) > self.bytes_left:
            self.bytes_left = 0
            return None
        self.bytes_left -= len(text)
        return f"data:image/jpeg;base64,{text}"


def _drawn(picture: ImageArray, boxes: DrawnBoxes, side: int) -> ImageArray:
    """At most ``side`` pixels wide and high."""
    shown, scale = fitted(picture, side, side)
    return draw_boxes(shown, (boxes.boxes * scale).astype(np.float32), boxes.captions, boxes.lines, STYLE)
