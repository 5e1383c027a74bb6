"""Checkpoints and frozen graphs of TensorFlow: read as TensorFlow wrote them, giving the numbers that it gives."""

from __future__ import annotations

import runpy
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

import ssdlite
from ssdlite.anchors import AnchorConfig
from ssdlite.weights.raw_tensors import read_values
from ssdlite.weights.tensorflow import find_checkpoint
from ssdlite.weights.tensorflow.files import read_checkpoint, read_frozen_graph
from ssdlite.weights.tensorflow.pipeline_config import read_label_map, read_pipeline

here = Path(__file__).parent
models: Any = runpy.run_path(str(here / "tensorflow_models.py"))
writers: Any = runpy.run_path(str(here / "tensorflow_writers.py"))
Design = models["Design"]
Values = dict[str, npt.NDArray[Any]]
GOLDEN = here.parent / "data" / "tensorflow"  # written by TensorFlow 2.21, see data/README.md
SMALL = Design(version=1, lite=False, width=0.25)
NAMES = ("cat", "dog", "bird")
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8).repeat(8, 0).repeat(8, 1)


def raw_outputs(imported: Any) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    with torch.no_grad():
        detector = imported.checkpoint.build_detector().eval()
        outputs = detector(torch.from_numpy(PIXELS).permute(2, 0, 1)[None])
    return outputs.box_deltas[0].numpy()[:, [1, 0, 3, 2]], outputs.class_logits[0].numpy()


@pytest.fixture(scope="module")
def small() -> Values:
    return dict(models["Variables"](SMALL).values)


def save(values: Values, folder: Path, name: str = "model.ckpt-100") -> Path:
    writers["write_checkpoint"](values, folder / name)
    return folder / name


# --- the formats ---


def test_a_checkpoint_that_tensorflow_wrote() -> None:
    index = find_checkpoint(GOLDEN)
    assert index == GOLDEN / "small-7.index"
    file = read_checkpoint(index)
    variables = file.variables
    assert sorted(variables) == ["FeatureExtractor/a/weights", "FeatureExtractor/ab/biases", "global_step"]
    weights, biases = file.read(["FeatureExtractor/a/weights", "FeatureExtractor/ab/biases"])
    np.testing.assert_array_equal(weights, [[1, 2], [3, 4]])
    np.testing.assert_array_equal(biases, [0.5, -2, 8])  # float16
    assert variables["global_step"].shape == ()


def test_a_frozen_graph_that_tensorflow_wrote() -> None:
    graph = read_frozen_graph(GOLDEN / "small.pb")
    arrays = read_values(list(graph.variables.values()), graph.path, graph.size)
    values = {name: array.tolist() for name, array in zip(graph.variables, arrays, strict=True)}
    assert values == {
        "FeatureExtractor/a/weights": [[1, 2], [3, 4]],
        "FeatureExtractor/ab/biases": [0.5, -2, 8],
        "splat": [0.25, 0.25],  # written once
        "listed": [1.5, 2.5],
        "size": [300, 200],
        "Reshape/shape": [4, 2],
    }
    assert graph.operators["out"] == "Sigmoid"
    assert graph.epsilons == pytest.approx((0.002,))


def test_what_stands_for_a_checkpoint(small: Values, tmp_path: Path) -> None:
    for step in (9, 100):
        save({"a": np.zeros(1, np.float32)}, tmp_path, f"model.ckpt-{step}")
    newest = tmp_path / "model.ckpt-100.index"
    assert find_checkpoint(tmp_path) == newest
    for name in ("model.ckpt-100", "model.ckpt-100.data-00001-of-00002", "model.ckpt-100.index", "model.ckpt-100.meta"):
        assert find_checkpoint(tmp_path / name) == newest
    assert find_checkpoint(tmp_path / "model.ckpt") is None
    assert find_checkpoint(tmp_path / "elsewhere") is None


# --- whole detectors ---


