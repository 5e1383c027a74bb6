"""TFRecord files of the TensorFlow Object Detection API, as Roboflow and TensorFlow's scripts write them."""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ssdlite.datasets.formats.base import Annotations, AnnotationsBuilder, BadItems, Box
from ssdlite.datasets.formats.embedded import EmbeddedPictures
from ssdlite.datasets.formats.files import read_bounded
from ssdlite.datasets.formats.options import ReadOptions
from ssdlite.datasets.formats.outlines import are_fractions
from ssdlite.datasets.formats.record_files import Values, is_record_file, read_example, read_records
from ssdlite.datasets.formats.splits import few_files, name_split_files, subfolders
from ssdlite.errors import DataError
from ssdlite.files import counted
from ssdlite.images.geometry import Size
from ssdlite.protobuf import MAX_CHARACTERS, DamagedError, parse_label_map

RECORD_FILE = re.compile(
    r"(?P<name>.+?)(?P<shard>-\d{5}-of-\d{5})?\.(?:tf_?)?rec(?:ord)?s?(?P<behind>-\d{5}-of-\d{5})?", re.IGNORECASE
)
PICTURE = "image/encoded"
BOX_FEATURES = tuple(f"image/object/bbox/{side}" for side in ("xmin", "ymin", "xmax", "ymax"))
CLASS_TEXT, CLASS_ID = "image/object/class/text", "image/object/class/label"
IGNORE_FEATURES = ("image/object/is_crowd", "image/object/group_of", "image/object/difficult")
WANTED = (
    PICTURE, "image/filename", "image/height", "image/width", *BOX_FEATURES, CLASS_TEXT, CLASS_ID, *IGNORE_FEATURES,
)  # fmt: skip
PROBED_RECORDS = 3  # that tell whether they hold pictures and boxes


class TfRecordFormat:
    """A file or its shards a split; classes in the order of the label map beside it where there is one."""

    name = "TFRecord"
    looked_for = "*.tfrecord or *.record of the TensorFlow Object Detection API"

    def find_splits(self, root: Path) -> list[str]:
        return list(find_records(root))

    def read_split(self, root: Path, split: str, bad: BadItems, options: ReadOptions) -> Annotations:
        return read_record_set(find_records(root)[split], root if root.is_dir() else root.parent, bad)

    def order_classes(self, names: set[str]) -> list[str]:
        return sorted(names)


class RecordSet(NamedTuple):
    """The shards of one split. ``name``: the path that they share."""

    name: Path
    shards: tuple[Path, ...]


def find_records(root: Path) -> dict[str, RecordSet]:
    if root.is_file():
        sets = [RecordSet(root, (root,))] if RECORD_FILE.fullmatch(root.name) else []
    else:
        sets = _record_sets(root) or [found for folder in subfolders(root) for found in _record_sets(folder)]
    sets = [one for one in sets if _holds_boxes(one.shards[0])]
    by_name = {one.name: one for one in sets}
    folders = [one.name.parent for one in sets]
    alone = [name for name in by_name if folders.count(name.parent) == 1]
    return {split: by_name[name] for split, name in name_split_files(list(by_name), alone=alone).items()}


def _record_sets(folder: Path) -> list[RecordSet]:
    """The record files in a folder, shards together."""
    groups: dict[str, list[Path]] = {}
    try:
        with os.scandir(folder) as entries:
            names = sorted(one.name for one in entries if not one.name.startswith(".") and not one.is_symlink())
    except OSError:
        return []
    for name in names:
        if match := RECORD_FILE.fullmatch(name):
            groups.setdefault(match["name"], []).append(folder / name)
    return [RecordSet(folder / f"{name}.tfrecord", tuple(shards)) for name, shards in groups.items()]


def _holds_boxes(file: Path) -> bool:
    """Whether the first records are Examples with a picture and the lists of objects."""
    if not is_record_file(file):
        return False
    try:
        for _, record, _ in itertools.islice(read_records(file), PROBED_RECORDS):
            if {PICTURE, BOX_FEATURES[0]} <= read_example(record, WANTED, PICTURE).keys():
                return True
    except (DataError, DamagedError):
        pass
    return False


def read_record_set(records: RecordSet, root: Path, bad: BadItems) -> Annotations:
    """Every record a picture, in the order of the files; pictures are written to a cache, see ``EmbeddedPictures``.

    Raises:
        DataError: a file cannot be read to its end, the label map is damaged, or the cache cannot be written.
    """
    builder = AnnotationsBuilder(str(records.name if len(records.shards) > 1 else records.shards[0]), in_fractions=True)
    names = _read_label_map(records.shards[0].parent, root)
    builder.class_order = list(names.values())
    pictures = EmbeddedPictures(sum(path.stat().st_size for path in records.shards), builder.source)
    _require_all(records, bad)
    for shard in records.shards:
        for number, record, is_intact in read_records(shard):
            if not is_intact:
                bad.add("bad-annotation", shard, f"record {number}: damaged: the checksum of its data is another one")
                continue
            try:
                _add_record(builder, record, pictures, names, _Place(shard, f"record {number}", bad))
            except DamagedError as error:
                bad.add("bad-annotation", shard, f"record {number}: {error}")
    builder.notes.append(
        f"{builder.source}: the pictures are read from {pictures.folder}"
        + (f", to which {counted(pictures.written, 'byte')} were written" if pictures.written else "")
    )
    return builder.build()


