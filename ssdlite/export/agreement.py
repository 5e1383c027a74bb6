"""Whether two results of one step agree: tolerances by precision, arrays, and lists of detections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ssdlite.contract import Contract, ModelSpec
from ssdlite.export.vectors import GoldenDetection
from ssdlite.image import View
from ssdlite.prediction import NumpyDetections

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float64]


class Tolerance(NamedTuple):
    """How far results may be apart. ``share`` of the values may miss ``worst``, by up to ten times as much."""

    worst: float
    share: float = 0.0


# Of 255. Bilinear resizing in floating point, in OpenCV's integers or on a GPU rounds differently: by 1, rarely by 2.
# Smoothing, other pixel centres or another mode differ by tens where the picture has edges.
RESIZE_TOLERANCE = Tolerance(2.0)
# Of 255, before mean and std: the tensor from given pixels is one subtraction and one division.
INPUT_TOLERANCE = Tolerance(0.01)
# Of outputs in 0..1 (scores, boxes as fractions), or of the largest logit or delta. Another processor adds float32
# sums in another order (1e-6 to 1e-4). Half precision has 11 bits for each of some fifty layers. Of int8, a value that
# falls on the other side of a rounding step changes all that follow it: of single anchors up to several steps of 1/255.
OUTPUT_TOLERANCES = {"fp32": Tolerance(1e-3), "fp16": Tolerance(0.02, 1e-3), "int8": Tolerance(0.05, 0.01)}
# Where an earlier step of the same dump was not given, its own tolerance passes through the network as well.
UNKNOWN_INPUT_FACTOR = 10.0
# Share of the detections of an nms model that may come and go, as overlaps fall on the other side of a threshold.
UNMATCHED_SHARES = {"fp32": 0.0, "fp16": 0.05, "int8": 0.15}
# Decoding and suppression of given outputs: float32 or float64.
SCORE_TOLERANCE = 1e-3
BOX_TOLERANCE = 0.05  # pixels of the input


@dataclass(frozen=True)
class Difference:
    """What a comparison found: ``text`` for a person, the largest difference and what was allowed."""

    passed: bool
    text: str
    worst: float | None = None
    allowed: float | None = None


def compare_arrays(
    expected: Array, actual: Array, tolerance: Tolerance, scale: float = 1.0, unit: str = ""
) -> Difference:
    """Differences are divided by ``scale`` before they are judged and shown."""
    if expected.shape != actual.shape:
        return Difference(False, f"shape {list(actual.shape)}, expected {list(expected.shape)}")
    if expected.size == 0:
        return Difference(True, "nothing to compare", 0.0, tolerance.worst)
    apart = np.abs(expected.astype(np.float64) - actual.astype(np.float64)) / scale
    apart = np.where(np.isnan(apart), np.inf, apart)
    worst, beyond = float(apart.max()), float((apart > tolerance.worst).mean())
    passed = worst <= tolerance.worst or (beyond <= tolerance.share and worst <= 10 * tolerance.worst)
    suffix = f" {unit}" if unit else ""
    if passed:
        return Difference(True, f"differs by at most {worst:.3g}{suffix}", worst, tolerance.worst)
    text = f"{beyond:.1%} of the values differ by more than {tolerance.worst:g}{suffix}, by up to {worst:.3g}"
    return Difference(False, text, worst, tolerance.worst)


def compare_outputs(
    expected: Mapping[str, Array],
    actual: Mapping[str, Array],
    contract: Contract,
    model: ModelSpec,
    factor: float = 1.0,
) -> Difference:
    """Outputs [1, ...] by meaning. Those of nms models are compared as detections, since equal scores may change
    places; ``factor`` widens the tolerance.
    """
    missing = [meaning for meaning in expected if meaning not in actual]
    if missing:
        return Difference(False, f"there is no output {', '.join(missing)}")
    tolerance = OUTPUT_TOLERANCES[model.precision]
    tolerance = Tolerance(tolerance.worst * factor, tolerance.share)
    if model.variant == "nms":
        return _compare_nms(expected, actual, contract, model, tolerance.worst)
    parts = {}
    for meaning, golden in expected.items():
        scale = 1.0 if meaning in ("scores", "boxes") else max(float(np.abs(golden).max(initial=0)), 1.0)
        if meaning == "boxes" and contract.boxes.scale == "pixels":
            scale = float(max(model.input.height, model.input.width))
        parts[meaning] = compare_arrays(golden, actual[meaning], tolerance, scale)
    return join_differences(parts)


def join_differences(parts: Mapping[str, Difference]) -> Difference:
    """One difference for several things: of those that failed, or the largest."""
    failed = {name: part for name, part in parts.items() if not part.passed}
    worst = max((failed or parts).values(), key=lambda part: part.worst or 0.0)
    text = "; ".join(f"{name}: {part.text}" for name, part in failed.items()) or worst.text
    return Difference(not failed, text, worst.worst, worst.allowed)


def compare_detections(
    expected: Sequence[GoldenDetection],
    actual: Sequence[GoldenDetection],
    *,
    score: float = SCORE_TOLERANCE,
    box: float,
    least_score: float,
    share: float = 0.0,
) -> Difference:
    """Both lists agree where each detection has a partner of the same name and label, within the tolerances.

    Those that score less than ``least_score + score`` need none: they may be on either side of the threshold.
    ``share`` of the others may go without.
    """
    lonely, unused = match_detections(expected, list(actual), score, box)
    needy = [one for one in [*lonely, *unused] if not one.score < least_score + score]  # NaN needs one as well
    total = len(expected) + len(actual)
    if len(needy) <= share * total:
        return Difference(True, f"the same {len(expected)} detections", 0.0, None)
    text = f"{len(expected)} detections expected, {len(actual)} given, {len(expected) - len(lonely)} agree"
    if lonely and actual:
        text += f"; expected {_show(lonely[0])}, nearest in score is {_show(_nearest(lonely[0], unused or actual))}"
    return Difference(False, text, float(len(needy)), share * total)


def box_tolerance(view: View) -> float:
    """``BOX_TOLERANCE`` in pixels of the picture that ``view`` shows."""
    return BOX_TOLERANCE * max(1.0, *(1 / scale for scale in view.scale))


def match_detections(
    expected: Sequence[GoldenDetection], actual: list[GoldenDetection], score: float, box: float
) -> tuple[list[GoldenDetection], list[GoldenDetection]]:
    """(expected ones without a partner, actual ones without)."""
    unused = list(actual)
    lonely = []
    for one in expected:
        partner = next((other for other in unused if _agree(one, other, score, box)), None)
        if partner is None:
            lonely.append(one)
        else:
            unused.remove(partner)
    return lonely, unused


def nms_detections(outputs: Mapping[str, Array], class_names: Sequence[str]) -> list[GoldenDetection]:
    """The outputs [1, ...] of an nms model as they are: boxes unscaled, and names where labels have one."""
    count = int(outputs["count"].reshape(-1)[0])
    own = NumpyDetections(outputs["boxes"][0][:count], outputs["scores"][0][:count], outputs["labels"][0][:count])
    return [
        GoldenDetection(
            name=class_names[label] if 0 <= label < len(class_names) else "?",
            label=label,
            score=score,
            box=(values[0], values[1], values[2], values[3]),
        )
        for values, score, label in zip(own.boxes.tolist(), own.scores.tolist(), own.labels.tolist(), strict=True)
    ]


def _compare_nms(
    expected: Mapping[str, Array], actual: Mapping[str, Array], contract: Contract, model: ModelSpec, tolerance: float
) -> Difference:
    for meaning, golden in expected.items():
        if golden.shape != actual[meaning].shape:
            return Difference(False, f"{meaning}: shape {list(actual[meaning].shape)}, expected {list(golden.shape)}")
    limit, count = contract.postprocess.max_detections, int(actual["count"].reshape(-1)[0])
    if not 0 <= count <= limit:
        return Difference(False, f"count: {count}, expected 0 to {limit}")
    found = [nms_detections(outputs, contract.class_names) for outputs in (expected, actual)]
    full = any(len(own) >= limit for own in found)
    lowest = min((one.score for own in found for one in own), default=0.0) if full else 0.0
    side = max(model.input.height, model.input.width) if contract.boxes.scale == "pixels" else 1
    return compare_detections(
        *found,
        score=tolerance,
        box=tolerance * side,
        least_score=max(contract.postprocess.score_threshold, lowest),
        share=UNMATCHED_SHARES[model.precision],
    )


def _agree(one: GoldenDetection, other: GoldenDetection, score: float, box: float) -> bool:
    return (
        one.label == other.label
        and one.name == other.name
        and abs(one.score - other.score) <= score
        and max(abs(a - b) for a, b in zip(one.box, other.box, strict=True)) <= box
    )


def _nearest(one: GoldenDetection, others: Sequence[GoldenDetection]) -> GoldenDetection:
    return min(others, key=lambda other: abs(other.score - one.score))


def _show(one: GoldenDetection) -> str:
    digits = 1 if max(map(abs, one.box)) > 2 else 3
    return f"{one.name} (label {one.label}) {one.score:.3f} {[round(value, digits) for value in one.box]}"
