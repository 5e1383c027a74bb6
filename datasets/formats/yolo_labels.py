"""YOLO's label files: one for each picture, a line for each object, in fractions of the picture."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ssdlite.datasets.formats.base import Box
from ssdlite.datasets.formats.files import read_bounded
from ssdlite.datasets.formats.outlines import box_of_points
from ssdlite.datasets.formats.plausibility import FORMS, LEAST_EVIDENCE, MOST_LEFT, ROUNDED_OUT
from ssdlite.datasets.formats.yolo_data import YoloData, decode_text
from ssdlite.errors import DataError, quote
from ssdlite.files import counted

MAX_YOLO_BYTES = 1 << 24  # 400,000 boxes; more are no labels of a picture
ROUNDING = 1e-3  # that fractions may be outside 0..1 by
TRACK_NUMBERS = 7  # of a line that a tracker writes: class, box, score, track
NO_FRACTION = 2.0  # a number over it is none, however badly a box was drawn
PERCENT = 100.0


class YoloLabel(NamedTuple):
    line: int
    name: str
    box: Box  # in fractions of the picture


class LabelReader:
    """Reads label files and counts what was found. ``used``: the class numbers."""

    def __init__(self, data: YoloData) -> None:
        self._data = data
        self.used: set[int] = set()
        self._shapes: Counter[str] = Counter()
        self._evidence = _Evidence(data)

    def read(self, path: str) -> tuple[list[YoloLabel], list[str]]:
        """The labels of a file, and what is wrong with it or with lines of it."""
        labels: list[YoloLabel] = []
        unread: list[str] = []
        try:
            text = decode_text(Path(path), read_bounded(Path(path), MAX_YOLO_BYTES))
        except DataError as error:
            return labels, [str(error).removeprefix(f"{path}: ")]
        for number, line in enumerate(text.splitlines(), start=1):
            if line and not line.isspace():
                try:
                    labels.append(self._parse(path, number, line.split()))
                except DataError as error:
                    unread.append(f"line {number}: {error}")
        return labels, unread

    def notes(self) -> Iterator[str]:
        for shape, count in self._shapes.items():
            yield f"{self._data.file}: {counted(count, 'label')} {shape}"

    def require_plausible(self, source: str) -> None:
        """A DataError where what was read of a split is plainly not what YOLO's labels are."""
        self._evidence.judge(source)

    def _parse(self, path: str, line: int, fields: Sequence[str]) -> YoloLabel:
        try:
            values = [float(text) for text in fields]
        except ValueError:
            wrong = next(text for text in fields if not _is_number(text))
            separated = "numbers separated by spaces" if len(fields) == 1 or "," in wrong else "numbers"
            raise DataError(f"expected {separated}, got {quote(wrong)}") from None
        self._evidence.add(path, line, values)
        box = self._box(values)
        return YoloLabel(line, self._class_name(values[0], fields[0]), box)

    def _class_name(self, value: float, text: str) -> str:
        names = self._data.names
        if not value.is_integer() or value < 0:
            raise DataError(f"expected a class as a whole number from 0, got {quote(text)}")
        number = int(value)
        if names is not None and number not in names:
            known = f"from {min(names)} to {max(names)}" if names else "of an empty list"
            raise DataError(
                f"expected a class {known} ({counted(len(names), 'name')} in {self._data.file}), got {number}"
            )
        self.used.add(number)
        return str(number) if names is None else names[number]

    def _box(self, values: Sequence[float]) -> Box:
        count = len(values)
        pose = 5 + self._data.keypoint_numbers
        if count in (5, 6) or (count == pose and pose > 5):
            _require_fractions(values[1:5])
            if count == 6 and pose != 6:
                self._shapes["with a confidence, which is passed over"] += 1
            elif count > 5:
                self._shapes["of poses: their boxes are used"] += 1
            x, y, width, height = values[1:5]
            return x - width / 2, y - height / 2, x + width / 2, y + height / 2
        if count < 7 or count % 2 == 0:
            poses = f", or the {pose} numbers of a pose" if pose > 5 else ""
            raise DataError(
                f"expected a class and the 4 numbers of a box, or 3 or more points{poses}, got {count} numbers"
            )
        _require_fractions(values[1:])
        self._shapes["of polygons or oriented boxes: the boxes around them are used"] += 1
        return box_of_points(zip(values[1::2], values[2::2], strict=True))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _require_fractions(values: Sequence[float]) -> None:
    for value in values:
        if not -ROUNDING <= value <= 1 + ROUNDING:
            raise DataError(f"expected fractions of the picture from 0 to 1, got {value:g}")


