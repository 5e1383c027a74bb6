"""Scoring a split of COCO's size: our evaluator beside pycocotools used directly; time, and peak memory.

5,000 images, 80 classes, 7 objects and 100 detections an image.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.harness import Comparison, Contestant, Settings
from ssdlite.benchmark.memory import own_peak, run_apart
from ssdlite.datasets.index import DetectionIndex
from ssdlite.detections import Detections
from ssdlite.evaluation.coco import Evaluator

ROUNDS = 2
IMAGES, CLASSES, OBJECTS, FOUND = 5000, 80, 7, 100
NAMES = tuple(f"class {i}" for i in range(CLASSES))
SMALL = 500  # images, for what grows with them


def comparisons(settings: Settings) -> Iterator[Comparison]:
    whole, small = make_split(IMAGES), make_split(SMALL)
    peaks = {name: run_apart(_peak, call, IMAGES) for name, call in (("ours", score), ("pycocotools", score_plainly))}
    yield Comparison(
        f"scoring {IMAGES} images, {CLASSES} classes, {FOUND} detections each",
        [
            Contestant("pycocotools", partial(score_plainly, *whole), IMAGES),
            Contestant("ours", partial(score, *whole), IMAGES),
        ],
        reference="pycocotools",
        targets={"ours": 1.0},
        threads=settings.threads,
        notes=[
            f"AP {score(*small):.12f} and {score_plainly(*small):.12f} of the first {SMALL} images",
            *(f"{name}: peak of {peak:.0f} MB in a process of its own" for name, peak in peaks.items()),
        ],
    )


def make_split(images: int) -> tuple[DetectionIndex, list[Detections]]:
    """Objects anywhere, and detections near them, or anywhere too."""
    random = np.random.default_rng(0)
    objects = images * OBJECTS
    low = random.random((objects, 2)) * 500
    boxes = np.concatenate([low, low + 5 + random.random((objects, 2)) ** 2 * 300], axis=1).astype(np.float32)
    labels = random.integers(0, CLASSES, objects)
    index = DetectionIndex(
        name="made/val",
        class_names=NAMES,
        category_ids=tuple(range(1, CLASSES + 1)),
        paths=tuple(f"{i}.jpg" for i in range(images)),
        image_ids=np.arange(images),
        sizes=np.full((images, 2), 800, np.int32),
        offsets=np.arange(images + 1) * OBJECTS,
        boxes=boxes,
        labels=labels,
        areas=np.prod(boxes[:, 2:] - boxes[:, :2], axis=1),
        ignore=np.zeros(objects, np.bool_),
    )
    found = []
    for i in range(images):
        chosen = i * OBJECTS + random.integers(0, OBJECTS, FOUND)
        shift = random.normal(0, 8, (FOUND, 4)).astype(np.float32)
        scores = np.sort(random.random(FOUND).astype(np.float32))[::-1].copy()
        kinds = np.where(random.random(FOUND) < 0.7, labels[chosen], random.integers(0, CLASSES, FOUND))
        moved = boxes[chosen] + shift
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        found.append(Detections(moved, scores, kinds, NAMES))
    return index, found


def score(index: DetectionIndex, found: list[Detections]) -> float:
    """AP by our evaluator."""
    evaluator = Evaluator(index)
    for i, detections in enumerate(found):
        evaluator.update(i, detections)
    return evaluator.compute().AP or 0.0


def score_plainly(index: DetectionIndex, found: list[Detections]) -> float:
    """AP by pycocotools, used as its own example does."""
    truth = COCO()
    truth.dataset = {
        "images": [{"id": int(i)} for i in index.image_ids],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(NAMES)],
        "annotations": [
            _entry(number + 1, number // OBJECTS, box, label) | {"area": float(area), "iscrowd": 0}
            for number, (box, label, area) in enumerate(zip(index.boxes, index.labels, index.areas, strict=True))
        ],
    }
    results = [
        _entry(0, i, box, label) | {"score": float(value)}
        for i, own in enumerate(found)
        for box, label, value in zip(own.boxes, own.labels, own.scores, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def _entry(number: int, image: int, box: np.ndarray, label: int) -> dict[str, object]:
    x0, y0, x1, y1 = box.tolist()
    return {"id": number, "image_id": image, "category_id": int(label) + 1, "bbox": [x0, y0, x1 - x0, y1 - y0]}


Score = Callable[[DetectionIndex, list[Detections]], float]


def _peak(call: Score, images: int) -> float:
    """Peak MB of the process when it has scored as many images."""
    call(*make_split(images))
    return own_peak() or math.nan
