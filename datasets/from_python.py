"""Annotated pictures from Python: sequences, torch's and Hugging Face's data sets, tables of pandas.

They are written once, as a COCO data set in the user's folder for caches, and are data like any other from there on:
workers read them, a run's fingerprint knows them again, ``--resume`` and ``ssdlite eval`` find them.
"""

from __future__ import annotations

import hashlib
import numbers
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

import cv2
import numpy as np

from ssdlite.datasets.formats.base import Box, in_pixels, natural_order
from ssdlite.datasets.formats.csv_columns import BOX_FORMS, Columns, RowError, columns_named
from ssdlite.datasets.formats.csv_tables import MOST_SPLITS, ONLY_CLASS
from ssdlite.datasets.formats.embedded import picture_cache
from ssdlite.datasets.formats.imagefolder import BOX_KEYS, CATEGORY_KEYS
from ssdlite.datasets.formats.outlines import are_fractions, mostly_fractions
from ssdlite.datasets.formats.plausibility import BoxForm, require_pixels, require_plausible
from ssdlite.datasets.index import DetectionIndex
from ssdlite.datasets.writers.base import LabeledPicture, require_class_names
from ssdlite.datasets.writers.coco import CocoWriter
from ssdlite.errors import DataError, quote
from ssdlite.files import remove_forgotten, temporary_path
from ssdlite.images.prediction import to_array
from ssdlite.images.reading import read_header

STORED_NAME = "data-from-python"  # of the folder, and so of the data in messages and tables
BACKGROUND = "__background__"  # torchvision's first class, which is none
SPLIT_NAME = re.compile(r"\w[\w .-]*")


class IndexedExamples(Protocol):
    """A data set as torch has it; also one that knows no end but its length."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: int, /) -> Any: ...


DataSource: TypeAlias = "str | Path | DetectionIndex | Iterable[Any] | IndexedExamples"


class Example(NamedTuple):
    """A picture (a path, or pixels as ``predict`` takes them) and its N objects."""

    picture: Any
    boxes: Any  # [N, 4] xyxy pixels, or with ``in_fractions`` of the picture's width and height
    labels: Any  # [N] names, or numbers
    ignore: Sequence[bool] = ()
    places: Sequence[str] = ()  # of the objects in what was given, for messages
    box_form: BoxForm = "corners"  # that the boxes were given in
    in_fractions: bool = False


def as_data_path(data: DataSource, val: DataSource | None = None, *, class_names: Sequence[str] | None = None) -> Path:
    """The folder or file of ``data``: a path as it is, anything else as it is written to the cache.

    ``data`` and ``val``, which becomes the validation split, may be

    - a sequence of (picture, boxes [N, 4] xyxy in pixels, labels [N]), the picture being a path or pixels;
    - a torch ``Dataset`` of (picture, target), the target having ``boxes`` and ``labels`` as torchvision's detectors
      take them; a tensor of floats is in 0..1;
    - a Hugging Face data set with ``image`` and ``objects``, two lists or a list of pairs of ``category`` and ``bbox``,
      (x, y, width, height) in pixels;
    - a table of pandas with a row an object, read as CSV files are (docs/data.md): their names of columns, fractions,
      and a column of splits, of which there is no ``val`` then;
    - a ``DetectionIndex``, a split of ``load_data``.

    Args:
        class_names: of labels that are numbers: the name of number n is ``class_names[n]``. A first one of
            ``__background__`` stands for no class. By default a Hugging Face data set's own, else the numbers.

    Raises:
        DataError: an example cannot be used, the message saying which, or the cache cannot be written.
        TypeError: something else than data.
    """
    if isinstance(data, (str, Path)):
        if val is not None or class_names is not None:
            raise DataError(f"{data}: val and class_names go with data from Python; a folder has its own")
        return Path(data)
    cache = picture_cache().with_name("data")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        remove_forgotten(cache)
        temporary = temporary_path(cache / "new")
        try:
            temporary.mkdir()
            return _put_into(cache, temporary, _store(temporary, data, val, class_names))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"data from Python cannot be written to {cache} ({error.strerror}); XDG_CACHE_HOME names another folder"
        ) from None


def _put_into(cache: Path, new: Path, digest: str) -> Path:
    """Below its content's hash, so that the same data are stored once."""
    folder = cache / digest / STORED_NAME
    if not folder.is_dir():
        folder.parent.mkdir(exist_ok=True)
        try:
            new.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process was faster
                raise
    return folder


