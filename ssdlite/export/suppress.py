"""Non-maximum suppression as one operator with a fixed output shape, so that ``torch.export`` can trace it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset18
from torch import Tensor
from torchvision.ops import nms

NO_LIMIT = 1 << 30
op: Any = opset18  # typed for values, used here for the symbols of a trace


@torch.library.custom_op("ssdlite::suppress", mutates_args=())
def suppress(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Non-maximum suppression within each image and class.

    boxes [B, P, 4] xyxy and scores [B, K, P], each candidate with a score above 0 in its own class's row alone
    -> [B, P] bool, the survivors.
    """
    keep = torch.zeros(boxes.shape[:2], dtype=torch.bool, device=boxes.device)
    for image, classes in enumerate(scores):
        for row in classes:
            candidates = row.nonzero().squeeze(1)
            keep[image, candidates[nms(boxes[image, candidates], row[candidates], iou_threshold)]] = True
    return keep


@suppress.register_fake
def _(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    return boxes.new_empty(boxes.shape[:2], dtype=torch.bool)


def suppress_in_onnx(boxes: Any, scores: Any, iou_threshold: float) -> Any:
    """The same in ONNX's operators; NonMaxSuppression answers (image, class, candidate) for every survivor."""
    limit = op.Constant(value_ints=[NO_LIMIT])
    selected = op.NonMaxSuppression(
        boxes, scores, limit, op.Constant(value_floats=[iou_threshold]), op.Constant(value_floats=[0.0])
    )
    places = op.Gather(selected, op.Constant(value_ints=[0, 2]), axis=1)
    first, second = op.Constant(value_ints=[0]), op.Constant(value_ints=[2])
    nothing = op.ConstantOfShape(op.Slice(op.Shape(boxes), first, second, first))
    zeros = op.ConstantOfShape(op.Slice(op.Shape(places), first, op.Constant(value_ints=[1]), first))
    return op.Cast(op.ScatterND(nothing, places, zeros + op.Constant(value_float=1.0)), to=9)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {torch.ops.ssdlite.suppress.default: suppress_in_onnx}
