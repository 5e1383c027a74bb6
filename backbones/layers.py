"""The blocks that MobileNets, extra layers and heads are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Padding = Literal["symmetric", "same"]
Activation = Literal["relu6", "relu"]
Narrowing = Literal["classifier", "detection_api"]
ACTIVATIONS: dict[Activation, type[nn.ReLU6] | type[nn.ReLU]] = {"relu6": nn.ReLU6, "relu": nn.ReLU}


@dataclass(frozen=True)
class LayerOptions:
    """What goes with the origin of the weights, and is the same in every layer of a network.

    ``padding``: ``symmetric`` pads a 3x3 convolution by 1 on all sides (PyTorch); ``same`` pads a stride-2 one as
    TensorFlow's SAME does, which on even inputs is right and bottom only. Output sizes agree, values do not.
    ``norm_momentum`` is PyTorch's (TensorFlow's decay is 1 minus it). ``activation`` is relu6 but in weights that were
    trained with another. ``narrowing``: how a width below 1 cuts the channels of V1 and V2; ``classifier`` as in the
    published classifiers, ``detection_api`` as in TensorFlow's detectors: at least 16 stay, V2's last layer is cut too.
    """

    padding: Padding = "symmetric"
    norm_eps: float = 1e-5
    norm_momentum: float = 0.1
    activation: Activation = "relu6"
    narrowing: Narrowing = "classifier"

    @property
    def least_channels(self) -> int:
        return 16 if self.narrowing == "detection_api" else 8

    def norm(self, channels: int) -> nn.BatchNorm2d:
        return nn.BatchNorm2d(channels, eps=self.norm_eps, momentum=self.norm_momentum)

    def conv(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1
    ) -> nn.Conv2d:
        """A convolution without bias, padded so that the output side is ceil(input / stride)."""
        if stride > 1 and self.padding == "same":
            return SamePadConv2d(in_channels, out_channels, kernel_size, stride, groups=groups, bias=False)
        kind = AutocastConv2d if groups > 1 else nn.Conv2d
        padding = (kernel_size - 1) // 2
        return kind(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)


class AutocastConv2d(nn.Conv2d):
    """A depthwise convolution that trains in float32 where a CPU is slow in bfloat16, under autocast too.

    oneDNN's bfloat16 backward takes up to twenty times as long as the float32 one if it has a stride, and two or three
    times with a kernel of 5 (docs/performance.md).
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
            groups=conv.groups,
            bias=conv.bias is not None,
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
    """Convolution, batch norm and, where it is to ``activate``, ReLU6 or ReLU. Keys ``0`` and ``1``: torchvision's."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        *,
        groups: int = 1,
        activate: bool = True,
        options: LayerOptions = LayerOptions(),
    ) -> None:
        super().__init__(
            options.conv(in_channels, out_channels, kernel_size, stride, groups),
            options.norm(out_channels),
            *([ACTIVATIONS[options.activation](inplace=True)] if activate else []),
        )


class DepthwiseSeparableConv(nn.Module):
    """A 3x3 depthwise and a 1x1 pointwise convolution, each with batch norm and ReLU6 (arXiv 1704.04861, figure 3).

    [B, in_channels, H, W] -> [B, out_channels, ceil(H / stride), ceil(W / stride)]. A ``linear`` one ends without
    activation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        linear: bool = False,
        options: LayerOptions = LayerOptions(),
    ) -> None:
        super().__init__()
        self.depthwise = ConvNormActivation(in_channels, in_channels, 3, stride, groups=in_channels, options=options)
        self.pointwise = ConvNormActivation(in_channels, out_channels, 1, activate=not linear, options=options)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.pointwise(self.depthwise(inputs))
        return outputs


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise 3x3, project 1x1 without activation (the linear bottleneck; arXiv 1801.04381, table 1).

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
        options: LayerOptions = LayerOptions(),
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.expanded_channels = hidden
        self.has_residual = stride == 1 and in_channels == out_channels
        expand = [] if expansion == 1 else [ConvNormActivation(in_channels, hidden, 1, options=options)]
        self.conv = nn.Sequential(
            *expand,
            ConvNormActivation(hidden, hidden, 3, stride, groups=hidden, options=options),
            options.conv(hidden, out_channels, 1),
            options.norm(out_channels),
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