def _store(folder: Path, data: DataSource, val: DataSource | None, class_names: Sequence[str] | None) -> str:
    """Write the splits; the hash of all that is in them."""
    digest = hashlib.sha256()
    if class_names is None:
        class_names = _own_names(data) or _own_names(val)
    written = {
        split: _write_pictures(folder / split, examples, class_names, digest)
        for split, examples in _splits(data, val).items()
    }
    occurring = {name for pictures in written.values() for _, names in pictures for name in names}
    known = [name for name in class_names or natural_order(occurring) if name != BACKGROUND]
    require_class_names(known, "data from Python")
    if unknown := sorted(occurring - set(known)):
        raise DataError(f"data from Python: expected labels of {', '.join(known)}, got {quote(unknown[0])} too")
    place = {name: label for label, name in enumerate(known)}
    for split, pictures in written.items():
        labeled = (picture._replace(labels=[place[name] for name in names]) for picture, names in pictures)
        CocoWriter().write_split(folder, split, labeled, known)
    digest.update(repr(known).encode())
    return digest.hexdigest()


def _write_pictures(
    folder: Path, examples: Iterator[Example], class_names: Sequence[str] | None, digest: Any
) -> list[tuple[LabeledPicture, list[str]]]:
    """The pictures of a split, written to ``folder``, each with the names of its objects' classes."""
    folder.mkdir()
    written = []
    box_form: BoxForm = "corners"
    for position, example in enumerate(examples):
        try:
            boxes = _boxes(example.boxes)
            names = [_class_name(label, class_names) for label in _plain(example.labels)]
            if len(boxes) != len(names):
                raise DataError(f"expected as many boxes as labels, got {len(boxes)} and {len(names)}")
            path = _write_picture(folder, position, example.picture, digest)
            places = example.places or [f"example {position}, box {number}" for number in range(len(boxes))]
            size = read_header(path).upright
            if example.in_fractions:
                boxes = in_pixels(np.array(boxes).reshape(-1, 4), np.array(size[::-1])).tolist()
            picture = LabeledPicture(path.name, size, boxes, (), ignore=example.ignore, places=places)
        except (ValueError, TypeError) as error:  # DataError is a ValueError
            raise DataError(f"{folder.name} example {position}: {error}") from None
        digest.update(repr((folder.name, boxes, names, places, list(example.ignore))).encode())
        written.append((picture, names))
        box_form = example.box_form
    if not written:
        raise DataError(f"{folder.name}: expected examples of pictures with boxes and labels, got none")
    _require_plausible(f"data from Python, {folder.name}", written, box_form)
    return written


def _require_plausible(source: str, written: Sequence[tuple[LabeledPicture, list[str]]], box_form: BoxForm) -> None:
    """As for data in files, but that items and boxes are named as they were given."""
    boxes = np.array([box for picture, _ in written for box in picture.boxes], np.float64).reshape(-1, 4)
    places = [
        f"{place} ({name})" for picture, names in written for place, name in zip(picture.places, names, strict=True)
    ]
    sizes = [picture.size[::-1] for picture, _ in written for _ in picture.boxes]
    require_pixels(boxes, source, places.__getitem__)
    require_plausible(boxes, np.array(sizes, np.float64).reshape(-1, 2), box_form, source, places.__getitem__)


