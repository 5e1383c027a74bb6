"""A COCO annotation file decoded and validated: the five things that detection needs of it, and no more."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from ssdlite.datasets.index_builder import BadItems
from ssdlite.errors import DataError

Id = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]
Side = Annotated[float, msgspec.Meta(gt=0, lt=2**31)]  # some writers give 640.0


class CocoImage(msgspec.Struct, gc=False):
    id: Id
    file_name: str
    width: Side | None = None
    height: Side | None = None


class CocoAnnotation(msgspec.Struct, gc=False):
    image_id: Id
    category_id: Id
    bbox: tuple[float, float, float, float]  # x, y, width, height
    id: int | str | None = None
    area: float | None = None
    iscrowd: int | bool | None = 0


class CocoCategory(msgspec.Struct, gc=False):
    id: Id
    name: str


class CocoFile(msgspec.Struct):
    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory]


class CocoParts(msgspec.Struct):
    """The file when some entry of it is not as it should be: the entries are then looked at one by one."""

    images: list[Any]
    annotations: list[Any]
    categories: list[CocoCategory]


Entry = TypeVar("Entry", CocoImage, CocoAnnotation)


def read_coco_file(path: Path, bad: BadItems) -> CocoFile:
    """The file's images, annotations and categories (by ascending id); malformed entries go to ``bad``.

    Raises:
        DataError: the file is missing, not JSON, lacks one of three lists, or repeats an id or class name.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        content = msgspec.json.decode(data, type=CocoFile)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        content = _read_entry_by_entry(path, data, bad)
    content.categories.sort(key=lambda category: category.id)
    _require_unique(path, "image id", [image.id for image in content.images])
    _require_unique(path, "category id", [category.id for category in content.categories])
    _require_unique(path, "category name", [category.name for category in content.categories])
    if not content.categories:
        raise DataError(f"{path}: expected at least one entry in `categories`, got none")
    return content


def _read_entry_by_entry(path: Path, data: bytes, bad: BadItems) -> CocoFile:
    """The same with Python's own parser, which reads NaN tokens and a byte-order mark, and names the line."""
    try:
        raw = json.loads(data)
    except RecursionError:
        raise DataError(f"{path}: not COCO annotations: the JSON is nested too deeply") from None
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error})") from None
    try:
        parts = msgspec.convert(raw, CocoParts)
    except msgspec.ValidationError as error:
        raise DataError(f"{path}: not COCO annotations: {error}") from None
    images = _convert_each(parts.images, CocoImage, "images", bad)
    annotations = _convert_each(parts.annotations, CocoAnnotation, "annotations", bad)
    return CocoFile(images, annotations, parts.categories)


def _convert_each(
    entries: Sequence[Any], kind: type[Entry], key: Literal["images", "annotations"], bad: BadItems
) -> list[Entry]:
    good = []
    for position, entry in enumerate(entries):
        try:
            good.append(msgspec.convert(entry, kind))
        except msgspec.ValidationError as error:
            entry_id = f" (id {entry['id']})" if isinstance(entry, dict) and "id" in entry else ""
            problem = "bad-image" if key == "images" else "bad-annotation"
            bad.add(problem, bad.source, f"{key}[{position}]{entry_id}: {error}")
    return good


def _require_unique(path: Path, what: str, values: Sequence[int | str]) -> None:
    if len(set(values)) == len(values):
        return
    seen: set[int | str] = set()
    for value in values:
        if value in seen:
            raise DataError(f"{path}: expected every {what} once, got {value!r} twice")
        seen.add(value)
