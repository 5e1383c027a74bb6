"""Picture files through OpenCV: where Pillow is not installed, and large ones, in less memory."""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ssdlite.images.geometry import (
    ORIENTATIONS,
    ImageArray,
    Size,
    deep_gray_to_rgb,
    deep_to_8_bits,
    find_opencv,
    highest_value,
    silent_opencv,
    turn_upright,
)

MOST_DECODED_PIXELS = 178_956_970  # as Pillow allows; OpenCV itself would decode six times as many
DARK = 16  # of 255: what is left of 12 bits in a picture of 16
JPEG_START, JPEG_SCAN, JPEG_END = b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"


def read(path: Path | str, max_pixels: int = MOST_DECODED_PIXELS) -> ImageArray:
    """See ``ssdlite.images.reading.read_image``. Raises OSError, ValueError, or what OpenCV does."""
    return _to_rgb(_decode(_read_bytes(path, max_pixels), upright=True))


def read_header(path: Path | str) -> tuple[Size, int]:
    """((height, width) as stored, EXIF orientation). Decodes the picture twice: OpenCV shows no header alone.

    The orientation is the first of all that makes the picture upright of the one as stored.
    """
    content = _read_bytes(path)
    upright, stored = (_decode(content, upright=upright) for upright in (True, False))
    size = (stored.shape[0], stored.shape[1])
    return size, next((one for one in ORIENTATIONS if np.array_equal(turn_upright(stored, one), upright)), 1)


def read_as_stored(path: Path | str, size: Size) -> ImageArray | None:
    """The RGB pixels of a picture in colours of 8 bits, not turned, in the memory of the result alone.

    None where OpenCV is missing or too old for that, or does not read the file: for Pillow to read, or to refuse.
    """
    cv2 = find_opencv()
    if cv2 is None or not hasattr(cv2, "IMREAD_COLOR_RGB") or not _is_whole(path):
        return None
    pixels = np.empty((*size, 3), np.uint8)
    with silent_opencv(), suppress(cv2.error, TypeError):
        found = cv2.imread(str(path), pixels, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
        if found is not None and found.shape == pixels.shape:
            return np.asarray(found, np.uint8)
    return None


def _is_whole(path: Path | str) -> bool:
    """False of a JPEG or PNG without its end: OpenCV would fill the rest with grey."""
    with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[:3] == JPEG_START:
            return content.rfind(JPEG_END) > content.rfind(JPEG_SCAN)
        return content[:4] != b"\x89PNG" or content.rfind(b"IEND") > content.rfind(b"IDAT")


def check_pixels(width: int, height: int, most: int) -> None:
    """Raises ValueError for a picture of more than ``most`` pixels."""
    if width * height > most:
        raise ValueError(f"it has {width} x {height} pixels, more than the {most} allowed")


def _read_bytes(path: Path | str, max_pixels: int = MOST_DECODED_PIXELS) -> bytes:
    content = Path(path).read_bytes()
    if not content:
        raise ValueError("it is empty")
    if content.startswith(JPEG_START) and content.rfind(JPEG_END) < content.rfind(JPEG_SCAN):
        raise ValueError("it is truncated")  # OpenCV would fill the rest with grey
    width, height = size_in_header(content) or (0, 0)
    check_pixels(width, height, max_pixels)
    return content


def size_in_header(content: bytes) -> tuple[int, int] | None:
    """(width, height) as stored, before anything is decoded; None for formats that only OpenCV knows."""
    for start, read_header in HEADERS.items():
        if re.match(start, content, re.DOTALL):
            try:
                return read_header(content)
            except (
                struct.error,
                KeyError,
                AttributeError,
            ):  # it ends before that, or is damaged: for the decoder to refuse
                return None
    return None


def _bmp_size(content: bytes) -> tuple[int, int]:
    """Of a Windows header, or of OS/2's shorter one."""
    old = struct.unpack_from("<I", content, 14) == (12,)
    width, height = struct.unpack_from("<HH" if old else "<ii", content, 18)
    return width, abs(height)  # negative: the rows go down


def _pnm_size(content: bytes) -> tuple[int, int]:
    """Of the two numbers after the magic one, with comments between them."""
    space = rb"(?:\s|#[^\n]*\n)+"
    found = re.match(rb"P[1-6]" + space + rb"(\d+)" + space + rb"(\d+)\s", content)
    return (0, 0) if found is None else (int(found[1]), int(found[2]))


def _jpeg_size(content: bytes) -> tuple[int, int]:
    """Of the first frame header (ITU T.81, annex B)."""
    place = 2
    while True:
        marker, length = struct.unpack_from(">HH", content, place)
        if marker < 0xFF00 or length < 2:
            raise struct.error("expected a marker and the length of its segment")
        if 0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC):  # tables, and one without use
            height, width = struct.unpack_from(">HH", content, place + 5)
            return width, height
        place += 1 if marker == 0xFFFF else 2 + length  # a marker may have fill bytes before it


