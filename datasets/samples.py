"""One picture and its objects on the way to the network: decoded whole, or a large JPEG at a fraction of its size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ssdlite.errors import DataError
from ssdlite.images.geometry import LETTERBOX_FILL, CropWindow, ImageArray
from ssdlite.images.reading import read_image

NOT_DECODED: ImageArray = np.empty((0, 0, 3), np.uint8)


@dataclass
class Sample:
    """One picture and its objects; ``window``, once it is at the network's size, is its crop window in the source.

    A mosaic has the id and the position of its first picture, and is not cropped. ``file``, where there is one, is
    decoded once the crop window is known; until then ``image`` is empty.
    """

    image: ImageArray  # [H, W, 3] RGB
    boxes: npt.NDArray[np.float32]  # [N, 4] xyxy pixels of the picture
    labels: npt.NDArray[np.int64]  # [N] in 0..K-1
    ignore: npt.NDArray[np.bool_]  # [N] crowd regions and difficult objects
    image_id: int
    position: int  # in the index
    window: CropWindow | None = None
    file: LargePicture | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the picture."""
        height, width = self.image.shape[:2] if self.file is None else self.file.size
        return height, width

    def shown(self, window: CropWindow, fill: int = LETTERBOX_FILL) -> Sample:
        """What ``window`` shows of the picture [*window.size, 3], and its exact window; boxes not clipped."""
        if self.file is None:
            image = window.render(self.image, fill)
        else:
            image, window = self.file.render(window, fill)
        return replace(self, image=image, boxes=window.boxes_to_input(self.boxes), window=window, file=None)


class BadSample(NamedTuple):
    """In place of a sample whose picture cannot be decoded: the collation counts it and goes on."""

    position: int
    error: str


# --- Large JPEGs decoded at a fraction of their size: no larger than what is shown of them needs.

REDUCTIONS = (8, 4, 2)  # what JPEG decoders offer
JPEG_SUFFIXES = (".jpg", ".jpeg")


class BadPictureError(DataError):
    """The picture at ``position`` in an index cannot be decoded, or is of another size than the index says."""

    def __init__(self, position: int, message: str) -> None:
        super().__init__(message)
        self.position = position


@dataclass(frozen=True)
class LargePicture:
    """A JPEG that is decoded when it is known what of it is shown; ``size`` is its (height, width)."""

    path: str
    size: tuple[int, int]
    position: int

    def render(self, window: CropWindow, fill: int) -> tuple[ImageArray, CropWindow]:
        """The window [*window.size, 3], and the one that it became: on whole pixels of the reduced picture.

        Raises:
            BadPictureError: it cannot be decoded.
        """
        times = reduction(window)
        image = read_picture(self.path, self.size, self.position, reduction=times)
        if image.shape[:2] == self.size:
            return window.render(image, fill), window
        reduced = CropWindow(
            window.x0 // times, window.y0 // times, -(-window.x1 // times), -(-window.y1 // times), window.size
        )
        x0, y0, x1, y1 = (value * times for value in (reduced.x0, reduced.y0, reduced.x1, reduced.y1))
        return reduced.render(image, fill), replace(window, x0=x0, y0=y0, x1=x1, y1=y1)


def read_picture(path: str, size: tuple[int, int], position: int, reduction: int = 1) -> ImageArray:
    """The picture at ``position``, of (height, width) ``size``; or a ``reduction``-th of it, if its format allows.

    Raises:
        BadPictureError: it cannot be decoded, or is of another size.
    """
    try:
        image = read_image(path, reduction=reduction)
    except DataError as error:
        raise BadPictureError(position, str(error)) from None
    reduced = tuple(-(-side // reduction) for side in size)
    if image.shape[:2] not in (size, reduced):
        raise BadPictureError(position, f"{path}: expected size {size}, got {image.shape[:2]}")
    return image


def reduction(window: CropWindow) -> int:
    """The largest that leaves a pixel of the picture for every pixel of the window."""
    times = 1 / max(window.scale)
    return next((one for one in REDUCTIONS if one <= times), 1)


def is_large(path: str, size: tuple[int, int], input_size: tuple[int, int]) -> bool:
    """Whether a picture shown whole would be reduced; both sizes (height, width)."""
    return Path(path).suffix.lower() in JPEG_SUFFIXES and all(
        own >= REDUCTIONS[-1] * wanted for own, wanted in zip(size, input_size, strict=True)
    )
