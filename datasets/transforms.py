"""From a sample of any size to one of the network's size, with or without augmentation.

A geometric augmentation is a choice of ``View``: which rectangle of the source fills the input. Zooming out, cropping
and resizing are then one resampling, and boxes follow by one affine map. What is left, colour and mirroring, is
albumentations at the network's size. Nothing outside this file knows albumentations.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ssdlite.config import suggest
from ssdlite.datasets.dataset import Sample
from ssdlite.errors import ConfigError
from ssdlite.image import Resize, View, fit_view

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # importing it must not call home
import albumentations as A

Rectangle = tuple[float, float, float, float]  # x0, y0, x1, y1 in source pixels
Boxes = npt.NDArray[np.float32]

MIN_BOX_SIDE = 1.0  # input pixels; what is left of a cropped box below this is dropped
CROP_OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, None)  # least IoU of the crop with some box; None keeps all
CROP_TRIALS = 40
CROP_SIDES = (0.3, 1.0)
CROP_RATIOS = (0.5, 2.0)


@dataclass(frozen=True)
class Augmentation:
    """A named recipe.

    Attributes:
        zoom_out: largest factor of a canvas around the image, used for half of the images; 1 is never.
        iou_crop: whether to crop as SSD does (arXiv 1512.02325, section 2.2).
        colour: whether to distort brightness, contrast, saturation and hue.
        flips: mirror left-right (``horizontal``), or any symmetry of the input (``all``: the 8 of a square, the 4
            of another rectangle; for pictures without an up and down, such as those of microscopes and from the air).
    """

    zoom_out: float = 1.0
    iou_crop: bool = False
    colour: bool = False
    flips: str = "none"


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": Augmentation(),
    "flip": Augmentation(flips="horizontal"),
    "ssdlite": Augmentation(iou_crop=True, flips="horizontal"),
    "ssd": Augmentation(zoom_out=4.0, iou_crop=True, colour=True, flips="horizontal"),
    "topdown": Augmentation(zoom_out=1.5, iou_crop=True, colour=True, flips="all"),
}


class DetectionTransform:
    """Takes a sample to (height, width) = ``image_size``; augmented as ``augmentation`` names it.

    Every random choice comes from the generator that the call is given.
    """

    def __init__(self, image_size: tuple[int, int], resize: Resize, augmentation: str = "none") -> None:
        if augmentation not in AUGMENTATIONS:
            raise ConfigError(f"unknown augmentation {augmentation!r}{suggest(augmentation, AUGMENTATIONS)}")
        self.image_size = image_size
        self.resize = resize
        self.augmentation = AUGMENTATIONS[augmentation]
        self.pixels = _pixel_transforms(self.augmentation, is_square=image_size[0] == image_size[1])

    def __call__(self, sample: Sample, generator: np.random.Generator) -> Sample:
        view = self._choose_view(sample, generator)
        sample = _apply_view(sample, view, is_crop=self.augmentation.iou_crop)
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
        height, width = sample.image.shape[:2]
        whole = (0.0, 0.0, float(width), float(height))
        canvas = _zoom_out(whole, self.augmentation.zoom_out, generator)
        objects = sample.boxes[~sample.ignore]
        window = _iou_crop(canvas, objects, generator) if self.augmentation.iou_crop else canvas
        if window == whole:
            return fit_view((height, width), self.image_size, self.resize)
        return _fit_window(window, self.image_size, self.resize)


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


def _apply_view(sample: Sample, view: View, is_crop: bool) -> Sample:
    """Render the view; boxes follow, clipped. A crop drops the objects whose centre it leaves out (as SSD does)."""
    height, width = view.size
    boxes = view.boxes_to_input(sample.boxes)
    limits = np.array([width, height, width, height], np.float32)
    clipped = boxes.clip(0, limits)
    sides = clipped[:, 2:] - clipped[:, :2]
    keep = (sides > 0).all(axis=1)
    if is_crop:
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = ((centres >= 0) & (centres <= limits[:2])).all(axis=1)
        keep &= (inside & (sides >= MIN_BOX_SIDE).all(axis=1)) | (sample.ignore & keep)
    return replace(
        sample,
        image=view.render(sample.image),
        boxes=clipped[keep].astype(np.float32),
        labels=sample.labels[keep],
        ignore=sample.ignore[keep],
        view=view,
    )


def _zoom_out(image: Rectangle, largest: float, generator: np.random.Generator) -> Rectangle:
    """Half the time the image, else a canvas of up to ``largest`` times its sides with the image somewhere on it."""
    if largest <= 1 or generator.random() < 0.5:
        return image
    _, _, width, height = image
    factor = generator.uniform(1, largest)
    left, top = generator.uniform(0, width * (factor - 1)), generator.uniform(0, height * (factor - 1))
    return -left, -top, width * factor - left, height * factor - top


def _iou_crop(canvas: Rectangle, boxes: Boxes, generator: np.random.Generator) -> Rectangle:
    """A random window of the canvas that overlaps some box by a randomly chosen least IoU (SSD's sampling)."""
    if not len(boxes):
        return canvas
    x0, y0, x1, y1 = canvas
    while True:
        least = CROP_OVERLAPS[int(generator.integers(len(CROP_OVERLAPS)))]
        if least is None:
            return canvas
        for _ in range(CROP_TRIALS):
            width, height = generator.uniform(*CROP_SIDES, size=2) * (x1 - x0, y1 - y0)
            if not CROP_RATIOS[0] <= width / height <= CROP_RATIOS[1]:
                continue
            left, top = generator.uniform(x0, x1 - width), generator.uniform(y0, y1 - height)
            window = (left, top, left + width, top + height)
            if _keeps_an_object(window, boxes, least):
                return window


def _keeps_an_object(window: Rectangle, boxes: Boxes, least_iou: float) -> bool:
    area = np.array(window, np.float32)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((centres > area[:2]) & (centres < area[2:])).all(axis=1)
    if not inside.any():
        return False
    kept = boxes[inside]
    shared = (np.minimum(kept[:, 2:], area[2:]) - np.maximum(kept[:, :2], area[:2])).clip(0).prod(axis=1)
    union = (kept[:, 2:] - kept[:, :2]).prod(axis=1) + (area[2:] - area[:2]).prod() - shared
    return bool((shared / union).max() >= least_iou)


def _fit_window(window: Rectangle, input_size: tuple[int, int], resize: Resize) -> View:
    """The view of a window on whole pixels; for ``letterbox`` widened to the input's shape."""
    x0, y0 = round(window[0]), round(window[1])
    x1, y1 = max(round(window[2]), x0 + 1), max(round(window[3]), y0 + 1)
    fitted = fit_view((y1 - y0, x1 - x0), input_size, resize)
    return View(fitted.x0 + x0, fitted.y0 + y0, fitted.x1 + x0, fitted.y1 + y0, input_size)
