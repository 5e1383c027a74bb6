"""Reading pictures, and the one geometry that takes them to the network's input and boxes back again.

Needs numpy, Pillow and OpenCV only. Training, prediction and exported models all come through here, which is
what keeps them from disagreeing about rotation, colour or resizing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from ssdlite.errors import DataError

Resize = Literal["stretch", "letterbox"]
ImageArray = npt.NDArray[np.uint8]

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
LETTERBOX_FILL = 114  # the grey that detectors conventionally pad with


@dataclass(frozen=True)
class View:
    """The rectangle of a source image that fills the network's input.

    ``x0, y0, x1, y1`` are source pixels and may reach outside the image (that part is filled); ``size`` is
    the input's (height, width). Stretching, letterboxing, cropping and zooming out are all views.
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

    def boxes_to_input(self, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """boxes [N, 4] xyxy in source pixels -> xyxy in input pixels, not clipped."""
        scale, origin = self._affine()
        return (boxes - origin) * scale

    def boxes_to_source(self, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """boxes [N, 4] xyxy in input pixels -> xyxy in source pixels, not clipped."""
        scale, origin = self._affine()
        return boxes / scale + origin

    def render(self, image: ImageArray, fill: int = LETTERBOX_FILL) -> ImageArray:
        """image [H, W, 3] -> the view [*size, 3], bilinear with half-pixel centres (``cv2.INTER_LINEAR``)."""
        height, width = self.size
        image_height, image_width = image.shape[:2]
        x0, y0 = max(self.x0, 0), max(self.y0, 0)
        x1, y1 = min(self.x1, image_width), min(self.y1, image_height)
        if (x0, y0, x1, y1) == (self.x0, self.y0, self.x1, self.y1):
            return _resize(image[y0:y1, x0:x1], height, width)
        canvas = np.full((height, width, 3), fill, np.uint8)
        scale_x, scale_y = self.scale
        left, right = round((x0 - self.x0) * scale_x), round((x1 - self.x0) * scale_x)
        top, bottom = round((y0 - self.y0) * scale_y), round((y1 - self.y0) * scale_y)
        if right > left and bottom > top and x1 > x0 and y1 > y0:
            canvas[top:bottom, left:right] = _resize(image[y0:y1, x0:x1], bottom - top, right - left)
        return canvas

    def _affine(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        scale = np.array(self.scale * 2, np.float32)
        origin = np.array([self.x0, self.y0] * 2, np.float32)
        return scale, origin


@dataclass(frozen=True)
class Framing:
    """How whole pictures become the network's input: its (height, width), ``resize``, and what fills the rest."""

    size: tuple[int, int]
    resize: Resize
    fill: int = LETTERBOX_FILL

    def view(self, image_size: tuple[int, int]) -> View:
        """The view that shows a picture of (height, width) ``image_size``."""
        return fit_view(image_size, self.size, self.resize)


def fit_view(image_size: tuple[int, int], input_size: tuple[int, int], resize: Resize) -> View:
    """The view that shows a whole image, both sizes (height, width).

    ``stretch`` fills the input and gives up the aspect ratio; ``letterbox`` keeps it, centred, and pads.
    """
    height, width = image_size
    if resize == "stretch":
        return View(0, 0, width, height, input_size)
    scale = min(input_size[0] / height, input_size[1] / width)
    view_width, view_height = (
        max(round(input_size[1] / scale), width),
        max(round(input_size[0] / scale), height),
    )
    left, top = (view_width - width) // 2, (view_height - height) // 2
    return View(-left, -top, view_width - left, view_height - top, input_size)


def read_image(path: Path | str, annotated_size: tuple[int, int] | None = None) -> ImageArray:
    """A picture file as uint8 RGB [H, W, 3], upright.

    Grey, palette, 16-bit and CMYK pictures become 8-bit RGB; an alpha channel is dropped. The EXIF
    orientation is applied, except where ``annotated_size`` (height, width) shows that the boxes were drawn
    on the pixels as stored.

    Raises:
        DataError: the file is missing, not a picture, truncated or too large; the message names it.
    """
    try:
        with _open(path) as picture:
            return _to_rgb_array(picture, annotated_size)
    except FileNotFoundError:
        raise DataError(f"{path}: no such image file") from None
    except Exception as error:  # Pillow's decoders raise whatever their format led them to
        raise DataError(f"{path}: cannot be read as an image ({error})") from error


def read_image_size(path: Path | str) -> tuple[tuple[int, int], tuple[int, int]]:
    """(upright, stored) sizes of a picture file, each (height, width), from its header alone.

    Raises:
        DataError: the file is missing or not a picture; the message names it.
    """
    try:
        with _open(path) as picture:
            stored = (picture.height, picture.width)
            return (stored[::-1] if _orientation(picture) in SIDEWAYS else stored), stored
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


def to_rgb(picture: Image.Image) -> ImageArray:
    """A Pillow picture of any mode as upright uint8 RGB [H, W, 3]."""
    return _to_rgb_array(picture, None)


def _open(path: Path | str) -> Image.Image:
    return Image.open(path)  # Pillow itself refuses headers of more than 179 million pixels


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) where there is none or it is damaged."""
    if picture.format == "PNG" and not {"exif", "Raw profile type exif"} & set(picture.info):
        return 1  # Pillow would decode the whole picture to look for a note after the pixels
    try:
        return int(picture.getexif().get(EXIF_ORIENTATION, 1))
    except Exception:  # a damaged note about a picture must not cost the picture
        return 1


def _to_rgb_array(picture: Image.Image, annotated_size: tuple[int, int] | None) -> ImageArray:
    stored = (picture.height, picture.width)
    orientation = _orientation(picture)
    drawn_as_stored = orientation in SIDEWAYS and annotated_size == stored and stored[0] != stored[1]
    if orientation in TRANSPOSITIONS and not drawn_as_stored:
        picture = picture.transpose(TRANSPOSITIONS[orientation])
    if picture.mode.startswith(("I", "F")):
        return _from_deep(np.asarray(picture))
    if picture.mode == "P" or (picture.mode in ("L", "RGB") and "transparency" in picture.info):
        picture = picture.convert("RGBA")  # resolves the palette's transparency entry before it is dropped
    return np.array(picture.convert("RGB"))


def _from_deep(pixels: npt.NDArray[np.generic]) -> ImageArray:
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


def _resize(image: ImageArray, height: int, width: int) -> ImageArray:
    if image.shape[:2] == (height, width):
        return np.ascontiguousarray(image)
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
