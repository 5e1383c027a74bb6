"""The one result type: equality, parts, thresholds, and the way to a picture's own pixels."""

import io
import pickle
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from ssdlite.detections import Detection, Detections
from ssdlite.errors import ConfigError, DataError
from ssdlite.images.geometry import CropWindow

NAMES = ("cat", "dog")


def found(scores: tuple[float, ...] = (0.75, 0.5, 0.25), names: tuple[str, ...] | list[str] = NAMES) -> Detections:
    boxes = np.array([[1, 2, 3, 4], [10, 20, 30, 40], [0, 0, 5, 5]], np.float32)[: len(scores)]
    return Detections(boxes, np.array(scores, np.float32), np.array([0, 1, 0])[: len(scores)], names)


def test_equal_where_all_parts_are() -> None:
    assert found() == found()
    assert found() == found(names=list(NAMES))
    assert found() != found((0.75, 0.5, 0.125))
    assert found() != found((0.75, 0.5))
    assert found() != found(names=("cat", "cow"))
    moved = found()
    moved.boxes[2, 3] = 6
    assert found() != moved
    assert (found(()) == found(())) is True
    assert found() != "cat"
    assert pickle.loads(pickle.dumps(found())) == found()


def test_found_in_lists_and_without_hash() -> None:
    assert found() in [found((0.5,)), found()]
    assert [found((0.5,)), found()].index(found()) == 1
    assert found() not in [found((0.5,))]
    with pytest.raises(TypeError, match="unhashable type: 'Detections'"):
        hash(found())


def test_parts() -> None:
    dog = Detection("dog", 0.5, (10, 20, 30, 40), 1)
    assert found()[1] == found()[np.int64(1)] == found()[-2] == dog
    assert dog in found()
    assert dog._replace(score=0.25) not in found()
    assert list(found()) == [found()[0], found()[1], found()[2]]
    assert found()[:2] == found((0.75, 0.5))
    assert found()[np.array([True, True, False])] == found((0.75, 0.5))
    assert found()[np.array([2, 0])].scores.tolist() == [0.25, 0.75]
    assert found()[3:].names == []
    with pytest.raises(IndexError):
        found()[3]


def test_a_score_at_the_threshold_is_not_above_it_but_stays() -> None:
    assert found().above(0.5) == found((0.75, 0.5))
    assert found().above(0.5000001) == found((0.75,))
    assert len(found().above(1)) == 0


def overlapping() -> Detections:
    """Of the first box, IoU: the second 0.8 (a dog), the third 0.75, the fourth 0.5 (a dog); the last has no area."""
    boxes = [[0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 7.5], [0, 0, 10, 5], [3, 3, 3, 3]]
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5], np.float32)
    return Detections(np.array(boxes, np.float32), scores, np.array([0, 1, 0, 1, 1]), NAMES, "a.jpg")


def test_nms_of_each_class_and_of_all() -> None:
    found = overlapping()
    assert found.with_nms().scores.tolist() == pytest.approx([0.9, 0.8, 0.6, 0.5])
    assert found.with_nms(0.75).scores.tolist() == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5])
    assert found.with_nms(0.6).scores.tolist() == pytest.approx([0.9, 0.8, 0.5])
    assert found.with_nms(class_agnostic=True) == found[np.array([0, 3, 4])]
    assert found.with_nms(0.5, class_agnostic=True).scores.tolist() == pytest.approx([0.9, 0.6, 0.5])
    assert found.with_nms(0.499, class_agnostic=True).scores.tolist() == pytest.approx([0.9, 0.5])
    assert found.with_nms().path == "a.jpg"


def test_nms_goes_by_scores_and_keeps_the_order() -> None:
    found = overlapping()[np.array([4, 2, 1, 0])]
    assert found.with_nms(class_agnostic=True).scores.tolist() == pytest.approx([0.5, 0.9])
    same = Detections(np.tile(np.float32([0, 0, 9, 9]), (3, 1)), np.float32([0.5] * 3), np.array([1, 0, 1]), NAMES)
    assert same.with_nms(class_agnostic=True).labels.tolist() == [1]
    assert same.with_nms().labels.tolist() == [1, 0]
    assert len(found[:0].with_nms(class_agnostic=True)) == 0
    with pytest.raises(ValueError, match="iou_threshold: expected 0 to 1, got 70"):
        found.with_nms(70)


