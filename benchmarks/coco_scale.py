"""Data of COCO's size, made up: how cost grows with the work, and what scoring a whole split costs."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch.utils.data import DataLoader

from benchmarks import BenchmarksOptions
from ssdlite import build_detector
from ssdlite.benchmark.comparison import Comparison, Contestant
from ssdlite.benchmark.timing import own_peak, run_apart
from ssdlite.datasets.dataset import DetectionDataset, collate
from ssdlite.datasets.index import DetectionIndex
from ssdlite.datasets.loading import load_split
from ssdlite.datasets.transforms import DetectionTransform
from ssdlite.detections import Detections
from ssdlite.evaluation.coco import Evaluator
from ssdlite.heads.base import Outputs
from ssdlite.heads.losses import MultiBoxLoss
from ssdlite.heads.postprocess import postprocess

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


# --- How cost grows.

PRESET = "ssdlite320_mobilenet_v2"
BATCH = 16  # where nothing else is said
BATCH_SIZES = (1, 2, 4, 8, 16, 32)
SIDES = (128, 192, 320, 512, 640)
CLASS_COUNTS = (10, 80, 300, 1000)
OBJECT_COUNTS = (0, 5, 20, 100, 500)
IMAGE_COUNTS = (1000, 10_000, 118_000)
WORKERS = (0, 1, 2)


def growth(options: BenchmarksOptions) -> Iterator[Comparison]:
    """The exponent from one point of a curve to the next: 1 is proportional to the work, above is worse."""
    yield _curve("network and post-processing, batch size", BATCH_SIZES, _predict_batch, options, images=None)
    yield _curve("network, input side", SIDES, _predict_side, options, power=2)
    yield _curve("post-processing, classes", CLASS_COUNTS, _postprocess, options)
    yield _curve("matching, loss and backward, classes", CLASS_COUNTS, lambda k: _loss(k, 20), options, images=BATCH)
    yield _curve(
        f"matching, loss and backward, objects in each of {BATCH} images",
        OBJECT_COUNTS,
        lambda n: _loss(80, n),
        options,
        images=BATCH,
    )
    with tempfile.TemporaryDirectory() as folder:
        yield from _data_curves(Path(folder), options)


def _curve(
    title: str,
    values: Sequence[int],
    make: Callable[[int], Callable[[], object]],
    options: BenchmarksOptions,
    *,
    power: int = 1,
    images: int | None = 1,
) -> Comparison:
    """One contestant for each value, of as many ``images`` a call; None: as the value says.

    The work grows with the value to the ``power``.
    """
    return Comparison(
        title,
        [Contestant(str(value), make(value), images or value) for value in values],
        reference=str(values[0]),
        threads=options.threads,
        rounds=7,
        work={str(value): float(value) ** power for value in values},
    )


def _predict_batch(size: int) -> Callable[[], object]:
    detector = build_detector(PRESET)
    images = torch.randint(0, 256, (size, 320, 320, 3), dtype=torch.uint8).permute(0, 3, 1, 2).numpy()
    return lambda: detector.postprocess(detector.infer_batch(images))


def _predict_side(side: int) -> Callable[[], object]:
    detector = build_detector(PRESET, image_size=side)
    images = torch.randint(0, 256, (1, side, side, 3), dtype=torch.uint8).permute(0, 3, 1, 2).numpy()
    return lambda: detector.infer_batch(images)


def _postprocess(classes: int) -> Callable[[], object]:
    detector = build_detector(PRESET, num_classes=classes)
    outputs = _random_outputs(len(detector.anchors), classes, 1)
    return lambda: postprocess(outputs, detector.anchors, detector.config)


def _loss(classes: int, objects: int) -> Callable[[], object]:
    detector = build_detector(PRESET, num_classes=classes)
    criterion = MultiBoxLoss(detector.anchors, detector.head.box_code)
    outputs = _random_outputs(len(detector.anchors), classes, BATCH)
    corners = torch.rand(BATCH, objects, 2) * 220
    boxes = torch.cat([corners, corners + 20 + torch.rand(BATCH, objects, 2) * 80], dim=2)
    labels = torch.randint(0, classes, (BATCH, objects))

    def call() -> None:
        own = Outputs(*(tensor.clone().requires_grad_() for tensor in outputs[:2]))
        criterion(own, boxes, labels).total.backward()

    return call


def _random_outputs(anchors: int, classes: int, batch: int) -> Outputs:
    """Scores like trained ones: background nearly everywhere."""
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, anchors, classes + 1, generator=random)
    logits[..., 0] += 6 + math.log(classes)
    return Outputs(logits, torch.randn(batch, anchors, 4, generator=random) * 0.1)


def _data_curves(root: Path, options: BenchmarksOptions) -> Iterator[Comparison]:
    folders = {count: root / str(count) for count in IMAGE_COUNTS}
    objects = {count: write_coco(folder, count) for count, folder in folders.items()}
    peaks = {count: run_apart(_open, folder) for count, folder in folders.items()}
    yield Comparison(
        "opening COCO data, images (headers of all pictures included)",
        [Contestant(str(count), partial(load_split, folder, "train2017"), count) for count, folder in folders.items()],
        reference=str(IMAGE_COUNTS[0]),
        threads=options.threads,
        rounds=2,
        work={str(count): float(count) for count in IMAGE_COUNTS},
        notes=[
            f"{count} images, {objects[count]} objects: {seconds:.1f} s, peak of {peak:.0f} MB in a process of its own"
            for count, (seconds, peak) in peaks.items()
        ],
    )
    index = load_split(folders[IMAGE_COUNTS[0]], "train2017")
    dataset = DetectionDataset(index, DetectionTransform((320, 320), "stretch", "ssdlite"))
    yield Comparison(
        "loading and augmenting 512 pictures, worker processes",
        [Contestant(str(workers), _load(dataset, workers), 512) for workers in WORKERS],
        reference=str(WORKERS[0]),
        rounds=3,
    )


def _load(dataset: DetectionDataset, workers: int) -> Callable[[], object]:
    loader = DataLoader(
        dataset,  # type: ignore[arg-type]
        16,
        sampler=range(512),
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=workers > 0,
    )
    return lambda: sum(len(batch) for batch in loader)


def _open(folder: Path) -> tuple[float, float]:
    """Seconds that opening the data takes, and peak MB of the process."""
    start = time.perf_counter()
    load_split(folder, "train2017")
    return time.perf_counter() - start, own_peak() or math.nan


# --- Scoring.

IMAGES, OBJECTS, FOUND = 5000, 7, 100
NAMES = tuple(f"class {i}" for i in range(CLASSES))
SMALL = 500  # images, for what grows with them


def evaluation(options: BenchmarksOptions) -> Iterator[Comparison]:
    """Our evaluator beside pycocotools used directly; time, and peak memory."""
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
        threads=options.threads,
        rounds=2,
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


def _peak(call: Callable[[DetectionIndex, list[Detections]], float], images: int) -> float:
    """Peak MB of the process when it has scored as many images."""
    call(*make_split(images))
    return own_peak() or math.nan
