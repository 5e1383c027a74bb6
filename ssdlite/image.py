"""Reading pictures, and the one geometry that takes them to the network's input and boxes back again.

Needs numpy, and Pillow or OpenCV. Training, prediction and exported models all come through here, which is
what keeps them from disagreeing about rotation, colour or resizing.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from ssdlite.errors import ConfigError, DataError
from ssdlite.jpeg_header import jpeg_size
from ssdlite.optional import find_opencv, find_pillow
from ssdlite.pixels import ImageArray, resize_bilinear

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "LETTERBOX_FILL",
    "Framing",
    "ImageArray",
    "Resize",
    "View",
    "fit_view",
    "read_image",
    "read_image_size",
    "read_size_as_annotated",
    "to_rgb",
]

Resize = Literal["stretch", "letterbox"]

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

    def render(self, image: ImageArray, fill: int = LETTERBOX_FILL) -> ImageArray:
        """image [H, W, 3] -> the view [*size, 3], bilinear with half-pixel centres (``cv2.INTER_LINEAR``)."""
        height, width = self.size
        image_height, image_width = image.shape[:2]
        x0, y0 = max(self.x0, 0), max(self.y0, 0)
        x1, y1 = min(self.x1, image_width), min(self.y1, image_height)
        if (x0, y0, x1, y1) == (self.x0, self.y0, self.x1, self.y1):
            return resize_bilinear(image[y0:y1, x0:x1], height, width)
        canvas = np.full((height, width, 3), fill, np.uint8)
        scale_x, scale_y = self.scale
        left, right = round((x0 - self.x0) * scale_x), round((x1 - self.x0) * scale_x)
        top, bottom = round((y0 - self.y0) * scale_y), round((y1 - self.y0) * scale_y)
        if right > left and bottom > top and x1 > x0 and y1 > y0:
            canvas[top:bottom, left:right] = resize_bilinear(image[y0:y1, x0:x1], bottom - top, right - left)
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
    from ssdlite.pillow_reader import to_rgb_array

    return to_rgb_array(picture, None)


def _reader() -> Any:
    """The module that reads picture files."""
    if find_pillow() is not None:
        return importlib.import_module("ssdlite.pillow_reader")
    if find_opencv() is not None:
        return importlib.import_module("ssdlite.opencv_reader")
    raise ConfigError("reading picture files needs Pillow or OpenCV; `pip install pillow`")
