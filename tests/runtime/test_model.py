"""Exported models of every kind, run as their contracts say: models written by hand, expectations in numbers."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from ssdlite.errors import ConfigError, ContractError, DataError
from ssdlite.runtime.contract import METADATA_KEY, BoxSpec, ResizeSpec
from ssdlite.runtime.model import RuntimeDetector, load_model
from ssdlite.runtime.plain import to_json

KINDS = [  # what a contract may ask of the app
    {},
    {"batch": 1},
    {"batch": 2},
    {"layout": "NHWC", "batch": 1},
    {"color_order": "BGR"},
    {"type": "float32", "mean": (127.5, 120.0, 100.0), "std": (127.5, 60.0, 50.0)},
    {"type": "float32", "mean": (1.0, 2.0, 3.0), "std": (4.0, 5.0, 6.0), "layout": "NHWC", "batch": 3},
    {"type": "float32", "mean": (1.0, 2.0, 3.0), "color_order": "BGR", "layout": "NHWC", "batch": 2},
]


@pytest.fixture
def load(make_colour_model: Callable[..., Any], tmp_path: Path) -> Callable[..., RuntimeDetector]:
    """A colour model from a file with its contract in it; ``changes`` are fields of the contract."""

    def build(variant: str, changes: dict[str, Any] | None = None, **spec: Any) -> RuntimeDetector:
        model, contract = make_colour_model(variant, **spec)
        contract = replace(contract, **(changes or {}))
        onnx.helper.set_model_props(model, {METADATA_KEY: to_json(contract)})
        onnx.save(model, tmp_path / "colours.onnx")
        return load_model(tmp_path / "colours.onnx", threads=1)

    return build


def plain(red: int, green: int, blue: int, size: tuple[int, int] = (64, 96)) -> np.ndarray:
    return np.full((*size, 3), (red, green, blue), np.uint8)


@pytest.mark.parametrize("variant", ["raw", "decoded", "nms"])
@pytest.mark.parametrize("spec", KINDS)
def test_every_kind_of_model(load: Callable[..., RuntimeDetector], variant: str, spec: dict[str, Any]):
    """Pictures of one colour: 204, 102 and 51 are 0.8, 0.4 and 0.2 of 255."""
    detector = load(variant, **spec)
    pictures = [plain(204, 102, 51), plain(51, 204, 102, (30, 200)), plain(102, 51, 204)]
    first, second, third = detector.predict(pictures, score_threshold=0.0)
    for found, names in ((first, "red green blue"), (second, "green blue red"), (third, "blue red green")):
        assert found.names == names.split()
        np.testing.assert_allclose(found.scores, [0.8, 0.4, 0.2], atol=1e-5)
    np.testing.assert_allclose(first.boxes, [[24, 32, 72, 64]] * 3, atol=1e-4)
    np.testing.assert_allclose(second.boxes, [[50, 15, 150, 30]] * 3, atol=1e-4)
    assert [found.names for found in detector.predict(pictures, score_threshold=0.5)] == [["red"], ["green"], ["blue"]]
    (alone,) = detector.predict(pictures[1], score_threshold=0.0, batch_size=1)
    np.testing.assert_allclose(alone.scores, second.scores, atol=1e-6)


def test_without_a_threshold_predict_takes_the_contracts_operating_threshold(
    load: Callable[..., RuntimeDetector],
) -> None:
    detector = load("nms")
    assert [one.names for one in detector.predict(plain(90, 102, 18))] == [["green", "red"]]  # from 0.3, a guess
    spec = replace(detector.contract.postprocess, operating_threshold=0.38, operating_threshold_source="measured")
    measured = RuntimeDetector(replace(detector.contract, postprocess=spec), detector.model, detector.backend)
    assert [one.names for one in measured.predict(plain(90, 102, 18))] == [["green"]]
    assert [one.names for one in measured.predict(plain(90, 102, 18), score_threshold=0.3)] == [["green", "red"]]


@pytest.mark.parametrize("variant", ["raw", "decoded", "nms"])
def test_scores_below_the_contracts_threshold_are_left_out(load: Callable[..., RuntimeDetector], variant: str):
    """It is 0.0625: 12 of 255 is less, 18 is more."""
    (found,) = load(variant).predict(plain(12, 102, 18), score_threshold=0.0)
    assert found.names == ["green", "blue"]
    (nothing,) = load(variant).predict(plain(12, 3, 5), score_threshold=0.0)
    assert len(nothing) == 0


@pytest.mark.parametrize("variant", ["decoded", "nms"])
@pytest.mark.parametrize(
    ("form", "box"),
    [
        (BoxSpec(format="yxyx"), [48, 16, 96, 48]),
        (BoxSpec(scale="pixels"), [0.5, 1.0, 1.5, 2.0]),
    ],
)
def test_boxes_are_read_as_the_contract_says(
    load: Callable[..., RuntimeDetector], variant: str, form: BoxSpec, box: list[float]
):
    """The model says 0.25, 0.5, 0.75, 1; the input is 32 x 48, the picture twice as large."""
    (found,) = load(variant, {"boxes": form}).predict(plain(204, 102, 51))
    np.testing.assert_allclose(found.boxes[0], box, atol=1e-4)


def test_letterboxes_are_filled_with_the_contracts_grey(load: Callable[..., RuntimeDetector]):
    """A picture of 48 x 48 pixels takes the middle 32 columns of the 48 x 32 input; 16 are filled."""
    detector = load("decoded", {"resize": ResizeSpec(mode="letterbox", padding_value=60)}, layout="NHWC", batch=1)
    picture = plain(240, 0, 0, (48, 48))
    inputs, view = detector.preprocess(picture)
    assert inputs.shape == (1, 32, 48, 3)
    assert (inputs[0, :, :8] == 60).all() and (inputs[0, :, 40:] == 60).all()
    assert (inputs[0, :, 8:40] == (240, 0, 0)).all()
    assert view.size == (32, 48)
    (found,) = detector.predict(picture)
    assert found.names == ["red"]
    np.testing.assert_allclose(found.scores[0], (240 * 2 / 3 + 60 / 3) / 255, atol=1e-5)
    np.testing.assert_allclose(found.boxes[0], [6, 24, 42, 48], atol=1e-4)  # x: (12 - 8) * 1.5, (36 - 8) * 1.5


def test_the_steps_can_be_taken_one_by_one(load: Callable[..., RuntimeDetector]):
    detector = load("decoded", type="float32", mean=(1.0, 2.0, 3.0), std=(2.0, 4.0, 5.0), color_order="BGR")
    inputs, view = detector.preprocess(plain(204, 102, 51))
    assert (inputs.shape, inputs.dtype) == ((1, 3, 32, 48), np.float32)
    np.testing.assert_allclose(inputs[0, :, 0, 0], [25, 25, 40.2], rtol=1e-6)  # (51 - 1) / 2, (102 - 2) / 4 ...
    outputs = detector.infer(inputs)
    assert {name: value.shape for name, value in outputs.items()} == {"scores": (1, 1, 3), "boxes": (1, 1, 4)}
    (found,) = detector.postprocess(outputs)
    assert found.labels.tolist() == [0, 1, 2]
    np.testing.assert_allclose(found.boxes[0], [12, 16, 36, 32], atol=1e-4)
    np.testing.assert_allclose(view.boxes_to_source(found.boxes)[0], [24, 32, 72, 64], atol=1e-4)


def test_no_pictures_give_no_detections(load: Callable[..., RuntimeDetector]):
    for batch in (None, 1, 2):
        detector = load("nms", batch=batch)
        assert detector.predict([]) == []
        assert detector.detect(np.zeros((0, 3, 32, 48), np.uint8)) == []


def test_pictures_of_every_kind(load: Callable[..., RuntimeDetector], tmp_path: Path):
    detector = load("decoded")
    picture = plain(204, 102, 51)
    Image.fromarray(picture).save(tmp_path / "a.png")
    tensor = torch.from_numpy(picture).permute(2, 0, 1)
    kinds = [picture, tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(picture), tensor, tensor.bfloat16()]
    for kind in kinds:
        (found,) = detector.predict(kind)
        assert found.names == ["red", "green"]
        assert found.class_names == ("red", "green", "blue")
    assert len(detector.predict(kinds, batch_size=4)) == 6


def test_other_things_are_refused_as_the_detector_does(load: Callable[..., RuntimeDetector], tmp_path: Path):
    detector = load("decoded")
    with pytest.raises(ValueError, match=r"image 1: expected RGB \[H, W, 3\], got shape \(3, 4\)"):
        detector.predict([plain(1, 2, 3), np.zeros((3, 4), np.uint8)])
    with pytest.raises(TypeError, match="image 0: expected a path"):
        detector.predict([7])
    with pytest.raises(DataError, match="no such image file"):
        detector.predict(tmp_path / "none.png")
    with pytest.raises(ValueError, match="batch_size"):
        detector.predict(plain(1, 2, 3), batch_size=0)
    with pytest.raises(ValueError, match=r"expected uint8 images \[B, 3, 32, 48\], got uint8 \(1, 32, 48, 3\)"):
        detector.detect(np.zeros((1, 32, 48, 3), np.uint8))
    with pytest.raises(ValueError, match=r"expected uint8 \[1, 3, 32, 48\], got float32"):
        detector.infer(np.zeros((1, 3, 32, 48), np.float32))


def test_thresholds_can_be_changed_where_they_are_not_built_in(load: Callable[..., RuntimeDetector]):
    picture = plain(204, 102, 51)
    for variant in ("raw", "decoded"):
        detector = load(variant)
        assert len(detector.with_thresholds(score_threshold=0.5).predict(picture, score_threshold=0)[0]) == 1
        assert len(detector.with_thresholds(max_detections=2).predict(picture, score_threshold=0)[0]) == 2
        assert len(detector.predict(picture, score_threshold=0)[0]) == 3
        for name, value in (("score_threshold", 1.5), ("nms_threshold", -0.1), ("max_detections", 0)):
            with pytest.raises(ConfigError, match=f"{name}: expected"):
                detector.with_thresholds(**{name: value})
    built_in = load("nms")
    assert len(built_in.with_thresholds(max_detections=3, score_threshold=0.0625).predict(picture)[0]) == 2
    with pytest.raises(ConfigError, match=r"max_detections 3 is built into a model of variant nms, and cannot be 2"):
        built_in.with_thresholds(max_detections=2)


# -- what the model answers ------------------------------------------------------------------------------------------


class FakeBackend:
    """Answers the same whatever it is asked."""

    def __init__(self, **values: Any) -> None:
        self.values = values

    def run(self, inputs: np.ndarray) -> dict[str, np.ndarray]:
        return self.values


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out_count": np.array([4], np.int32)}, "expected a count of 0 to 3, got 4"),
        ({"out_count": np.array([-1], np.int32)}, "expected a count of 0 to 3, got -1"),
        ({"out_labels": np.array([[0, 1, 3]], np.int32)}, r"expected labels of 0 to 2, got \[0, 1, 3\]"),
        ({"out_labels": np.array([[0, -1, 1]], np.int32)}, r"expected labels of 0 to 2, got \[0, -1, 1\]"),
        ({"out_labels": np.zeros((1, 3), np.int64)}, r"'out_labels': expected int32 \[1, 3\], got int64"),
        (
            {"out_boxes": np.zeros((1, 2, 4), np.float32)},
            r"'out_boxes': expected float32 \[1, 3, 4\], got .*\[1, 2, 4\]",
        ),
        ({"out_scores": None}, r"'out_scores': expected float32 \[1, 3\], got nothing"),
    ],
)
def test_answers_that_break_the_contract(make_colour_model: Callable[..., Any], changes: dict[str, Any], message: str):
    answers = {
        "out_boxes": np.zeros((1, 3, 4), np.float32),
        "out_scores": np.zeros((1, 3), np.float32),
        "out_labels": np.zeros((1, 3), np.int32),
        "out_count": np.array([3], np.int32),
    } | changes
    _, contract = make_colour_model("nms")
    backend = FakeBackend(**{name: value for name, value in answers.items() if value is not None})
    with pytest.raises(ContractError, match=rf"^colours\.onnx: .*{message}"):
        RuntimeDetector(contract, contract.models[0], backend).predict(plain(1, 2, 3))


def test_contracts_that_ask_for_more_than_this_runtime_does(make_colour_model: Callable[..., Any]):
    for changes in ({"antialias": True}, {"half_pixel_centers": False}):
        _, contract = make_colour_model("nms")
        contract = replace(contract, resize=replace(contract.resize, **changes))
        with pytest.raises(ContractError, match="half-pixel centres"):
            RuntimeDetector(contract, contract.models[0], FakeBackend())
    for spec, message in (
        ({"value_range": (0.0, 1.0)}, "0 to 255"),
        ({"batch": 1024, "height": 4096}, "at most 268435456"),
    ):
        _, contract = make_colour_model("nms", **spec)
        with pytest.raises(ContractError, match=message):
            RuntimeDetector(contract, contract.models[0], FakeBackend())
