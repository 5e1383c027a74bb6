"""The configuration: defaults, checks, plain values back and forth, and what earlier versions wrote."""

import json

import numpy as np
import pytest

from ssdlite.anchors import AnchorConfig, torchvision_anchors
from ssdlite.config import (
    PRESETS,
    DetectorConfig,
    HeadConfig,
    InputConfig,
    NeckConfig,
    get_option,
    override,
    preset_config,
    upgrade_config,
)
from ssdlite.errors import ConfigError
from ssdlite.validation import Config, convert, suggest


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_survive_json(preset):
    config = PRESETS[preset]
    assert DetectorConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_plain_values_are_plain():
    values = json.loads(json.dumps(DetectorConfig(class_names=("a", "b")).to_dict(), allow_nan=False))
    assert values["version"] == 2
    assert values["class_names"] == ["a", "b"]
    assert set(values["anchors"]) == {"levels", "relative_to", "steps", "offset"}
    assert values["input"] == {
        "size": [320, 320],
        "resize": "stretch",
        "mean": [127.5, 127.5, 127.5],
        "std": [127.5, 127.5, 127.5],
    }


FLAT = {  # as version 1 wrote it, in full
    "backbone": "mobilenet_v1",
    "width_mult": 0.5,
    "image_size": [192, 224],
    "class_names": ["cat", "dog"],
    "category_ids": [3, 7],
    "anchors": {"levels": [[[0.1, 0.1]]] * 4, "relative_to": "shorter_side", "steps": []},
    "finest_stride": 8,
    "extra_channels": [64],
    "extra_conv": "plain",
    "extra_hidden": [32],
    "extra_output": "linear",
    "head_conv": "pointwise",
    "last_head_conv": "pointwise",
    "padding": "same",
    "norm_eps": 1e-4,
    "norm_momentum": 0.2,
    "activation": "relu",
    "narrowing": "detection_api",
    "mean": [1.0, 2.0, 3.0],
    "std": [4.0, 5.0, 6.0],
    "box_code_scales": [1.0, 1.0, 2.0, 2.0],
    "score_function": "sigmoid",
    "resize": "letterbox",
    "score_threshold": 0.2,
    "nms_threshold": 0.4,
    "candidates_per_class": 50,
    "max_detections": 20,
}


