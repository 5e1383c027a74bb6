"""What a report advises: the most useful first, with its figure, and nothing that the run has."""

from typing import Any

import numpy as np
import pytest

from ssdlite.config import preset_config
from ssdlite.evaluation.analysis.advice import advice, remedies
from ssdlite.evaluation.analysis.analyze import Analysis, analyze
from ssdlite.evaluation.analysis.trained import ScoredEpoch, TrainedWith
from tests.evaluation.analysis.made import BOX, found, make_index

SHIFTED = [18, 10, 38, 30]  # IoU 3 / 7 with BOX
LARGE = [10, 10, 60, 60]
CORNER = [70, 70, 90, 90]
SLOW = (ScoredEpoch(1, 0.1, 100), ScoredEpoch(2, 0.3, 200))


def made(*pictures: tuple[str, list[float], str | None, list[float], float]) -> Analysis:
    """Each of an object's class and box, and of what is found there: class, box and score."""
    objects = [(i, name, box, False) for i, (name, box, *_) in enumerate(pictures)]
    detections = {i: found((called, box, score)) for i, (*_, called, box, score) in enumerate(pictures) if called}
    return analyze(make_index(objects, len(pictures)), detections)


def test_classes_that_are_never_found_come_first() -> None:
    cats = [("cat", BOX, "cat", BOX, 0.9)] * 30
    dogs = [("dog", BOX, "cat", BOX, 0.8)] * 25 + [("dog", BOX, None, BOX, 0.0)] * 5
    first, *rest = advice(made(*cats, *dogs), TrainedWith())
    assert first.startswith(
        "Never found, at any score: dog (of 30 objects, 25 called cat). See that the boxes of the classes that are "
        "confused carry the right name, and look"
    )
    assert not any("dog" in line for line in rest)  # all that there is to say of them is said


def test_the_first_lines_have_their_figures() -> None:
    """Of 60 cats 30 are found; 20 are called dogs, which are found as often; ten are missed."""
    cats = (
        [("cat", BOX, "cat", BOX, 0.9)] * 30 + [("cat", BOX, "dog", BOX, 0.85)] * 20 + [("cat", BOX, None, BOX, 0)] * 10
    )
    one = made(*cats, *[("dog", BOX, "dog", BOX, 0.9)] * 30)
    loss = one.weights.loss
    assert loss["classification"] > loss["missed"] > 0.02
    confused, missed, *_ = advice(one, TrainedWith())
    assert confused == (
        "Objects are found but called by another class (20 times): without these errors AP50 would be "
        f"{loss['classification']:.3f} higher. Most often: cat called dog (20 times). See that these are labeled alike "
        "everywhere, and add pictures that show the difference; where the difference does not matter, make them one "
        "class with --rename cat=dog."
    )
    assert missed.startswith("Objects are not found (10 times): without these errors AP50 would be ")
    assert f"{loss['missed']:.3f} higher. Add pictures with objects like those" in missed


@pytest.mark.parametrize(
    ("trained", "expected"),
    [
        (TrainedWith(), "train with a larger --image-size, which"),
        (
            TrainedWith(image_size=320, box_loss="smooth_l1"),
            "train with --box-loss giou or with a larger --image-size than",
        ),
        (TrainedWith(image_size=320, box_loss="giou"), "train with a larger --image-size than its 320, which"),
    ],
)
def test_poor_boxes(trained: TrainedWith, expected: str) -> None:
    one = made(*[("cat", BOX, "cat", BOX, 0.9)] * 20, *[("cat", BOX, "cat", SHIFTED, 0.8)] * 10)
    (line,) = advice(one, trained)
    assert line.startswith("Objects are found but their boxes fit badly") and expected in line


@pytest.mark.parametrize(
    ("trained", "expected"),
    [
        (TrainedWith(), "train with --finest-stride 8 or a larger --image-size, or take pictures from nearer"),
        (TrainedWith(320, 16), "--finest-stride 8 or a larger --image-size than its 320"),
        (TrainedWith(416, 8), "train with a larger --image-size than its 416, or take"),
    ],
)
def test_small_objects(trained: TrainedWith, expected: str) -> None:
    small = [("cat", BOX, "cat", BOX, 0.9)] * 5 + [("cat", BOX, None, BOX, 0.0)] * 20
    (line,) = (
        line for line in advice(made(*small, *[("cat", LARGE, "cat", LARGE, 0.9)] * 20), trained) if "small" in line
    )
    assert "of small objects (below 32 x 32 pixels) 20% are found, of the others 100%" in line.lower()
    assert expected in line
    assert ("--finest-stride" in line) == (trained.finest_stride != 8)


