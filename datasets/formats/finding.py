"""The pictures that annotations made elsewhere name: as the paths stand there, or by the names alone."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from ssdlite.datasets.formats.files import (
    AmbiguousPictureError,
    ImageFiles,
    PictureTree,
    UnsafePathError,
    split_safely,
)
from ssdlite.datasets.formats.missing import NOT_FOUND, where_missing
from ssdlite.errors import DataError

PROBED_NAMES = 20  # enough to tell which of several folders holds the pictures


class Found(NamedTuple):
    """The picture of a name, or why there is none. ``place``: where it was looked for, for messages."""

    path: str | None
    place: str
    error: str = ""


def find_pictures(names: Sequence[str], folders: Sequence[Path], root: Path | None, source: str | Path) -> list[Found]:
    """The pictures of ``names``, each of its own, in that of ``folders`` which holds most of them.

    A name is first a path in that folder, also with URL's escapes or backslashes. Where its own folders are not there
    any more, or it is the path of another machine, the picture is the one of that name, in any case and with any
    ending, anywhere below: but never one that belongs to another of ``names``, nor one of another folder than that in
    which others were found. If none of ``folders`` holds any, all of ``root`` is looked through.

    Args:
        root: links may lead anywhere inside it; by default not out of their folder.
        source: the file that has the names, for messages.

    Raises:
        UnsafePathError: a name leads out of the folder: by a link, or to a file that exists, or by its letters where
            no picture has that name.
        DataError: there is none of the folders.
    """
    files, holds_some = _choose_folder([ImageFiles(folder, root) for folder in folders], names)
    tree = PictureTree(files.folder if holds_some or len(folders) == 1 or root is None else root)
    found = _find_each(names, files, tree, root or files.folder, source)
    places = (str(files.folder / name) for name in names)
    return [
        Found(None, place, str(path)) if isinstance(path, DataError) else Found(path, place)
        for path, place in zip(found, places, strict=True)
    ]


def _choose_folder(candidates: Sequence[ImageFiles], names: Sequence[str]) -> tuple[ImageFiles, bool]:
    """The folder that holds most of some of the pictures, so that a missing one is named where it belongs; does it?"""
    probes = names[:: max(1, len(names) // PROBED_NAMES)]
    existing = [files for files in candidates if files.folder.is_dir()]
    if not existing:
        looked_for = ", ".join(str(files.folder) for files in candidates)
        hint = where_missing([str(candidates[0].folder / name) for name in names])
        raise DataError(f"no image folder: looked for {looked_for}; {hint}")
    counts = [sum(_holds(files, name) for name in probes) for files in existing]
    return existing[counts.index(max(counts))], max(counts) > 0


def _find_each(
    names: Sequence[str], files: ImageFiles, tree: PictureTree, root: Path, source: str | Path
) -> list[str | DataError]:
    try:
        found: list[str | DataError | None] = [_find_directly(name, files) for name in names]
    except UnsafePathError as error:
        raise UnsafePathError(f"{source}: {error}") from None
    owned = {path for path in found if isinstance(path, str)}
    known_folders = {os.path.dirname(path) for path in owned}  # noqa: PTH120 (once per picture)
    taken: dict[str, str] = {}  # path -> the name that it was found by
    refused: DataError | None = None
    foreign_found = False
    for position, name in enumerate(names):
        if found[position] is not None:
            continue
        foreign = leads_out(name, files.folder)
        if foreign is not None:
            _require_elsewhere(name, (files.folder, root), UnsafePathError(f"{source}: {foreign}"))
        path = _find_by_name(name, files.folder, tree, known_folders if foreign is None else set())
        if isinstance(path, str):
            path = None if path in owned else path
            if path in taken:
                path = DataError(f"{name!r}: {path} is already that of {taken[path]!r}")
            elif path is not None:
                taken[path] = name
        if foreign is not None:
            foreign_found = foreign_found or path is not None
            refused = refused or (UnsafePathError(f"{source}: {foreign}") if path is None else None)
        found[position] = path
    if refused and not foreign_found:
        raise refused
    return [path or DataError(NOT_FOUND) for path in found]


UPLOAD_PREFIX = re.compile(r"^(.*/)?[0-9a-f]{8}-(?=[^/]+$)")  # that Label Studio puts before names


def spellings(name: str) -> list[str]:
    """``name``, with slashes for backslashes, without URL's escapes, and as it was before an upload, each once."""
    slashes = name.replace("\\", "/")
    plain = unquote(slashes) if "%" in slashes else slashes
    return list(dict.fromkeys((name, slashes, plain, UPLOAD_PREFIX.sub(r"\1", plain))))


def leads_out(name: str, folder: Path) -> UnsafePathError | None:
    """The error of a name that is absolute or leads out of ``folder`` by its letters."""
    for spelling in spellings(name):
        try:
            split_safely(spelling, folder)
        except UnsafePathError as error:
            return error
    return None


def _holds(files: ImageFiles, name: str) -> bool:
    try:
        return _find_directly(name, files) is not None
    except UnsafePathError:
        return False


def _find_directly(name: str, files: ImageFiles) -> str | None:
    if leads_out(name, files.folder):
        return None
    return next((path for spelling in spellings(name) if (path := files.find(spelling))), None)


def _require_elsewhere(name: str, places: Sequence[Path], error: UnsafePathError) -> None:
    """Raise ``error`` unless a path that leads out of a folder is another machine's, or leads back into ``places``."""
    if name.startswith(("\\\\", "//")):  # a share in the network, which is not looked at
        raise error
    inside = tuple(os.path.realpath(place).rstrip(os.sep) + os.sep for place in places)
    for path in (place / spelling for place in places for spelling in spellings(name)):
        try:
            target = os.path.realpath(path)
            exists = os.path.lexists(target)
        except (OSError, ValueError):  # ValueError: a name that cannot be a file name at all
            continue
        if exists and not target.startswith(inside):
            raise UnsafePathError(f"{error}; if the pictures are there, name their folder with --images")


def _find_by_name(name: str, folder: Path, tree: PictureTree, known_folders: set[str]) -> str | DataError | None:
    """By the name in any case, else by the stem; where others of its folder were found, in that folder alone."""
    for spelling in spellings(name):
        own_folder = os.path.normpath(folder / os.path.dirname(spelling))  # noqa: PTH120
        try:
            path = tree.find(str(folder / spelling)) or tree.find_stem(Path(spelling).stem, near=Path(own_folder))
            if path is None and UPLOAD_PREFIX.match(name):
                path = tree.find_uploaded(Path(spelling).name)
        except AmbiguousPictureError as error:
            return error
        if path and (own_folder not in known_folders or os.path.dirname(path) == own_folder):  # noqa: PTH120
            return path
    return None
