"""The networks of pytorch-ssd as arithmetic on their published state dicts: names, shapes, and what is done with them.

Written from the facts of github.com/qfgaohao/pytorch-ssd (vision/ssd, vision/nn) and its fork dusty-nv/pytorch-ssd.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
V1_BLOCKS = (  # channels in and out, stride; base_net.1 to base_net.13
    (32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2), (512, 512, 1),
    (512, 512, 1), (512, 512, 1), (512, 512, 1), (512, 512, 1), (512, 1024, 2), (1024, 1024, 1),
)  # fmt: skip
V2_BLOCKS = (  # channels in, hidden and out, stride; base_net.1 to base_net.17
    (32, 32, 16, 1), (16, 96, 24, 2), (24, 144, 24, 1), (24, 144, 32, 2), (32, 192, 32, 1), (32, 192, 32, 1),
    (32, 192, 64, 2), (64, 384, 64, 1), (64, 384, 64, 1), (64, 384, 64, 1), (64, 384, 96, 1), (96, 576, 96, 1),
    (96, 576, 96, 1), (96, 576, 160, 2), (160, 960, 160, 1), (160, 960, 160, 1), (160, 960, 320, 1),
)  # fmt: skip
V1_EXTRAS = ((1024, 256, 512), (512, 128, 256), (256, 128, 256), (256, 128, 256))  # in, between, out
V2_EXTRAS = ((1280, 256, 512), (512, 128, 256), (256, 128, 256), (256, 64, 64))
V1_MAPS = (512, 1024, 512, 256, 256, 256)  # channels that the headers see
V2_MAPS = (576, 1280, 512, 256, 256, 64)


class Writer:
    """Random tensors under the published names."""

    def __init__(self, seed: int) -> None:
        self.state: State = {}
        self.generator = torch.Generator().manual_seed(seed)

    def conv(self, name: str, before: int, after: int, side: int, *, groups: int = 1, bias: bool = False) -> None:
        fan_in = before // groups * side * side
        shape = (after, before // groups, side, side)
        self.state[f"{name}.weight"] = torch.randn(shape, generator=self.generator) * math.sqrt(2 / fan_in)
        if bias:
            self.state[f"{name}.bias"] = 0.3 * torch.randn(after, generator=self.generator)

    def norm(self, name: str, channels: int) -> None:
        for entry, low in (("weight", 0.7), ("bias", -0.3), ("running_mean", -0.3), ("running_var", 0.7)):
            self.state[f"{name}.{entry}"] = low + 0.6 * torch.rand(channels, generator=self.generator)
        self.state[f"{name}.num_batches_tracked"] = torch.tensor(1234)

    def residual(self, name: str, before: int, hidden: int, after: int) -> None:
        if hidden != before:
            self.conv(f"{name}.0", before, hidden, 1)
            self.norm(f"{name}.1", hidden)
        first = 0 if hidden == before else 3
        self.conv(f"{name}.{first}", hidden, hidden, 3, groups=hidden)
        self.norm(f"{name}.{first + 1}", hidden)
        self.conv(f"{name}.{first + 3}", hidden, after, 1)
        self.norm(f"{name}.{first + 4}", after)


def make_state(layout: str, slots: int, seed: int = 0) -> State:
    """A state dict of ``mb1-ssd``, ``mb1-ssd-lite`` or ``mb2-ssd-lite`` for so many classes, background included."""
    writer = Writer(seed)
    writer.conv("base_net.0.0", 3, 32, 3)
    writer.norm("base_net.0.1", 32)
    if layout == "mb2-ssd-lite":
        for number, (before, hidden, after, _) in enumerate(V2_BLOCKS, 1):
            writer.residual(f"base_net.{number}.conv", before, hidden, after)
        writer.conv("base_net.18.0", 320, 1280, 1)
        writer.norm("base_net.18.1", 1280)
    else:
        for number, (before, after, _) in enumerate(V1_BLOCKS, 1):
            writer.conv(f"base_net.{number}.0", before, before, 3, groups=before)
            writer.norm(f"base_net.{number}.1", before)
            writer.conv(f"base_net.{number}.3", before, after, 1)
            writer.norm(f"base_net.{number}.4", after)
    for number, (before, hidden, after) in enumerate(V2_EXTRAS if layout == "mb2-ssd-lite" else V1_EXTRAS):
        if layout == "mb2-ssd-lite":
            writer.residual(f"extras.{number}.conv", before, hidden, after)
            continue
        writer.conv(f"extras.{number}.0", before, hidden, 1, bias=True)
        if layout == "mb1-ssd":
            writer.conv(f"extras.{number}.2", hidden, after, 3, bias=True)
        else:
            writer.conv(f"extras.{number}.2.0", hidden, hidden, 3, groups=hidden, bias=True)
            writer.conv(f"extras.{number}.2.2", hidden, after, 1, bias=True)
    for kind, columns in (("classification", slots), ("regression", 4)):
        for number, channels in enumerate(V2_MAPS if layout == "mb2-ssd-lite" else V1_MAPS):
            _write_header(writer, layout, f"{kind}_headers.{number}", channels, 6 * columns)
    return writer.state


def _write_header(writer: Writer, layout: str, name: str, channels: int, outputs: int) -> None:
    if layout == "mb1-ssd":
        writer.conv(name, channels, outputs, 3, bias=True)
    elif "headers.5" in name:
        writer.conv(name, channels, outputs, 1, bias=True)
    elif layout == "mb1-ssd-lite":
        writer.conv(f"{name}.0", channels, channels, 3, groups=channels, bias=True)
        writer.conv(f"{name}.2", channels, outputs, 1, bias=True)
    else:
        writer.conv(f"{name}.0", channels, channels, 3, groups=channels, bias=True)
        writer.norm(f"{name}.1", channels)
        writer.conv(f"{name}.3", channels, outputs, 1, bias=True)


@torch.no_grad()
def run(layout: str, state: State, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """uint8 [B, 3, S, S] -> confidences [B, A, slots] before their softmax, and locations [B, A, 4]."""

    def conv(name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        groups = x.shape[1] // weight.shape[1]
        padding = weight.shape[2] // 2
        return F.conv2d(x, weight, state.get(f"{name}.bias"), stride, padding, groups=groups)

    def norm(name: str, x: Tensor) -> Tensor:
        entries = [state[f"{name}.{entry}"] for entry in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *entries, eps=1e-5)

    def residual(name: str, x: Tensor, stride: int) -> tuple[Tensor, Tensor]:
        """The output of the first activation, and of the block."""
        expanded, first = x, 0
        if f"{name}.6.weight" in state:
            expanded, first = F.relu6(norm(f"{name}.1", conv(f"{name}.0", x))), 3
        inner = F.relu6(norm(f"{name}.{first + 1}", conv(f"{name}.{first}", expanded, stride)))
        outputs = norm(f"{name}.{first + 4}", conv(f"{name}.{first + 3}", inner))
        return expanded, outputs + x if stride == 1 and outputs.shape == x.shape else outputs

    def header(name: str, x: Tensor, columns: int) -> Tensor:
        if f"{name}.weight" not in state:
            x = conv(f"{name}.0", x)
            x = F.relu6(norm(f"{name}.1", x)) if layout == "mb2-ssd-lite" else F.relu(x)
            name += ".3" if layout == "mb2-ssd-lite" else ".2"
        return conv(name, x).permute(0, 2, 3, 1).reshape(len(x), -1, columns)

    x = (pictures.float() - 127) / 128
    maps = []
    if layout == "mb2-ssd-lite":
        x = F.relu6(norm("base_net.0.1", conv("base_net.0.0", x, 2)))
        for number, (*_, stride) in enumerate(V2_BLOCKS, 1):
            expanded, x = residual(f"base_net.{number}.conv", x, stride)
            if number == 14:
                maps.append(expanded)
        x = F.relu6(norm("base_net.18.1", conv("base_net.18.0", x)))
    else:
        x = F.relu(norm("base_net.0.1", conv("base_net.0.0", x, 2)))
        for number, (*_, stride) in enumerate(V1_BLOCKS, 1):
            x = F.relu(norm(f"base_net.{number}.1", conv(f"base_net.{number}.0", x, stride)))
            x = F.relu(norm(f"base_net.{number}.4", conv(f"base_net.{number}.3", x)))
            if number == 11:
                maps.append(x)
    maps.append(x)
    for number in range(4):
        if layout == "mb2-ssd-lite":
            _, x = residual(f"extras.{number}.conv", x, 2)
        elif layout == "mb1-ssd":
            x = F.relu(conv(f"extras.{number}.2", F.relu(conv(f"extras.{number}.0", x)), 2))
        else:
            x = F.relu(conv(f"extras.{number}.2.0", F.relu(conv(f"extras.{number}.0", x)), 2))
            x = conv(f"extras.{number}.2.2", x)
        maps.append(x)
    slots = len(state["classification_headers.5.bias"]) // 6
    confidences = [header(f"classification_headers.{i}", features, slots) for i, features in enumerate(maps)]
    locations = [header(f"regression_headers.{i}", features, 4) for i, features in enumerate(maps)]
    return torch.cat(confidences, 1), torch.cat(locations, 1)


SPECS_300 = (  # cells, step, smaller and larger box, in pixels
    (19, 16, 60, 105), (10, 32, 105, 150), (5, 64, 150, 195),
    (3, 100, 195, 240), (2, 150, 240, 285), (1, 300, 285, 330),
)  # fmt: skip


def specs(size: int) -> tuple[tuple[float, ...], ...]:
    """Those of the fork's ``--resolution``; at 300 pixels both projects have ``SPECS_300``."""
    if size == 300:
        return SPECS_300
    cells = [math.ceil(size / stride) for stride in (16, 32, 64, 128, 256, 512)]
    lower = [size * percent / 100 for percent in (10, 20, 37, 54, 71, 88)]
    upper = [size * percent / 100 for percent in (20, 37, 54, 71, 88, 105)]
    return tuple(zip(cells, [math.ceil(size / count) for count in cells], lower, upper, strict=True))


def priors(size: int) -> Tensor:
    """[A, 4] centre x, centre y, width, height as fractions of the image, each within 0..1."""
    rows = []
    for cells, step, lower, upper in specs(size):
        for row in range(int(cells)):
            for column in range(int(cells)):
                centre = [(column + 0.5) / (size / step), (row + 0.5) / (size / step)]
                small, large = lower / size, math.sqrt(lower * upper) / size
                rows += [[*centre, small, small], [*centre, large, large]]
                for ratio in (2, 3):
                    root = math.sqrt(ratio)
                    rows += [[*centre, small * root, small / root], [*centre, small / root, small * root]]
    return torch.tensor(rows).clamp(0, 1)


def boxes(locations: Tensor, anchors: Tensor) -> Tensor:
    """locations [B, A, 4] and priors [A, 4] -> xyxy fractions of the image."""
    centre = locations[..., :2] * 0.1 * anchors[:, 2:] + anchors[:, :2]
    size = torch.exp(locations[..., 2:] * 0.2) * anchors[:, 2:]
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)
