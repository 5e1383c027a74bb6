"""What a training loop of one's own can get wrong without a word: the range of pictures, the form of boxes, labels."""

from __future__ import annotations

import torch
from torch import Tensor

from ssdlite.errors import DataError
from ssdlite.heads.base import IGNORE_LABEL, PADDING_LABEL

CHECKED_STEPS = 20  # each costs a look at the values, for which a GPU is waited for


def check_images(images: Tensor) -> None:
    """Raises DataError for float images [B, 3, H, W] that are no RGB values in 0..255."""
    low, high = images.aminmax()
    least, most = float(low), float(high)
    if least >= 0 and 1 < most <= 255:
        return
    if least >= 0 and most <= 1 and bool((images == images.round()).all()):
        return  # as good as black
    hint = "; the detector normalizes them itself" if least < 0 else "; multiply by 255" if most <= 1 else ""
    raise DataError(
        f"images: expected RGB values in 0..255, uint8 or float, got {least:.3g} to {most:.3g}{hint} "
        "(detector.checked_steps = 0 leaves this check out)"
    )


def check_targets(boxes: Tensor, labels: Tensor, num_classes: int) -> None:
    """Raises DataError for boxes [B, M, 4] that are not corners in pixels, or labels [B, M] of no class."""
    _check_form(boxes, labels)
    fault = _label_fault(labels, num_classes) or _box_fault(boxes[labels != PADDING_LABEL])
    if fault is not None:
        raise DataError(f"{fault} (criterion.checked_steps = 0 leaves this check out)")


def _check_form(boxes: Tensor, labels: Tensor) -> None:
    found = [list(one.shape) if isinstance(one, Tensor) else type(one).__name__ for one in (boxes, labels)]
    if not (isinstance(boxes, Tensor) and isinstance(labels, Tensor)) or boxes.shape != (*labels.shape, 4):
        raise DataError(
            "targets: expected boxes [B, M, 4] and labels [B, M], pictures with fewer than M objects padded with the "
            f"label {PADDING_LABEL}; got {found[0]} and {found[1]}"
        )


def _label_fault(labels: Tensor, num_classes: int) -> str | None:
    if not labels.numel():
        return None
    least, most = (int(value) for value in labels.aminmax())
    expected = f"labels: expected 0 to {num_classes - 1} for {num_classes} classes"
    if most >= num_classes:
        from_one = most == num_classes and not bool((labels == 0).any())
        return f"{expected}, got {most}" + ("; torchvision's count from 1: subtract 1" if from_one else "")
    if least < IGNORE_LABEL:
        return f"{expected}, {PADDING_LABEL} for padding or {IGNORE_LABEL} for an ignored region, got {least}"
    return None


def _box_fault(boxes: Tensor) -> str | None:
    """boxes [N, 4] of objects and ignored regions."""
    if not len(boxes):
        return None
    expected = "boxes: expected corners x1, y1, x2, y2 in input pixels"
    bad = ~torch.isfinite(boxes).all(dim=1) | (boxes[:, 2:] < boxes[:, :2]).any(dim=1)
    if bool(bad.any()):
        values = ", ".join(f"{value:g}" for value in boxes[bad][0].tolist())
        return f"{expected}, got ({values}); are they x, y, width, height?"
    if float(boxes.abs().max()) <= 1 and bool((boxes[:, 2:] > boxes[:, :2]).any()):
        return f"{expected}, got none beyond 1: multiply fractions by the input's width and height"
    return None
