"""Finding the pictures that annotations name, never outside the data folder, and reading their headers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath, PureWindowsPath

from ssdlite.errors import DataError
from ssdlite.images.reading import read_size_as_annotated

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm")
HEADER_THREADS = 8
HEADERS_PER_TASK = 128
Size = tuple[int, int]


class UnsafePathError(DataError):
    """A file name that leads out of the data folder: refused, never skipped."""


class ImageFiles:
    """The files below one folder, each directory listed once.

    Links are followed as far as they stay inside ``folder`` or ``boundary`` (the root of the data set).
    """

    def __init__(self, folder: Path, boundary: Path | None = None) -> None:
        self.folder = folder
        self._inside = tuple({str(path.resolve()) for path in (folder, boundary or folder)})
        self._listings: dict[str, dict[str, bool]] = {}  # directory -> {name: is it a link?}

    def find(self, file_name: str) -> str | None:
        """The path of ``file_name`` below the folder; None where there is no such file.

        Raises:
            UnsafePathError: the name is absolute or leads out of the folder, by ``..`` or by a link.
        """
        parent, name = _split_safely(file_name, self.folder)
        is_link = self._listing(parent).get(name)
        if is_link is None:
            return None
        path = os.path.join(self.folder, parent, name)  # noqa: PTH118 (called once per image: 10 times faster)
        if is_link:
            self._require_inside(path)
        return path

    def stems(self, suffix: str) -> list[str]:
        """The names of the files directly in the folder that end in ``suffix``, without it, sorted."""
        return sorted(name[: -len(suffix)] for name in self._listing("") if name.lower().endswith(suffix))

    def find_stem(self, stem: str) -> str | None:
        """The picture called ``stem`` with any known suffix; None where there is none."""
        for suffix in IMAGE_SUFFIXES:
            for name in (stem + suffix, stem + suffix.upper()):
                if path := self.find(name):
                    return path
        return None

    def _listing(self, parent: str) -> dict[str, bool]:
        if parent not in self._listings:
            directory = self.folder / parent
            try:
                with os.scandir(directory) as entries:
                    listing = {entry.name: entry.is_symlink() for entry in entries}
            except (OSError, ValueError):  # ValueError: a name that cannot be a file name at all
                listing = {}
            else:
                self._require_inside(directory)
            self._listings[parent] = listing
        return self._listings[parent]

    def _require_inside(self, path: Path | str) -> None:
        target = os.path.realpath(path)
        if not any(target == inside or target.startswith(inside.rstrip(os.sep) + os.sep) for inside in self._inside):
            raise UnsafePathError(f"{path}: refused: this link leads out of the data folder, to {target}")


def read_sizes(paths: Sequence[str], annotated: Sequence[Size | None]) -> list[Size | DataError]:
    """For every picture its (height, width) as ``read_image`` will give it, or what is wrong with it.

    ``annotated`` holds the (height, width) that the annotations state, None where they state none.
    """

    def read(start: int) -> list[Size | DataError]:
        part = slice(start, start + HEADERS_PER_TASK)
        return [_read_size(path, size) for path, size in zip(paths[part], annotated[part], strict=True)]

    with ThreadPoolExecutor(HEADER_THREADS) as pool:
        return [size for sizes in pool.map(read, range(0, len(paths), HEADERS_PER_TASK)) for size in sizes]


def _read_size(path: str, annotated: Size | None) -> Size | DataError:
    try:
        return read_size_as_annotated(path, annotated)
    except DataError as error:
        return error


def _split_safely(file_name: str, folder: Path) -> tuple[str, str]:
    """(directory, name), both relative to the folder, of a file name that stays inside it by its letters."""
    if file_name and file_name != ".." and not set(file_name) & set("/\\:"):
        return "", file_name
    for flavour in (PurePosixPath, PureWindowsPath):
        path = flavour(file_name)
        depth = 0
        for part in path.parts:
            depth += -1 if part == ".." else 1
            if depth < 0 or path.anchor:
                raise UnsafePathError(f"{file_name!r}: refused: this image path leads out of {folder}")
    directory, name = os.path.split(os.path.normpath(file_name))
    return directory, name
