"""The detector: normalise, backbone, extra layers, head; and around it what an app calls."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from ssdlite.anchors import AnchorConfig, generate_anchors
from ssdlite.backbones import Backbone, build_backbone
from ssdlite.backbones.layers import LayerOptions
from ssdlite.config import DetectorConfig
from ssdlite.detections import Detections
from ssdlite.device import choose_device
from ssdlite.errors import ConfigError
from ssdlite.heads import ExtraLayers, SSDLiteHead, initialise_normal
from ssdlite.image import ImageArray, View, fit_view, read_image, to_rgb
from ssdlite.loss import Outputs
from ssdlite.postprocess import DetectionBatch, postprocess
from ssdlite.presets import PRESETS, preset_config

Picture = str | Path | Image.Image | npt.NDArray[np.uint8] | Tensor

FOREGROUND_PRIOR = 0.01  # initial score of a sigmoid head (arXiv 1708.02002, section 4.1)


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
        normalised = (images.to(self.mean.dtype) - self.mean) / self.std
        maps = self.backbone.forward_features(normalised)
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
        self, images: Picture | Sequence[Picture], *, score_threshold: float = 0.3, batch_size: int = 16
    ) -> list[Detections]:
        """Detect in pictures of any size: paths, PIL images, RGB arrays [H, W, 3] or tensors [3, H, W] in 0..255.

        Returns one ``Detections`` per picture, boxes in that picture's own (upright) pixels, best first, only those
        with at least ``score_threshold``. A single picture gives a list of one. The model is put into evaluation mode.

        Raises:
            DataError: a file is missing or not a picture.
            TypeError, ValueError: something else than a picture, or an array of another shape or type.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size: expected 1 or more, got {batch_size}")
        if not isinstance(images, Iterable) and not isinstance(images, (str, Path, Image.Image)):
            raise TypeError(f"expected a picture or a sequence of pictures, got {type(images).__name__}")
        self.eval()
        pictures = [images] if isinstance(images, (str, Path, Image.Image, np.ndarray, Tensor)) else list(images)
        results: list[Detections] = []
        for start in range(0, len(pictures), batch_size):
            arrays = [_to_array(picture, start + i) for i, picture in enumerate(pictures[start : start + batch_size])]
            views = [fit_view(array.shape[:2], self.config.image_size, self.config.resize) for array in arrays]
            inputs = stack_images([view.render(array) for view, array in zip(views, arrays, strict=True)])
            batch = self.detect(inputs.to(self.mean.device))
            sizes = [array.shape[:2] for array in arrays]
            results += [
                found.above(score_threshold)
                for found in unbatch_detections(batch, views, sizes, self.config.class_names)
            ]
        return results


