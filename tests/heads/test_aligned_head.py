"""The head whose scores are the geometric mean of two sigmoids: its arithmetic by hand, and what a fresh one says."""

from __future__ import annotations

import math

import pytest
import torch

import ssdlite
from ssdlite.backbones import LayerConfig
from ssdlite.config import HeadConfig
from ssdlite.errors import ConfigError
from ssdlite.heads.aligned_head import AlignedDistanceHead, MeanGate, geometric_mean_logit


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (0.0, 0.0, 0.0),  # a half and a half
        (math.log(4), math.log(3 / 7), math.log(0.48989795 / 0.51010205)),  # 0.8 and 0.3: the root of 0.24
        (-math.log(99), 200.0, math.log(0.1 / 0.9)),  # 0.01 and 1
        (-200.0, -200.0, -200.0),
        (-200.0, 200.0, -100.0),
        (200.0, 200.0, math.log(1e6)),
    ],
)
def test_the_logit_of_the_geometric_mean(first: float, second: float, expected: float) -> None:
    for pair in ((first, second), (second, first)):
        logits = torch.tensor(pair, requires_grad=True)
        found = geometric_mean_logit(logits[0], logits[1])
        assert found.item() == pytest.approx(expected, abs=1e-5)
        found.backward()
        assert logits.grad is not None
        assert bool(logits.grad.isfinite().all())


def test_float16_has_no_infinities() -> None:
    values = torch.linspace(-60, 60, 121).half()
    found = geometric_mean_logit(values[:, None], values)
    exact = geometric_mean_logit(values[:, None].double(), values.double())
    assert bool(found.isfinite().all())
    torch.testing.assert_close(found.sigmoid().double(), exact.sigmoid(), rtol=0.02, atol=1e-3)


@torch.no_grad()
def test_a_gate_weighs_channels_by_all_means() -> None:
    gate = MeanGate(2, layers=LayerConfig(norm_eps=1e-12)).eval()
    gate.weigh.weight[:] = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])[..., None, None]
    gate.weigh.bias.zero_()
    gate.conv[0].weight[:] = torch.eye(2)[..., None, None]
    inputs = torch.tensor([[1.0, 3.0], [0.0, 2 * math.log(3)]]).view(1, 2, 1, 2)  # means 2 and log 3
    found = gate(inputs)
    down = 1 / (1 + math.exp(2))
    assert found.flatten().tolist() == pytest.approx([0.75, 2.25, 0.0, 2 * math.log(3) * down])


@torch.no_grad()
def test_alignment_scales_the_scores_of_all_classes_alike() -> None:
    torch.manual_seed(0)
    head = AlignedDistanceHead([8, 8], [1, 1], 3, depth=1, kernel_size=5, layers=LayerConfig()).eval()
    head.initialize_weights()
    maps = [torch.randn(2, 8, 6, 4), torch.randn(2, 8, 3, 2)]
    before = head(maps)
    assert before.class_logits.shape == (2, 30, 3)
    assert before.box_deltas.shape == (2, 30, 4)
    for alignment in head.alignments:
        assert [tuple(one[0].weight.shape) for one in alignment] == [(1, 8, 5, 5), (1, 1, 1, 1)]
        alignment[1][1].bias -= 40.0  # of the last norm: nothing fits
    after = head(maps)
    assert after.class_logits.max() < -15
    assert torch.equal(after.box_deltas, before.box_deltas)


def test_a_fresh_head_lets_half_of_all_through_its_gates() -> None:
    torch.manual_seed(0)
    head = AlignedDistanceHead([16], [1], 5, depth=0, kernel_size=3, layers=LayerConfig()).eval()
    head.initialize_weights()
    with torch.no_grad():
        weights = torch.sigmoid(head.gates[0].weigh(torch.ones(1, 16, 1, 1)))
        scores = head([torch.zeros(1, 16, 4, 4)]).class_logits.sigmoid()
    assert weights.flatten().tolist() == pytest.approx([0.5] * 16, abs=0.01)
    assert scores.flatten().tolist() == pytest.approx([math.sqrt(0.01 * 0.5)] * 80, rel=0.05)


def test_it_has_no_separate_towers():
    head = HeadConfig(name="aligned_distances", score_function="sigmoid", towers="separate")
    with pytest.raises(ConfigError, match="towers: aligned_distances expects shared, got 'separate'"):
        ssdlite.build_detector("litepan320_small", head=head)
