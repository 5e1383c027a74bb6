"""YOLOX as arithmetic on its published state dict: names, shapes, and what is done with them.

Written from the facts of github.com/Megvii-BaseDetection/YOLOX (yolox/models, exps/default).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
STRIDES = (8, 16, 32)
GAIN = 1.3  # of a convolution in front of SiLU, with which values keep about their size
BACKBONE, NECK, HEAD = "backbone.backbone", "backbone", "head"


class Writer:
    """Random tensors under the published names; 3x3 convolutions are ``depthwise`` or plain."""

    def __init__(self, seed: int, depthwise: bool) -> None:
        self.state: State = {}
        self.generator = torch.Generator().manual_seed(seed)
        self.depthwise = depthwise

    def random(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def base(self, name: str, before: int, after: int, side: int, *, groups: int = 1, scale: float = 1.0) -> None:
        """A convolution of inputs of that ``scale``, and its norm with statistics of about the right size."""
        inputs = before // groups
        weight = GAIN * self.random(after, inputs, side, side) / math.sqrt(inputs * side * side)
        self.state[f"{name}.conv.weight"] = weight
        self.state[f"{name}.bn.weight"] = 1 + 0.2 * self.random(after)
        self.state[f"{name}.bn.bias"] = 0.3 * self.random(after)
        self.state[f"{name}.bn.running_mean"] = scale * 0.3 * self.random(after)
        self.state[f"{name}.bn.running_var"] = scale**2 * (0.7 + 0.6 * torch.rand(after, generator=self.generator))
        self.state[f"{name}.bn.num_batches_tracked"] = torch.tensor(1234)

    def spatial(self, name: str, before: int, after: int) -> None:
        if self.depthwise:
            self.base(f"{name}.dconv", before, before, 3, groups=before)
            self.base(f"{name}.pconv", before, after, 1)
        else:
            self.base(name, before, after, 3)

    def csp(self, name: str, before: int, after: int, blocks: int) -> None:
        half = after // 2
        self.base(f"{name}.conv1", before, half, 1)
        self.base(f"{name}.conv2", before, half, 1)
        self.base(f"{name}.conv3", 2 * half, after, 1)
        for number in range(blocks):
            self.base(f"{name}.m.{number}.conv1", half, half, 1)
            self.spatial(f"{name}.m.{number}.conv2", half, half)

    def predictor(self, name: str, before: int, after: int, spread: float) -> None:
        self.state[f"{name}.weight"] = spread * self.random(after, before, 1, 1) / math.sqrt(before)
        self.state[f"{name}.bias"] = 0.5 * self.random(after)


def make_state(stem: int, *, depthwise: bool, classes: int, seed: int = 0) -> State:
    """A state dict of depth 0.33 whose stem has so many channels: 16 in Nano, 24 in Tiny, 32 in S."""
    writer = Writer(seed, depthwise)
    writer.base(f"{BACKBONE}.stem.conv", 12, stem, 3, scale=128)
    for number, blocks in ((2, 1), (3, 3), (4, 3)):
        width = stem * 2 ** (number - 1)
        writer.spatial(f"{BACKBONE}.dark{number}.0", width // 2, width)
        writer.csp(f"{BACKBONE}.dark{number}.1", width, width, blocks)
    fine, middle, coarse = 4 * stem, 8 * stem, 16 * stem
    writer.spatial(f"{BACKBONE}.dark5.0", middle, coarse)
    writer.base(f"{BACKBONE}.dark5.1.conv1", coarse, coarse // 2, 1)
    writer.base(f"{BACKBONE}.dark5.1.conv2", 2 * coarse, coarse, 1)
    writer.csp(f"{BACKBONE}.dark5.2", coarse, coarse, 1)

    writer.base(f"{NECK}.lateral_conv0", coarse, middle, 1)
    writer.csp(f"{NECK}.C3_p4", 2 * middle, middle, 1)
    writer.base(f"{NECK}.reduce_conv1", middle, fine, 1)
    writer.csp(f"{NECK}.C3_p3", 2 * fine, fine, 1)
    writer.spatial(f"{NECK}.bu_conv2", fine, fine)
    writer.csp(f"{NECK}.C3_n3", 2 * fine, middle, 1)
    writer.spatial(f"{NECK}.bu_conv1", middle, middle)
    writer.csp(f"{NECK}.C3_n4", 2 * middle, coarse, 1)

    for level, width in enumerate((fine, middle, coarse)):
        writer.base(f"{HEAD}.stems.{level}", width, fine, 1)
        for tower in ("cls_convs", "reg_convs"):
            for place in range(2):
                writer.spatial(f"{HEAD}.{tower}.{level}.{place}", fine, fine)
        for predictor, outputs, spread in (("cls_preds", classes, 4.0), ("reg_preds", 4, 1.2), ("obj_preds", 1, 4.0)):
            writer.predictor(f"{HEAD}.{predictor}.{level}", fine, outputs, spread)
    return writer.state


class Network:
    """The arithmetic."""

    def __init__(self, state: State) -> None:
        self.state = state

    def base(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.state[f"{name}.conv.weight"]
        groups = x.shape[1] // weight.shape[1]
        x = F.conv2d(x, weight, None, stride, weight.shape[2] // 2, groups=groups)
        entries = [self.state[f"{name}.bn.{entry}"] for entry in ("running_mean", "running_var", "weight", "bias")]
        x = F.batch_norm(x, *entries, eps=1e-3)
        return x * torch.sigmoid(x)

    def spatial(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        if f"{name}.dconv.conv.weight" in self.state:
            return self.base(f"{name}.pconv", self.base(f"{name}.dconv", x, stride))
        return self.base(name, x, stride)

    def csp(self, name: str, x: Tensor, *, shortcut: bool) -> Tensor:
        first, second, number = self.base(f"{name}.conv1", x), self.base(f"{name}.conv2", x), 0
        while f"{name}.m.{number}.conv1.conv.weight" in self.state:
            block = f"{name}.m.{number}"
            outputs = self.spatial(f"{block}.conv2", self.base(f"{block}.conv1", first))
            first, number = first + outputs if shortcut else outputs, number + 1
        return self.base(f"{name}.conv3", torch.cat([first, second], dim=1))

    def backbone(self, bgr: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows = (bgr[:, :, 0::2], bgr[:, :, 1::2])
        corners = [row[..., column::2] for column in (0, 1) for row in rows]  # columns first
        x = self.base(f"{BACKBONE}.stem.conv", torch.cat(corners, dim=1))
        maps = []
        for number in (2, 3, 4):
            x = self.csp(f"{BACKBONE}.dark{number}.1", self.spatial(f"{BACKBONE}.dark{number}.0", x, 2), shortcut=True)
            maps.append(x)
        x = self.base(f"{BACKBONE}.dark5.1.conv1", self.spatial(f"{BACKBONE}.dark5.0", x, 2))
        pooled = [F.max_pool2d(x, side, 1, side // 2) for side in (5, 9, 13)]
        x = self.base(f"{BACKBONE}.dark5.1.conv2", torch.cat([x, *pooled], dim=1))
        return maps[1], maps[2], self.csp(f"{BACKBONE}.dark5.2", x, shortcut=False)

    def neck(self, fine: Tensor, middle: Tensor, coarse: Tensor) -> list[Tensor]:
        def enlarged(x: Tensor) -> Tensor:
            return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)

        def joined(name: str, *maps: Tensor) -> Tensor:
            return self.csp(f"{NECK}.{name}", torch.cat(maps, dim=1), shortcut=False)

        lateral = self.base(f"{NECK}.lateral_conv0", coarse)
        reduced = self.base(f"{NECK}.reduce_conv1", joined("C3_p4", enlarged(lateral), middle))
        first = joined("C3_p3", enlarged(reduced), fine)
        second = joined("C3_n3", self.spatial(f"{NECK}.bu_conv2", first, 2), reduced)
        third = joined("C3_n4", self.spatial(f"{NECK}.bu_conv1", second, 2), lateral)
        return [first, second, third]

    def head(self, level: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes [B, 4, H, W], objects [B, 1, H, W] and classes [B, K, H, W], as the predictors give them."""
        x = classes = self.base(f"{HEAD}.stems.{level}", x)
        for place in range(2):
            classes = self.spatial(f"{HEAD}.cls_convs.{level}.{place}", classes)
            x = self.spatial(f"{HEAD}.reg_convs.{level}.{place}", x)
        inputs = {"reg_preds": x, "obj_preds": x, "cls_preds": classes}
        boxes, objects, classes = (
            F.conv2d(maps, self.state[f"{HEAD}.{name}.{level}.weight"], self.state[f"{HEAD}.{name}.{level}.bias"])
            for name, maps in inputs.items()
        )
        return boxes, objects, classes


@torch.no_grad()
def run(state: State, rgb: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures [B, 3, S, S] RGB in 0..255 -> scores [B, A, K], boxes [B, A, 4] xyxy in pixels."""
    network = Network(state)
    all_scores, all_boxes = [], []
    for level, x in enumerate(network.neck(*network.backbone(rgb.to(next(iter(state.values())).dtype).flip(1)))):
        boxes, objects, classes = network.head(level, x)
        height, width = boxes.shape[2:]
        row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        centre = (boxes[:, :2] + torch.stack([column, row])) * STRIDES[level]
        half = boxes[:, 2:].exp() * STRIDES[level] / 2
        all_boxes.append(torch.cat([centre - half, centre + half], dim=1).flatten(2))
        all_scores.append((objects.sigmoid() * classes.sigmoid()).flatten(2))
    return torch.cat(all_scores, 2).transpose(1, 2), torch.cat(all_boxes, 2).transpose(1, 2)
