"""What the columns of a table of boxes hold: by their names, or without any by what stands in the first row."""

from __future__ import annotations

import csv
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TextIO

from ssdlite.datasets.formats.base import Box
from ssdlite.datasets.formats.json_files import read_head
from ssdlite.datasets.formats.plausibility import BoxForm
from ssdlite.errors import DataError, is_text, quote
from ssdlite.files import listing
from ssdlite.images.geometry import Size
from ssdlite.images.reading import IMAGE_SUFFIXES

MOST_UNKNOWN_COLUMNS = 8  # columns of no known meaning, in messages
DELIMITERS = (",", ";", "\t", "|")
MOST_LINE_CHARACTERS = 1 << 17
MAX_TABLE_BYTES = 1 << 32  # Open Images' training boxes, the largest known table, are 2.3 GB

# The names of a column, without case, spaces and marks; earlier ones are preferred, and a column holds one thing.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "class": (
        "class", "classname", "label", "labelname", "category", "categoryname", "annotationtag", "name", "classid",
        "categoryid", "labelid",
    ),
    "image": (
        "filename", "imagepath", "path", "file", "filepath", "imagename", "imagefile", "image", "img", "imgpath",
        "imgname", "frame", "imageid", "name",
    ),
    "xmin": (
        "xmin", "x0", "x1", "left", "minx", "x", "bboxxmin", "bboxx1", "bboxx", "boxx", "bboxleft", "xtl", "roix1",
        "upperleftcornerx",
    ),
    "ymin": (
        "ymin", "y0", "y1", "top", "miny", "y", "bboxymin", "bboxy1", "bboxy", "boxy", "bboxtop", "ytl", "roiy1",
        "upperleftcornery",
    ),
    "xmax": (
        "xmax", "x2", "x1", "right", "maxx", "bboxxmax", "bboxx2", "bboxright", "xbr", "roix2", "lowerrightcornerx",
    ),
    "ymax": (
        "ymax", "y2", "y1", "bottom", "maxy", "bboxymax", "bboxy2", "bboxbottom", "ybr", "roiy2", "lowerrightcornery",
    ),
    "xcenter": ("xcenter", "centerx", "cx", "xc"),
    "ycenter": ("ycenter", "centery", "cy", "yc"),
    "bbox": ("bbox", "box", "boundingbox"),
    "boxwidth": ("bboxwidth", "bboxw", "boxwidth", "boxw", "w"),
    "boxheight": ("bboxheight", "bboxh", "boxheight", "boxh", "h"),
    "imagewidth": ("imagewidth", "imgwidth", "imagew", "imgw", "width"),
    "imageheight": ("imageheight", "imgheight", "imageh", "imgh", "height"),
    "ignore": ("isgroupof", "iscrowd", "difficult"),
    "split": ("split", "set", "subset"),
}  # fmt: skip
CLASS_ENDING = re.compile(r"(?!image|img|file|annotation|box|bbox|shape|media).*(class|label|category|type|species)")
NO_CLASS = frozenset(
    ("", "source", "id", "index", "unnamed0", "confidence", "area", "timestamp", "date", "author", "annotator")
)  # columns that a table without classes may have, which is of one class; any other might be the class
BOX_FORMS: dict[str, tuple[str, ...]] = {
    "corners": ("xmin", "ymin", "xmax", "ymax"),
    "size": ("xmin", "ymin", "boxwidth", "boxheight"),
    "center": ("xcenter", "ycenter", "boxwidth", "boxheight"),
    "bbox": ("bbox",),  # [x, y, width, height]
}
SCORES = frozenset(("score", "probability"))  # columns of detections, which are annotations where they are named
OTHER_FORMATS = frozenset(("regionshapeattributes", "objects"))  # columns of VIA's tables, and of an imagefolder's
EMPTY = ("", "nan", "none", "null")  # a field of a picture without objects
NO_NAME = ("", "nan")  # of a class: numpy's text of a missing one. NA, None and null may be names
TRUE = ("1", "true", "yes", "1.0")
AUTOML_SETS = ("TRAIN", "VALIDATION", "TEST", "UNASSIGNED", "UNASSIGN")
AUTOML_VERTICES = ("x0", "y0", "x1", "y1", "x2", "y2", "x3", "y3")


