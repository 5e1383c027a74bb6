"""Every way to suppress, for few boxes and for many, against torchvision's operator run group by group."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision

from ssdlite.config import PRESETS
from ssdlite.heads.postprocess import _suppress_at_once, _suppress_in_chunks, _suppress_on_cpu
from ssdlite.nms import Groups, grouped_nms
from ssdlite.runtime import postprocess as suppression

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
    config = replace(PRESET, nms_threshold=threshold, candidates_per_class=limit)
    ways = {
        "pairs": grouped_nms(ordered.numpy(), chosen, threshold),
        "box by box": suppression._in_turn(ordered.numpy(), chosen, threshold),
        "chunks": _suppress_in_chunks(ordered, group[order], chosen.ends, config) if count else [],
    }
    for way, alive in ways.items():
        assert torch.equal(torch.as_tensor(np.asarray(alive, bool)), expected[order]), way
    assert torch.equal(_suppress_on_cpu(boxes, group, config), expected)
    assert torch.equal(_suppress_at_once(boxes, group, config), expected)


def test_one_large_group_has_many_pairs_and_many_small_ones_few() -> None:
    assert Groups(np.repeat(np.arange(90), 10), 100).has_few_pairs
    assert not Groups(np.zeros(400, int), 1000).has_few_pairs
    assert Groups(np.zeros(400, int), 100).has_few_pairs
