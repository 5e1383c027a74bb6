"""The built-in data set: made-up scenes of shapes in COCO's layout, the same on every machine.

A fresh machine trains on it without a download; it is read back by the ordinary COCO reader.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ssdlite.datasets.shape_scenes import SHAPE_NAMES, SceneObject, draw_scene
from ssdlite.errors import DataError
from ssdlite.files import write_json, write_text

VERSION = 2  # of the scenes; another one is generated afresh
MARKER = "shapes.json"  # says with which settings a folder was completed
TRAIN_IMAGES, VAL_IMAGES = 800, 200
EMPTY_EVERY = 25  # one scene in so many has no objects
JPEG_QUALITY = 90


def generate_shapes(
    folder: Path, *, train_images: int = TRAIN_IMAGES, val_images: int = VAL_IMAGES, seed: int = 0
) -> None:
    """Write ``train/``, ``val/`` and ``annotations/instances_{train,val}.json`` below ``folder``.

    Does nothing where the same data set is complete already. The folder appears whole or not at all.

    Raises:
        DataError: ``folder`` holds something else.
    """
    folder = Path(folder).absolute()
    settings = {"version": VERSION, "train_images": train_images, "val_images": val_images, "seed": seed}
    if _settings_of(folder) == settings:
        return
    if folder.exists() and _settings_of(folder) is None and not (folder.is_dir() and not any(folder.iterdir())):
        raise DataError(f"{folder}: expected a new folder or generated shapes, found other files; not touched")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        new = Path(temporary) / "new"
        for split, name, count in ((0, "train", train_images), (1, "val", val_images)):
            content = _write_images(new / name, [seed, split], count)
            write_text(new / "annotations" / f"instances_{name}.json", json.dumps(content))
        write_json(new / MARKER, settings)
        _put_in_place(new, folder, settings, Path(temporary) / "old")


def _write_images(folder: Path, seed: list[int], count: int) -> dict[str, Any]:
    """Draw and write ``count`` scenes, each from seed and number alone, and list them as COCO does."""
    folder.mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(count):
        rng = np.random.default_rng([*seed, number])
        scene = draw_scene(rng, with_objects=number % EMPTY_EVERY != EMPTY_EVERY - 1)
        file_name = f"{number:06d}.jpg"
        quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        if not cv2.imwrite(str(folder / file_name), scene.image[:, :, ::-1], quality):
            raise OSError(f"{folder / file_name}: could not be written")
        height, width = scene.image.shape[:2]
        images.append({"id": number + 1, "file_name": file_name, "width": width, "height": height, "license": 1})
        for item in scene.objects:
            annotations.append(_annotation(len(annotations) + 1, number + 1, item))
    return {
        "info": {"description": "ssdlite built-in shapes", "version": str(VERSION), "seed": seed},
        "licenses": [{"id": 1, "name": "CC0 1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}],
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": label + 1, "name": name, "supercategory": "shape"} for label, name in enumerate(SHAPE_NAMES)
        ],
    }


def _annotation(annotation_id: int, image_id: int, item: SceneObject) -> dict[str, Any]:
    x0, y0, x1, y1 = item.box
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": item.label + 1,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": item.area,
        "iscrowd": 0,
    }


def _settings_of(folder: Path) -> Any:
    """The settings that a folder was completed with; None where it is not one of ours."""
    try:
        return json.loads((folder / MARKER).read_bytes())
    except (OSError, ValueError):
        return None


def _put_in_place(new: Path, folder: Path, settings: dict[str, int], old: Path) -> None:
    """Make ``new`` the folder; another process that was faster with the same settings is just as good."""
    if _settings_of(folder) == settings:
        return
    try:
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    except OSError:
        if _settings_of(folder) != settings:
            raise
