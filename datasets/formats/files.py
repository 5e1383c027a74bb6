"""Finding the pictures of a data set, never outside its folder, and reading its other files within bounds."""

from __future__ import annotations

import itertools
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

from ssdlite.errors import DataError
from ssdlite.images.reading import IMAGE_SUFFIXES

MOST_LISTED = 5_000_000  # files of a data set's folder that are looked through
SHOWN_PATHS = 3


class UnsafePathError(DataError):
    """A file name that leads out of the data folder: refused, never skipped."""


class AmbiguousPictureError(DataError):
    """Several pictures could be meant."""


class ImageFiles:
    """The files below one folder, each directory listed once.

    Links are followed as far as they stay inside ``folder`` or ``boundary`` (the root of the data set).
    """

    def __init__(self, folder: Path, boundary: Path | None = None) -> None:
        self.folder = folder
        self._inside = tuple({str(path.resolve()) for path in (folder, boundary or folder)})
        self._listings: dict[str, dict[str, bool]] = {}  # directory -> {name: is it a link?}
        self._stems: dict[str, dict[str, list[str]]] = {}

    def find(self, file_name: str) -> str | None:
        """The path of ``file_name`` below the folder; None where there is no such file.

        Raises:
            UnsafePathError: the name is absolute or leads out of the folder, by ``..`` or by a link.
        """
        parent, name = split_safely(file_name, self.folder)
        is_link = self._listing(parent).get(name)
        if is_link is None:
            return None
        path = os.path.join(self.folder, parent, name)  # noqa: PTH118 (called once per image: 10 times faster)
        if is_link:
            self.require_inside(path)
        return path

    def stems(self, suffix: str) -> list[str]:
        """The names of the files directly in the folder that end in ``suffix``, without it, sorted.

        Hidden ones are left out, as the "._a.xml" that macOS puts beside "a.xml" on other disks.
        """
        return sorted(
            name[: -len(suffix)]
            for name in self._listing("")
            if name.lower().endswith(suffix) and not name.startswith(".")
        )

    def find_stem(self, stem: str) -> str | None:
        """The picture called ``stem`` with any known suffix; None where there is none."""
        for suffix in IMAGE_SUFFIXES:
            for name in (stem + suffix, stem + suffix.upper()):
                if path := self.find(name):
                    return path
        return None

    def pictures(self) -> list[str]:
        """The paths of all pictures below the folder, sorted folder by folder. Links to folders are not followed.

        Raises:
            UnsafePathError: a picture is a link that leads out.
        """
        found = []
        for path, is_link in walk_pictures(self.folder):
            if is_link:
                self.require_inside(path)
            found.append(path)
        return found

    def by_stem(self, directory: str = "") -> dict[str, list[str]]:
        """Names of the pictures directly in a directory below the folder, by their stems; hidden ones are left out."""
        if directory not in self._stems:
            stems: dict[str, list[str]] = {}
            for name in sorted(self._listing(directory)):
                stem, ending = os.path.splitext(name)  # noqa: PTH122
                if ending.lower() in IMAGE_SUFFIXES and not name.startswith("."):
                    stems.setdefault(stem, []).append(name)
            self._stems[directory] = stems
        return self._stems[directory]

    def find_only(self, stem: str) -> str | None:
        """The picture called ``stem`` with any known suffix in any case; None where there is none.

        Raises:
            AmbiguousPictureError: there are several, naming them.
            UnsafePathError: see ``find``.
        """
        directory, own = split_safely(stem, self.folder)
        names = self.by_stem(directory).get(own, [])
        if len(names) > 1:
            raise AmbiguousPictureError(
                f"expected one picture called {own!r}, found {len(names)}: {', '.join(names[:SHOWN_PATHS])}"
                + (" ..." if len(names) > SHOWN_PATHS else "")
            )
        return self.find(os.path.join(directory, names[0])) if names else None  # noqa: PTH118

    def _listing(self, parent: str) -> dict[str, bool]:
        if parent not in self._listings:
            directory = self.folder / parent
            try:
                with os.scandir(directory) as entries:
                    listing = {entry.name: entry.is_symlink() for entry in entries}
            except (OSError, ValueError):  # ValueError: a name that cannot be a file name at all
                listing = {}
            else:
                self.require_inside(directory)
            self._listings[parent] = listing
        return self._listings[parent]

    def require_inside(self, path: Path | str) -> None:
        """An UnsafePathError where links lead out of the folder and the boundary."""
        target = os.path.realpath(path)
        if not any(target == inside or target.startswith(inside.rstrip(os.sep) + os.sep) for inside in self._inside):
            raise UnsafePathError(f"{path}: refused: this link leads out of the data folder, to {target}")


