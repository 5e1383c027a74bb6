"""Samples of one size -> one batch of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssdlite.datasets.dataset import BadSample, Sample
from ssdlite.image import View
from ssdlite.matcher import IGNORE_LABEL, PADDING_LABEL


@dataclass(frozen=True)
class Batch:
    """B images of one size and their objects, padded to M a picture.

    images uint8 [B, 3, H, W] (stored channels-last), boxes [B, M, 4] xyxy input pixels, labels [B, M] (-1 padding,
    -2 ignored region), ``positions`` in the index, ``views`` for the way back; ``bad`` could not be read.
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor
    positions: tuple[int, ...]
    views: tuple[View, ...]
    bad: tuple[BadSample, ...] = ()

    def __len__(self) -> int:
        return len(self.positions)


def collate(samples: Sequence[Sample | BadSample]) -> Batch:
    """Samples of one size -> a batch; unreadable ones are left out of the tensors and listed in ``bad``."""
    good = [sample for sample in samples if isinstance(sample, Sample)]
    bad = tuple(sample for sample in samples if isinstance(sample, BadSample))
    most = max((len(sample.boxes) for sample in good), default=0)
    boxes = np.zeros((len(good), most, 4), np.float32)
    labels = np.full((len(good), most), PADDING_LABEL, np.int64)
    for i, sample in enumerate(good):
        boxes[i, : len(sample.boxes)] = sample.boxes
        labels[i, : len(sample.boxes)] = np.where(sample.ignore, IGNORE_LABEL, sample.labels)
    images = np.stack([sample.image for sample in good]) if good else np.empty((0, 1, 1, 3), np.uint8)
    return Batch(
        images=torch.from_numpy(images).permute(0, 3, 1, 2),
        boxes=torch.from_numpy(boxes),
        labels=torch.from_numpy(labels),
        positions=tuple(sample.position for sample in good),
        views=tuple(sample.view for sample in good if sample.view is not None),
        bad=bad,
    )
