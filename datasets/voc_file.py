"""One Pascal VOC annotation file, parsed as the untrusted XML that it is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import defusedxml
from defusedxml import ElementTree

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
    return VocAnnotation(path, _text(root, "filename"), _size(root), tuple(_objects(root)))


def _objects(root: Any) -> Iterator[VocObject]:
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
