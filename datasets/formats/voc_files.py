"""VOC's annotation files: one parsed as the untrusted XML that it is, and how the corners of a set are counted."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import defusedxml
from defusedxml import ElementTree

from ssdlite.datasets.formats.files import ImageFiles, read_bounded
from ssdlite.datasets.formats.options import VocCorners
from ssdlite.datasets.index import DECIDES_OTHERWISE
from ssdlite.errors import DataError
from ssdlite.images.geometry import Size

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


def edges(corners: tuple[float, float, float, float], one_based: bool) -> tuple[float, float, float, float]:
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


def decide_corners(folders: Sequence[ImageFiles], place: Path, corners: VocCorners = "auto") -> CornerRule:
    """The rule for all annotation files of a data set, whatever the split: what one file tells counts for all.

    Args:
        folders: those of the annotation files.
        place: the data set's, for the note.
    """
    if corners != "auto":
        return CornerRule(corners == "one-based", corners == "one-based", "")
    told: dict[bool, str] = {}  # VOC's own? -> what tells that they are positions on the canvas
    for files, stem in ((folder, stem) for folder in folders for stem in folder.stems(".xml")):
        try:
            path = Path(find_xml(stem, files) or "")
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
        f"{place}: corners are read as positions on the picture, from 0, not as VOC's pixels, counted "
        f"from 1: {told.get(False) or told[True]} (--voc-corners {DECIDES_OTHERWISE}"
    )
    return CornerRule(True not in told, False not in told, note)


def find_xml(stem: str, files: ImageFiles) -> str | None:
    return files.find(f"{stem}.xml") or files.find(f"{stem}.XML")


def _tells_canvas(data: bytes, own: bool) -> str | None:
    """What in a file is never so where pixels are counted from 1; ``own``: VOC's, of which some have fractions."""
    if ZERO.search(data):
        return "a corner at 0"
    if not own and FRACTION.search(data):
        return "corners between pixels"
    return "the <database> that annotation tools write" if not own and TOOL.search(data) else None


def _is_vocs(database: str) -> bool:
    return VOC_DATABASE.fullmatch(database.strip()) is not None
