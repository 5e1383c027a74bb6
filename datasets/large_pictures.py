"""Large JPEGs decoded at a fraction of their size: no larger than what is shown of them needs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ssdlite.errors import DataError
from ssdlite.image import ImageArray, View, read_image

REDUCTIONS = (8, 4, 2)  # what JPEG decoders offer
SUFFIXES = (".jpg", ".jpeg")


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

    def render(self, view: View, fill: int) -> tuple[ImageArray, View]:
        """The view [*view.size, 3], and the one that it became: on whole pixels of the reduced picture.

        Raises:
            BadPictureError: it cannot be decoded.
        """
        times = reduction(view)
        image = read_picture(self.path, self.size, self.position, reduction=times)
        if image.shape[:2] == self.size:
            return view.render(image, fill), view
        reduced = View(view.x0 // times, view.y0 // times, -(-view.x1 // times), -(-view.y1 // times), view.size)
        x0, y0, x1, y1 = (value * times for value in (reduced.x0, reduced.y0, reduced.x1, reduced.y1))
        return reduced.render(image, fill), replace(view, x0=x0, y0=y0, x1=x1, y1=y1)


def read_picture(path: str, size: tuple[int, int], position: int, reduction: int = 1) -> ImageArray:
    """The picture at ``position``, of (height, width) ``size``; or a ``reduction``-th of it, if its format allows.

    Raises:
        BadPictureError: it cannot be decoded, or is of another size.
    """
    try:
        image = read_image(path, size, reduction=reduction)
    except DataError as error:
        raise BadPictureError(position, str(error)) from None
    reduced = tuple(-(-side // reduction) for side in size)
    if image.shape[:2] not in (size, reduced):
        raise BadPictureError(position, f"{path}: expected size {size}, got {image.shape[:2]}")
    return image


def reduction(view: View) -> int:
    """The largest that leaves a pixel of the picture for every pixel of the view."""
    times = 1 / max(view.scale)
    return next((one for one in REDUCTIONS if one <= times), 1)


def is_large(path: str, size: tuple[int, int], input_size: tuple[int, int]) -> bool:
    """Whether a picture shown whole would be reduced; both sizes (height, width)."""
    return Path(path).suffix.lower() in SUFFIXES and all(
        own >= REDUCTIONS[-1] * wanted for own, wanted in zip(size, input_size, strict=True)
    )
