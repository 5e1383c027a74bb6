"""Why a result differs from the right one: which of the usual mistakes (``mistakes``) turns the one into the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from ssdlite.detections import Detection
from ssdlite.export.verify import mistakes
from ssdlite.export.verify.agreement import OutputArrays, box_tolerance, compare_detections, compare_outputs
from ssdlite.export.verify.golden import Reference
from ssdlite.export.verify.mistakes import BGR, OTHER, SIGNED, Boxes, name_facts
from ssdlite.export.verify.report import Step
from ssdlite.export.verify.vectors import GoldenImage
from ssdlite.images.geometry import ImageArray, fit_window
from ssdlite.runtime.backends.base import Array
from ssdlite.runtime.contract import ModelSpec

FITS = 0.25  # of the difference that is to be explained: a mistake that leaves more than this is none
RESIDUAL = 1.5  # grey levels, on average, that a line through the values may leave


def explain_picture(actual: ImageArray, right: ImageArray) -> str | None:
    """Which mistake in decoding turned the picture ``right`` into ``actual``, both [height, width, 3]."""
    wrong = ((name, make(right)) for name, make in mistakes.PICTURE_MISTAKES.items())
    found = _nearest(wrong, lambda pixels: _apart(actual, pixels), _apart(actual, right))
    return found and found[0]


def explain_resized(actual: ImageArray, right: ImageArray, rgb: ImageArray, reference: Reference) -> str | None:
    """Which mistake turns the picture ``rgb`` into ``actual`` rather than ``right``, both [H, W, 3]."""
    wrong = [(BGR, right[..., ::-1])]
    for name, pixels in resize_guesses(rgb, reference):
        wrong += [(name, pixels), (f"{name}, {BGR}", pixels[..., ::-1])]
    found = _nearest(wrong, lambda pixels: _apart(actual, pixels), _apart(actual, right))
    return found and f"{found[0]} (differs then by {found[1]:.2g} on average)"


def resize_guesses(rgb: ImageArray, reference: Reference) -> Iterator[tuple[str, ImageArray]]:
    """What the usual mistakes make of a picture at the input's size [H, W, 3]."""
    spec, resize = reference.model.input, reference.contract.resize
    size = spec.height, spec.width
    for row in mistakes.RESIZE_MISTAKES:
        if row.mode in ("", resize.mode):
            picture = np.ascontiguousarray(row.turn(rgb))
            sides = picture.shape[0], picture.shape[1]
            window = row.window(sides, size) if row.window else fit_window(sides, size, resize.mode)
            padding = resize.padding_value if row.padding is None else row.padding
            yield row.name.format_map(name_facts(reference)), window.render(picture, padding, row.resize)


def explain_tensor(
    actual: Array, right: Array, reference: Reference, bases: Iterable[tuple[str, ImageArray]]
) -> str | None:
    """What turns resized pixels into the tensor ``actual`` [1, ...] rather than ``right``.

    ``bases`` are the pixels [H, W, 3] that it may have been made from, the right ones first, with an empty name.
    """
    spec, facts = reference.model.input, name_facts(reference)
    best: tuple[float, str] | None = None
    for (base, rgb), other_order, other_layout in product(bases, (False, True), (False, True)):
        planar = (spec.layout == "NCHW") != other_layout
        values = actual.reshape(3, -1).T if planar else actual.reshape(-1, 3)
        pixels = rgb[..., ::-1] if other_order != (spec.color_order == "BGR") else rgb
        fit = fit_line(values, pixels.reshape(-1, 3))
        if fit is None or fit[-1] > RESIDUAL:
            continue
        mean, std, residual = fit
        layout = "layout {other_layout} instead of {layout}" if other_layout else ""
        order = "channels in the order {other_order} instead of {order}" if other_order else ""
        normalization = "" if _same(mean, std, spec.mean, spec.std) else _normalization_name(mean, std)
        names = [name.format_map(facts) for name in (base, layout, order, normalization) if name]
        cost = residual + 0.1 * len(names)
        if names and (best is None or cost < best[0]):
            best = cost, ", ".join(names)
    if best is None and spec.type == "uint8" and np.array_equal(actual, right ^ np.uint8(128)):
        return SIGNED
    return best and best[1]