def _webp_size(content: bytes) -> tuple[int, int]:
    """Of the lossy, the lossless, or the extended form (RFC 9649)."""
    kind = content[12:16]
    if kind == b"VP8X":
        low_x, high_x, low_y, high_y = struct.unpack_from("<HBHB", content, 24)
        width, height = low_x + (high_x << 16) + 1, low_y + (high_y << 16) + 1
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", content, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", content, 26))
    return width, height


def _tiff_size(content: bytes) -> tuple[int, int]:
    """Of the first image file directory (TIFF 6.0, section 2); a big TIFF's is wider."""
    order = "<" if content.startswith(b"II") else ">"
    big = struct.unpack_from(f"{order}H", content, 2) == (43,)
    (start,) = struct.unpack_from(f"{order}Q" if big else f"{order}I", content, 8 if big else 4)
    (count,) = struct.unpack_from(f"{order}Q" if big else f"{order}H", content, start)
    start, step, value_at = (start + 8, 20, 12) if big else (start + 2, 12, 8)
    sides = {}
    for entry in range(start, start + step * count, step):
        tag, kind = struct.unpack_from(f"{order}HH", content, entry)
        if tag in (256, 257):
            (sides[tag],) = struct.unpack_from(order + {3: "H", 4: "I", 16: "Q"}[kind], content, entry + value_at)
    return sides[256], sides[257]


HEADERS: dict[bytes, Callable[[bytes], tuple[int, int]]] = {  # how a file begins -> its (width, height)
    rb"\xff\xd8\xff": _jpeg_size,
    rb"\x89PNG": lambda content: struct.unpack_from(">II", content, 16),
    rb"GIF8": lambda content: struct.unpack_from("<HH", content, 6),
    rb"BM": _bmp_size,
    rb"RIFF.{4}WEBP": _webp_size,
    rb"II[*+]|MM\0[*+]": _tiff_size,
    rb"P[1-6]\s": _pnm_size,
}


def _decode(content: bytes, *, upright: bool) -> npt.NDArray[Any]:
    """[H, W] grey or [H, W, 3] BGR, as deep as stored."""
    cv2 = find_opencv()
    flags = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR | (0 if upright else cv2.IMREAD_IGNORE_ORIENTATION)
    with silent_opencv():
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    if pixels is None:
        raise ValueError("OpenCV knows no such format, or it is damaged")
    return np.asarray(pixels)


def _to_rgb(pixels: npt.NDArray[Any]) -> ImageArray:
    if pixels.ndim == 2:
        return np.repeat(pixels[:, :, None], 3, axis=2) if pixels.dtype == np.uint8 else deep_gray_to_rgb(pixels)
    if pixels.dtype == np.uint16:
        dark = highest_value(pixels) < DARK << 8
        pixels = deep_to_8_bits(pixels) if dark else (pixels >> 8).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise ValueError(f"expected colours of 8 or 16 bits, got {pixels.dtype}")
    return np.ascontiguousarray(pixels[:, :, ::-1])
