"""The detector: normalise, backbone, extra layers, head; and around it what an app calls."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ssdlite.anchors import generate_anchors
from ssdlite.backbones import Backbone, build_backbone
from ssdlite.backbones.layers import LayerOptions
from ssdlite.config import DetectorConfig
from ssdlite.detections import Detections
from ssdlite.errors import ConfigError
from ssdlite.heads import ExtraLayers, SSDLiteHead, initialise_normal
from ssdlite.heads.base import Outputs
from ssdlite.heads.postprocess import DetectionBatch, postprocess
from ssdlite.images.geometry import CropWindow, ImageArray, InputTransform
from ssdlite.images.prediction import NumpyDetections, Picture, Size, predict_pictures, to_pictures
from ssdlite.predictor import fused

FOREGROUND_PRIOR = 0.01  # initial score of a sigmoid head (arXiv 1708.02002, section 4.1)
FOREGROUND_LOGIT = math.log(FOREGROUND_PRIOR / (1 - FOREGROUND_PRIOR))


class Detector(nn.Module):
    """A single-shot detector. ``forward`` is the same in training, evaluation and export: one tensor in, two out.

    Attributes:
        config: what it is; goes into every checkpoint.
        anchors: [A, 4] xyxy in input pixels.
    """

    anchors: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self, *, config: DetectorConfig, backbone: Backbone, extra_layers: ExtraLayers, head: SSDLiteHead
    ) -> None:
        super().__init__()
        self.config = config
        self.compile_options: dict[str, Any] | None = None
        self.backbone = backbone
        self.extra_layers = extra_layers
        self.head = head
        anchors = generate_anchors(config.anchors, config.image_size, config.grid_sizes)
        self.register_buffer("anchors", torch.from_numpy(anchors), persistent=False)
        self.register_buffer("mean", torch.tensor(config.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(3, 1, 1), persistent=False)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.config.class_names

    def forward(self, images: Tensor) -> Outputs:
        """images [B, 3, H, W] RGB in 0..255, uint8 or float, of the configured size -> Outputs."""
        return self.forward_normalised(self.normalise(images))

    def normalise(self, images: Tensor) -> Tensor:
        """Values in 0..255 -> what the backbone takes."""
        return (images.to(self.mean.dtype) - self.mean) / self.std

    def forward_normalised(self, images: Tensor) -> Outputs:
        maps = self.backbone.forward_features(images)
        maps += self.extra_layers(maps[-1])
        return Outputs(*self.head(maps))

    @torch.no_grad()
    def detect(self, images: Tensor) -> DetectionBatch:
        """images [B, 3, H, W] RGB in 0..255 of the configured size -> detections in input pixels."""
        if images.dim() != 4 or images.shape[1] != 3 or tuple(images.shape[2:]) != self.config.image_size:
            height, width = self.config.image_size
            raise ConfigError(f"expected images [B, 3, {height}, {width}], got {list(images.shape)}")
        return postprocess(self(images), self.anchors, self.config)

    @torch.no_grad()
    def predict(
        self, images: Picture | Iterable[Picture], *, score_threshold: float = 0.3, batch_size: int = 16
    ) -> list[Detections]:
        """Detect in pictures of any size: paths, PIL images, RGB arrays [H, W, 3] or tensors [3, H, W] in 0..255.

        Returns one ``Detections`` per picture, boxes in that picture's own (upright) pixels, best first, only those
        with at least ``score_threshold``. A single picture gives a list of one. The model is put into evaluation mode.
        A copy of the network is kept that is quicker, and made anew when a weight has changed.

        Raises:
            DataError: a file is missing or not a picture.
            TypeError, ValueError: something else than a picture, or an array of another shape or type.
        """
        if self.training:
            self.eval()
        return predict_pictures(self, images, score_threshold, batch_size)

    def compile(self, **options: Any) -> None:
        """Have ``torch.compile`` make the network quicker, that of ``predict`` included; ``options`` are its own.

        The first prediction with each of the first batch sizes then takes half a minute or more, and needs a C++
        compiler.
        """
        super().compile(**options)
        self.compile_options = options

    @property
    def input_transform(self) -> InputTransform:
        """How a picture becomes the input."""
        return InputTransform(self.config.image_size, self.config.resize)

    def detect_batch(
        self, images: npt.NDArray[np.uint8], windows: Sequence[CropWindow], sizes: Sequence[Size]
    ) -> list[Detections]:
        """images [B, 3, H, W] RGB, rendered through ``views`` from pictures of ``sizes`` -> one result for each.

        In evaluation mode, whatever the model's own is.
        """
        return to_pictures(self.select_batch(self.infer_batch(images)), windows, sizes, self.class_names)

    @torch.no_grad()
    def infer_batch(self, images: npt.NDArray[np.uint8]) -> Outputs:
        """images [B, 3, H, W] RGB of the configured size -> the network's outputs, in evaluation mode."""
        return fused(self)(torch.from_numpy(images).to(self.mean.device))

    def select_batch(self, outputs: Outputs) -> list[NumpyDetections]:
        """What was found in each image, in input pixels."""
        return list(split_batch(postprocess(outputs, self.anchors, self.config)))


def stack_images(images: Sequence[ImageArray]) -> Tensor:
    """Arrays [H, W, 3] -> uint8 [B, 3, H, W], stored channels-last, as the convolutions like it."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def split_batch(batch: DetectionBatch) -> Iterator[NumpyDetections]:
    """Padded tensors -> per image, what was found."""
    boxes, scores, labels, counts = (tensor.cpu().numpy() for tensor in batch)
    for i, count in enumerate(counts.tolist()):
        yield NumpyDetections(boxes[i, :count], scores[i, :count], labels[i, :count])


def detector_from_config(config: DetectorConfig) -> Detector:
    """The randomly initialised detector that ``config`` describes."""
    options = LayerOptions(config.padding, config.norm_eps, config.norm_momentum, config.activation)
    backbone = build_backbone(
        config.backbone,
        config.width_mult,
        num_classes=None,
        padding=config.padding,
        norm_eps=config.norm_eps,
        norm_momentum=config.norm_momentum,
        activation=config.activation,
        narrowing=config.narrowing,
        finest_stride=config.finest_stride,
    )
    extra_channels, extra_hidden = (
        [max(int(channels * config.width_mult), 16) for channels in widths]
        for widths in (config.extra_channels, config.extra_hidden)
    )
    extra_layers = ExtraLayers(
        backbone.feature_channels[-1],
        extra_channels,
        conv=config.extra_conv,
        hidden=extra_hidden,
        output=config.extra_output,
        options=options,
    )
    head = SSDLiteHead(
        [*backbone.feature_channels, *extra_channels],
        config.anchors.shapes_per_cell,
        config.num_classes + 1,
        conv=config.head_conv,
        last_conv=config.last_head_conv,
        options=options,
    )
    initialise_normal(extra_layers)
    initialise_normal(head)
    if config.score_function == "sigmoid":
        head.classification.set_bias(torch.full((config.num_classes + 1,), FOREGROUND_LOGIT))
    return Detector(config=config, backbone=backbone, extra_layers=extra_layers, head=head)