def test_flat_configurations_are_upgraded():
    expected = {
        "version": 2,
        "backbone": {"name": "mobilenet_v1", "width_mult": 0.5},
        "layers": {
            "padding": "same",
            "norm_eps": 1e-4,
            "norm_momentum": 0.2,
            "activation": "relu",
            "narrowing": "detection_api",
        },
        "neck": {
            "name": "extra_layers",
            "channels": [64],
            "hidden": [32],
            "conv": "plain",
            "output": "linear",
            "kernel_size": 3,
            "joint": "separable",
            "enlargement": "nearest",
        },
        "head": {
            "name": "ssdlite",
            "conv": "pointwise",
            "last_conv": "pointwise",
            "box_code_scales": [1.0, 1.0, 2.0, 2.0],
            "score_function": "sigmoid",
            "depth": 2,
            "kernel_size": 3,
            "towers": "shared",
            "bins": 0,
        },
        "input": {"size": [192, 224], "resize": "letterbox", "mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0]},
        "postprocess": {
            "score_threshold": 0.2,
            "nms_threshold": 0.4,
            "candidates_per_class": 50,
            "max_detections": 20,
        },
        "strides": [8, 16, 32, 64],
        "anchors": {"levels": [[[0.1, 0.1]]] * 4, "relative_to": "shorter_side", "steps": [], "offset": 0.5},
        "class_names": ["cat", "dog"],
        "category_ids": [3, 7],
    }
    assert json.loads(json.dumps(DetectorConfig.from_dict(FLAT).to_dict())) == expected


def test_flat_configurations_without_an_option_have_its_default_of_then():
    config = DetectorConfig.from_dict({"class_names": ["a"]})
    assert config == DetectorConfig(class_names=("a",))
    assert (config.layers.norm_eps, config.layers.norm_momentum) == (1e-3, 0.03)


def test_versions_to_come_are_refused():
    with pytest.raises(ConfigError, match="version 3; this version of ssdlite reads up to 2"):
        upgrade_config({"version": 3})


def test_a_configuration_cannot_be_changed():
    with pytest.raises(AttributeError):
        DetectorConfig().strides = (16,)
    with pytest.raises(AttributeError):
        DetectorConfig().input.size = (64, 64)


def test_geometry_by_hand():
    config = DetectorConfig(input=InputConfig(size=(300, 321)))
    assert config.strides == (16, 32, 64, 128, 256, 512)
    assert config.grid_sizes == ((19, 21), (10, 11), (5, 6), (3, 3), (2, 2), (1, 1))
    assert config.num_anchors == 19 * 21 * 3 + (110 + 30 + 9 + 4 + 1) * 6
    assert config.num_classes == 80


def test_fewer_maps():
    anchors = AnchorConfig((((0.1, 0.1),), ((0.2, 0.2),), ((0.4, 0.4),)))
    config = override(DetectorConfig(), image_size=(64, 64), extra_channels=(64,), anchors=anchors)
    assert config.strides == (16, 32, 64)
    assert config.num_anchors == 16 + 4 + 1


def test_a_finer_map():
    config = preset_config("ssdlite320_mobilenet_v2", finest_stride=8)
    assert config.strides == (8, 16, 32, 64, 128, 256, 512)
    assert len(config.anchors.levels) == 7
    assert preset_config("litepan320_small", finest_stride=8) == preset_config("litepan320_small")
    with pytest.raises(ConfigError, match="finest_stride: expected 8 or 16, got 4"):
        preset_config("ssdlite320_mobilenet_v2", finest_stride=4)
    with pytest.raises(ConfigError, match="the maps of litepan320_small begin at 8, expected 8, got 16"):
        preset_config("litepan320_small", finest_stride=16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": (31, 320)}, r"size: expected sides of 32 to 4096 pixels, got \(31, 320\)"),
        ({"image_size": (320, 4097)}, "size"),
        ({"width_mult": 0.05}, "width_mult: expected 0.1 to 4, got 0.05"),
        ({"width_mult": float("inf")}, "width_mult"),
        ({"class_names": ()}, "class_names: expected 1 to"),
        ({"class_names": ("a", "b", "a")}, r"several of \['a'\]"),
        ({"extra_channels": (64,) * 9}, "channels"),
        ({"extra_channels": (512, 256, 256, 0)}, "channels"),
        ({"extra_channels": (512, 256, 256, 10**6)}, "channels"),
        ({"extra_hidden": (64,)}, r"hidden: expected none, or one of 1 to 8192 for each of 4 maps, got \(64,\)"),
        ({"extra_hidden": (64, 64, 64, 0)}, "hidden"),
        ({"extra_channels": (512,)}, "the network has 3 maps from stride 16 on, got shapes for 6"),
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
        ({"resize": "crop"}, "resize: expected one of stretch, letterbox, got 'crop'"),
        ({"score_function": "softmx"}, "score_function: expected one of softmax, sigmoid, got 'softmx'"),
    ],
)
def test_values_out_of_range_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        override(DetectorConfig(), **changes)
    with pytest.raises(ConfigError, match=message):
        DetectorConfig.from_dict(changes)  # as version 1 wrote it


def test_only_heads_of_distances_have_distributions() -> None:
    with pytest.raises(ConfigError, match=r"^bins: ssdlite predicts no distributions; expected none \(0\), got 8$"):
        HeadConfig(bins=8)
    assert HeadConfig(name="aligned_distances", bins=8).bins == 8


@pytest.mark.parametrize(
    ("strides", "message"),
    [
        ((), "strides: expected 1 to 10 whole numbers"),
        ((32, 16), "finest map first"),
        ((16, 16), "finest map first"),
        ((0, 16), "strides"),
        ((16, 32), "the network has 2 maps from stride 16 on, got shapes for 6"),
    ],
)
def test_impossible_strides_are_refused(strides, message):
    with pytest.raises(ConfigError, match=message):
        DetectorConfig(strides=strides)


def test_an_option_out_of_range_is_called_by_its_own_name():
    with pytest.raises(ConfigError, match=r"^image_size: expected sides"):
        override(DetectorConfig(), image_size=(16, 16))
    with pytest.raises(ConfigError, match=r"^extra_channels: expected up to 8 maps"):
        override(DetectorConfig(), extra_channels=(0,))


def test_a_wrong_part_is_refused():
    with pytest.raises(ConfigError, match="neck: expected NeckConfig, got HeadConfig"):
        DetectorConfig(neck=HeadConfig())


