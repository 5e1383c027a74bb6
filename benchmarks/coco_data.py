"""COCO data of any size, made up: annotation files as large as the real ones, pictures that are links to a few."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = 80
WIDTH, HEIGHT = 640, 480
PICTURES = 16  # different ones
POLYGON = 20  # corners of a segmentation, which detection has no use for but has to read past
OBJECTS_PER_IMAGE = 860_000 / 118_000  # of COCO's train2017


def write_coco(root: Path, images: int, *, split: str = "train2017", seed: int = 0) -> int:
    """``annotations/instances_SPLIT.json`` and ``SPLIT/`` below ``root``, with as many objects an image as COCO has.

    Returns the number of objects. The file is written piece by piece.
    """
    random = np.random.default_rng(seed)
    folder = root / split
    folder.mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    originals = [root / f"original_{i}.jpg" for i in range(PICTURES)]
    for path in originals:
        write_picture(path, (HEIGHT, WIDTH), random)
    objects = round(images * OBJECTS_PER_IMAGE)
    owners = np.sort(random.integers(0, images, objects))
    with (root / "annotations" / f"instances_{split}.json").open("w", encoding="utf-8") as file:
        file.write('{"info": {}, "licenses": [], "images": [')
        for i in range(images):
            name = f"{i:012d}.jpg"
            os.link(originals[i % PICTURES], folder / name)
            entry = {
                "id": i,
                "file_name": name,
                "width": WIDTH,
                "height": HEIGHT,
                "license": 1,
                "date_captured": "2013",
            }
            file.write(("," if i else "") + json.dumps(entry))
        file.write('], "annotations": [')
        for i in range(objects):
            file.write(("," if i else "") + json.dumps(_annotation(i, int(owners[i]), random)))
        names = [{"id": i + 1, "name": f"class {i}", "supercategory": "thing"} for i in range(CLASSES)]
        file.write(f'], "categories": {json.dumps(names)}}}')
    return objects


def _annotation(number: int, image: int, random: np.random.Generator) -> dict[str, object]:
    values = random.random(4 + 2 * POLYGON)
    x, y = values[0] * WIDTH * 0.7, values[1] * HEIGHT * 0.7
    width, height = 4 + values[2] * WIDTH * 0.25, 4 + values[3] * HEIGHT * 0.25
    polygon = (values[4:].reshape(-1, 2) * (width, height) + (x, y)).ravel()
    return {
        "segmentation": [np.round(polygon, 2).tolist()],
        "area": round(width * height / 2, 4),
        "iscrowd": 0,
        "image_id": image,
        "bbox": [round(float(value), 2) for value in (x, y, width, height)],
        "category_id": 1 + number % CLASSES,
        "id": number,
    }


def write_picture(path: Path, size: tuple[int, int], random: np.random.Generator) -> None:
    """A JPEG of (height, width) ``size`` with as much detail as photographs have."""
    small = random.integers(0, 256, (size[0] // 16, size[1] // 16, 3), dtype=np.uint8)
    Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC).save(path, quality=85)