def test_names_and_shapes_are_the_published_ones() -> None:
    """Of ssdlite_mobilenet_v2_coco and ssd_mobilenet_v1_coco, width 1, 91 slots; parameters of the reference."""
    values = models["Variables"](Design(version=2, lite=True, slots=91)).values
    assert values["FeatureExtractor/MobilenetV2/expanded_conv_13/expand/weights"].shape == (1, 1, 96, 576)
    extra = "FeatureExtractor/MobilenetV2/layer_19_2_Conv2d_2_3x3_s2_512_depthwise/depthwise_weights"
    assert values[extra].shape == (3, 3, 256, 1)
    assert values["BoxPredictor_0/ClassPredictor_depthwise/depthwise_weights"].shape == (3, 3, 576, 1)
    assert values["BoxPredictor_0/ClassPredictor/weights"].shape == (1, 1, 576, 273)
    trained = sum(value.size for name, value in values.items() if "/moving_" not in name)
    assert round(trained / 1e6, 3) == 4.501
    values = models["Variables"](Design(version=1, lite=False, slots=91)).values
    extra = "FeatureExtractor/MobilenetV1/Conv2d_13_pointwise_2_Conv2d_2_3x3_s2_512/weights"
    assert values[extra].shape == (3, 3, 256, 512)
    assert values["BoxPredictor_0/BoxEncodingPredictor/weights"].shape == (1, 1, 512, 12)
    trained = sum(value.size for name, value in values.items() if "/moving_" not in name)
    assert round(trained / 1e6, 3) == 6.820


@pytest.mark.parametrize(
    "design",
    [
        pytest.param(Design(version=1, lite=True, width=0.5), id="ssdlite_mobilenet_v1"),
        pytest.param(Design(version=2, lite=True), id="ssdlite_mobilenet_v2"),
        pytest.param(Design(version=2, lite=False, head_kernel=3, width=0.75), id="ssd_mobilenet_v2"),
    ],
)
def test_same_numbers_as_litert(design: Any, tmp_path: Path) -> None:
    """The variables give what the network gives in LiteRT, where their norms are folded."""
    pytest.importorskip("tflite", reason="needs the package tflite, which is not installed")
    pytest.importorskip("ai_edge_litert", reason="needs the package ai-edge-litert, which is not installed")
    values = models["Variables"](design).values
    expected = models["run_tflite"](models["tflite_ssd"](design, values).write(tmp_path / "a.tflite"), PIXELS)
    imported = ssdlite.import_weights(save(values, tmp_path), class_names=NAMES, image_size=96)
    config = imported.checkpoint.config
    assert (config.layers.padding, config.layers.norm_eps, config.head.score_function) == ("same", 0.001, "sigmoid")
    assert (config.backbone.name, config.backbone.width_mult, config.input.size) == (
        f"mobilenet_v{design.version}",
        design.width,
        (96, 96),
    )
    assert len(imported.matched) == len(values) and imported.left == ()
    for own, wanted in zip(raw_outputs(imported), expected, strict=True):
        np.testing.assert_allclose(own, wanted, atol=1e-3)


def test_a_frozen_graph(small: Values, tmp_path: Path) -> None:
    more = {"Preprocessor/map/while/ResizeImage/size": np.array([96, 128], np.int32)}
    path = tmp_path / "frozen_inference_graph.pb"
    path.write_bytes(writers["frozen_graph"](small | more))
    imported = ssdlite.import_weights(path, class_names=NAMES)
    config = imported.checkpoint.config
    assert (config.input.size, config.head.score_function) == ((96, 128), "sigmoid")
    assert config.layers.norm_eps == pytest.approx(0.002)
    assert imported.left == (("Preprocessor/map/while/ResizeImage/size", "not a weight of the network"),)
    path.write_bytes(writers["frozen_graph"](small, "Softmax"))
    config = ssdlite.import_weights(path, class_names=NAMES).checkpoint.config
    assert (config.input.size, config.head.score_function) == ((300, 300), "softmax")


def test_what_training_left(small: Values, tmp_path: Path) -> None:
    state = {
        "global_step": np.array(100, np.int64),
        "FeatureExtractor/MobilenetV1/Conv2d_0/weights/RMSProp_1": np.zeros(2, np.float32),
        "BoxPredictor_0/ClassPredictor/biases/ExponentialMovingAverage": np.zeros(2, np.float32),
    }
    imported = ssdlite.import_weights(save(small | state, tmp_path), class_names=NAMES)
    assert dict(imported.left) == dict.fromkeys(state, "state of the training")


