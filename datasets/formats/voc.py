"""Pascal VOC annotations: a devkit, one of its years, or a bare folder of its form."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import defusedxml
from defusedxml import ElementTree

from ssdlite.datasets.formats.base import Annotations, AnnotationsBuilder, BadItems
from ssdlite.datasets.formats.files import ImageFiles, UnsafePathError, read_bounded
from ssdlite.datasets.formats.options import READ_OPTIONS, ReadOptions, VocCorners
from ssdlite.errors import DataError
from ssdlite.images.geometry import Size

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

    def read_split(self, root: Path, split: str, bad: BadItems, options: ReadOptions) -> Annotations:
        roots = [folder for folder in _find_roots(root) if split in image_sets(folder)]
        return read_voc(roots, split, bad, root, options)

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
    return [root] if ImageFiles(root / "Annotations", root).stems(".xml") else []


def image_sets(root: Path) -> list[str]:
    """The splits of a folder: its ``ImageSets/Main`` without the per-class files, or "all" if it has none."""
    folder = root / "ImageSets" / "Main"
    names = sorted(path.stem for path in folder.glob("[!.]*.txt") if not _is_per_class(_lines(path)))
    return names or [WHOLE_FOLDER]


class VocImage(NamedTuple):
    """One image of a set. ``one_based``: its corners are counted as VOC's own are."""

    image_id: int
    path: str
    annotation: VocAnnotation
    one_based: bool


def read_voc(
    roots: Sequence[Path],
    image_set: str,
    bad: BadItems,
    boundary: Path | None = None,
    options: ReadOptions = READ_OPTIONS,
) -> Annotations:
    """One image set, such as "trainval", of one or several folders with ``Annotations/``.

    Image ids count all annotation files of the roots, sorted by name, from 1: the same whatever the image set.
    Objects marked ``difficult`` are to be ignored.

    Args:
        boundary: links in the image folders may lead anywhere inside it; by default not out of their folder.
        options: how boxes are counted and where the pictures are, where not to be decided by looking.

    Raises:
        DataError: there is no such image set, or a file name leaves the folder.
    """
    sets = {root: _members(root, image_set) for root in roots}
    source = f"{', '.join(map(str, roots))} ({image_set})"
    if all(members is None for members in sets.values()):
        raise DataError(f"{source}: no image set {image_set!r} in ImageSets/Main")
    numbers = _image_numbers(roots)  # grows by the few that lie in sub-folders of Annotations
    found: list[VocImage] = []
    notes: list[str] = []
    for root, members in sets.items():
        if members is None:
            continue
        xml_files = ImageFiles(root / "Annotations", boundary)
        rule = decide_corners(xml_files, options.voc_corners)
        notes += [rule.note] if rule.note else []
        folders = [ImageFiles(folder, boundary or root) for folder in _image_folders(root, options)]
        for stem in members:
            annotation = _read_member(stem, xml_files, bad)
            path = _find_image(stem, annotation, folders, bad) if annotation else None
            if annotation and path:
                number = numbers.setdefault((stem, root), len(numbers) + 1)
                found.append(VocImage(number, path, annotation, rule.one_based(annotation)))
    return _to_annotations(source, found, bad, notes)


def _image_folders(root: Path, options: ReadOptions) -> list[Path]:
    folders = [Path(options.images)] if options.images else [root / folder for folder in IMAGE_FOLDERS]
    return [folder for folder in folders if folder.is_dir()] or folders[:1]


def _to_annotations(source: str, found: Sequence[VocImage], bad: BadItems, notes: Sequence[str]) -> Annotations:
    builder = AnnotationsBuilder(source)
    builder.notes += notes
    for image in found:
        file, size = image.annotation.file, image.annotation.size
        position = builder.add_image(image.path, size, image.image_id)
        for item in image.annotation.objects:
            what = f"object {item.number}"
            if item.error:
                bad.add("bad-annotation", file, f"{what}: {item.error}")
            else:
                box = _edges(item.corners, image.one_based)
                builder.add_object(position, item.name, box, file, what, ignore=item.difficult)
    return builder.build()


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
    path = _find_xml(stem, xml_files)
    if path is None:
        bad.add("bad-annotation", xml_files.folder / f"{stem}.xml", "no such annotation file")
        return None
    try:
        return read_voc_file(Path(path))
    except DataError as error:
        bad.add("bad-annotation", path, str(error).removeprefix(f"{path}: "))
        return None


def _find_xml(stem: str, files: ImageFiles) -> str | None:
    return files.find(f"{stem}.xml") or files.find(f"{stem}.XML")


def _find_image(stem: str, annotation: VocAnnotation, folders: Sequence[ImageFiles], bad: BadItems) -> str | None:
    """The picture of the annotation's own name, otherwise the one in its <filename>, which renaming leaves behind.

    Where both are there and differ, it is counted.
    """
    named = None
    for files in folders if annotation.image_name else ():
        try:
            named = named or files.find(annotation.image_name or "")
        except UnsafePathError as error:
            raise UnsafePathError(f"{annotation.file}: {error}") from None
    if named and Path(named).stem == Path(stem).name:
        return named
    own = next((path for files in folders if (path := files.find_stem(stem))), None)
    if own and named:
        detail = f"<filename> names {annotation.image_name}, but {Path(own).name} is there too and was taken"
        bad.mend("other-picture", annotation.file, detail)
    if not own and not named:
        bad.add("bad-image", folders[0].folder / (annotation.image_name or f"{stem}.jpg"), "no such image file")
    return own or named


