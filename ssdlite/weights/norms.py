"""Batch norms that a file has folded into its convolutions, restored so that training goes on as usual."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from ssdlite.config import DetectorConfig
from ssdlite.datasets.image_files import IMAGE_SUFFIXES
from ssdlite.datasets.shape_scenes import draw_scene
from ssdlite.detector import stack_images
from ssdlite.errors import DataError
from ssdlite.image import Framing, ImageArray, read_image
from ssdlite.norm_statistics import remeasure_norms
from ssdlite.weights.ledger import Imported, check_finite
from ssdlite.weights.options import ImportOptions

PICTURES = 64  # that statistics are measured on; the coarsest map has one cell in each
LEAST_PICTURES = 8  # of a network with a large input
MOST_PIXELS = PICTURES * 512 * 512  # of all of them together
MOST_BATCH_PIXELS = 8 * 320 * 320


def measure_restored_norms(imported: Imported, options: ImportOptions) -> Imported:
    """The same function, with batch norms whose statistics are those of pictures: it can be put in training mode.

    Raises:
        DataError: the folder of pictures is missing or has none, or one cannot be read.
        CheckpointError: the weights give values that are not finite.
    """
    detector = imported.checkpoint.build_detector()
    remeasure_norms(detector, _batches(detector.config, options.pictures), rescale=True)
    weights = detector.state_dict()
    check_finite(weights, imported.checkpoint.path, imported.matched)
    return replace(imported, checkpoint=replace(imported.checkpoint, weights=weights))


def _batches(config: DetectorConfig, folder: Path | None) -> Iterator[Tensor]:
    framing = Framing(config.image_size, config.resize)
    pixels = config.image_size[0] * config.image_size[1]
    count = min(PICTURES, max(LEAST_PICTURES, MOST_PIXELS // pixels))
    batch: list[ImageArray] = []
    for picture in _scenes(count) if folder is None else _pictures_in(folder, count):
        batch.append(framing.view((picture.shape[0], picture.shape[1])).render(picture))
        if len(batch) * pixels >= MOST_BATCH_PIXELS:
            yield stack_images(batch)
            batch = []
    if batch:
        yield stack_images(batch)


def _scenes(count: int) -> Iterator[ImageArray]:
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield draw_scene(rng, with_objects=True).image


def _pictures_in(folder: Path, count: int) -> Iterator[ImageArray]:
    """Up to ``count`` of a folder, evenly taken from all of them: files are often sorted by scene."""
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder of pictures to measure batch norms on, found no such folder")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise DataError(f"{folder}: expected pictures to measure batch norms on, found none")
    chosen = np.unique(np.linspace(0, len(files) - 1, count).round().astype(int))
    for position in chosen:
        yield read_image(files[position])
