"""Why a resized picture or an input tensor differs from the golden one: the usual mistakes, tried one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from ssdlite.export.verify.agreement import box_tolerance, compare_detections, compare_outputs
from ssdlite.export.verify.golden import Reference
from ssdlite.export.verify.vectors import GoldenDetection, GoldenImage
from ssdlite.images.geometry import ImageArray, Resize, fit_window
from ssdlite.runtime.contract import Contract, InputSpec, ModelSpec, ResizeSpec

Array = npt.NDArray[Any]
Resample = Callable[[ImageArray, int, int], ImageArray]

FITS = 0.25  # of the difference that is to be explained: a guess that leaves more than this is none
RESIDUAL = 1.5  # grey levels, on average, that a line through the values may leave
COMMON_NORMALISATIONS = {
    "values 0..255": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "values 0..1": ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
    "values -1..1": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "values -0.5..0.5": ((127.5, 127.5, 127.5), (255.0, 255.0, 255.0)),
    "ImageNet's mean and std": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
}


class Guess(NamedTuple):
    """A mistake, and what the right picture becomes by it: uint8 [H, W, 3]."""

    name: str
    pixels: ImageArray


def explain_resized(actual: ImageArray, expected: ImageArray, rgb: ImageArray, spec: ResizeSpec) -> str | None:
    """Which mistake turns the picture ``rgb`` into ``actual`` rather than ``expected``, both [H, W, 3]."""
    limit = FITS * _apart(actual, expected)
    guesses = [(_apart(actual, guess.pixels), guess.name) for guess in resize_guesses(rgb, expected.shape[:2], spec)]
    difference, name = min(guesses)
    return f"{name} (differs then by {difference:.2g} on average)" if difference <= limit else None


def explain_picture(actual: ImageArray, expected: ImageArray) -> str | None:
    """Which mistake in decoding turned the picture ``expected`` into ``actual``, both [height, width, 3]."""
    found = [guess.name for guess in [Guess(BGR, expected[..., ::-1]), *_turns(expected)]]
    pixels = [expected[..., ::-1], *(guess.pixels for guess in _turns(expected))]
    limit = FITS * _apart(actual, expected)
    return next(
        (
            name
            for name, own in zip(found, pixels, strict=True)
            if own.shape == actual.shape and _apart(actual, own) <= limit
        ),
        None,
    )


def explain_tensor(actual: Array, expected: Array, spec: InputSpec, bases: list[Guess]) -> str | None:
    """What turns resized pixels into the tensor ``actual`` [1, ...] rather than ``expected``.

    ``bases`` are the pixels that it may have been made from, the right ones first, with an empty name.
    """
    best: tuple[float, str] | None = None
    for base, as_bgr, other_layout in product(bases, (False, True), (False, True)):
        planes = _planes(actual, spec, other_layout)
        pixels = base.pixels[..., ::-1] if as_bgr != (spec.color_order == "BGR") else base.pixels
        fit = fit_line(planes, pixels.reshape(-1, 3).astype(np.float64))
        if fit is None or fit.residual > RESIDUAL:
            continue
        names = [base.name, _layout_name(spec) if other_layout else "", _order_name(spec) if as_bgr else ""]
        names.append(_normalisation_name(fit, spec))
        text = ", ".join(name for name in names if name)
        cost = fit.residual + 0.1 * sum(1 for name in names if name)
        if text and (best is None or cost < best[0]):
            best = cost, text
    if best is None and spec.type == "uint8" and np.array_equal(actual, expected ^ np.uint8(128)):
        return "signed bytes (value - 128) in place of 0..255"
    return best[1] if best else None


class LineFit(NamedTuple):
    """``values = (pixels - mean) / std`` per channel; ``residual`` is the mean difference in grey levels."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    residual: float


