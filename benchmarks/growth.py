"""How cost grows with the work: batch size, input size, classes, objects, images of a data set, processes.

The growth is the exponent from one point of a curve to the next: 1 is proportional, above is worse.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from benchmarks.coco_data import write_coco
from benchmarks.harness import Comparison, Contestant, Settings
from ssdlite import build_detector
from ssdlite.benchmark.memory import own_peak, run_apart
from ssdlite.datasets.dataset import DetectionDataset, collate
from ssdlite.datasets.formats.registry import load_split
from ssdlite.datasets.transforms import DetectionTransform
from ssdlite.heads.base import Outputs
from ssdlite.heads.losses import MultiBoxLoss
from ssdlite.heads.postprocess import postprocess

ROUNDS = 7
PRESET = "ssdlite320_mobilenet_v2"
BATCH = 16  # where nothing else is said
BATCH_SIZES = (1, 2, 4, 8, 16, 32)
SIDES = (128, 192, 320, 512, 640)
CLASS_COUNTS = (10, 80, 300, 1000)
OBJECT_COUNTS = (0, 5, 20, 100, 500)
IMAGE_COUNTS = (1000, 10_000, 118_000)
WORKERS = (0, 1, 2)


def comparisons(settings: Settings) -> Iterator[Comparison]:
    yield _curve("network and post-processing, batch size", BATCH_SIZES, _predict_batch, settings, images=None)
    yield _curve("network, input side", SIDES, _predict_side, settings, power=2)
    yield _curve("post-processing, classes", CLASS_COUNTS, _postprocess, settings)
    yield _curve("matching, loss and backward, classes", CLASS_COUNTS, lambda k: _loss(k, 20), settings, images=BATCH)
    yield _curve(
        f"matching, loss and backward, objects in each of {BATCH} images",
        OBJECT_COUNTS,
        lambda n: _loss(80, n),
        settings,
        images=BATCH,
    )
    with tempfile.TemporaryDirectory() as folder:
        yield from _data_curves(Path(folder), settings)


def _curve(
    title: str,
    values: Sequence[int],
    make: Callable[[int], Callable[[], object]],
    settings: Settings,
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
        threads=settings.threads,
        work={str(value): float(value) ** power for value in values},
    )


def _predict_batch(size: int) -> Callable[[], object]:
    detector = build_detector(PRESET)
    images = torch.randint(0, 256, (size, 320, 320, 3), dtype=torch.uint8).permute(0, 3, 1, 2).numpy()
    return lambda: detector.select_batch(detector.infer_batch(images))


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
    criterion = MultiBoxLoss(detector.anchors, torch.tensor(detector.config.box_code_scales))
    outputs = _random_outputs(len(detector.anchors), classes, BATCH)
    corners = torch.rand(BATCH, objects, 2) * 220
    boxes = torch.cat([corners, corners + 20 + torch.rand(BATCH, objects, 2) * 80], dim=2)
    labels = torch.randint(0, classes, (BATCH, objects))

    def call() -> None:
        own = Outputs(*(tensor.clone().requires_grad_() for tensor in outputs))
        criterion(own, boxes, labels).total.backward()

    return call


def _random_outputs(anchors: int, classes: int, batch: int) -> Outputs:
    """Scores like trained ones: background nearly everywhere."""
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, anchors, classes + 1, generator=random)
    logits[..., 0] += 6 + math.log(classes)
    return Outputs(logits, torch.randn(batch, anchors, 4, generator=random) * 0.1)


def _data_curves(root: Path, settings: Settings) -> Iterator[Comparison]:
    folders = {count: root / str(count) for count in IMAGE_COUNTS}
    objects = {count: write_coco(folder, count) for count, folder in folders.items()}
    peaks = {count: run_apart(_open, folder) for count, folder in folders.items()}
    yield Comparison(
        "opening COCO data, images (headers of all pictures included)",
        [Contestant(str(count), partial(load_split, folder, "train2017"), count) for count, folder in folders.items()],
        reference=str(IMAGE_COUNTS[0]),
        threads=settings.threads,
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
        threads=1,
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
