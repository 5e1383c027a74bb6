"""One picture in, detections out: ``Detector.predict`` beside torchvision's model in eager mode, with its weights."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.harness import Comparison, Contestant, Settings
from benchmarks.torchvision_peer import copy_of, kinds_of_scores, random_picture, same_detections

ROUNDS = 30
TARGETS = {"realistic scores": 1.8, "untrained scores": 2.2}


def comparisons(settings: Settings) -> Iterator[Comparison]:
    picture = random_picture()
    pixels = picture[0].permute(1, 2, 0).contiguous().numpy()
    values = picture[0].float() / 255
    for kind, model in kinds_of_scores().items():
        detector = copy_of(model)

        def torchvision(model: torch.nn.Module = model) -> list[dict[str, torch.Tensor]]:
            with torch.inference_mode():
                return model([values])  # type: ignore[no-any-return]

        yield Comparison(
            f"prediction of one picture of 320 x 320, {kind}",
            [
                Contestant("torchvision", torchvision),
                Contestant("Detector.predict", lambda: detector.predict(pixels, score_threshold=0.0)),  # noqa: B023
                Contestant("its network", lambda: detector.infer_batch(picture.numpy())),  # noqa: B023
            ],
            reference="torchvision",
            targets={"Detector.predict": TARGETS[kind]},
            threads=settings.threads,
            notes=[same_detections(torchvision(), detector.detect(picture))],
        )
