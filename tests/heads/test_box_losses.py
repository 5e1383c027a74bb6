"""Losses on overlaps against torchvision's, values and gradients; and no loss makes a GPU wait for the host."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

from ssdlite import build_detector, build_loss
from ssdlite.heads.base import Outputs
from ssdlite.heads.losses import BOX_LOSSES, LOSSES, ciou_loss, diou_loss, giou_loss


def random_boxes(seed: int) -> torch.Tensor:
    """[4, 250, 4]: near and far, large and small."""
    random = torch.Generator().manual_seed(seed)
    low = torch.rand(4, 250, 2, generator=random) * 60
    return torch.cat([low, low + 1 + torch.rand(4, 250, 2, generator=random) * 80], dim=-1)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (giou_loss, generalized_box_iou_loss),
        (diou_loss, distance_box_iou_loss),
        (ciou_loss, complete_box_iou_loss),
    ],
)
def test_values_and_gradients_are_torchvisions(ours: Callable[..., Any], theirs: Callable[..., Any]) -> None:
    wanted = random_boxes(1)
    gradients = []
    for loss in (ours, theirs):
        boxes = random_boxes(0).requires_grad_()
        losses = loss(boxes, wanted)
        losses.square().sum().backward()
        gradients.append((losses.detach(), boxes.grad))
    assert 0 < float(gradients[0][0].min()) < 1 < float(gradients[0][0].max())
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


class Waits(TorchDispatchMode):
    """Counts operations whose result, or its shape, a host has to wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        indices = args[1] if function._opname in ("index", "index_put", "index_put_") else ()
        if function._opname in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero") or any(
            one is not None and one.dtype == torch.bool for one in indices
        ):
            self.seen.append(function._opname)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("loss", "matcher", "box_loss"), list(itertools.product(LOSSES, ("ssd", "atss", "simota"), BOX_LOSSES))
)
def test_no_loss_makes_a_gpu_wait(loss: Any, matcher: Any, box_loss: Any) -> None:
    detector = build_detector(num_classes=3, image_size=128, score_function=LOSSES[loss].score_function)
    criterion = build_loss(detector, loss=loss, matcher=matcher, box_loss=box_loss)
    criterion.checked_steps = 0
    anchors = len(detector.anchors)
    outputs = Outputs(torch.randn(2, anchors, 4).requires_grad_(), torch.randn(2, anchors, 4).requires_grad_())
    boxes = torch.tensor([[10.0, 10, 60, 50], [40, 30, 100, 90]]).repeat(2, 1, 1)
    with Waits() as waits:
        criterion(outputs, boxes, torch.tensor([[0, 2], [1, -1]])).total.backward()
    assert waits.seen == []


def test_waiting_is_seen() -> None:
    with Waits() as waits:
        values = torch.arange(3)
        bool(values.sum() > 2), values[values > 1], values.nonzero()
    assert waits.seen == ["_local_scalar_dense", "index", "nonzero"]
