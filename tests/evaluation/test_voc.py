"""Pascal VOC's average precision, against hand computation and a published example."""

import json

import numpy as np
import pytest

from ssdlite.datasets.index import DetectionIndex
from ssdlite.detections import Detections
from ssdlite.evaluation.voc import average_precision_11point, average_precision_all_points, compute_voc_metrics


def make_index(objects: list[tuple[int, str, list[float], bool]], images: int, classes=("a", "b")) -> DetectionIndex:
    """objects: (image, class, box xyxy, difficult), in the order of the images."""
    counts = np.bincount([image for image, *_ in objects], minlength=images)
    boxes = np.array([box for _, _, box, _ in objects], np.float32).reshape(-1, 4)
    return DetectionIndex(
        name="made/test",
        class_names=classes,
        category_ids=tuple(range(len(classes))),
        paths=tuple(f"{i}.jpg" for i in range(images)),
        image_ids=np.arange(images, dtype=np.int64),
        sizes=np.full((images, 2), 200, np.int32),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=boxes,
        labels=np.array([classes.index(name) for _, name, _, _ in objects], np.int64),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
        ignore=np.array([difficult for *_, difficult in objects], np.bool_),
    )


def found(*detections: tuple[list[float], float, int]) -> Detections:
    """detections: (box xyxy, score, label)."""
    return Detections(
        np.array([box for box, _, _ in detections], np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in detections], np.float32),
        np.array([label for *_, label in detections], np.int64),
        ("a", "b"),
    )


# Five detections of three objects: hit, miss, hit, miss, hit.
#   recall     1/3  1/3  2/3  2/3  1
#   precision  1    1/2  2/3  1/2  3/5
FIVE_RECALLS = np.array([1, 1, 2, 2, 3]) / 3
FIVE_PRECISIONS = np.array([1, 1 / 2, 2 / 3, 1 / 2, 3 / 5])
# Best precision at recall r or beyond: 1 up to 1/3, 2/3 up to 2/3, 3/5 up to 1. Of the eleven recalls,
# 0 to 0.3 are four, 0.4 to 0.6 three, 0.7 to 1 four.
FIVE_11POINT = (4 * 1 + 3 * (2 / 3) + 4 * (3 / 5)) / 11
FIVE_ALL_POINTS = (1 + 2 / 3 + 3 / 5) / 3


def test_average_precision_of_five_detections() -> None:
    assert average_precision_11point(FIVE_RECALLS, FIVE_PRECISIONS) == pytest.approx(FIVE_11POINT)
    assert average_precision_all_points(FIVE_RECALLS, FIVE_PRECISIONS) == pytest.approx(FIVE_ALL_POINTS)


def test_a_recall_of_exactly_three_tenths_reaches_it() -> None:
    # 0, 0.1, 0.2 and 0.3 are reached with precision 1, the other seven not at all.
    recall, precision = np.array([1, 2, 3]) / 10, np.ones(3)
    assert average_precision_11point(recall, precision) == pytest.approx(4 / 11)
    assert average_precision_all_points(recall, precision) == pytest.approx(0.3)


def test_no_detections_have_no_precision() -> None:
    nothing = np.empty(0)
    assert average_precision_11point(nothing, nothing) == 0
    assert average_precision_all_points(nothing, nothing) == 0


A, B, C = [0.0, 0, 10, 10], [20.0, 0, 30, 10], [40.0, 0, 50, 10]
FAR = [100.0, 100, 110, 110]


def test_five_detections_over_two_images() -> None:
    index = make_index([(0, "a", A, False), (0, "a", B, False), (1, "a", A, False)], images=2)
    results = {  # ordered by score: A of image 0, FAR, A of image 1, A of image 0 again, B
        1: found((FAR, 0.8, 0), (A, 0.7, 0)),
        0: found((B, 0.1, 0), (A, 0.9, 0), (A, 0.6, 0)),
    }
    metrics = compute_voc_metrics(index, results)
    assert metrics.per_class["a"].ap_11point == pytest.approx(FIVE_11POINT)
    assert metrics.per_class["a"].ap_all_points == pytest.approx(FIVE_ALL_POINTS)
    assert metrics.per_class["b"].ap_11point is None  # has no object: not in the mean
    assert metrics.mean == metrics.per_class["a"]


def test_difficult_objects_are_neither_asked_for_nor_held_against() -> None:
    # Without B: one object, found by the second detection that counts (the first is FAR). Precision 1/2.
    index = make_index([(0, "a", A, False), (0, "a", B, True)], images=1)
    results = {0: found((B, 0.9, 0), (B, 0.8, 0), (FAR, 0.7, 0), (A, 0.6, 0))}
    metrics = compute_voc_metrics(index, results)
    assert metrics.mean.ap_11point == pytest.approx(0.5)
    assert metrics.mean.ap_all_points == pytest.approx(0.5)


