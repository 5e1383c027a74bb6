"""PP-LCNet: the published sizes, the maps that PicoDet takes, and a gate worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ssdlite.backbones import LayerConfig, build_backbone
from ssdlite.backbones.lcnet import GatedSeparableConv


@pytest.mark.parametrize(
    ("width_mult", "parameters", "millions_of_macs"),
    [
        # parameters of timm's models; PaddleClas' multiply-adds (docs/en/models/PP-LCNet_en.md) count norms too
        (0.5, 1_880_856, 47),
        (0.75, 2_358_288, 99),
        (1.0, 2_953_800, 161),
        (1.5, 4_501_112, 342),
    ],
)
def test_published_sizes(width_mult: float, parameters: int, millions_of_macs: int) -> None:
    with torch.device("meta"):
        network = build_backbone("lcnet", width_mult).eval()
    assert sum(one.numel() for one in network.parameters()) == parameters
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, 3, 224, 224, device="meta"))
    assert counter.get_total_flops() / 2e6 == pytest.approx(millions_of_macs, rel=0.06)


def test_maps_that_picodet_takes() -> None:
    """ppdet/modeling/backbones/lcnet.py at width 0.75: 96, 192 and 384 channels."""
    network = build_backbone("lcnet", 0.75, num_classes=None, finest_stride=8).eval()
    assert (network.feature_channels, network.feature_strides) == ((96, 192, 384), (8, 16, 32))
    found = network.forward_features(torch.zeros(1, 3, 65, 96))
    assert [tuple(one.shape) for one in found] == [(1, 96, 9, 12), (1, 192, 5, 6), (1, 384, 3, 3)]


def test_a_gate_scales_channels_by_their_mean() -> None:
    """Of 4 channels one is kept in between: relu(1 * 2) = 2, and hard-sigmoids of 2w + b."""
    gate = GatedSeparableConv(4, 4, kernel_size=3, layers=LayerConfig()).gate
    with torch.no_grad():
        gate.fc1.weight[:] = torch.tensor([1.0, 0, 0, 0]).view(1, 4, 1, 1)
        gate.fc1.bias.zero_()
        gate.fc2.weight[:] = torch.tensor([0.0, 1.5, -2.0, 0.75]).view(4, 1, 1, 1)
        gate.fc2.bias[:] = torch.tensor([0.0, 0.0, 0.0, -1.5])
        inputs = torch.tensor([2.0, 6.0, 6.0, 6.0]).view(1, 4, 1, 1).expand(1, 4, 2, 2)
        outputs = gate(inputs)
    assert outputs[0, :, 0, 1].tolist() == pytest.approx([1.0, 6.0, 0.0, 3.0])
