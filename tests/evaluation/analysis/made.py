"""Objects and detections written by hand, for the tests beside."""

import numpy as np

from ssdlite.datasets.index import DetectionIndex
from ssdlite.detections import Detections

NAMES = ("cat", "dog", "owl")
BOX = [10, 10, 30, 30]
FAR = [50, 50, 70, 70]


def make_index(objects: list[tuple[int, str, list[float], bool]], images: int) -> DetectionIndex:
    """objects: (image, class, box xyxy, difficult), in the order of the images; the pictures are 100 x 100."""
    counts = np.bincount([image for image, *_ in objects], minlength=images)
    boxes = np.array([box for _, _, box, _ in objects], np.float32).reshape(-1, 4)
    return DetectionIndex(
        name="made/val",
        class_names=NAMES,
        category_ids=(1, 2, 3),
        paths=tuple(f"{i}.jpg" for i in range(images)),
        image_ids=np.arange(images, dtype=np.int64),
        sizes=np.full((images, 2), 100, np.int32),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=boxes,
        labels=np.array([NAMES.index(name) for _, name, _, _ in objects], np.int64),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
        ignore=np.array([difficult for *_, difficult in objects], np.bool_),
    )


def found(*detections: tuple[str, list[float], float]) -> Detections:
    return Detections(
        np.array([box for _, box, _ in detections], np.float32).reshape(-1, 4),
        np.array([score for *_, score in detections], np.float32),
        np.array([NAMES.index(name) for name, *_ in detections], np.int64),
        NAMES,
    )
