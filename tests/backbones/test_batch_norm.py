"""Measuring batch-norm statistics anew: numbers worked out by hand, and a whole detector that computes the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ssdlite
from ssdlite.backbones.batch_norm import recalibrate_norms


def one_channel(conv_weight: float, *, mean: float, variance: float, weight: float, bias: float) -> nn.Sequential:
    conv, norm = nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=0.5)
    nn.init.constant_(conv.weight, conv_weight)
    norm.running_mean.fill_(mean)  # type: ignore[union-attr]
    norm.running_var.fill_(variance)  # type: ignore[union-attr]
    nn.init.constant_(norm.weight, weight)
    nn.init.constant_(norm.bias, bias)
    return nn.Sequential(conv, norm)


def test_numbers_by_hand() -> None:
    """Inputs 1, 3 and then 5, 7, doubled: mean 8, variance 20. The norm was y = 3 (x - 1) / sqrt(3.5 + .5) + 2."""
    network = one_channel(2.0, mean=1.0, variance=3.5, weight=3.0, bias=2.0)
    batches = [torch.tensor([1.0, 3.0]).view(1, 1, 1, 2), torch.tensor([5.0, 7.0]).view(2, 1, 1, 1)]
    recalibrate_norms(network, batches)
    conv, norm = network[0], network[1]
    assert norm.running_mean.item() == 8.0
    assert norm.running_var.item() == pytest.approx(20.0)
    assert norm.weight.item() == pytest.approx(1.5 * 20.5**0.5)  # slope 1.5 stays
    assert norm.bias.item() == pytest.approx(2.0 + 1.5 * 7.0)  # at the new mean, 8
    assert conv.weight.item() == 2.0


def test_rescaling_by_hand() -> None:
    network = one_channel(2.0, mean=1.0, variance=3.5, weight=3.0, bias=2.0)
    recalibrate_norms(network, [torch.tensor([1.0, 3.0, 5.0, 7.0]).view(1, 1, 1, 4)], rescale=True)
    conv, norm = network[0], network[1]
    assert conv.weight.item() == pytest.approx(2.0 / 20**0.5)
    assert norm.running_mean.item() == pytest.approx(8.0 / 20**0.5)
    assert norm.running_var.item() == pytest.approx(1.0)
    assert norm.weight.item() == pytest.approx(1.5 * 20**0.5 * 1.5**0.5)
    assert norm.bias.item() == pytest.approx(12.5)
    assert network.eval()(torch.ones(1, 1, 1, 1)).item() == pytest.approx(3.5)  # 1.5 * (2 - 1) + 2, as before


@pytest.mark.parametrize("rescale", [False, True])
def test_constant_channels_stay_harmless(rescale: bool) -> None:
    network = one_channel(0.0, mean=0.0, variance=1.0, weight=1.0, bias=0.25)
    recalibrate_norms(network, [torch.rand(4, 1, 3, 3)], rescale=rescale)
    assert all(bool(torch.isfinite(value).all()) for value in network.state_dict().values())
    assert network[0].weight.item() == 0.0
    for mode in (True, False):
        torch.testing.assert_close(network.train(mode)(torch.rand(2, 1, 3, 3)), torch.full((2, 1, 3, 3), 0.25))


@pytest.mark.parametrize("rescale", [False, True])
def test_a_detector_computes_the_same_in_both_modes(rescale: bool) -> None:
    torch.manual_seed(0)
    detector = ssdlite.build_detector("ssdlite192_mobilenet_v2_050", num_classes=3, width_mult=0.25, image_size=96)
    for module in detector.modules():  # folded norms: statistics that say nothing
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    images = torch.randint(0, 256, (8, 3, 12, 12), dtype=torch.uint8).repeat_interleave(8, 2).repeat_interleave(8, 3)
    with torch.no_grad():
        before = detector.eval()(images)
        detector.train()
        detector.backbone.features[0].eval()
        recalibrate_norms(detector, [images[:5], images[5:]], rescale=rescale)
        assert detector.training and not detector.backbone.features[0].training  # as it was
        trained = detector.train()(images)
        after = detector.eval()(images)
    for was, now, in_training in zip(before[:2], after[:2], trained[:2], strict=True):
        size = was.abs().max()
        assert (now - was).abs().max() < 1e-4 * size
        assert (in_training - was).abs().max() < 0.02 * size


def test_without_pictures() -> None:
    with pytest.raises(ssdlite.ConfigError, match="there are none"):
        recalibrate_norms(nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)), [])