def stack_images(images: Sequence[ImageArray]) -> Tensor:
    """Arrays [H, W, 3] -> uint8 [B, 3, H, W], stored channels-last, as the convolutions like it."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def unbatch_detections(
    batch: DetectionBatch, views: Sequence[View], sizes: Sequence[tuple[int, int]], class_names: tuple[str, ...]
) -> Iterator[Detections]:
    """Detections in input pixels -> per image, in the pixels of the source of size (height, width), clipped to it."""
    boxes, scores, labels, counts = (tensor.cpu().numpy() for tensor in batch)
    for i, (view, (height, width)) in enumerate(zip(views, sizes, strict=True)):
        count = int(counts[i])
        limits = np.array([width, height, width, height], np.float32)
        source = view.boxes_to_source(boxes[i, :count]).astype(np.float32).clip(0, limits)
        visible = (source[:, 2] > source[:, 0]) & (source[:, 3] > source[:, 1])
        yield Detections(
            source[visible],
            scores[i, :count][visible].astype(np.float32),
            labels[i, :count][visible].astype(np.int64),
            class_names,
        )


def list_detectors() -> list[str]:
    """The names of the presets."""
    return list(PRESETS)


def build_detector(
    preset: str = "ssdlite320_mobilenet_v2",
    *,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    width_mult: float | None = None,
    image_size: int | tuple[int, int] | None = None,
    anchors: AnchorConfig | None = None,
    resize: Literal["stretch", "letterbox"] | None = None,
    **options: Any,
) -> Detector:
    """A randomly initialised detector.

    Args:
        preset: one of ``list_detectors()``.
        num_classes: without background; the names are then ``class_0``, ... unless ``class_names`` gives them.
            With neither, COCO's 80.
        width_mult: channels, as a factor of the published network's.
        image_size: of the input, one side in pixels or (height, width); need not be a multiple of 32.
        anchors: shapes per map, in place of the preset's.
        resize: ``stretch`` pictures to the input, or keep their shape and pad (``letterbox``).
        options: any other field of ``DetectorConfig``.

    Raises:
        ConfigError: an unknown preset or option (the known ones are listed), or a value out of range.
    """
    return detector_from_config(
        preset_config(
            preset,
            num_classes=num_classes,
            class_names=class_names,
            width_mult=width_mult,
            image_size=image_size,
            anchors=anchors,
            resize=resize,
            **options,
        )
    )


def detector_from_config(config: DetectorConfig) -> Detector:
    """The randomly initialised detector that ``config`` describes."""
    options = LayerOptions(config.padding, config.norm_eps, config.norm_momentum)
    backbone = build_backbone(
        config.backbone,
        config.width_mult,
        num_classes=None,
        padding=config.padding,
        norm_eps=config.norm_eps,
        norm_momentum=config.norm_momentum,
    )
    extra_channels = [max(int(channels * config.width_mult), 16) for channels in config.extra_channels]
    extra_layers = ExtraLayers(backbone.feature_channels[-1], extra_channels, conv=config.extra_conv, options=options)
    head = SSDLiteHead(
        [*backbone.feature_channels, *extra_channels],
        config.anchors.shapes_per_cell,
        config.num_classes + 1,
        conv=config.head_conv,
        options=options,
    )
    initialise_normal(extra_layers)
    initialise_normal(head)
    if config.score_function == "sigmoid":
        prior = math.log(FOREGROUND_PRIOR / (1 - FOREGROUND_PRIOR))
        head.classification.set_bias(torch.full((config.num_classes + 1,), prior))
    return Detector(config=config, backbone=backbone, extra_layers=extra_layers, head=head)


def load_detector(path: str | Path, *, device: str | torch.device = "cpu") -> Detector:
    """The detector of a checkpoint (its averaged weights, where training kept an average), in evaluation mode.

    Raises:
        CheckpointError: not a checkpoint of ours, damaged, or one that does not fit its own description.
        ConfigError: a device that is not there.
    """
    from ssdlite.checkpoint import load_checkpoint

    detector = load_checkpoint(path).build_detector()
    return detector.to(choose_device(str(device))).eval()


def _to_array(picture: Picture, position: int) -> ImageArray:
    """Any picture as uint8 RGB [H, W, 3]."""
    if isinstance(picture, (str, Path)):
        return read_image(picture)
    if isinstance(picture, Image.Image):
        return _check_array(to_rgb(picture), position, channels_axis=2)
    if isinstance(picture, Tensor):
        values = picture.detach().cpu()
        array = (values.float() if values.is_floating_point() else values).numpy()  # numpy knows no bfloat16
        planes = _check_array(array, position, channels_axis=0)
        return np.ascontiguousarray(planes.transpose(1, 2, 0))
    if isinstance(picture, np.ndarray):
        return _check_array(picture, position, channels_axis=2)
    raise TypeError(
        f"image {position}: expected a path, PIL image, array [H, W, 3] or tensor [3, H, W], "
        f"got {type(picture).__name__}"
    )


def _check_array(array: npt.NDArray[Any], position: int, channels_axis: int) -> ImageArray:
    form = "[3, H, W]" if channels_axis == 0 else "[H, W, 3]"
    if array.ndim != 3 or array.shape[channels_axis] != 3 or 0 in array.shape:
        raise ValueError(f"image {position}: expected RGB {form}, got shape {array.shape}")
    if array.dtype == np.uint8:
        return np.asarray(array, np.uint8)
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"image {position}: expected uint8 or floats in 0..255, got {array.dtype}")
    if not np.isfinite(array).all() or array.min() < 0 or array.max() > 255:
        raise ValueError(f"image {position}: expected values in 0..255, got {array.min()} to {array.max()}")
    if 0 < array.max() <= 1:
        raise ValueError(f"image {position}: expected values in 0..255, these look like 0..1; multiply by 255")
    return np.asarray(np.rint(array), np.uint8)
