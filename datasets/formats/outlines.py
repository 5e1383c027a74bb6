"""The boxes around what label tools draw besides upright rectangles. Points are (x, y), boxes xyxy, in pixels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from ssdlite.datasets.formats.base import Box
from ssdlite.errors import DataError

Point = tuple[float, float]
FARTHEST = 1.5  # a fraction that overshoots by more is none; less is clipped later
MOST_OF_ALL = 0.9


def box_of_points(points: Iterable[Point]) -> Box:
    """
    Raises:
        DataError: there are none.
    """
    points = list(points)
    if not points:
        raise DataError("expected points, got none")
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def are_fractions(box: Box) -> bool:
    """Whether corners can be fractions of a picture's sides, some of which reach outside it. NaN may be anything."""
    return all(1 - FARTHEST <= value <= FARTHEST for value in box if math.isfinite(value))


def mostly_fractions(boxes: Sequence[Box]) -> bool:
    """Whether nearly all boxes are within 0..1, where boxes in pixels never are: the others are mistakes."""
    within = sum(min(box) >= 0 and max(box) <= 1 for box in boxes)
    return within > 0 and within >= MOST_OF_ALL * len(boxes)


def turned(points: Sequence[Point], center: Point, degrees: float) -> list[Point]:
    """Clockwise as one sees it, y pointing down, around ``center``."""
    if not degrees:
        return list(points)
    cosine, sine = _direction(degrees)
    x0, y0 = center
    return [(x0 + (x - x0) * cosine - (y - y0) * sine, y0 + (x - x0) * sine + (y - y0) * cosine) for x, y in points]


def corners(box: Box) -> list[Point]:
    x0, y0, x1, y1 = box
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def box_of_turned(box: Box, degrees: float, center: Point | None = None) -> Box:
    """Of a rectangle that is turned clockwise, by default around its middle."""
    if not degrees:
        return box
    x0, y0, x1, y1 = box
    return box_of_points(turned(corners(box), center or ((x0 + x1) / 2, (y0 + y1) / 2), degrees))


def box_of_ellipse(center: Point, radii: Point, degrees: float = 0.0) -> Box:
    """Of an ellipse that is turned around its middle."""
    (cosine, sine), (x, y), (rx, ry) = _direction(degrees), center, radii
    half_width, half_height = math.hypot(rx * cosine, ry * sine), math.hypot(rx * sine, ry * cosine)
    return x - half_width, y - half_height, x + half_width, y + half_height


def _direction(degrees: float) -> tuple[float, float]:
    if not math.isfinite(degrees):
        raise DataError(f"expected an angle in degrees, got {degrees}")
    return math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
