"""Distances as means of distributions: literal means, losses worked out by hand, and that all else stays as it is."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ssdlite.anchors import AnchorConfig, square_anchors
from ssdlite.config import DetectorConfig, HeadConfig, override
from ssdlite.detector import Detector, are_finite, detector_from_config
from ssdlite.errors import ConfigError
from ssdlite.heads.base import Distributions, Outputs
from ssdlite.heads.boxes import DistanceCode
from ssdlite.heads.distance_head import DistributionMean
from ssdlite.heads.losses import QualityFocalLoss, distribution_focal_loss
from tests.cells import CELLS

BINS = 8
ONLY_THE_THIRD = [-50.0, -50.0, 50.0, -50.0]


def config(**changes: object) -> DetectorConfig:
    head = HeadConfig(name="distances", score_function="sigmoid", bins=BINS)
    options = {"class_names": ("a", "b"), "image_size": (64, 96), "width_mult": 0.25, "head": head, **changes}
    return override(CELLS, **options)


def small_detector(**changes: object) -> Detector:
    torch.manual_seed(0)
    return detector_from_config(config(**changes))


def test_a_mean_is_the_sum_of_multiples_weighed_by_their_share() -> None:
    """Shares of 1/2, 1/4, 1/8 and 1/8 of 0, 1, 2 and 3: 7/8; a certain 2; all alike: 3/2."""
    shares = torch.tensor([8.0, 4.0, 2.0, 2.0]).log()
    logits = torch.stack([shares, torch.tensor(ONLY_THE_THIRD), torch.zeros(4), torch.zeros(4)])[None]
    mean = DistributionMean(4, torch.tensor([[1.0]]))
    torch.testing.assert_close(mean(logits), torch.tensor([[[0.875, 2.0, 1.5, 1.5]]]))
    scaled = DistributionMean(4, torch.tensor([[1.0, 2.0, 4.0, 8.0]]))
    torch.testing.assert_close(scaled(logits), torch.tensor([[[0.875, 4.0, 6.0, 12.0]]]))


def test_what_a_bin_is_stays_exact_where_weights_are_halved() -> None:
    mean = DistributionMean(4, torch.tensor([[0.8]])).half()
    assert mean.bin_sizes.dtype == mean.multiples.dtype == torch.float32


def test_means_are_not_rounded_where_the_network_trains_in_bfloat16() -> None:
    logits = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(0)) * 3
    mean = DistributionMean(16, torch.tensor([[1.0]]))
    expected = (logits.double().softmax(dim=-1) * torch.arange(16.0)).sum(dim=-1).view(2, 2, 4)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(mean(logits).double(), expected, atol=1e-5, rtol=1e-6)


def test_bins_are_strides_whatever_the_anchors_are() -> None:
    """A fresh head is undecided: 3.5 strides to each side of the cell's centre, so boxes of 7 strides."""
    for anchors in (
        square_anchors((0.1, 0.2, 0.4, 0.8)),
        square_anchors((8 / 64, 16 / 64, 32 / 64, 64 / 64)),  # as published: a stride each
        AnchorConfig(tuple(((side, side),) for side in (0.1, 0.3, 0.4, 0.9)), "sides"),  # others across than down
    ):
        detector = small_detector(anchors=anchors).eval()
        for predictor in detector.head.regression:  # type: ignore[attr-defined]
            torch.nn.init.zeros_(predictor[0].weight)
        with torch.no_grad():
            outputs = detector(torch.zeros(1, 3, 64, 96))
        boxes = detector.head.box_code.decode(outputs.box_deltas, detector.anchors)[0]
        strides = torch.tensor([8.0] * 96 + [16.0] * 24 + [32.0] * 6 + [64.0] * 2)
        torch.testing.assert_close(boxes[:, 2:] - boxes[:, :2], 7 * strides[:, None].expand(-1, 2))


