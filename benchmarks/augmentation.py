"""Milliseconds of processor time that one training sample takes, reading included, for each augmentation.

``python benchmarks/augmentation.py DATA [SIDE]``: the recipes in turns, so that a change of the machine's speed meets
all of them; a line each with the mean and its ratio to that of ``ssdlite``.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from ssdlite.datasets.dataset import DetectionDataset
from ssdlite.datasets.discover import load_data
from ssdlite.datasets.mosaic import build_mosaic
from ssdlite.datasets.transforms import AUGMENTATIONS, DetectionTransform

ROUNDS = 60
SAMPLES = 4  # of a contestant in each round


def main(argv: list[str]) -> None:
    index = load_data(Path(argv[0])).train
    side = int(argv[1]) if len(argv) > 1 else 320
    recipes = {name: (name, 0.0) for name in AUGMENTATIONS} | {"ssdlite, all mosaics": ("ssdlite", 1.0)}
    contestants = {"reading alone": DetectionDataset(index)}
    for label, (name, share) in recipes.items():
        transform = DetectionTransform((side, side), "stretch", name)
        contestants[label] = DetectionDataset(index, transform, mosaic=build_mosaic(transform, share, 1))
    seconds = dict.fromkeys(contestants, 0.0)
    for round_number in range(ROUNDS):
        positions = [(round_number * SAMPLES + i) % len(index) for i in range(SAMPLES)]
        for name, dataset in contestants.items():
            start = time.process_time()
            for position in positions:
                dataset[position]
            seconds[name] += time.process_time() - start
    print(f"{index.name}, {side} px, {ROUNDS * SAMPLES} samples each, processor time")
    for name, total in seconds.items():
        print(f"{name:22s} {1000 * total / ROUNDS / SAMPLES:6.2f} ms   {total / seconds['ssdlite']:5.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
