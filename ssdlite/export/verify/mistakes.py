"""The usual mistakes of apps and exports, a row each: what it is called, and what it makes of the right result.

``explain`` tries the rows of a table one by one. A name may hold facts of the contract in braces (``name_facts``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from ssdlite.export.verify.golden import Reference
from ssdlite.images.geometry import CropWindow, ImageArray, Size, fit_window, resize_bilinear
from ssdlite.runtime.backends.base import Array

BGR = "channels in the order BGR instead of RGB"
PAIRS = (("stretch", "letterbox"), ("RGB", "BGR"), ("NCHW", "NHWC"), ("softmax", "sigmoid"))
OTHER: dict[str, Any] = {one: other for pair in PAIRS for one, other in (pair, pair[::-1])}


def name_facts(reference: Reference) -> dict[str, object]:
    """What the names of mistakes may mention: facts of the contract, and what they are mistaken for."""
    contract, spec = reference.contract, reference.model.input
    function = contract.postprocess.score_function
    facts = {"mode": contract.resize.mode, "order": spec.color_order, "layout": spec.layout, "function": function}
    others = {f"other_{name}": OTHER[value] for name, value in facts.items()}
    return {**facts, **others, "padding": contract.resize.padding_value, "nms": contract.postprocess.nms_threshold}


# --- A picture [height, width, 3] wrongly decoded, and a right one wrongly brought to the input's size.

Turn = Callable[[ImageArray], ImageArray]
TURNS: dict[str, Turn] = {
    "turned by 90 degrees": lambda rgb: np.rot90(rgb, 1),
    "turned by 180 degrees": lambda rgb: np.rot90(rgb, 2),
    "turned by 270 degrees": lambda rgb: np.rot90(rgb, 3),
    "mirrored": lambda rgb: rgb[:, ::-1],
    "upside down": lambda rgb: rgb[::-1],
}
PICTURE_MISTAKES: dict[str, Turn] = {BGR: lambda rgb: rgb[..., ::-1], **TURNS}


def _opencv(interpolation: int, rgb: ImageArray, height: int, width: int) -> ImageArray:
    return np.asarray(cv2.resize(rgb, (width, height), interpolation=interpolation), np.uint8)


def _pillow(rgb: ImageArray, height: int, width: int) -> ImageArray:
    return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BILINEAR), np.uint8)


def _positions(mapping: Callable[[Array, int, int], Array], rgb: ImageArray, height: int, width: int) -> ImageArray:
    """Bilinear, with source positions from ``mapping(target positions, source side, target side)``."""
    x = mapping(np.arange(width), rgb.shape[1], width).clip(0, rgb.shape[1] - 1).astype(np.float32)
    y = mapping(np.arange(height), rgb.shape[0], height).clip(0, rgb.shape[0] - 1).astype(np.float32)
    grid = np.meshgrid(x, y)
    return np.asarray(cv2.remap(rgb, *grid, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.uint8)


_aligned = partial(_positions, lambda i, source, target: i * (source - 1) / max(target - 1, 1))
_without_half = partial(_positions, lambda i, source, target: i * source / target)


def _corner(picture: Size, size: Size) -> CropWindow:
    height, width = fit_window(picture, size, "letterbox").span
    return CropWindow(0, 0, width, height, size)


def _center(picture: Size, size: Size) -> CropWindow:
    scale = min(picture[0] / size[0], picture[1] / size[1])
    height, width = max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)
    top, left = (picture[0] - height) // 2, (picture[1] - width) // 2
    return CropWindow(left, top, left + width, top + height, size)


class ResizeMistake(NamedTuple):
    """One step that is not the contract's, in contracts of ``mode`` alone or in any."""

    name: str
    mode: str = ""
    turn: Turn = np.ascontiguousarray
    window: Callable[[Size, Size], CropWindow] | None = None  # picture's and input's (height, width) -> what is shown
    padding: int | None = None
    resize: Callable[[ImageArray, int, int], ImageArray] = resize_bilinear  # picture, height, width


