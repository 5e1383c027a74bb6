"""ATSS, SimOTA and TAL: small cases worked out by hand, and each algorithm once more as loops over images and boxes."""

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from ssdlite.anchors import AnchorConfig, generate_anchors
from ssdlite.config import preset_config
from ssdlite.errors import ConfigError
from ssdlite.heads.assigners import (
    IGNORED,
    NEGATIVE,
    AtssAssigner,
    MaxIoUAssigner,
    SimOtaAssigner,
    TaskAlignedAssigner,
    build_assigner,
)
from ssdlite.heads.base import IGNORE_LABEL, PADDING_LABEL


class Predicted(NamedTuple):
    scores: Tensor
    boxes: Tensor


# One map of 4 cells of 10 pixels in a row, a single 10 x 10 anchor each.
ROW = torch.tensor([[x, 0.0, x + 10, 10.0] for x in (0, 10, 20, 30)])


def nothing(anchors: Tensor, classes: int = 1, images: int = 1) -> Predicted:
    return Predicted(torch.full((images, len(anchors), classes), 0.5), anchors.expand(images, -1, -1))


def assign(matcher, boxes, labels, predicted=None, anchors=ROW):
    boxes = torch.tensor(boxes, dtype=torch.float32).view(1, -1, 4)
    return matcher(anchors, boxes, torch.tensor([labels], dtype=torch.int64), predicted or nothing(anchors))[0].tolist()


def test_atss_takes_what_overlaps_more_than_usual_and_has_its_centre_inside():
    # Overlaps with the box 0..20 are 1/2, 1/2, 0: mean 1/3, deviation sqrt(1/12) = 0.289, so 0.622 is asked for; none
    # reaches it, and the best anchor steps in.
    assert assign(AtssAssigner([4], [1], candidates=3), [0, 0, 20, 10], [0]) == [0, NEGATIVE, NEGATIVE, NEGATIVE]
    # The box 1..11 overlaps the first by 9/11 and the second by 1/19: mean 0.435, deviation 0.541, threshold 0.977.
    assert assign(AtssAssigner([4], [1], candidates=2), [1, 0, 11, 10], [0]) == [0, NEGATIVE, NEGATIVE, NEGATIVE]
    # A box over all four: each overlaps by 1/4, the threshold is 1/4, and every centre lies inside.
    assert assign(AtssAssigner([4], [1], candidates=4), [0, 0, 40, 10], [0]) == [0, 0, 0, 0]


def test_simota_takes_as_many_as_the_predicted_overlaps_sum_up_to():
    # The predictions are the anchors; the box 0..40 overlaps each by 1/4: they sum to 1, so one is taken, any of them.
    assert sorted(assign(SimOtaAssigner(torch.full((4,), 10.0)), [0, 0, 40, 10], [0])) == [NEGATIVE] * 3 + [0]
    # Three predictions are the box itself: they sum to 3.25, three are taken, wherever their anchors stand.
    boxes = torch.tensor([[[0.0, 0, 40, 10], [0, 0, 10, 10], [0, 0, 40, 10], [0, 0, 40, 10]]])
    predicted = Predicted(torch.full((1, 4, 1), 0.5), boxes)
    assert assign(SimOtaAssigner(torch.full((4,), 10.0)), [0, 0, 40, 10], [0], predicted) == [0, NEGATIVE, 0, 0]


def test_simota_prefers_the_anchor_that_scores_the_class():
    # Both middle anchors predict the box with overlap 1/2 (so one is taken); only the second believes in the class.
    boxes = torch.tensor([[[0.0, 0, 1, 1], [10, 0, 20, 10], [20, 0, 30, 10], [0, 0, 1, 1]]])
    scores = torch.tensor([[[0.01], [0.01], [0.5], [0.01]]])
    found = assign(SimOtaAssigner(torch.full((4,), 10.0)), [10, 0, 30, 10], [0], Predicted(scores, boxes))
    assert found == [NEGATIVE, NEGATIVE, 0, NEGATIVE]


