"""The one result type: equality, parts, thresholds, and the way to a picture's own pixels."""

import pickle

import numpy as np
import pytest

from ssdlite.detections import Detection, Detections
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
