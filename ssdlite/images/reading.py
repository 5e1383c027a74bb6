"""The size of an ordinary JPEG from its first bytes: a tenth of the time that a decoder takes to open it."""

from __future__ import annotations

import importlib
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdlite.errors import ConfigError, DataError
from ssdlite.images.geometry import ImageArray, find_opencv, find_pillow

if TYPE_CHECKING:
    from PIL.Image import Image


IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm")
FIRST_BYTES = 4096
MOST_QUICK_PIXELS = 1 << 26  # what is larger is for the reader to accept or to refuse
FRAMES = (0xC0, 0xC1, 0xC2)  # markers: the baseline, extended and progressive frame
SKIPPED = (0xC4, 0xDB, 0xDD, 0xE0, *range(0xE2, 0xF0), 0xFE)  # tables, notes of applications, comments
# Not among them: 0xE1, Exif, which may say that the picture is stored on its side.


def jpeg_size(path: Path | str) -> tuple[int, int] | None:
    """(height, width) of a JPEG of 8 bits that has no EXIF data; None for all else, which is for a decoder to open."""
    try:
        with Path(path).open("rb", buffering=0) as file:
            return find_size(file.read(FIRST_BYTES))
    except OSError:
        return None


def find_size(data: bytes) -> tuple[int, int] | None:
    """The same of a file's first bytes (ITU T.81, annex B)."""
    if data[:2] != b"\xff\xd8":
        return None
    place = 2
    while place + 9 < len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker in FRAMES:
            bits, height, width, channels = struct.unpack_from(">BHHB", data, place + 4)
            ordinary = bits == 8 and channels in (1, 3) and 0 < height * width <= MOST_QUICK_PIXELS
            return (height, width) if ordinary else None
        if marker not in SKIPPED:
            return None
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return None


# --- Reading pictures, and the one geometry that takes them to the network's input and boxes back again.


def read_image(path: Path | str, annotated_size: tuple[int, int] | None = None, *, reduction: int = 1) -> ImageArray:
    """A picture file as uint8 RGB [H, W, 3], upright.

    Grey, palette, 16-bit and CMYK pictures become 8-bit RGB; an alpha channel is dropped. The EXIF
    orientation is applied, except where ``annotated_size`` (height, width) shows that the boxes were drawn
    on the pixels as stored. Pillow reads it, or OpenCV where Pillow is not installed.

    ``reduction`` 2, 4 or 8 gives that fraction of the sides, rounded up, in less time; each pixel is the mean of a
    square. Only JPEGs can, and only those stored upright; others come whole.

    Raises:
        DataError: the file is missing, not a picture, truncated or too large; the message names it.
        ConfigError: neither Pillow nor OpenCV is installed.
    """
    reader = _reader()
    try:
        image: ImageArray = reader.read(path, annotated_size, reduction)
        return image
    except FileNotFoundError:
        raise DataError(f"{path}: no such image file") from None
    except Exception as error:  # decoders raise whatever their format led them to
        raise DataError(f"{path}: cannot be read as an image ({error})") from error


def read_image_size(path: Path | str) -> tuple[tuple[int, int], tuple[int, int]]:
    """(upright, stored) sizes of a picture file, each (height, width), from its header alone.

    Raises:
        DataError: the file is missing or not a picture; the message names it.
        ConfigError: neither Pillow nor OpenCV is installed.
    """
    if (size := jpeg_size(path)) is not None:
        return size, size
    reader = _reader()
    try:
        sizes: tuple[tuple[int, int], tuple[int, int]] = reader.read_size(path)
        return sizes
    except FileNotFoundError:
        raise DataError(f"{path}: no such image file") from None
    except Exception as error:
        raise DataError(f"{path}: cannot be read as an image ({error})") from error


def read_size_as_annotated(path: Path | str, annotated_size: tuple[int, int] | None) -> tuple[int, int]:
    """The (height, width) that ``read_image`` with the same arguments will give, from the header alone.

    Raises:
        DataError: as above, or ``annotated_size`` is the picture's size neither as stored nor upright.
    """
    upright, stored = read_image_size(path)
    if annotated_size is None:
        return upright
    if annotated_size not in (upright, stored):
        raise DataError(
            f"{path}: the annotations say {annotated_size[1]} x {annotated_size[0]} pixels, "
            f"the file has {upright[1]} x {upright[0]}"
        )
    return annotated_size


def to_rgb(picture: Image) -> ImageArray:
    """A Pillow picture of any mode as upright uint8 RGB [H, W, 3]."""
    from ssdlite.images.pillow_reader import to_rgb_array

    return to_rgb_array(picture, None)


def _reader() -> Any:
    """The module that reads picture files."""
    if find_pillow() is not None:
        return importlib.import_module("ssdlite.images.pillow_reader")
    if find_opencv() is not None:
        return importlib.import_module("ssdlite.images.opencv_reader")
    raise ConfigError("reading picture files needs Pillow or OpenCV; `pip install pillow`")
