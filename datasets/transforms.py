"""Which part of a picture the network is shown: the random choices of a rectangle, and what becomes of the boxes.

Zooming out, scaling and cropping are choices of one rectangle of source pixels, which may reach outside the picture; it
is resampled once.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ssdlite.datasets.samples import Sample
from ssdlite.errors import ConfigError
from ssdlite.images.geometry import LETTERBOX_FILL, CropWindow, Resize, fit_window
from ssdlite.nms import pairwise_iou
from ssdlite.validation import suggest


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """With this variable within the block, and what it was before afterwards."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        os.environ.update({} if before is None else {name: before})


with _environment("NO_ALBUMENTATIONS_UPDATE", "1"):  # or it calls home
    import albumentations as A

Rectangle = tuple[float, float, float, float]  # x0, y0, x1, y1 in source pixels
BoxArray = npt.NDArray[np.float32]
CutOff = Literal["drop", "ignore"]

MIN_BOX_SIDE = 1.0  # input pixels; what is left of a cropped box below this is dropped
CROP_OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, None)  # least IoU of the crop with some box; None keeps all
CROP_TRIALS = 40
CROP_SIDES = (0.3, 1.0)
CROP_RATIOS = (0.5, 2.0)


def zoom_out(image: Rectangle, largest: float, generator: np.random.Generator) -> Rectangle:
    """Half the time the image, else a canvas of up to ``largest`` times its sides with the image somewhere on it."""
    if largest <= 1 or generator.random() < 0.5:
        return image
    _, _, width, height = image
    factor = generator.uniform(1, largest)
    left, top = generator.uniform(0, width * (factor - 1)), generator.uniform(0, height * (factor - 1))
    return -left, -top, width * factor - left, height * factor - top


def scaled_region(
    image_size: tuple[int, int], region: tuple[float, float], factor: float, generator: np.random.Generator
) -> Rectangle:
    """A rectangle of 1 / ``factor`` times the sides of ``region`` (height, width; source pixels), at random.

    Along an axis on which it is shorter than the picture it lies inside the picture, else the picture inside it.
    """
    spans = []
    for side, wanted in zip(reversed(image_size), reversed(region), strict=True):
        shown = wanted / factor
        start = generator.uniform(min(0.0, side - shown), max(0.0, side - shown))
        spans.append((start, start + shown))
    (x0, x1), (y0, y1) = spans
    return x0, y0, x1, y1


def iou_crop(canvas: Rectangle, boxes: BoxArray, generator: np.random.Generator) -> Rectangle:
    """A random region of the canvas that overlaps some box by a randomly chosen least IoU (SSD's sampling)."""
    if not len(boxes):
        return canvas
    x0, y0, x1, y1 = canvas
    while True:
        least = CROP_OVERLAPS[int(generator.integers(len(CROP_OVERLAPS)))]
        if least is None:
            return canvas
        spans = generator.uniform(*CROP_SIDES, size=(CROP_TRIALS, 2)) * (x1 - x0, y1 - y0)
        starts = (x0, y0) + generator.uniform(size=(CROP_TRIALS, 2)) * ((x1 - x0, y1 - y0) - spans)
        ratios = spans[:, 0] / spans[:, 1]
        likely = (ratios >= CROP_RATIOS[0]) & (ratios <= CROP_RATIOS[1])
        trials = np.concatenate([starts, starts + spans], axis=1)[likely]
        good = np.flatnonzero(_best_overlaps(trials, boxes) >= least)
        if len(good):
            left, top, right, bottom = trials[good[0]].tolist()
            return left, top, right, bottom