def _write_picture(folder: Path, position: int, picture: Any, digest: Any) -> Path:
    """A file is linked to, where that can be, else copied; pixels become a PNG."""
    if isinstance(picture, (str, Path)):
        source = Path(picture).resolve()
        if not source.is_file():
            raise DataError(f"{picture}: no such image file")
        path = folder / f"{position:06d}{source.suffix.lower()}"
        try:
            os.link(source, path)
        except OSError:
            shutil.copyfile(source, path)
        state = source.stat()
        digest.update(repr((str(source), state.st_size, state.st_mtime_ns)).encode())
        return path
    pixels = to_array(_in_bytes(picture), position)
    digest.update(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    path = folder / f"{position:06d}.png"
    _, encoded = cv2.imencode(".png", pixels[:, :, ::-1])
    path.write_bytes(encoded.tobytes())
    return path


def _in_bytes(picture: Any) -> Any:
    """A tensor of floats, which torchvision has in 0..1, in 0..255."""
    is_tensor = hasattr(picture, "is_floating_point")
    return (picture * 255).round() if is_tensor and picture.is_floating_point() and picture.max() <= 1 else picture


# --- The forms that data come in.


def _splits(data: DataSource, val: DataSource | None) -> dict[str, Iterator[Example]]:
    """Those of a table's column, else ``train`` and ``val``."""
    if names := _split_names(data) if hasattr(data, "itertuples") else []:
        if val is not None:
            raise DataError(f"val: expected none beside a table with the splits {', '.join(names)}")
        return {name: _of_table(data, name) for name in names}
    return {"train": _examples(data)} | ({} if val is None else {"val": _examples(val)})


def _examples(data: DataSource) -> Iterator[Example]:
    if isinstance(data, DetectionIndex):
        return _of_index(data)
    if hasattr(data, "itertuples"):
        return _of_table(data)
    if isinstance(data, (Mapping, bytes)) or not (hasattr(data, "__getitem__") or isinstance(data, Iterable)):
        hint = f"; give one of {', '.join(map(str, data))}" if isinstance(data, Mapping) else ""
        raise TypeError(f"expected a path, or examples of pictures with boxes, got {type(data).__name__}{hint}")
    return (_example(item, position) for position, item in enumerate(_items(data)))


def _items(data: Any) -> Iterator[Any]:
    """Torch's data sets have a length and raise no IndexError behind it."""
    if hasattr(data, "__len__") and hasattr(data, "__getitem__"):
        return (data[position] for position in range(len(data)))
    return iter(data)


def _example(item: Any, position: int) -> Example:
    if isinstance(item, Mapping) and "objects" in item and "image" in item:
        return _of_objects(item["image"], item["objects"], position)
    if isinstance(item, Sequence) and len(item) == 3:
        return Example(*item)
    if isinstance(item, Sequence) and len(item) == 2 and isinstance(item[1], Mapping):
        return Example(item[0], *(_first_key(item[1], (key,), position) for key in ("boxes", "labels")))
    raise DataError(
        f"example {position}: expected (picture, boxes, labels), (picture, target with boxes and labels) or a mapping "
        f"with image and objects, got {type(item).__name__}"
    )


def _of_objects(picture: Any, objects: Any, position: int) -> Example:
    """Of Hugging Face's ``objects``: two lists, a list of pairs, or None where there are none."""
    if isinstance(objects, Mapping):
        boxes, labels = (_first_key(objects, keys, position) for keys in (BOX_KEYS, CATEGORY_KEYS))
    else:
        entries = _plain(objects)
        boxes, labels = ([_first_key(one, keys, position) for one in entries] for keys in (BOX_KEYS, CATEGORY_KEYS))
    corners = []
    for number, bbox in enumerate(_plain(boxes)):
        try:
            x, y, width, height = map(float, _plain(bbox))
        except (TypeError, ValueError):
            raise DataError(
                f"example {position}, box {number}: expected bbox [x, y, width, height], got {quote(bbox)}"
            ) from None
        corners.append((x, y, x + width, y + height))
    return Example(picture, corners, _plain(labels), box_form="size")


def _first_key(values: Any, keys: Sequence[str], position: int) -> Any:
    if not isinstance(values, Mapping):
        raise DataError(f"example {position}: expected an object with bbox and category, got {quote(values)}")
    key = next((key for key in keys if key in values), None)
    if key is None:
        raise DataError(f"example {position}: expected {' or '.join(keys)}, got {quote(list(values))}")
    return values[key]


def _of_index(index: DetectionIndex) -> Iterator[Example]:
    for position in range(len(index)):
        record = index.record(position)
        names = [index.class_names[label] for label in record.labels.tolist()]
        yield Example(record.path, record.boxes, names, record.ignore.tolist())


def _table_columns(table: Any) -> Columns:
    columns = columns_named([str(name) for name in table.columns])
    if missing := columns.missing():
        raise DataError(
            f"a table: expected the columns filename, class and {', '.join(BOX_FORMS['corners'])}, or such; "
            f"{', '.join(missing)} is missing among {', '.join(columns.names)}"
        )
    return columns


def _cells(table: Any) -> Iterator[tuple[Any, ...]]:
    """Of each row; what pandas counts as missing (None, NaN, NA, NaT) is an empty text, as in a CSV file."""
    return iter(table.astype(object).where(table.notna(), "").itertuples(index=False, name=None))


def _split_names(table: Any) -> list[str]:
    """What the column of splits holds, if that are two or more names."""
    place = _table_columns(table).place.get("split")
    names = sorted({str(cells[place]).strip() for cells in _cells(table)} - {""}) if place is not None else []
    if not 1 < len(names) <= MOST_SPLITS:
        return []
    if unsafe := [name for name in names if not SPLIT_NAME.fullmatch(name)]:
        raise DataError(f"a table: expected names of splits that a folder can have, got {quote(unsafe[0])}")
    return names


def _of_table(table: Any, split: str | None = None) -> Iterator[Example]:
    """A row an object, of all or of one split; the pictures in the order in which they come first."""
    columns = _table_columns(table)
    class_place = columns.place.get("class")
    objects: dict[str, list[tuple[Box, Any, bool, str]]] = {}
    for number, cells in enumerate(_cells(table)):
        row = _read_row(columns, [str(cell) for cell in cells], number)
        if split not in (None, row.split):
            continue
        label = ONLY_CLASS if class_place is None else cells[class_place]
        label = label if _is_number(label) else row.class_name or ONLY_CLASS
        own = objects.setdefault(row.image, [])
        own += [] if row.box is None else [(row.box, label, row.ignore, f"row {number}")]
    in_fractions = columns.always_fractions or mostly_fractions([row[0] for rows in objects.values() for row in rows])
    for image, rows in objects.items():
        boxes, labels, ignore, places = zip(*rows, strict=True) if rows else ((), (), (), ())
        for box, place in zip(boxes, places, strict=True):
            if in_fractions and not are_fractions(box):
                shown = ", ".join(f"{value:g}" for value in box)
                raise DataError(f"a table: {place}: expected fractions as in the other rows, got {shown}")
        yield Example(image, boxes, labels, ignore, places, columns.box_form, in_fractions)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Number) and not isinstance(value, bool)


