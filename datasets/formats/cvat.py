"""CVAT for images 1.1: one ``annotations.xml`` for all pictures, its subsets being the splits."""

from __future__ import annotations

import contextlib
import html
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import defusedxml
from defusedxml import ElementTree

from ssdlite.datasets.formats.base import Annotations, AnnotationsBuilder, BadItems, Box
from ssdlite.datasets.formats.files import read_bounded
from ssdlite.datasets.formats.finding import Found, find_pictures
from ssdlite.datasets.formats.json_files import read_head
from ssdlite.datasets.formats.options import ReadOptions
from ssdlite.datasets.formats.outlines import box_of_ellipse, box_of_points, box_of_turned
from ssdlite.datasets.formats.splits import WHOLE_FOLDER, find_split_files
from ssdlite.errors import DataError, quote
from ssdlite.files import listing
from ssdlite.images.geometry import Size

MAX_CVAT_BYTES = 1 << 26  # some 300,000 boxes; a larger project is exported task by task
CVAT_ROOT = re.compile(rb"<annotations[\s>]")
OWN_ELEMENTS = re.compile(rb"<(image|track|meta|version)[\s>]")
SUBSET = re.compile(rb"""<image\s[^>]*?\ssubset\s*=\s*["']([^"'<>]*)["']""")


class CvatFormat:
    """Boxes, and the boxes around polygons, ellipses and masks; other shapes are counted in a note."""

    name = "CVAT"
    looked_for = "annotations.xml of CVAT for images 1.1"

    def find_splits(self, root: Path) -> list[str]:
        return list(_find_parts(root))

    def read_split(self, root: Path, split: str, bad: BadItems, options: ReadOptions) -> Annotations:
        part = _find_parts(root)[split]
        labels, everything = read_cvat_file(part.file)
        images = [image for image in everything if part.subset in (None, image.subset)]
        base = part.file.parent
        places = (f"images/{part.subset}", "images", part.subset, "data", "") if part.subset else ("images", "data", "")
        folders = [Path(options.images)] if options.images else [base / place for place in places]
        boundary = base if root.is_file() else root
        pictures = find_pictures([image.name for image in images], folders, boundary, part.file)
        builder = AnnotationsBuilder(f"{part.file} ({split})")
        builder.class_order = labels
        _add_images(builder, part.file, zip(images, pictures, strict=True), bad)
        return builder.build()

    def order_classes(self, names: set[str]) -> Sequence[str]:
        return sorted(names)


class CvatPart(NamedTuple):
    """A split: of ``file`` the pictures of ``subset``, None being all."""

    file: Path
    subset: str | None


def _find_parts(root: Path) -> dict[str, CvatPart]:
    files = find_split_files(root, ".xml", lambda files: [file for file in files if is_cvat(file)])
    if len(files) == 1:
        return _subsets(*files.values())
    return {split: CvatPart(file, None) for split, file in files.items()}


def is_cvat(path: Path) -> bool:
    """By its root element and what is below it; also video tracks, which are answered when they are read."""
    head = read_head(path)
    return CVAT_ROOT.search(head) is not None and OWN_ELEMENTS.search(head) is not None


def _subsets(file: Path) -> dict[str, CvatPart]:
    """By the subsets that the pictures are marked with, where there are several."""
    names: set[str] = set()
    with contextlib.suppress(DataError):  # said where it is read for its objects
        found = SUBSET.findall(read_bounded(file, MAX_CVAT_BYTES))
        names.update(html.unescape(name.decode("utf-8", "replace")) for name in found)
    if len(names) < 2:
        return {WHOLE_FOLDER: CvatPart(file, None)}
    return {name: CvatPart(file, name) for name in sorted(names)}


class CvatImage(NamedTuple):
    number: int  # in the file, from 1
    name: str
    subset: str
    size: Size | None
    shapes: list[Any]