def _best_overlaps(regions: npt.NDArray[np.float64], boxes: BoxArray) -> npt.NDArray[np.float64]:
    """regions [T, 4], boxes [N, 4] -> [T]: the best IoU with a box whose centre is in the region, -1 if none is."""
    boxes = boxes.astype(np.float64)
    corners, centers = regions[:, None], (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((centers > corners[..., :2]) & (centers < corners[..., 2:])).all(axis=2)
    best: npt.NDArray[np.float64] = np.where(inside, pairwise_iou(regions, boxes), -1.0).max(axis=1)
    return best


def to_crop_window(region: Rectangle, size: tuple[int, int]) -> CropWindow:
    """The window of a region, on whole source pixels, that fills ``size`` (height, width)."""
    x0, y0 = round(region[0]), round(region[1])
    return CropWindow(x0, y0, max(round(region[2]), x0 + 1), max(round(region[3]), y0 + 1), size)


def fit_region(region: Rectangle, input_size: tuple[int, int], resize: Resize) -> CropWindow:
    """The window of a region on whole pixels; for ``letterbox`` widened to the input's shape."""
    whole = to_crop_window(region, input_size)
    fitted = fit_window((whole.y1 - whole.y0, whole.x1 - whole.x0), input_size, resize)
    return CropWindow(
        fitted.x0 + whole.x0, fitted.y0 + whole.y0, fitted.x1 + whole.x0, fitted.y1 + whole.y0, input_size
    )


def show(sample: Sample, window: CropWindow, cut_off: CutOff | None = None) -> Sample:
    """Render the window; boxes follow, clipped.

    ``cut_off`` says what becomes of an object whose centre is left out (all stay objects if None): ``drop`` makes
    its visible part background, as SSD's crop does; ``ignore`` makes it an ignored region, neither object nor
    background. Parts below MIN_BOX_SIDE are dropped.
    """
    height, width = window.size
    sample = sample.shown(window)
    boxes = sample.boxes
    limits = np.array([width, height, width, height], np.float32)
    clipped = boxes.clip(0, limits)
    sides = clipped[:, 2:] - clipped[:, :2]
    keep, ignore = (sides > 0).all(axis=1), sample.ignore
    if cut_off is not None:
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = ((centers >= 0) & (centers <= limits[:2])).all(axis=1)
        if cut_off == "ignore":
            ignore = ignore | ~inside
        keep &= (inside & (sides >= MIN_BOX_SIDE).all(axis=1)) | ignore
    return replace(
        sample,
        boxes=clipped[keep].astype(np.float32),
        labels=sample.labels[keep],
        ignore=ignore[keep],
    )


# --- From a sample of any size to one of the network's size, with or without augmentation.


@dataclass(frozen=True)
class Augmentation:
    """A named recipe.

    Attributes:
        zoom_out: largest factor of a canvas around the image, used for half of the images; 1 is never.
        scale: least and largest factor of the picture's size in the input, at random places (large-scale jitter,
            arXiv 2012.07177, section 3); None is never. In place of ``zoom_out``.
        iou_crop: whether to crop as SSD does (arXiv 1512.02325, section 2.2).
        color: whether to distort brightness, contrast, saturation and hue.
        flips: mirror left-right (``horizontal``), or any symmetry of the input (``all``: the 8 of a square, the 4
            of another rectangle; for pictures without an up and down, such as those of microscopes and from the air).
    """

    zoom_out: float = 1.0
    scale: tuple[float, float] | None = None
    iou_crop: bool = False
    color: bool = False
    flips: str = "none"

    @property
    def cut_off(self) -> CutOff | None:
        """What becomes of objects whose centre is not shown; see ``show``."""
        if self.scale is not None:
            return "ignore"
        return "drop" if self.iou_crop else None


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": Augmentation(),
    "flip": Augmentation(flips="horizontal"),
    "ssdlite": Augmentation(iou_crop=True, flips="horizontal"),
    "ssd": Augmentation(zoom_out=4.0, iou_crop=True, color=True, flips="horizontal"),
    "lsj": Augmentation(scale=(0.5, 2.0), flips="horizontal"),
    "topdown": Augmentation(zoom_out=1.5, iou_crop=True, color=True, flips="all"),
    "lsj-topdown": Augmentation(scale=(0.5, 2.0), color=True, flips="all"),
}


class DetectionTransform:
    """Takes a sample to (height, width) = ``image_size``; augmented as ``augmentation`` names it.

    Every random choice comes from the generator that the call is given. A sample that has a window already, a mosaic,
    is only mirrored and coloured.
    """

    def __init__(self, image_size: tuple[int, int], resize: Resize, augmentation: str = "none") -> None:
        if augmentation not in AUGMENTATIONS:
            raise ConfigError(f"unknown augmentation {augmentation!r}{suggest(augmentation, AUGMENTATIONS)}")
        self.image_size = image_size
        self.resize = resize
        self.augmentation = AUGMENTATIONS[augmentation]
        self.pixels = _pixel_transforms(self.augmentation, is_square=image_size[0] == image_size[1])

    def __call__(self, sample: Sample, generator: np.random.Generator) -> Sample:
        if sample.window is None:
            sample = show(sample, self._choose_window(sample, generator), self.augmentation.cut_off)
        if self.pixels is None:
            return sample
        # One state for all its transforms: ``set_random_seed`` would have each of them draw the same numbers.
        self.pixels.set_random_state(generator, random.Random(int(generator.integers(2**32))))
        result = self.pixels(image=sample.image, bboxes=sample.boxes, numbers=np.arange(len(sample.boxes)))
        kept = np.asarray(result["numbers"], np.int64)
        return replace(
            sample,
            image=np.ascontiguousarray(result["image"]),
            boxes=np.asarray(result["bboxes"], np.float32).reshape(-1, 4),
            labels=sample.labels[kept],
            ignore=sample.ignore[kept],
        )

    def _choose_window(self, sample: Sample, generator: np.random.Generator) -> CropWindow:
        height, width = sample.size
        whole = (0.0, 0.0, float(width), float(height))
        region, recipe = whole, self.augmentation
        if recipe.scale is not None:
            fitted = fit_window((height, width), self.image_size, self.resize)
            factor = generator.uniform(*recipe.scale)
            region = scaled_region((height, width), fitted.span, factor, generator)
        else:
            region = zoom_out(whole, recipe.zoom_out, generator)
        if recipe.iou_crop:
            region = iou_crop(region, sample.boxes[~sample.ignore], generator)
        if region == whole:
            return fit_window((height, width), self.image_size, self.resize)
        return fit_region(region, self.image_size, self.resize)