def test_what_is_seen_but_unsure_needs_no_finer_look() -> None:
    """20 of the 30 that are missed are found below the threshold, beside as many false alarms."""
    sure = [("cat", LARGE, "cat", LARGE, 0.9)] * 20
    unsure = [("cat", LARGE, "cat", LARGE, 0.1)] * 20 + [("cat", LARGE, None, LARGE, 0.0)] * 10
    objects = [(i, name, box, False) for i, (name, box, *_) in enumerate((*sure, *unsure))]
    detections: dict[int, Any] = {i: found(("cat", LARGE, 0.9 if i < 20 else 0.1)) for i in range(40)}
    detections |= {i: found(*[("cat", CORNER, 0.5)] * 10) for i in range(40, 50)}
    one = analyze(make_index(objects, 50), detections)
    assert one.thresholds[0] == np.float32(0.9)
    assert any(
        "Of 30 that are not found at the thresholds, 20 are seen with a lower score" in line
        for line in advice(one, TrainedWith())
    )


def test_training_longer_is_advised_where_the_run_says_so() -> None:
    one = made(*[("cat", BOX, "cat", BOX, 0.9)] * 30)
    (line,) = advice(one, TrainedWith(evaluations=SLOW))
    expected = (
        "Training was short, 2 epochs with 200 pictures in all: train longer; without --epochs, --time and --recipe"
    )
    assert line.startswith(expected)
    long = [ScoredEpoch(epoch, ap, 9000 * epoch) for epoch, ap in enumerate((0.1, 0.2, 0.3, 0.4), start=1)]
    assert advice(one, TrainedWith(evaluations=tuple(long))) == [
        "AP still grew at the end, from 0.300 after epoch 3 to 0.400: train longer, with --epochs 8."
    ]
    long[-1] = ScoredEpoch(4, 0.305, 36_000)
    assert advice(one, TrainedWith(evaluations=tuple(long)))[0].startswith("Nothing stands out")


def test_a_detector_of_which_hardly_anything_is_right() -> None:
    """One cat of 60 is found, with the lowest score: 1 of 31 detections is right, at 2 of 101 recalls."""
    poor = [("cat", BOX, "cat", SHIFTED, 0.8)] * 30 + [("cat", BOX, None, BOX, 0.0)] * 29
    first = advice(made(("cat", BOX, "cat", BOX, 0.1), *poor), TrainedWith())[0]
    assert first.startswith(
        "Hardly anything is right yet (AP50 is 0.001): see in the worst pictures that boxes and names"
    )


def test_a_name_that_rename_and_a_shell_would_read_otherwise() -> None:
    one = made(
        *[("cat", BOX, "cat", BOX, 0.9)] * 30,
        *[("cat", BOX, "dog", BOX, 0.85)] * 10,
        *[("dog", BOX, "dog", BOX, 0.9)] * 30,
    )
    names = ("cat, wild", "dog's", "owl")
    text = " ".join(advice(analysis_with(one, names), TrainedWith()))
    assert "--rename 'cat\\, wild=dog'\"'\"'s'." in text


def analysis_with(one: Analysis, names: tuple[str, ...]) -> Analysis:
    from dataclasses import replace

    return replace(
        one, index=replace(one.index, class_names=names), points=dict(zip(names, one.points.values(), strict=False))
    )


def test_what_a_checkpoint_says_of_itself() -> None:
    config = preset_config("ssdlite320_mobilenet_v2", finest_stride=8)
    history = [{"epoch": 1, "AP": 0.25, "images_seen": 80}, {"epoch": 2, "loss": 1.0}, {"epoch": 3, "AP": None}]
    expected = TrainedWith(320, 8, 0.55, "giou", (ScoredEpoch(1, 0.25, 80),))
    for options in ({"version": 2, "loss": {"box_loss": "giou"}}, {"box_loss": "giou"}):
        assert TrainedWith.of(config, options, history) == expected
    assert TrainedWith.of(config, {"loss": {"box_loss": 7}}, [{"epoch": "x", "AP": 0.2}]) == TrainedWith(320, 8, 0.55)


def test_duplicates_name_the_threshold_in_use() -> None:
    assert remedies(TrainedWith(nms_threshold=0.6))["duplicate"].startswith(
        "take a lower --nms-threshold than its 0.6 ("
    )