PIPELINE = """
model { # of a team's own training
  ssd {
    num_classes: 3
    image_resizer { fixed_shape_resizer { height: 160 width: 192 } }
    feature_extractor { type: "ssd_mobilenet_v1" conv_hyperparams { batch_norm { epsilon: 0.01, decay: 0.9997 } } }
    box_coder { faster_rcnn_box_coder { y_scale: 8.0 x_scale: 9.0 height_scale: 4.0 width_scale: 3.0 } }
    anchor_generator { ssd_anchor_generator {
      num_layers: 6 min_scale: 0.1 max_scale: 0.6 aspect_ratios: 1.0 aspect_ratios: [2.0, 0.5, 3.0, 0.3333]
    } }
    post_processing {
      batch_non_max_suppression: < score_threshold: 0.25 iou_threshold: 0.5 >
      score_converter: SOFTMAX
    }
  }
}
train_config { fine_tune_checkpoint: 'a "path"/model.ckpt' batch_size: 24 }
"""


def test_the_pipeline_beside_it(small: Values, tmp_path: Path) -> None:
    (tmp_path / "pipeline.config").write_text(PIPELINE)
    config = ssdlite.import_weights(save(small, tmp_path), class_names=NAMES).checkpoint.config
    assert (config.input.size, config.layers.norm_eps, config.head.score_function) == ((160, 192), 0.01, "softmax")
    assert (config.postprocess.score_threshold, config.postprocess.nms_threshold) == (0.25, 0.5)
    assert config.head.box_code_scales == (9.0, 8.0, 3.0, 4.0)
    assert config.anchors.levels[0][1] == pytest.approx((0.1 * 2**0.5, 0.1 / 2**0.5))
    assert config.anchors.levels[5][0] == pytest.approx((0.6, 0.6))
    assert config.anchors.levels[4][5] == pytest.approx((0.3**0.5, 0.3**0.5))  # between .5 and .6


def test_a_size_that_the_source_says_is_kept(small: Values, tmp_path: Path) -> None:
    path = tmp_path / "graph.pb"
    path.write_bytes(writers["frozen_graph"](small | {"Preprocessor/ResizeImage/size": np.array([96, 96], np.int32)}))
    assert ssdlite.import_weights(path, class_names=NAMES, image_size=96).checkpoint.config.input.size == (96, 96)
    with pytest.raises(ssdlite.ConfigError, match=r"graph.pb: its input is 96 x 96 pixels, .* is 300"):
        ssdlite.import_weights(path, class_names=NAMES, image_size=300)
    (tmp_path / "pipeline.config").write_text(PIPELINE)
    with pytest.raises(ssdlite.ConfigError, match=r"pipeline.config: its input is 160 x 192 pixels, .* is 160"):
        ssdlite.import_weights(path, class_names=NAMES, image_size=160)


def test_pictures_have_no_use(small: Values, tmp_path: Path) -> None:
    path = tmp_path / "graph.pb"
    path.write_bytes(writers["frozen_graph"](small, anchors=OF_2017))
    with pytest.raises(ssdlite.ConfigError, match=r"nothing to measure on pictures \(--pictures p\); leave them out"):
        ssdlite.import_weights(path, class_names=NAMES, pictures="p")


# --- the order of anchors, which changed in autumn 2017 ---

RATIOS = [1.0, 1.0, 2.0, 0.5, 3.0, 0.3333]
OF_2017 = (
    ([0.1, 0.2, 0.2], [1.0, 2.0, 0.5]),
    *(
        ([scale, (scale * after) ** 0.5, *[scale] * 4], RATIOS)
        for scale, after in ((0.35, 0.5), (0.5, 0.65), (0.65, 0.8), (0.8, 0.95), (0.95, 1.0))
    ),
)


def test_the_anchors_of_a_graph_are_its_constants(small: Values, tmp_path: Path) -> None:
    path = tmp_path / "graph.pb"
    path.write_bytes(writers["frozen_graph"](small, anchors=OF_2017))
    imported = ssdlite.import_weights(path, class_names=NAMES)
    levels = imported.checkpoint.config.anchors.levels
    assert levels[0] == (
        pytest.approx((0.1, 0.1)),
        pytest.approx((0.28284271, 0.14142136)),
        pytest.approx((0.14142136, 0.28284271)),
    )
    assert levels[1][:3] == (
        pytest.approx((0.35, 0.35)),
        pytest.approx((0.41833001, 0.41833001)),
        pytest.approx((0.49497475, 0.24748737)),
    )
    assert levels[5][1] == pytest.approx((0.97467943, 0.97467943))
    assert imported.notes == ()
    for given in ({"anchor_order": "interpolated_second"}, {"anchors": imported.checkpoint.config.anchors}):
        with pytest.raises(ssdlite.ConfigError, match=r"graph.pb: the file holds its anchors; leave out anchor"):
            ssdlite.import_weights(path, class_names=NAMES, **given)


