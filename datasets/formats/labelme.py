"""LabelMe: a JSON file for each picture, beside it or in a folder of its own."""

from __future__ import annotations

import itertools
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import msgspec

from ssdlite.datasets.formats.base import Annotations, AnnotationsBuilder, BadItems, Box
from ssdlite.datasets.formats.files import ImageFiles
from ssdlite.datasets.formats.finding import find_pictures, leads_out
from ssdlite.datasets.formats.json_files import decode_json, number, read_head, read_json
from ssdlite.datasets.formats.options import ReadOptions
from ssdlite.datasets.formats.outlines import Point, box_of_ellipse, box_of_points
from ssdlite.datasets.formats.splits import WHOLE_FOLDER, split_word, subfolders
from ssdlite.errors import DataError, quote
from ssdlite.files import counted, listing
from ssdlite.images.geometry import Size
from ssdlite.images.reading import is_picture_name

MAX_LABELME_BYTES = 1 << 26  # with the picture in it, which is passed over
PROBED_FILES = 3  # of a folder


class LabelMeFormat:
    """Rectangles, and the boxes around polygons, circles and masks; a folder called as a split is one."""

    name = "LabelMe"
    looked_for = "a LabelMe JSON file for each picture"

    def find_splits(self, root: Path) -> list[str]:
        return sorted(_find_folders(root))

    def read_split(self, root: Path, split: str, bad: BadItems, options: ReadOptions) -> Annotations:
        folders = _find_folders(root)
        everywhere = _files(sorted(itertools.chain.from_iterable(folders.values())))
        numbers = {file: position for position, file in enumerate(everywhere, start=1)}
        builder = AnnotationsBuilder(f"{root} ({split})")
        pages = list(_read_pages(_files(folders[split]), builder.notes, bad))
        pictures = _find_pictures(pages, root, Path(options.images) if options.images else None, bad)
        _add_pages(builder, pages, pictures, numbers, bad)
        if unlabeled := _count_others(folders[split], pictures):
            builder.notes.append(f"{root}: {counted(unlabeled, 'picture')} without a JSON file: left out")
        return builder.build()

    def order_classes(self, names: set[str]) -> Sequence[str]:
        return sorted(names)


def _find_folders(root: Path) -> dict[str, list[Path]]:
    """The folders with such files of every split, at most two below ``root``."""
    if not root.is_dir():
        return {}
    if _holds_pages(root):
        return {WHOLE_FOLDER: [root]}
    found: dict[str, list[Path]] = {}
    for folder in subfolders(root):
        for place in (folder, *subfolders(folder)):
            if _holds_pages(place):
                words = (word for part in place.relative_to(root).parts if (word := split_word(part)))
                found.setdefault(next(words, WHOLE_FOLDER), []).append(place)
    return found


def _holds_pages(folder: Path) -> bool:
    return any(is_labelme(path) for path in _files([folder])[:PROBED_FILES])


def is_labelme(path: Path) -> bool:
    head = read_head(path)
    return head.startswith(b"{") and b'"shapes"' in head and (b'"imagePath"' in head or b'"flags"' in head)


def _files(folders: Sequence[Path]) -> list[Path]:
    return [folder / name for folder in folders for name in _names(folder) if name.lower().endswith(".json")]


def _names(folder: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))  # noqa: PTH208
    except OSError:
        return []


class LabelMeFile(msgspec.Struct):
    """What is read of a file; ``imageData``, the picture in base64, is not among it."""

    shapes: list[msgspec.Raw]
    imagePath: Any = None  # noqa: N815 (the file's own names)
    imageHeight: Any = None  # noqa: N815
    imageWidth: Any = None  # noqa: N815

    @property
    def size(self) -> Size | None:
        """(height, width); what is no positive number counts as not stated."""
        height, width = self.imageHeight, self.imageWidth
        if isinstance(height, int) and isinstance(width, int) and 0 < height < 1 << 31 and 0 < width < 1 << 31:
            return height, width
        return None


class Page(NamedTuple):
    file: Path
    content: LabelMeFile


def _read_pages(files: Sequence[Path], notes: list[str], bad: BadItems) -> Iterator[Page]:
    others = 0
    for file in files:
        try:
            content = read_json(file, LabelMeFile, "a LabelMe file", MAX_LABELME_BYTES)
            content.shapes = [shape.copy() for shape in content.shapes]  # without the rest of the file
            yield Page(file, content)
        except DataError as error:
            if b'"shapes"' in read_head(file):
                bad.add("bad-annotation", file, str(error).removeprefix(f"{file}: "))
            else:
                others += 1
    if others:
        notes.append(f"{counted(others, 'JSON file')} without shapes: passed over")


