"""One Pascal VOC annotation file, parsed as the untrusted XML that it is."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import defusedxml
import numpy as np
from defusedxml import ElementTree

from ssdlite.datasets.image_files import ImageFiles, UnsafePathError
from ssdlite.datasets.index import (
    BadItems,
    DetectionIndex,
    ObjectColumns,
    build_index,
    label_names,
    select_classes,
    usable_images,
)
from ssdlite.errors import DataError

CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class VocObject:
    """``box`` is xyxy in 0-based pixel edges; ``number`` counts them from 1; a bad one has an ``error``."""

    number: int
    name: str
    box: tuple[float, float, float, float]
    difficult: bool
    error: str = ""


@dataclass(frozen=True)
class VocAnnotation:
    file: Path
    image_name: str | None  # the file's own <filename>
    size: tuple[int, int] | None  # (height, width); None where the file states none
    objects: tuple[VocObject, ...]


def read_voc_file(path: Path) -> VocAnnotation:
    """Parse one file. Its <path> (the annotator's own) is ignored; entities and document types are forbidden.

    Raises:
        DataError: the file is missing, not well-formed, hostile, or not a VOC annotation.
    """
    try:
        root = ElementTree.parse(path, forbid_dtd=True).getroot()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except defusedxml.DefusedXmlException as error:
        raise DataError(f"{path}: refused: document types and entities are not allowed ({error})") from None
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        raise DataError(f"{path}: not well-formed XML ({error})") from None
    if root.tag != "annotation":
        raise DataError(f"{path}: expected a VOC <annotation>, got <{root.tag}>")
    return VocAnnotation(path, _text(root, "filename"), _size(root), tuple(_parse_objects(root)))


def _parse_objects(root: Any) -> Iterator[VocObject]:
    for number, element in enumerate(root.findall("object"), start=1):
        name = _text(element, "name") or ""
        difficult = (_text(element, "difficult") or "0").lower() in ("1", "true")
        box = element.find("bndbox")
        texts = [None if box is None else _text(box, corner) for corner in CORNERS]
        try:
            x0, y0, x1, y1 = (float(text) for text in texts if text is not None)
            error = "" if name else "expected a <name>, got none"
        except ValueError:
            given = ", ".join(f"{corner} {text}" for corner, text in zip(CORNERS, texts, strict=True))
            error = f"expected four numbers in <bndbox>, got {given}"
            x0 = y0 = x1 = y1 = math.nan
        yield VocObject(number, name, _edges(x0, y0, x1, y1), difficult, error)


def _edges(xmin: float, ymin: float, xmax: float, ymax: float) -> tuple[float, float, float, float]:
    """VOC's corners are 1-based and inclusive. Equal or crossed ones are a zero-size box, not one pixel."""
    x0, y0 = xmin - 1, ymin - 1
    return x0, y0, (x0 if xmax <= xmin else xmax), (y0 if ymax <= ymin else ymax)


def _size(root: Any) -> tuple[int, int] | None:
    """(height, width); many annotators write 0 or nothing, which counts as not stated."""
    try:
        height, width = (round(float(_text(root, f"size/{side}") or 0)) for side in ("height", "width"))
    except (ValueError, OverflowError):
        return None
    return (height, width) if height > 0 and width > 0 else None


def _text(element: Any, path: str) -> str | None:
    text = element.findtext(path)
    return text.strip() if text else None


# --- Pascal VOC annotations, of one devkit year, several together, or a bare folder, as a DetectionIndex.

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
IMAGE_FOLDERS = ("JPEGImages", "images", "Images", "")  # "" is the root itself
WHOLE_FOLDER = "all"  # the one split of a folder without image sets
CLASS_LINE = re.compile(r"\S.*\s(-1|0|1)")  # of a per-class image set: "000012 -1"


@dataclass(frozen=True)
class VocSplit:
    """One image set, parsed: which picture belongs to which annotation, and what could not be read."""

    name: str
    source: str  # for messages
    image_ids: tuple[int, ...]
    paths: tuple[str, ...]
    annotations: tuple[VocAnnotation, ...]
    bad: BadItems

    def class_names(self) -> set[str]:
        return {item.name for annotation in self.annotations for item in annotation.objects if not item.error}


class Row(NamedTuple):
    """One object, of the image at ``position`` in the index."""

    position: int
    file: Path
    item: VocObject


def load_voc(
    roots: Sequence[Path],
    image_set: str,
    *,
    classes: Sequence[str] | None = None,
    skip_bad: bool = False,
    name: str | None = None,
    boundary: Path | None = None,
) -> DetectionIndex:
    """Read one image set, such as "trainval", of one or several folders with ``Annotations/``.

    Without ``classes`` they are those that occur in the image set, ordered as ``order_classes`` does. Image
    ids count all annotation files of the roots, sorted by name, from 1: the same whatever the image set.
    Objects marked ``difficult`` are kept as ``ignore``.

    Args:
        skip_bad: leave out, and count, what would otherwise raise.
        boundary: links in the image folders may lead anywhere inside it; by default not out of their folder.

    Raises:
        DataError: what cannot be used, all of it named in one message, or a file name that leaves the folder.
    """
    split = read_voc_split(roots, image_set, skip_bad=skip_bad, name=name, boundary=boundary)
    return index_voc_split(split, select_classes(order_classes(split.class_names()), classes, split.source))


def scan_class_names(roots: Iterable[Path]) -> set[str]:
    """The class names of all annotation files of the roots; files that cannot be read have none."""
    names = set()
    for root in roots:
        for stem in ImageFiles(root / "Annotations").stems(".xml"):
            with contextlib.suppress(DataError):
                annotation = read_voc_file(root / "Annotations" / f"{stem}.xml")
                names |= {item.name for item in annotation.objects if not item.error}
    return names


def order_classes(names: set[str]) -> tuple[str, ...]:
    """VOC's own order when all are VOC classes, otherwise alphabetical."""
    if names <= set(VOC_CLASSES):
        return tuple(name for name in VOC_CLASSES if name in names)
    return tuple(sorted(names))


def image_sets(root: Path) -> list[str]:
    """The splits of a folder: its ``ImageSets/Main`` without the per-class files, or "all" if it has none."""
    folder = root / "ImageSets" / "Main"
    names = sorted(path.stem for path in folder.glob("*.txt") if not _is_per_class(_lines(path)))
    return names or [WHOLE_FOLDER]


def read_voc_split(
    roots: Sequence[Path],
    image_set: str,
    *,
    skip_bad: bool = False,
    name: str | None = None,
    boundary: Path | None = None,
) -> VocSplit:
    """Parse the files of one image set; what cannot be read is noted, and raised by the indexing."""
    roots = [Path(root) for root in roots]
    sets = {root: _members(root, image_set) for root in roots}
    source = f"{', '.join(map(str, roots))} ({image_set})"
    if all(members is None for members in sets.values()):
        raise DataError(f"{source}: no image set {image_set!r} in ImageSets/Main")
    bad = BadItems(source, skip_bad)
    numbers = _image_numbers(roots)  # grows by the few that lie in sub-folders of Annotations
    found: list[tuple[int, str, VocAnnotation]] = []
    for root, members in sets.items():
        xml_files = ImageFiles(root / "Annotations", boundary)
        folders = [ImageFiles(root / folder, boundary or root) for folder in IMAGE_FOLDERS if (root / folder).is_dir()]
        for stem in members or ():
            annotation = _read_member(stem, xml_files, bad)
            path = _find_image(stem, annotation, folders, bad) if annotation else None
            if annotation and path:
                number = numbers.setdefault((stem, root), len(numbers) + 1)
                found.append((number, path, annotation))
    ids, paths, annotations = zip(*found, strict=True) if found else ((), (), ())
    return VocSplit(image_set if name is None else name, source, ids, paths, annotations, bad)


def index_voc_split(split: VocSplit, class_names: tuple[str, ...]) -> DetectionIndex:
    """The index of a parsed image set, with objects of ``class_names`` alone; category ids are 1..K.

    Raises:
        DataError: some image or annotation cannot be used and bad ones are not to be skipped.
    """
    sizes = [annotation.size for annotation in split.annotations]
    images, moved = usable_images(split.image_ids, split.paths, sizes, split.bad)
    label_of = label_names(class_names, split.class_names())
    rows = _rows(split, moved.tolist(), label_of)
    return build_index(
        images,
        _objects(rows, label_of),
        name=split.name,
        class_names=class_names,
        category_ids=tuple(range(1, len(class_names) + 1)),
        problems=split.bad.finish(),
    )


def _rows(split: VocSplit, positions: Sequence[int], label_of: Mapping[str, int]) -> list[Row]:
    """The objects of the usable images (those with a position >= 0) and selected classes."""
    rows = []
    for position, annotation in zip(positions, split.annotations, strict=True):
        for item in annotation.objects:
            if item.error:
                split.bad.add("bad-annotation", str(annotation.file), f"object {item.number}: {item.error}")
            elif position >= 0 and item.name in label_of:
                rows.append(Row(position, annotation.file, item))
    return rows


def _objects(rows: Sequence[Row], label_of: Mapping[str, int]) -> ObjectColumns:
    def where(row: int) -> tuple[str, str]:
        item = rows[row].item
        return str(rows[row].file), f"object {item.number} ({item.name})"

    return ObjectColumns(
        images=np.array([row.position for row in rows], np.int64),
        boxes=np.array([row.item.box for row in rows], np.float64).reshape(-1, 4),
        labels=np.array([label_of[row.item.name] for row in rows], np.int64),
        areas=np.full(len(rows), np.nan),
        ignore=np.array([row.item.difficult for row in rows], np.bool_),
        where=where,
    )


def _members(root: Path, image_set: str) -> list[str] | None:
    """The ids of an image set in the file's order, each once; None where this root has no such set."""
    path = root / "ImageSets" / "Main" / f"{image_set}.txt"
    if path.is_file():
        return list(dict.fromkeys(_lines(path)))
    if image_set == WHOLE_FOLDER and image_sets(root) == [WHOLE_FOLDER]:
        return ImageFiles(root / "Annotations").stems(".xml")
    return None


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a list of image ids ({error})") from None
    return [line.strip() for line in lines if line.strip()]


def _is_per_class(lines: Sequence[str]) -> bool:
    """``aeroplane_train.txt`` and the like: every line an image id and whether it shows the class."""
    return bool(lines) and all(CLASS_LINE.fullmatch(line) for line in lines)


def _image_numbers(roots: Sequence[Path]) -> dict[tuple[str, Path], int]:
    stems = [(stem, root) for root in roots for stem in ImageFiles(root / "Annotations").stems(".xml")]
    return {key: number for number, key in enumerate(sorted(stems), start=1)}


def _read_member(stem: str, xml_files: ImageFiles, bad: BadItems) -> VocAnnotation | None:
    path = xml_files.find(f"{stem}.xml")
    if path is None:
        bad.add("bad-annotation", str(xml_files.folder / f"{stem}.xml"), "no such annotation file")
        return None
    try:
        return read_voc_file(Path(path))
    except DataError as error:
        bad.add("bad-annotation", path, str(error).removeprefix(f"{path}: "))
        return None


def _find_image(stem: str, annotation: VocAnnotation, folders: Sequence[ImageFiles], bad: BadItems) -> str | None:
    """The picture by the file's own <filename> where there is one, otherwise by the annotation's name."""
    names = [annotation.image_name] if annotation.image_name else []
    for files in folders:
        for name in names:
            try:
                path = files.find(name)
            except UnsafePathError as error:
                raise UnsafePathError(f"{annotation.file}: {error}") from None
            if path:
                return path
    for files in folders:
        if path := files.find_stem(stem):
            return path
    bad.add("bad-image", str(folders[0].folder / (annotation.image_name or f"{stem}.jpg")), "no such image file")
    return None