# --- Whose corners are whose. VOC counts pixels from 1, both corners belonging to the box: in [1, width], the whole
# picture being (1, 1, width, height). Annotation tools (CVAT, LabelImg, VoTT) write positions on the canvas, from 0 at
# the left edge to the width at the right one. A corner at the width says nothing: both have it.

VOC_DATABASE = re.compile(r"The VOC\d{4} Database", re.IGNORECASE)  # <source><database> of VOC's own files
DATABASE = re.compile(rb"<database>([^<]*)</database>")
ZERO = re.compile(rb"<[xy]min>\s*[+-]?0+(?:\.0*)?\s*</")
FRACTION = re.compile(rb"<[xy](?:min|max)>\s*[+-]?\d*\.0*[1-9]\d*\s*</")
TOOL = re.compile(rb"<database>\s*(?:Unknown|Unspecified)\s*</")


class CornerRule(NamedTuple):
    """How the corners of one set are counted: of files with VOC's <database>, and of all others."""

    vocs_own: bool  # one-based?
    others: bool
    note: str

    def one_based(self, annotation: VocAnnotation) -> bool:
        return self.vocs_own if annotation.is_vocs_own else self.others


def decide_corners(files: ImageFiles, corners: VocCorners = "auto") -> CornerRule:
    """The rule for all annotation files of a folder, whatever the image set: what one file tells counts for all."""
    if corners != "auto":
        return CornerRule(corners == "one-based", corners == "one-based", "")
    told: dict[bool, str] = {}  # VOC's own? -> what tells that they are positions on the canvas
    for stem in files.stems(".xml"):
        try:
            path = Path(_find_xml(stem, files) or "")
            data = read_bounded(path, MAX_XML_BYTES)
        except DataError:  # said where it is read for its objects
            continue
        database = DATABASE.search(data)
        own = database is not None and _is_vocs(database[1].decode("utf-8", "replace"))
        if own not in told and (reason := _tells_canvas(data, own)):
            told[own] = f"{path.name} has {reason}"
        if len(told) == 2:
            break
    if not told:
        return CornerRule(True, True, "")
    note = (
        f"{files.folder.parent}: corners are read as positions on the picture, from 0, not as VOC's pixels, counted "
        f"from 1: {told.get(False) or told[True]} (--voc-corners decides otherwise)"
    )
    return CornerRule(True not in told, False not in told, note)


def _tells_canvas(data: bytes, own: bool) -> str | None:
    """What in a file is never so where pixels are counted from 1; ``own``: VOC's, of which some have fractions."""
    if ZERO.search(data):
        return "a corner at 0"
    if not own and FRACTION.search(data):
        return "corners between pixels"
    return "the <database> that annotation tools write" if not own and TOOL.search(data) else None


def _is_vocs(database: str) -> bool:
    return VOC_DATABASE.fullmatch(database.strip()) is not None


# --- One annotation file, parsed as the untrusted XML that it is.

CORNERS = ("xmin", "ymin", "xmax", "ymax")
MAX_XML_BYTES = 1 << 24  # 50,000 objects; more is no annotation of a picture


@dataclass(frozen=True)
class VocObject:
    """``corners`` are as written; ``number`` counts objects from 1; a bad one has an ``error``."""

    number: int
    name: str
    corners: tuple[float, float, float, float]
    difficult: bool
    error: str = ""


@dataclass(frozen=True)
class VocAnnotation:
    file: Path
    image_name: str | None  # the file's own <filename>
    size: Size | None  # None where the file states none
    is_vocs_own: bool  # by its <database>
    objects: tuple[VocObject, ...]


def read_voc_file(path: Path) -> VocAnnotation:
    """Parse one file. Its <path> (the annotator's own) is ignored; entities and document types are forbidden.

    Raises:
        DataError: the file is missing, not well-formed, hostile, or not a VOC annotation.
    """
    data = read_bounded(path, MAX_XML_BYTES)
    try:
        root = ElementTree.fromstring(data, forbid_dtd=True)  # in parts, the time for a long token is its square
    except defusedxml.DefusedXmlException as error:
        raise DataError(f"{path}: refused: document types and entities are not allowed ({error})") from None
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        raise DataError(f"{path}: not well-formed XML ({error})") from None
    if root.tag != "annotation":
        raise DataError(f"{path}: expected a VOC <annotation>, got <{root.tag}>")
    is_vocs_own = _is_vocs(_text(root, "source/database") or "")
    return VocAnnotation(path, _text(root, "filename"), _size(root), is_vocs_own, tuple(_parse_objects(root)))


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
        yield VocObject(number, name, (x0, y0, x1, y1), difficult, error)


def _edges(corners: tuple[float, float, float, float], one_based: bool) -> tuple[float, float, float, float]:
    """xyxy in pixels from 0. VOC's corners are 1-based and inclusive; equal or crossed ones are a zero-size box."""
    xmin, ymin, xmax, ymax = corners
    x0, y0 = (xmin - 1, ymin - 1) if one_based else (xmin, ymin)
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
