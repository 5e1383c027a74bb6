"""Arithmetic on the pixels of pictures. Needs numpy only; uses OpenCV where it is there, with the same result."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ssdlite.optional import find_opencv

ImageArray = npt.NDArray[np.uint8]

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


def deep_grey_to_rgb(pixels: npt.NDArray[Any]) -> ImageArray:
    """Grey pixels of 16 or 32 bits [H, W] -> uint8 RGB.

    Values to 65535 are 16-bit, to 255 8-bit ones in a wide file, floats to 1 fractions; more is scaled.
    """
    values = np.nan_to_num(pixels.astype(np.float64), posinf=0.0, neginf=0.0)
    highest = values.max(initial=0)
    if highest > 255:
        values = values / 257 if highest <= 65535 else values * (255 / highest)
    elif highest <= 1 and np.issubdtype(pixels.dtype, np.floating):
        values = values * 255
    grey = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _source_places(source: int, target: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """For each of ``target`` pixels, the source pixel at or before its centre, and how far beyond that it is."""
    scale = 1.0 / (target / source)  # in this order: OpenCV rounds twice
    places = ((np.arange(target) + 0.5) * scale - 0.5).astype(np.float32)
    first = np.floor(places)
    return first.astype(np.int64), places - first


def _weights(shift: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Of the first and the second source pixel."""
    return np.rint((1 - shift) * ONE).astype(np.int32), np.rint(shift * ONE).astype(np.int32)
