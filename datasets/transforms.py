"""From a sample of any size to one of the network's size, with or without augmentation.

A geometric augmentation is a choice of ``View``: which rectangle of the source fills the input. Zooming out, scaling,
cropping and resizing are then one resampling, and boxes follow by one affine map (``windows``); a mosaic is several
views side by side (``mosaic``). What is left, colour and mirroring, is albumentations at the network's size. Nothing
outside this file knows albumentations.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ssdlite.config import suggest
from ssdlite.datasets.dataset import Sample
from ssdlite.datasets.windows import CutOff, fit_window, iou_crop, scaled_window, show, zoom_out
from ssdlite.errors import ConfigError
from ssdlite.image import Resize, View, fit_view

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # importing it must not call home
import albumentations as A


@dataclass(frozen=True)
class Augmentation:
    """A named recipe.

    Attributes:
        zoom_out: largest factor of a canvas around the image, used for half of the images; 1 is never.
        scale: least and largest factor of the picture's size in the input, at random places (large-scale jitter,
            arXiv 2012.07177, section 3); None is never. In place of ``zoom_out``.
        iou_crop: whether to crop as SSD does (arXiv 1512.02325, section 2.2).
        colour: whether to distort brightness, contrast, saturation and hue.
        flips: mirror left-right (``horizontal``), or any symmetry of the input (``all``: the 8 of a square, the 4
            of another rectangle; for pictures without an up and down, such as those of microscopes and from the air).
    """

    zoom_out: float = 1.0
    scale: tuple[float, float] | None = None
    iou_crop: bool = False
    colour: bool = False
    flips: str = "none"

    @property
    def cut_off(self) -> CutOff | None:
        """What becomes of objects whose centre is not shown; see ``windows.show``."""
        if self.scale is not None:
            return "ignore"
        return "drop" if self.iou_crop else None


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": Augmentation(),
    "flip": Augmentation(flips="horizontal"),
    "ssdlite": Augmentation(iou_crop=True, flips="horizontal"),
    "ssd": Augmentation(zoom_out=4.0, iou_crop=True, colour=True, flips="horizontal"),
    "lsj": Augmentation(scale=(0.5, 2.0), flips="horizontal"),
    "topdown": Augmentation(zoom_out=1.5, iou_crop=True, colour=True, flips="all"),
    "lsj-topdown": Augmentation(scale=(0.5, 2.0), colour=True, flips="all"),
}


class DetectionTransform:
    """Takes a sample to (height, width) = ``image_size``; augmented as ``augmentation`` names it.

    Every random choice comes from the generator that the call is given. A sample that has a view already, a mosaic,
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
        if sample.view is None:
            sample = show(sample, self._choose_view(sample, generator), self.augmentation.cut_off)
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

    def _choose_view(self, sample: Sample, generator: np.random.Generator) -> View:
        height, width = sample.size
        whole = (0.0, 0.0, float(width), float(height))
        window, recipe = whole, self.augmentation
        if recipe.scale is not None:
            fitted = fit_view((height, width), self.image_size, self.resize)
            factor = generator.uniform(*recipe.scale)
            window = scaled_window((height, width), fitted.span, factor, generator)
        else:
            window = zoom_out(whole, recipe.zoom_out, generator)
        if recipe.iou_crop:
            window = iou_crop(window, sample.boxes[~sample.ignore], generator)
        if window == whole:
            return fit_view((height, width), self.image_size, self.resize)
        return fit_window(window, self.image_size, self.resize)


def _pixel_transforms(augmentation: Augmentation, is_square: bool) -> Any:
    """The albumentations pipeline at the network's size, or None where there is nothing to do."""
    flips: dict[str, Callable[[], list[Any]]] = {
        "none": list,
        "horizontal": lambda: [A.HorizontalFlip(p=0.5)],
        "all": lambda: [A.D4(p=1.0)] if is_square else [A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)],
    }
    transforms = flips[augmentation.flips]()
    if augmentation.colour:  # the ranges of torchvision's RandomPhotometricDistort
        transforms.append(
            A.ColorJitter(
                brightness=(0.875, 1.125), contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=(-0.05, 0.05), p=0.5
            )
        )
    if not transforms:
        return None
    boxes = A.BboxParams(format="pascal_voc", label_fields=["numbers"], clip=True, filter_invalid_bboxes=True)
    return A.Compose(transforms, bbox_params=boxes)
