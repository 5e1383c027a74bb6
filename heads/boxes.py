"""Box arithmetic on tensors: overlap, and the code between boxes and the network's deltas."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

G = TypeVar("G", bound="GeometryModule")

EXACT_BYTES = 4  # of a float that holds pixels and scales
MAX_LOG_SCALE = math.log(1000 / 16)  # a 16 px anchor to a 1000 px box; keeps exp() finite, as in torchvision


def box_area(boxes: Tensor) -> Tensor:
    """[..., 4] xyxy -> [...]."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def box_intersection(boxes: Tensor, others: Tensor) -> Tensor:
    """Shared area of boxes and others [..., 4] xyxy, whose shapes broadcast -> [...]."""
    low, high = torch.maximum(boxes[..., :2], others[..., :2]), torch.minimum(boxes[..., 2:], others[..., 2:])
    sides = (high - low).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def intersection_and_union(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Areas of boxes and others [..., 4] xyxy, whose shapes broadcast -> [...] each."""
    shared = box_intersection(boxes, others)
    return shared, box_area(boxes) + box_area(others) - shared


def paired_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of boxes and others [..., 4] xyxy, whose shapes broadcast -> [...]; 0 for empty boxes."""
    shared, union = intersection_and_union(boxes, others)
    return shared / union.clamp(min=torch.finfo(shared.dtype).tiny)


def box_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """``paired_iou`` of every pair: [..., N, 4] and [..., M, 4] xyxy -> [..., N, M]."""
    return paired_iou(boxes[..., :, None, :], others[..., None, :, :])


class GeometryModule(nn.Module):
    """A module whose own buffers are constants in pixels and the like: ``half()`` leaves them float32.

    Rounded to 11 bits or 8, anchors of 320 pixels would be off by 0.1 or 2.
    """

    def _apply(self: G, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> G:
        exact = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in exact.items():
            moved = self._buffers[name]
            if moved is not None and moved.is_floating_point() and moved.dtype.itemsize < EXACT_BYTES:
                self._buffers[name] = buffer.to(moved.device, torch.float32)
        return self


class BoxCode(GeometryModule):
    """Encodes boxes relative to anchors as the deltas that a head predicts, and decodes them. Has no weights."""

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """Boxes and anchors [..., 4] xyxy -> deltas [..., 4]; finite for the anchors themselves."""
        raise NotImplementedError(f"{type(self).__name__}.encode")

    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """The inverse: deltas and anchors [..., 4] -> boxes [..., 4] xyxy; finite for any deltas."""
        raise NotImplementedError(f"{type(self).__name__}.decode")


class CenterSizeCode(BoxCode):
    """Deltas (x, y, width, height) * ``scales``: the centre's shift in anchor sides, the log of the sides' ratio.

    arXiv 1506.01497, equation 2; the scales are SSD's variances, TensorFlow's FasterRcnnBoxCoder.
    """

    scales: Tensor

    def __init__(self, scales: Sequence[float] = (10.0, 10.0, 5.0, 5.0)) -> None:
        super().__init__()
        self.register_buffer("scales", torch.tensor(scales), persistent=False)

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        center, size = _center_and_size(boxes)
        anchor_center, anchor_size = _center_and_size(anchors)
        shift = (center - anchor_center) / anchor_size
        return torch.cat([shift, torch.log(size / anchor_size)], dim=-1) * self.scales

    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        anchor_center, anchor_size = _center_and_size(anchors)
        code = deltas / self.scales
        center = anchor_center + code[..., :2] * anchor_size
        half = 0.5 * anchor_size * torch.exp(code[..., 2:].clamp(max=MAX_LOG_SCALE))
        return torch.cat([center - half, center + half], dim=-1)


class DistanceCode(BoxCode):
    """Deltas (left, top, right, bottom): from the anchor's centre to the box's sides, in sides of the anchor.

    FCOS (arXiv 1904.01355, equation 1), whose unit is the pixel. Those of an anchor itself are 0.5.
    """

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        center, size = _center_and_size(anchors)
        return torch.cat([(center - boxes[..., :2]) / size, (boxes[..., 2:] - center) / size], dim=-1)

    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        center, size = _center_and_size(anchors)
        return torch.cat([center - deltas[..., :2] * size, center + deltas[..., 2:] * size], dim=-1)


def clip_boxes(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """[..., 4] xyxy, limited to an image of (height, width)."""
    height, width = image_size
    limits = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), limits)


def _center_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    low, high = boxes[..., :2], boxes[..., 2:]
    return (low + high) / 2, high - low