# --- The pictures: the one that is there with the file's own name, else the named one.


def _find_pictures(pages: Sequence[Page], root: Path, elsewhere: Path | None, bad: BadItems) -> dict[Path, str]:
    """The picture of every file that has one."""
    files = ImageFiles(root)
    found: dict[Path, str] = {}
    names: dict[Path, str] = {}
    for page in pages:
        folder = page.file.parent.relative_to(root).as_posix()
        named = _named_path(page, folder, files)
        own = None if elsewhere else files.find_stem(os.path.join(folder, page.file.stem))  # noqa: PTH118
        if own is None:
            names[page.file] = named
            continue
        found[page.file] = own
        if PurePosixPath(named).stem != page.file.stem and not leads_out(named, root) and files.find(named):
            detail = f"imagePath names {quote(page.content.imagePath)}, but {Path(own).name} is there too and was taken"
            bad.mend("other-picture", page.file, detail)
    pictures = find_pictures(list(names.values()), [elsewhere or root], root, root) if names else []
    for file, picture in zip(names, pictures, strict=True):
        if picture.path is None:
            bad.add("bad-image", picture.place, f"{picture.error} (of {file.name})")
        else:
            found[file] = picture.path
    return found


def _named_path(page: Page, folder: str, files: ImageFiles) -> str:
    """Of a picture as its file names it, from the root of the data; that beside the file if the path leads out."""
    stated = page.content.imagePath
    path = stated.replace("\\", "/") if isinstance(stated, str) and stated else f"{page.file.stem}.jpg"
    inside = os.path.normpath(os.path.join(folder, path))  # noqa: PTH118
    if leads_out(inside, files.folder) is None:
        return inside
    beside = os.path.normpath(os.path.join(folder, path.rpartition("/")[2]))  # noqa: PTH118
    return beside if leads_out(beside, files.folder) is None and files.find(beside) else inside


def _count_others(folders: Sequence[Path], pictures: dict[Path, str]) -> int:
    """Pictures in the folders of the split that belong to no file."""
    used = set(pictures.values())
    paths = (str(folder / name) for folder in folders for name in _names(folder) if is_picture_name(name))
    return sum(path not in used for path in paths)


# --- Objects.


class LabelMeShape(msgspec.Struct):
    label: str
    points: list[tuple[Any, Any]]
    shape_type: str | None = "polygon"


def _add_pages(
    builder: AnnotationsBuilder,
    pages: Sequence[Page],
    pictures: dict[Path, str],
    numbers: dict[Path, int],
    bad: BadItems,
) -> None:
    passed_over: Counter[str] = Counter()
    for page in pages:
        if page.file not in pictures:
            continue
        position = builder.add_image(pictures[page.file], page.content.size, numbers[page.file])
        for count, raw in enumerate(page.content.shapes, start=1):
            where = f"shape {count}"
            try:
                shape = decode_json(raw, LabelMeShape)
                outline = OUTLINES.get(shape.shape_type or "polygon")
                if outline is None:
                    passed_over[shape.shape_type or ""] += 1
                    continue
                box = outline([(number(x, "x"), number(y, "y")) for x, y in shape.points])
                if not shape.label.strip():
                    raise DataError("expected a label, got none")
            except DataError as error:
                builder.add_unread(position, bad, page.file, f"{where}: {error}")
            else:
                builder.add_object(position, shape.label.strip(), box, page.file, where)
    if passed_over:
        kinds = listing(f"{kind} ({count})" for kind, count in sorted(passed_over.items()))
        builder.notes.append(f"{builder.source}: what has no box is passed over: {kinds}")


def _circle(points: Sequence[Point]) -> Box:
    if len(points) != 2:
        raise DataError(f"expected the middle of a circle and a point on it, got {counted(len(points), 'point')}")
    radius = math.dist(*points)
    return box_of_ellipse(points[0], (radius, radius))


OUTLINES: dict[str, Callable[[Sequence[Point]], Box]] = {
    "rectangle": box_of_points,  # two corners, in any order, or four
    "polygon": box_of_points,
    "rotation": box_of_points,
    "mask": box_of_points,
    "circle": _circle,
}