def fit_line(values: Array, pixels: Array) -> tuple[Array, Array, float] | None:
    """values and pixels [P, 3] -> mean [3] and std [3] of ``values = (pixels - mean) / std``, and by how many grey
    levels that is wrong on average; None where no line leads from the one to the other.
    """
    x, y = pixels.astype(np.float64), values.astype(np.float64)
    if not np.isfinite(y).all() or (x.std(axis=0) < 1e-6).any() or (y.std(axis=0) < 1e-9).any():
        return None
    slope = ((x - x.mean(axis=0)) * (y - y.mean(axis=0))).mean(axis=0) / x.var(axis=0)
    if (np.abs(slope) < 1e-9).any():
        return None
    start = y.mean(axis=0) - slope * x.mean(axis=0)
    residual = np.abs(y - (slope * x + start)).mean(axis=0) / np.abs(slope)
    return -start / slope, 1 / slope, float(residual.max())


def _normalization_name(mean: Array, std: Array) -> str:
    table = mistakes.COMMON_NORMALIZATIONS.items()
    common = next((f" ({name})" for name, normalization in table if _same(mean, std, *normalization)), "")
    means, stds = ([round(value, 2) for value in values.tolist()] for values in (mean, std))
    return f"another normalisation: these values are (value - mean) / std with mean {means}, std {stds}{common}"


def _same(mean: Array, std: Array, other_mean: Sequence[float], other_std: Sequence[float]) -> bool:
    """Whether black and white become the same by both, to within one grey level."""
    levels = np.array([[0.0], [255.0]])
    apart = (levels - mean) / std - (levels - other_mean) / np.array(other_std)
    return bool((np.abs(apart) * np.abs(other_std) <= 1).all())


def explain_outputs(
    actual: OutputArrays, right: OutputArrays, reference: Reference, *, known_input: bool = True
) -> str | None:
    """Which change of the ``right`` outputs gives ``actual``, both [1, ...] by meaning."""
    is_nms, facts, found = reference.model.variant == "nms", name_facts(reference), []

    def agree(expected: OutputArrays, given: OutputArrays, known: bool = True) -> bool:
        return compare_outputs(expected, given, reference, known_input=known).passed

    for name, meanings, make in mistakes.OUTPUT_MISTAKES:
        for meaning in meanings:
            given = actual.get(meaning)
            if meaning not in right or given is None or given.shape[:-1] != right[meaning].shape[:-1]:
                continue
            if is_nms and meaning == "scores":  # of detections, not of classes
                continue
            wrong = make(right[meaning], given, reference)
            if wrong is None:
                continue
            if agree({**right, meaning: wrong}, actual, known_input):
                return name.format_map(facts)
            # Mistakes come together: this one may explain the whole of one output that is wrong.
            only = {meaning: given}
            if not is_nms and agree({meaning: wrong}, only) and not agree({meaning: right[meaning]}, only):
                found.append(name.format_map(facts))
    return "; ".join(found[:2]) or None


def explain_input(
    reference: Reference, guesses: Iterable[tuple[str, Array]], wanted: OutputArrays, answered: OutputArrays
) -> str | None:
    """Which of the wrong tensors ``guesses`` the network answers with ``wanted``, or much more like it than
    ``answered``, which is what it says to the right one.
    """

    def apart(tensor: Array) -> float:
        return _outputs_apart(wanted, reference.outputs(tensor))

    found = _nearest(guesses, apart, _outputs_apart(wanted, answered))
    return found and found[0]


