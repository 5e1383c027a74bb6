"""A label for a whole picture, by a backbone with the classifier that it was trained with."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

from ssdlite.backbones.registry import build_backbone
from ssdlite.images.geometry import ImageArray
from ssdlite.images.reading import read_image
from ssdlite.validation import require
from ssdlite.weights.backbones import IMAGENET, load_backbone_weights, read_backbone_weights

RESIZED_SIDE, INPUT_SIDE = 256, 224  # px: the shorter side, and the square from its middle (torchvision's references)


class Label(NamedTuple):
    name: str
    probability: float


class ImageClassifier:
    """A backbone with ImageNet weights, for its thousand classes.

    Raises:
        ConfigError, CheckpointError: see ``load_backbone_weights``; a file without a classifier for ImageNet.
    """

    def __init__(self, backbone: str = "efficientnet_lite0", weights: str | Path = IMAGENET) -> None:
        from torchvision.models import MobileNet_V2_Weights

        self.names: tuple[str, ...] = tuple(MobileNet_V2_Weights.IMAGENET1K_V2.meta["categories"])
        source = read_backbone_weights(weights, name=backbone)
        options = {name: source.options[name] for name in ("padding", "norm_eps", "activation")}
        self.mean, self.std = (np.array(source.options[name], np.float32) for name in ("mean", "std"))
        self.network = build_backbone(backbone, num_classes=len(self.names), **options).eval()
        report = load_backbone_weights(self.network, source, name=backbone)
        missing = [name for name in report.random if name.startswith("classifier.")]
        require(not missing, f"{source.path}: expected a classifier of {len(self.names)} classes, which it has not")

    def classify(self, picture: ImageArray | Path | str, top: int = 5) -> list[Label]:
        """The ``top`` likeliest labels of a picture, uint8 RGB [H, W, 3] or a file, best first."""
        image = picture if isinstance(picture, np.ndarray) else read_image(picture)
        pixels = (_middle(image).astype(np.float32) - self.mean) / self.std
        with torch.inference_mode():
            logits = self.network(torch.from_numpy(pixels).permute(2, 0, 1)[None])
        probabilities, labels = logits[0].softmax(0).topk(min(top, len(self.names)))
        return [
            Label(self.names[label], probability)
            for label, probability in zip(labels.tolist(), probabilities.tolist(), strict=True)
        ]


def _middle(image: ImageArray) -> ImageArray:
    height, width = image.shape[:2]
    scale = RESIZED_SIDE / min(height, width)
    size = [max(INPUT_SIDE, round(side * scale)) for side in (width, height)]
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    resized = cv2.resize(image, size, interpolation=method)
    left, top = ((side - INPUT_SIDE) // 2 for side in size)
    return np.ascontiguousarray(resized[top : top + INPUT_SIDE, left : left + INPUT_SIDE])
