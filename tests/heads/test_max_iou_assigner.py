"""The matcher: literal matrices, and torchvision's SSDMatcher on random boxes."""

import numpy as np
import pytest
import torch
import torchvision
from torchvision.models.detection._utils import SSDMatcher

from ssdlite.anchors import generate_anchors
from ssdlite.config import PRESETS
from ssdlite.heads.assigners import IGNORED, NEGATIVE, MaxIoUAssigner, build_targets
from ssdlite.heads.base import IGNORE_LABEL, PADDING_LABEL

# Four anchors of 10 x 10 side by side, with gaps of 10.
ANCHORS = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10]])
GRIDS_96 = ((6, 6), (3, 3), (2, 2), (1, 1), (1, 1), (1, 1))


def match(boxes: list[list[float]], labels: list[int] | None = None, anchors: torch.Tensor = ANCHORS) -> list[int]:
    """One image; every box is of class 0 unless ``labels`` says otherwise."""
    labels = [0] * len(boxes) if labels is None else labels
    found = MaxIoUAssigner()(
        anchors, torch.tensor(boxes).view(1, -1, 4), torch.tensor(labels, dtype=torch.int64).view(1, -1)
    )
    return found[0].tolist()


def random_batch(images: int, most: int, side: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """boxes [B, M, 4] and labels [B, M], with 1 to ``most`` objects an image and padding behind them."""
    generator = np.random.default_rng(seed)
    boxes, labels = np.zeros((images, most, 4), np.float32), np.full((images, most), PADDING_LABEL)
    for i in range(images):
        count = int(generator.integers(1, most + 1))
        sides = np.exp(generator.uniform(np.log(10), np.log(side), (count, 2)))
        centres = generator.uniform(0, side, (count, 2))
        boxes[i, :count] = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1).clip(0, side)
        labels[i, :count] = generator.integers(0, 20, count)
    return torch.from_numpy(boxes), torch.from_numpy(labels)


def test_an_anchor_takes_its_best_box():
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 30], [3, 0, 13, 10]])
    # IoU of the boxes with anchor 0: 80/120 and 90/110; with 1: 80/320, 90/310; with 2: 90/110 and 80/120
    assert match([[2, 0, 12, 10], [1, 0, 11, 10]], anchors=anchors) == [1, NEGATIVE, 0]


def test_several_anchors_may_have_the_same_box():
    anchors = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 21], [4, 0, 14, 10]])
    # IoU with (0, 0, 10, 10): 1, 90/110, 100/210, 60/140
    assert match([[0, 0, 10, 10]], anchors=anchors) == [0, 0, NEGATIVE, NEGATIVE]


def test_the_threshold_itself_counts():
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 20], [0, 0, 10, 20.5]])  # IoU 1, exactly 1/2, and less
    assert match([[0, 0, 10, 10]], anchors=anchors) == [0, 0, NEGATIVE]


def test_every_box_gets_its_best_anchor_however_little_they_overlap():
    assert match([[29, 9, 39, 39]]) == [NEGATIVE, 0, NEGATIVE, NEGATIVE]


def test_forcing_takes_an_anchor_from_a_box_that_fits_it_better():
    """Box 0 fits anchor 0 well (IoU 1); box 1 touches it only, but has no other."""
    assert match([[0, 0, 10, 10], [9, 9, 15, 15]]) == [1, NEGATIVE, NEGATIVE, NEGATIVE]


def test_of_two_boxes_with_the_same_best_anchor_the_later_gets_it():
    assert match([[0, 0, 10, 10], [0, 0, 10, 10]]) == [1, NEGATIVE, NEGATIVE, NEGATIVE]


def test_a_box_that_overlaps_no_anchor_gets_none():
    assert match([[100, 100, 120, 120]]) == [NEGATIVE] * 4
    assert match([[100, 100, 120, 120], [20, 0, 30, 10]]) == [NEGATIVE, 1, NEGATIVE, NEGATIVE]


def test_a_box_without_area_gets_none():
    assert match([[5, 5, 5, 5], [5, 0, 5, 10]]) == [NEGATIVE] * 4


def test_padding_is_no_object_even_where_an_anchor_lies():
    assert match([[0, 0, 10, 10], [20, 0, 30, 10]], [0, PADDING_LABEL]) == [0, NEGATIVE, NEGATIVE, NEGATIVE]
    assert match([[0, 0, 0, 0]], [PADDING_LABEL]) == [NEGATIVE] * 4


def test_anchors_mostly_within_an_ignored_region_are_ignored():
    # the region covers anchor 0 wholly, half of anchor 1 and a tenth less than half of anchor 2
    anchors = torch.tensor([[0.0, 0, 10, 10], [25, 0, 35, 10], [26, 0, 36, 10], [60, 0, 70, 10]])
    assert match([[0, 0, 30, 10]], [IGNORE_LABEL], anchors) == [IGNORED, IGNORED, NEGATIVE, NEGATIVE]