def test_an_order_or_anchors_for_a_file_that_has_none(small: Values, tmp_path: Path) -> None:
    prefix = save(small, tmp_path)
    imported = ssdlite.import_weights(prefix, class_names=NAMES, anchor_order="interpolated_second")
    levels = imported.checkpoint.config.anchors.levels
    assert [width for width, _ in levels[5]] == pytest.approx(
        [0.95, 0.97467943, 1.34350288, 0.67175144, 1.64544827, 0.54845533]
    )
    assert [width for width, _ in levels[0]] == pytest.approx([0.1, 0.28284271, 0.14142136])
    (tmp_path / "pipeline.config").write_text(PIPELINE)
    imported = ssdlite.import_weights(prefix, class_names=NAMES, anchor_order="interpolated_second")
    assert imported.checkpoint.config.anchors.levels[4][1] == pytest.approx((0.3**0.5, 0.3**0.5))
    own = AnchorConfig((((0.1, 0.1),) * 3, *(((0.5, 0.25),) * 6,) * 5))
    assert ssdlite.import_weights(prefix, class_names=NAMES, anchors=own).checkpoint.config.anchors == own
    with pytest.raises(ssdlite.ConfigError, match="anchors and anchor_order: expected one of them, got both"):
        ssdlite.import_weights(prefix, class_names=NAMES, anchors=own, anchor_order="interpolated_last")
    with pytest.raises(ssdlite.ConfigError, match=r"anchor_order: expected interpolated_last or interp.*, got '2017'"):
        ssdlite.import_weights(prefix, class_names=NAMES, anchor_order="2017")


def test_the_wrong_order_is_noticed(small: Values, tmp_path: Path) -> None:
    """A network whose six boxes of a cell are one and the same square with the anchors of mid-2017."""
    values = dict(small)
    for level, (scales, ratios) in enumerate(OF_2017):
        scope = f"BoxPredictor_{level}/BoxEncodingPredictor"
        values[f"{scope}/weights"] = np.zeros_like(values[f"{scope}/weights"])
        heights, widths = np.array(scales) / np.sqrt(ratios), np.array(scales) * np.sqrt(ratios)
        to_square = np.stack([0 * heights, 0 * widths, np.log(0.5 / heights), np.log(0.5 / widths)], axis=1)
        values[f"{scope}/biases"] = (5 * to_square).astype(np.float32).flatten()
    prefix = save(values, tmp_path)
    (note,) = ssdlite.import_weights(prefix, class_names=NAMES, image_size=96).notes
    assert "variance of the log 0.000, as imported 0." in note
    assert note.endswith("import again with --anchor-order interpolated_second")
    right = ssdlite.import_weights(prefix, class_names=NAMES, image_size=96, anchor_order="interpolated_second")
    assert right.notes == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model { ssd { ", "not protobuf's text format, or damaged"),
        ("\0\1\2", "not protobuf's text format, or damaged"),
        ("a {" * 200, "not protobuf's text format, or damaged .messages 51 deep"),
        ("model { faster_rcnn { } }", "expected a model of the kind ssd"),
        (PIPELINE.replace("fixed_shape_resizer", "keep_aspect_ratio_resizer"), "expected pictures resized to a fixed"),
        (PIPELINE.replace("SOFTMAX", "LOGIT"), "expected a score_converter SIGMOID or SOFTMAX, got LOGIT"),
        (PIPELINE.replace("height: 160", "height: tall"), "height: expected a number, got tall"),
        (PIPELINE.replace("num_layers: 6", "num_layers: 60"), "num_layers: expected 2 to 10, got 60"),
    ],
)
def test_pipelines_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "pipeline.config").write_text(text)
    with pytest.raises(ssdlite.CheckpointError, match=message):
        read_pipeline(tmp_path)