def fit_line(values: Array, pixels: Array) -> LineFit | None:
    """values and pixels [P, 3] -> the normalisation that leads from the pixels to the values; None where none does."""
    means, stds, residuals = [], [], []
    for channel in range(3):
        x, y = pixels[:, channel], values[:, channel].astype(np.float64)
        if not np.isfinite(y).all() or x.std() < 1e-6 or y.std() < 1e-9:
            return None
        slope = float(((x - x.mean()) * (y - y.mean())).mean() / x.var())
        if abs(slope) < 1e-9:
            return None
        start = float(y.mean() - slope * x.mean())
        means.append(-start / slope)
        stds.append(1 / slope)
        residuals.append(float(np.abs(y - (slope * x + start)).mean() / abs(slope)))
    return LineFit(tuple(means), tuple(stds), max(residuals))


BGR = "channels in the order BGR instead of RGB"


def resize_guesses(rgb: ImageArray, size: tuple[int, ...], spec: ResizeSpec) -> Iterator[Guess]:
    """What the usual mistakes make of a picture at ``size`` (height, width); each also with swapped channels."""
    for guess in _resize_guesses(rgb, (size[0], size[1]), spec):
        if guess.name:
            yield guess
        yield Guess(f"{guess.name}, {BGR}" if guess.name else BGR, np.ascontiguousarray(guess.pixels[..., ::-1]))


def _resize_guesses(rgb: ImageArray, size: tuple[int, int], spec: ResizeSpec) -> Iterator[Guess]:
    other: Resize = "letterbox" if spec.mode == "stretch" else "stretch"
    yield Guess("", _frame(rgb, size, spec.mode, spec.padding_value, _linear))
    for name, resample in RESAMPLES.items():
        yield Guess(name, _frame(rgb, size, spec.mode, spec.padding_value, resample))
    yield Guess(f"{other} instead of {spec.mode}", _frame(rgb, size, other, spec.padding_value, _linear))
    if spec.mode == "letterbox":
        for padding in (0, 128, 255):
            yield Guess(
                f"padding {padding} instead of {spec.padding_value}", _frame(rgb, size, spec.mode, padding, _linear)
            )
        yield Guess("letterbox in the top left corner instead of centred", _top_left(rgb, size, spec.padding_value))
    else:
        yield Guess("letterbox with black padding instead of stretch", _frame(rgb, size, other, 0, _linear))
    yield Guess("a centre crop instead of the whole picture", _centre_crop(rgb, size))
    for turn in _turns(rgb):
        yield Guess(turn.name, _frame(turn.pixels, size, spec.mode, spec.padding_value, _linear))


def _frame(rgb: ImageArray, size: tuple[int, int], mode: Resize, padding: int, resample: Resample) -> ImageArray:
    """As ``CropWindow.render``, with another way to resize."""
    window = fit_window((rgb.shape[0], rgb.shape[1]), size, mode)
    scale_x, scale_y = window.scale
    left, right = round(-window.x0 * scale_x), round((rgb.shape[1] - window.x0) * scale_x)
    top, bottom = round(-window.y0 * scale_y), round((rgb.shape[0] - window.y0) * scale_y)
    canvas = np.full((*size, 3), padding, np.uint8)
    if right > left and bottom > top:
        canvas[top:bottom, left:right] = resample(rgb, bottom - top, right - left)
    return canvas


def _top_left(rgb: ImageArray, size: tuple[int, int], padding: int) -> ImageArray:
    scale = min(size[0] / rgb.shape[0], size[1] / rgb.shape[1])
    height, width = (min(max(round(side * scale), 1), limit) for side, limit in zip(rgb.shape[:2], size, strict=True))
    canvas = np.full((*size, 3), padding, np.uint8)
    canvas[:height, :width] = _linear(rgb, height, width)
    return canvas


def _centre_crop(rgb: ImageArray, size: tuple[int, int]) -> ImageArray:
    scale = min(rgb.shape[0] / size[0], rgb.shape[1] / size[1])
    height, width = max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)
    top, left = (rgb.shape[0] - height) // 2, (rgb.shape[1] - width) // 2
    return _linear(rgb[top : top + height, left : left + width], *size)