def test_nms_is_that_of_torchvision() -> None:
    random = np.random.default_rng(0)
    corners = random.uniform(0, 60, (600, 2))
    boxes = np.concatenate([corners, corners + random.uniform(5, 40, (600, 2))], axis=1).astype(np.float32)
    scores, labels = random.permutation(600).astype(np.float32) / 600, random.integers(0, 2, 600)
    torch_boxes, torch_scores = torch.from_numpy(boxes).double(), torch.from_numpy(scores).double()
    found = Detections(boxes, scores, labels, NAMES)
    for threshold in (0.3, 0.7):
        every = torchvision.ops.nms(torch_boxes, torch_scores, threshold)
        assert 0 < len(every) < 600
        assert found.with_nms(threshold, class_agnostic=True) == found[np.sort(every.numpy())]
        by_class = torchvision.ops.batched_nms(torch_boxes, torch_scores, torch.from_numpy(labels), threshold)
        assert found.with_nms(threshold) == found[np.sort(by_class.numpy())]


def test_to_the_pictures_pixels_and_no_further() -> None:
    """An input of 40 x 80 that shows the picture's columns from -10 on, every pixel of it as 2 x 2."""
    window = CropWindow(-10, 0, 30, 20, (40, 80))
    boxes = np.array([[20, 0, 40, 20], [0, 10, 60, 90], [0, 0, 20, 20], [76, 4, 80, 8]], np.float32)
    inputs = Detections(boxes, np.array([0.9, 0.8, 0.7, 0.6], np.float32), np.array([1, 0, 1, 0]), NAMES)
    picture = inputs.to_picture(window, (20, 25))
    assert picture.boxes.tolist() == [[0, 0, 10, 10], [0, 5, 20, 20]]
    assert picture == Detections(picture.boxes, inputs.scores[:2], inputs.labels[:2], NAMES)
    assert (picture.boxes.dtype, picture.scores.dtype, picture.labels.dtype) == (np.float32, np.float32, np.int64)


def test_plain_values() -> None:
    assert found((0.75,)).to_list() == [{"name": "cat", "label": 0, "score": 0.75, "box": [1, 2, 3, 4]}]


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got \(3, 4\), \(2,\), \(3,\)"):
        Detections(found().boxes, found().scores[:2], found().labels, NAMES)


def test_told_in_a_line() -> None:
    assert repr(found()) == "<Detections: 3 objects: 2 cat (best 0.75), 1 dog (best 0.50)>"
    assert repr(found((0.75,))) == "<Detections: 1 object: 1 cat (best 0.75)>"
    assert repr(found(())) == "<Detections: 0 objects>"


def test_chosen_by_score_class_and_area() -> None:
    """Areas of 4, 400 and 25 square pixels."""
    assert found().areas.tolist() == [4, 400, 25]
    assert found().where() == found()
    assert found().where(score_threshold=0.5).scores.tolist() == [0.75, 0.5]
    assert found().where(classes="cat").scores.tolist() == [0.75, 0.25]
    assert found().where(classes=1).names == found().where(classes=("dog",)).names == ["dog"]
    assert found().where(classes=["cat", np.int64(1)]) == found()
    assert found().where(classes=[]).names == []
    assert found().where(min_area=25).scores.tolist() == [0.5, 0.25]
    assert found().where(classes="cat", min_area=4, max_area=24).scores.tolist() == [0.75]
    with pytest.raises(ConfigError, match=r"expected of cat, dog, or labels 0..1, got 'cow'"):
        found().where(classes="cow")
    with pytest.raises(ConfigError, match="got 2"):
        found().where(classes=2)