def test_tal_takes_the_best_aligned_inside_the_box():
    # Overlaps of the predictions with the box 0..30: 1, 2/3, 1/3 and, of the last, whose anchor lies outside, 1. By
    # score * overlap ** 6 the first has 0.1 and the second 0.9 * 0.0878 = 0.079; both are before the third's 0.001.
    boxes = torch.tensor([[[0.0, 0, 30, 10], [0, 0, 20, 10], [0, 0, 10, 10], [0, 0, 30, 10]]])
    scores = torch.tensor([[[0.1], [0.9], [0.9], [0.9]]])
    predicted = Predicted(scores, boxes)
    assert assign(TaskAlignedAssigner(most=1), [0, 0, 30, 10], [0], predicted) == [0] + [NEGATIVE] * 3
    assert assign(TaskAlignedAssigner(most=2), [0, 0, 30, 10], [0], predicted) == [0, 0, NEGATIVE, NEGATIVE]
    assert assign(TaskAlignedAssigner(most=9), [0, 0, 30, 10], [0], predicted) == [0, 0, 0, NEGATIVE]
    assert assign(TaskAlignedAssigner(most=1, beta=1), [0, 0, 30, 10], [0], predicted)[1] == 0  # 0.6 against 0.1


def test_tal_gives_a_box_between_all_centres_the_nearest_and_an_anchor_to_the_box_that_it_overlaps_most():
    assert assign(TaskAlignedAssigner(), [11, 4, 14, 6], [0]) == [NEGATIVE, 0, NEGATIVE, NEGATIVE]
    predicted = nothing(ROW, classes=2)
    assert assign(TaskAlignedAssigner(), [[0, 0, 20, 10], [0, 0, 12, 10]], [0, 1], predicted) == [
        1,
        0,
        NEGATIVE,
        NEGATIVE,
    ]


def test_simota_looks_only_near_the_box():
    # Every prediction is the box, but with a radius of 1 only anchors within 10 pixels of its centre (5, 5) may answer.
    predicted = Predicted(torch.full((1, 4, 1), 0.5), torch.tensor([[[0.0, 0, 10, 10]] * 4]))
    near = SimOtaAssigner(torch.full((4,), 10.0), radius=1.0)
    assert assign(near, [0, 0, 10, 10], [0], predicted) == [0, NEGATIVE, NEGATIVE, NEGATIVE]
    wide = SimOtaAssigner(torch.full((4,), 10.0), radius=2.5)
    assert assign(wide, [0, 0, 10, 10], [0], predicted) == [0, 0, 0, NEGATIVE]


CONFIG = preset_config("ssdlite320_mobilenet_v2", num_classes=3, image_size=160)
ANCHORS = torch.from_numpy(generate_anchors(CONFIG.anchors, CONFIG.input.size, CONFIG.grid_sizes))
ALL = pytest.mark.parametrize("name", ["atss", "simota", "tal"])


@ALL
def test_no_objects_padding_and_ignored_regions(name):
    matcher = build_assigner(name, CONFIG, torch.device("cpu"))
    predicted = nothing(ANCHORS, classes=2)
    empty = matcher(ANCHORS, torch.zeros(1, 0, 4), torch.zeros(1, 0, dtype=torch.int64), predicted)
    assert (empty == NEGATIVE).all()
    boxes = torch.tensor([[[50.0, 50, 90, 90], [0, 0, 160, 80], [0.0, 0, 0, 0]]])
    labels = torch.tensor([[1, IGNORE_LABEL, PADDING_LABEL]])
    found = matcher(ANCHORS, boxes, labels, predicted)
    ssd = MaxIoUAssigner()(ANCHORS, boxes, labels)
    assert set(found.unique().tolist()) == {0, NEGATIVE, IGNORED}
    unmatched = (found < 0) & (ssd < 0)
    assert torch.equal(found[unmatched], ssd[unmatched])


@ALL
def test_a_box_without_area_gets_no_anchor(name):
    matcher = build_assigner(name, CONFIG, torch.device("cpu"))
    boxes = torch.tensor([[[50.0, 50, 50, 50], [60, 60, 60, 90]]])
    assert (matcher(ANCHORS, boxes, torch.tensor([[0, 0]]), nothing(ANCHORS)) == NEGATIVE).all()


