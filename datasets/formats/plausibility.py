"""Whether the boxes of a whole split can be what their format says, or are plainly written in another way.

Boxes that stand as they should lie in their pictures, wherever and however large they are, so sound data never come to
be judged. Where many do not, and nearly all would if they were read in another way, that is an error: they would be
clipped, dropped or misread otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ssdlite.errors import DataError
from ssdlite.files import counted

BoxForm = Literal["corners", "size", "center"]  # of the four numbers, as the files have them
Numbers = npt.NDArray[np.float64]

FORMS: dict[BoxForm, str] = {
    "corners": "xmin, ymin, xmax, ymax",
    "size": "x, y of the upper left corner, width, height",
    "center": "x, y of the center, width, height",
}
# Numbers in the wrong order make a box of the right one by chance at most once in four (xmin < xmax and ymin < ymax),
# five of them once in a thousand times; some of the five must besides be far out of their pictures as they stand: all
# where the other way to read them keeps that order, so that only their places tell.
LEAST_EVIDENCE = 5  # boxes, or lines of labels
FEWEST_MISFITS = 3
LEAST_MISFITS = 0.1  # of all boxes, below which those that do not fit are single mistakes
LEAST_SHIFTED = 0.25  # the same where the other way just shifts them: back into the picture, where they reach out of it
MOST_LEFT = 0.05  # of those that do not fit as they stand, how many may not fit in the other way either
FAR_OUT = 0.05  # of the picture's side, that a box must reach out by not to fit as it stands: tools overshoot by less
ROUNDED_OUT = 0.01  # that it may reach out by to fit in another way


class Reading(NamedTuple):
    """Another way to read four numbers, and how to write them then."""

    name: str
    remedy: str
    corners: Callable[[Numbers], Numbers]  # [T, 4] as written -> xyxy
    least_misfits: float = LEAST_MISFITS
    fewest: int = FEWEST_MISFITS


def to_corners(numbers: Numbers, form: BoxForm) -> Numbers:
    """[T, 4] as written -> xyxy."""
    first, second = numbers[:, :2], numbers[:, 2:]
    if form == "corners":
        return numbers
    if form == "size":
        return np.concatenate([first, first + second], axis=1)
    return np.concatenate([first - second / 2, first + second / 2], axis=1)


def _as_written(boxes: Numbers, form: BoxForm) -> Numbers:
    """The inverse."""
    first, second = boxes[:, :2], boxes[:, 2:]
    if form == "corners":
        return boxes
    return np.concatenate([first if form == "size" else (first + second) / 2, second - first], axis=1)


def _other_readings(form: BoxForm) -> Iterator[Reading]:
    if form != "corners":
        center = "the center ((x1 + x2) / 2, (y1 + y2) / 2), then " if form == "center" else ""
        remedy = f"write {center}width = x2 - x1 and height = y2 - y1"
        yield Reading("the corners x1, y1, x2, y2", remedy, lambda numbers: numbers)
    if form != "size":
        remedy = "write x + width and y + height" if form == "corners" else "write x + width / 2 and y + height / 2"
        least = (LEAST_SHIFTED, LEAST_EVIDENCE) if form == "center" else (LEAST_MISFITS, FEWEST_MISFITS)
        yield Reading(FORMS["size"], remedy, lambda numbers: to_corners(numbers, "size"), *least)
    if form != "center":
        remedy = "write x - width / 2 and y - height / 2" + (
            ", x + width / 2 and y + height / 2" if form == "corners" else ""
        )
        share = LEAST_SHIFTED if form == "size" else LEAST_MISFITS
        yield Reading(FORMS["center"], remedy, lambda numbers: to_corners(numbers, "center"), share, LEAST_EVIDENCE)
    if form == "corners":
        for what, order in (("xmin and xmax", [2, 1, 0, 3]), ("ymin and ymax", [0, 3, 2, 1])):
            yield _exchanged(what, order, form)
        yield _exchanged("the minima and the maxima", [2, 3, 0, 1], form)
    turned = "; where it is the pictures that EXIF turns, say --exif-boxes stored"
    yield _exchanged("x and y", [1, 0, 3, 2], form, turned)._replace(fewest=LEAST_EVIDENCE)


def _exchanged(what: str, order: list[int], form: BoxForm, besides: str = "") -> Reading:
    remedy = f"exchange them, or the names of their columns{besides}"
    return Reading(f"{what} exchanged", remedy, lambda numbers: to_corners(numbers[:, order], form))


def require_plausible(
    boxes: Numbers, limits: Numbers, form: BoxForm, source: str, describe: Callable[[int], str]
) -> None:
    """A DataError where the boxes of a split are plainly not of the ``form`` that they were read as.

    Args:
        boxes: [T, 4] xyxy, not clipped, in the unit that they are written in.
        limits: [T, 2] width and height of the pictures in that unit.
        source: for the message, as ``describe``, which says where the box of a row stands.
    """
    rows = np.flatnonzero(np.isfinite(boxes).all(axis=1))
    boxes, limits = boxes[rows], limits[rows]
    misfits = ~_fit(boxes, limits, FAR_OUT)
    count = int(misfits.sum())
    if len(boxes) < LEAST_EVIDENCE or count < max(FEWEST_MISFITS, LEAST_MISFITS * len(boxes)):
        return
    numbers = _as_written(boxes, form)
    left = {one: int((~_fit(one.corners(numbers), limits, ROUNDED_OUT)).sum()) for one in _other_readings(form)}
    likely = [
        reading
        for reading, number in left.items()
        if number <= MOST_LEFT * count and count >= max(reading.fewest, reading.least_misfits * len(boxes))
    ]
    if not likely:
        return
    first = int(np.flatnonzero(misfits)[0])
    shown = ", ".join(f"{number:.6g}" for number in numbers[first].tolist())
    width, height = limits[first].tolist()
    picture = "" if width == height == 1 else f" in a picture of {width:g} x {height:g}"
    fitting = len(boxes) - left[likely[0]]
    raise DataError(
        f"{source}: expected boxes as {FORMS[form]}, got what looks like {', or '.join(one.name for one in likely)}: "
        f"{count} of {counted(len(boxes), 'box')} do not fit their pictures as they stand, the first {shown}{picture} "
        f"({describe(int(rows[first]))}); read so, {fitting} of {len(boxes)} fit. "
        f"Correct the annotations: {'; or '.join(dict.fromkeys(one.remedy for one in likely))}"
    )


def _fit(boxes: Numbers, limits: Numbers, tolerance: float) -> npt.NDArray[np.bool_]:
    """Which boxes have an area, and lie in their pictures but for ``tolerance`` of the sides."""
    has_area = boxes[:, 2:] > boxes[:, :2]
    inside = (boxes[:, :2] >= -tolerance * limits) & (boxes[:, 2:] <= (1 + tolerance) * limits)
    return np.asarray((has_area & inside).all(axis=1))


def require_pixels(boxes: Numbers, source: str, describe: Callable[[int], str]) -> None:
    """A DataError where there are boxes and each is of less than a pixel, as fractions of the picture are."""
    rows = np.flatnonzero(np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1))
    boxes = boxes[rows]
    if not len(rows) or not ((np.abs(boxes) <= 1).all() or (boxes[:, 2:] - boxes[:, :2] < 1).all()):
        return
    corners = ", ".join(f"{value:g}" for value in boxes[0].tolist())
    raise DataError(
        f"{source}: expected boxes in pixels, got {counted(len(rows), 'box')} of less than one each, the first "
        f"with the corners {corners} ({describe(int(rows[0]))})"
        + ("; they look like fractions of the picture's width and height" if np.abs(boxes).max() <= 2 else "")
    )
