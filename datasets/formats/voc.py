"""Pascal VOC annotations: a devkit, one of its years, or a bare folder of its form."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import defusedxml
import numpy as np
from defusedxml import ElementTree

from ssdlite.datasets.formats.base import Annotations, BadItems, ImageFiles, Size, UnsafePathError
from ssdlite.errors import DataError

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
YEAR = re.compile(r"VOC\d{4}", re.IGNORECASE)
IMAGE_FOLDERS = ("JPEGImages", "images", "Images", "")  # "" is the root itself
WHOLE_FOLDER = "all"  # the one split of a folder without image sets
CLASS_LINE = re.compile(r"\S.*\s(-1|0|1)")  # of a per-class image set: "000012 -1"


class VocFormat:
    """A devkit, whose years are read together, or one folder of its form; the image sets are the splits."""

    name = "VOC"
    looked_for = "VOC2007/, VOC2012/ ... with or without VOCdevkit/, or Annotations/*.xml"

    def find_splits(self, root: Path) -> list[str]:
        return sorted({name for folder in _find_roots(root) for name in image_sets(folder)})

    def read_split(self, root: Path, split: str, bad: BadItems) -> Annotations:
        return read_voc([folder for folder in _find_roots(root) if split in image_sets(folder)], split, bad, root)

    def order_classes(self, names: set[str]) -> tuple[str, ...]:
        """VOC's own order when all are VOC classes, otherwise alphabetical."""
        if names <= set(VOC_CLASSES):
            return tuple(name for name in VOC_CLASSES if name in names)
        return tuple(sorted(names))


def _find_roots(root: Path) -> list[Path]:
    """The folders with ``Annotations/``."""
    for base in (root, root / "VOCdevkit"):
        if base.is_dir():
            years = [path for path in sorted(base.iterdir()) if YEAR.fullmatch(path.name)]
            if devkit := [path for path in years if (path / "Annotations").is_dir()]:
                return devkit
    return [root] if any((root / "Annotations").glob("*.xml")) else []


def image_sets(root: Path) -> list[str]:
    """The splits of a folder: its ``ImageSets/Main`` without the per-class files, or "all" if it has none."""
    folder = root / "ImageSets" / "Main"
    names = sorted(path.stem for path in folder.glob("*.txt") if not _is_per_class(_lines(path)))
    return names or [WHOLE_FOLDER]


def read_voc(roots: Sequence[Path], image_set: str, bad: BadItems, boundary: Path | None = None) -> Annotations:
    """One image set, such as "trainval", of one or several folders with ``Annotations/``.

    Image ids count all annotation files of the roots, sorted by name, from 1: the same whatever the image set.
    Objects marked ``difficult`` are to be ignored.

    Args:
        boundary: links in the image folders may lead anywhere inside it; by default not out of their folder.

    Raises:
        DataError: there is no such image set, or a file name leaves the folder.
    """
    sets = {root: _members(root, image_set) for root in roots}
    source = f"{', '.join(map(str, roots))} ({image_set})"
    if all(members is None for members in sets.values()):
        raise DataError(f"{source}: no image set {image_set!r} in ImageSets/Main")
    numbers = _image_numbers(roots)  # grows by the few that lie in sub-folders of Annotations
    found: list[tuple[int, str, VocAnnotation]] = []
    for root, members in sets.items():
        xml_files = ImageFiles(root / "Annotations", boundary)
        folders = [ImageFiles(root / folder, boundary or root) for folder in IMAGE_FOLDERS if (root / folder).is_dir()]
        for stem in members or ():
            annotation = _read_member(stem, xml_files, bad)
            path = _find_image(stem, annotation, folders, bad) if annotation else None
            if annotation and path:
                found.append((numbers.setdefault((stem, root), len(numbers) + 1), path, annotation))
    return _to_annotations(source, found, bad)


def _to_annotations(source: str, found: Sequence[tuple[int, str, VocAnnotation]], bad: BadItems) -> Annotations:
    """``found``: (image id, path of the picture, annotation) of every image."""
    rows: list[tuple[int, VocAnnotation, VocObject]] = []
    for position, (_, _, annotation) in enumerate(found):
        for item in annotation.objects:
            if item.error:
                bad.add("bad-annotation", annotation.file, f"object {item.number}: {item.error}")
            else:
                rows.append((position, annotation, item))
    class_names = sorted({item.name for _, _, item in rows})
    class_of = {name: position for position, name in enumerate(class_names)}

    def where(row: int) -> tuple[str, str]:
        _, annotation, item = rows[row]
        return str(annotation.file), f"object {item.number} ({item.name})"

    return Annotations(
        source=source,
        image_ids=[image_id for image_id, _, _ in found],
        paths=[path for _, path, _ in found],
        stated_sizes=[annotation.size for _, _, annotation in found],
        class_names=class_names,
        images=np.array([position for position, _, _ in rows], np.int64),
        boxes=np.array([item.box for _, _, item in rows], np.float64).reshape(-1, 4),
        classes=np.array([class_of[item.name] for _, _, item in rows], np.int64),
        where=where,
        ignore=np.array([item.difficult for _, _, item in rows], np.bool_),
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
        bad.add("bad-annotation", xml_files.folder / f"{stem}.xml", "no such annotation file")
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
    bad.add("bad-image", folders[0].folder / (annotation.image_name or f"{stem}.jpg"), "no such image file")
    return None


# --- One annotation file, parsed as the untrusted XML that it is.

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
    size: Size | None  # None where the file states none
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


def _size(root: Any) -> Size | None:
    """(height, width); many annotators write 0 or nothing, which counts as not stated."""
    try:
        height, width = (round(float(_text(root, f"size/{side}") or 0)) for side in ("height", "width"))
    except (ValueError, OverflowError):
        return None
    return (height, width) if height > 0 and width > 0 else None


def _text(element: Any, path: str) -> str | None:
    text = element.findtext(path)
    return text.strip() if text else None