def _turns(rgb: ImageArray) -> list[Guess]:
    turned = [
        Guess(f"turned by {90 * count} degrees", np.ascontiguousarray(np.rot90(rgb, count))) for count in (1, 2, 3)
    ]
    return [*turned, Guess("mirrored", np.ascontiguousarray(rgb[:, ::-1])), Guess("upside down", rgb[::-1].copy())]


def _opencv(interpolation: int) -> Resample:
    return lambda rgb, height, width: np.asarray(
        cv2.resize(rgb, (width, height), interpolation=interpolation), np.uint8
    )


def _pillow(rgb: ImageArray, height: int, width: int) -> ImageArray:
    return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BILINEAR), np.uint8)


def _positions(mapping: Callable[[Array, int, int], Array]) -> Resample:
    """Bilinear, with source positions from ``mapping(target positions, source side, target side)``."""

    def resample(rgb: ImageArray, height: int, width: int) -> ImageArray:
        x = mapping(np.arange(width), rgb.shape[1], width).clip(0, rgb.shape[1] - 1).astype(np.float32)
        y = mapping(np.arange(height), rgb.shape[0], height).clip(0, rgb.shape[0] - 1).astype(np.float32)
        grid = np.meshgrid(x, y)
        return np.asarray(cv2.remap(rgb, *grid, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.uint8)

    return resample


_linear = _opencv(cv2.INTER_LINEAR)
RESAMPLES: dict[str, Resample] = {
    "smoothed while shrinking (antialias, as Pillow's BILINEAR)": _pillow,
    "smoothed while shrinking (antialias, as OpenCV's INTER_AREA)": _opencv(cv2.INTER_AREA),
    "corners of the pictures aligned (align_corners)": _positions(
        lambda i, source, target: i * (source - 1) / max(target - 1, 1)
    ),
    "no half-pixel centres": _positions(lambda i, source, target: i * source / target),
    "nearest pixel instead of bilinear": _opencv(cv2.INTER_NEAREST),
    "bicubic instead of bilinear": _opencv(cv2.INTER_CUBIC),
}


def _apart(one: Array, other: Array) -> float:
    if one.shape != other.shape:
        return float("inf")
    return float(np.abs(one.astype(np.float64) - other.astype(np.float64)).mean())


def _planes(tensor: Array, spec: InputSpec, other_layout: bool) -> Array:
    """A tensor [1, ...] read in the contract's layout, or the same numbers in the other one -> [P, 3]."""
    if (spec.layout == "NCHW") != other_layout:
        return np.asarray(tensor.reshape(3, -1).T)
    return np.asarray(tensor.reshape(-1, 3))


def _layout_name(spec: InputSpec) -> str:
    other = "NHWC" if spec.layout == "NCHW" else "NCHW"
    return f"layout {other} instead of {spec.layout}"


def _order_name(spec: InputSpec) -> str:
    return BGR if spec.color_order == "RGB" else "channels in the order RGB instead of BGR"


def _normalisation_name(fit: LineFit, spec: InputSpec) -> str:
    """Empty where it is the contract's, to about one grey level."""
    if _same(fit, spec.mean, spec.std):
        return ""
    common = next((name for name, (mean, std) in COMMON_NORMALISATIONS.items() if _same(fit, mean, std)), None)
    mean, std = ([round(value, 2) for value in values] for values in (fit.mean, fit.std))
    text = f"another normalisation: these values are (value - mean) / std with mean {mean}, std {std}"
    return text + (f" ({common})" if common else "")


def _same(fit: LineFit, mean: tuple[float, ...], std: tuple[float, ...]) -> bool:
    """Whether black and white become the same by both, to within one grey level."""
    pairs = zip(fit.mean, fit.std, mean, std, strict=True)
    return all(abs((level - m) / s - (level - n) / t) * abs(t) <= 1 for m, s, n, t in pairs for level in (0, 255))


# --- Why outputs of a network differ from the golden ones: the usual mistakes, tried one by one.

Outputs = Mapping[str, Array]

BOX_ORDERS: dict[str, Callable[[Array], Array]] = {
    "boxes in the order y0, x0, y1, x1 instead of x0, y0, x1, y1": lambda b: b[..., [1, 0, 3, 2]],
    "boxes as x, y, width, height instead of corners": lambda b: np.concatenate(
        [b[..., :2], b[..., 2:] - b[..., :2]], -1
    ),
    "boxes as centre and size instead of corners": lambda b: np.concatenate(
        [(b[..., :2] + b[..., 2:]) / 2, b[..., 2:] - b[..., :2]], -1
    ),
    "x0 and x1, y0 and y1 swapped": lambda b: b[..., [2, 3, 0, 1]],
}
SPREAD = 0.02  # of logits, by which "the same but for a constant" may be missed


def explain_outputs(
    actual: Outputs, golden: Outputs, contract: Contract, model: ModelSpec, *, known_input: bool = True
) -> str | None:
    """What was done to the outputs: which change of the golden ones gives ``actual``, both [1, ...] by meaning."""
    found = []
    for name, changed in output_guesses(golden, actual, contract, model):
        if compare_outputs(changed, actual, contract, model, known_input=known_input).passed:
            return name
        if _fewer_fail(changed, actual, golden, contract, model):
            found.append(name)
    return "; ".join(found[:2]) or None


def explain_input(
    run: Callable[[Array], Outputs], guesses: Iterable[tuple[str, Array]], wanted: Outputs, answered: Outputs
) -> str | None:
    """What was done to the input: which of the ``guesses`` the network answers with ``wanted``, or much more like it
    than ``answered``, which is what it says to the right input.
    """
    limit = FITS * _distance(wanted, answered)
    distances = [(_distance(wanted, run(tensor)), name) for name, tensor in guesses]
    closest, name = min(distances)
    return name if closest <= limit else None


def _distance(one: Outputs, other: Outputs) -> float:
    """Mean difference of all numbers that two sets of outputs share, each output in units of its largest."""
    total = 0.0
    for meaning in one:
        if meaning in ("labels", "count") or meaning not in other:
            continue
        if one[meaning].shape != other[meaning].shape:
            return float("inf")
        scale = max(float(np.abs(one[meaning]).max(initial=0)), 1e-6)
        total += float(np.abs(one[meaning].astype(np.float64) - other[meaning]).mean()) / scale
    return total


def tensor_guesses(tensor: Array, model: ModelSpec) -> Iterator[tuple[str, Array]]:
    """The usual mistakes in an input tensor [1, ...]."""
    spec = model.input
    axis = 1 if spec.layout == "NCHW" else 3
    yield BGR, np.ascontiguousarray(np.flip(tensor, axis))
    other = (1, spec.height, spec.width, 3) if spec.layout == "NCHW" else (1, 3, spec.height, spec.width)
    moved = np.moveaxis(tensor, axis, 3 if axis == 1 else 1)
    yield (
        f"layout {'NHWC' if axis == 1 else 'NCHW'} instead of {spec.layout}",
        np.ascontiguousarray(moved.reshape(other)).reshape(tensor.shape),
    )
    if spec.type == "uint8":
        yield "signed bytes (value - 128) in place of 0..255", tensor ^ np.uint8(128)
        return
    shape = (1, 3, 1, 1) if axis == 1 else (1, 1, 1, 3)
    mean, std = (np.array(values, np.float32).reshape(shape) for values in (spec.mean, spec.std))
    pixels = tensor * std + mean
    for text, m, s in (
        ("not normalised: values 0..255", 0, 1),
        ("values 0..1", 0, 255),
        ("values -1..1", 127.5, 127.5),
    ):
        yield f"another normalisation: {text}", np.asarray((pixels - m) / s, np.float32)
    yield "normalised twice", np.asarray((tensor - mean) / std, np.float32)


def output_guesses(
    golden: Outputs, actual: Outputs, contract: Contract, model: ModelSpec
) -> Iterator[tuple[str, dict[str, Array]]]:
    """What the usual mistakes make of golden outputs; some read the constant that they need from ``actual``."""
    plain = dict(golden)
    if "boxes" in golden:
        for name, change in BOX_ORDERS.items():
            yield name, plain | {"boxes": change(golden["boxes"])}
        size = np.array([model.input.width, model.input.height] * 2, np.float32)
        pixels = contract.boxes.scale == "pixels"
        text = "boxes as fractions instead of pixels" if pixels else "boxes in pixels of the input instead of fractions"
        yield text, plain | {"boxes": golden["boxes"] / size if pixels else golden["boxes"] * size}
    if "box_deltas" in golden:
        yield (
            "box deltas in the order y, x, height, width",
            plain | {"box_deltas": golden["box_deltas"][..., [1, 0, 3, 2]]},
        )
    if model.variant == "nms":
        yield from _label_guesses(plain)
        return
    key = "class_logits" if model.variant == "raw" else "scores"
    yield from _class_guesses(plain, key, actual.get(key), contract)


def _label_guesses(golden: dict[str, Array]) -> Iterator[tuple[str, dict[str, Array]]]:
    taken = golden["labels"] >= 0
    for shift in (1, -1):
        shifted = np.where(taken, golden["labels"] + shift, golden["labels"])
        yield f"labels off by one ({shift:+d})", golden | {"labels": shifted}


def _class_guesses(
    golden: dict[str, Array], key: str, actual: Array | None, contract: Contract
) -> Iterator[tuple[str, dict[str, Array]]]:
    values, function = golden[key], contract.postprocess.score_function
    if actual is None:
        return
    for shift in (1, -1) if actual.shape == values.shape and values.shape[-1] > 1 else ():
        moved = np.roll(values, shift, -1)
        moved[..., min(shift, 0)] = actual[..., min(shift, 0)]  # nothing is known of the column that came in
        yield f"labels off by one ({shift:+d}): class k stands in column k{shift:+d}", golden | {key: moved}
    if actual.shape[-1] == values.shape[-1] + 1:
        yield "background not removed: it stands in column 0", golden | {key: _with_background(values, actual)}
    if actual.shape != values.shape:
        return
    if key == "class_logits":
        yield "softmax has been applied to the logits", golden | {key: _softmax(values)}
        yield "sigmoid has been applied to the logits", golden | {key: 1 / (1 + np.exp(-values))}
        return
    to_logit = (_log, _logit) if function == "softmax" else (_logit, _log)
    gap = to_logit[1](actual) - to_logit[0](values)
    clear = (values > 1e-4) & (values < 0.999) & (actual > 1e-4) & (actual < 0.999)
    # Only scores far from 0 tell the two functions apart; unchanged ones must fit much worse.
    rows = clear.all(axis=-1) & (values.max(axis=-1) > 0.2)
    unchanged = to_logit[0](actual) - to_logit[0](values)
    if values.shape[-1] > 1 and rows.any():
        spread = float(np.median(gap[rows].std(axis=-1)))
        if spread < SPREAD and 3 * spread < float(np.median(unchanged[rows].std(axis=-1))):
            other = "sigmoid" if function == "softmax" else "softmax"
            yield f"{other} instead of {function}", golden | {key: actual}


def explain_mean(run: Callable[[Array], Outputs], tensor: Array, golden: Outputs, model: ModelSpec) -> str | None:
    """Whether a network that normalises uint8 inside has another mean: for which shift of its input it answers
    ``golden``.
    """
    if model.input.type != "uint8":
        return None
    key = next(meaning for meaning in ("class_logits", "scores") if meaning in golden)

    def apart(shift: int) -> float:
        changed = np.clip(tensor.astype(np.int16) + shift, 0, 255).astype(np.uint8)
        answered = run(changed).get(key)
        if answered is None or answered.shape != golden[key].shape:
            return float("inf")
        return float(np.abs(answered - golden[key]).mean())

    tried = {shift: apart(shift) for shift in range(-96, 97, 16)}
    for step in (8, 4, 2, 1):
        best = min(tried, key=lambda shift: tried[shift])
        tried |= {shift: apart(shift) for shift in (best - step, best + step)}
    best = min(tried, key=lambda shift: tried[shift])
    if best == 0 or not tried[best] <= FITS * tried[0]:
        return None
    return f"another mean inside the network: about {abs(best)} grey levels too {'high' if best > 0 else 'low'}"


def _fewer_fail(changed: Outputs, actual: Outputs, golden: Outputs, contract: Contract, model: ModelSpec) -> bool:
    """Whether a change explains one output wholly that nothing else explains, for mistakes that come together."""
    if model.variant == "nms":
        return False
    for meaning, value in changed.items():
        if value is golden[meaning] or meaning not in actual:
            continue
        one = {meaning: value}
        if compare_outputs(one, {meaning: actual[meaning]}, contract, model).passed:
            return not compare_outputs({meaning: golden[meaning]}, {meaning: actual[meaning]}, contract, model).passed
    return False


def _with_background(values: Array, actual: Array) -> Array:
    return np.concatenate([actual[..., :1], values], axis=-1)


def _softmax(values: Array) -> Array:
    powers: Array = np.exp(values - values.max(axis=-1, keepdims=True))
    shares: Array = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def _log(values: Array) -> Array:
    logarithms: Array = np.log(values.astype(np.float64).clip(1e-12))
    return logarithms


def _logit(values: Array) -> Array:
    clipped = values.astype(np.float64).clip(1e-12, 1 - 1e-12)
    logits: Array = np.log(clipped) - np.log1p(-clipped)
    return logits


# --- Why final detections differ from the golden ones: the usual mistakes, tried one by one.


def explain_detections(
    wanted: Sequence[GoldenDetection],
    outputs: Outputs,
    reference: Reference,
    image: GoldenImage,
    score_threshold: float,
) -> str | None:
    """What leads from the golden ``outputs`` to the detections ``wanted`` rather than to the reference's own."""
    size = (image.height, image.width)
    allowed = box_tolerance(reference.window(size))
    for name, found in _detection_guesses(outputs, reference, image, score_threshold):
        if compare_detections(found, wanted, box=allowed, least_score=score_threshold).passed:
            return name
    own = reference.detections(outputs, size, score_threshold)
    if compare_detections(own, wanted, box=1.0, least_score=score_threshold).passed:
        return "boxes differ by less than a pixel: rounded to whole pixels, or scaled in whole numbers"
    return None


def _detection_guesses(
    outputs: Outputs, reference: Reference, image: GoldenImage, threshold: float
) -> Iterator[tuple[str, list[GoldenDetection]]]:
    own = reference.detections(outputs, (image.height, image.width), threshold)
    names = reference.contract.class_names
    for shift in (1, -1):
        yield f"labels off by one ({shift:+d})", [_shifted(one, shift, names, True, True) for one in own]
        for name, shifted in _careful_shifts(own, shift, names):
            yield f"labels off by one ({shift:+d}), {name}", shifted
        yield f"labels off by one ({shift:+d}), names right", [_shifted(one, shift, names, True, False) for one in own]
        yield f"names off by one ({shift:+d}), labels right", [_shifted(one, shift, names, False, True) for one in own]
    for name, change in BOX_ORDERS.items():
        yield name, _with_boxes(own, change(_boxes(own)))
        if "boxes" in outputs:
            yield (
                f"{name}, in the outputs",
                _try(reference, dict(outputs) | {"boxes": change(outputs["boxes"])}, image, threshold),
            )
    yield from _scale_guesses(own, reference, image)
    yield from _contract_guesses(outputs, reference, image, threshold)


def _scale_guesses(
    own: list[GoldenDetection], reference: Reference, image: GoldenImage
) -> Iterator[tuple[str, list[GoldenDetection]]]:
    """Boxes that were not brought back to the picture, or in the wrong way."""
    window = reference.window((image.height, image.width))
    height, width = window.size
    side = np.array([image.width, image.height] * 2, np.float32)
    boxes = _boxes(own)
    inside = window.boxes_to_input(boxes)
    mode = reference.contract.resize.mode
    other = "letterbox" if mode == "stretch" else "stretch"
    for name, changed in (
        ("boxes in pixels of the input, not of the picture", inside),
        ("boxes as fractions of the input", inside / np.array([width, height] * 2, np.float32)),
        ("boxes as fractions of the picture", boxes / side),
        (f"boxes scaled back as for {other} instead of {mode}", _other_way_back(inside, reference, image)),
        ("boxes scaled with height and width swapped", boxes / side * side[[1, 0, 3, 2]]),
    ):
        yield name, _with_boxes(own, changed)
        yield f"{name} (clipped to the picture)", _with_boxes(own, changed.clip(0, side))


def _contract_guesses(
    outputs: Outputs, reference: Reference, image: GoldenImage, threshold: float
) -> Iterator[tuple[str, list[GoldenDetection]]]:
    """Other post-processing of the same outputs."""
    model, spec = reference.model, reference.contract.postprocess
    if model.variant == "nms":
        return
    changes: dict[str, Any] = {
        "no non-maximum suppression": replace(spec, nms_threshold=1.0),
    }
    for value in (0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7):
        changes[f"non-maximum suppression at {value} instead of {spec.nms_threshold}"] = replace(
            spec, nms_threshold=value
        )
    if model.variant == "raw":
        other: Literal["softmax", "sigmoid"] = "sigmoid" if spec.score_function == "softmax" else "softmax"
        changes[f"{other} instead of {spec.score_function}"] = replace(spec, score_function=other)
    for name, changed in changes.items():
        contract = replace(reference.contract, postprocess=changed)
        yield name, _try(Reference(contract, model, reference.backend), outputs, image, threshold)
    if model.variant == "raw":
        shifted = dict(outputs) | {"class_logits": np.roll(outputs["class_logits"], 1, -1)}
        yield "background not removed: class 0 read from column 0", _try(reference, shifted, image, threshold)
        swapped = dict(outputs) | {"box_deltas": outputs["box_deltas"][..., [1, 0, 3, 2]]}
        yield "box deltas read in the order y, x, height, width", _try(reference, swapped, image, threshold)


def _try(reference: Reference, outputs: Outputs, image: GoldenImage, threshold: float) -> list[GoldenDetection]:
    return reference.detections(outputs, (image.height, image.width), threshold)


def _shifted(one: GoldenDetection, shift: int, names: Sequence[str], label: bool, name: bool) -> GoldenDetection:
    place = one.label + shift
    shown = names[place % len(names)] if name else one.name
    return replace(one, label=place if label else one.label, name=shown)


def _careful_shifts(
    own: list[GoldenDetection], shift: int, names: Sequence[str]
) -> Iterator[tuple[str, list[GoldenDetection]]]:
    """Labels beyond the classes, as apps avoid them."""
    last = len(names) - 1
    clamped = [min(max(one.label + shift, 0), last) for one in own]
    yield (
        "kept within the classes",
        [replace(one, label=place, name=names[place]) for one, place in zip(own, clamped, strict=True)],
    )
    yield (
        "their names kept within the classes",
        [replace(one, label=one.label + shift, name=names[place]) for one, place in zip(own, clamped, strict=True)],
    )


def _with_boxes(own: list[GoldenDetection], boxes: Array) -> list[GoldenDetection]:
    changed = ((one, values) for one, values in zip(own, boxes.tolist(), strict=True))
    return [replace(one, box=(box[0], box[1], box[2], box[3])) for one, box in changed]


def _boxes(own: list[GoldenDetection]) -> npt.NDArray[np.float32]:
    """[N, 4]"""
    return np.array([one.box for one in own], np.float32).reshape(-1, 4)


def _other_way_back(boxes: Array, reference: Reference, image: GoldenImage) -> Array:
    resize = reference.contract.resize
    other = replace(resize, mode="letterbox" if resize.mode == "stretch" else "stretch")
    contract = replace(reference.contract, resize=other)
    window = Reference(contract, reference.model, reference.backend).window((image.height, image.width))
    return window.boxes_to_source(boxes)
