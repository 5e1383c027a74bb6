"""NanoDet-Plus-m as arithmetic on its published state dict: names, shapes, and what is done with them.

Written from the facts of github.com/RangiLyu/nanodet: nanodet/model/backbone/shufflenetv2.py, fpn/ghost_pan.py,
backbone/ghostnet.py, head/nanodet_plus_head.py, head/gfl_head.py (Integral), module/conv.py, util/box_transform.py.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
CHANNELS = {"1.0x": (24, 116, 232, 464), "1.5x": (24, 176, 352, 704)}
NECK_CHANNELS = {"1.0x": 96, "1.5x": 128}
REPEATS = {2: 4, 3: 8, 4: 4}
STRIDES = (8, 16, 32, 64)
REG_MAX = 7
MEAN, STD = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)  # of B, G, R


class Writer:
    """Random tensors under the published names."""

    def __init__(self, seed: int) -> None:
        self.state: State = {}
        self.generator = torch.Generator().manual_seed(seed)

    def conv(self, name: str, before: int, after: int, side: int, *, groups: int = 1, bias: bool = False) -> None:
        shape = (after, before // groups, side, side)
        scale = math.sqrt(1.3 / (before // groups * side * side))
        self.state[f"{name}.weight"] = torch.randn(shape, generator=self.generator) * scale
        if bias:
            self.state[f"{name}.bias"] = torch.randn(after, generator=self.generator)

    def norm(self, name: str, channels: int) -> None:
        for entry, low in (("weight", 0.7), ("bias", -0.3), ("running_mean", -0.3), ("running_var", 0.7)):
            self.state[f"{name}.{entry}"] = low + 0.6 * torch.rand(channels, generator=self.generator)
        self.state[f"{name}.num_batches_tracked"] = torch.tensor(1234)

    def separable(self, name: str, channels: int) -> None:
        self.conv(f"{name}.depthwise", channels, channels, 5, groups=channels)
        self.conv(f"{name}.pointwise", channels, channels, 1)
        self.norm(f"{name}.dwnorm", channels)
        self.norm(f"{name}.pwnorm", channels)

    def shuffle_block(self, name: str, before: int, after: int, stride: int) -> None:
        half = after // 2
        if stride == 2:
            self.conv(f"{name}.branch1.0", before, before, 3, groups=before)
            self.norm(f"{name}.branch1.1", before)
            self.conv(f"{name}.branch1.2", before, half, 1)
            self.norm(f"{name}.branch1.3", half)
        self.conv(f"{name}.branch2.0", before if stride == 2 else half, half, 1)
        self.norm(f"{name}.branch2.1", half)
        self.conv(f"{name}.branch2.3", half, half, 3, groups=half)
        self.norm(f"{name}.branch2.4", half)
        self.conv(f"{name}.branch2.5", half, half, 1)
        self.norm(f"{name}.branch2.6", half)

    def ghost_block(self, name: str, before: int, after: int) -> None:
        half = after // 2
        for number, entering in ((1, before), (2, after)):
            self.conv(f"{name}.ghost{number}.primary_conv.0", entering, half, 1)
            self.norm(f"{name}.ghost{number}.primary_conv.1", half)
            self.conv(f"{name}.ghost{number}.cheap_operation.0", half, half, 3, groups=half)
            self.norm(f"{name}.ghost{number}.cheap_operation.1", half)
        self.conv(f"{name}.shortcut.0", before, before, 5, groups=before)
        self.norm(f"{name}.shortcut.1", before)
        self.conv(f"{name}.shortcut.2", before, after, 1)
        self.norm(f"{name}.shortcut.3", after)

    def neck(self, name: str, widths: tuple[int, ...], channels: int) -> None:
        for number, before in enumerate(widths):
            self.conv(f"{name}.reduce_layers.{number}.conv", before, channels, 1)
            self.norm(f"{name}.reduce_layers.{number}.bn", channels)
        for number in range(2):
            self.ghost_block(f"{name}.top_down_blocks.{number}.blocks.0", 2 * channels, channels)
            self.separable(f"{name}.downsamples.{number}", channels)
            self.ghost_block(f"{name}.bottom_up_blocks.{number}.blocks.0", 2 * channels, channels)
        self.separable(f"{name}.extra_lvl_in_conv.0", channels)
        self.separable(f"{name}.extra_lvl_out_conv.0", channels)


def make_state(size: str, classes: int, seed: int = 0) -> State:
    """What inference needs, of ``1.0x`` or ``1.5x``."""
    writer = Writer(seed)
    before, *widths = CHANNELS[size]
    writer.conv("backbone.conv1.0", 3, before, 3)
    writer.norm("backbone.conv1.1", before)
    for (stage, repeats), after in zip(REPEATS.items(), widths, strict=True):
        for number in range(repeats):
            writer.shuffle_block(f"backbone.stage{stage}.{number}", before, after, 1 if number else 2)
            before = after
    channels = NECK_CHANNELS[size]
    writer.neck("fpn", tuple(widths), channels)
    for level in range(4):
        for number in range(2):
            writer.separable(f"head.cls_convs.{level}.{number}", channels)
        writer.conv(f"head.gfl_cls.{level}", channels, classes + 4 * (REG_MAX + 1), 1, bias=True)
        writer.state[f"head.gfl_cls.{level}.bias"][:classes] -= 3
    writer.state["head.distribution_project.project"] = torch.arange(REG_MAX + 1.0)
    return writer.state


def training_state(size: str, classes: int, seed: int = 0) -> State:
    """What guides the assignment, beside that: a neck of its own, and a head on both necks' maps."""
    writer = Writer(seed + 100)
    _, *widths = CHANNELS[size]
    writer.neck("aux_fpn", tuple(widths), NECK_CHANNELS[size])
    both = 2 * NECK_CHANNELS[size]
    for number in range(4):
        writer.conv(f"aux_head.cls_convs.{number}.conv", both, both, 3)
        writer.norm(f"aux_head.cls_convs.{number}.gn", both)
    writer.conv("aux_head.gfl_cls", both, classes, 3, bias=True)
    writer.conv("aux_head.gfl_reg", both, 4 * (REG_MAX + 1), 3, bias=True)
    writer.state["aux_head.scales.0.scale"] = torch.tensor(1.0)
    return make_state(size, classes, seed) | writer.state


