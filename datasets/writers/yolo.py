"""YOLO's label files: one a picture, a line an object, in fractions of the picture."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from ssdlite.datasets.formats.yolo_data import is_class_list
from ssdlite.datasets.writers.base import LabeledPicture, LabelWriter, only_to_find, with_ending, write_label_file
from ssdlite.errors import DataError

YOLO_SPLITS = {  # by the key of data.yaml
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "minival"),
    "test": ("test", "testing"),
}


class YoloWriter(LabelWriter):
    """``images/SPLIT`` and ``labels/SPLIT``, and ``data.yaml`` with the splits and the classes, in their order."""

    name = "YOLO"
    keeps_ignored = False
    keeps_class_list = True

    def picture_name(self, below: PurePosixPath) -> PurePosixPath:
        """Without further folders called ``images``, beside which tools would look for ``labels``."""
        folders = [part for part in below.parent.parts if part.lower() not in ("images", "labels")]
        stem = f"{below.stem}_" if is_class_list(f"{below.stem}.txt") else below.stem
        return PurePosixPath(*folders, stem + below.suffix)

    def why_not(self, splits: Sequence[str]) -> str:
        try:
            _keys(splits)
        except DataError as error:
            return str(error)
        return ""

    def write_split(
        self, root: Path, split: str, pictures: Iterable[LabeledPicture], class_names: Sequence[str]
    ) -> None:
        _write(root / "labels" / split, pictures)

    def finish(self, root: Path, splits: Sequence[str], class_names: Sequence[str]) -> None:
        lines = [f"{key}: {_text(f'images/{split}')}" for key, split in _keys(splits).items()]
        lines += [f"nc: {len(class_names)}", "names:"]
        lines += [f"  {number}: {_text(name)}" for number, name in enumerate(class_names)]
        write_label_file(root / "data.yaml", "\n".join(lines) + "\n")

    def label_file(self, picture: str) -> str:
        return with_ending(picture, ".txt")

    def write_labels(
        self, folder: Path, pictures: Iterable[LabeledPicture], class_names: Sequence[str], model: str
    ) -> None:
        _write(folder, pictures)
        write_label_file(folder / "classes.txt", "".join(f"{name}\n" for name in class_names))


def _write(folder: Path, pictures: Iterable[LabeledPicture]) -> None:
    for picture in only_to_find(pictures):
        write_label_file(folder / with_ending(picture.file, ".txt"), "".join(_lines(picture)))


def _lines(picture: LabeledPicture) -> Iterator[str]:
    height, width = picture.size
    for (x0, y0, x1, y1), label in zip(picture.boxes, picture.labels, strict=True):
        values = (x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height
        yield " ".join([str(label), *(f"{value:.8f}" for value in values)]) + "\n"


def _text(text: str) -> str:
    """Quoted, since YAML takes ``no`` for false; JSON's strings are YAML's too."""
    return json.dumps(text, ensure_ascii=False)


def _keys(splits: Sequence[str]) -> dict[str, str]:
    """The splits by YOLO's own names; a single one is to train on.

    Raises:
        DataError: there are others, or several of one kind.
    """
    keys: dict[str, str] = {}
    for split in splits:
        word = split.lower().rstrip("0123456789").rstrip("-_")
        key = next((key for key, words in YOLO_SPLITS.items() if word in words), None)
        key = "train" if key is None and len(splits) == 1 else key
        if key is None or key in keys:
            known = f"{keys[key]!r} is {key} already" if key else f"YOLO knows {', '.join(YOLO_SPLITS)}"
            raise DataError(f"split {split!r} cannot be written: {known}; choose or rename with --splits OLD=NEW")
        keys[key] = split
    return keys
