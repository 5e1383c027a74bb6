"""Crop windows: the one way of a picture to the network's input, and of boxes back again. Resizes as OpenCV does."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

# --- Pillow and OpenCV: either reads pictures, and each may be missing. They are imported when first needed.


@cache
def find_pillow() -> Any:
    """The module ``PIL.Image``, or None."""
    return _import("PIL.Image")


@cache
def find_opencv() -> Any:
    """The module ``cv2``, or None."""
    return _import("cv2")


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


class _Silence:
    """How many threads want OpenCV silent, and the log level that the last of them restores: there is but one level."""

    lock = threading.Lock()
    users = 0
    level = 0


@contextmanager
def silent_opencv() -> Iterator[None]:
    """OpenCV writes nothing about damaged files within, in whatever thread; its log level is afterwards as before."""
    logging = find_opencv().utils.logging
    with _Silence.lock:
        if not _Silence.users:
            _Silence.level = logging.setLogLevel(logging.LOG_LEVEL_SILENT)
        _Silence.users += 1
    try:
        yield
    finally:
        with _Silence.lock:
            _Silence.users -= 1
            if not _Silence.users:
                logging.setLogLevel(_Silence.level)


# --- Arithmetic on the pixels of pictures. Needs numpy only; uses OpenCV where it is there, with the same result.

ImageArray = npt.NDArray[np.uint8]
Size = tuple[int, int]  # height, width
ORIENTATIONS = {  # EXIF: what turns the pixels as stored upright: swap x and y?, then mirror along x?, along y?
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}

ONE = np.float32(2048)  # OpenCV's weights are whole numbers, this is their sum


def resize_bilinear(image: ImageArray, height: int, width: int) -> ImageArray:
    """image [H, W, 3] -> [height, width, 3] as ``cv2.resize`` with ``INTER_LINEAR`` does it, to the last bit.

    Each pixel is a mean of the four next to its place in the source, pixels being squares whose centre is at a half.
    """
    if image.shape[:2] == (height, width):
        return np.ascontiguousarray(image)
    cv2 = find_opencv()
    if cv2 is None:
        return resize_with_numpy(image, height, width)
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def resize_with_numpy(image: ImageArray, height: int, width: int) -> ImageArray:
    """What ``resize_bilinear`` does without OpenCV: its fixed-point arithmetic, and how that cuts digits off."""
    left, shift_x = _source_places(image.shape[1], width)
    outside = (left < 0) | (left >= image.shape[1] - 1)
    shift_x[outside] = 0  # columns beyond the edge repeat it; rows (below) mix it with itself, which rounds otherwise
    left = left.clip(0, image.shape[1] - 1)
    right = np.minimum(left + 1, image.shape[1] - 1)
    top, shift_y = _source_places(image.shape[0], height)
    weights_x = [weight[None, :, None] for weight in _weights(shift_x)]
    weights_y = [weight[:, None, None] for weight in _weights(shift_y)]
    result = np.full((height, width, image.shape[2]), 2, np.int32)
    for rows, weight_y in zip((top, top + 1), weights_y, strict=True):
        lines = image[rows.clip(0, image.shape[0] - 1)]
        blended = lines[:, left] * weights_x[0] + lines[:, right] * weights_x[1]
        result += (weight_y * (blended >> 4)) >> 16
    return (result >> 2).clip(0, 255).astype(np.uint8)


NARROW_RANGES = {10: 1023, 12: 4095}  # bits of sensors in files of 16 bits, which would come out nearly black


def narrow_range(highest: float) -> int | None:
    """The bits of values from 0 to ``highest``, where they are 10 or 12 in a file of 16; None for all others."""
    return next((bits for bits, limit in NARROW_RANGES.items() if 255 < highest <= limit), None)


def highest_value(pixels: npt.NDArray[Any]) -> float:
    """Of the finite ones, at least 0."""
    return float(pixels.max(initial=0, where=np.isfinite(pixels)))


def deep_to_8_bits(pixels: npt.NDArray[Any], highest: float | None = None) -> ImageArray:
    """Pixels of 16 or 32 bits, of any shape -> uint8.

    Values to 255 are 8-bit ones in a wide file, to 1023 of 10 bits, to 4095 of 12, to 65535 of 16, floats to 1
    fractions; more is scaled. ``highest`` is the whole picture's, where ``pixels`` are a part of it.
    """
    highest = highest_value(pixels) if highest is None else highest
    values = np.nan_to_num(pixels.astype(np.float64), posinf=0.0, neginf=0.0)
    if bits := narrow_range(highest):
        values = values * (255 / NARROW_RANGES[bits])
    elif highest > 255:
        values = values / 257 if highest <= 65535 else values * (255 / highest)
    elif highest <= 1 and np.issubdtype(pixels.dtype, np.floating):
        values = values * 255
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def deep_gray_to_rgb(pixels: npt.NDArray[Any], highest: float | None = None) -> ImageArray:
    """Grey pixels of 16 or 32 bits [H, W] -> uint8 RGB, see ``deep_to_8_bits``."""
    return np.repeat(deep_to_8_bits(pixels, highest)[:, :, None], 3, axis=2)


def turn_upright(pixels: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """A view of pixels [H, W, ...] as stored under an EXIF ``orientation``."""
    swaps, flips_x, flips_y = ORIENTATIONS[orientation]
    turned = pixels.swapaxes(0, 1) if swaps else pixels
    return turned[:: -1 if flips_y else 1, :: -1 if flips_x else 1]


def as_stored(upright: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """The way back of ``turn_upright``, a view too: what is written to it lands upright."""
    swaps, flips_x, flips_y = ORIENTATIONS[orientation]
    flipped = upright[:: -1 if flips_y else 1, :: -1 if flips_x else 1]
    return flipped.swapaxes(0, 1) if swaps else flipped


def _source_places(source: int, target: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """For each of ``target`` pixels, the source pixel at or before its centre, and how far beyond that it is."""
    scale = 1.0 / (target / source)  # in this order: OpenCV rounds twice
    places = ((np.arange(target) + 0.5) * scale - 0.5).astype(np.float32)
    first = np.floor(places)
    return first.astype(np.int64), places - first


def _weights(shift: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Of the first and the second source pixel."""
    return np.rint((1 - shift) * ONE).astype(np.int32), np.rint(shift * ONE).astype(np.int32)


