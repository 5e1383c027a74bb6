"""From the network's outputs to detections: ours beside torchvision's ``postprocess_detections``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks.harness import Comparison, Contestant, Settings
from benchmarks.torchvision_peer import SIDE, copy_of, kinds_of_scores, random_picture, same_detections
from ssdlite.heads.base import Outputs
from ssdlite.heads.postprocess import postprocess

ROUNDS = 40
BATCHES = (1, 16)
TARGETS = {"realistic scores": 3.5, "untrained scores": 2.0}


@torch.no_grad()
def comparisons(settings: Settings) -> Iterator[Comparison]:
    for kind, model in kinds_of_scores().items():
        for batch in BATCHES:
            pictures = torch.cat([random_picture(seed) for seed in range(1, batch + 1)])
            detector = copy_of(model)
            outputs = detector(pictures)
            theirs = torchvision_postprocess(model, outputs)
            ours = f"ours, batch {batch}"
            yield Comparison(
                f"post-processing, {kind}, batch {batch}",
                [
                    Contestant("torchvision", theirs, batch),
                    Contestant(ours, lambda: postprocess(outputs, detector.anchors, detector.config), batch),  # noqa: B023
                ],
                reference="torchvision",
                targets={ours: TARGETS[kind]} if batch == 1 else {},
                threads=settings.threads,
                notes=[same_detections(theirs(), postprocess(outputs, detector.anchors, detector.config))],
            )


def torchvision_postprocess(model: nn.Module, outputs: Outputs) -> Callable[[], list[dict[str, Tensor]]]:
    """torchvision's post-processing of the same outputs."""
    batch = len(outputs.class_logits)
    heads = {"cls_logits": outputs.class_logits, "bbox_regression": outputs.box_deltas}
    images = type("Images", (), {"tensors": torch.zeros(batch, 3, SIDE, SIDE), "image_sizes": [(SIDE, SIDE)] * batch})
    features = [torch.zeros(batch, 1, side, side) for side in (20, 10, 5, 3, 2, 1)]
    anchors = model.anchor_generator(images, features)  # type: ignore[operator]

    def call() -> list[dict[str, Tensor]]:
        with torch.no_grad():
            return model.postprocess_detections(heads, anchors, images.image_sizes)  # type: ignore[operator,no-any-return]

    return call
