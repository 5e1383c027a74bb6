"""Matching, loss and their backward: ours beside torchvision's, on the same outputs, with the same losses."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torchvision.ops import box_iou

from benchmarks.harness import Comparison, Contestant, Settings
from benchmarks.torchvision_peer import SLOTS, copy_of, torchvision_model
from ssdlite.heads.base import Outputs
from ssdlite.heads.losses import MultiBoxLoss

ROUNDS = 30
BATCH, OBJECTS = 16, 20


class LikeTorchvision(MultiBoxLoss):
    """Pictures without objects teach nothing there."""

    negatives_per_empty_image = 0


def comparisons(settings: Settings) -> Iterator[Comparison]:
    model = torchvision_model()
    detector = copy_of(model)
    anchors = detector.anchors
    logits = torch.randn(BATCH, len(anchors), SLOTS)
    deltas = torch.randn(BATCH, len(anchors), 4) * 0.1
    corners = torch.rand(BATCH, OBJECTS, 2) * 220
    boxes = torch.cat([corners, corners + 20 + torch.rand(BATCH, OBJECTS, 2) * 80], dim=2)
    labels = torch.randint(0, SLOTS - 1, (BATCH, OBJECTS))
    criterion = LikeTorchvision(anchors, torch.tensor(detector.config.box_code_scales))
    targets = [{"boxes": own, "labels": names + 1} for own, names in zip(boxes, labels, strict=True)]

    def ours() -> Tensor:
        outputs = Outputs(logits.clone().requires_grad_(), deltas.clone().requires_grad_())
        total = criterion(outputs, boxes, labels).total
        total.backward()
        return total.detach()

    def torchvision() -> Tensor:
        heads = {"cls_logits": logits.clone().requires_grad_(), "bbox_regression": deltas.clone().requires_grad_()}
        matches = [model.proposal_matcher(box_iou(own["boxes"], anchors)) for own in targets]  # type: ignore[operator]
        losses = model.compute_loss(targets, heads, [anchors] * BATCH, matches)  # type: ignore[operator]
        total: Tensor = losses["classification"] + losses["bbox_regression"]
        total.backward()  # type: ignore[no-untyped-call]
        return total.detach()

    yield Comparison(
        f"matching, loss and backward, {BATCH} images, {OBJECTS} objects each, {SLOTS} slots",
        [Contestant("torchvision", torchvision, BATCH), Contestant("ours", ours, BATCH)],
        reference="torchvision",
        targets={"ours": 1.0},
        threads=settings.threads,
        notes=[f"losses: {float(torchvision()):.5f} and {float(ours()):.5f}"],
    )
