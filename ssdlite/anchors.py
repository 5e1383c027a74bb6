"""Anchors: the shapes on each map as plain numbers, and their places in the image.

Needs numpy only. An ``AnchorConfig`` is data: the generators of TensorFlow and torchvision, or a fit to a data
set, only fill it in, so a checkpoint and an exported file carry the anchors themselves and not a recipe for them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

from ssdlite.errors import ConfigError
from ssdlite.validation import Config

AnchorShape = tuple[float, float]

MAX_STEP = 4096
MAX_ANCHORS = 500_000  # beyond any use; keeps a hostile file from exhausting memory
SSDLITE_SCALES = (0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0)  # ssdlite_mobilenet_v2_coco.config: min .2, max .95


class AnchorConfig(Config, frozen=True):
    """The (width, height) shapes on each map, finest map first.

    Shapes are fractions of the image's (width, height) where ``relative_to`` is ``sides``, or of the shorter side
    where it is ``shorter_side``. ``steps`` are the distances of the centres on each map, in input pixels; where there
    are none, as in TensorFlow and torchvision, the centres divide the image evenly. Steps belong to one image size.
    ``offset`` is where in its cell a centre lies, as a share of the cell's sides: 0.5 in the middle, 0 at its upper
    left corner, from which NanoDet-Plus and YOLOX count.
    """

    levels: tuple[tuple[AnchorShape, ...], ...]
    relative_to: Literal["sides", "shorter_side"] = "sides"
    steps: tuple[float, ...] = ()
    offset: float = 0.5

    def check(self) -> None:
        for number, level in enumerate(self.levels):
            if not level:
                raise ConfigError(f"anchor level {number} has no shapes; every level needs at least one")
            for width, height in level:
                if not (0 < width <= 4 and 0 < height <= 4):
                    raise ConfigError(
                        f"anchor level {number}: expected (width, height) fractions in (0, 4], got ({width}, {height})"
                    )

        if len(self.steps) not in (0, len(self.levels)) or not all(0 < step <= MAX_STEP for step in self.steps):
            raise ConfigError(
                f"anchor steps: expected none, or one of up to {MAX_STEP} pixels for each of the {len(self.levels)} "
                f"levels, got {self.steps}"
            )
        if not 0 <= self.offset <= 1:
            raise ConfigError(f"anchor offset: expected 0 to 1, a share of the cell's sides, got {self.offset}")

    @property
    def shapes_per_cell(self) -> tuple[int, ...]:
        return tuple(len(level) for level in self.levels)

    def sides(self, image_size: tuple[int, int]) -> list[npt.NDArray[np.float64]]:
        """Per level the (width, height) [shapes, 2] in pixels of an input of ``image_size`` (height, width)."""
        height, width = image_size
        reference = (width, height) if self.relative_to == "sides" else (min(image_size), min(image_size))
        return [np.array(level, np.float64) * reference for level in self.levels]

    def count(self, grid_sizes: Sequence[tuple[int, int]]) -> int:
        """How many anchors stand on grids of these (rows, columns)."""
        return sum(
            rows * columns * shapes for (rows, columns), shapes in zip(grid_sizes, self.shapes_per_cell, strict=True)
        )


def tensorflow_anchors(
    scales: Sequence[float] = SSDLITE_SCALES,
    aspect_ratios: Sequence[float] = (1.0, 2.0, 0.5, 3.0, 0.3333),
    *,
    reduce_lowest: bool = True,
) -> AnchorConfig:
    """TensorFlow's ``ssd_anchor_generator``: one level per scale but the last, which only serves interpolation.

    Each level has its scale at every aspect ratio, and a square of the geometric mean with the next scale. With
    ``reduce_lowest`` the finest has three instead: a square of scale 0.1, and its own scale at ratios 2 and 1/2.
    """
    levels: list[tuple[AnchorShape, ...]] = []
    for scale, next_scale in pairwise(scales):
        shapes = [anchor_shape(scale, ratio) for ratio in aspect_ratios]
        levels.append((*shapes, anchor_shape(math.sqrt(scale * next_scale), 1.0)))
    if reduce_lowest:
        levels[0] = (anchor_shape(0.1, 1.0), anchor_shape(scales[0], 2.0), anchor_shape(scales[0], 0.5))
    return AnchorConfig(tuple(levels), relative_to="shorter_side")


def torchvision_anchors(
    scales: Sequence[float] = SSDLITE_SCALES, aspect_ratios: Sequence[float] = (2.0, 3.0)
) -> AnchorConfig:
    """torchvision's ``DefaultBoxGenerator([[2, 3]] * 6, min_ratio=0.2, max_ratio=0.95)``.

    A square of the scale, one of the geometric mean with the next, then each ratio lying and standing; sides are
    cut at the whole image.
    """
    levels = []
    for scale, next_scale in pairwise(scales):
        shapes = [anchor_shape(scale, 1.0), anchor_shape(math.sqrt(scale * next_scale), 1.0)]
        for ratio in aspect_ratios:
            shapes += [anchor_shape(scale, ratio), anchor_shape(scale, 1 / ratio)]
        levels.append(tuple((min(width, 1.0), min(height, 1.0)) for width, height in shapes))
    return AnchorConfig(tuple(levels))


def square_anchors(sides: Sequence[float]) -> AnchorConfig:
    """One square in a cell, of these fractions of the shorter side of the image, finest map first."""
    return AnchorConfig(tuple(((side, side),) for side in sides), relative_to="shorter_side")


def stride_anchors(strides: Sequence[int], side: int, *, offset: float = 0.5) -> AnchorConfig:
    """One square in a cell, as large as the cell, for an input of ``side`` x ``side`` pixels: of heads that count in
    strides. Where a stride does not divide the side, cells are strides apart all the same, and the last ones reach
    outside."""
    steps = tuple(map(float, strides))
    return square_anchors([step / side for step in steps]).changed(steps=steps, offset=offset)


def with_finer_level(anchors: AnchorConfig) -> AnchorConfig:
    """One level more, in front: the shapes of the finest one at half their size."""
    finer = tuple((width / 2, height / 2) for width, height in anchors.levels[0])
    steps = (anchors.steps[0] / 2, *anchors.steps) if anchors.steps else ()
    return anchors.changed(levels=(finer, *anchors.levels), steps=steps)


def anchor_shape(scale: float, ratio: float) -> AnchorShape:
    """The (width, height) of a scale and an aspect ratio, as TensorFlow and torchvision have it."""
    return scale * math.sqrt(ratio), scale / math.sqrt(ratio)


SSDLITE_ANCHORS = tensorflow_anchors()  # of the published SSDLite MobileNets


def generate_anchors(
    config: AnchorConfig, image_size: tuple[int, int], grid_sizes: Sequence[tuple[int, int]]
) -> npt.NDArray[np.float32]:
    """All anchors of an input of ``image_size`` (height, width) with maps of ``grid_sizes`` (rows, columns).

    Returns [A, 4] xyxy in input pixels, level by level, row by row, column by column, shape fastest. Centres are
    (i + offset) / grid of the image, or (i + offset) steps but no further than its edge; anchors may reach outside it.

    Raises:
        ConfigError: levels and grids differ in number, or there would be an absurd number of anchors.
    """
    if len(config.levels) != len(grid_sizes):
        raise ConfigError(f"anchors have {len(config.levels)} levels, the network has {len(grid_sizes)} maps")
    if config.count(grid_sizes) > MAX_ANCHORS:
        raise ConfigError(f"{config.count(grid_sizes)} anchors, more than the {MAX_ANCHORS} allowed")
    height, width = image_size
    levels = []
    steps = config.steps or [None] * len(grid_sizes)
    for sizes, (rows, columns), step in zip(config.sides(image_size), grid_sizes, steps, strict=True):
        places = (_centres(side, cells, step, config.offset) for side, cells in ((height, rows), (width, columns)))
        centres_y, centres_x = np.meshgrid(*places, indexing="ij")
        centres = np.stack([centres_x, centres_y], axis=-1)[:, :, None, :]
        boxes = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=-1)
        levels.append(boxes.reshape(-1, 4))
    return np.concatenate(levels).astype(np.float32)


def _centres(side: int, cells: int, step: float | None, offset: float) -> npt.NDArray[np.float64]:
    places = np.arange(cells) + offset
    return places * side / cells if step is None else np.minimum(places * step, side)