def _read_row(columns: Columns, cells: list[str], number: int) -> Any:
    try:
        return columns.read(cells)
    except RowError as error:
        raise DataError(f"a table: row {number}: {error}") from None


def _own_names(data: Any) -> Sequence[str] | None:
    """The classes of a Hugging Face data set, or of an index."""
    if isinstance(data, DetectionIndex):
        return data.class_names
    features = getattr(data, "features", None)
    objects: Any = features.get("objects") if isinstance(features, Mapping) else None
    objects = getattr(objects, "feature", objects)
    objects = objects[0] if isinstance(objects, list) and objects else objects
    for key in CATEGORY_KEYS if isinstance(objects, Mapping) else ():
        kind = objects.get(key)
        names: Sequence[str] | None = getattr(getattr(kind, "feature", kind), "names", None)
        if names:
            return names
    return None


def _plain(values: Any) -> list[Any]:
    """Of a tensor or an array its values; None is none."""
    return [] if values is None else list(values.tolist() if hasattr(values, "tolist") else values)


def _boxes(values: Any) -> list[Box]:
    form = getattr(getattr(values, "format", None), "name", "XYXY")  # of torchvision's BoundingBoxes
    boxes = np.asarray([_plain(box) for box in _plain(values)], np.float64)
    if form != "XYXY" or not (boxes.size == 0 or (boxes.ndim == 2 and boxes.shape[1] == 4)):
        raise DataError(f"expected boxes [N, 4] as x0, y0, x1, y1, got {form if form != 'XYXY' else boxes.shape}")
    if not np.isfinite(boxes).all():
        raise DataError(f"expected boxes of finite numbers, got {boxes[~np.isfinite(boxes).all(axis=1)][0].tolist()}")
    return [(x0, y0, x1, y1) for x0, y0, x1, y1 in boxes.reshape(-1, 4).tolist()]


def _class_name(label: Any, class_names: Sequence[str] | None) -> str:
    if isinstance(label, str):
        return label
    try:
        number = int(label)
        is_whole = bool(number == label)
    except (TypeError, ValueError, OverflowError):
        is_whole = False
    if not is_whole:
        raise DataError(f"expected a class as a name or a whole number, got {quote(label)}")
    if class_names is None:
        return str(number)
    if not 0 <= number < len(class_names) or class_names[number] == BACKGROUND:
        first = "" if BACKGROUND in class_names else f"; where 0 is the background, {BACKGROUND!r} is the first of them"
        raise DataError(f"expected labels that number the {len(class_names)} class_names from 0, got {number}{first}")
    return class_names[number]