def test_regions_are_measured_one_by_one():
    assert match([[0, 0, 4, 10], [6, 0, 10, 10]], [IGNORE_LABEL] * 2) == [NEGATIVE] * 4


def test_an_object_in_an_ignored_region_is_an_object():
    assert match([[0, 0, 70, 10], [20, 0, 30, 10]], [IGNORE_LABEL, 0]) == [IGNORED, 1, IGNORED, IGNORED]
    anchors = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [30, 0, 40, 10]])
    assert match([[0, 0, 70, 10], [0, 0, 10, 10]], [IGNORE_LABEL, 0], anchors) == [1, 1, IGNORED]
    # forced at a low overlap, within the region as well
    assert match([[0, 0, 70, 10], [28, 8, 38, 18]], [IGNORE_LABEL, 0]) == [IGNORED, 1, IGNORED, IGNORED]


def test_no_boxes_at_all():
    assert match([]) == [NEGATIVE] * 4
    found = MaxIoUAssigner()(ANCHORS, torch.zeros(3, 0, 4), torch.zeros(3, 0, dtype=torch.int64))
    assert found.shape == (3, 4)
    assert found.dtype == torch.int64


def test_other_thresholds():
    boxes, labels = torch.tensor([[[0.0, 0, 10, 15]]]), torch.tensor([[0]])
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 12]])  # IoU 2/3 and 4/5
    assert MaxIoUAssigner(0.6)(anchors, boxes, labels).tolist() == [[0, 0]]
    assert MaxIoUAssigner(0.7)(anchors, boxes, labels).tolist() == [[NEGATIVE, 0]]
    region = torch.tensor([[IGNORE_LABEL]])
    assert MaxIoUAssigner(ignore_threshold=1.01)(anchors, boxes, region).tolist() == [[NEGATIVE, NEGATIVE]]


@pytest.mark.parametrize("preset", ["ssdlite320_mobilenet_v2", "ssdlite320_mobilenet_v3_large"])
def test_matches_are_torchvisions(preset):
    config = PRESETS[preset]
    anchors = torch.from_numpy(generate_anchors(config.anchors, config.input.size, config.grid_sizes))
    boxes, labels = random_batch(images=40, most=12, side=320, seed=0)
    ours = MaxIoUAssigner()(anchors, boxes, labels)
    theirs = SSDMatcher(0.5)
    forced = 0
    for i in range(len(boxes)):
        count = int((labels[i] >= 0).sum())
        iou = torchvision.ops.box_iou(boxes[i, :count], anchors)
        assert ours[i].tolist() == theirs(iou).tolist()
        forced += int((iou.amax(dim=1) < 0.5).sum())
    assert forced > 5  # so that the second rule was tried as well


def test_images_do_not_influence_each_other():
    anchors = torch.from_numpy(generate_anchors(PRESETS["ssdlite320_mobilenet_v2"].anchors, (96, 96), GRIDS_96))
    boxes, labels = random_batch(images=6, most=5, side=96, seed=1)
    together = MaxIoUAssigner()(anchors, boxes, labels)
    alone = torch.cat([MaxIoUAssigner()(anchors, boxes[i : i + 1], labels[i : i + 1]) for i in range(6)])
    assert torch.equal(together, alone)


def test_targets_by_hand():
    boxes = torch.tensor([[[0.0, 0, 10, 10], [20, 0, 30, 10], [0, 0, 0, 0]], [[60.0, 0, 70, 10], [0] * 4, [0] * 4]])
    labels = torch.tensor([[7, 3, PADDING_LABEL], [0, PADDING_LABEL, PADDING_LABEL]])
    matches = torch.tensor([[1, 0, NEGATIVE, IGNORED], [NEGATIVE, NEGATIVE, NEGATIVE, 0]])
    targets = build_targets(matches, boxes, labels)
    assert targets.classes.tolist() == [[4, 8, 0, 0], [0, 0, 0, 1]]
    assert targets.positive.tolist() == [[True, True, False, False], [False, False, False, True]]
    assert targets.negative.tolist() == [[False, False, True, False], [True, True, True, False]]
    assert targets.boxes[0, :2].tolist() == [[20, 0, 30, 10], [0, 0, 10, 10]]
    assert targets.boxes[1, 3].tolist() == [60, 0, 70, 10]


def test_targets_without_boxes():
    matches = torch.full((2, 4), NEGATIVE)
    targets = build_targets(matches, torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64))
    assert targets.classes.eq(0).all()
    assert targets.negative.all()
    assert not targets.positive.any()
    assert targets.boxes.shape == (2, 4, 4)
