"""A snapshot of a detector made quick: batch norms folded away, weights stored as the device likes them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ssdlite.backbones.batch_norm import fold_batch_norms
from ssdlite.backbones.layers import SamePadConv2d
from ssdlite.detections import Detections
from ssdlite.detector import Detector, are_finite, evaluation_mode, overflow_error, require_finite
from ssdlite.device import autocast
from ssdlite.heads.base import Outputs
from ssdlite.heads.postprocess import postprocess
from ssdlite.images.geometry import InputTransform
from ssdlite.images.prediction import Picture, predict_pictures
from ssdlite.runtime.operating_points import operating_threshold, stored_operating_points

M = TypeVar("M", bound=nn.Module)


class Predictor:
    """An optimized copy of ``detector`` for prediction; later changes of the detector do not change it.

    Its results are the detector's, except for rounding. It is thread-safe.

    Args:
        detector: copied; on any device, in any mode. Hooks and parametrizations keep their effect, but then the copy
            is not faster.
        amp: compute in this type where autocast allows it.
        compile_options: options of ``torch.compile``, which then compiles the copy. The first
            prediction with each of the first batch sizes then takes half a minute or more, and needs a C++ compiler.

    Raises:
        CheckpointError: weights are not finite.
    """

    def __init__(
        self,
        detector: Detector,
        *,
        amp: torch.dtype | None = None,
        compile_options: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(detector, Detector):
            raise TypeError(f"expected a Detector, got {type(detector).__name__}; ssdlite.load_predictor takes a path")
        require_finite(detector.state_dict(), "the detector")
        self.config, self.provenance = detector.config, detector.provenance
        self.metrics = dict(detector.metrics)
        self.device = detector.mean.device
        self._anchors = detector.anchors.detach().clone()
        self._box_code = copy.deepcopy(detector.head.box_code)
        self._network = _QuickNetwork(detector, amp, compile_options)
        height, width = self.config.input.size
        self.infer_batch(np.zeros((1, 3, height, width), np.uint8))  # stores the weights once and for all

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.config.class_names

    @property
    def operating_threshold(self) -> float:
        """The score from which on detections are shown: the median of the classes' operating points, which training
        measured, or where there are none 0.3. Raises CheckpointError for points that are none."""
        points = stored_operating_points(self.metrics, self.class_names, "the detector")
        return operating_threshold(points)[0]

    @property
    def input_transform(self) -> InputTransform:
        """How a picture becomes the input."""
        return InputTransform(self.config.input.size, self.config.input.resize)

    def predict(
        self,
        images: Picture | Iterable[Picture],
        *,
        score_threshold: float | None = None,
        batch_size: int = 16,
    ) -> list[Detections]:
        """Detect in pictures of any size, as ``Detector.predict`` does, with the same errors."""
        return predict_pictures(self, images, score_threshold, batch_size)

    def infer_batch(self, images: npt.NDArray[np.uint8]) -> Outputs:
        """images [B, 3, H, W] RGB of the configured size -> the network's outputs."""
        return self._network(torch.from_numpy(images).to(self.device))

    def postprocess(self, outputs: Outputs, score_threshold: float = 0.0) -> list[Detections]:
        """What was found in each image, in input pixels, from ``score_threshold`` on.

        Raises:
            CheckpointError: outputs are not finite.
        """
        if not are_finite(outputs):
            raise overflow_error(outputs)
        return postprocess(outputs, self._anchors, self.config, self._box_code, score_threshold)


class _QuickNetwork:
    """What ``detector`` computes in evaluation mode, in fewer steps: no norms, no gradients, channels last."""

    def __init__(self, detector: Detector, amp: torch.dtype | None, compile_options: Mapping[str, Any] | None) -> None:
        width = detector.config.input.size[1]
        self.mean, self.std = (values.detach().flatten().repeat(width) for values in (detector.mean, detector.std))
        self.amp = amp
        if _is_altered(detector):
            self.run: Callable[[Tensor], Outputs] = _copy_as_it_is(detector).forward_normalised
            return
        network = fold_batch_norms(detector).to(memory_format=torch.channels_last)
        if compile_options is not None:
            self.run = self._compiled(network, compile_options)
            return
        if amp is None and can_pack(network):  # packed convolutions compute in float32 only
            pack_convolutions(network)
        self.run = network.forward_normalised

    def _compiled(self, network: Detector, options: Mapping[str, Any]) -> Callable[[Tensor], Outputs]:
        """With weights as constants on a CPU and one launch for all kernels on a GPU, unless ``options`` say how."""
        network.requires_grad_(False)
        if not options.keys() & {"backend", "mode", "options"}:
            on_gpu = self.mean.device.type == "cuda"
            options = {**options, **({"mode": "reduce-overhead"} if on_gpu else {"options": {"freezing": True}})}
        return cast(Callable[[Tensor], Outputs], torch.compile(network.forward_normalised, **options))

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Outputs:
        """images [B, 3, H, W] as ``Detector.forward`` takes them, stored channels last if they are to be quick."""
        if self.amp is None:
            return self.run(self._normalise(images))
        with autocast(images.device, self.amp):
            return self.run(self._normalise(images))

    def _normalise(self, images: Tensor) -> Tensor:
        """Whole rows at once: three values at a time, one for each channel, take five times as long."""
        pixels = images.permute(0, 2, 3, 1)
        rows = (pixels.flatten(2).to(self.mean.dtype) - self.mean) / self.std
        return rows.view(pixels.shape).permute(0, 3, 1, 2)


