"""torchvision's SSDLite with random but settled weights, and the same network of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.ops import box_iou

from ssdlite.detector import Detector
from ssdlite.heads.losses import class_scores
from ssdlite.heads.postprocess import DetectionBatch
from ssdlite.weights.mapping import ImportOptions
from ssdlite.weights.torchvision import read_torchvision_ssd

SIDE = 320
SLOTS = 91
CANDIDATES = 900  # pairs of anchor and class above the threshold, as trained networks have
THRESHOLD = 0.001


def random_picture(seed: int = 1) -> Tensor:
    """uint8 [1, 3, 320, 320]."""
    return torch.randint(0, 256, (1, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def torchvision_model() -> nn.Module:
    """Random weights, with norms that have the statistics of what reaches them, as training would leave them."""
    torch.manual_seed(0)
    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=SLOTS)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momentum = norms[0].momentum
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train().head(list(model.backbone(torch.rand(4, 3, SIDE, SIDE) * 2 - 1).values()))
    for norm in norms:
        norm.momentum = momentum
    return model.eval()


def copy_of(model: nn.Module) -> Detector:
    """The same network of ours."""
    imported = read_torchvision_ssd(model.state_dict(), "torchvision's model", ImportOptions())
    return imported.checkpoint.build_detector().eval()


@torch.no_grad()
def raise_background(model: nn.Module) -> None:
    """Make scores like trained ones: shift the background's bias until about ``CANDIDATES`` pairs are candidates."""
    logits = copy_of(model)(random_picture()).class_logits
    low, high = 0.0, 30.0
    for _ in range(40):
        shift = (low + high) / 2
        moved = torch.cat([logits[..., :1] + shift, logits[..., 1:]], dim=-1)
        many = int((class_scores(moved, "softmax") > THRESHOLD).sum()) > CANDIDATES
        low, high = (shift, high) if many else (low, shift)
    for layer in model.head.classification_head.module_list:
        layer[-1].bias[::SLOTS] += low


def kinds_of_scores() -> dict[str, nn.Module]:
    """torchvision's model, untrained and as if trained."""
    untrained, trained = torchvision_model(), torchvision_model()
    raise_background(trained)
    return {"realistic scores": trained, "untrained scores": untrained}


def same_detections(theirs: Sequence[Mapping[str, Tensor]], ours: DetectionBatch) -> str:
    """How many of torchvision's detections ours has too: label, IoU above 0.99, score within 1e-3."""
    found = total = 0
    for number, one in enumerate(theirs):
        count = int(ours.counts[number])
        same = box_iou(ours.boxes[number, :count], one["boxes"]) > 0.99
        same &= ours.labels[number, :count, None] == one["labels"] - 1
        same &= (ours.scores[number, :count, None] - one["scores"]).abs() < 1e-3
        found += int(same.any(dim=0).sum())
        total += len(one["boxes"])
    return f"{found} of torchvision's {total} detections are ours too; we have {int(ours.counts.sum())}"