def lightning_checkpoint(size: str, classes: int) -> dict[str, object]:
    """As Lightning writes a training: the weights, and their averages, which are those of ``make_state``."""
    trained, averaged = (training_state(size, classes, seed) for seed in (7, 0))
    state = {f"model.{name}": tensor for name, tensor in trained.items()}
    state |= {f"avg_model.{name}": tensor for name, tensor in averaged.items()}
    return {"epoch": 299, "global_step": 1000, "pytorch-lightning_version": "1.9.0", "state_dict": state}


class Network:
    """The published arithmetic, on the tensors of a state dict."""

    def __init__(self, state: State) -> None:
        self.state = state

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.state[f"{name}.weight"]
        groups = x.shape[1] // weight.shape[1]
        return F.conv2d(x, weight, self.state.get(f"{name}.bias"), stride, weight.shape[2] // 2, groups=groups)

    def norm(self, name: str, x: Tensor) -> Tensor:
        values = [self.state[f"{name}.{entry}"] for entry in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *values, eps=1e-5)

    def act(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, 0.1)

    def separable(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        x = self.act(self.norm(f"{name}.dwnorm", self.conv(f"{name}.depthwise", x, stride)))
        return self.act(self.norm(f"{name}.pwnorm", self.conv(f"{name}.pointwise", x)))

    def shuffle_block(self, name: str, x: Tensor, stride: int) -> Tensor:
        if stride == 2:
            first = self.norm(f"{name}.branch1.1", self.conv(f"{name}.branch1.0", x, 2))
            first, second = self.act(self.norm(f"{name}.branch1.3", self.conv(f"{name}.branch1.2", first))), x
        else:
            first, second = x.chunk(2, dim=1)
        second = self.act(self.norm(f"{name}.branch2.1", self.conv(f"{name}.branch2.0", second)))
        second = self.norm(f"{name}.branch2.4", self.conv(f"{name}.branch2.3", second, stride))
        second = self.act(self.norm(f"{name}.branch2.6", self.conv(f"{name}.branch2.5", second)))
        batch, half, rows, columns = second.shape
        return torch.stack([first, second], dim=2).reshape(batch, 2 * half, rows, columns)

    def ghost(self, name: str, x: Tensor, activated: bool) -> Tensor:
        act = self.act if activated else lambda values: values
        own = act(self.norm(f"{name}.primary_conv.1", self.conv(f"{name}.primary_conv.0", x)))
        cheap = act(self.norm(f"{name}.cheap_operation.1", self.conv(f"{name}.cheap_operation.0", own)))
        return torch.cat([own, cheap], dim=1)

    def ghost_block(self, name: str, x: Tensor) -> Tensor:
        found = self.ghost(f"{name}.ghost2", self.ghost(f"{name}.ghost1", x, True), False)
        beside = self.norm(f"{name}.shortcut.1", self.conv(f"{name}.shortcut.0", x))
        return found + self.norm(f"{name}.shortcut.3", self.conv(f"{name}.shortcut.2", beside))

    def backbone(self, x: Tensor) -> list[Tensor]:
        x = self.act(self.norm("backbone.conv1.1", self.conv("backbone.conv1.0", x, 2)))
        x = F.max_pool2d(x, 3, 2, padding=1)
        maps = []
        for stage, repeats in REPEATS.items():
            for number in range(repeats):
                x = self.shuffle_block(f"backbone.stage{stage}.{number}", x, 1 if number else 2)
            maps.append(x)
        return maps

    def neck(self, maps: list[Tensor]) -> list[Tensor]:
        c3, c4, c5 = (
            self.act(self.norm(f"fpn.reduce_layers.{n}.bn", self.conv(f"fpn.reduce_layers.{n}.conv", x)))
            for n, x in enumerate(maps)
        )

        def larger(x: Tensor) -> Tensor:
            return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

        t4 = self.ghost_block("fpn.top_down_blocks.0.blocks.0", torch.cat([larger(c5), c4], 1))
        p3 = self.ghost_block("fpn.top_down_blocks.1.blocks.0", torch.cat([larger(t4), c3], 1))
        down = self.separable("fpn.downsamples.0", p3, 2)
        p4 = self.ghost_block("fpn.bottom_up_blocks.0.blocks.0", torch.cat([down, t4], 1))
        down = self.separable("fpn.downsamples.1", p4, 2)
        p5 = self.ghost_block("fpn.bottom_up_blocks.1.blocks.0", torch.cat([down, c5], 1))
        p6 = self.separable("fpn.extra_lvl_in_conv.0", c5, 2) + self.separable("fpn.extra_lvl_out_conv.0", p5, 2)
        return [p3, p4, p5, p6]

    def head(self, maps: list[Tensor]) -> Tensor:
        """-> [B, cells, classes + 4 * (REG_MAX + 1)]."""
        outputs = []
        for level, entering in enumerate(maps):
            x = self.separable(f"head.cls_convs.{level}.0", entering)
            x = self.separable(f"head.cls_convs.{level}.1", x)
            outputs.append(self.conv(f"head.gfl_cls.{level}", x).flatten(2))
        return torch.cat(outputs, dim=2).permute(0, 2, 1)


def run(state: State, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """RGB pictures [B, 3, H, W] in 0..255 -> class logits [B, cells, classes], boxes [B, cells, 4] in pixels, not
    limited to the picture."""
    network = Network(state)
    bgr = pictures.flip(1).float()
    x = (bgr - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    raw = network.head(network.neck(network.backbone(x)))
    distributions = raw[..., -4 * (REG_MAX + 1) :].unflatten(-1, (4, REG_MAX + 1)).softmax(-1)
    distances = distributions @ torch.arange(REG_MAX + 1.0)
    points, strides = priors(pictures.shape[2], pictures.shape[3])
    left, top, right, bottom = (distances * strides[:, None]).unbind(-1)
    boxes = torch.stack([points[:, 0] - left, points[:, 1] - top, points[:, 0] + right, points[:, 1] + bottom], dim=-1)
    return raw[..., : -4 * (REG_MAX + 1)], boxes


def priors(height: int, width: int) -> tuple[Tensor, Tensor]:
    """The cells' upper left corners [cells, 2] (x, y), and their strides [cells]."""
    points, strides = [], []
    for stride in STRIDES:
        for row in range(math.ceil(height / stride)):
            for column in range(math.ceil(width / stride)):
                points.append((float(column * stride), float(row * stride)))
                strides.append(float(stride))
    return torch.tensor(points), torch.tensor(strides)