class TableRow(NamedTuple):
    """``box`` is xyxy in the table's own unit; None: the picture has no objects."""

    image: str
    class_name: str
    box: Box | None
    size: Size | None  # of the picture, as stated
    ignore: bool
    split: str


class RowError(Exception):
    """A row that cannot be used, and why."""


@dataclass(frozen=True)
class Columns:
    """Which column holds what; ``form`` is one of ``BOX_FORMS``, "vertices", or "" where no box is complete."""

    delimiter: str
    names: tuple[str, ...]  # of the header, as written; without one what the columns hold
    place: Mapping[str, int] = field(default_factory=dict)
    form: str = ""
    has_header: bool = True
    open_images: bool = False

    @property
    def is_boxes(self) -> bool:
        """Whether this can be nothing else than a table of boxes, if not always a complete one."""
        return "image" in self.place and (bool(self.form) or len(set(BOX_FORMS["corners"]) & set(self.place)) > 1)

    @property
    def is_annotations(self) -> bool:
        """Whether they are boxes and not detections."""
        return self.is_boxes and not SCORES & set(map(_plain, self.names))

    @property
    def is_foreign(self) -> bool:
        """Whether it is a table of another format."""
        return bool(OTHER_FORMATS & set(map(_plain, self.names)))

    @property
    def box_form(self) -> BoxForm:
        return "center" if self.form == "center" else "size" if self.form in ("size", "bbox") else "corners"

    @property
    def always_fractions(self) -> bool:
        return self.open_images or self.form == "vertices"

    def missing(self) -> list[str]:
        """What a table of boxes needs and this one has not, in the words of a header."""
        absent = [] if "image" in self.place else ["filename"]
        others = {_plain(name) for column, name in enumerate(self.names) if column not in self.place.values()}
        if "class" not in self.place and others - NO_CLASS:
            absent.append("class")
        return absent + ([] if self.form else [name for name in BOX_FORMS["corners"] if name not in self.place])

    def renaming(self) -> str:
        """How to mend a header that lacks columns by those of no known meaning, behind what is said; else nothing."""
        known = set(self.place.values())
        unknown = [name or "''" for column, name in enumerate(self.names) if column not in known]
        missing = self.missing()
        if not unknown or not known:
            return ""
        return (
            f"; rename in the first line what holds {'it' if len(missing) == 1 else 'them'}, such as "
            f"{unknown[0]} -> {missing[0]} (of no known meaning: {listing(unknown, MOST_UNKNOWN_COLUMNS)})"
        )

    def read(self, cells: list[str]) -> TableRow:
        """Raises RowError."""
        cells = self._fitted([cell.strip() for cell in cells])
        if not is_text("".join(cells)):
            raise RowError("expected text in UTF-8 (spreadsheets: save as 'CSV UTF-8') or UTF-16, got other bytes")
        image, class_name = self._cell(cells, "image"), self._cell(cells, "class")
        if not image:
            raise RowError("expected the name of a picture, got none")
        box = self._box(cells)
        if box is not None and "class" in self.place and class_name.lower() in NO_NAME:
            raise RowError(f"expected a class, got {quote(class_name) if class_name else 'none'}")
        ignore = self._cell(cells, "ignore").lower() in TRUE
        return TableRow(image, class_name, box, self._size(cells), ignore, self._cell(cells, "split"))

    def _fitted(self, cells: list[str]) -> list[str]:
        count = len(self.names)
        while len(cells) > count and not cells[-1]:
            cells.pop()
        if self.form == "vertices" and 2 <= len(cells) < count:
            cells += [""] * (count - len(cells))
        if len(cells) != count:
            raise RowError(f"expected {count} columns, got {len(cells)}")
        return cells

    def _cell(self, cells: Sequence[str], what: str) -> str:
        return cells[self.place[what]] if what in self.place else ""

    def _box(self, cells: Sequence[str]) -> Box | None:
        wanted = AUTOML_VERTICES if self.form == "vertices" else BOX_FORMS[self.form]
        texts = [cells[self.place[name]] for name in wanted]
        if all(text.lower() in EMPTY for text in texts):
            return None
        if self.form == "vertices":
            return self._around(texts)
        if self.form == "bbox":
            texts = re.split(r"[,;\s]+", texts[0].strip("[](){} "))
        try:
            a, b, c, d = (float(self._point(text)) for text in texts)
        except ValueError:
            named = ", ".join(self.names[self.place[name]] for name in wanted)
            raise RowError(f"expected four numbers in {named}, got {quote(', '.join(texts))}") from None
        if self.form == "corners":
            return a, b, c, d
        return (a - c / 2, b - d / 2, a + c / 2, b + d / 2) if self.form == "center" else (a, b, a + c, b + d)

    def _around(self, texts: Sequence[str]) -> Box:
        """The box around two or four vertices x, y; AutoML leaves two of four empty."""
        try:
            xs, ys = ([float(text) for text in texts[start::2] if text] for start in (0, 1))
        except ValueError:
            raise RowError(f"expected vertices in numbers, got {quote(', '.join(texts))}") from None
        if min(len(xs), len(ys)) < 2:
            raise RowError(f"expected two or four vertices, got {quote(', '.join(texts))}")
        return min(xs), min(ys), max(xs), max(ys)

    def _size(self, cells: Sequence[str]) -> Size | None:
        try:
            height, width = (int(float(self._point(self._cell(cells, f"image{side}")))) for side in ("height", "width"))
        except (ValueError, OverflowError):
            return None
        return (height, width) if height > 0 and width > 0 else None

    def _point(self, text: str) -> str:
        """Where a comma does not part the fields, it may be the decimal one."""
        return text if self.delimiter == "," or self.form == "bbox" else text.replace(",", ".")


