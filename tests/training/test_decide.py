"""What the plain command decides from the data, and that it never decides what is given."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssdlite.datasets.index import DetectionIndex
from ssdlite.datasets.shapes import generate_shapes
from ssdlite.training.decide import decide
from ssdlite.training.options import TrainOptions
from ssdlite.training.trainer import train


def pictures(count: int, sides: tuple[float, ...], names: tuple[str, ...] = ("cell",)) -> DetectionIndex:
    """So many pictures of 640 x 480, each with a square object of every side; classes take turns."""
    each = len(sides)
    corners = np.array([[40.0, 40.0, 40 + side, 40 + side] for side in sides] * count, np.float32).reshape(-1, 4)
    return DetectionIndex(
        name="made/train",
        class_names=names,
        category_ids=tuple(range(1, len(names) + 1)),
        paths=tuple(f"{i}.jpg" for i in range(count)),
        image_ids=np.arange(count),
        sizes=np.tile(np.array([[480, 640]], np.int32), (count, 1)),
        offsets=np.arange(count + 1) * each,
        boxes=corners,
        labels=np.arange(count * each) % len(names),
        areas=np.ones(count * each, np.float32),
        ignore=np.zeros(count * each, np.bool_),
    )


def decided(index: DetectionIndex, **given: Any) -> TrainOptions:
    return decide(TrainOptions().override(data="pictures", **given), index).options


def test_few_pictures_of_large_objects() -> None:
    options, decisions = decide(TrainOptions().override(data="pictures"), pictures(100, (200.0,)))
    assert (options.start.weights, options.detector.image_size) == ("openimages", 320)
    assert (options.settings.loss, options.settings.box_loss, options.settings.matcher) == ("qfl", "giou", "simota")
    assert (options.settings.anchors, options.settings.finest_stride, options.settings.batch_size) == ("fit", 16, 8)
    assert (options.settings.epochs, options.run.eval_interval) == (144, 6)
    assert [decision.option for decision in decisions] == [
        "weights", "image_size", "anchors", "loss", "finest_stride", "batch_size", "epochs", "eval_interval",
    ]  # fmt: skip
    assert str(decisions[6]) == "--epochs 144: 14400 pictures are seen"


@pytest.mark.parametrize(("sides", "names", "stride"), [
    ((63.0,), ("cell",), 8),  # 31.5 px of 320
    ((65.0, 200.0), ("cell",), 16),
    ((40.0, *[200.0] * 9), ("cell",), 8),  # a tenth of the boxes
    ((40.0, *[200.0] * 24), ("cell",), 16),  # one in twenty-five
    ((40.0, *[200.0] * 24), tuple("abcdefghijklmnopqrstuvwxy"), 8),  # one in twenty-five, but a whole class
])  # fmt: skip
def test_a_finer_map_where_objects_need_it(sides: tuple[float, ...], names: tuple[str, ...], stride: int) -> None:
    assert decided(pictures(50, sides, names)).settings.finest_stride == stride


@pytest.mark.parametrize(("count", "epochs", "batch"), [(10, 1440, 8), (292, 50, 8), (2000, 20, 8), (3000, 20, 16)])
def test_the_length_goes_by_pictures_seen(count: int, epochs: int, batch: int) -> None:
    options = decided(pictures(count, (200.0,)))
    assert (options.settings.epochs, options.settings.batch_size) == (epochs, batch)


@pytest.mark.parametrize("given", [
    {"weights": "none"}, {"preset": "ssdlite320_mobilenet_v3_large"}, {"width_mult": 0.5},
    {"backbone_weights": "imagenet"},
])  # fmt: skip
def test_from_scratch(given: dict[str, Any]) -> None:
    options = decided(pictures(300, (200.0,)), **given)
    assert options.start.detector_weights is None
    assert (options.settings.loss, options.settings.matcher, options.settings.epochs) == ("multibox", "atss", 60)


def test_very_many_pictures_are_learned_from_alone() -> None:
    options = decided(pictures(20_001, (200.0,)))
    assert (options.start.weights, options.settings.batch_size, options.settings.epochs) == ("none", 16, 60)


def test_what_is_given_is_not_decided() -> None:
    given = {
        "weights": "mine.pt", "anchors": "default", "finest_stride": 16, "loss": "multibox", "box_loss": "ciou",
        "matcher": "atss", "batch_size": 4, "epochs": 7, "eval_interval": 2, "image_size": 256, "deepen_heads": False,
        "augment": "flip", "mosaic": 0.0, "backbone_lr": 0.5, "box_weight": 2.0,
    }  # fmt: skip
    options, decisions = decide(TrainOptions().override(data="pictures", **given), pictures(100, (30.0,)))
    assert options == TrainOptions().override(data="pictures", **given)
    assert decisions == ()


@pytest.mark.parametrize("recipe", ["ssd", "scratch", "small-data"])
def test_a_named_recipe_decides_nothing(recipe: str) -> None:
    options, decisions = decide(TrainOptions().override(recipe=recipe, data="pictures"), pictures(100, (30.0,)))
    assert (options.start.weights, options.settings.epochs, decisions) == (
        None,
        30 if recipe == "small-data" else 60,
        (),
    )


def test_another_loss_has_its_own_weight() -> None:
    assert decided(pictures(100, (200.0,))).settings.box_weight == 6.0
    assert decided(pictures(100, (200.0,)), loss="focal").settings.box_weight is None


@pytest.mark.usefixtures("without_pictures")
def test_each_decision_is_said_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generate_shapes(tmp_path / "shapes", train_images=16, val_images=4, seed=3)
    given = {"data": str(tmp_path / "shapes"), "output": str(tmp_path / "run"), "epochs": 1, "image_size": 64}
    train(TrainOptions().override(**given, workers=0))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("decided ")]
    assert lines[0] == "decided --weights openimages: 16 pictures are few; a trained detector learns faster from them"
    content = json.loads((tmp_path / "run" / "config.json").read_text())
    assert len(content["decisions"]) == len(lines) == 5
    assert content["decisions"][0] == {
        "option": "weights",
        "value": "openimages",
        "reason": "16 pictures are few; a trained detector learns faster from them",
    }
    assert content["options"]["recipe"] == "auto"
    assert content["options"]["loss"]["matcher"] == "simota"
