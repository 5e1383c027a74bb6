"""Picture files through Pillow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ssdlite.images.geometry import ImageArray, deep_grey_to_rgb

EXIF_ORIENTATION = 0x0112
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap height and width
TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read(path: Path | str, annotated_size: tuple[int, int] | None, reduction: int = 1) -> ImageArray:
    """See ``ssdlite.images.reading.read_image``. Raises whatever Pillow's decoders do."""
    with Image.open(path) as picture:  # Pillow itself refuses headers of more than 179 million pixels
        if reduction > 1 and _orientation(picture) == 1:
            picture.draft(None, (picture.width // reduction, picture.height // reduction))
        return to_rgb_array(picture, annotated_size)


def read_size(path: Path | str) -> tuple[tuple[int, int], tuple[int, int]]:
    """See ``ssdlite.images.reading.read_image_size``."""
    with Image.open(path) as picture:
        stored = (picture.height, picture.width)
        return (stored[::-1] if _orientation(picture) in SIDEWAYS else stored), stored


def to_rgb_array(picture: Image.Image, annotated_size: tuple[int, int] | None) -> ImageArray:
    stored = (picture.height, picture.width)
    orientation = _orientation(picture)
    drawn_as_stored = orientation in SIDEWAYS and annotated_size == stored and stored[0] != stored[1]
    if orientation in TRANSPOSITIONS and not drawn_as_stored:
        picture = picture.transpose(TRANSPOSITIONS[orientation])
    if picture.mode.startswith(("I", "F")):
        return deep_grey_to_rgb(np.asarray(picture))
    if picture.mode == "P" or (picture.mode in ("L", "RGB") and "transparency" in picture.info):
        picture = picture.convert("RGBA")  # resolves the palette's transparency entry before it is dropped
    return np.array(picture.convert("RGB"))


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) where there is none or it is damaged."""
    if picture.format == "PNG" and not {"exif", "Raw profile type exif"} & set(picture.info):
        return 1  # Pillow would decode the whole picture to look for a note after the pixels
    try:
        return int(picture.getexif().get(EXIF_ORIENTATION, 1))
    except Exception:  # a damaged note about a picture must not cost the picture
        return 1
