"""PicoDet with LCNet, LC-PAN and PicoHeadV2 as arithmetic on its published state dict: names, shapes, what is done.

Written from the facts of github.com/PaddlePaddle/PaddleDetection: ppdet/modeling/backbones/lcnet.py, necks/lc_pan.py
and csp_pan.py, heads/pico_head.py and gfl_head.py, and configs/picodet/_base_/picodet_v2.yml.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

Arrays = dict[str, npt.NDArray[np.float32]]
BLOCKS = {  # kernel, channels in and out at width 1, stride, gated
    "blocks2": [(3, 16, 32, 1, False)],
    "blocks3": [(3, 32, 64, 2, False), (3, 64, 64, 1, False)],
    "blocks4": [(3, 64, 128, 2, False), (3, 128, 128, 1, False)],
    "blocks5": [(3, 128, 256, 2, False), *[(5, 256, 256, 1, False)] * 5],
    "blocks6": [(5, 256, 512, 2, True), (5, 512, 512, 1, True)],
}
STRIDES = (8, 16, 32, 64)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BINS = 8


def widths(scale: float) -> dict[int, int]:
    """Channels at width 1 -> the nearest multiple of 8, the next one where that is a tenth less."""
    nearest = {channels: max(8, int(channels * scale + 4) // 8 * 8) for channels in (16, 32, 64, 128, 256, 512)}
    return {channels: found + 8 * (found < 0.9 * channels * scale) for channels, found in nearest.items()}


class Writer:
    """Random arrays under the published names."""

    def __init__(self, seed: int) -> None:
        self.state: Arrays = {}
        self.random = np.random.default_rng(seed)

    def conv(
        self, name: str, before: int, after: int, side: int, *, bias: float | None = None, gain: float = 2
    ) -> None:
        """``before`` channels for each of a group."""
        values = self.random.normal(0, np.sqrt(gain / (before * side * side)), (after, before, side, side))
        self.state[f"{name}.weight"] = values.astype(np.float32)
        if bias is not None:
            self.state[f"{name}.bias"] = self.random.normal(bias, 0.3, after).astype(np.float32)

    def norm(self, name: str, channels: int) -> None:
        for entry, low in (("weight", 0.7), ("bias", -0.3), ("_mean", -0.3), ("_variance", 0.7)):
            self.state[f"{name}.{entry}"] = self.random.uniform(low, low + 0.6, channels).astype(np.float32)

    def pair(self, name: str, before: int, after: int, side: int, norm: str = "bn") -> None:
        self.conv(f"{name}.conv", before, after, side)
        self.norm(f"{name}.{norm}", after)

    def separable(self, name: str, before: int, after: int, side: int, gated: bool = False) -> None:
        self.pair(f"{name}.dw_conv", 1, before, side)
        if gated:
            self.conv(f"{name}.se.conv1", before, before // 4, 1, bias=0)
            self.conv(f"{name}.se.conv2", before // 4, before, 1, bias=0)
        self.pair(f"{name}.pw_conv", before, after, 1)

    def halving(self, name: str, before: int, after: int) -> None:
        """DPModule, whose first convolution has as many groups as it gives channels."""
        self.conv(f"{name}.dwconv", before // after, after, 5)
        self.norm(f"{name}.bn1", after)
        self.conv(f"{name}.pwconv", after, after, 1)
        self.norm(f"{name}.bn2", after)


def make_state(scale: float, channels: int, depth: int, num_classes: int, seed: int = 0) -> Arrays:
    writer, width = Writer(seed), widths(scale)
    writer.pair("backbone.conv1", 3, width[16], 3)
    for stage, rows in BLOCKS.items():
        for number, (side, before, after, _, gated) in enumerate(rows):
            writer.separable(f"backbone.{stage}.{number}", width[before], width[after], side, gated)
    for number, before in enumerate((128, 256, 512)):
        writer.pair(f"neck.conv_t.convs.{number}", width[before], channels, 1)
    for name in ("first_top_conv", "second_top_conv", "downsamples.0", "downsamples.1"):
        writer.halving(f"neck.{name}", channels, channels)
    for name in ("top_down_blocks", "bottom_up_blocks"):
        for joint in range(2):
            writer.separable(f"neck.{name}.{joint}.0", 2 * channels, 2 * channels, 5)
            writer.separable(f"neck.{name}.{joint}.1", 2 * channels, channels, 5)
    for level in range(len(STRIDES)):
        for number in range(depth):
            writer.pair(f"head.conv_feat.cls_conv_dw{level}.{number}", 1, channels, 5, "norm")
            writer.pair(f"head.conv_feat.cls_conv_pw{level}.{number}", channels, channels, 1, "norm")
        writer.conv(f"head.conv_feat.se.{level}.fc", channels, channels, 1, bias=0)
        writer.pair(f"head.conv_feat.se.{level}.conv", channels, channels, 1, "norm")
        writer.conv(f"head.head_cls{level}", channels, num_classes, 1, bias=-2, gain=20)
        writer.conv(f"head.head_reg{level}", channels, 4 * BINS, 1, bias=0, gain=20)
        writer.halving(f"head.cls_align.{level}", channels, 1)
        writer.state[f"head.p{level + 3}_feat.scale_reg"] = np.ones(1, np.float32)
    writer.state["head.distribution_project.project"] = np.arange(BINS, dtype=np.float32)
    return writer.state


class Network:
    """What PaddleDetection computes with such a state dict."""

    def __init__(self, state: dict[str, npt.NDArray[Any]]) -> None:
        self.state = {name: torch.from_numpy(array) for name, array in state.items()}
        self.depth = sum(f"head.conv_feat.cls_conv_dw0.{number}.conv.weight" in state for number in range(9))

    def conv(self, name: str, values: Tensor, stride: int = 1) -> Tensor:
        weight = self.state[f"{name}.weight"]
        groups = values.shape[1] // weight.shape[1]
        bias = self.state.get(f"{name}.bias")
        return F.conv2d(values, weight, bias, stride, weight.shape[2] // 2, groups=groups)

    def norm(self, name: str, values: Tensor) -> Tensor:
        mean, variance, weight, bias = (self.state[f"{name}.{x}"] for x in ("_mean", "_variance", "weight", "bias"))
        return F.batch_norm(values, mean, variance, weight, bias, eps=1e-5)

    def pair(self, name: str, values: Tensor, stride: int = 1, norm: str = "bn") -> Tensor:
        return F.hardswish(self.norm(f"{name}.{norm}", self.conv(f"{name}.conv", values, stride)))

    def separable(self, name: str, values: Tensor, stride: int = 1) -> Tensor:
        values = self.pair(f"{name}.dw_conv", values, stride)
        if f"{name}.se.conv1.weight" in self.state:
            mean = values.mean(dim=(2, 3), keepdim=True)
            values = values * F.hardsigmoid(self.conv(f"{name}.se.conv2", F.relu(self.conv(f"{name}.se.conv1", mean))))
        return self.pair(f"{name}.pw_conv", values)

    def halving(self, name: str, values: Tensor, stride: int = 2, *, activate: bool = True) -> Tensor:
        values = F.hardswish(self.norm(f"{name}.bn1", self.conv(f"{name}.dwconv", values, stride)))
        values = self.norm(f"{name}.bn2", self.conv(f"{name}.pwconv", values))
        return F.hardswish(values) if activate else values

    def backbone(self, images: Tensor) -> list[Tensor]:
        values, maps = self.pair("backbone.conv1", images, 2), []
        for stage, rows in BLOCKS.items():
            for number, row in enumerate(rows):
                values = self.separable(f"backbone.{stage}.{number}", values, row[3])
            maps.append(values)
        return maps[2:]

    def joint(self, name: str, *values: Tensor) -> Tensor:
        return self.separable(f"{name}.1", self.separable(f"{name}.0", torch.cat(values, 1)))

    def neck(self, maps: list[Tensor]) -> list[Tensor]:
        fine, middle, coarse = (self.pair(f"neck.conv_t.convs.{i}", one) for i, one in enumerate(maps))
        down_middle = self.joint("neck.top_down_blocks.0", F.interpolate(coarse, scale_factor=2.0), middle)
        down_fine = self.joint("neck.top_down_blocks.1", F.interpolate(down_middle, scale_factor=2.0), fine)
        up_middle = self.joint("neck.bottom_up_blocks.0", self.halving("neck.downsamples.0", down_fine), down_middle)
        up_coarse = self.joint("neck.bottom_up_blocks.1", self.halving("neck.downsamples.1", up_middle), coarse)
        top = self.halving("neck.first_top_conv", coarse) + self.halving("neck.second_top_conv", up_coarse)
        return [down_fine, up_middle, up_coarse, top]

    def head(self, level: int, values: Tensor) -> tuple[Tensor, Tensor]:
        """A map -> scores [B, N, K] and boxes [B, N, 4] in pixels."""
        for number in range(self.depth):
            for kind in ("dw", "pw"):
                values = self.pair(f"head.conv_feat.cls_conv_{kind}{level}.{number}", values, norm="norm")
        name = f"head.conv_feat.se.{level}"
        gate = torch.sigmoid(self.conv(f"{name}.fc", values.mean(dim=(2, 3), keepdim=True)))
        gated = self.pair(f"{name}.conv", values * gate, norm="norm")
        alignment = torch.sigmoid(self.halving(f"head.cls_align.{level}", values, 1, activate=False))
        scores = (torch.sigmoid(self.conv(f"head.head_cls{level}", gated)) * alignment + 1e-9).sqrt()
        distribution = self.conv(f"head.head_reg{level}", gated).permute(0, 2, 3, 1).unflatten(3, (4, BINS))
        distances = distribution.softmax(dim=-1) @ self.state["head.distribution_project.project"]
        rows, columns = values.shape[2:]
        y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
        center = torch.stack([x, y], dim=-1)
        boxes = torch.cat([center - distances[..., :2], center + distances[..., 2:]], dim=-1) * STRIDES[level]
        return scores.permute(0, 2, 3, 1).flatten(1, 2), boxes.flatten(1, 2)


@torch.no_grad()
def run(state: dict[str, npt.NDArray[Any]], pictures: Tensor) -> tuple[Tensor, Tensor]:
    """RGB pictures [B, 3, S, S] of 0..255 -> scores [B, A, K] and boxes [B, A, 4] xyxy in their pixels; computed in the
    type of the arrays."""
    network = Network(state)
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (MEAN, STD))
    kind = network.state["head.distribution_project.project"].dtype
    maps = network.neck(network.backbone(((pictures / 255.0 - mean) / std).to(kind)))
    scores, boxes = zip(*(network.head(level, one) for level, one in enumerate(maps)), strict=True)
    return torch.cat(scores, 1), torch.cat(boxes, 1)
