"""The sheet of ground truth and detections at the end of a run."""

from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

from ssdlite.datasets.index import DetectionIndex
from ssdlite.detections import Detections
from ssdlite.evaluation.analysis import panels
from ssdlite.evaluation.analysis.panels import draw_panels
from ssdlite.images.drawing import add_caption, add_legend

GREEN, YELLOW, ORANGE, WHITE = (0, 190, 130), (240, 228, 66), (255, 105, 30), (235, 235, 235)
NAMES = ("cat", "dog")
CAT, DOG, CROWD = [20, 60, 120, 160], [200, 60, 300, 160], [350, 60, 450, 160]


def index(folder: Path) -> DetectionIndex:
    """Two pictures of 480 x 240 px, each with a cat, a dog and a crowd of cats."""
    paths = [str(folder / name) for name in ("first.png", "second.png")]
    for path in paths:
        Image.new("RGB", (480, 240), (90, 90, 90)).save(path)
    return DetectionIndex(
        name="data/val",
        class_names=NAMES,
        category_ids=(1, 2),
        paths=tuple(paths),
        image_ids=np.array([1, 2]),
        sizes=np.array([[240, 480]] * 2, np.int32),
        offsets=np.array([0, 3, 6]),
        boxes=np.array([CAT, DOG, CROWD] * 2, np.float32),
        labels=np.array([0, 1, 0] * 2),
        areas=np.full(6, 1e4, np.float32),
        ignore=np.array([False, False, True] * 2),
    )


def found(boxes: list[list[int]], scores: list[float], labels: list[int]) -> Detections:
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(labels, np.int64), NAMES
    )


def count(image: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((image == np.array(color)).all(axis=2).sum())


def panel_and_titles(folder: Path, detections: Detections, **options: float) -> tuple[np.ndarray, list[str]]:
    """The first picture's ground truth and detections [2, H, W, 3], and the words above them."""
    with (
        mock.patch.object(panels, "add_caption", wraps=add_caption) as caption,
        mock.patch.object(panels, "add_legend", wraps=add_legend) as legend,
    ):
        sheet = draw_panels(index(folder), {0: detections}, **options)
    middle = sheet.shape[1] // 2
    body = sheet[-260:]  # below the legend, which has all colours
    return np.stack([body[:, :middle], body[:, -middle:]]), [
        *(call.args[1] for call in caption.call_args_list), legend.call_args.args[1],
    ]  # fmt: skip


def test_hits_misses_and_false_alarms_are_told_apart(tmp_path: Path) -> None:
    detections = found([CAT, [20, 180, 120, 230], CROWD, DOG], [0.8, 0.6, 0.5, 0.29], [0, 1, 0, 1])
    (truth, right), titles = panel_and_titles(tmp_path, detections)
    assert titles == [
        "first.png: 2 objects, 1 missed",
        "1 found, 1 false alarm",
        "Left: ground truth. Right: detections with a score of 0.3 or more, as predict shows them.",
    ]
    assert [count(truth, color) > 500 for color in (GREEN, YELLOW, ORANGE, WHITE)] == [True, True, False, False]
    assert [count(right, color) > 500 for color in (GREEN, YELLOW, ORANGE, WHITE)] == [True, False, True, False]


def test_an_object_has_one_label(tmp_path: Path) -> None:
    _, titles = panel_and_titles(tmp_path, found([CAT, CAT, DOG], [0.8, 0.7, 0.6], [0, 1, 1]))
    assert titles[:2] == ["first.png: 2 objects, 0 missed", "2 found, 0 false alarms"]


def test_the_best_boxes_of_a_weak_model_are_shown_as_below_the_threshold(tmp_path: Path) -> None:
    boxes = [CAT, DOG, [20, 180, 120, 230], [200, 180, 300, 230]]
    (truth, right), titles = panel_and_titles(tmp_path, found(boxes, [0.12, 0.1, 0.05, 0.04], [0, 1, 1, 1]))
    assert titles[:2] == ["first.png: 2 objects, 2 missed", "no score of 0.3; best 0.12"]
    assert count(truth, GREEN) == 0 and count(truth, YELLOW) > 1000
    assert count(right, WHITE) > 500
    assert count(right[-80:, 190:310], WHITE) == 0, "three at most"
    assert [count(right, color) for color in (GREEN, YELLOW, ORANGE)] == [0, 0, 0]


def test_nothing_found_and_another_threshold(tmp_path: Path) -> None:
    _, titles = panel_and_titles(tmp_path, found([], [], []), score_threshold=0.75)
    assert titles[1] == "no score of 0.75"
    assert "a score of 0.75 or more" in titles[2]
    _, titles = panel_and_titles(tmp_path, found([CAT], [0.8], [0]), score_threshold=0.75)
    assert titles[1] == "1 found, 0 false alarms"


def test_the_pictures_stand_two_in_a_row_in_their_proportions(tmp_path: Path) -> None:
    data = index(tmp_path)
    nothing = found([], [], [])
    sheet = draw_panels(data, {0: nothing, 1: nothing})
    assert sheet.shape[1] > 4 * 480
    Image.new("RGB", (240, 960), (90, 90, 90)).save(data.paths[1])
    tall = draw_panels(data, {1: nothing})
    assert count(tall, (90, 90, 90)) > 2 * 120 * 480 * 0.8, "120 x 480 px each"
    assert tall.shape[1] < 3 * 480