RESIZE_MISTAKES = (
    ResizeMistake("smoothed while shrinking (antialias, as Pillow's BILINEAR)", resize=_pillow),
    ResizeMistake(
        "smoothed while shrinking (antialias, as OpenCV's INTER_AREA)", resize=partial(_opencv, cv2.INTER_AREA)
    ),
    ResizeMistake("corners of the pictures aligned (align_corners)", resize=_aligned),
    ResizeMistake("no half-pixel centres", resize=_without_half),
    ResizeMistake("nearest pixel instead of bilinear", resize=partial(_opencv, cv2.INTER_NEAREST)),
    ResizeMistake("bicubic instead of bilinear", resize=partial(_opencv, cv2.INTER_CUBIC)),
    ResizeMistake("letterbox instead of stretch", "stretch", window=partial(fit_window, resize="letterbox")),
    ResizeMistake("stretch instead of letterbox", "letterbox", window=partial(fit_window, resize="stretch")),
    ResizeMistake("padding 0 instead of {padding}", "letterbox", padding=0),
    ResizeMistake("padding 128 instead of {padding}", "letterbox", padding=128),
    ResizeMistake("padding 255 instead of {padding}", "letterbox", padding=255),
    ResizeMistake("letterbox in the top left corner instead of centred", "letterbox", window=_corner),
    ResizeMistake(
        "letterbox with black padding instead of stretch",
        "stretch",
        window=partial(fit_window, resize="letterbox"),
        padding=0,
    ),
    ResizeMistake("a centre crop instead of the whole picture", window=_center),
    *(ResizeMistake(name, turn=turn) for name, turn in TURNS.items()),
)

# --- An input tensor [1, ...].

COMMON_NORMALIZATIONS = {
    "values 0..255": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "values 0..1": ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
    "values -1..1": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "values -0.5..0.5": ((127.5, 127.5, 127.5), (255.0, 255.0, 255.0)),
    "ImageNet's mean and std": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
}


SIGNED = "signed bytes (value - 128) in place of 0..255"
# Name, the type of the tensors that it is a mistake in (empty: any), and what it makes of the right tensor, of mean and
# std as arrays that fit it, and of the axis of the channels.
TensorMistake = tuple[str, str, Callable[[Array, Array, Array, int], Array]]
TENSOR_MISTAKES: tuple[TensorMistake, ...] = (
    (BGR, "", lambda t, mean, std, axis: np.flip(t, axis)),
    ("layout {other_layout} instead of {layout}", "", lambda t, mean, std, axis: _other_layout(t, axis)),
    (SIGNED, "uint8", lambda t, mean, std, axis: t ^ np.uint8(128)),
    ("another normalisation: not normalised: values 0..255", "float32", lambda t, mean, std, axis: t * std + mean),
    ("another normalisation: values 0..1", "float32", lambda t, mean, std, axis: (t * std + mean) / 255),
    ("another normalisation: values -1..1", "float32", lambda t, mean, std, axis: (t * std + mean - 127.5) / 127.5),
    ("normalised twice", "float32", lambda t, mean, std, axis: (t - mean) / std),
)


def _other_layout(tensor: Array, axis: int) -> Array:
    return np.moveaxis(tensor, axis, 4 - axis).reshape(tensor.shape)


# --- Outputs of a network.

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
SCORE_FUNCTION_SPREAD = 0.02  # of logits, by which "the same but for a constant" may be missed


def _boxes_in(scale: str, right: Array, actual: Array, reference: Reference) -> Array | None:
    if reference.boxes.scale == scale:
        return None
    return right * reference.sides if scale == "pixels" else right / reference.sides


def _shifted_columns(shift: int, right: Array, actual: Array, reference: Reference) -> Array | None:
    moved = np.roll(right, shift, -1)
    moved[..., min(shift, 0)] = actual[..., min(shift, 0)]  # nothing is known of the column that came in
    return moved if right.shape[-1] > 1 else None


def _with_background(right: Array, actual: Array, reference: Reference) -> Array:
    return np.concatenate([actual[..., :1], right], axis=-1)


def _other_function(right: Array, actual: Array, reference: Reference) -> Array | None:
    """The scores that are to be explained, where their logits are the right ones but for a constant of each anchor."""
    if actual.shape != right.shape or right.shape[-1] == 1:
        return None
    softmax = reference.contract.postprocess.score_function == "softmax"
    own, other = (_log, _logit) if softmax else (_logit, _log)
    clear = (right > 1e-4) & (right < 0.999) & (actual > 1e-4) & (actual < 0.999)
    # Only scores far from 0 tell the two functions apart; unchanged ones must fit much worse.
    rows = clear.all(axis=-1) & (right.max(axis=-1) > 0.2)
    if not rows.any():
        return None
    spread, unchanged = (float(np.median((to(actual) - own(right))[rows].std(axis=-1))) for to in (other, own))
    return actual if spread < SCORE_FUNCTION_SPREAD and 3 * spread < unchanged else None


