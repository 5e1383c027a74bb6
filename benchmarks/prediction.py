"""One picture in, detections out: ``Detector.predict`` beside torchvision's model in eager mode, with its weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial

import torch

from benchmarks.harness import Comparison, Contestant, Settings
from benchmarks.torchvision_peer import copy_of, kinds_of_scores, random_picture, same_detections
from ssdlite.heads.postprocess import postprocess

ROUNDS = 30
TARGETS = {"realistic scores": 1.8, "untrained scores": 2.2}


def comparisons(settings: Settings) -> Iterator[Comparison]:
    picture = random_picture()
    pixels = picture[0].permute(1, 2, 0).contiguous().numpy()
    for kind, model in kinds_of_scores().items():
        detector = copy_of(model)
        torchvision = _torchvision(model, picture[0])
        contestants = [
            Contestant("torchvision", torchvision),
            Contestant("Detector.predict", partial(detector.predict, pixels, score_threshold=0.0)),
            Contestant("its network", partial(detector.infer_batch, picture.numpy())),
        ]
        if shutil.which("c++"):
            compiled = copy_of(model)
            compiled.compile()
            predict = partial(compiled.predict, pixels, score_threshold=0.0)
            contestants.append(Contestant("Detector.predict, compiled", predict))
        ours = postprocess(detector.infer_batch(picture.numpy()), detector.anchors, detector.config)
        yield Comparison(
            f"prediction of one picture of 320 x 320, {kind}",
            contestants,
            reference="torchvision",
            targets={"Detector.predict": TARGETS[kind]},
            threads=settings.threads,
            notes=[same_detections(torchvision(), ours)],
        )


def _torchvision(model: torch.nn.Module, picture: torch.Tensor) -> Callable[[], list[dict[str, torch.Tensor]]]:
    values = picture.float() / 255

    def call() -> list[dict[str, torch.Tensor]]:
        with torch.inference_mode():
            return model([values])  # type: ignore[no-any-return]

    return call
