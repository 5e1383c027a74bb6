"""Post-processing in numpy: a crowd, and the forms of boxes; the rest stands in tests/test_postprocess_cases.py."""

import numpy as np
import pytest
import torch
import torchvision

from ssdlite.runtime.contract import BoxSpec, PostprocessSpec
from ssdlite.runtime.postprocess import boxes_to_pixels, class_scores, select_detections

SIZE = (64, 96)


def spec(**changes: object) -> PostprocessSpec:
    values = {
        "score_function": "softmax",
        "score_threshold": 0.05,
        "nms_threshold": 0.5,
        "candidates_per_class": 300,
        "max_detections": 100,
        "max_candidates": 1024,
    }
    return PostprocessSpec(**(values | changes))


def test_in_a_crowd_the_same_as_by_loops_over_all_pairs():
    """Of 3000 anchors and 20 classes: more candidates than are looked at first, and more than the limits allow."""
    random = np.random.default_rng(0)
    corners = random.uniform(0, 80, (3000, 2))
    boxes = np.concatenate([corners, corners + random.uniform(4, 40, (3000, 2))], axis=1).astype(np.float32)
    scores = random.uniform(0, 1, (3000, 20)).astype(np.float32)
    chosen = spec(score_threshold=0.25, nms_threshold=0.1, candidates_per_class=200, max_detections=300)
    found = select_detections(scores, boxes, chosen, tuple(map(str, range(20))))
    expected = []
    for label in range(20):
        order = np.argsort(-scores[:, label])[:200]
        kept = torchvision.ops.nms(
            torch.from_numpy(boxes[order]).double(), torch.from_numpy(scores[order, label]).double(), 0.1
        )
        expected += [(scores[anchor, label], label, anchor) for anchor in order[kept]]
    expected = sorted(expected, reverse=True)[:300]
    assert len(expected) == 300
    assert found.labels.tolist() == [label for _, label, _ in expected]
    assert found.scores.tolist() == [score for score, _, _ in expected]
    assert found.boxes.tolist() == boxes[[anchor for *_, anchor in expected]].tolist()
    assert found.class_names[19] == "19"


def test_numbers_that_are_none_are_no_detections_and_no_warnings():
    nothing = np.full((4, 2), np.nan, np.float32)
    boxes = np.full((4, 4), np.nan, np.float32)
    assert len(select_detections(nothing, boxes, spec(), ("a", "b"))) == 0
    assert len(select_detections(np.ones((4, 2), np.float32), boxes, spec(), ("a", "b"))) == 8
    extreme = np.array([[[np.inf, 0, 0], [-1e30, 1e30, 0], [np.nan, 0, 0]]], np.float32)
    assert class_scores(extreme, "softmax")[0, 1].tolist() == [1, 0]
    assert class_scores(extreme, "sigmoid")[0, 1].tolist() == [1, 0.5]
    assert class_scores(np.array([[[0, -1e30]]], np.float32), "sigmoid").tolist() == [[[0]]]


@pytest.mark.parametrize(
    ("form", "values"),
    [
        (BoxSpec(), [0.25, 0.5, 0.75, 1.5]),
        (BoxSpec(format="yxyx"), [0.5, 0.25, 1.5, 0.75]),
        (BoxSpec(scale="pixels"), [24, 32, 72, 96]),
        (BoxSpec(format="yxyx", scale="pixels"), [32, 24, 96, 72]),
    ],
)
def test_every_form_of_box_becomes_pixels_within_the_input(form: BoxSpec, values: list[float]):
    boxes = np.array([[values]], np.float32)
    assert boxes_to_pixels(boxes, form, SIZE).tolist() == [[[24, 32, 72, 64]]]