def test_many_class_names_are_checked_quickly():
    names = tuple(f"class_{i}" for i in range(50_000))
    assert DetectorConfig(class_names=names).num_classes == 50_000


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_size": [320]}, "input.size"),
        ({"image_size": ["320", 320]}, r"input\.size\[0\]"),
        ({"image_size": 320}, "input.size"),
        ({"class_names": "cat"}, "class_names"),
        ({"class_names": ["cat", None]}, r"class_names\[1\]"),
        ({"width_mult": "1.0"}, "width_mult"),
        ({"width_mult": None}, "width_mult"),
        ({"max_detections": 1.5}, "max_detections"),
        ({"extra_channels": 4}, "extra_channels: expected a list, got 4"),
        ({"finest_stride": 4}, "finest_stride: expected 8 or 16, got 4"),
        ({"anchors": {"levels": [[[0.1]]]}}, "anchors"),
        ({"anchors": {}}, "anchors"),
        ({"anchors": {"levels": [[[0.1, 0.1]]], "relative_to": "width"}}, "relative_to"),
        ({"anchors": {"levels": [[[-0.1, 0.1]]]}}, r"fractions in \(0, 4\]"),
        ({"anchors": {"levels": [[[0.1, 0.1]]], "stepz": []}}, "anchors: unknown option 'stepz'; did you mean 'steps'"),
        ({"resize": ["stretch"]}, "resize"),
        ({"imagesize": [320, 320]}, "unknown option 'imagesize'; did you mean 'image_size'"),
        ({"version": 2, "input": {"sise": [1, 1]}}, "input: unknown option 'sise'; did you mean 'size'"),
        ({"version": 2, "backbone": "mobilenet_v2"}, "backbone"),
        ({"version": 2, "image_size": [320, 320]}, "unknown option 'image_size'"),
        ({1: 2}, "detector configuration"),
        ([], "detector configuration"),
        (None, "detector configuration"),
        ("x", "detector configuration"),
    ],
)
def test_untrusted_values_are_checked(values, message):
    with pytest.raises(ConfigError, match=message):
        DetectorConfig.from_dict(values)


def test_whole_numbers_become_floats_where_those_belong():
    """An integer mean would make the network's normalisation one of integers."""
    mean = InputConfig(mean=(120, 110, 100)).mean
    assert mean == (120.0, 110.0, 100.0)
    assert [type(value) for value in mean] == [float] * 3


def test_override():
    config = override(DetectorConfig(), image_size=[64, 96], max_detections=np.int64(7), width_mult=1)
    assert (config.input.size, config.postprocess.max_detections, config.backbone.width_mult) == ((64, 96), 7, 1.0)
    assert type(config.postprocess.max_detections) is int
    anchors = torchvision_anchors()
    assert override(config, anchors=anchors).anchors == anchors
    assert override(config) == config
    neck = NeckConfig(channels=(1, 2, 3, 4))
    assert override(config, neck=neck, extra_conv="plain").neck == NeckConfig(channels=(1, 2, 3, 4), conv="plain")
    with pytest.raises(ConfigError, match=r"unknown option 'nms_treshold'; did you mean 'nms_threshold'\? Known: "):
        override(config, nms_treshold=0.5)
    with pytest.raises(ConfigError, match="object"):
        override(config, mean=object())
    with pytest.raises(ConfigError, match="input: expected InputConfig, got dict"):
        override(config, input={"sze": 1}, image_size=96)


def test_options_by_name():
    config = DetectorConfig.from_dict(FLAT)
    assert get_option(config, "image_size") == (192, 224)
    assert get_option(config, "backbone") == "mobilenet_v1"


class Part(Config, frozen=True, kw_only=True):
    side: int = 1


class Whole(Config, frozen=True, kw_only=True):
    part: Part = Part()
    shares: tuple[float, ...] = ()


def test_convert_checks_every_part():
    assert convert({"part": {"side": 2}, "shares": [1]}, Whole, "options") == Whole(part=Part(side=2), shares=(1.0,))
    with pytest.raises(ConfigError, match="options: part: unknown option 'sides'; did you mean 'side'"):
        convert({"part": {"sides": 2}}, Whole, "options")
    with pytest.raises(ConfigError, match=r"options: .*\$\.shares\[1\]"):
        convert({"shares": [0.5, "x"]}, Whole, "options")


def test_suggest():
    assert suggest("colour", ["color", "size"]) == "; did you mean 'color'? Known: color, size"
    assert suggest("zzz", ["color", "size"]) == "; Known: color, size"
