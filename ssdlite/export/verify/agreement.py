"""Whether two results of one step agree: tolerances by precision, arrays, and lists of detections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ssdlite.detections import Detection
from ssdlite.export.verify.golden import Reference
from ssdlite.images.geometry import CropWindow
from ssdlite.runtime.backends.base import Array
from ssdlite.runtime.contract import ModelSpec

OutputArrays = Mapping[str, Array]


class Tolerance(NamedTuple):
    """How far results may be apart. ``share`` of the values may miss ``worst``, by up to ``OUTLIER`` times as much."""

    worst: float
    share: float = 0.0


OUTLIER = 3.0
# Of 255. Bilinear resizing in floating point, in OpenCV's integers or on a GPU rounds differently: by 1, rarely by 2.
# Smoothing, other pixel centres or another mode differ by tens where the picture has edges.
RESIZE_TOLERANCE = Tolerance(2.0)
# Of 255, before mean and std: the tensor from given pixels is one subtraction and one division.
INPUT_TOLERANCE = Tolerance(0.01)
# Outputs for the same input: of 1 (scores, boxes as fractions), or of the largest logit or delta. Another processor
# adds float32 sums in another order (1e-6 to 1e-4). Half precision has 11 bits for each of some fifty layers. In int8 a
# value on the other side of a rounding step changes all that follow it: ONNX Runtime's integer kernels and its float
# emulation of the same file differ by up to 0.04.
OUTPUT_TOLERANCES = {"fp32": Tolerance(1e-3), "fp16": Tolerance(0.02, 1e-3), "int8": Tolerance(0.05, 0.01)}
# Added where the input is not known, since the app dumped neither it nor the resized picture: a difference of one grey
# level everywhere, which is rounding, moves scores by up to 0.04, boxes by 0.005, deltas by 0.08 of the largest.
UNKNOWN_INPUT = {"scores": 0.05, "boxes": 0.015, "class_logits": 0.05, "box_deltas": 0.1}
UNKNOWN_INPUT_SHARE = 0.005
# Share of the detections that may come and go, as overlaps fall on the other side of a threshold.
UNMATCHED_SHARES = {"fp32": 0.0, "fp16": 0.05, "int8": 0.15}
UNMATCHED_SHARE_UNKNOWN = 0.1
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
    with np.errstate(invalid="ignore"):  # infinite minus infinite: not a number, which never agrees
        apart = np.abs(expected.astype(np.float64) - actual.astype(np.float64)) / scale
    apart = np.where(np.isnan(apart), np.inf, apart)
    worst, beyond = float(apart.max()), float((apart > tolerance.worst).mean())
    suffix = f" {unit}" if unit else ""
    if worst <= tolerance.worst or (beyond <= tolerance.share and worst <= OUTLIER * tolerance.worst):
        return Difference(True, f"differs by at most {worst:.3g}{suffix}", worst, tolerance.worst)
    part = f"{beyond:.1%}" if beyond >= 0.001 else f"{beyond * apart.size:.0f}"
    text = f"{part} of the values differ by more than {tolerance.worst:g}{suffix}, by up to {worst:.3g}"
    return Difference(False, text, worst, tolerance.worst)


def compare_outputs(
    expected: OutputArrays, actual: OutputArrays, reference: Reference, *, known_input: bool = True
) -> Difference:
    """Outputs [1, ...] by meaning, of the same input or, where that is not known, of one like it.

    Those of nms models are compared as detections, since equal scores may change places.
    """
    missing = [meaning for meaning in expected if meaning not in actual]
    if missing:
        return Difference(False, f"there is no output {', '.join(missing)}")
    if reference.model.variant == "nms":
        return _compare_nms(expected, actual, reference, known_input)
    parts = {}
    for meaning, right in expected.items():
        largest = max(float(np.abs(right).max(initial=0)), 1.0)
        scale = {"scores": 1.0, "boxes": _box_scale(reference)}.get(meaning, largest)
        tolerance = output_tolerance(meaning, reference.model, known_input)
        parts[meaning] = compare_arrays(right, actual[meaning], tolerance, scale)
    failed = {meaning: part for meaning, part in parts.items() if not part.passed}
    worst = max((failed or parts).values(), key=lambda part: part.worst or 0.0)
    text = "; ".join(f"{meaning}: {part.text}" for meaning, part in failed.items()) or worst.text
    return Difference(not failed, text, worst.worst, worst.allowed)


def output_tolerance(meaning: str, model: ModelSpec, known_input: bool) -> Tolerance:
    own = OUTPUT_TOLERANCES[model.precision]
    if known_input:
        return own
    return Tolerance(own.worst + UNKNOWN_INPUT[meaning], max(own.share, UNKNOWN_INPUT_SHARE))


def unmatched_share(model: ModelSpec, known_input: bool) -> float:
    return UNMATCHED_SHARES[model.precision] if known_input else UNMATCHED_SHARE_UNKNOWN


def _box_scale(reference: Reference) -> float:
    return float(reference.sides.max()) if reference.boxes.scale == "pixels" else 1.0


def _compare_nms(expected: OutputArrays, actual: OutputArrays, reference: Reference, known_input: bool) -> Difference:
    contract, model = reference.contract, reference.model
    for meaning, right in expected.items():
        if right.shape != actual[meaning].shape:
            return Difference(False, f"{meaning}: shape {list(actual[meaning].shape)}, expected {list(right.shape)}")
    limit, count = contract.postprocess.max_detections, int(actual["count"].reshape(-1)[0])
    if not 0 <= count <= limit:
        return Difference(False, f"count: {count}, expected 0 to {limit}")
    found = [_nms_detections(outputs, contract.class_names) for outputs in (expected, actual)]
    full = any(len(own) >= limit for own in found)
    lowest = min((one.score for own in found for one in own), default=0.0) if full else 0.0
    return compare_detections(
        *found,
        score=output_tolerance("scores", model, known_input).worst,
        box=output_tolerance("boxes", model, known_input).worst * _box_scale(reference),
        least_score=max(contract.postprocess_of(model).score_threshold, lowest),
        share=unmatched_share(model, known_input),
    )


def _nms_detections(outputs: OutputArrays, class_names: Sequence[str]) -> list[Detection]:
    """The outputs [1, ...] of an nms model as they are: boxes unscaled, and names where labels have one."""
    count = int(outputs["count"].reshape(-1)[0])
    boxes, scores, numbers = (outputs[meaning][0][:count].tolist() for meaning in ("boxes", "scores", "labels"))
    labels = list(map(int, numbers))  # of LiteRT they are floats
    names = [class_names[label] if 0 <= label < len(class_names) else "?" for label in labels]
    return list(map(Detection, names, scores, map(tuple, boxes), labels))


def compare_detections(
    expected: Sequence[Detection],
    actual: Sequence[Detection],
    *,
    score: float = SCORE_TOLERANCE,
    box: float,
    least_score: float,
    share: float = 0.0,
) -> Difference:
    """Both lists agree where each detection has a partner of the same name and label, within the tolerances.

    Those that score less than ``least_score + score`` need none: they may be on either side of the threshold.
    ``share`` of the others may go without, but none whose place and score are right and whose name is not.
    """

    def same_place(one: Detection, other: Detection) -> bool:
        pairs = zip(one.box, other.box, strict=True)
        return abs(one.score - other.score) <= score and max(abs(a - b) for a, b in pairs) <= box

    unmatched, unused = [], list(actual)
    for one in expected:
        alike = (other for other in unused if (other.label, other.name) == (one.label, one.name))
        partner = next((other for other in alike if same_place(one, other)), None)
        if partner is None:
            unmatched.append(one)
        else:
            unused.remove(partner)
    wanting, total = (
        sum(not one.score < least_score + score for one in some)  # NaN needs a partner as well
        for some in ([*unmatched, *unused], [*expected, *actual])
    )
    misnamed = any(same_place(one, other) for one in unmatched for other in unused)
    if wanting <= share * total and not misnamed:
        return Difference(True, "the same detections", float(wanting), share * total)
    text = f"{len(expected)} detections expected, {len(actual)} given, {len(expected) - len(unmatched)} agree"
    if unmatched and actual:
        nearest = min(unused or actual, key=lambda other: abs(other.score - unmatched[0].score))
        text += f"; expected {_show(unmatched[0])}, nearest in score is {_show(nearest)}"
    return Difference(False, text, float(wanting), share * total)


def box_tolerance(window: CropWindow) -> float:
    """``BOX_TOLERANCE`` in pixels of the picture that ``window`` shows."""
    return BOX_TOLERANCE * max(1.0, *(1 / scale for scale in window.scale))


def _show(one: Detection) -> str:
    digits = 1 if max(map(abs, one.box)) > 2 else 3
    return f"{one.name} (label {one.label}) {one.score:.3f} {[round(value, digits) for value in one.box]}"