# --- What the labels of a split are, if not what they should be.


class _Evidence:
    """Of all lines of numbers, whether they can be used or not: how many are of which kind, and the first of each."""

    def __init__(self, data: YoloData) -> None:
        self._data = data
        names = data.names or {}
        self._behind_last = len(names) if set(names) == set(range(len(names))) else 0
        self._poses = 5 + data.keypoint_numbers
        self._kinds: Counter[str] = Counter()
        self._first: dict[str, str] = {}
        self._classes: Counter[int] = Counter()
        self._largest = 0.0

    def add(self, path: str, line: int, values: Sequence[float]) -> None:
        """``values``: the numbers of a line."""
        self._kinds["line"] += 1
        coordinates = values[1:5] if len(values) < TRACK_NUMBERS else values[1:]
        if len(coordinates) > 3 and (largest := max(coordinates)) > NO_FRACTION:
            self._largest = max(self._largest, largest)
            self._count("pixels", path, line, values)
        if len(values) == TRACK_NUMBERS and self._poses != TRACK_NUMBERS:
            self._kinds["seven"] += 1
            if _is_track(values):
                self._count("track", path, line, values)
        if values and values[0].is_integer():
            self._classes[int(values[0])] += 1
            if values[0] == self._behind_last > 0:
                self._count("behind", path, line, values)

    def _count(self, kind: str, path: str, line: int, values: Sequence[float]) -> None:
        if not self._kinds[kind]:
            shown = " ".join(f"{value:.6g}" for value in values[:9]) + (" ..." if len(values) > 9 else "")
            self._first[kind] = f"{shown} ({os.path.relpath(path, self._data.folder)}, line {line})"
        self._kinds[kind] += 1

    def judge(self, source: str) -> None:
        """A DataError for tracks, pixels and class numbers from 1."""
        lines, seven, tracks, pixels = (self._kinds[kind] for kind in ("line", "seven", "track", "pixels"))
        total = counted(lines, "label")
        if _is_most(tracks, seven):
            raise DataError(
                f"{source}: expected a class and the 4 numbers of a box, or points, got what looks like class, box, "
                f"score and track in {tracks} of {total}, the first {self._first['track']}; as points they would be "
                "triangles. Delete the last two numbers of such lines, or export without tracks"
            )
        if _is_most(pixels, lines):
            unit = "pixels" if self._largest > PERCENT else "pixels or percent"
            raise DataError(
                f"{source}: expected fractions of the picture from 0 to 1 ({FORMS['center']}), got what looks like "
                f"{unit} in {pixels} of {total}, the first {self._first['pixels']}. Divide x and width by the "
                "picture's width, y and height by its height" + (", or by 100" if unit != "pixels" else "")
            )
        behind, last = self._kinds["behind"], self._behind_last
        if lines >= LEAST_EVIDENCE and behind > 1 and (min(self._classes), max(self._classes)) == (1, last):
            raise DataError(
                f"{source}: expected classes from 0 to {last - 1} ({counted(last, 'name')} in {self._data.file}), got "
                f"what looks like numbers from 1: none of {total} is of class 0 and {behind} of class {last}, the "
                f"first {self._first['behind']}. Subtract 1 from each, or number the names from 1 in data.yaml "
                "(names: {1: ..., 2: ...}); if the list lacks its last name instead, add it"
            )


def _is_most(count: int, total: int) -> bool:
    """Whether that many of ``total`` lines cannot be by chance."""
    return count >= LEAST_EVIDENCE and total - count <= MOST_LEFT * count


def _is_track(values: Sequence[float]) -> bool:
    """Whether class, box, score and a track's whole number: read as a triangle it would end at the picture's edge, and
    its points would make a box that lies in the picture.
    """
    _, x, y, width, height, score, track = values
    inside = all(
        size > 0 and middle - size / 2 >= -ROUNDED_OUT and middle + size / 2 <= 1 + ROUNDED_OUT
        for middle, size in ((x, width), (y, height))
    )
    return inside and 0 <= score <= 1 and track >= 0 and track.is_integer()