def _require_all(records: RecordSet, bad: BadItems) -> None:
    """Each of shards 00000-of-00010 must be there."""
    marks = [re.search(r"-(\d{5})-of-(\d{5})", path.name) for path in records.shards]
    there = {int(mark[1]) for mark in marks if mark}
    count = max((int(mark[2]) for mark in marks if mark), default=0)
    if (absent := count - len(there)) and records.name != records.shards[0]:
        first = next((number for number in range(count) if number not in there), 0)
        detail = f"expected {count} files, got {len(there)}: {counted(absent, 'file')} missing, such as {first:05d}"
        bad.add("bad-annotation", records.name, detail)


class _Place(NamedTuple):
    file: Path
    record: str
    bad: BadItems


def _add_record(
    builder: AnnotationsBuilder,
    record: memoryview,
    pictures: EmbeddedPictures,
    names: Mapping[int, str],
    place: _Place,
) -> None:
    example = read_example(record, WANTED, PICTURE)
    encoded = next(iter(_bytes(example, PICTURE)), None)
    file_name = str(next(iter(_bytes(example, "image/filename")), b""), "utf-8", "replace")[:200]
    where = f"{place.record} ({file_name})" if file_name else place.record
    path = None if encoded is None else pictures.path_of(encoded)
    if path is None:
        place.bad.add("bad-image", place.file, f"{where}: expected a picture in {PICTURE}, got none")
        return
    boxes = _boxes(example)
    classes = _classes(example, names, len(boxes))
    ignored = [_flags(example, name, len(boxes)) for name in IGNORE_FEATURES]
    position = builder.add_image(path, _size(example))
    for number, (corners, name, *flags) in enumerate(zip(boxes, classes, *ignored, strict=True), start=1):
        what = f"{where}, object {number}"
        if not are_fractions(corners):
            shown = ", ".join(f"{value:g}" for value in corners)
            detail = f"{what}: expected fractions of the picture's width and height, got {shown}"
            builder.add_unread(position, place.bad, place.file, detail)
        elif not name:
            builder.add_unread(position, place.bad, place.file, f"{what}: expected a class, got none")
        else:
            builder.add_object(position, name, corners, place.file, what, ignore=any(flags))


def _bytes(example: Mapping[str, Values], name: str) -> list[memoryview]:
    return [value for value in example.get(name, []) if isinstance(value, memoryview)]


def _numbers_of(example: Mapping[str, Values], name: str) -> list[float]:
    return [value for value in example.get(name, []) if not isinstance(value, memoryview)]


def _boxes(example: Mapping[str, Values]) -> list[Box]:
    """Of the objects, as fractions."""
    columns = [_numbers_of(example, name) for name in BOX_FEATURES]
    if len({len(column) for column in columns}) > 1:
        counts = ", ".join(str(len(column)) for column in columns)
        raise DamagedError(f"expected as many xmin, ymin, xmax and ymax, got {counts}")
    return list(zip(columns[0], columns[1], columns[2], columns[3], strict=True))


def _classes(example: Mapping[str, Values], names: Mapping[int, str], count: int) -> list[str]:
    """By their texts, else their ids in the label map, else the ids themselves."""
    texts = [str(text, "utf-8", "replace").strip() for text in _bytes(example, CLASS_TEXT)]
    ids = [int(number) for number in _numbers_of(example, CLASS_ID) if math.isfinite(number)]
    classes = texts if len(texts) == count and all(texts) else [names.get(number, str(number)) for number in ids]
    if len(classes) != count:
        raise DamagedError(f"expected a class of each of {counted(count, 'box')}, got {len(classes)}")
    return classes


def _flags(example: Mapping[str, Values], name: str, count: int) -> list[bool]:
    flags = [bool(value) for value in _numbers_of(example, name)]
    return flags if len(flags) == count else [False] * count


def _size(example: Mapping[str, Values]) -> Size | None:
    height, width = (next(iter(_numbers_of(example, f"image/{side}")), 0) for side in ("height", "width"))
    return (int(height), int(width)) if 0 < height < math.inf and 0 < width < math.inf else None


def _read_label_map(folder: Path, root: Path) -> dict[int, str]:
    """The names by id of a ``*label*.pbtxt`` beside the records, in the folder above, or in the root."""
    for place in dict.fromkeys((folder, folder.parent if folder != root else root, root, root / "annotations")):
        for path in few_files(place, ".pbtxt"):
            if "label" in path.name.lower() or "map" in path.name.lower():
                return _parse_map(path)
    return {}


def _parse_map(path: Path) -> dict[int, str]:
    try:
        return parse_label_map(read_bounded(path, 4 * MAX_CHARACTERS).decode("utf-8-sig"))
    except DamagedError as error:
        raise DataError(f"{path}: {error}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: expected text in UTF-8") from None