def test_label_maps(tmp_path: Path) -> None:
    path = tmp_path / "label_map.pbtxt"
    path.write_text("item { name: '/m/01g' id: 1 display_name: \"person\" }\nitem { id: 3 name: 'car\\'s' }")
    assert read_label_map(path) == ("person", "???", "car's")
    path.write_text(r"""item { id: 1 name: 'Gr\303\266\303\237e' } item { id: 2 name: "\u7c7b\xe5\x88\xab\\\"" }""")
    assert read_label_map(path) == ("Größe", '类别\\"')
    path.write_text("item { id: 1 name: 'Größe\\?' }", encoding="utf-8")
    assert read_label_map(path) == ("Größe?",)
    for text, message in (
        ("item { id: 1 name: 'a' } item { id: 1 name: 'b' }", "'b' has the id 1"),
        ("item { name: 'a' }", "'a' has the id -1"),
        ("", "expected items with a name and an id"),
        (r"item { id: 1 name: '\ud800' }", "damaged .*surrogates not allowed"),
        (r"item { id: 1 name: '\355\240\200' }", "damaged .*'utf-8' codec can't decode"),
        (r"item { id: 1 name: '\U00110000' }", "damaged .chr.. arg not in range"),
        (r"item { id: 1 name: '\d' }", r"damaged \(an unknown escape"),
    ):
        path.write_text(text)
        with pytest.raises(ssdlite.CheckpointError, match=message):
            read_label_map(path)


# --- what can be wrong ---


def without(values: Values, name: str) -> Values:
    return {key: value for key, value in values.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda values: without(values, "FeatureExtractor/MobilenetV1/Conv2d_3_depthwise/BatchNorm/beta"),
            "Conv2d_3_depthwise/BatchNorm/beta -> backbone.features.3.depthwise.1.bias",
        ),
        (
            lambda values: without(values, "BoxPredictor_4/ClassPredictor/biases"),
            "BoxPredictor_4/ClassPredictor/biases is missing",
        ),
        (
            lambda values: values | {"FeatureExtractor/MobilenetV1/Conv2d_14/weights": np.zeros(3, np.float32)},
            "unused keys: FeatureExtractor/MobilenetV1/Conv2d_14/weights",
        ),
        (
            lambda values: (
                values | {"FeatureExtractor/MobilenetV1/Conv2d_0/weights": np.zeros((5, 5, 3, 16), np.float32)}
            ),
            r"Conv2d_0/weights -> .*: expected \[16, 3, 3, 3\], got \[16, 3, 5, 5\] \(\[5, 5, 3, 16\] in the file\)",
        ),
        (
            lambda values: values | {"FeatureExtractor/MobilenetV1/Conv2d_0/weights": np.zeros((3, 8), np.float32)},
            r"Conv2d_0/weights -> backbone.features.0.0.weight: expected \[16, 3, 3, 3\], got \[3, 8\]",
        ),
        (
            lambda values: values | {"BoxPredictor_0/BoxEncodingPredictor/biases": np.zeros(13, np.float32)},
            "not 4 and one number of classes for each anchor",
        ),
        (lambda values: {"resnet/conv1/weights": np.zeros(3, np.float32)}, "no SSD with a MobileNet V1 or V2"),
        (
            lambda values: {"model/_feature_extractor/a/.ATTRIBUTES/VARIABLE_VALUE": np.zeros(3, np.float32)},
            "an object-based checkpoint of TensorFlow 2",
        ),
    ],
)
def test_checkpoints_that_are_not_quite_one(small: Values, tmp_path: Path, change: Any, message: str) -> None:
    prefix = save(change(small), tmp_path)
    with pytest.raises(ssdlite.CheckpointError, match=message):
        ssdlite.import_weights(prefix, class_names=NAMES)


def test_damaged_checkpoints(small: Values, tmp_path: Path) -> None:
    prefix = save(small, tmp_path)
    index, data = Path(f"{prefix}.index"), Path(f"{prefix}.data-00001-of-00002")
    content = data.read_bytes()
    data.write_bytes(content[:-4])
    with pytest.raises(ssdlite.CheckpointError, match=r"data-00001-of-00002: damaged or truncated"):
        ssdlite.import_weights(prefix, class_names=NAMES)
    data.unlink()
    with pytest.raises(ssdlite.CheckpointError, match=r"data-00001-of-00002: no such file"):
        ssdlite.import_weights(prefix, class_names=NAMES)
    data.write_bytes(content)
    whole = index.read_bytes()
    rng = np.random.default_rng(0)
    for round_number in range(60):
        damaged = bytearray(whole[: rng.integers(len(whole))] if round_number % 3 == 0 else whole)
        for _ in range(2):
            place = int(rng.integers(max(len(damaged) - 4, 1)))
            damaged[place : place + 4] = rng.choice([b"\xff\xff\xff\x7f", b"\xff" * 4, rng.bytes(4)])
        index.write_bytes(damaged)
        with pytest.raises(ssdlite.CheckpointError):
            ssdlite.import_weights(index, "tf-checkpoint", class_names=NAMES)


