"""Score thresholds that were measured: for each class the one with the best F1 on validation data. Needs numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ssdlite.errors import CheckpointError
from ssdlite.images.prediction import DEFAULT_SCORE_THRESHOLD
from ssdlite.runtime.plain import PlainError, from_plain

ThresholdSource = Literal["measured", "guess", "score_threshold"]


@dataclass(frozen=True)
class OperatingPoint:
    """What a class's detections of at least ``score_threshold`` are worth, at IoU 0.5 on the validation data."""

    score_threshold: float
    precision: float
    recall: float
    f1: float


def parse_operating_points(values: Any, class_names: Sequence[str], where: str) -> dict[str, OperatingPoint]:
    """By class name, from plain values of a file that anyone may have written.

    Raises:
        PlainError: another form, numbers out of 0..1, or a class that is not one of ``class_names``.
    """
    points = from_plain(dict[str, OperatingPoint], values, where)
    check_operating_points(points, class_names, where)
    return points


def stored_operating_points(
    metrics: Mapping[str, Any], class_names: Sequence[str], where: str
) -> dict[str, OperatingPoint]:
    """By class name, of the ``metrics`` of a checkpoint; empty where it was never scored. Raises CheckpointError."""
    try:
        return parse_operating_points(metrics.get("operating_points", {}), class_names, "operating_points")
    except PlainError as error:
        raise CheckpointError(f"{where}: metrics: {error}") from None


def check_operating_points(points: Mapping[str, OperatingPoint], class_names: Sequence[str], where: str) -> None:
    """Raises PlainError for numbers out of 0..1, or a class that is not one of ``class_names``."""
    known = set(class_names)
    for name, point in points.items():
        if name not in known:
            raise PlainError(f"{where}: {name[:60]!r} is not one of the classes")
        for field, value in vars(point).items():
            if not 0 <= value <= 1:
                raise PlainError(f"{where}.{name[:60]}.{field}: expected 0 to 1, got {value}")


def operating_threshold(points: Mapping[str, OperatingPoint]) -> tuple[float, ThresholdSource]:
    """The score from which on to show detections, one for all classes: the median of those with an operating point,
    or where none has one ``DEFAULT_SCORE_THRESHOLD``, and which of the two it is."""
    if not points:
        return DEFAULT_SCORE_THRESHOLD, "guess"
    return round(float(np.median([point.score_threshold for point in points.values()])), 4), "measured"


def score_thresholds(class_names: Sequence[str], points: Mapping[str, OperatingPoint]) -> npt.NDArray[np.float64]:
    """[K] by label, for ``Detections.above``; ``operating_threshold`` where a class has no operating point."""
    other, _ = operating_threshold(points)
    return np.array([points[name].score_threshold if name in points else other for name in class_names])