def test_a_detection_goes_to_the_object_it_overlaps_most_even_if_that_is_taken() -> None:
    # [0, 2, 10, 12] overlaps A by 80 / 120 and its neighbour [0, 5, 10, 15] by 70 / 130 = 0.54. A is
    # taken, so it is a miss, although the neighbour is free and overlaps enough.
    index = make_index([(0, "a", A, False), (0, "a", [0, 5, 10, 15], False)], images=1)
    results = {0: found((A, 0.9, 0), ([0, 2, 10, 12], 0.8, 0))}
    # One hit of two objects, precision 1 up to recall 0.5: six of the eleven recalls.
    metrics = compute_voc_metrics(index, results)
    assert metrics.mean.ap_11point == pytest.approx(6 / 11)
    assert metrics.mean.ap_all_points == pytest.approx(1 / 2)


def test_the_threshold_itself_is_a_hit() -> None:
    index = make_index([(0, "a", A, False)], images=1)  # [0, 0, 10, 5] covers exactly half of it
    assert compute_voc_metrics(index, {0: found(([0, 0, 10, 5], 0.9, 0))}).mean.ap_11point == 1
    assert compute_voc_metrics(index, {0: found(([0, 0, 10, 4.9], 0.9, 0))}).mean.ap_11point == 0


def test_classes_do_not_mix_and_the_mean_is_over_classes_with_objects() -> None:
    index = make_index([(0, "a", A, False), (0, "b", B, False)], images=1, classes=("a", "b", "c"))
    results = {0: found((A, 0.9, 0), (B, 0.9, 0), (A, 0.8, 1), (C, 0.9, 2))}
    metrics = compute_voc_metrics(index, results)
    assert [metrics.per_class[name].ap_all_points for name in "abc"] == [1, 0, None]
    assert metrics.mean.ap_all_points == 0.5


def test_empty_everything() -> None:
    empty = compute_voc_metrics(make_index([], images=2), {0: found(), 1: found((A, 0.5, 1))})
    assert empty.mean.ap_11point is None and empty.mean.ap_all_points is None
    unfound = compute_voc_metrics(make_index([(1, "a", A, False)], images=2), {})
    assert unfound.mean.ap_11point == unfound.mean.ap_all_points == 0
    assert json.loads(json.dumps(empty.to_dict(), allow_nan=False))["mean"] == {
        "ap_11point": None,
        "ap_all_points": None,
    }


# The worked example of Padilla, Netto and da Silva, "A Survey on Performance Metrics for Object-Detection
# Algorithms" (IWSSIP 2020), as in https://github.com/rafaelpadilla/Object-Detection-Metrics (MIT licence),
# folders groundtruths/ and detections/: 7 images, 15 objects (x, y, width, height), 24 detections (score
# first), IoU 0.3. Published: AP 24.57 % over all points, 26.84 % over eleven. The tool takes x + width for
# the last pixel of the box, inclusive; that decides over the detection of score 0.18 (IoU 0.303, else 0.295).
PUBLISHED_OBJECTS = [
    [(25, 16, 38, 56), (129, 123, 41, 62)],
    [(123, 11, 43, 55), (38, 132, 59, 45)],
    [(16, 14, 35, 48), (123, 30, 49, 44), (99, 139, 47, 47)],
    [(53, 42, 40, 52), (154, 43, 31, 34)],
    [(59, 31, 44, 51), (48, 128, 34, 52)],
    [(36, 89, 52, 76), (62, 58, 44, 67)],
    [(28, 31, 55, 63), (58, 67, 50, 58)],
]
PUBLISHED_DETECTIONS = [
    [(0.88, 5, 67, 31, 48), (0.70, 119, 111, 40, 67), (0.80, 124, 9, 49, 67)],
    [(0.71, 64, 111, 64, 58), (0.54, 26, 140, 60, 47), (0.74, 19, 18, 43, 35)],
    [
        (0.18, 109, 15, 77, 39),
        (0.67, 86, 63, 46, 45),
        (0.38, 160, 62, 36, 53),
        (0.91, 105, 131, 47, 47),
        (0.44, 18, 148, 40, 44),
    ],
    [(0.35, 83, 28, 28, 26), (0.78, 28, 68, 42, 67), (0.45, 87, 89, 25, 39), (0.14, 10, 155, 60, 26)],
    [(0.62, 50, 38, 28, 46), (0.44, 95, 11, 53, 28), (0.95, 29, 131, 72, 29), (0.23, 29, 163, 72, 29)],
    [(0.45, 43, 48, 74, 38), (0.84, 17, 155, 29, 35), (0.43, 95, 110, 25, 42)],
    [(0.48, 16, 20, 101, 88), (0.95, 33, 116, 37, 49)],
]


def test_published_example() -> None:
    objects = [
        (image, "person", [x, y, x + w + 1, y + h + 1], False)
        for image, boxes in enumerate(PUBLISHED_OBJECTS)
        for x, y, w, h in boxes
    ]
    results = {
        image: found(*(([x, y, x + w + 1, y + h + 1], score, 0) for score, x, y, w, h in detections))
        for image, detections in enumerate(PUBLISHED_DETECTIONS)
    }
    metrics = compute_voc_metrics(make_index(objects, images=7, classes=("person",)), results, iou_threshold=0.3)
    assert metrics.mean.ap_all_points == pytest.approx(0.2457, abs=1e-4)
    assert metrics.mean.ap_11point == pytest.approx(0.2684, abs=1e-4)
