"""Box arithmetic on tensors: overlap, and the code between boxes and the network's deltas."""

from __future__ import annotations

import math

import torch
from torch import Tensor

MAX_LOG_SCALE = math.log(1000 / 16)  # a 16 px anchor to a 1000 px box; keeps exp() finite, as in torchvision


def box_area(boxes: Tensor) -> Tensor:
    """[..., 4] xyxy -> [...]."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def box_intersection(boxes: Tensor, others: Tensor) -> Tensor:
    """Shared area of every pair: [..., N, 4] and [..., M, 4] xyxy -> [..., N, M]."""
    low = torch.maximum(boxes[..., :, None, :2], others[..., None, :, :2])
    high = torch.minimum(boxes[..., :, None, 2:], others[..., None, :, 2:])
    sides = (high - low).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def box_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of every pair: [..., N, 4] and [..., M, 4] xyxy -> [..., N, M]; 0 for empty boxes."""
    shared = box_intersection(boxes, others)
    union = box_area(boxes)[..., :, None] + box_area(others)[..., None, :] - shared
    return shared / union.clamp(min=torch.finfo(shared.dtype).tiny)


def paired_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of boxes and others of one shape [..., 4] xyxy -> [...]; 0 for empty boxes."""
    shared, union = paired_intersection_and_union(boxes, others)
    return shared / union.clamp(min=torch.finfo(shared.dtype).tiny)


def paired_intersection_and_union(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Areas for boxes and others of one shape [..., 4] xyxy -> [...] each."""
    low, high = torch.maximum(boxes[..., :2], others[..., :2]), torch.minimum(boxes[..., 2:], others[..., 2:])
    shared = (high - low).clamp(min=0).prod(dim=-1)
    return shared, box_area(boxes) + box_area(others) - shared


def encode_boxes(boxes: Tensor, anchors: Tensor, scales: Tensor) -> Tensor:
    """Boxes and anchors [..., 4] xyxy -> deltas (x, y, width, height) * ``scales`` [4] (arXiv 1506.01497, eq. 2)."""
    centre, size = _centre_and_size(boxes)
    anchor_centre, anchor_size = _centre_and_size(anchors)
    shift = (centre - anchor_centre) / anchor_size
    return torch.cat([shift, torch.log(size / anchor_size)], dim=-1) * scales


def decode_boxes(deltas: Tensor, anchors: Tensor, scales: Tensor) -> Tensor:
    """The inverse of ``encode_boxes``: deltas [..., 4] -> boxes [..., 4] xyxy."""
    anchor_centre, anchor_size = _centre_and_size(anchors)
    code = deltas / scales
    centre = anchor_centre + code[..., :2] * anchor_size
    half = 0.5 * anchor_size * torch.exp(code[..., 2:].clamp(max=MAX_LOG_SCALE))
    return torch.cat([centre - half, centre + half], dim=-1)


def clip_boxes(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """[..., 4] xyxy, limited to an image of (height, width)."""
    height, width = image_size
    limits = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), limits)


def _centre_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    low, high = boxes[..., :2], boxes[..., 2:]
    return (low + high) / 2, high - low
