"""Picture files through OpenCV, where Pillow is not installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ssdlite.images.geometry import ImageArray, deep_grey_to_rgb, find_opencv

JPEG_START, JPEG_SCAN, JPEG_END = b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"


def read(path: Path | str, annotated_size: tuple[int, int] | None, reduction: int = 1) -> ImageArray:
    """See ``ssdlite.images.reading.read_image``; always whole. Raises OSError, ValueError, or what OpenCV does."""
    content = _read_bytes(path)
    pixels = _decode(content, upright=True)
    if annotated_size is not None and pixels.shape[:2] != annotated_size:
        stored = _decode(content, upright=False)
        pixels = stored if stored.shape[:2] == annotated_size else pixels
    return _to_rgb(pixels)


def read_size(path: Path | str) -> tuple[tuple[int, int], tuple[int, int]]:
    """See ``ssdlite.images.reading.read_image_size``. Decodes the picture: OpenCV does not show a header alone."""
    content = _read_bytes(path)
    upright, stored = (_decode(content, upright=upright).shape for upright in (True, False))
    return (upright[0], upright[1]), (stored[0], stored[1])


def _read_bytes(path: Path | str) -> bytes:
    content = Path(path).read_bytes()
    if not content:
        raise ValueError("it is empty")
    if content.startswith(JPEG_START) and content.rfind(JPEG_END) < content.rfind(JPEG_SCAN):
        raise ValueError("it is truncated")  # OpenCV would fill the rest with grey
    return content


def _decode(content: bytes, *, upright: bool) -> npt.NDArray[Any]:
    """[H, W] grey or [H, W, 3] BGR, as deep as stored."""
    cv2 = find_opencv()
    flags = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR
    logging = cv2.utils.logging
    loudness = logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        pixels = cv2.imdecode(
            np.frombuffer(content, np.uint8), flags if upright else flags | cv2.IMREAD_IGNORE_ORIENTATION
        )
    finally:
        logging.setLogLevel(loudness)
    if pixels is None:
        raise ValueError("OpenCV knows no such format, or it is damaged")
    return np.asarray(pixels)


def _to_rgb(pixels: npt.NDArray[Any]) -> ImageArray:
    if pixels.ndim == 2:
        return np.repeat(pixels[:, :, None], 3, axis=2) if pixels.dtype == np.uint8 else deep_grey_to_rgb(pixels)
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise ValueError(f"expected colours of 8 or 16 bits, got {pixels.dtype}")
    return np.ascontiguousarray(pixels[:, :, ::-1])
