"""Which part of a picture the network is shown: the random choices of a rectangle, and what becomes of the boxes.

Zooming out, scaling and cropping are choices of one rectangle of source pixels, which may reach outside the picture; it
is resampled once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from ssdlite.datasets.dataset import Sample
from ssdlite.image import Resize, View, fit_view
from ssdlite.overlaps import pairwise_iou

Rectangle = tuple[float, float, float, float]  # x0, y0, x1, y1 in source pixels
Boxes = npt.NDArray[np.float32]
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


def scaled_window(
    image_size: tuple[int, int], window: tuple[float, float], factor: float, generator: np.random.Generator
) -> Rectangle:
    """A rectangle of 1 / ``factor`` times the sides of ``window`` (height, width; source pixels), at random.

    Along an axis on which it is shorter than the picture it lies inside the picture, else the picture inside it.
    """
    spans = []
    for side, wanted in zip(reversed(image_size), reversed(window), strict=True):
        shown = wanted / factor
        start = generator.uniform(min(0.0, side - shown), max(0.0, side - shown))
        spans.append((start, start + shown))
    (x0, x1), (y0, y1) = spans
    return x0, y0, x1, y1


def iou_crop(canvas: Rectangle, boxes: Boxes, generator: np.random.Generator) -> Rectangle:
    """A random window of the canvas that overlaps some box by a randomly chosen least IoU (SSD's sampling)."""
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


def _best_overlaps(windows: npt.NDArray[np.float64], boxes: Boxes) -> npt.NDArray[np.float64]:
    """windows [T, 4], boxes [N, 4] -> [T]: the best IoU with a box whose centre is in the window, -1 if none is."""
    boxes = boxes.astype(np.float64)
    corners, centres = windows[:, None], (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((centres > corners[..., :2]) & (centres < corners[..., 2:])).all(axis=2)
    best: npt.NDArray[np.float64] = np.where(inside, pairwise_iou(windows, boxes), -1.0).max(axis=1)
    return best


def window_view(window: Rectangle, size: tuple[int, int]) -> View:
    """The view of a window, on whole source pixels, that fills ``size`` (height, width)."""
    x0, y0 = round(window[0]), round(window[1])
    return View(x0, y0, max(round(window[2]), x0 + 1), max(round(window[3]), y0 + 1), size)


def fit_window(window: Rectangle, input_size: tuple[int, int], resize: Resize) -> View:
    """The view of a window on whole pixels; for ``letterbox`` widened to the input's shape."""
    whole = window_view(window, input_size)
    fitted = fit_view((whole.y1 - whole.y0, whole.x1 - whole.x0), input_size, resize)
    return View(fitted.x0 + whole.x0, fitted.y0 + whole.y0, fitted.x1 + whole.x0, fitted.y1 + whole.y0, input_size)


def show(sample: Sample, view: View, cut_off: CutOff | None = None) -> Sample:
    """Render the view; boxes follow, clipped.

    ``cut_off`` says what becomes of an object whose centre is left out (all stay objects if None): ``drop`` makes
    its visible part background, as SSD's crop does; ``ignore`` makes it an ignored region, neither object nor
    background. Parts below MIN_BOX_SIDE are dropped.
    """
    height, width = view.size
    sample = sample.shown(view)
    boxes = sample.boxes
    limits = np.array([width, height, width, height], np.float32)
    clipped = boxes.clip(0, limits)
    sides = clipped[:, 2:] - clipped[:, :2]
    keep, ignore = (sides > 0).all(axis=1), sample.ignore
    if cut_off is not None:
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = ((centres >= 0) & (centres <= limits[:2])).all(axis=1)
        if cut_off == "ignore":
            ignore = ignore | ~inside
        keep &= (inside & (sides >= MIN_BOX_SIDE).all(axis=1)) | ignore
    return replace(
        sample,
        boxes=clipped[keep].astype(np.float32),
        labels=sample.labels[keep],
        ignore=ignore[keep],
    )
