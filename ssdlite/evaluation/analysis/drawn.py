"""The pictures of a report, as JPEG in data URIs: small, and in all no more than a page can hold."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from ssdlite.errors import DataError
from ssdlite.evaluation.analysis.analyze import Analysis
from ssdlite.evaluation.analysis.pictures import LabelSuspect
from ssdlite.images.drawing import IGNORED_COLOR, Color, draw_boxes
from ssdlite.images.geometry import ImageArray
from ssdlite.images.reading import read_image

PANE = 560  # pixels, the longer side of a whole picture
CROP = 300  # and of a part of one
PAGE_JPEG_QUALITY = 80
MOST_PAGE_BYTES = 8 << 20  # of all pictures of a page together, encoded
MOST_SECONDS = 60.0  # spent on reading and drawing them
RIGHT_COLOR: Color = (64, 160, 255)
WRONG_COLOR: Color = (255, 130, 30)
CONTEXT = 0.75  # beside a box, in parts of its sides


class Drawer:
    """Draws pictures of ``analysis`` until the bytes or the seconds are used up; from then on gives None."""

    def __init__(self, analysis: Analysis, *, most_bytes: int = MOST_PAGE_BYTES, seconds: float = MOST_SECONDS) -> None:
        self.analysis = analysis
        self.bytes_left = most_bytes
        self.end = time.monotonic() + seconds
        self.owners = np.repeat(np.arange(len(analysis.index)), np.diff(analysis.index.offsets))
        self._last: tuple[int, ImageArray] | None = None

    def panes(self, position: int) -> tuple[str, str] | None:
        """(annotations, detections) of a picture; what went wrong is in ``WRONG_COLOR``."""
        picture = self._read(position)
        if picture is None:
            return None
        index, matches = self.analysis.index, self.analysis.matches
        picture, scale = _shrunk(picture, PANE)
        rows = np.flatnonzero(matches.pictures == position)
        wrong = (matches.objects[rows] < 0) & ~matches.ignored[rows]
        names = [index.class_names[label] for label in matches.labels[rows].tolist()]
        captions = [f"{name} {score:.2f}" for name, score in zip(names, matches.scores[rows].tolist(), strict=True)]
        colors = [IGNORED_COLOR if one else RIGHT_COLOR for one in matches.ignored[rows].tolist()]
        detected = _drawn(picture, matches.boxes[rows] * scale, captions, colors, wrong.tolist())
        return self._both(self._annotations(picture, position, scale), detected)

    def crop(self, suspect: LabelSuspect) -> str | None:
        """The part of the picture around a suspicious box, which is in ``WRONG_COLOR`` among the annotated ones."""
        picture = self._read(suspect.position)
        if picture is None:
            return None
        box = np.array(suspect.box)
        margin = np.maximum((box[2:] - box[:2]) * CONTEXT, 16)
        height, width = picture.shape[:2]
        x0, y0 = np.floor((box[:2] - margin).clip(0)).astype(int).tolist()
        x1, y1 = np.ceil(np.minimum(box[2:] + margin, [width, height])).astype(int).tolist()
        part, scale = _shrunk(picture[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)], CROP)
        record = self.analysis.index.record(suspect.position)
        boxes = np.concatenate([box[None], record.boxes.astype(np.float64)]) - [x0, y0, x0, y0]
        others = (boxes[:, 2:] > 0).all(axis=1) & (boxes[:, :2] < [x1 - x0, y1 - y0]).all(axis=1)
        others[1:] &= np.abs(record.boxes - box).max(axis=1, initial=0) > 1  # not the suspect's own
        captions = [_caption(suspect), *(self.analysis.index.class_names[label] for label in record.labels.tolist())]
        kept = np.flatnonzero(others).tolist()
        names, colors, is_suspect = [captions[i] for i in kept], [RIGHT_COLOR] * len(kept), [i == 0 for i in kept]
        return self._encoded(_drawn(part, boxes[kept] * scale, names, colors, is_suspect))

    def _annotations(self, picture: ImageArray, position: int, scale: float) -> ImageArray:
        index, matches = self.analysis.index, self.analysis.matches
        record = index.record(position)
        numbers = np.arange(index.offsets[position], index.offsets[position + 1])
        missed = ~np.isin(numbers, matches.objects) & ~record.ignore
        captions = [index.class_names[label] for label in record.labels.tolist()]
        colors = [IGNORED_COLOR if one else RIGHT_COLOR for one in record.ignore.tolist()]
        return _drawn(picture, record.boxes.astype(np.float64) * scale, captions, colors, missed.tolist())

    def _read(self, position: int) -> ImageArray | None:
        """None where it cannot be read, or nothing is left to spend."""
        if self._last is not None and self._last[0] == position:
            return self._last[1]
        if self.bytes_left <= 0 or time.monotonic() > self.end:
            return None
        try:
            picture = read_image(self.analysis.index.paths[position])
        except DataError:
            return None
        self._last = position, picture
        return picture

    def _both(self, left: ImageArray, right: ImageArray) -> tuple[str, str] | None:
        first, second = self._encoded(left), self._encoded(right)
        return None if first is None or second is None else (first, second)

    def _encoded(self, picture: ImageArray) -> str | None:
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, "JPEG", quality=PAGE_JPEG_QUALITY)
        text = base64.b64encode(stream.getvalue()).decode("ascii")
        if len(text) > self.bytes_left:
            self.bytes_left = 0
            return None
        self.bytes_left -= len(text)
        return f"data:image/jpeg;base64,{text}"


def _caption(suspect: LabelSuspect) -> str:
    if suspect.score is None:
        return suspect.annotated or ""
    return f"{suspect.detected} {suspect.score:.2f}?"


def _shrunk(picture: ImageArray, side: int) -> tuple[ImageArray, float]:
    """A picture of at most ``side`` pixels, small parts enlarged up to four times, and the factor."""
    scale = min(side / max(picture.shape[:2]), 4.0)
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    method = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    return np.array(Image.fromarray(picture).resize(size, method)), scale


def _drawn(
    picture: ImageArray,
    boxes: npt.NDArray[np.float64],
    captions: Sequence[str],
    colors: Sequence[Color],
    wrong: Sequence[bool],
) -> ImageArray:
    """Wrong ones on top."""
    order = sorted(range(len(captions)), key=lambda place: not wrong[place])
    return draw_boxes(
        picture,
        boxes[order].astype(np.float32).reshape(-1, 4),
        [captions[place] for place in order],
        [WRONG_COLOR if wrong[place] else colors[place] for place in order],
    )
