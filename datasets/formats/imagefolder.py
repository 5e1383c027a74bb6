"""Hugging Face's ``imagefolder``: pictures and a ``metadata.jsonl`` (also .csv, .parquet) with their objects."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ssdlite.datasets.formats.base import Annotations, AnnotationsBuilder, BadItems, Box, natural_order
from ssdlite.datasets.formats.files import read_bounded
from ssdlite.datasets.formats.finding import PROBED_NAMES, Found, find_pictures
from ssdlite.datasets.formats.json_files import MAX_JSON_BYTES, decode_json, number, read_head
from ssdlite.datasets.formats.options import ReadOptions
from ssdlite.datasets.formats.parquet_files import has_columns, read_parquet
from ssdlite.datasets.formats.splits import find_split_files, split_word
from ssdlite.errors import DataError, quote
from ssdlite.images.geometry import Size

METADATA_FILES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")  # of a folder the first
BOX_KEYS = ("bbox", "bboxes", "boxes", "box")
CATEGORY_KEYS = ("category", "categories", "label", "labels", "class", "classes", "category_id")
OBJECT_NAMES = ("objects", "bbox", "bboxes")  # beside ``file_name``: by these it is about objects
OBJECT_KEY = re.compile(rb'"(?:%s)"\s*:' % "|".join(OBJECT_NAMES).encode())
PARQUET_COLUMNS = frozenset(("file_name", "objects", "width", "height", *BOX_KEYS, *CATEGORY_KEYS))
NUMBERS_NOTE = "its categories are numbers, which become the names of the classes"
CLASS_LISTS = ("classes.txt", "labels.txt")  # beside the metadata or in the root, a name a line


class ImageFolderFormat:
    """Of a ``file_name`` the ``objects``: ``bbox`` (x, y, width, height in pixels) and ``category``, name or number."""

    name = "imagefolder"
    looked_for = "metadata.jsonl with file_name and objects, as Hugging Face's imagefolder has it"

    def find_splits(self, root: Path) -> list[str]:
        return list(_find_parts(root))

    def read_split(self, root: Path, split: str, bad: BadItems, options: ReadOptions) -> Annotations:
        part = _find_parts(root)[split]
        base = root if root.is_dir() else part.file.parent
        rows = [row for row in _read_rows(part.file, bad) if part.folder in (None, _first_folder(row.file_name))]
        folders = [Path(options.images)] if options.images else _picture_folders(part.file)
        pictures = find_pictures([row.file_name for row in rows], folders, base, part.file)
        builder = AnnotationsBuilder(f"{part.file} ({split})" if part.folder else str(part.file), box_form="size")
        names = _class_list((part.file.parent, base))
        _add_rows(builder, part.file, list(zip(rows, pictures, strict=True)), names, bad)
        builder.class_order = names
        return builder.build()

    def order_classes(self, names: set[str]) -> Sequence[str]:
        return natural_order(names)


class MetadataPart(NamedTuple):
    """A split: of ``file`` the pictures in ``folder``, None being all."""

    file: Path
    folder: str | None


def _find_parts(root: Path) -> dict[str, MetadataPart]:
    files = find_split_files(root, METADATA_FILES, _metadata_file)
    if not files and (root / "data").is_dir():
        files = find_split_files(root / "data", METADATA_FILES, _metadata_file)
    if len(files) == 1:
        (file,) = files.values()
        folders: set[str] = set()
        with contextlib.suppress(DataError):  # said where it is read for its objects
            found = (_first_folder(row.file_name) for row in _read_rows(file, BadItems(skip=True)))
            folders.update(folder for folder in found if folder and split_word(folder))
        if len(folders) > 1:
            return {folder: MetadataPart(file, folder) for folder in sorted(folders)}
    return {split: MetadataPart(file, None) for split, file in files.items()}


def _metadata_file(files: Sequence[Path]) -> list[Path]:
    return [path for path in sorted(files, key=_preference) if has_objects(path)][:1]


def _preference(path: Path) -> int:
    return next((place for place, name in enumerate(METADATA_FILES) if path.name.lower() == name), len(METADATA_FILES))


def has_objects(path: Path) -> bool:
    """Whether it is about objects, by the keys of its first lines or its columns. A damaged file says so when read."""
    if path.suffix.lower() == ".parquet":
        return any(has_columns(path, "file_name", name) is not False for name in OBJECT_NAMES)
    head = read_head(path)
    if path.suffix.lower() == ".csv":
        names = [name.strip(b' "\r') for name in head.partition(b"\n")[0].split(b",")]
        return b"file_name" in names and any(name.encode() in names for name in OBJECT_NAMES)
    return b'"file_name"' in head and OBJECT_KEY.search(head) is not None


def has_pictures_beside(file: Path) -> bool:
    """Whether it is metadata of which one of the first pictures is there."""
    if not file.name.lower().endswith(METADATA_FILES) or not has_objects(file):
        return False
    with contextlib.suppress(DataError):
        names = [row.file_name for row in itertools.islice(_read_rows(file, BadItems(skip=True)), PROBED_NAMES)]
        return any(found.path is not None for found in find_pictures(names, _picture_folders(file), None, file))
    return False


def _picture_folders(file: Path) -> list[Path]:
    return [file.parent, file.parent / "images"]


def _first_folder(file_name: str) -> str | None:
    folder, slash, _ = file_name.replace("\\", "/").removeprefix("./").partition("/")
    return folder if slash else None


# --- Rows.


class MetadataRow(NamedTuple):
    number: int  # of the line or row, from 1
    file_name: str
    values: Mapping[str, Any]


def _read_rows(file: Path, bad: BadItems) -> Iterator[MetadataRow]:
    """The rows that name a picture; others go to ``bad``."""
    for count, found in _parsed_rows(file):
        if isinstance(found, DataError):
            bad.add("bad-annotation", file, f"line {count}: {found}")
        elif not isinstance(name := found.get("file_name"), str) or not name:
            bad.add("bad-annotation", file, f"line {count}: expected a file_name, got {quote(name)}")
        else:
            yield MetadataRow(count, name, found)


def _parsed_rows(file: Path) -> Iterator[tuple[int, Mapping[str, Any] | DataError]]:
    if file.suffix.lower() == ".parquet":
        yield from enumerate(read_parquet(file, PARQUET_COLUMNS), start=1)
        return
    data = read_bounded(file, MAX_JSON_BYTES).removeprefix(b"\xef\xbb\xbf")
    if file.suffix.lower() == ".csv":
        try:
            reader = csv.DictReader(io.StringIO(data.decode("utf-8"), newline=""))
            yield from ((reader.line_num, row) for row in reader)
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{file}: cannot be read as a table ({error})") from None
        return
    for count, line in enumerate(data.splitlines(), start=1):
        if line.strip():
            try:
                yield count, decode_json(line, dict[str, Any])
            except DataError as error:
                yield count, error


# --- Objects.


def _class_list(folders: Sequence[Path]) -> list[str]:
    for path in (folder / name for folder in folders for name in CLASS_LISTS):
        if path.is_file():
            try:
                lines = read_bounded(path, MAX_JSON_BYTES).decode("utf-8-sig").splitlines()
            except UnicodeDecodeError as error:
                raise DataError(f"{path}: cannot be read as a list of classes ({error})") from None
            return [line.strip() for line in lines if line.strip()]
    return []


def _add_rows(
    builder: AnnotationsBuilder,
    file: Path,
    rows: Sequence[tuple[MetadataRow, Found]],
    names: Sequence[str],
    bad: BadItems,
) -> None:
    has_numbers = False
    for row, found in rows:
        if found.path is None:
            bad.add("bad-image", found.place, found.error)
            continue
        position = builder.add_image(found.path, stated_size(row.values), row.number)
        has_numbers |= add_objects(builder, position, row.values, names, RowPlace(file, f"line {row.number}", bad))
    if has_numbers:
        builder.notes.append(f"{file}: {NUMBERS_NOTE}; a classes.txt beside it, a name a line, gives them others")


class RowPlace(NamedTuple):
    """For messages, and where they go."""

    file: Path
    where: str  # "line 3"
    bad: BadItems


def add_objects(
    builder: AnnotationsBuilder,
    image: int,
    values: Mapping[str, Any],
    names: Sequence[str],
    place: RowPlace,
) -> bool:
    """Those of a row; whether a category is a number that no name is known for."""
    has_numbers = False
    try:
        objects = _objects(values)
    except DataError as error:
        builder.add_unread(image, place.bad, place.file, f"{place.where}: {error}")
        return False
    for count, (category, bbox) in enumerate(objects, start=1):
        what = f"{place.where}, object {count}"
        try:
            class_name, box = _class_name(category, names), _box(bbox)
        except DataError as error:
            builder.add_unread(image, place.bad, place.file, f"{what}: {error}")
        else:
            has_numbers = has_numbers or (isinstance(category, int) and not names)
            builder.add_object(image, class_name, box, place.file, what)
    return has_numbers


def stated_size(values: Mapping[str, Any]) -> Size | None:
    height, width = values.get("height"), values.get("width")
    if isinstance(height, int) and isinstance(width, int) and 0 < height < 1 << 31 and 0 < width < 1 << 31:
        return height, width
    return None


def _objects(values: Mapping[str, Any]) -> list[tuple[object, object]]:
    """Category and box of each, whether they stand in two lists or as a list of pairs."""
    objects = values.get("objects", values)
    if isinstance(objects, str):  # a field of a table
        objects = decode_json(objects.encode("utf-8", "surrogatepass"), Any) if objects.strip() else None
    if objects is None:
        return []
    if isinstance(objects, list):
        return [(_first_of(entry, CATEGORY_KEYS), _first_of(entry, BOX_KEYS)) for entry in objects]
    categories, boxes = _first_of(objects, CATEGORY_KEYS), _first_of(objects, BOX_KEYS)
    if not isinstance(categories, list) or not isinstance(boxes, list) or len(categories) != len(boxes):
        raise DataError(
            f"expected objects with lists bbox and category of one length, got {quote(boxes)} and {quote(categories)}"
        )
    return list(zip(categories, boxes, strict=True))


def _first_of(entry: object, keys: Sequence[str]) -> Any:
    if not isinstance(entry, dict):
        raise DataError(f"expected an object with bbox and category, got {quote(entry)}")
    return next((entry[key] for key in keys if key in entry), None)


def _class_name(category: object, names: Sequence[str]) -> str:
    if isinstance(category, str) and category.strip():
        return category.strip()
    if isinstance(category, bool) or not isinstance(category, int) or abs(category) >= 1 << 62:
        raise DataError(f"expected a category's name or number, got {quote(category)}")
    if not names:
        return str(category)
    if not 0 <= category < len(names):
        raise DataError(f"expected a category from 0 to {len(names) - 1}, as many as names, got {category}")
    return names[category]


def _box(bbox: object) -> Box:
    if not isinstance(bbox, list) or len(bbox) != 4:
        raise DataError(f"expected bbox [x, y, width, height], got {quote(bbox)}")
    x, y, width, height = (number(value, "bbox") for value in bbox)
    if width < 0 or height < 0:
        raise DataError(f"expected bbox [x, y, width, height], got a negative size in {quote(bbox)}")
    return x, y, x + width, y + height
