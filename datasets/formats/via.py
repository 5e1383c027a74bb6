"""VGG Image Annotator 2: its JSON export, its project file, and its CSV export."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import Raw

from ssdlite.datasets.formats.base import Annotations, AnnotationsBuilder, BadItems, Box, natural_order
from ssdlite.datasets.formats.files import read_bounded
from ssdlite.datasets.formats.finding import Found, find_pictures
from ssdlite.datasets.formats.json_files import MAX_JSON_BYTES, decode_json, number, read_head, read_json
from ssdlite.datasets.formats.options import ReadOptions
from ssdlite.datasets.formats.outlines import box_of_ellipse, box_of_points
from ssdlite.datasets.formats.splits import find_split_files
from ssdlite.errors import DataError, quote
from ssdlite.files import listing

CLASS_ATTRIBUTES = ("class", "label", "name", "type")  # of several the first of these is the class
UNNAMED_CLASS = "object"  # where regions have no attributes at all


class ViaFormat:
    """Rectangles, and the boxes around polygons, circles, ellipses and lines."""

    name = "VIA"
    looked_for = "a JSON, project or CSV file of VGG Image Annotator 2"

    def find_splits(self, root: Path) -> list[str]:
        return list(_find_files(root))

    def read_split(self, root: Path, split: str, bad: BadItems, options: ReadOptions) -> Annotations:
        file = _find_files(root)[split]
        base = root if root.is_dir() else file.parent
        places = (file.parent, file.parent / "images", base / split, base / "images" / split, base / "images", base)
        folders = [Path(options.images)] if options.images else list(dict.fromkeys(places))
        pages = list(_read_csv(file, bad) if _is_csv(file) else _read_json(file, bad))
        pictures = find_pictures([page.file_name for page in pages], folders, base, file)
        builder = AnnotationsBuilder(str(file))
        _add_pages(builder, file, list(zip(pages, pictures, strict=True)), _class_attribute(file, pages), bad)
        return builder.build()

    def order_classes(self, names: set[str]) -> Sequence[str]:
        return natural_order(names)


def _find_files(root: Path) -> dict[str, Path]:
    return find_split_files(root, (".json", ".csv"), lambda files: [file for file in files if is_via(file)])


def is_via(path: Path) -> bool:
    """By the keys that a file begins with, or the columns."""
    head = read_head(path)
    if _is_csv(path):
        return b"region_shape_attributes" in head.partition(b"\n")[0]
    keys = (b'"_via_img_metadata"', b'"_via_settings"', b'"shape_attributes"', b'"file_attributes"')
    return head.startswith(b"{") and any(key in head for key in keys)


def _is_csv(path: Path) -> bool:
    return path.suffix.lower() == ".csv"


class ViaRegion(NamedTuple):
    where: str  # for messages
    shape: Mapping[str, Any]
    attributes: Mapping[str, Any]


class ViaPage(NamedTuple):
    """A picture and its regions."""

    number: int  # in the file, from 1
    file_name: str
    regions: list[ViaRegion]
    unread: list[str]  # what is wrong with others


def _read_json(file: Path, bad: BadItems) -> Iterator[ViaPage]:
    content = read_json(file, dict[str, Raw], "a VIA file")
    if "_via_img_metadata" in content:
        content = decode_json(content["_via_img_metadata"], dict[str, Raw], f"{file}: not a VIA project: ")
    for count, (key, raw) in enumerate(content.items(), start=1):
        try:
            fields = decode_json(raw, dict[str, Any])
            name, regions = fields.get("filename"), fields.get("regions")
            if not isinstance(name, str) or not name:
                raise DataError(f"expected a filename, got {quote(name)}")
            entries = list(regions.values()) if isinstance(regions, dict) else regions or []  # of VIA 1 with numbers
            if not isinstance(entries, list):
                raise DataError(f"expected a list of regions, got {quote(regions)}")
        except DataError as error:
            bad.add("bad-annotation", file, f"{quote(key)}: {error}")
            continue
        page = ViaPage(count, name, [], [])
        for position, entry in enumerate(entries, start=1):
            where = f"{name}, region {position}"
            try:
                shape, attributes = _object(entry, "shape_attributes"), _object(entry, "region_attributes")
                page.regions.append(ViaRegion(where, shape, attributes))
            except DataError as error:
                page.unread.append(f"{where}: {error}")
        yield page


def _object(entry: object, key: str) -> Mapping[str, Any]:
    value = entry.get(key) if isinstance(entry, dict) else entry
    if not isinstance(value, dict):
        raise DataError(f"expected an object as {key}, got {quote(value)}")
    return value


def _read_csv(file: Path, bad: BadItems) -> Iterator[ViaPage]:
    """A row for each region; a picture without any has one with an empty shape."""
    pages: dict[str, ViaPage] = {}
    try:
        text = read_bounded(file, MAX_JSON_BYTES).decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""))
        for row in reader:
            where = f"line {reader.line_num}"
            name = (row.get("filename") or row.get("#filename") or "").strip()
            if not name:
                bad.add("bad-annotation", file, f"{where}: expected a filename, got none")
                continue
            page = pages.setdefault(name, ViaPage(len(pages) + 1, name, [], []))
            try:
                shape = _field(row, "region_shape_attributes")
                if shape:
                    page.regions.append(ViaRegion(where, shape, _field(row, "region_attributes")))
            except DataError as error:
                page.unread.append(f"{where}: {error}")
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as a table ({error})") from None
    yield from pages.values()


def _field(row: Mapping[str, str | None], key: str) -> Mapping[str, Any]:
    text = row.get(key) or "{}"
    return decode_json(text.encode("utf-8", "surrogatepass"), dict[str, Any], f"{key}: ")


# --- Objects.


def _class_attribute(file: Path, pages: Sequence[ViaPage]) -> str | None:
    """Which attribute of the regions is the class; None where they have none.

    Raises:
        DataError: there are several, and none is called as a class is.
    """
    regions = [region for page in pages for region in page.regions]
    names = list(dict.fromkeys(key for region in regions for key, value in region.attributes.items() if value))
    if len(names) < 2:
        return names[0] if names else None
    called = {name.strip().lower(): name for name in reversed(names)}
    found = next((called[name] for name in CLASS_ATTRIBUTES if name in called), None)
    if found is None:
        raise DataError(
            f"{file}: expected one attribute of the regions, or one called {', '.join(CLASS_ATTRIBUTES[:-1])} or "
            f"{CLASS_ATTRIBUTES[-1]}, to be the class; got {listing(map(quote, names))}"
        )
    return found


def _add_pages(
    builder: AnnotationsBuilder,
    file: Path,
    pages: Sequence[tuple[ViaPage, Found]],
    attribute: str | None,
    bad: BadItems,
) -> None:
    passed_over: Counter[str] = Counter()
    for page, found in pages:
        if found.path is None:
            bad.add("bad-image", found.place, found.error)
            continue
        position = builder.add_image(found.path, None, page.number)
        for detail in page.unread:
            builder.add_unread(position, bad, file, detail)
        for region in page.regions:
            kind = str(region.shape.get("name"))
            if kind not in VIA_OUTLINES:
                passed_over[kind] += 1
                continue
            try:
                names, box = _class_names(region.attributes, attribute), VIA_OUTLINES[kind](region.shape)
            except DataError as error:
                builder.add_unread(position, bad, file, f"{region.where}: {error}")
                continue
            for name in names:
                builder.add_object(position, name, box, file, region.where)
    if passed_over:
        kinds = listing(f"{kind} ({count})" for kind, count in sorted(passed_over.items()))
        builder.notes.append(f"{file}: what has no box is passed over: {kinds}")
    if attribute is None:
        builder.notes.append(f"{file}: its regions have no attributes: all are of one class, {UNNAMED_CLASS!r}")


def _class_names(attributes: Mapping[str, Any], attribute: str | None) -> list[str]:
    """The value of the attribute, or of a check box all that are set."""
    if attribute is None:
        return [UNNAMED_CLASS]
    value = attributes.get(attribute)
    given = [key for key, is_set in value.items() if is_set] if isinstance(value, dict) else [value]
    names = [name.strip() for name in given if isinstance(name, str) and name.strip()]
    if not names:
        raise DataError(f"expected a class in the attribute {attribute!r}, got {quote(value)}")
    return names


def _numbers(shape: Mapping[str, Any], *names: str) -> list[float]:
    return [number(shape.get(name), name) for name in names]


def _rectangle(shape: Mapping[str, Any]) -> Box:
    x, y, width, height = _numbers(shape, "x", "y", "width", "height")
    return x, y, x + width, y + height


def _polygon(shape: Mapping[str, Any]) -> Box:
    xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
    if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys):
        raise DataError(f"expected all_points_x and all_points_y of one length, got {quote(xs)} and {quote(ys)}")
    return box_of_points([(number(x, "x"), number(y, "y")) for x, y in zip(xs, ys, strict=True)])


def _circle(shape: Mapping[str, Any]) -> Box:
    x, y, radius = _numbers(shape, "cx", "cy", "r")
    return box_of_ellipse((x, y), (radius, radius))


def _ellipse(shape: Mapping[str, Any]) -> Box:
    x, y, rx, ry = _numbers(shape, "cx", "cy", "rx", "ry")
    return box_of_ellipse((x, y), (rx, ry), math.degrees(number(shape.get("theta") or 0, "theta")))


VIA_OUTLINES: dict[str, Callable[[Mapping[str, Any]], Box]] = {
    "rect": _rectangle,
    "polygon": _polygon,
    "polyline": _polygon,
    "circle": _circle,
    "ellipse": _ellipse,
}