def random_case(anchors: Tensor, images=3, count=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(images, count, 2, generator=generator) * 140 + 10
    sides = torch.rand(images, count, 2, generator=generator) * 60 + 8
    boxes = torch.cat([centres - sides / 2, centres + sides / 2], dim=2)
    labels = torch.randint(0, 3, (images, count), generator=generator)
    noise = torch.randn(images, len(anchors), 4, generator=generator) * 4
    scores = torch.rand(images, len(anchors), 3, generator=generator)
    return boxes, labels, Predicted(scores, anchors + noise)


def test_atss_is_the_papers_algorithm_as_loops():
    """With one anchor a cell, as in the paper."""
    shapes = AnchorConfig(tuple(((size, size),) for size in (0.1, 0.2, 0.35, 0.5, 0.7, 0.9)))
    anchors = torch.from_numpy(generate_anchors(shapes, CONFIG.input.size, CONFIG.grid_sizes))
    boxes, labels, predicted = random_case(anchors)
    cells = [rows * columns for rows, columns in CONFIG.grid_sizes]
    found = AtssAssigner(cells, [1] * 6)(anchors, boxes, labels, predicted)
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    for image in range(len(boxes)):
        overlap = box_iou(boxes[image], anchors)
        best, expected = [-1.0] * len(anchors), [NEGATIVE] * len(anchors)
        for number, box in enumerate(boxes[image]):
            distance = (centres - (box[:2] + box[2:]) / 2).pow(2).sum(dim=1)
            candidates, start = [], 0
            for count in cells:
                candidates += sorted(range(start, start + count), key=distance.__getitem__)[:9]
                start += count
            values = overlap[number, candidates]
            threshold = values.mean() + values.std()
            inside = ((centres > box[:2]) & (centres < box[2:])).all(dim=1)
            chosen = [i for i in candidates if overlap[number, i] >= threshold and inside[i]]
            for i in chosen or [int(overlap[number].argmax())]:
                if overlap[number, i] > best[i]:
                    best[i], expected[i] = overlap[number, i], number
        assert found[image].tolist() == expected


def test_simota_is_the_papers_algorithm_as_loops():
    anchors = ANCHORS
    boxes, labels, predicted = random_case(anchors, seed=1)
    found = build_assigner("simota", CONFIG, torch.device("cpu"))(anchors, boxes, labels, predicted)
    strides = []
    for (rows, columns), shapes, stride in zip(
        CONFIG.grid_sizes, CONFIG.anchors.shapes_per_cell, CONFIG.strides, strict=True
    ):
        strides += [stride] * (rows * columns * shapes)
    centres = ((anchors[:, :2] + anchors[:, 2:]) / 2).tolist()
    for image in range(len(boxes)):
        overlap = box_iou(boxes[image], predicted.boxes[image])
        cheapest = [math.inf] * len(anchors)
        expected = [NEGATIVE] * len(anchors)
        for number, box in enumerate(boxes[image].tolist()):
            middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
            allowed = [
                i
                for i, (x, y) in enumerate(centres)
                if (box[0] < x < box[2] and box[1] < y < box[3])
                or (abs(x - middle[0]) < 2.5 * strides[i] and abs(y - middle[1]) < 2.5 * strides[i])
            ]
            iou = {i: overlap[number, i].item() for i in allowed}
            costs = {}
            for i in allowed:
                p = predicted.scores[image, i, labels[image, number]].clamp(1e-6, 1 - 1e-6).item()
                entropy = -(iou[i] * math.log(p) + (1 - iou[i]) * math.log(1 - p))
                costs[i] = entropy * (iou[i] - p) ** 2 - 3 * math.log(max(iou[i], 1e-6))
            wanted = max(int(sum(sorted(iou.values())[-10:])), 1)
            for i in sorted(costs, key=costs.__getitem__)[:wanted]:
                if costs[i] < cheapest[i]:
                    cheapest[i], expected[i] = costs[i], number
        assert found[image].tolist() == expected


def test_tal_is_the_papers_algorithm_as_loops():
    boxes, labels, predicted = random_case(ANCHORS, seed=2)
    found = build_assigner("tal", CONFIG, torch.device("cpu"))(ANCHORS, boxes, labels, predicted)
    centres = ((ANCHORS[:, :2] + ANCHORS[:, 2:]) / 2).tolist()
    for image in range(len(boxes)):
        overlap = box_iou(boxes[image], predicted.boxes[image])
        best, expected = [-1.0] * len(ANCHORS), [NEGATIVE] * len(ANCHORS)
        for number, box in enumerate(boxes[image].tolist()):
            inside = [i for i, (x, y) in enumerate(centres) if box[0] < x < box[2] and box[1] < y < box[3]]
            score = predicted.scores[image, :, labels[image, number]]
            alignment = (score * overlap[number] ** 6).tolist()
            aligned = sorted((i for i in inside if alignment[i] > 0), key=lambda one: -alignment[one])[:13]
            middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
            for i in aligned or [min(range(len(centres)), key=lambda one: math.dist(centres[one], middle))]:
                if overlap[number, i] > best[i]:
                    best[i], expected[i] = overlap[number, i], number
        assert len(set(expected)) > 3
        assert found[image].tolist() == expected


def test_an_unknown_assigner_is_refused_by_name():
    with pytest.raises(ConfigError, match="unknown assigner 'atts'; did you mean 'atss'"):
        build_assigner("atts", CONFIG, torch.device("cpu"))