def read_columns(path: Path) -> Columns | None:
    """By the first line that is not empty; None where the file cannot be read as a table."""
    head = read_head(path)
    lines = head.decode(_encoding(head), "replace").splitlines()
    first = next((line for line in lines if line.strip()), None)
    if first is None or "\0" in first:
        return None
    found = [columns for delimiter in DELIMITERS if (columns := _recognized(first, delimiter)) is not None]
    return max(found, key=lambda columns: (len(columns.place), len(columns.names)), default=None)


def _recognized(first: str, delimiter: str) -> Columns | None:
    try:
        cells = [cell.strip() for cell in next(csv.reader([first], delimiter=delimiter))]
    except (csv.Error, StopIteration):
        return None
    if len(cells) > 1 and (without := _without_header(cells, delimiter)):
        return without
    return columns_named(cells, delimiter)


def columns_named(cells: Sequence[str], delimiter: str = ",") -> Columns:
    """By the names in a table's header."""
    plain = list(map(_plain, cells))
    place = _places(plain)
    form = next((form for form, wanted in BOX_FORMS.items() if set(wanted) <= place.keys()), "")
    is_open_images = {"imageid", "labelname"} <= set(plain) and bool({"isgroupof", "confidence"} & set(plain))
    return Columns(delimiter, tuple(cells), place, form, open_images=is_open_images)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name.lower())


