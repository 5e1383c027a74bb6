"""Post-processing in numpy against that in torch, and against literals where torch leaves an order open."""

import numpy as np
import pytest
import torch

from ssdlite.anchors import AnchorConfig
from ssdlite.config import DetectorConfig, override
from ssdlite.heads.base import Outputs
from ssdlite.heads.boxes import MAX_LOG_SCALE
from ssdlite.heads.postprocess import postprocess
from ssdlite.runtime.contract import AnchorSpec, BoxSpec, PostprocessSpec
from ssdlite.runtime.postprocess import boxes_to_pixels, class_scores, decode_boxes, select_detections

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


def random_anchors(random: np.random.Generator, count: int) -> np.ndarray:
    """[A, 4] xyxy in input pixels."""
    centres = random.uniform(0, [SIZE[1], SIZE[0]], (count, 2))
    sides = random.uniform(4, 40, (count, 2))
    return np.concatenate([centres - sides / 2, centres + sides / 2], axis=1).astype(np.float32)


def anchor_spec(anchors: np.ndarray) -> AnchorSpec:
    wide = anchors.astype(np.float64)
    sides = np.array([SIZE[1], SIZE[0]])
    values = np.concatenate([(wide[:, :2] + wide[:, 2:]) / 2 / sides, (wide[:, 2:] - wide[:, :2]) / sides], axis=1)
    return AnchorSpec(
        box_code_scales=(10.0, 10.0, 5.0, 5.0), max_log_scale=MAX_LOG_SCALE, values=tuple(map(tuple, values.tolist()))
    )


def detector_config(classes: int, chosen: PostprocessSpec) -> DetectorConfig:
    return override(
        DetectorConfig(),
        class_names=tuple(map(str, range(classes))),
        image_size=SIZE,
        anchors=AnchorConfig((((0.1, 0.1),),) * 6),
        score_function=chosen.score_function,
        score_threshold=chosen.score_threshold,
        nms_threshold=chosen.nms_threshold,
        candidates_per_class=chosen.candidates_per_class,
        max_detections=chosen.max_detections,
    )


@pytest.mark.parametrize(
    ("anchors", "classes", "changes"),
    [
        (300, 3, {}),
        (300, 1, {"score_function": "sigmoid"}),
        (300, 3, {"score_function": "sigmoid", "nms_threshold": 0.3}),
        (300, 3, {"candidates_per_class": 7}),
        (300, 3, {"max_detections": 5}),
        (300, 3, {"candidates_per_class": 1, "max_detections": 300}),
        (300, 3, {"score_threshold": 0.0, "max_detections": 300}),
        (300, 3, {"score_threshold": 1.0}),
        (300, 3, {"nms_threshold": 0.0}),
        (300, 3, {"nms_threshold": 1.0}),
        (1500, 20, {"score_threshold": 0.0, "max_detections": 300}),  # more than are looked at in the first round
        (1500, 20, {"score_threshold": 0.0, "nms_threshold": 0.01, "max_detections": 300}),  # many rounds
        (1, 1, {"score_function": "sigmoid"}),
    ],
)
def test_the_same_as_in_torch(anchors: int, classes: int, changes: dict[str, object]):
    random = np.random.default_rng(anchors + classes)
    chosen = spec(**changes)
    corners = random_anchors(random, anchors)
    logits = random.normal(0, 2, (2, anchors, classes + 1)).astype(np.float32)
    deltas = random.normal(0, 3, (2, anchors, 4)).astype(np.float32)
    expected = postprocess(
        Outputs(torch.from_numpy(logits), torch.from_numpy(deltas)),
        torch.from_numpy(corners),
        detector_config(classes, chosen),
    )
    scores = class_scores(logits, chosen.score_function)
    boxes = decode_boxes(deltas, anchor_spec(corners), SIZE)
    for number in range(2):
        found = select_detections(scores[number], boxes[number], chosen)
        count = int(expected.counts[number])
        assert len(found.scores) == count
        np.testing.assert_allclose(found.scores, expected.scores[number, :count], atol=1e-6)
        np.testing.assert_array_equal(found.labels, expected.labels[number, :count])
        np.testing.assert_allclose(found.boxes, expected.boxes[number, :count], atol=1e-3)


def test_wild_deltas_decode_as_in_torch():
    from ssdlite.heads.boxes import CenterSizeCode, clip_boxes

    corners = random_anchors(np.random.default_rng(0), 50)
    deltas = np.random.default_rng(1).normal(0, 100, (1, 50, 4)).astype(np.float32)
    tensors = CenterSizeCode().decode(torch.from_numpy(deltas), torch.from_numpy(corners))
    found = decode_boxes(deltas, anchor_spec(corners), SIZE)
    np.testing.assert_allclose(found, clip_boxes(tensors, SIZE), atol=2e-3)


def test_a_box_at_the_threshold_stays():
    """IoU of the first two is exactly 1/3: 50 of 150 square pixels."""
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [0, 0, 10, 9]], np.float32)
    scores = np.array([[0.9], [0.8], [0.7]], np.float32)
    stays = select_detections(scores, boxes, spec(nms_threshold=1 / 3))
    assert stays.boxes.tolist() == [[0, 0, 10, 10], [5, 0, 15, 10]]
    falls = select_detections(scores, boxes, spec(nms_threshold=0.333))
    assert falls.boxes.tolist() == [[0, 0, 10, 10]]


def test_classes_do_not_suppress_one_another_and_a_score_at_the_threshold_does_not_count():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 10]], np.float32)
    scores = np.array([[0.5, 0.25], [0.25, 0.75]], np.float32)
    found = select_detections(scores, boxes, spec(score_threshold=0.25))
    assert found.labels.tolist() == [1, 0]
    assert found.scores.tolist() == [0.75, 0.5]


def test_of_equal_scores_the_first_anchor_and_then_the_first_class_is_better():
    boxes = np.array([[0, 0, 9, 9], [20, 20, 29, 29], [40, 40, 49, 49]], np.float32)
    scores = np.full((3, 2), 0.5, np.float32)
    found = select_detections(scores, boxes, spec(max_detections=5))
    assert found.labels.tolist() == [0, 1, 0, 1, 0]
    assert found.boxes[:, 0].tolist() == [0, 0, 20, 20, 40]
    many = np.tile(boxes, (2000, 1))
    again = select_detections(np.full((6000, 2), 0.5, np.float32), many, spec(max_detections=5))
    assert again.boxes[:, 0].tolist() == [0, 0, 20, 20, 40]


def test_boxes_without_area_do_not_overlap():
    boxes = np.zeros((3, 4), np.float32)
    found = select_detections(np.array([[0.9], [0.8], [0.7]], np.float32), boxes, spec())
    assert found.scores.tolist() == pytest.approx([0.9, 0.8, 0.7])


def test_numbers_that_are_none_are_no_detections_and_no_warnings():
    nothing = np.full((4, 2), np.nan, np.float32)
    boxes = np.full((4, 4), np.nan, np.float32)
    assert len(select_detections(nothing, boxes, spec()).scores) == 0
    assert len(select_detections(np.zeros((4, 2), np.float32), boxes, spec(score_threshold=0.0)).scores) == 0
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
