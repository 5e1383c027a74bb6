"""Decoded pictures in a temporary file that all loader processes share: each is decoded once in a run."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ssdlite.errors import ConfigError
from ssdlite.image import ImageArray
from ssdlite.wording import counted

SPARE = 1 << 30  # bytes that the disk keeps free


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
        if size > free - SPARE:
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