# --- Which part of a picture fills the input.

Resize = Literal["stretch", "letterbox"]

LETTERBOX_FILL = 114  # the grey that detectors conventionally pad with


@dataclass(frozen=True)
class CropWindow:
    """The rectangle of a source image that fills the network's input.

    ``x0, y0, x1, y1`` are source pixels and may reach outside the image (that part is filled); ``size`` is
    the input's (height, width). Stretching, letterboxing, cropping and zooming out are all windows.
    """

    x0: int
    y0: int
    x1: int
    y1: int
    size: tuple[int, int]

    @property
    def scale(self) -> tuple[float, float]:
        """Input pixels per source pixel, (x, y)."""
        height, width = self.size
        return width / (self.x1 - self.x0), height / (self.y1 - self.y0)

    @property
    def span(self) -> tuple[int, int]:
        """(height, width) in source pixels."""
        return self.y1 - self.y0, self.x1 - self.x0

    def boxes_to_input(self, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """boxes [N, 4] xyxy in source pixels -> xyxy in input pixels, not clipped."""
        scale, origin = self._affine()
        return (boxes - origin) * scale

    def boxes_to_source(self, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """boxes [N, 4] xyxy in input pixels -> xyxy in source pixels, not clipped."""
        scale, origin = self._affine()
        return boxes / scale + origin

    def render(
        self,
        image: ImageArray,
        fill: int = LETTERBOX_FILL,
        resize: Callable[[ImageArray, int, int], ImageArray] = resize_bilinear,
    ) -> ImageArray:
        """image [H, W, 3] -> the window [*size, 3], bilinear with half-pixel centres (``cv2.INTER_LINEAR``).

        ``resize(image, height, width)`` does it in another way.
        """
        height, width = self.size
        image_height, image_width = image.shape[:2]
        x0, y0 = max(self.x0, 0), max(self.y0, 0)
        x1, y1 = min(self.x1, image_width), min(self.y1, image_height)
        if (x0, y0, x1, y1) == (self.x0, self.y0, self.x1, self.y1):
            return resize(image[y0:y1, x0:x1], height, width)
        canvas = np.full((height, width, 3), fill, np.uint8)
        scale_x, scale_y = self.scale
        left, right = round((x0 - self.x0) * scale_x), round((x1 - self.x0) * scale_x)
        top, bottom = round((y0 - self.y0) * scale_y), round((y1 - self.y0) * scale_y)
        if right > left and bottom > top and x1 > x0 and y1 > y0:
            canvas[top:bottom, left:right] = resize(image[y0:y1, x0:x1], bottom - top, right - left)
        return canvas

    def _affine(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        scale = np.array(self.scale * 2, np.float32)
        origin = np.array([self.x0, self.y0] * 2, np.float32)
        return scale, origin


@dataclass(frozen=True)
class InputTransform:
    """How whole pictures become the network's input: its (height, width), ``resize``, and what fills the rest."""

    size: tuple[int, int]
    resize: Resize
    fill: int = LETTERBOX_FILL

    def window(self, image_size: tuple[int, int]) -> CropWindow:
        """The window that shows a picture of (height, width) ``image_size``."""
        return fit_window(image_size, self.size, self.resize)


def fit_window(image_size: tuple[int, int], input_size: tuple[int, int], resize: Resize) -> CropWindow:
    """The window that shows a whole image, both sizes (height, width).

    ``stretch`` fills the input and gives up the aspect ratio; ``letterbox`` keeps it, centred, and pads.
    """
    height, width = image_size
    if resize == "stretch":
        return CropWindow(0, 0, width, height, input_size)
    scale = min(input_size[0] / height, input_size[1] / width)
    window_width, window_height = (
        max(round(input_size[1] / scale), width),
        max(round(input_size[0] / scale), height),
    )
    left, top = (window_width - width) // 2, (window_height - height) // 2
    return CropWindow(-left, -top, window_width - left, window_height - top, input_size)