def test_drawn_on_the_file_that_they_know(tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.new("RGB", (60, 50), (0, 0, 0)).save(photo)
    known = replace(found()[1:2], path=str(photo))
    assert known == found()[1:2]
    assert known[:1].path == known.above(0.1).path == known.where(classes="dog").path == str(photo)
    drawn = known.plot()
    assert (drawn.size, drawn.getpixel((15, 39)), drawn.getpixel((50, 45))) == ((60, 50), (64, 160, 255), (0, 0, 0))
    known.save(tmp_path / "drawn.png")
    assert Image.open(tmp_path / "drawn.png").tobytes() == drawn.tobytes()
    shown = Image.open(io.BytesIO(known._repr_png_() or b""))
    assert (shown.format, shown.size) == ("PNG", (60, 50))
    with pytest.raises(ConfigError, match=r"drawn.txt: expected a name that ends as pictures do"):
        known.save(tmp_path / "drawn.txt")
    photo.unlink()
    assert known._repr_png_() is None
    with pytest.raises(DataError, match=r"photo.png"):
        known.plot()


def test_a_large_picture_is_shown_small(tmp_path: Path) -> None:
    Image.new("RGB", (2048, 512)).save(tmp_path / "wide.png")
    shown = replace(found(), path=str(tmp_path / "wide.png"))._repr_png_()
    assert Image.open(io.BytesIO(shown or b"")).size == (1024, 256)


def test_detections_in_pixels_are_drawn_on_what_is_given() -> None:
    assert found().path is None
    assert found()._repr_png_() is None
    assert found().plot(np.zeros((50, 60, 3), np.uint8)).getpixel((15, 39)) == (64, 160, 255)
    with pytest.raises(ValueError, match=r"expected the picture, plot\(picture\)"):
        found().plot()


def test_columns_and_coco_results() -> None:
    assert found((0.75, 0.5)).to_dict() == {
        "boxes": [[1, 2, 3, 4], [10, 20, 30, 40]],
        "scores": [0.75, 0.5],
        "labels": [0, 1],
        "names": ["cat", "dog"],
    }
    assert found((0.75, 0.5)).to_coco(7) == [
        {"image_id": 7, "category_id": 1, "bbox": [1, 2, 2, 2], "score": 0.75},
        {"image_id": 7, "category_id": 2, "bbox": [10, 20, 20, 20], "score": 0.5},
    ]
    assert [row["category_id"] for row in found().to_coco(7, (17, 18))] == [17, 18, 17]


def test_a_table_of_pandas() -> None:
    pytest.importorskip("pandas", reason="pandas, of the extra dev, is not installed")
    table = found((0.75, 0.5)).to_pandas()
    assert list(table.columns) == ["name", "label", "score", "x0", "y0", "x1", "y1"]
    assert table.to_numpy().tolist() == [["cat", 0, 0.75, 1, 2, 3, 4], ["dog", 1, 0.5, 10, 20, 30, 40]]
    assert found(()).to_pandas().shape == (0, 7)


@pytest.mark.parametrize("package", ["pandas", "supervision"])
def test_a_package_that_is_not_there_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"needs {package}, which is not installed: pip install 'ssdlite\[{package}\]'$"
    with pytest.raises(ModuleNotFoundError, match=message):
        getattr(found(), f"to_{package}")()


def test_to_supervision_and_back() -> None:
    sv = pytest.importorskip("supervision", reason="supervision, of the extra dev, is not installed")
    there = found().to_supervision()
    assert (there.xyxy.tolist()[1], there.confidence.tolist()) == ([10, 20, 30, 40], [0.75, 0.5, 0.25])
    assert (there.class_id.tolist(), there.data["class_name"].tolist()) == ([0, 1, 0], ["cat", "dog", "cat"])
    assert Detections.from_supervision(there) == found()
    assert Detections.from_supervision(there[there.class_id == 1]).class_names == ("0", "dog")
    assert Detections.from_supervision(there[::-1], NAMES) == found()
    assert Detections.from_supervision(found(()).to_supervision(), NAMES) == found(())
    assert len(Detections.from_supervision(sv.Detections.empty(), NAMES)) == 0
    with pytest.raises(ValueError, match=r"class_id in 0..0, got 0 to 1"):
        Detections.from_supervision(there, NAMES[:1])
    with pytest.raises(ValueError, match="with confidence and class_id, got None"):
        Detections.from_supervision(sv.Detections(there.xyxy))


def byte_track(sv: Any) -> Callable[[Any], Any]:
    """supervision's own, which later versions leave to the package ``trackers``."""
    if hasattr(sv, "ByteTrack"):
        return sv.ByteTrack().update_with_detections
    trackers = pytest.importorskip("trackers", reason="supervision has no ByteTrack; trackers is not installed")
    return trackers.ByteTrackTracker().update


@pytest.mark.filterwarnings("ignore:The `ByteTrack` was deprecated:FutureWarning")
def test_bytetrack_of_supervision_keeps_its_ids_over_a_video() -> None:
    """Two squares pass each other, 40 pixels apart; one frame in ten shows the first one less surely."""
    sv = pytest.importorskip("supervision", reason="supervision, of the extra dev, is not installed")
    update = byte_track(sv)
    annotator = sv.BoxAnnotator()
    ids: dict[str, list[int]] = {"cat": [], "dog": []}
    for frame in range(30):
        picture = np.zeros((120, 200, 3), np.uint8)
        boxes = np.array([[5 + 4 * frame, 10, 45 + 4 * frame, 40], [150 - 4 * frame, 80, 190 - 4 * frame, 110]])
        for x0, y0, x1, y1 in boxes.tolist():
            picture[y0:y1, x0:x1] = 90
        scores = np.array([0.3 if frame % 10 == 9 else 0.9, 0.8], np.float32)
        detections = Detections(boxes.astype(np.float32), scores, np.array([0, 1]), NAMES)
        tracked = update(detections.to_supervision())
        for name, number in zip(tracked.data["class_name"].tolist(), tracked.tracker_id.tolist(), strict=True):
            ids[name] += [number] if number >= 0 else []  # trackers: -1 until it is sure of a track
        assert len(tracked) == 2
        assert annotator.annotate(picture.copy(), tracked).any(axis=2).sum() > picture.any(axis=2).sum()
    assert min(map(len, ids.values())) >= 28
    assert len(set(ids["cat"])) == len(set(ids["dog"])) == len({*ids["cat"], *ids["dog"]}) / 2 == 1
