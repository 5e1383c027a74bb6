"""The detector: normalise, backbone, neck, head."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ssdlite.anchors import generate_anchors
from ssdlite.backbones.base import Backbone
from ssdlite.backbones.registry import backbone_from_parts
from ssdlite.config import DetectorConfig
from ssdlite.detections import Detections
from ssdlite.errors import CheckpointError, ConfigError
from ssdlite.heads.base import Head, Neck, Outputs
from ssdlite.heads.boxes import GeometryModule
from ssdlite.heads.checks import CHECKED_STEPS, check_images
from ssdlite.heads.postprocess import postprocess
from ssdlite.heads.registry import HEADS, NECKS
from ssdlite.images.geometry import ImageArray, InputTransform
from ssdlite.images.prediction import Picture, predict_pictures
from ssdlite.runtime.contract import Provenance
from ssdlite.runtime.operating_points import operating_threshold, stored_operating_points
from ssdlite.validation import require_known

D = TypeVar("D", bound="Detector")


class Detector(GeometryModule):
    """A single-shot detector. ``forward`` is the same in training, evaluation and export: one tensor in,
    ``Outputs`` out.

    Attributes:
        config: what it is; goes into every checkpoint.
        anchors: [A, 4] xyxy in input pixels; float32 like ``mean`` and ``std``, whatever the weights are.
        metrics: of these weights on validation data, as a checkpoint has them.
        provenance: where these weights come from, of a checkpoint's. Neither is kept once they are trained further or
            others are loaded.
        checked_steps: how many training steps on float images are still to be checked for their range; 0 for none.
    """

    anchors: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, *, config: DetectorConfig, backbone: Backbone, neck: Neck, head: Head) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self._forget_source()
        self.checked_steps = CHECKED_STEPS
        anchors = generate_anchors(config.anchors, config.input.size, config.grid_sizes)
        self.register_buffer("anchors", torch.from_numpy(anchors), persistent=False)
        self.register_buffer("mean", torch.tensor(config.input.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.input.std).view(3, 1, 1), persistent=False)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.config.class_names

    @property
    def operating_threshold(self) -> float:
        """The score from which on detections are shown: the median of the classes' operating points, which training
        measured, or where there are none 0.3. Raises CheckpointError for points that are none."""
        points = stored_operating_points(self.metrics, self.class_names, "the detector")
        return operating_threshold(points)[0]

    def train(self: D, mode: bool = True) -> D:
        """As of any module; what is trained further has no ``metrics`` yet, and is no longer what was loaded."""
        if mode:
            self._forget_source()
        return super().train(mode)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As of any module; whose weights these are is for the caller to say."""
        self._forget_source()
        return super().load_state_dict(state_dict, strict, assign)

    def _forget_source(self) -> None:
        self.metrics: dict[str, Any] = {}
        self.provenance: Provenance | None = None

    def forward(self, images: Tensor) -> Outputs:
        """images [B, 3, H, W] RGB in 0..255, uint8 or float, of the configured size -> Outputs.

        Raises:
            DataError: in the first steps of training, see ``checked_steps``, for float images of another range.
            TypeError: for what is no tensor.
        """
        return self.forward_normalised(self.normalise(self._checked(images)))

    def forward_maps(self, images: Tensor) -> list[Tensor]:
        """images as ``forward`` takes them -> the neck's maps, of which ``head`` makes the outputs; with its errors."""
        return self._maps(self.normalise(self._checked(images)))

    def _checked(self, images: Tensor) -> Tensor:
        if not isinstance(images, Tensor):
            raise TypeError(
                f"expected a tensor [B, 3, H, W], got {type(images).__name__}; detector.predict takes pictures"
            )
        if self.training and images.is_floating_point() and self.checked_steps and not torch.compiler.is_compiling():
            self.checked_steps -= 1
            check_images(images)
        return images

    def normalise(self, images: Tensor) -> Tensor:
        """Values in 0..255 -> what the backbone takes."""
        return (images.to(self.mean.dtype) - self.mean) / self.std

    def forward_normalised(self, images: Tensor) -> Outputs:
        """What ``normalise`` gives -> Outputs, in the type of the weights."""
        outputs: Outputs = self.head(self._maps(images))
        return outputs

    def _maps(self, images: Tensor) -> list[Tensor]:
        weights = next(self.backbone.parameters(), images)
        if images.dtype != weights.dtype:
            images = images.to(weights.dtype)
        maps: list[Tensor] = self.neck(self.backbone.forward_features(images))
        return maps

    @torch.no_grad()
    def detect(self, images: Tensor) -> list[Detections]:
        """images [B, 3, H, W] RGB in 0..255 of the configured size -> what was found in each, in input pixels."""
        if images.dim() != 4 or images.shape[1] != 3 or tuple(images.shape[2:]) != self.config.input.size:
            height, width = self.config.input.size
            raise ConfigError(f"expected images [B, 3, {height}, {width}], got {list(images.shape)}")
        return self.postprocess(self(images))

    @torch.no_grad()
    def predict(
        self,
        images: Picture | Iterable[Picture],
        *,
        score_threshold: float | None = None,
        batch_size: int = 16,
    ) -> list[Detections]:
        """Detect in pictures of any size: paths, PIL images, RGB arrays [H, W, 3] or tensors [3, H, W] in 0..255.

        Returns one ``Detections`` per picture, boxes in that picture's own (upright) pixels, best first, only those
        with at least ``score_threshold``, by default the ``operating_threshold``. A single picture gives a list of one.
        The model is put into evaluation mode. ``ssdlite.Predictor`` gives the same results in half the time.

        Raises:
            DataError: a file is missing or not a picture.
            TypeError, ValueError: something else than a picture, or an array of another shape or type.
            CheckpointError: weights are not finite.
        """
        if self.training:
            self.eval()
        return predict_pictures(self, images, score_threshold, batch_size)

    @property
    def input_transform(self) -> InputTransform:
        """How a picture becomes the input."""
        return InputTransform(self.config.input.size, self.config.input.resize)

    @torch.no_grad()
    def infer_batch(self, images: npt.NDArray[np.uint8]) -> Outputs:
        """images [B, 3, H, W] RGB of the configured size -> the network's outputs, in evaluation mode."""
        with evaluation_mode(self):
            outputs: Outputs = self(torch.from_numpy(images).to(self.mean.device))
            return outputs

    def postprocess(self, outputs: Outputs, score_threshold: float = 0.0) -> list[Detections]:
        """What was found in each image, in input pixels, from ``score_threshold`` on.

        Raises:
            CheckpointError: outputs are not finite; names the weights that are to blame.
        """
        if not are_finite(outputs):
            require_finite(self.state_dict(), "the detector")
            raise overflow_error(outputs)
        return postprocess(outputs, self.anchors, self.config, self.head.box_code, score_threshold)


