"""The blocks that MobileNets, extra layers and heads are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssdlite.config import ActivationName, LayerConfig

ACTIVATIONS: Mapping[ActivationName, Callable[..., nn.Module]] = {
    "relu6": nn.ReLU6,
    "relu": nn.ReLU,
    "leaky_relu": partial(nn.LeakyReLU, 0.1),  # Darknet's and NanoDet's slope; torch's own is 0.01
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
}
IDEMPOTENT_ACTIVATIONS: tuple[ActivationName, ...] = ("relu6", "relu")  # a second one changes nothing
TORCHVISION_LAYERS = LayerConfig()  # what torchvision's MobileNetV2 is made of


def build_norm(channels: int, layers: LayerConfig) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=layers.norm_eps, momentum=layers.norm_momentum)


def build_conv(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1, *, layers: LayerConfig
) -> nn.Conv2d:
    """A convolution without bias, padded so that the output side is ceil(input / stride).

    An even kernel has a stride of 2 and the same zeros on both sides, one more behind an odd input: SAME, whatever
    ``layers`` say.
    """
    if stride > 1 and (layers.padding == "same" or kernel_size % 2 == 0):
        return SamePadConv2d(in_channels, out_channels, kernel_size, stride, groups=groups, bias=False)
    kind = AutocastConv2d if groups > 1 else nn.Conv2d
    padding = (kernel_size - 1) // 2
    return kind(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)


class AutocastConv2d(nn.Conv2d):
    """A depthwise convolution that trains in float32 where a CPU is slow in bfloat16, under autocast too.

    oneDNN's bfloat16 backward takes up to twenty times as long as the float32 one if it has a stride, and two or three
    times with a kernel of 5 (docs/notes/performance.md).
    """

    @classmethod
    def like(cls, conv: nn.Conv2d) -> AutocastConv2d:
        """One with the geometry and the weights of ``conv``."""
        own = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            conv.groups,
            conv.bias is not None,
            conv.padding_mode,
        )
        own.load_state_dict(conv.state_dict())
        return own

    def forward(self, input: Tensor) -> Tensor:
        is_slow = self.groups > 1 and (self.stride != (1, 1) or self.kernel_size > (3, 3))
        if not (is_slow and self.training and input.device.type == "cpu" and torch.is_autocast_enabled("cpu")):
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.float()).to(input.dtype)


class SamePadConv2d(AutocastConv2d):
    """A convolution with TensorFlow's SAME padding: the total is split evenly, an odd pixel goes right and bottom."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(self.pad(input))

    def pad(self, input: Tensor) -> Tensor:
        """[B, C, H, W] with the zeros that the convolution runs over."""
        top, bottom = _same_padding(input.shape[2], self.kernel_size[0], self.stride[0])
        left, right = _same_padding(input.shape[3], self.kernel_size[1], self.stride[1])
        return F.pad(input, (left, right, top, bottom))


def _same_padding(side: int, kernel_size: int, stride: int) -> tuple[int, int]:
    total = max((-(-side // stride) - 1) * stride + kernel_size - side, 0)
    return total // 2, total - total // 2


class ConvNormActivation(nn.Sequential):
    """Convolution, batch norm and, where it is to ``activate``, the activation. Keys ``0`` and ``1``: torchvision's."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        *,
        groups: int = 1,
        activate: bool = True,
        layers: LayerConfig = TORCHVISION_LAYERS,
    ) -> None:
        super().__init__(
            build_conv(in_channels, out_channels, kernel_size, stride, groups, layers=layers),
            build_norm(out_channels, layers),
            *([ACTIVATIONS[layers.activation](inplace=True)] if activate else []),
        )


class DepthwiseSeparableConv(nn.Module):
    """A depthwise and a 1x1 pointwise convolution, each with batch norm and ReLU6 (arXiv 1704.04861, figure 3).

    [B, in_channels, H, W] -> [B, out_channels, ceil(H / stride), ceil(W / stride)]. A ``linear`` one ends without
    activation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        kernel_size: int = 3,
        linear: bool = False,
        layers: LayerConfig = TORCHVISION_LAYERS,
    ) -> None:
        super().__init__()
        self.depthwise = ConvNormActivation(
            in_channels, in_channels, kernel_size, stride, groups=in_channels, layers=layers
        )
        self.pointwise = ConvNormActivation(in_channels, out_channels, 1, activate=not linear, layers=layers)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.pointwise(self.depthwise(inputs))
        return outputs


def build_conv3x3(
    kind: Literal["separable", "plain"],
    in_channels: int,
    out_channels: int,
    stride: int = 1,
    *,
    linear: bool = False,
    layers: LayerConfig,
) -> nn.Module:
    """A 3x3 convolution with its norm and activation, or the depthwise and the pointwise one in its place."""
    if kind == "separable":
        return DepthwiseSeparableConv(in_channels, out_channels, stride, linear=linear, layers=layers)
    return ConvNormActivation(in_channels, out_channels, 3, stride, activate=not linear, layers=layers)


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise, project 1x1 without activation (the linear bottleneck; arXiv 1801.04381, table 1).

    [B, in_channels, H, W] -> [B, out_channels, ceil(H / stride), ceil(W / stride)]; the input is added where the
    shapes agree. An ``expansion`` of 1 has no expanding convolution. Keys are torchvision's.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        expansion: int = 6,
        kernel_size: int = 3,
        layers: LayerConfig = TORCHVISION_LAYERS,
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.expanded_channels = hidden
        self.has_residual = stride == 1 and in_channels == out_channels
        expand = [] if expansion == 1 else [ConvNormActivation(in_channels, hidden, 1, layers=layers)]
        self.conv = nn.Sequential(
            *expand,
            ConvNormActivation(hidden, hidden, kernel_size, stride, groups=hidden, layers=layers),
            build_conv(hidden, out_channels, 1, layers=layers),
            build_norm(out_channels, layers),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.conv(inputs)
        return inputs + outputs if self.has_residual else outputs

    def forward_with_expansion(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The expanding convolution's output [B, expanded_channels, H, W], which SSDLite taps, and the block's."""
        expanded: Tensor = self.conv[0](inputs)
        outputs = expanded
        for layer in self.conv[1:]:
            outputs = layer(outputs)
        return expanded, inputs + outputs if self.has_residual else outputs


def round_channels(channels: float, divisor: int = 8, least: int = 8) -> int:
    """The nearest multiple of ``divisor``, never more than 10 % below (the rule of the MobileNetV2 authors' code)."""
    rounded = max(least, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
