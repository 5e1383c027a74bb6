"""The configuration: defaults, checks, and plain values back and forth."""

import json
from dataclasses import FrozenInstanceError, dataclass, replace
from typing import Literal

import numpy as np
import pytest

from ssdlite.anchors import AnchorConfig, torchvision_anchors
from ssdlite.config import PRESETS, DetectorConfig, convert, override, suggest
from ssdlite.errors import ConfigError


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_survive_json(preset):
    config = PRESETS[preset]
    assert DetectorConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_plain_values_are_plain():
    values = DetectorConfig(class_names=("a", "b")).to_dict()
    json.dumps(values, allow_nan=False)
    assert list(values["class_names"]) == ["a", "b"]
    assert set(values["anchors"]) == {"levels", "relative_to", "steps"}


def test_older_configurations_have_the_defaults():
    """What the checkpoints of 0.1 do not name."""
    values = DetectorConfig().to_dict()
    for name in ("finest_stride", "activation", "extra_hidden", "extra_output", "last_head_conv", "narrowing"):
        del values[name]
    values["anchors"] = {"levels": values["anchors"]["levels"], "relative_to": "shorter_side"}
    assert DetectorConfig.from_dict(values) == DetectorConfig()


def test_a_configuration_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        DetectorConfig().image_size = (64, 64)


def test_geometry_by_hand():
    config = DetectorConfig(image_size=(300, 321))
    assert config.strides == (16, 32, 64, 128, 256, 512)
    assert config.grid_sizes == ((19, 21), (10, 11), (5, 6), (3, 3), (2, 2), (1, 1))
    assert config.num_anchors == 19 * 21 * 3 + (110 + 30 + 9 + 4 + 1) * 6
    assert config.num_classes == 80


def test_fewer_maps():
    anchors = AnchorConfig((((0.1, 0.1),), ((0.2, 0.2),), ((0.4, 0.4),)))
    config = DetectorConfig(image_size=(64, 64), extra_channels=(64,), anchors=anchors)
    assert config.strides == (16, 32, 64)
    assert config.num_anchors == 16 + 4 + 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": (31, 320)}, r"image_size: expected sides of 32 to 4096 pixels, got \(31, 320\)"),
        ({"image_size": (320, 4097)}, "image_size"),
        ({"width_mult": 0.05}, "width_mult: expected 0.1 to 4, got 0.05"),
        ({"width_mult": float("inf")}, "width_mult"),
        ({"class_names": ()}, "class_names: expected 1 to"),
        ({"class_names": ("a", "b", "a")}, r"several of \['a'\]"),
        ({"extra_channels": (64,) * 9}, "extra_channels"),
        ({"extra_channels": (512, 256, 256, 0)}, "extra_channels"),
        ({"extra_channels": (512, 256, 256, 10**6)}, "extra_channels"),
        ({"extra_hidden": (64,)}, r"extra_hidden: expected none, or one of 1 to 8192 for each of 4 maps, got \(64,\)"),
        ({"extra_hidden": (64, 64, 64, 0)}, "extra_hidden"),
        ({"extra_channels": (512,)}, "the network has 3 maps, got shapes for 6"),
        ({"mean": (float("nan"), 0.0, 0.0)}, "mean: expected finite"),
        ({"std": (1.0, -1.0, 1.0)}, "std: expected positive"),
        ({"std": (1.0, float("inf"), 1.0)}, "std: expected positive"),
        ({"box_code_scales": (10.0, 10.0, 5.0, 0.0)}, "box_code_scales: expected positive"),
        ({"norm_eps": 0.0}, "norm_eps"),
        ({"norm_momentum": 1.5}, "norm_momentum"),
        ({"score_threshold": -0.1}, "score_threshold: expected 0 to 1"),
        ({"nms_threshold": float("nan")}, "nms_threshold: expected 0 to 1"),
        ({"candidates_per_class": 0}, "candidates_per_class"),
        ({"max_detections": 10**9}, "max_detections"),
    ],
)
def test_values_out_of_range_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(DetectorConfig(), **changes)
    with pytest.raises(ConfigError, match=message):
        DetectorConfig.from_dict(DetectorConfig().to_dict() | changes)


def test_many_class_names_are_checked_quickly():
    names = tuple(f"class_{i}" for i in range(50_000))
    assert DetectorConfig(class_names=names).num_classes == 50_000


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_size": [320]}, "image_size"),
        ({"image_size": ["320", 320]}, r"image_size\[0\]"),
        ({"image_size": 320}, "image_size"),
        ({"class_names": "cat"}, "class_names"),
        ({"class_names": ["cat", None]}, r"class_names\[1\]"),
        ({"width_mult": "1.0"}, "width_mult"),
        ({"width_mult": None}, "width_mult"),
        ({"max_detections": 1.5}, "max_detections"),
        ({"anchors": {"levels": [[[0.1]]]}}, "anchors"),
        ({"anchors": {}}, "anchors"),
        ({"anchors": {"levels": [[[0.1, 0.1]]], "relative_to": "width"}}, "relative_to"),
        ({"anchors": {"levels": [[[-0.1, 0.1]]]}}, r"fractions in \(0, 4\]"),
        ({"resize": "crop"}, "resize: expected one of .*letterbox.*, got 'crop'"),
        ({"resize": ["stretch"]}, "resize"),
        ({"imagesize": [320, 320]}, "unknown option 'imagesize'; did you mean 'image_size'"),
        ({1: 2}, "detector configuration"),
        ([], "detector configuration"),
        (None, "detector configuration"),
        ("x", "detector configuration"),
    ],
)
def test_untrusted_values_are_checked(values, message):
    with pytest.raises(ConfigError, match=message):
        DetectorConfig.from_dict(values)


def test_override():
    config = override(DetectorConfig(), image_size=[64, 96], max_detections=np.int64(7), width_mult=1)
    assert (config.image_size, config.max_detections, config.width_mult) == ((64, 96), 7, 1.0)
    anchors = torchvision_anchors()
    assert override(config, anchors=anchors).anchors == anchors
    assert override(config) == config
    with pytest.raises(ConfigError, match=r"unknown option 'nms_treshold'; did you mean 'nms_threshold'\? Known: "):
        override(config, nms_treshold=0.5)
    with pytest.raises(ConfigError, match="object"):
        override(config, mean=object())


def test_convert_serves_any_dataclass():
    @dataclass
    class Options:
        side: int = 1
        kind: Literal["a", "b"] = "a"

    assert convert({"side": 2}, Options, "options") == Options(2)
    with pytest.raises(ConfigError, match=r"options: kind: expected one of \('a', 'b'\), got 'c'"):
        convert({"kind": "c"}, Options, "options")
    with pytest.raises(ConfigError, match="options: unknown option 'sides'; did you mean 'side'"):
        convert({"sides": 2}, Options, "options")


def test_suggest():
    assert suggest("colour", ["color", "size"]) == "; did you mean 'color'? Known: color, size"
    assert suggest("zzz", ["color", "size"]) == "; Known: color, size"
