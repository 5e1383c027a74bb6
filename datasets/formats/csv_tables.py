"""Tables of boxes, a row each: those of TensorFlow's tutorials, Roboflow, Open Images, RetinaNet, AutoML, Kaggle ..."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ssdlite.datasets.formats.base import Annotations, AnnotationsBuilder, BadItems, Box, natural_order
from ssdlite.datasets.formats.csv_columns import Columns, RowError, read_columns, read_rows
from ssdlite.datasets.formats.files import PictureTree
from ssdlite.datasets.formats.finding import find_pictures
from ssdlite.datasets.formats.options import ReadOptions
from ssdlite.datasets.formats.outlines import are_fractions, mostly_fractions
from ssdlite.datasets.formats.splits import few_files, find_split_files
from ssdlite.errors import DataError, is_text
from ssdlite.files import counted
from ssdlite.images.geometry import Size
from ssdlite.images.reading import IMAGE_SUFFIXES, is_picture_name

TABLE_SUFFIXES = (".csv", ".tsv")
TABLE_FOLDERS = ("labels", "annotations")
MOST_SPLITS = 12  # of a column of splits; with more values it is something else
MOST_BOXES = 5_000_000  # of one split
ONLY_CLASS = "object"  # of a table without a column of classes
CLASS_LIST = re.compile(r"_?class(es|[-_]?(descriptions|names|list|map)).*\.csv", re.IGNORECASE)
MAX_CLASS_LIST_BYTES = 1 << 24


class CsvTables:
    """A table a split, or one with a column of splits; classes in the order of ``classes.csv`` where there is one."""

    name = "CSV"
    looked_for = "*.csv with the columns filename, class, xmin, ymin, xmax, ymax or such, also in the splits' folders"

    def find_splits(self, root: Path) -> list[str]:
        return list(find_tables(root))

    def read_split(self, root: Path, split: str, bad: BadItems, options: ReadOptions) -> Annotations:
        tables = find_tables(root)
        return read_table(tables[split], root, split, bad, options, others=list(tables.values()))

    def order_classes(self, names: set[str]) -> list[str]:
        """By name, numbers by their value."""
        return natural_order(names)


class BoxTable(NamedTuple):
    """``value``: that of the column of splits for the rows that are meant; None: all."""

    path: Path
    columns: Columns
    value: str | None = None


def find_tables(root: Path) -> dict[str, BoxTable]:
    """The table of every split. A file that is named is taken for one whatever is in it, so that its error says why."""
    known: dict[Path, Columns] = {}

    def choose(files: Sequence[Path]) -> list[Path]:
        found = {path: columns for path in files if (columns := read_columns(path)) is not None}
        known.update(found)
        return [
            path
            for path, columns in found.items()
            if columns.is_annotations or (path == root and not columns.is_foreign)
        ]

    tables: dict[str, BoxTable] = {}
    for name, path in find_split_files(root, TABLE_SUFFIXES, choose, TABLE_FOLDERS).items():
        values = _split_values(path, known[path])
        for value in values:
            tables[value if value not in tables else f"{name}/{value}"] = BoxTable(path, known[path], value)
        if not values:
            tables[name] = BoxTable(path, known[path])
    return tables


def _split_values(path: Path, columns: Columns) -> list[str]:
    """What the column of splits holds, if that are two or more names."""
    place = columns.place.get("split")
    if place is None or not columns.form:
        return []
    values: set[str] = set()
    try:
        for _, cells in read_rows(path, columns):
            if len(cells) > place and cells[place].strip():
                values.add(cells[place].strip())
                if len(values) > MOST_SPLITS:
                    return []
    except DataError:  # said where the table is read for its boxes
        return []
    return sorted(values) if len(values) > 1 else []


# --- One table.


@dataclass
class _Picture:
    path: str
    size: Size | None
    rows: list[tuple[int, str, Box, bool]] = field(default_factory=list)  # line, class, box as written, ignore


def read_table(
    table: BoxTable, root: Path, split: str, bad: BadItems, options: ReadOptions, *, others: Sequence[BoxTable] = ()
) -> Annotations:
    """The rows of one split. A picture with a row of empty fields is a background picture; one without a row is unused.

    Args:
        others: all tables of the data set: a picture that one of them names is not without a row.

    Raises:
        DataError: the file is no table, or the columns of a picture and a box are not there.
    """
    _require_columns(table)
    file, columns = table.path, table.columns
    folder = root if root.is_dir() else root.parent
    builder = AnnotationsBuilder(str(file), box_form=columns.box_form)
    names = _names(table, table.value)
    absent = _drop_absent(names, options.images or folder) if columns.open_images else 0
    paths = _find_pictures(table, names, _folders(table, folder, split, options), folder, bad)
    if absent:
        builder.notes.append(f"{file}: {counted(absent, 'picture')} of the table are not there: not used")
    classes = _find_class_list(file, folder)
    builder.class_order = list(dict.fromkeys(classes.values()))
    pictures = _gather(table, paths, classes, bad)
    builder.in_fractions = columns.always_fractions or mostly_fractions(
        [row[2] for picture in pictures.values() for row in picture.rows]
    )
    for path in sorted(pictures):
        _add(builder, pictures[path], file, bad)
    builder.notes += _notes(table, builder.in_fractions)
    others = [other for other in others if other.path != file or table.value is not None]
    known = set(map(_stem, itertools.chain(names, *(_names(other) for other in others))))
    if alone := _without_row(paths, known):
        builder.notes.append(
            f"{file}: {counted(len(alone), 'picture')} beside those of the table without a row in it, such as "
            f"{min(alone)}: not used (a row with empty fields makes a background picture)"
        )
    return builder.build()


def _require_columns(table: BoxTable) -> None:
    if missing := table.columns.missing():
        got = ", ".join(name or "''" for name in table.columns.names[:30])
        raise DataError(
            f"{table.path}, line 1: expected columns for the picture, the class and the box, such as filename, class, "
            f"xmin, ymin, xmax, ymax; missing: {', '.join(missing)}; got: {got}{table.columns.renaming()}"
        )


def _names(table: BoxTable, value: str | None = None) -> dict[str, int]:
    """The pictures that a table names, and the first line of each; of the split ``value`` where that is given."""
    image, split = table.columns.place.get("image", 0), table.columns.place.get("split", 0)
    names: dict[str, int] = {}
    try:
        for line, cells in read_rows(table.path, table.columns):
            if len(cells) > max(image, split) and value in (None, cells[split].strip()) and is_text(cells[image]):
                names.setdefault(cells[image].strip(), line)
    except DataError:  # said where it is read for its boxes
        pass
    names.pop("", None)
    return names


def _drop_absent(names: dict[str, int], folder: Path | str) -> int:
    """Leave those of which there is a picture, and count the others: of Open Images people have a part."""
    stems = set(map(_stem, PictureTree(Path(folder)).paths))
    absent = [name for name in names if _stem(name) not in stems]
    for name in absent:
        del names[name]
    return len(absent)


def _folders(table: BoxTable, root: Path, split: str, options: ReadOptions) -> list[Path]:
    """Where the pictures of a table may be."""
    if options.images:
        return [Path(options.images)]
    bases = dict.fromkeys([table.path.parent, *([table.path.parent.parent] if table.path.parent != root else []), root])
    return [base / place for base in bases for place in ("", split, f"images/{split}", "images")]


def _find_pictures(
    table: BoxTable, names: Mapping[str, int], folders: Sequence[Path], root: Path, bad: BadItems
) -> dict[str, str]:
    """The path of every picture by its name in the table."""
    found = dict(zip(names, find_pictures(list(names), folders, root, table.path), strict=True))
    for name, picture in found.items():
        if picture.path is None:
            bad.add("bad-image", picture.place, f"{picture.error} (line {names[name]} of {table.path.name})")
    return {name: os.path.normpath(picture.path) for name, picture in found.items() if picture.path is not None}


def _gather(
    table: BoxTable, paths: Mapping[str, str], classes: Mapping[str, str], bad: BadItems
) -> dict[str, _Picture]:
    """The rows by picture."""
    pictures: dict[str, _Picture] = {}
    has_classes, boxes = "class" in table.columns.place, 0
    place = table.columns.place["image"]
    for line, cells in read_rows(table.path, table.columns):
        if table.columns.open_images and len(cells) > place and cells[place].strip() not in paths:
            continue  # most of 14 million rows
        try:
            row = table.columns.read(cells)
        except RowError as error:
            bad.add("bad-annotation", table.path, f"line {line}: {error}")
            continue
        if row.image not in paths or table.value not in (None, row.split):
            continue
        path = paths[row.image]
        picture = pictures.setdefault(path, _Picture(path, row.size))
        if row.box is not None:
            name = classes.get(row.class_name, row.class_name) if has_classes else ONLY_CLASS
            picture.rows.append((line, name, row.box, row.ignore))
            boxes += 1
            if boxes > MOST_BOXES:
                raise DataError(f"{table.path}: expected at most {MOST_BOXES} boxes in a split, got more")
    return pictures


def _add(builder: AnnotationsBuilder, picture: _Picture, file: Path, bad: BadItems) -> None:
    position = builder.add_image(picture.path, picture.size)
    for line, name, box, ignore in picture.rows:
        if builder.in_fractions and not are_fractions(box):
            shown = ", ".join(f"{value:g}" for value in box)
            builder.add_unread(
                position, bad, file, f"line {line}: expected fractions as in the other rows, got {shown}"
            )
        else:
            builder.add_object(position, name, box, file, f"line {line}", ignore=ignore)


def _notes(table: BoxTable, fractions: bool) -> Iterator[str]:
    columns = table.columns
    if fractions:
        reason = "as in all tables of this kind" if columns.always_fractions else "they are not over 1"
        yield f"{table.path}: boxes are read as fractions of the picture's width and height: {reason}"
    if columns.form == "bbox":
        yield f"{table.path}: the column {columns.names[columns.place['bbox']]} is read as x, y, width, height"
    if "class" not in columns.place:
        yield f"{table.path}: no column of classes: all objects are of one class, {ONLY_CLASS!r}"


def _without_row(paths: Mapping[str, str], stems: set[str]) -> list[str]:
    """The pictures beside those of ``paths`` that no row names."""
    beside: list[str] = []
    for folder in {os.path.split(path)[0] for path in paths.values()}:
        with os.scandir(folder) as entries:
            beside += [one.name for one in entries if is_picture_name(one.name) and _stem(one.name) not in stems]
    used = {os.path.split(path)[1] for path in paths.values()}
    return [name for name in beside if name not in used]


def _stem(name: str) -> str:
    name = name.replace("\\", "/").rsplit("/", 1)[-1].casefold()
    return name.rsplit(".", 1)[0] if name.endswith(IMAGE_SUFFIXES) else name


# --- The list of classes beside it: RetinaNet's ``name,id``, or Open Images' ``/m/01g317,Person``.


def _find_class_list(table: Path, root: Path) -> dict[str, str]:
    """Class names by what stands for them in the table, in the list's order; empty where there is none."""
    folders = [table.parent, root]
    if table.parent != root:
        folders[1:1] = [table.parent.parent / "metadata"]
    for folder in folders:
        for path in few_files(folder, ".csv"):
            if CLASS_LIST.fullmatch(path.name) and path != table and (names := _read_class_list(path)):
                return names
    return {}


def _read_class_list(path: Path) -> dict[str, str]:
    columns = read_columns(path)
    if columns is None or columns.is_boxes or path.stat().st_size > MAX_CLASS_LIST_BYTES:
        return {}
    rows = [[cell.strip() for cell in cells] for _, cells in read_rows(path, Columns(",", (), has_header=False))]
    ids = [(row[1], row[0]) if row[1].isdecimal() else (row[0], row[1]) for row in rows if len(row) == 2]
    known = [(key, name) for key, name in ids if name and (key.isdecimal() or key.startswith("/"))]
    if all(key.isdecimal() for key, _ in known):
        known.sort(key=lambda pair: int(pair[0][:9]))
    return dict(known)
