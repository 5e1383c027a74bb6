"""ShuffleNetV2: torchvision's on the same weights, the paper's sizes, and a shuffle by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import ssdlite
from ssdlite.backbones import build_backbone
from ssdlite.backbones.shufflenet_v2 import shuffle_channels
from ssdlite.weights.backbones import load_backbone_weights, read_backbone_weights

IMAGES = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))
OWN = torchvision.models.shufflenetv2


def test_channels_are_taken_from_each_half_in_turn() -> None:
    inputs = torch.arange(6.0).view(1, 6, 1, 1).expand(2, 6, 3, 2) + torch.arange(6.0).view(1, 1, 3, 2) / 10
    found = shuffle_channels(inputs, 2)
    assert found[1, :, 0, 0].tolist() == [0, 3, 1, 4, 2, 5]
    torch.testing.assert_close(found[0, 3], torch.tensor([[4.0, 4.1], [4.2, 4.3], [4.4, 4.5]]))


@pytest.mark.parametrize(
    ("width_mult", "name", "parameters", "millions_of_macs"),
    [
        # torchvision's own counts; arXiv 1807.11164, table 5, without the classifier's 1 to 2 M
        (0.5, "x0_5", 1_366_792, 41),
        (1.0, "x1_0", 2_278_604, 146),
        (1.5, "x1_5", 3_503_624, 299),
        (2.0, "x2_0", 7_393_996, 591),
    ],
)
def test_published_widths_are_torchvisions(
    width_mult: float, name: str, parameters: int, millions_of_macs: int
) -> None:
    with torch.device("meta"):
        ours = build_backbone("shufflenet_v2", width_mult).eval()
        theirs = getattr(OWN, f"shufflenet_v2_{name}")(weights=None)
    assert [one.shape for one in ours.state_dict().values()] == [one.shape for one in theirs.state_dict().values()]
    assert sum(one.numel() for one in ours.parameters()) == parameters
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        ours(torch.empty(1, 3, 224, 224, device="meta"))
    assert counter.get_total_flops() / 2e6 == pytest.approx(millions_of_macs, rel=0.02)


@torch.no_grad()
def test_features_and_logits_are_torchvisions(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = OWN.shufflenet_v2_x1_0(weights=None)
    for norm in (module for module in theirs.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.8, 1.6)
        nn.init.uniform_(norm.bias, -0.3, 0.3)
        norm.momentum = 1.0
    theirs(torch.randn(4, 3, 96, 96))  # statistics of what reaches them
    theirs.eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    weights = read_backbone_weights(tmp_path / "weights.pth", name="shufflenet_v2")
    assert (weights.owner, weights.options["activation"]) == ("torchvision shufflenet_v2", "relu")
    ours = build_backbone("shufflenet_v2", activation="relu", finest_stride=8).eval()
    report = load_backbone_weights(ours, weights, name="shufflenet_v2")
    assert (report.random, report.left) == ((), ())

    expected = [theirs.maxpool(theirs.conv1(IMAGES))]
    for stage in (theirs.stage2, theirs.stage3, theirs.stage4):
        expected.append(stage(expected[-1]))
    assert expected[-1].std() > 0.1
    for found, one in zip(ours.forward_features(IMAGES), expected[1:], strict=True):
        torch.testing.assert_close(found, one, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours(IMAGES), theirs(IMAGES), rtol=1e-5, atol=1e-5)


def test_a_detector_takes_them_with_their_activation_and_normalisation(tmp_path: Path) -> None:
    torch.save(OWN.shufflenet_v2_x1_0(weights=None).state_dict(), tmp_path / "weights.pth")
    detector = ssdlite.build_detector(
        "litepan320_medium", backbone="shufflenet_v2", backbone_weights=tmp_path / "weights.pth", num_classes=2
    )
    assert detector.config.layers.activation == "relu"
    assert detector.config.input.mean == (123.675, 116.28, 103.53)
    assert detector.backbone.feature_channels == (116, 232, 464)


def test_weights_of_another_width_are_refused_by_name(tmp_path: Path) -> None:
    torch.save(OWN.shufflenet_v2_x0_5(weights=None).state_dict(), tmp_path / "weights.pth")
    message = r"stage2.0.branch1.2.weight -> features.2.branch1.2.weight: expected \[58, 24, 1, 1\], got \[24, 24"
    with pytest.raises(ssdlite.CheckpointError, match=message):
        load_backbone_weights(build_backbone("shufflenet_v2"), tmp_path / "weights.pth", name="shufflenet_v2")
