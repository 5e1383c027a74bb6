"""What a training sample costs, reading included: each augmentation, and large JPEGs whole and reduced."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import numpy as np

from benchmarks.coco_data import write_coco, write_picture
from benchmarks.harness import Comparison, Contestant, Settings
from ssdlite.datasets.dataset import DetectionDataset
from ssdlite.datasets.formats.registry import load_split
from ssdlite.datasets.index import DetectionIndex
from ssdlite.datasets.transforms import AUGMENTATIONS, DetectionTransform, build_mosaic

ROUNDS = 40
SIDE = 320
SAMPLES = 4  # in a turn
LARGE = (3000, 4000)


def comparisons(settings: Settings) -> Iterator[Comparison]:
    with tempfile.TemporaryDirectory() as folder:
        index = _coco(Path(folder) / "coco", 64)
        recipes = {name: (name, 0.0) for name in AUGMENTATIONS} | {"ssdlite, all mosaics": ("ssdlite", 1.0)}
        contestants = [Contestant("reading alone", _read(DetectionDataset(index)), SAMPLES)]
        for label, (name, share) in recipes.items():
            transform = DetectionTransform((SIDE, SIDE), "stretch", name)
            dataset = DetectionDataset(index, transform, mosaic=build_mosaic(transform, share, 1))
            contestants.append(Contestant(label, _read(dataset), SAMPLES))
        yield Comparison(
            f"a training sample of {SIDE} px from a JPEG of 640 x 480", contestants, reference="ssdlite", threads=1
        )
        yield _large_pictures(Path(folder) / "large")


def _large_pictures(root: Path) -> Comparison:
    index = _coco(root, 8)
    for number, path in enumerate(index.paths):
        Path(path).unlink()  # a link to one of 640 x 480
        write_picture(Path(path), LARGE, np.random.default_rng(number))
    index.sizes[:] = LARGE
    transform = DetectionTransform((SIDE, SIDE), "stretch", "ssdlite")
    whole, reduced = (DetectionDataset(index, transform, reduce_to=to) for to in (None, (SIDE, SIDE)))
    return Comparison(
        f"a training sample of {SIDE} px from a JPEG of {LARGE[1]} x {LARGE[0]}",
        [Contestant("whole", _read(whole), SAMPLES), Contestant("--reduced-decoding", _read(reduced), SAMPLES)],
        reference="whole",
        threads=1,
        rounds=10,
    )


def _coco(root: Path, images: int) -> DetectionIndex:
    write_coco(root, images)
    return load_split(root, "train2017")


def _read(dataset: DetectionDataset) -> Callable[[], None]:
    positions = cycle(range(len(dataset)))

    def call() -> None:
        for _ in range(SAMPLES):
            dataset[next(positions)]

    return call
