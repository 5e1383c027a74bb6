"""COCO's JSON: the pictures of a split, their boxes and the classes in one file."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from ssdlite.datasets.writers.base import LabeledPicture, LabelWriter, plain_number
from ssdlite.files import replacing

PRE_ANNOTATIONS = "labels.json"


class CocoWriter(LabelWriter):
    """``annotations/instances_SPLIT.json`` beside the pictures in ``SPLIT/``. Category ids are 1, 2, ..."""

    name = "COCO"
    keeps_ignored = True
    keeps_class_list = True

    def picture_folder(self, split: str) -> str:
        return split

    def write_split(
        self, root: Path, split: str, pictures: Iterable[LabeledPicture], class_names: Sequence[str]
    ) -> None:
        _write(root / "annotations" / f"instances_{split}.json", pictures, class_names)

    def finish(self, root: Path, splits: Sequence[str], class_names: Sequence[str]) -> None:
        """Each file has all of it."""

    def write_labels(
        self, folder: Path, pictures: Iterable[LabeledPicture], class_names: Sequence[str], model: str
    ) -> None:
        _write(folder / PRE_ANNOTATIONS, pictures, class_names)


def _write(path: Path, pictures: Iterable[LabeledPicture], class_names: Sequence[str]) -> None:
    """An entry a line. Pictures are taken one by one, their annotations gathered in a file of their own meanwhile."""
    numbers = count(1)
    with (
        replacing(path, durable=False) as temporary,
        temporary.open("w", encoding="utf-8") as file,
        tempfile.TemporaryFile("w+", encoding="utf-8") as annotations,
    ):
        file.write('{"images": [')
        for image_id, picture in enumerate(pictures, start=1):
            height, width = picture.size
            entry = {"id": image_id, "file_name": picture.file, "width": width, "height": height}
            file.write(("," if image_id > 1 else "") + "\n" + json.dumps(entry, ensure_ascii=False))
            for annotation in _annotations(picture, image_id, numbers):
                annotations.write(("," if annotations.tell() else "") + "\n" + json.dumps(annotation))
        file.write('\n],\n"annotations": [')
        annotations.seek(0)
        shutil.copyfileobj(annotations, file)
        categories = [{"id": number, "name": name} for number, name in enumerate(class_names, start=1)]
        file.write(f'\n],\n"categories": {json.dumps(categories, ensure_ascii=False)}}}\n')


def _annotations(picture: LabeledPicture, image_id: int, numbers: Iterator[int]) -> Iterator[dict[str, Any]]:
    for position, ((x0, y0, x1, y1), label) in enumerate(zip(picture.boxes, picture.labels, strict=True)):
        area = picture.areas[position] if picture.areas else (x1 - x0) * (y1 - y0)
        yield {
            "id": picture.places[position] if picture.places else next(numbers),
            "image_id": image_id,
            "category_id": label + 1,
            "bbox": [plain_number(value) for value in (x0, y0, x1 - x0, y1 - y0)],
            "area": plain_number(area),
            "iscrowd": int(bool(picture.ignore and picture.ignore[position])),
            **({"score": round(picture.scores[position], 4)} if picture.scores else {}),
        }