def test_outputs_have_the_distributions_whose_means_the_deltas_are() -> None:
    detector = small_detector().eval()
    with torch.no_grad():
        outputs = detector(torch.rand(2, 3, 64, 96) * 255)
    assert outputs.distributions is not None
    logits, bin_size = outputs.distributions
    assert logits.shape == (2, 128, 4, BINS)
    assert bin_size.tolist() == [[pytest.approx(8 / 6.4)]]  # strides of 8 px, anchors of a tenth of 64 px
    means = (logits.softmax(dim=-1) * torch.arange(8.0)).sum(dim=-1) * 8 / 6.4
    torch.testing.assert_close(outputs.box_deltas, means)
    assert are_finite(outputs)
    assert not are_finite(outputs._replace(box_deltas=outputs.box_deltas * math.nan))
    assert small_detector(head=HeadConfig(name="distances"))(torch.zeros(2, 3, 64, 96)).distributions is None


@pytest.mark.parametrize("bins", [-1, 1, 65])
def test_impossible_bins_are_refused(bins: int) -> None:
    with pytest.raises(ConfigError, match=rf"bins: expected none \(0\), or 2 to 64, got {bins}"):
        HeadConfig(bins=bins)


# --- The loss.


def test_the_loss_by_hand() -> None:
    """Bins of equal shares: log 4 whatever is wanted. Shares of 1/2, 1/4, 1/8 and 1/8, and 0.75 wanted: a quarter of
    log 2 and three of log 4."""
    shares = torch.tensor([8.0, 4.0, 2.0, 2.0]).log()
    logits = torch.stack([torch.zeros(4), shares, shares, shares, shares])
    losses = distribution_focal_loss(logits, torch.tensor([2.3, 0.75, 1.0, 3.0, 9.0]))
    expected = [math.log(4), 0.25 * math.log(2) + 0.75 * math.log(4), math.log(4), math.log(8), math.log(8)]
    torch.testing.assert_close(losses, torch.tensor(expected))


def test_the_loss_is_least_at_the_two_neighbours_of_what_is_wanted() -> None:
    """There the shares are how near they are, and their mean is what is wanted (equation 6)."""
    logits = torch.zeros(1, 6, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = distribution_focal_loss(logits, torch.tensor([3.3])).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(
        logits.detach().softmax(dim=-1)[0], torch.tensor([0.0, 0, 0, 0.7, 0.3, 0]), atol=1e-3, rtol=0
    )


ANCHORS = torch.tensor([[0.0, 0, 20, 20], [100, 100, 120, 120]])
BOX = torch.tensor([[[-5.0, 0, 25, 40]]])  # from the centre (10, 10): 15, 10, 15 and 30; in sides 0.75, 0.5, 0.75, 1.5


def outputs_with(distributions: Distributions | None) -> Outputs:
    return Outputs(torch.zeros(1, 2, 2), torch.full((1, 2, 4), 0.5), distributions)


def test_the_total_has_a_quarter_of_the_mean_over_the_sides_of_matches_alone() -> None:
    """Bins of half a side: 1.5, 1, 1.5 and 3 are wanted; the unmatched anchor's distributions teach nothing."""
    shares = torch.tensor([8.0, 4.0, 2.0, 2.0]).log()
    logits = torch.stack([shares.expand(4, 4), torch.randn(4, 4)])[None].requires_grad_()
    loss = QualityFocalLoss(ANCHORS, DistanceCode(), box_loss="giou")
    plain = loss(outputs_with(None), BOX, torch.tensor([[0]]))
    found = loss(outputs_with(Distributions(logits, torch.tensor([[0.5]]))), BOX, torch.tensor([[0]]))
    log2 = math.log(2)
    sides = [2.5 * log2, 2 * log2, 2.5 * log2, 3 * log2]
    assert (found.total - plain.total).item() == pytest.approx(0.25 * sum(sides) / 4, rel=1e-5)
    assert (found.box, found.classification) == (plain.box, plain.classification)
    (gradient,) = torch.autograd.grad(found.total, logits)
    assert float(gradient[0, 0].abs().max()) > 0.01 and float(gradient[0, 1].abs().max()) == 0


def test_a_batch_without_objects_teaches_no_distances() -> None:
    logits = torch.randn(1, 2, 4, 4, requires_grad=True)
    loss = QualityFocalLoss(ANCHORS, DistanceCode(), box_loss="giou")
    outputs = outputs_with(Distributions(logits, torch.tensor([[0.5]])))
    found = loss(outputs, torch.zeros(1, 0, 4), torch.zeros(1, 0, dtype=torch.int64))
    (gradient,) = torch.autograd.grad(found.total, logits)
    assert float(gradient.abs().max()) == 0 and math.isfinite(float(found.total))
