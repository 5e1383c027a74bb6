"""Picture files of any kind read as upright 8-bit RGB, and their sizes from headers; decoders load when needed."""

from __future__ import annotations

import struct
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ssdlite.errors import ConfigError, DataError
from ssdlite.images import opencv_reader
from ssdlite.images.geometry import (
    ORIENTATIONS,
    ImageArray,
    Size,
    as_stored,
    deep_gray_to_rgb,
    deep_to_8_bits,
    find_opencv,
    find_pillow,
    highest_value,
    narrow_range,
    turn_upright,
)
from ssdlite.images.opencv_reader import DARK

if TYPE_CHECKING:
    from PIL.Image import Image

HEIF_SUFFIXES = (".heic", ".heif")  # where pillow-heif is installed
HEIF_REMEDY = "for .heic and .heif, pip install pillow-heif"
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".avif", ".jp2",
    *(HEIF_SUFFIXES if find_spec("pillow_heif") else ()),
)  # fmt: skip
MAX_PIXELS = 89_478_485  # of a picture to detect in, unless an option says more: half of what can be decoded
LARGE_PIXELS = 1 << 22  # from here on memory counts for more than a decoder's name does
LARGE_FORMATS = ("JPEG", "MPO", "PNG", "BMP", "WEBP")  # of which OpenCV gives Pillow's pixels, in half the memory
STRIP_PIXELS = 1 << 18
EXIF_ORIENTATION = 0x0112
TIFF_WIDTH, TIFF_HEIGHT = 256, 257
TRANSPOSITIONS = {  # what of Pillow's turns an EXIF orientation upright
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


def read_image(
    path: Path | str, *, reduction: int = 1, max_pixels: int = opencv_reader.MOST_DECODED_PIXELS
) -> ImageArray:
    """A picture file as uint8 RGB [H, W, 3], upright: its EXIF orientation is applied.

    Grey, palette, 16-bit and CMYK pictures become 8-bit RGB, values of 10 or 12 bits in files of 16 by their own range;
    an alpha channel is dropped, and of several frames the first is read. Pillow reads it, or OpenCV where Pillow is not
    installed.

    ``reduction`` 2, 4 or 8 gives that fraction of the sides, rounded up, in less time; each pixel is the mean of a
    square. Only JPEGs can, and only those stored upright; others come whole.

    A picture of more than ``max_pixels`` is refused before it is decoded.

    Raises:
        DataError: the file is missing, not a picture, truncated or too large; the message names it.
        ConfigError: neither Pillow nor OpenCV is installed.
    """
    pillow = _pillow()
    with _one_error(path):
        if pillow is None:
            return opencv_reader.read(path, max_pixels)
        with _without_size_warning(), _open(pillow, path) as picture:  # Pillow refuses more than 179 million pixels
            opencv_reader.check_pixels(picture.width, picture.height, max_pixels)
            orientation = _turn_left_to_do(picture)
            if reduction > 1 and orientation == 1:
                picture.draft(None, (picture.width // reduction, picture.height // reduction))
            deep_color = _has_deep_color(picture)
            image = _large_as_stored(picture, path)
            if image is None:
                image = to_rgb(picture)
            elif orientation != 1:
                image = np.ascontiguousarray(turn_upright(image, orientation))
        if deep_color and image.max(initial=0) < DARK:
            with _open(pillow, path) as picture:
                _add_lower_bytes(as_stored(image, orientation), picture)
        return image


def is_picture_name(name: str) -> bool:
    """Whether a file in a folder is to be read as a picture: by its suffix, and not hidden (macOS's "._a.jpg")."""
    return not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES


def picture_remarks(path: Path | str, *, max_pixels: int = opencv_reader.MOST_DECODED_PIXELS) -> list[str]:
    """What is worth saying about how ``read_image`` makes 8 bits of a picture; nothing of most, and of damaged ones."""
    pillow = find_pillow()
    if pillow is None or Path(path).suffix.lower() in (".jpg", ".jpeg", ".jfif"):
        return []
    remarks: list[str] = []
    with suppress(DataError), _one_error(path), _without_size_warning(), _open(pillow, path) as picture:
        opencv_reader.check_pixels(picture.width, picture.height, max_pixels)
        if (frames := getattr(picture, "n_frames", 1)) > 1:
            remarks.append(f"holds {frames} frames, of which the first is read")
        if picture.mode.startswith(("I", "F")):
            highest = _highest(picture)
            if bits := narrow_range(highest):
                remarks.append(f"its values reach {highest:g} of 65535: scaled by the range of {bits} bits")
        elif _has_deep_color(picture) and _highest(picture) < DARK:
            remarks.append(f"its values stay below {DARK} / 256 of 16 bits: scaled by their range")
    return remarks


def _open(pillow: Any, path: Path | str) -> Image:
    """With Pillow, and what it has no reader of with pillow-heif."""
    if Path(path).suffix.lower() in HEIF_SUFFIXES and find_spec("pillow_heif"):
        heif: Image = import_module("pillow_heif").HeifImageFile(path)  # upright, and decoded when needed
        return heif
    picture: Image = pillow.open(path)
    if picture.format == "EPS":
        picture.close()
        raise ValueError("PostScript is a program, which Ghostscript would have to run")
    return picture


def _has_deep_color(picture: Image) -> bool:
    """Whether Pillow will drop the lower 8 bits of 16; asked before it decodes."""
    return picture.mode.startswith("RGB") and ";16" in str(getattr(picture, "tile", ())[:1])


class PictureHeader(NamedTuple):
    """What a picture file says before it is decoded."""

    stored: Size
    orientation: int = 1  # EXIF

    @property
    def upright(self) -> Size:
        """As ``read_image`` gives it."""
        return self.stored[::-1] if ORIENTATIONS[self.orientation][0] else self.stored


def read_header(path: Path | str) -> PictureHeader:
    """The size and the orientation of a picture file, without decoding it where Pillow is installed.

    Raises:
        DataError: the file is missing or not a picture; the message names it.
        ConfigError: neither Pillow nor OpenCV is installed.
    """
    if (size := jpeg_size(path)) is not None:
        return PictureHeader(size)
    pillow = _pillow()
    with _one_error(path):
        if pillow is None:
            return PictureHeader(*opencv_reader.read_header(path))
        with _open(pillow, path) as picture:
            tags = getattr(picture, "tag_v2", {})  # of a TIFF, whose size Pillow may have turned already
            stored = int(tags.get(TIFF_HEIGHT, picture.height)), int(tags.get(TIFF_WIDTH, picture.width))
            return PictureHeader(stored, _orientation(picture))


def read_image_size(path: Path | str) -> tuple[Size, Size]:
    """(upright, stored) sizes of a picture file, each (height, width); raises what ``read_header`` does."""
    header = read_header(path)
    return header.upright, header.stored


def to_rgb(picture: Image) -> ImageArray:
    """A Pillow picture of any mode as upright uint8 RGB [H, W, 3]."""
    from PIL.Image import Transpose

    orientation = _turn_left_to_do(picture)
    picture.load()
    if picture.width * picture.height > LARGE_PIXELS:
        return _to_rgb_by_strips(picture, orientation)
    if orientation in TRANSPOSITIONS:
        picture = picture.transpose(Transpose[TRANSPOSITIONS[orientation]])
    if picture.mode.startswith(("I", "F")):
        return deep_gray_to_rgb(np.asarray(picture))
    return np.array(_convert(picture))


def _to_rgb_by_strips(picture: Image, orientation: int) -> ImageArray:
    """The same: Pillow's own copies, and sums in 64 bits, take several times the memory of the result."""
    size = PictureHeader((picture.height, picture.width), orientation).upright
    array = np.empty((*size, 3), np.uint8)
    target = as_stored(array, orientation)
    highest = _highest(picture) if picture.mode.startswith(("I", "F")) else None
    for rows, strip in _strips(picture):
        target[rows] = np.asarray(_convert(strip)) if highest is None else deep_gray_to_rgb(np.asarray(strip), highest)
    return array


def _strips(picture: Image) -> Iterator[tuple[slice, Image]]:
    """Some rows at a time, and which they are."""
    rows = max(1, STRIP_PIXELS // picture.width)
    for top in range(0, picture.height, rows):
        bottom = min(picture.height, top + rows)
        yield slice(top, bottom), picture.crop((0, top, picture.width, bottom))


def _highest(picture: Image) -> float:
    return max(highest_value(np.asarray(strip)) for _, strip in _strips(picture))


def _large_as_stored(picture: Image, path: Path | str) -> ImageArray | None:
    """The pixels of a large picture in colours, one frame and a usual format, from OpenCV; None of all others."""
    usual = picture.format in LARGE_FORMATS and (picture.format == "MPO" or getattr(picture, "n_frames", 1) == 1)
    if picture.mode not in ("RGB", "RGBA") or not usual or picture.width * picture.height <= LARGE_PIXELS:
        return None
    return opencv_reader.read_as_stored(path, (picture.height, picture.width))


def _add_lower_bytes(pixels: ImageArray, picture: Image) -> None:
    """Scale the ``pixels`` [H, W, 3] of a file of 16 bits by their range: Pillow has dropped their lower bytes.

    It gives these where it is told that the bytes of the file have the other order.
    """
    picture.tile = [  # type: ignore[attr-defined]
        getattr(tile, "_make", tuple)([*tile[:3], _in_other_order(tile[3])])
        for tile in picture.tile  # type: ignore[attr-defined]
    ]
    picture.load()

    def values(rows: slice, strip: Image) -> npt.NDArray[np.uint16]:
        return np.asarray(pixels[rows].astype(np.uint16) << 8 | np.asarray(strip.convert("RGB")), np.uint16)

    highest = max(highest_value(values(*part)) for part in _strips(picture))
    for rows, strip in _strips(picture):
        pixels[rows] = deep_to_8_bits(values(rows, strip), highest)


def _in_other_order(arguments: Any) -> Any:
    """Those of one of Pillow's decoders: a raw mode such as ``RGB;16B``, alone or first of several."""
    if not isinstance(arguments, str):
        return (_in_other_order(arguments[0]), *arguments[1:])
    kind, bits, order = arguments.partition(";16")
    return kind + bits + {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}.get(order, order)


def _convert(picture: Image) -> Image:
    if picture.mode == "P" or (picture.mode in ("L", "RGB") and "transparency" in picture.info):
        picture = picture.convert("RGBA")  # resolves the palette's transparency entry before it is dropped
    return picture.convert("RGB")


def _turn_left_to_do(picture: Image) -> int:
    """The EXIF orientation of its pixels; Pillow turns those of a TIFF upright itself when it decodes them."""
    return 1 if picture.format == "TIFF" else _orientation(picture)


def _orientation(picture: Image) -> int:
    """The EXIF orientation, one of ``ORIENTATIONS``; 1 (upright) where there is none or it is damaged."""
    if picture.format == "PNG" and not {"exif", "Raw profile type exif"} & set(picture.info):
        return 1  # Pillow would decode the whole picture to look for a note after the pixels
    try:
        orientation = int(picture.getexif().get(EXIF_ORIENTATION, 1))
    except Exception:  # a damaged note about a picture must not cost the picture
        return 1
    return orientation if orientation in ORIENTATIONS else 1


def _pillow() -> Any:
    """The module ``PIL.Image``; None where OpenCV is to read."""
    pillow = find_pillow()
    if pillow is None and find_opencv() is None:
        raise ConfigError("reading picture files needs Pillow or OpenCV; `pip install pillow`")
    return pillow


@contextmanager
def _without_size_warning() -> Iterator[None]:
    """Pillow warns from half of what it refuses on; our bound is an error that says more."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Image size .* exceeds limit")
        yield


@contextmanager
def _one_error(path: Path | str) -> Iterator[None]:
    """Decoders raise whatever their format led them to."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path}: no such image file") from None
    except Exception as error:
        raise DataError(f"{path}: cannot be read as an image ({error})") from error


# --- The size of an ordinary JPEG from its first bytes: a tenth of the time that a decoder takes to open it.

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