def require_finite(weights: Mapping[str, Tensor], owner: str) -> None:
    """Raises CheckpointError that names the first of ``owner``'s weights with values that are not finite.

    Quick kernels turn NaN into numbers (a clip to 0..6 gives 0), from which plausible detections come.
    """
    faulty = [name for name, tensor in weights.items() if tensor.is_floating_point() and not _is_finite(tensor)]
    if faulty:
        values = weights[faulty[0]]
        count = values.numel() - int(torch.isfinite(values).sum())
        more = f", and in {len(faulty) - 1} more" if len(faulty) > 1 else ""
        raise CheckpointError(
            f"{owner}: expected finite weights, got NaN or infinity in {count} of {values.numel()} values of "
            f"{faulty[0]}{more}"
        )


def are_finite(outputs: Outputs) -> bool:
    """Of logits and deltas; a distribution that is not has no finite mean."""
    return _is_finite(outputs.class_logits) and _is_finite(outputs.box_deltas)


def overflow_error(outputs: Outputs) -> CheckpointError:
    """For outputs that are not finite, of weights that are."""
    kind = str(outputs.class_logits.dtype).removeprefix("torch.")
    return CheckpointError(f"the detector's weights are finite, but its outputs are not: too large for {kind}")


def _is_finite(values: Tensor) -> bool:
    """A sum is one pass without memory of its own; only one that overflows needs a second look."""
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Puts ``module`` into evaluation mode, and behind that its parts into the modes that they had."""
    training = [one for one in module.modules() if one.training]
    if training:
        module.eval()
    try:
        yield
    finally:
        for one in training:
            one.training = True


def stack_images(images: Sequence[ImageArray]) -> Tensor:
    """Arrays [H, W, 3] -> uint8 [B, 3, H, W], stored channels-last, as the convolutions like it."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def detector_from_config(config: DetectorConfig) -> Detector:
    """The randomly initialised detector that ``config`` describes.

    Raises:
        ConfigError: a backbone, neck or head of an unknown name, or parts that do not fit one another.
    """
    require_known([config.neck.name], NECKS, "neck")
    require_known([config.head.name], HEADS, "head")
    backbone = backbone_from_parts(
        config.backbone.name,
        width_mult=config.backbone.width_mult,
        num_classes=None,
        strides=config.strides,
        layers=config.layers,
    )
    neck = NECKS[config.neck.name](backbone.feature_maps, config)
    strides = tuple(one.stride for one in neck.feature_maps)
    if strides != config.strides:
        raise ConfigError(
            f"strides: expected maps of {config.strides}, but {config.backbone.name} and {config.neck.name} give "
            f"{strides}"
        )
    head = HEADS[config.head.name](neck.feature_maps, config)
    neck.initialize_weights()
    head.initialize_weights()
    return Detector(config=config, backbone=backbone, neck=neck, head=head)