def tensor_guesses(tensor: Array, reference: Reference) -> Iterator[tuple[str, Array]]:
    """The usual mistakes in an input tensor [1, ...]."""
    spec, facts = reference.model.input, name_facts(reference)
    axis, shape = (1, (1, 3, 1, 1)) if spec.layout == "NCHW" else (3, (1, 1, 1, 3))
    mean, std = (np.array(values, np.float32).reshape(shape) for values in (spec.mean, spec.std))
    for name, kind, make in mistakes.TENSOR_MISTAKES:
        if kind in ("", spec.type):
            yield name.format_map(facts), np.ascontiguousarray(make(tensor, mean, std, axis))


def explain_mean(reference: Reference, tensor: Array, wanted: OutputArrays) -> str | None:
    """Whether a network that normalises uint8 inside has another mean: for which shift of its input it answers
    ``wanted``.
    """
    if reference.model.input.type != "uint8":
        return None
    key = next(meaning for meaning in ("class_logits", "scores") if meaning in wanted)

    def apart(shift: int) -> float:
        changed = np.clip(tensor.astype(np.int16) + shift, 0, 255).astype(np.uint8)
        answered = reference.outputs(changed).get(key)
        return float("inf") if answered is None else _apart(answered, wanted[key])

    tried = {shift: apart(shift) for shift in range(-96, 97, 16)}
    for step in (8, 4, 2, 1, 0):
        best = min(tried, key=lambda shift: tried[shift])
        tried |= {shift: apart(shift) for shift in (best - step, best + step) if shift not in tried}
    if best == 0 or not tried[best] <= FITS * tried[0] < float("inf"):
        return None
    return f"another mean inside the network: about {abs(best)} grey levels too {'high' if best > 0 else 'low'}"


def explain_detections(
    wanted: Sequence[Detection],
    outputs: OutputArrays,
    reference: Reference,
    size: tuple[int, int],
    threshold: float,
) -> str | None:
    """What leads from the ``outputs`` of a picture of (height, width) to the detections ``wanted`` of at least a score
    rather than to the reference's own.
    """
    right = reference.detections(outputs, size, threshold)
    allowed = box_tolerance(reference.window(size))

    def fits(wrong: Sequence[Detection]) -> bool:
        return compare_detections(wrong, wanted, box=allowed, least_score=threshold).passed

    for name, wrong in _detection_guesses(right, outputs, reference, size, threshold):
        if fits(wrong):
            return name.format_map(name_facts(reference))
    suppressing = {value: _with_settings(reference, nms_threshold=value) for value in mistakes.NMS_THRESHOLDS}
    found = [value for value, other in suppressing.items() if fits(other.detections(outputs, size, threshold))]
    if found:
        return _suppression(found, reference.contract.postprocess.nms_threshold)
    if compare_detections(right, wanted, box=1.0, least_score=threshold).passed:
        return "boxes differ by less than a pixel: rounded to whole pixels, or scaled in whole numbers"
    return None


def _detection_guesses(
    right: Sequence[Detection],
    outputs: OutputArrays,
    reference: Reference,
    size: tuple[int, int],
    threshold: float,
) -> Iterator[tuple[str, list[Detection]]]:
    names = reference.contract.class_names
    for shift, (name, label, named) in product((1, -1), mistakes.LABEL_MISTAKES):
        places = [
            {"own": one.label, "next": one.label + shift, "kept": min(max(one.label + shift, 0), len(names) - 1)}
            for one in right
        ]
        yield (
            name.replace("{shift:+d}", f"{shift:+d}"),
            [
                one._replace(label=place[label], name=names[place[named] % len(names)])
                for one, place in zip(right, places, strict=True)
            ],
        )
    boxes = _boxes(right, reference, size)
    for name, order in mistakes.BOX_ORDERS.items():
        yield name, _moved(right, order(boxes.picture))
    for name, place in mistakes.PLACE_MISTAKES.items():
        yield name, _moved(right, place(boxes))
        yield f"{name} (clipped to the picture)", _moved(right, place(boxes).clip(0, boxes.picture_sides))
    for name, changes in mistakes.SETTING_MISTAKES.items():
        yield name, _with_settings(reference, **changes).detections(outputs, size, threshold)
    for name, meaning, read in mistakes.READING_MISTAKES:
        if meaning in outputs:
            yield name, reference.detections({**outputs, meaning: read(outputs[meaning])}, size, threshold)