def _places(plain: Sequence[str]) -> dict[str, int]:
    """What each column holds. ``width`` is a box's where nothing else says how large boxes are."""
    place: dict[str, int] = {}
    for what, names in SYNONYMS.items():
        found = [plain.index(name) for name in names if name in plain]
        if free := [column for column in found if column not in place.values()]:
            place[what] = free[0]
    if "image" not in place and plain[place.get("class", 0)] == "name":
        place["image"] = place.pop("class", 0)
    free = [column for column in range(len(plain)) if column not in place.values()]
    if "class" not in place and (likely := [column for column in free if CLASS_ENDING.fullmatch(plain[column])]):
        place["class"] = likely[0]
    boxed = bool({"xmax", "ymax", "bbox", "boxwidth", "boxheight"} & place.keys())
    if not boxed and {"imagewidth", "imageheight"} <= place.keys():
        place |= {"boxwidth": place.pop("imagewidth"), "boxheight": place.pop("imageheight")}
    return place


def _without_header(cells: Sequence[str], delimiter: str) -> Columns | None:
    """RetinaNet's ``path,x1,y1,x2,y2,class``, also with the picture's size behind it (SKU-110K), TensorFlow's or
    MakeSense's columns without their names, or AutoML's.
    """
    names: tuple[str, ...] = ()
    if len(cells) == 6 and _is_picture(cells[0]) and _are_numbers(cells[1:5]):
        names = ("image", "xmin", "ymin", "xmax", "ymax", "class")
    elif len(cells) == 8 and _is_picture(cells[0]) and _are_numbers([*cells[1:3], *cells[4:]]):
        names = ("image", "imagewidth", "imageheight", "class", "xmin", "ymin", "xmax", "ymax")
    elif len(cells) == 8 and _is_picture(cells[0]) and _are_numbers([*cells[1:5], *cells[6:]]):
        names = ("image", "xmin", "ymin", "xmax", "ymax", "class", "imagewidth", "imageheight")
    elif len(cells) == 8 and _is_picture(cells[5]) and _are_numbers([*cells[1:5], *cells[6:]]):
        names = ("class", *BOX_FORMS["size"], "image", "imagewidth", "imageheight")
    elif cells[0].upper() in AUTOML_SETS and _is_picture(cells[1]):
        names = ("split", "image", "class", *AUTOML_VERTICES)
    if not names:
        return None
    form = "vertices" if "x3" in names else "corners" if "xmax" in names else "size"
    return Columns(delimiter, names, {name: column for column, name in enumerate(names)}, form, has_header=False)


def _is_picture(cell: str) -> bool:
    return cell.lower().endswith(IMAGE_SUFFIXES)


def _are_numbers(cells: Sequence[str]) -> bool:
    return all(re.fullmatch(r"[+-]?\d+([.,]\d*)?(e[+-]?\d+)?", cell, re.I) for cell in cells) or not any(cells)


def read_rows(path: Path, columns: Columns) -> Iterator[tuple[int, list[str]]]:
    """(line, fields) of every row that is not empty, without the header; bytes that are no text become surrogates.

    Raises:
        DataError: the file cannot be read, is too large, or is no table.
    """
    line = 0
    try:
        with path.open("rb") as file:
            status, head = path.stat(), file.read(4)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_TABLE_BYTES:
            raise DataError(f"{path}: expected a file of at most {MAX_TABLE_BYTES} bytes, got {status.st_size}")
        with path.open(encoding=_encoding(head), errors="surrogateescape", newline="") as text:
            reader = csv.reader(_bounded_lines(text, path), delimiter=columns.delimiter)
            to_come = columns.has_header
            for cells in reader:
                line = reader.line_num
                if any(cell.strip() for cell in cells):
                    if not to_come:
                        yield line, cells
                    to_come = False
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except (csv.Error, UnicodeError) as error:
        raise DataError(f"{path}, line {line + 1}: cannot be read as a table ({error})") from None


def _bounded_lines(file: TextIO, path: Path) -> Iterator[str]:
    number = 0
    while line := file.readline(MOST_LINE_CHARACTERS):
        number += 1
        if len(line) == MOST_LINE_CHARACTERS:
            raise DataError(
                f"{path}, line {number}: expected a line of a table, got more than {MOST_LINE_CHARACTERS} characters"
            )
        yield line


def _encoding(head: bytes) -> str:
    return "utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