def split_safely(file_name: str, folder: Path) -> tuple[str, str]:
    """(directory, name), both relative to the folder, of a file name that stays inside it by its letters."""
    if file_name and file_name != ".." and not set(file_name) & set("/\\:"):
        return "", file_name
    plain = ".." not in file_name and not file_name.startswith("/") and not set(file_name) & set("\\:")
    for flavor in () if plain else (PurePosixPath, PureWindowsPath):
        path = flavor(file_name)
        depth = 0
        for part in path.parts:
            depth += -1 if part == ".." else 1
            if depth < 0 or path.anchor:
                raise UnsafePathError(f"{file_name!r}: refused: this image path leads out of {folder}")
    directory, name = os.path.split(os.path.normpath(file_name))
    return directory, name


class PictureTree:
    """All pictures below a folder, looked up by name or stem, for annotations whose folders are not those of today.

    Links are not followed. The folder is listed once, when first asked.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, file_name: str) -> str | None:
        """The picture that a foreign path such as ``C:\\cards\\train\\a.JPG`` means: by its name, whatever its case,
        and of several the one in the folders most alike; without a known ending by its stem.

        Raises:
            AmbiguousPictureError: several are meant, naming them.
        """
        parts = file_name.replace("\\", "/").casefold().split("/")
        known = parts[-1].endswith(IMAGE_SUFFIXES)
        paths = self._by_name.get(parts[-1], []) if known else self._by_stem.get(parts[-1], [])
        return self._only(file_name, _most_alike(parts, paths))

    def find_stem(self, stem: str, near: Path | None = None) -> str | None:
        """The picture called ``stem`` with any known suffix; of several the one in the folder ``near``.

        Raises:
            AmbiguousPictureError: several are meant, naming them.
        """
        paths = self._by_stem.get(stem.casefold(), [])
        beside = [path for path in paths if near is not None and Path(path).parent == near]
        return self._only(stem, beside or paths)

    def find_uploaded(self, name: str) -> str | None:
        """The picture that became ``name`` when it was uploaded to a server of Django, such as Label Studio.

        Raises:
            AmbiguousPictureError: several are meant, naming them.
        """
        return self._only(name, self._by_uploaded_name.get(_as_uploaded(name).casefold(), []))

    def _only(self, what: str, paths: list[str]) -> str | None:
        if len(paths) < 2:
            return paths[0] if paths else None
        shown = ", ".join(os.path.relpath(path, self.root) for path in paths[:SHOWN_PATHS])
        raise AmbiguousPictureError(
            f"{what!r}: expected one picture of that name, found {len(paths)}: {shown}"
            + (" ..." if len(paths) > SHOWN_PATHS else "")
        )

    @cached_property
    def paths(self) -> list[str]:
        """Of all pictures, folder by folder, sorted."""
        return [path for path, is_link in walk_pictures(self.root) if not is_link]

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        return _grouped(self.paths, lambda path: path.name)

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        return _grouped(self.paths, lambda path: path.stem)

    @cached_property
    def _by_uploaded_name(self) -> dict[str, list[str]]:
        return _grouped(self.paths, lambda path: _as_uploaded(path.name))


def _as_uploaded(name: str) -> str:
    """What Django's storage of files makes of a name."""
    return re.sub(r"[^-\w.]", "", name.strip().replace(" ", "_"))


def walk_pictures(root: Path) -> Iterator[tuple[str, bool]]:
    """The paths of all pictures below ``root``, and whether each is a link. Hidden folders and files are left out.

    Raises:
        DataError: there are more than ``MOST_LISTED`` files.
    """
    listed = 0
    for directory, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        listed += len(names)
        if listed > MOST_LISTED:
            raise DataError(f"{root}: expected a data set, found more than {MOST_LISTED} files below it")
        for name in sorted(names):
            path = os.path.join(directory, name)  # noqa: PTH118 (once per file: 10 times faster)
            ending = os.path.splitext(name)[1].lower()  # noqa: PTH122
            if ending in IMAGE_SUFFIXES and not name.startswith("."):
                yield path, os.path.islink(path)  # noqa: PTH114


def _grouped(paths: list[str], key: Callable[[PurePath], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for path in paths:
        groups.setdefault(key(PurePath(path)).casefold(), []).append(path)
    return groups


def _most_alike(parts: Sequence[str], paths: list[str]) -> list[str]:
    """Those of ``paths`` that lie in most of the folders of ``parts``, lower-case names of folders and the file."""

    def shared(path: str) -> int:
        own = PurePath(path.casefold()).parts
        pairs = zip(reversed(parts[:-1]), reversed(own[:-1]), strict=False)
        return len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))

    if len(paths) < 2:
        return paths
    counts = [shared(path) for path in paths]
    return [path for path, count in zip(paths, counts, strict=True) if count == max(counts)]


def read_bounded(path: Path, most: int) -> bytes:
    """A regular file of at most ``most`` bytes: a pipe or a device would never end.

    Raises:
        DataError: it is none, or cannot be read.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path}: expected an annotation file, got what is no regular file")
        if status.st_size > most:
            raise DataError(f"{path}: expected an annotation file of at most {most} bytes, got {status.st_size}")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