def _suppression(thresholds: Sequence[float], stated: float) -> str:
    """Of a few objects, several thresholds leave the same."""
    values = [value for value in thresholds if value != mistakes.NO_SUPPRESSION]
    if not values:
        return "no non-maximum suppression"
    which = f"{values[0]:g}" if len(values) == 1 else f"one of {values[0]:g} to {values[-1]:g}"
    none = ", or none," if len(values) < len(thresholds) else ""
    return f"non-maximum suppression at {which}{none} instead of {stated:g}"


def _with_settings(reference: Reference, **changes: Any) -> Reference:
    contract = replace(reference.contract, postprocess=replace(reference.contract.postprocess, **changes))
    return Reference(contract, reference.model, reference.backend)


def _boxes(right: Sequence[Detection], reference: Reference, size: tuple[int, int]) -> Boxes:
    window = reference.window(size)
    other = fit_window(size, window.size, OTHER[reference.contract.resize.mode])
    own = np.array([one.box for one in right], np.float32).reshape(-1, 4)
    inside = window.boxes_to_input(own)
    sides = np.array([size[1], size[0]] * 2, np.float32)
    return Boxes(own, sides, inside, reference.sides, other.boxes_to_source(inside))


def _moved(right: Sequence[Detection], boxes: Array) -> list[Detection]:
    return [one._replace(box=tuple(box)) for one, box in zip(right, boxes.tolist(), strict=True)]


def explain_size(size: int, image: GoldenImage, model: ModelSpec, step: Step) -> str | None:
    """Why a file of a dump has not the size that it should have, where its bytes are those of a usual mistake."""
    spec = model.input
    pixels = image.height * image.width if step == "picture" else spec.height * spec.width
    if step == "outputs":
        if model.variant == "nms":
            return None
        _, anchors, columns = (side or 0 for side in model.outputs[0].shape)
        return {
            4 * anchors * (columns + 1): f"{columns + 1} columns instead of {columns}: background not removed",
            4
            * anchors
            * (columns - 1): f"{columns - 1} columns instead of {columns}: background, column 0, is missing",
        }.get(size)
    if step == "detections":
        return None
    plane = 4 * pixels if step == "input" and spec.type == "float32" else pixels  # bytes of one channel
    known = {
        plane: "one channel (grey) instead of three",
        4 * plane: "four channels (RGBA) instead of three",
        12 * plane: "float32 instead of uint8",
        16 * plane: "four channels (RGBA) of float32 instead of three of uint8",
    }
    if step == "input" and spec.type == "uint8":
        known[12 * pixels] = "the tensor holds float32; this model takes uint8 and normalises inside"
    elif step == "input":
        known[3 * pixels] = "the tensor holds uint8; this model takes float32, normalised by the app"
    return known.get(size)


def _nearest(
    guesses: Iterable[tuple[str, Array]], distance: Callable[[Array], float], unexplained: float
) -> tuple[str, float] | None:
    """The guess with the least distance (the first of equal ones), if it leaves little of what is ``unexplained``."""
    name, least = min(((name, distance(value)) for name, value in guesses), key=lambda guess: guess[1])
    return (name, least) if least <= FITS * unexplained < float("inf") else None


def _apart(one: Array, other: Array) -> float:
    """Mean difference; infinite between different shapes."""
    if one.shape != other.shape:
        return float("inf")
    return float(np.abs(one.astype(np.float64) - other.astype(np.float64)).mean())


def _outputs_apart(one: OutputArrays, other: OutputArrays) -> float:
    """Mean difference of all numbers that two sets of outputs share, each output in units of its largest."""
    shared = [meaning for meaning in one if meaning in other and meaning not in ("labels", "count")]
    scales = {meaning: max(float(np.abs(one[meaning]).max(initial=0)), 1e-6) for meaning in shared}
    return sum(_apart(one[meaning], other[meaning]) / scales[meaning] for meaning in shared)
