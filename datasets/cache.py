"""Decoded pictures in a temporary file that all loader processes share: each is decoded once in a run."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ssdlite.errors import ConfigError, DataError
from ssdlite.files import counted
from ssdlite.images.geometry import CropWindow, ImageArray
from ssdlite.images.reading import read_image

KEPT_FREE = 1 << 30  # bytes that the disk keeps free


class PictureCache:
    """Room for the pictures of a data set; ``sizes`` [I, 2] are their (height, width).

    The system keeps in memory as much of the file as it has room for. It is deleted when the cache is, in the process
    that made it.

    Raises:
        ConfigError: the disk of the temporary folder has no room for it.
    """

    def __init__(self, sizes: npt.NDArray[np.int32]) -> None:
        self.sizes = sizes
        self.ends = np.cumsum(sizes.astype(np.int64).prod(axis=1) * 3)
        size = int(self.ends[-1]) if len(self.ends) else 0
        folder = Path(tempfile.mkdtemp(prefix="ssdlite-pictures-"))
        weakref.finalize(self, _remove, folder, os.getpid())
        free = shutil.disk_usage(folder).free
        if size > free - KEPT_FREE:
            raise ConfigError(
                f"--cache: {counted(len(sizes), 'picture')} take {size / 1e9:.1f} GB decoded, and the disk of "
                f"{folder.parent} has {free / 1e9:.1f} GB free"
            )
        self.files = folder / "pixels", folder / "filled"
        for file, length in zip(self.files, (size, len(sizes)), strict=True):
            with file.open("wb") as stream:
                stream.truncate(length)  # takes no room before it is written to
        self._open()

    def _open(self) -> None:
        self.pixels, self.filled = (
            np.memmap(file, np.uint8, "r+") if file.stat().st_size else np.empty(0, np.uint8) for file in self.files
        )

    def get(self, position: int) -> ImageArray | None:
        """The picture [H, W, 3], not to be written to; None if it has not been ``put`` yet."""
        if not self.filled[position]:
            return None
        picture = self._place(position)
        picture.flags.writeable = False
        return picture

    def put(self, position: int, picture: ImageArray) -> None:
        """Keep a picture of its size. Two processes may: what they write is the same."""
        self._place(position)[:] = picture
        self.filled[position] = 1

    def _place(self, position: int) -> ImageArray:
        height, width = self.sizes[position].tolist()
        end = int(self.ends[position])
        place: ImageArray = np.asarray(self.pixels[end - height * width * 3 : end]).reshape(height, width, 3)
        return place

    def __getstate__(self) -> dict[str, object]:
        """For loader processes that are started anew: the file, not its content."""
        return {name: value for name, value in vars(self).items() if name not in ("pixels", "filled")}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._open()


def _remove(folder: Path, owner: int) -> None:
    """Unless this is a forked process, which has a copy of the object only."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


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
        image = read_image(path, size, reduction=reduction)
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
