"""The objects of a data set as the network sees them, for everything that looks at sizes and not at pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ssdlite.anchor_fit import fit_anchors
from ssdlite.anchors import AnchorConfig
from ssdlite.config import DetectorConfig
from ssdlite.datasets.index import DetectionIndex
from ssdlite.image import Resize, fit_view


@dataclass(frozen=True)
class InputBoxes:
    """The objects of a split at the network's resolution; crowds and ``difficult`` ones left out.

    boxes [T, 4] xyxy px of the input, labels [T], images [T] positions in the index, rows [T] of its objects.
    """

    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    images: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]

    @property
    def sides(self) -> npt.NDArray[np.float32]:
        """(width, height) [T, 2] px."""
        return self.boxes[:, 2:] - self.boxes[:, :2]


def input_boxes(index: DetectionIndex, image_size: tuple[int, int], resize: Resize) -> InputBoxes:
    """The boxes of ``index`` as the network sees them without augmentation; image_size is (height, width)."""
    counts = np.diff(index.offsets)
    boxes = index.boxes.copy()
    for i, (height, width) in enumerate(index.sizes.tolist()):
        if counts[i]:
            part = slice(int(index.offsets[i]), int(index.offsets[i + 1]))
            boxes[part] = fit_view((height, width), image_size, resize).boxes_to_input(boxes[part])
    rows = np.flatnonzero(~index.ignore)
    images = np.repeat(np.arange(len(index)), counts)
    return InputBoxes(boxes[rows], index.labels[rows], images[rows], rows)


def fit_to_boxes(boxes: InputBoxes, config: DetectorConfig, budget: int | None = None) -> AnchorConfig:
    """Anchors for these boxes on the maps of ``config``; ``budget`` anchors at most, by default as many as it has.

    Raises:
        ConfigError: see ``fit_anchors``.
    """
    return fit_anchors(
        boxes.sides,
        boxes.labels,
        image_size=config.image_size,
        strides=config.strides,
        budget=config.num_anchors if budget is None else budget,
    )