def test_a_graph_that_claims_more_than_it_holds(small: Values, tmp_path: Path) -> None:
    """A constant of equal values is written once: a few bytes could stand for any amount of memory."""
    field = writers["_field"]
    shape = field(2, b"".join(field(2, field(1, side)) for side in (3, 3, 100_000, 100_000)))
    tensor = field(1, 1) + shape + b"\x2d\0\0\0\0"
    name = "FeatureExtractor/MobilenetV1/Conv2d_0/weights"
    graph = writers["frozen_graph"](without(small, name)) + writers["_node"](name, "Const", value=field(8, tensor))
    path = tmp_path / "graph.pb"
    path.write_bytes(graph)
    with pytest.raises(
        ssdlite.CheckpointError, match=rf"damaged: {name} \[3, 3, 100000, 100000\] needs 360000000000 b"
    ):
        ssdlite.import_weights(path, class_names=NAMES)
    path.write_bytes(graph[:-20])
    with pytest.raises(ssdlite.CheckpointError, match="a damaged or truncated frozen graph of TensorFlow"):
        ssdlite.import_weights(path, class_names=NAMES)


def test_variables_of_the_same_bytes(tmp_path: Path) -> None:
    """Entries of a table are small; twenty large variables could stand on the bytes of one."""
    field = writers["_field"]
    shape = field(2, b"".join(field(2, field(1, side)) for side in (1, 1, 64, 64)))
    entry = field(1, 1) + shape + field(5, 4 * 64 * 64)
    names = [f"a{number:02}" for number in range(20)]
    entries = {b"": field(1, 1)} | {name.encode(): entry for name in names}
    (tmp_path / "m.ckpt.index").write_bytes(writers["_leveldb_table"](entries))
    (tmp_path / "m.ckpt.data-00000-of-00001").write_bytes(bytes(4 * 64 * 64))
    file = read_checkpoint(tmp_path / "m.ckpt.index")
    assert file.read(names[:2])[1].shape == (1, 1, 64, 64)
    message = (
        r"its tensors need 327680 bytes, the file holds 16384 \(a00, a01, a02 and 17 more: 327680 bytes, held are 163"
    )
    with pytest.raises(ssdlite.CheckpointError, match=message):
        file.read(names)


@pytest.mark.parametrize(
    ("shared", "keys", "message"),
    [
        (40_000, 99_000, "a name of 40000 bytes, more than the 1024 that are read"),
        (1_000, 99_000, "more than 100000 entries, or than 33554432 bytes of names"),
    ],
)
def test_names_that_share_what_they_begin_with(tmp_path: Path, shared: int, keys: int, message: str) -> None:
    """A megabyte that would become gigabytes of names."""
    (tmp_path / "a.index").write_bytes(writers["shared_prefix_index"](shared, keys))
    tracemalloc.start()
    try:
        with pytest.raises(ssdlite.CheckpointError, match=message):
            ssdlite.import_weights(tmp_path / "a.index", class_names=NAMES)
        assert tracemalloc.get_traced_memory()[1] < 100_000_000
    finally:
        tracemalloc.stop()


# --- TensorFlow itself ---


def test_same_numbers_as_tensorflow(tmp_path: Path) -> None:
    """Its own checkpoint, frozen graph and converted file of one network, against what it computes."""
    tensorflow = pytest.importorskip("tensorflow", reason="needs TensorFlow, which is not installed")
    design = Design(version=2, lite=True)
    written = models["write_with_tensorflow"](tensorflow, design, PIXELS, tmp_path)
    for path in (written.prefix, written.frozen, written.tflite):
        imported = ssdlite.import_weights(path, class_names=NAMES, image_size=96)
        for own, wanted in zip(raw_outputs(imported), written.outputs, strict=True):
            np.testing.assert_allclose(own, wanted, atol=1e-3)