def _softmax(values: Array) -> Array:
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def _log(values: Array) -> Array:
    return np.asarray(np.log(values.astype(np.float64).clip(1e-12)))


def _logit(values: Array) -> Array:
    clipped = values.astype(np.float64).clip(1e-12, 1 - 1e-12)
    return np.asarray(np.log(clipped) - np.log1p(-clipped))


# Name, the meanings of the outputs that it is a mistake in, and what it makes of the right output; None where it cannot
# be made. The output that is to be explained differs from the right one in the number of columns at most.
OutputMistake = tuple[str, tuple[str, ...], Callable[[Array, Array, Reference], "Array | None"]]
OUTPUT_MISTAKES: tuple[OutputMistake, ...] = (
    *((name, ("boxes",), lambda right, actual, ref, order=order: order(right)) for name, order in BOX_ORDERS.items()),
    ("boxes as fractions instead of pixels", ("boxes",), partial(_boxes_in, "fraction")),
    ("boxes in pixels of the input instead of fractions", ("boxes",), partial(_boxes_in, "pixels")),
    (
        "box deltas in the order y, x, height, width",
        ("box_deltas",),
        lambda right, actual, ref: right[..., [1, 0, 3, 2]],
    ),
    ("labels off by one (+1)", ("labels",), lambda right, actual, ref: np.where(right >= 0, right + 1, right)),
    ("labels off by one (-1)", ("labels",), lambda right, actual, ref: np.where(right >= 0, right - 1, right)),
    ("labels off by one (+1): class k stands in column k+1", ("class_logits", "scores"), partial(_shifted_columns, 1)),
    ("labels off by one (-1): class k stands in column k-1", ("class_logits", "scores"), partial(_shifted_columns, -1)),
    ("background not removed: it stands in column 0", ("class_logits", "scores"), _with_background),
    ("softmax has been applied to the logits", ("class_logits",), lambda right, actual, ref: _softmax(right)),
    ("sigmoid has been applied to the logits", ("class_logits",), lambda right, actual, ref: 1 / (1 + np.exp(-right))),
    ("{other_function} instead of {function}", ("scores",), _other_function),
)

# --- Final detections: labels and names, boxes, and another post-processing of the same outputs.

LABEL_MISTAKES = (  # name, the label, the label whose name it has: its own, the next, the next within the classes
    ("labels off by one ({shift:+d})", "next", "next"),
    ("labels off by one ({shift:+d}), kept within the classes", "kept", "kept"),
    ("labels off by one ({shift:+d}), their names kept within the classes", "next", "kept"),
    ("labels off by one ({shift:+d}), names right", "next", "own"),
    ("names off by one ({shift:+d}), labels right", "own", "next"),
)


class Boxes(NamedTuple):
    """Of right detections [N, 4] xyxy; ``sides`` are width, height, width, height."""

    picture: Array  # in the picture's pixels
    picture_sides: Array
    input: Array  # in pixels of the input
    input_sides: Array
    back: Array  # from the input to the picture as for the other way to resize


PLACE_MISTAKES: dict[str, Callable[[Boxes], Array]] = {
    "boxes in pixels of the input, not of the picture": lambda boxes: boxes.input,
    "boxes as fractions of the input": lambda boxes: boxes.input / boxes.input_sides,
    "boxes as fractions of the picture": lambda boxes: boxes.picture / boxes.picture_sides,
    "boxes scaled back as for {other_mode} instead of {mode}": lambda boxes: boxes.back,
    "boxes scaled with height and width swapped": lambda boxes: (
        boxes.picture / boxes.picture_sides * boxes.picture_sides[[1, 0, 3, 2]]
    ),
}
NO_SUPPRESSION = 1.0
NMS_THRESHOLDS = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, NO_SUPPRESSION)
SETTING_MISTAKES: dict[str, dict[str, Any]] = {
    "sigmoid instead of softmax": {"score_function": "sigmoid"},
    "softmax instead of sigmoid": {"score_function": "softmax"},
}
# Name, the meaning of an output, and how it is read.
READING_MISTAKES: tuple[tuple[str, str, Callable[[Array], Array]], ...] = (
    *((f"{name}, in the outputs", "boxes", order) for name, order in BOX_ORDERS.items()),
    ("background not removed: class 0 read from column 0", "class_logits", lambda logits: np.roll(logits, 1, -1)),
    ("box deltas read in the order y, x, height, width", "box_deltas", lambda deltas: deltas[..., [1, 0, 3, 2]]),
)