def read_cvat_file(path: Path) -> tuple[list[str], list[CvatImage]]:
    """The labels in CVAT's order, and the pictures, whose shapes are elements still.

    Entities and document types are forbidden.

    Raises:
        DataError: the file is missing, not well-formed, hostile, of a video, or not CVAT's.
    """
    data = read_bounded(path, MAX_CVAT_BYTES)
    try:
        root = ElementTree.fromstring(data, forbid_dtd=True)
    except defusedxml.DefusedXmlException as error:
        raise DataError(f"{path}: refused: document types and entities are not allowed ({error})") from None
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        raise DataError(f"{path}: not well-formed XML ({error})") from None
    if root.tag != "annotations":
        raise DataError(f"{path}: expected CVAT's <annotations>, got <{root.tag}>")
    if root.find("track") is not None:
        raise DataError(
            f"{path}: expected CVAT for images 1.1, got the tracks of a video; export the task as CVAT for images 1.1 "
            "with its pictures, or as COCO"
        )
    labels = [name.text.strip() for name in root.findall("meta/*/labels/label/name") if name.text]
    return labels, [
        CvatImage(number, element.get("name", ""), element.get("subset", ""), _size(element), list(element))
        for number, element in enumerate(root.findall("image"), start=1)
    ]


def _add_images(
    builder: AnnotationsBuilder, file: Path, images: Iterable[tuple[CvatImage, Found]], bad: BadItems
) -> None:
    passed_over: Counter[str] = Counter()
    for image, found in images:
        if found.path is None:
            bad.add("bad-image", found.place, found.error)
            continue
        position = builder.add_image(found.path, image.size, image.number)
        for number, shape in enumerate(image.shapes, start=1):
            if shape.tag not in CVAT_SHAPES:
                passed_over[str(shape.tag)] += 1
                continue
            where = f"image {image.name!r}, {shape.tag} {number}"
            try:
                label, box = _label(shape), CVAT_SHAPES[shape.tag](shape)
            except DataError as error:
                builder.add_unread(position, bad, file, f"{where}: {error}")
            else:
                builder.add_object(position, label, box, file, where)
    if passed_over:
        kinds = listing(f"{kind} ({count})" for kind, count in sorted(passed_over.items()))
        builder.notes.append(f"{file}: what has no box is passed over: {kinds}")


def _label(shape: Any) -> str:
    label = (shape.get("label") or "").strip()
    if not label:
        raise DataError("expected a label, got none")
    return str(label)


def _size(element: Any) -> Size | None:
    """(height, width); what is no positive number counts as not stated."""
    try:
        height, width = (int(element.get(side, "")) for side in ("height", "width"))
    except ValueError:
        return None
    return (height, width) if height > 0 and width > 0 else None


# --- The shapes that have a box.


def _numbers(shape: Any, *names: str) -> Iterator[float]:
    for name in names:
        try:
            yield float(shape.get(name, ""))
        except ValueError:
            raise DataError(f"expected a number as {name}, got {quote(shape.get(name))}") from None


def _rotation(shape: Any) -> float:
    return next(_numbers(shape, "rotation")) if shape.get("rotation") else 0.0


def _box(shape: Any) -> Box:
    x0, y0, x1, y1 = _numbers(shape, "xtl", "ytl", "xbr", "ybr")
    return box_of_turned((x0, y0, x1, y1), _rotation(shape))


def _polygon(shape: Any) -> Box:
    text = shape.get("points") or ""
    try:
        points = [(float(x), float(y)) for x, y in (pair.split(",") for pair in text.split(";") if pair.strip())]
    except ValueError:
        raise DataError(f"expected points as x,y;x,y;..., got {quote(text)}") from None
    return box_of_points(points)


def _ellipse(shape: Any) -> Box:
    x, y, rx, ry = _numbers(shape, "cx", "cy", "rx", "ry")
    return box_of_ellipse((x, y), (rx, ry), _rotation(shape))


def _mask(shape: Any) -> Box:
    left, top, width, height = _numbers(shape, "left", "top", "width", "height")
    return left, top, left + width, top + height


CVAT_SHAPES: dict[str, Callable[[Any], Box]] = {"box": _box, "polygon": _polygon, "ellipse": _ellipse, "mask": _mask}