def _pixel_transforms(augmentation: Augmentation, is_square: bool) -> Any:
    """The albumentations pipeline at the network's size, or None where there is nothing to do."""
    flips: dict[str, Callable[[], list[Any]]] = {
        "none": list,
        "horizontal": lambda: [A.HorizontalFlip(p=0.5)],
        "all": lambda: [A.D4(p=1.0)] if is_square else [A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)],
    }
    transforms = flips[augmentation.flips]()
    if augmentation.color:  # the ranges of torchvision's RandomPhotometricDistort
        transforms.append(
            A.ColorJitter(
                brightness=(0.875, 1.125), contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=(-0.05, 0.05), p=0.5
            )
        )
    if not transforms:
        return None
    boxes = A.BboxParams(format="pascal_voc", label_fields=["numbers"], clip=True, filter_invalid_bboxes=True)
    return A.Compose(transforms, bbox_params=boxes)


# --- Up to four pictures side by side as one sample (YOLOv4, arXiv 2004.10934, section 3.4).

LAST_SHARE = 0.15  # share of the epochs, the last ones, without mosaics (arXiv 2107.08430, section 2.1: 15 of 300)
MOSAIC_SCALES = (0.5, 1.5)  # of a picture's size in the input: YOLOX's for its smallest networks, and NanoDet's


class Tile(NamedTuple):
    """A rectangle of input pixels."""

    x0: int
    y0: int
    x1: int
    y1: int


class MosaicLayout(NamedTuple):
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

    def draw_layout(self, epoch: int, generator: np.random.Generator) -> MosaicLayout | None:
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
        return MosaicLayout(scale, tuple(tile for tile in tiles if tile.x1 > tile.x0 and tile.y1 > tile.y0))

    def join(self, samples: Sequence[Sample], layout: MosaicLayout, generator: np.random.Generator) -> Sample:
        """The samples, one a tile, as one sample of the network's size with the name of the first.

        Objects whose centre is not shown become ignored regions; a cut one whose centre is shown stays an object.
        """
        height, width = self.image_size
        image = np.full((height, width, 3), LETTERBOX_FILL, np.uint8)
        parts = []
        for sample, tile in zip(samples, layout.tiles, strict=True):
            part = show(sample, self._choose_window(sample, tile, layout.scale, generator), cut_off="ignore")
            image[tile.y0 : tile.y1, tile.x0 : tile.x1] = part.image
            parts.append(replace(part, boxes=part.boxes + np.array([tile.x0, tile.y0] * 2, np.float32)))
        return replace(
            samples[0],
            image=image,
            boxes=np.concatenate([part.boxes for part in parts]),
            labels=np.concatenate([part.labels for part in parts]),
            ignore=np.concatenate([part.ignore for part in parts]),
            window=CropWindow(0, 0, width, height, (height, width)),
        )

    def _choose_window(self, sample: Sample, tile: Tile, scale: float, generator: np.random.Generator) -> CropWindow:
        """A random part of the picture, as large as the tile takes."""
        size = (tile.y1 - tile.y0, tile.x1 - tile.x0)
        picture = sample.size
        whole_height, whole_width = fit_window(picture, self.image_size, self.resize).span
        region = (whole_height * size[0] / self.image_size[0], whole_width * size[1] / self.image_size[1])
        return to_crop_window(scaled_region(picture, region, scale, generator), size)


def build_mosaic(transform: DetectionTransform, share: float, epochs: int) -> Mosaic | None:
    """Mosaics for a ``share`` of the samples in a training of ``epochs`` epochs but for its last ones, if any."""
    if not share:
        return None
    return Mosaic(transform.image_size, transform.resize, share, epochs - round(LAST_SHARE * epochs))
