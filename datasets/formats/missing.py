"""Pictures that annotations name and that are not there: how many, and a folder nearby that holds them."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from ssdlite.datasets.index import Problem
from ssdlite.files import counted
from ssdlite.images.reading import is_picture_name

NOT_FOUND = "no such image file"
MOST_FILES_LOOKED_AT = 20_000
FOLDERS_ABOVE = 2  # data/set/images, where pictures may lie in data/photos


def missing_pictures(problems: Iterable[Problem]) -> list[str]:
    """Where pictures were looked for in vain, or the label files that have none."""
    return [one.file for one in problems if one.kind == "bad-image" and one.detail.startswith(NOT_FOUND)]


def describe_missing(problems: Iterable[Problem], present: Sequence[str]) -> str:
    """ "3 of 4 pictures are missing (75 %); /data/photos has 3 of them: --images /data/photos"; nothing where none is.

    Args:
        present: the paths of the pictures that are there.
    """
    missing = missing_pictures(problems)
    if not missing:
        return ""
    total = len(missing) + len(present)
    said = f"{len(missing)} of {counted(total, 'picture')} {'is' if len(missing) == 1 else 'are'} missing"
    return f"{said} ({len(missing) / total:.0%}); {where_missing(missing, present)}"


def where_missing(missing: Sequence[str], present: Sequence[str] = ()) -> str:
    """What to do about it: the folder nearby that has most of ``missing`` named, or what to do where none has."""
    wanted = set(map(_stem, missing))
    start = next(folder for folder in Path(missing[0]).absolute().parents if os.path.isdir(folder))  # noqa: PTH112 (no error for any name)
    for base in (start, *list(start.parents)[:FOLDERS_ABOVE]):
        holding: dict[str, set[str]] = defaultdict(set)
        for folder, name in _pictures_below(base):
            holding[folder].add(_stem(name))
        best = max(holding, key=lambda folder: len(holding[folder] & wanted), default="")
        found = holding[best] & wanted if best else set()
        if len(found) > len(wanted) / 2:
            has = f"{best} has pictures of {len(found)} of these names"
            together = holding[best].issuperset(map(_stem, present))
            return f"{has}: --images {best}" if together else f"{has}: put them beside the others"
    if present:
        return "put them beside the others, or name the folder that has them all with --images DIR"
    return "where they lie in another folder, name it with --images DIR"


def _pictures_below(base: Path) -> Iterator[tuple[str, str]]:
    """(folder, name) of the pictures in and below ``base``, of its first files."""
    looked_at = 0
    for folder, inner, names in os.walk(base):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        yield from ((folder, name) for name in names if is_picture_name(name))
        looked_at += len(names) + 1
        if looked_at > MOST_FILES_LOOKED_AT:
            return


def _stem(path: str) -> str:
    return PurePosixPath(path.replace("\\", "/")).stem.casefold()
