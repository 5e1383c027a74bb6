"""Why a resized picture or an input tensor differs from the golden one: the usual mistakes, tried one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from ssdlite.contract import InputSpec, ResizeSpec
from ssdlite.image import ImageArray, Resize, fit_view

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
        pixels = base.pixels[..., ::-1] if as_bgr != (spec.colour_order == "BGR") else base.pixels
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
    """As ``View.render``, with another way to resize."""
    view = fit_view((rgb.shape[0], rgb.shape[1]), size, mode)
    scale_x, scale_y = view.scale
    left, right = round(-view.x0 * scale_x), round((rgb.shape[1] - view.x0) * scale_x)
    top, bottom = round(-view.y0 * scale_y), round((rgb.shape[0] - view.y0) * scale_y)
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
    return BGR if spec.colour_order == "RGB" else "channels in the order RGB instead of BGR"


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