@torch.no_grad()
def _copy_as_it_is(detector: Detector) -> Detector:
    """In evaluation mode. Hooks that compute weights have to have run without gradients before these can be copied."""
    with evaluation_mode(detector):
        detector.forward_normalised(detector.mean.new_zeros(1, 3, *detector.config.input.size))
    return copy.deepcopy(detector).eval()


def _is_altered(detector: Detector) -> bool:
    """Whether hooks (a user's, pruning's, an old-style weight norm's) or parametrizations change its layers."""
    return any(one._forward_hooks or one._forward_pre_hooks or is_parametrized(one) for one in detector.modules())


# --- Convolutions as oneDNN runs them fastest: weights stored in its own layout, the activation in the same step.

# what follows a convolution -> the name and the numbers by which oneDNN knows it
FUSED_ACTIVATIONS: dict[type[nn.Module], tuple[str, Callable[[Any], list[float]]]] = {
    nn.ReLU: ("relu", lambda _: []),
    nn.ReLU6: ("hardtanh", lambda _: [0.0, 6.0]),
    nn.LeakyReLU: ("leaky_relu", lambda layer: [layer.negative_slope]),
    nn.SiLU: ("swish", lambda _: []),
    nn.Hardswish: ("hardswish", lambda _: []),
}


def can_pack(module: nn.Module) -> bool:
    """Whether this build of torch has the operators, and the module is one of float32 on a CPU."""
    return (
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_convolution_weight")
        and all(one.device.type == "cpu" and one.dtype == torch.float32 for one in module.parameters())
    )


def pack_convolutions(module: M) -> M:
    """The module, changed in place, to be used without gradients; ``can_pack`` has to hold.

    An activation right behind a convolution in an ``nn.Sequential`` becomes part of it.
    """
    for block in list(module.modules()):
        if isinstance(block, nn.Sequential):
            _join_activations(block)
        for name, child in block.named_children():
            if isinstance(child, nn.Conv2d):
                setattr(block, name, PackedConv2d(child))
    return module


def _join_activations(block: nn.Sequential) -> None:
    layers = [(name, layer) for name, layer in block.named_children() if not isinstance(layer, nn.Identity)]
    for (name, conv), (name_behind, behind) in pairwise(layers):
        if isinstance(conv, nn.Conv2d) and type(behind) in FUSED_ACTIVATIONS:
            activation, numbers = FUSED_ACTIVATIONS[type(behind)]
            setattr(block, name, PackedConv2d(conv, activation, numbers(behind)))
            setattr(block, name_behind, nn.Identity())


class PackedConv2d(nn.Module):
    """What ``conv`` and the activation behind it compute; the first input decides how the weights are stored."""

    def __init__(self, conv: nn.Conv2d, activation: str = "none", numbers: list[float] | None = None) -> None:
        super().__init__()
        self.pad = conv.pad if isinstance(conv, SamePadConv2d) else None
        self.weight = conv.weight.detach()
        self.bias = None if conv.bias is None else conv.bias.detach()
        assert not isinstance(conv.padding, str)
        self.geometry = list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups
        self.activation = activation, numbers or [], ""
        self.is_packed = False

    def forward(self, input: Tensor) -> Tensor:
        if self.pad is not None:
            input = self.pad(input)
        if not self.is_packed:
            pack = torch.ops.mkldnn._reorder_convolution_weight
            self.weight, self.is_packed = pack(self.weight, *self.geometry, list(input.shape)), True
        output: Tensor = torch.ops.mkldnn._convolution_pointwise(
            input, self.weight, self.bias, *self.geometry, *self.activation
        )
        return output
