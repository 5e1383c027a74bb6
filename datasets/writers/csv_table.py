"""Tables of boxes as of TensorFlow's tutorials: one a split, a row a box."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from ssdlite.datasets.formats.csv_tables import CLASS_LIST
from ssdlite.datasets.formats.splits import SPLIT_WORD
from ssdlite.datasets.writers.base import LabeledPicture, LabelWriter, only_to_find, plain_number
from ssdlite.files import replacing

HEADER = ("filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax")
NO_BOX = ("",) * 5


class CsvWriter(LabelWriter):
    """``train_labels.csv`` beside the pictures in ``images/train``; ``classes.csv`` has the order of the classes.

    A picture without objects has a row with empty fields.
    """

    name = "CSV"
    keeps_ignored = False
    keeps_class_list = False

    def write_split(
        self, root: Path, split: str, pictures: Iterable[LabeledPicture], class_names: Sequence[str]
    ) -> None:
        name = f"{split}.csv"  # is read as the split of that name, unless it is a word for one or looks like classes
        if SPLIT_WORD.fullmatch(split) or CLASS_LIST.fullmatch(name):
            name = f"{split}_labels.csv"
        _write(root / name, pictures, class_names, f"{self.picture_folder(split)}/")

    def finish(self, root: Path, splits: Sequence[str], class_names: Sequence[str]) -> None:
        if not any(name.isdecimal() for name in class_names):  # which would be taken for the numbers of other classes
            _write_rows(root / "classes.csv", ([name, number] for number, name in enumerate(class_names)))

    def write_labels(
        self, folder: Path, pictures: Iterable[LabeledPicture], class_names: Sequence[str], model: str
    ) -> None:
        _write(folder / "labels.csv", pictures, class_names)


def _write(path: Path, pictures: Iterable[LabeledPicture], class_names: Sequence[str], folder: str = "") -> None:
    _write_rows(path, _rows(pictures, class_names, folder))


def _rows(pictures: Iterable[LabeledPicture], class_names: Sequence[str], folder: str) -> Iterable[Sequence[object]]:
    yield HEADER
    for picture in only_to_find(pictures):
        height, width = picture.size
        first = (folder + picture.file, width, height)
        for box, label in zip(picture.boxes, picture.labels, strict=True):
            yield (*first, class_names[label], *map(plain_number, box))
        if not picture.boxes:
            yield (*first, *NO_BOX)


def _write_rows(path: Path, rows: Iterable[Sequence[object]]) -> None:
    with replacing(path, durable=False) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
