"""Up to four pictures side by side as one sample (YOLOv4, arXiv 2004.10934, section 3.4).

In one step each picture then shows other surroundings, scales and cuts. The layout is YOLOX's (arXiv 2107.08430): four
pictures of the input's size around a junction, scaled together, of which the input shows the middle. Each picture's
tile is one view of it, so every pixel is resampled once. Which part of a picture is in its tile is random, where YOLOX
always shows the corner next to the junction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ssdlite.datasets.dataset import Sample
from ssdlite.datasets.transforms import DetectionTransform
from ssdlite.datasets.windows import scaled_window, show, window_view
from ssdlite.image import LETTERBOX_FILL, Resize, View, fit_view

CLOSED = 0.15  # share of the epochs, the last ones, without mosaics (arXiv 2107.08430, section 2.1: 15 of 300)
MOSAIC_SCALES = (0.5, 1.5)  # of a picture's size in the input: YOLOX's for its smallest networks, and NanoDet's


class Tile(NamedTuple):
    """A rectangle of input pixels."""

    x0: int
    y0: int
    x1: int
    y1: int


class Layout(NamedTuple):
    """``scale``: of the pictures, 1 being their size when one of them fills the input alone."""

    scale: float
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class Mosaic:
    """Decides which samples are mosaics, and makes them; ``image_size`` is the input's (height, width).

    In the epochs 0 .. ``epochs`` - 1 a share of ``probability`` are.
    """

    image_size: tuple[int, int]
    resize: Resize
    probability: float
    epochs: int

    def draw_layout(self, epoch: int, generator: np.random.Generator) -> Layout | None:
        """Where one to four pictures go, or None for a sample that shows one picture as usual."""
        if epoch >= self.epochs or generator.random() >= self.probability:
            return None
        scale = generator.uniform(*MOSAIC_SCALES)
        height, width = self.image_size
        column, row = (
            min(max(round(side * (0.5 + scale * generator.uniform(-0.5, 0.5))), 0), side) for side in (width, height)
        )
        tiles = (
            Tile(0, 0, column, row),
            Tile(column, 0, width, row),
            Tile(0, row, column, height),
            Tile(column, row, width, height),
        )
        return Layout(scale, tuple(tile for tile in tiles if tile.x1 > tile.x0 and tile.y1 > tile.y0))

    def join(self, samples: Sequence[Sample], layout: Layout, generator: np.random.Generator) -> Sample:
        """The samples, one a tile, as one sample of the network's size with the name of the first.

        Objects whose centre is not shown become ignored regions; a cut one whose centre is shown stays an object.
        """
        height, width = self.image_size
        image = np.full((height, width, 3), LETTERBOX_FILL, np.uint8)
        parts = []
        for sample, tile in zip(samples, layout.tiles, strict=True):
            part = show(sample, self._choose_view(sample, tile, layout.scale, generator), cut_off="ignore")
            image[tile.y0 : tile.y1, tile.x0 : tile.x1] = part.image
            parts.append(replace(part, boxes=part.boxes + np.array([tile.x0, tile.y0] * 2, np.float32)))
        return replace(
            samples[0],
            image=image,
            boxes=np.concatenate([part.boxes for part in parts]),
            labels=np.concatenate([part.labels for part in parts]),
            ignore=np.concatenate([part.ignore for part in parts]),
            view=View(0, 0, width, height, (height, width)),
        )

    def _choose_view(self, sample: Sample, tile: Tile, scale: float, generator: np.random.Generator) -> View:
        """A random part of the picture, as large as the tile takes."""
        size = (tile.y1 - tile.y0, tile.x1 - tile.x0)
        picture = sample.size
        whole_height, whole_width = fit_view(picture, self.image_size, self.resize).span
        window = (whole_height * size[0] / self.image_size[0], whole_width * size[1] / self.image_size[1])
        return window_view(scaled_window(picture, window, scale, generator), size)


def build_mosaic(transform: DetectionTransform, share: float, epochs: int) -> Mosaic | None:
    """Mosaics for a ``share`` of the samples in a training of ``epochs`` epochs but for its last ones, if any."""
    if not share:
        return None
    return Mosaic(transform.image_size, transform.resize, share, epochs - round(CLOSED * epochs))
