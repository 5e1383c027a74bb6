"""Every way to suppress, for few boxes and for many, against torchvision's operator run group by group."""

import numpy as np
import pytest
import torch
import torchvision

from ssdlite.config import PRESETS, override
from ssdlite.heads.postprocess import _suppress_at_once, _suppress_in_chunks, _suppress_on_cpu
from ssdlite.nms import (
    Groups,
    grouped_nms,
    logit_bound,
    pairwise_iou,
    strict_threshold,
    suppress_by_pairs,
    suppress_in_turn,
)

PRESET = PRESETS["ssdlite320_mobilenet_v3_large"]
CASES = [(0, 3, 10), (1, 1, 10), (400, 60, 10_000), (400, 60, 3), (700, 1, 10_000), (700, 2, 200), (900, 5, 10_000)]


def boxes_in_groups(count: int, groups: int) -> tuple[torch.Tensor, torch.Tensor]:
    """[count, 4] float64, best first, some without area, some the same; and the group of each."""
    random = np.random.default_rng(count + groups)
    corners = random.uniform(0, 200, (count, 2))
    sides = random.uniform(0, 120, (count, 2)) * (random.uniform(size=(count, 1)) > 0.05)
    boxes = np.concatenate([corners, corners + sides], axis=1)
    boxes[1::7] = boxes[: len(boxes[1::7])]
    return torch.from_numpy(boxes), torch.from_numpy(random.integers(0, groups, count))


def by_torchvision(boxes: torch.Tensor, group: torch.Tensor, threshold: float, limit: int) -> torch.Tensor:
    kept = torch.zeros(len(boxes), dtype=torch.bool)
    for one in group.unique():
        places = (group == one).nonzero().squeeze(1)[:limit]
        kept[places[torchvision.ops.nms(boxes[places], -torch.arange(len(places)).double(), threshold)]] = True
    return kept


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.55, 1.0])
@pytest.mark.parametrize(("count", "groups", "limit"), CASES)
def test_all_ways_leave_what_torchvision_leaves(count: int, groups: int, limit: int, threshold: float) -> None:
    boxes, group = boxes_in_groups(count, groups)
    expected = by_torchvision(boxes, group, threshold, limit)
    assert threshold in (0.0, 1.0) or count < 10 or 0 < int(expected.sum()) < count

    chosen = Groups(group.numpy(), limit)
    ordered, order = boxes[chosen.order], torch.from_numpy(chosen.order)
    config = override(PRESET, nms_threshold=threshold, candidates_per_class=limit)
    ways = {
        "pairs": suppress_by_pairs(ordered.numpy(), chosen, threshold),
        "box by box": suppress_in_turn(ordered.numpy(), chosen, threshold),
        "chunks": _suppress_in_chunks(ordered, group[order], chosen.ends, config) if count else [],
    }
    for way, alive in ways.items():
        assert torch.equal(torch.as_tensor(np.asarray(alive, bool)), expected[order]), way
    assert torch.equal(_suppress_on_cpu(boxes, group, config), expected)
    assert torch.equal(_suppress_at_once(boxes, group, config), expected)


def test_one_large_group_has_many_pairs_and_many_small_ones_few() -> None:
    assert Groups(np.repeat(np.arange(90), 10), 100).has_few_pairs(64)
    assert not Groups(np.zeros(400, int), 1000).has_few_pairs(64)
    assert Groups(np.zeros(400, int), 100).has_few_pairs(64)


@pytest.mark.parametrize("count", [40, 1500])  # by pairs, and box by box
def test_of_copies_of_a_box_the_best_is_left(count: int) -> None:
    boxes = np.tile([[10.0, 20, 30, 40]], (count, 1))
    assert grouped_nms(boxes, Groups(np.zeros(count, int), count), 0.5).nonzero()[0].tolist() == [0]
    boxes[1::2] += 100
    assert grouped_nms(boxes, Groups(np.zeros(count, int), count), 0.5).nonzero()[0].tolist() == [0, 1]
    boxes[:] = np.nan
    assert grouped_nms(boxes, Groups(np.zeros(count, int), count), 0.5).all()


def test_iou_of_every_pair_by_hand() -> None:
    a = np.array([[0.0, 0, 10, 10], [5, 5, 15, 15], [20, 20, 30, 25], [5, 5, 5, 5]], np.float32)
    b = np.array([[0.0, 0, 10, 5], [5, 5, 10, 10], [5, 5, 5, 5]], np.float32)
    expected = [[0.5, 0.25, 0], [0, 0.25, 0], [0, 0, 0], [0, 0, 0]]
    np.testing.assert_allclose(pairwise_iou(a, b), expected, rtol=1e-6)
    assert pairwise_iou(np.zeros((0, 4)), b).shape == (0, 3)


def test_a_strict_threshold_is_the_stricter_of_both_in_float32() -> None:
    assert strict_threshold(0.001, 0.0) == strict_threshold(0.001, 0.001) == 0.001
    assert strict_threshold(0.25, 0.5) == 0.5 - 2**-25  # what float32 has next below 0.5
    assert strict_threshold(0.0, 1.0) == 1 - 2**-24
    assert strict_threshold(0.0, 0.0) == 0
    assert strict_threshold(1.0, 0.3) == 1


def test_logits_up_to_the_bound_score_no_more_than_the_threshold() -> None:
    assert logit_bound(0.5) == -0.001
    assert logit_bound(0.75) == pytest.approx(1.0986123 - 0.001)
    assert (logit_bound(0.0), logit_bound(1.0)) == (-np.inf, np.inf)
