"""Label Studio's tasks: a JSON array with a picture each, boxes in percent, and the labeling interface for them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from ssdlite.datasets.writers.base import LabeledPicture, LabelWriter, only_to_find, write_label_file
from ssdlite.files import replacing

LOCAL_FILES = "/data/local-files/?d="  # below LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT, its folder of pictures


class LabelStudioWriter(LabelWriter):
    """``SPLIT.json`` beside the pictures in ``images/SPLIT``, and ``label_config.xml``."""

    name = "Label Studio"
    keeps_ignored = False
    keeps_class_list = False

    def write_split(
        self, root: Path, split: str, pictures: Iterable[LabeledPicture], class_names: Sequence[str]
    ) -> None:
        folder = f"{self.picture_folder(split)}/"
        _write(root / f"{split}.json", pictures, class_names, folder, model=None)

    def finish(self, root: Path, splits: Sequence[str], class_names: Sequence[str]) -> None:
        _write_interface(root, class_names)

    def write_labels(
        self, folder: Path, pictures: Iterable[LabeledPicture], class_names: Sequence[str], model: str
    ) -> None:
        _write(folder / "tasks.json", pictures, class_names, "", model)
        _write_interface(folder, class_names)


def _write(
    path: Path, pictures: Iterable[LabeledPicture], class_names: Sequence[str], folder: str, model: str | None
) -> None:
    with replacing(path, durable=False) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("[")
        for number, picture in enumerate(only_to_find(pictures), start=1):
            task = _task(picture, class_names, folder, model)
            file.write(("," if number > 1 else "") + "\n" + json.dumps(task, ensure_ascii=False))
        file.write("\n]\n")


def _task(picture: LabeledPicture, class_names: Sequence[str], folder: str, model: str | None) -> dict[str, Any]:
    """What people drew is an annotation, what ``model`` found a prediction."""
    results = [_result(picture, position, class_names) for position in range(len(picture.boxes))]
    task: dict[str, Any] = {"data": {"image": LOCAL_FILES + quote(folder + picture.file)}}
    if model is None:
        return {**task, "annotations": [{"was_cancelled": False, "result": results}]}
    score = sum(picture.scores) / len(picture.scores) if picture.scores else 0.0
    prediction = {"model_version": model, "score": round(score, 4), "result": results}
    return {**task, "annotations": [], "predictions": [prediction]}


def _result(picture: LabeledPicture, position: int, class_names: Sequence[str]) -> dict[str, Any]:
    height, width = picture.size
    x0, y0, x1, y1 = picture.boxes[position]
    percents = {"x": x0 / width, "y": y0 / height, "width": (x1 - x0) / width, "height": (y1 - y0) / height}
    return {
        "id": str(position + 1),
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {
            **{key: round(100 * value, 6) for key, value in percents.items()},
            "rotation": 0,
            "rectanglelabels": [class_names[picture.labels[position]]],
        },
        **({"score": round(picture.scores[position], 4)} if picture.scores else {}),
    }


def _write_interface(folder: Path, class_names: Sequence[str]) -> None:
    labels = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in class_names)
    write_label_file(
        folder / "label_config.xml",
        '<View>\n  <Image name="image" value="$image"/>\n'
        f'  <RectangleLabels name="label" toName="image">\n{labels}  </RectangleLabels>\n</View>\n',
    )
