"""Dicts of named arrays: the numbers of the network that they are of, however they were kept."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

import ssdlite
from ssdlite.anchors import AnchorConfig
from ssdlite.weights import from_tensors

here = Path(__file__).parent
models: Any = runpy.run_path(str(here / "tensorflow_models.py"))
layouts: Any = runpy.run_path(str(here / "pytorch_ssd_layouts.py"))
writers: Any = runpy.run_path(str(here / "tensorflow_writers.py"))
Values = dict[str, npt.NDArray[Any]]
NAMES = ("cat", "dog", "bird")
PIXELS = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 96, 96), np.uint8))


@pytest.fixture(scope="module")
def small() -> Values:
    return dict(models["Variables"](models["Design"](version=1, lite=False, width=0.25)).values)


def folded(values: Values, offset: str) -> Values:
    """As optimize_for_inference leaves them: without the norms of all convolutions but the depthwise ones."""
    result = dict(values)
    for name in values:
        if name.endswith("/weights") and name.replace("/weights", "/BatchNorm/beta") in values:
            scope = name.removesuffix("/weights")
            result[name], result[f"{scope}/{offset}"] = models["fold"](values, scope)
            for entry in ("gamma", "beta", "moving_mean", "moving_variance"):
                del result[f"{scope}/BatchNorm/{entry}"]
    return result


def raw_outputs(imported: Any) -> torch.Tensor:
    with torch.no_grad():
        outputs = imported.checkpoint.build_detector().eval()(PIXELS)
    return torch.cat([outputs.box_deltas, outputs.class_logits], dim=2)


def test_norms_that_were_folded(small: Values, tmp_path: Path) -> None:
    expected = raw_outputs(from_tensors(small, class_names=NAMES, image_size=96))
    assert expected.abs().max() > 0.5
    values = folded(small, "convolution_bn_offset")
    assert "FeatureExtractor/MobilenetV1/Conv2d_0/BatchNorm/beta" not in values
    imported = from_tensors(values, class_names=NAMES, image_size=96)
    torch.testing.assert_close(raw_outputs(imported), expected, atol=2e-3, rtol=0)
    made = {why for _, why in imported.made}
    assert made == {"was folded into the convolution, restored", "TensorFlow does not count batches"}
    graph = {  # its operators are in the scope of the network twice
        name.replace("MobilenetV1/", "MobilenetV1/MobilenetV1/") if name.endswith("bn_offset") else name: value
        for name, value in values.items()
    }
    (tmp_path / "graph.pb").write_bytes(writers["frozen_graph"](graph))
    imported = ssdlite.import_weights(tmp_path / "graph.pb", class_names=NAMES, image_size=96)
    assert len(imported.matched) == len(values)


def test_arrays_that_no_file_would_hold(small: Values) -> None:
    """Dequantised in float64, float16, of another byte order, views, and equal values that stand once."""
    values = dict(small)
    name = "FeatureExtractor/MobilenetV1/Conv2d_3_pointwise/weights"
    filters = values[name]
    scale = float(np.ptp(filters)) / 255
    bytes_ = np.round((filters - filters.min()) / scale).astype(np.uint8)
    values[name] = bytes_ * np.float64(scale) + filters.min()
    for beta in (one for one in values if one.endswith("/beta")):
        values[beta] = np.broadcast_to(np.float32(0.25), values[beta].shape)
    bias = "BoxPredictor_0/ClassPredictor/biases"
    values[bias] = values[bias].astype(">f4")
    imported = from_tensors(values, class_names=NAMES, image_size=96)
    weights = imported.checkpoint.weights
    got = weights["backbone.features.3.pointwise.0.weight"].permute(2, 3, 1, 0).numpy()
    np.testing.assert_allclose(got, filters, atol=0.51 * scale)
    assert weights["backbone.features.3.depthwise.1.bias"].unique().tolist() == [0.25]
    shared = dict.fromkeys(small, np.zeros(1000, np.float32))
    assert sum(value.nbytes for value in small.values()) > 1_000_000
    views = {
        key: shared[key][: value.size].reshape(value.shape) if value.size <= 1000 else value
        for key, value in small.items()
    }
    assert len(from_tensors(views, class_names=NAMES).matched) == len(small)


def test_state_dicts() -> None:
    state = layouts["make_state"]("mb2-ssd-lite", slots=3)
    imported = from_tensors({name: tensor.numpy() for name, tensor in state.items()}, class_names=NAMES[:2])
    assert (imported.source, imported.checkpoint.config.class_names) == ("pytorch-ssd mb2-ssd-lite", ("cat", "dog"))
    network = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)
    imported = from_tensors(network.state_dict(), class_names=NAMES)
    assert imported.source == "torchvision ssdlite320_mobilenet_v3_large"
    own = AnchorConfig((((0.5, 0.25),) * 6,) * 6)
    for one in (state, network.state_dict()):
        names = NAMES[: 2 if one is state else 3]
        assert from_tensors(one, class_names=names, anchors=own).checkpoint.config.anchors == own
        with pytest.raises(ssdlite.ConfigError, match="whose anchors have one order; leave out anchor_order"):
            from_tensors(one, class_names=names, anchor_order="interpolated_second")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "t: expected tensors by the names of .*, got none"),
        ({"a": np.zeros(3)}, "t: expected tensors by the names of .*, got a$"),
        ({"a": np.zeros(3, np.uint8)}, r"t: a: expected floats, got uint8; give .* as scale \* \(values - zero_point"),
        ({"a": "zeros"}, "t: a: expected an array or a dense tensor of floats, got a str"),
        ({"a": np.array(["x"])}, "t: a: expected an array or a dense tensor of floats, got a array of <U1"),
        ({"a": torch.empty(3, device="meta")}, "t: a: expected an array or a dense tensor"),
        ({3: np.zeros(3)}, "t: expected names of tensors, got 3"),
    ],
)
def test_what_is_no_dict_of_weights(tensors: Any, message: str) -> None:
    with pytest.raises(ssdlite.CheckpointError, match=message):
        from_tensors(tensors, name="t")


def test_weights_of_a_state_dict_that_are_no_floats(tmp_path: Path) -> None:
    """They were cast: a quantised layer became a wrong one without a word."""
    state = layouts["make_state"]("mb2-ssd-lite", slots=3)
    state["base_net.0.0.weight"] = (state["base_net.0.0.weight"] * 100).to(torch.int8)
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(ssdlite.CheckpointError, match=r"no floats, .*: base_net.0.0.weight -> backbone.* is int8"):
        ssdlite.import_weights(tmp_path / "a.pth", class_names=NAMES[:2])


def test_a_folder_around_is_not_looked_at(small: Values, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    (tmp_path / "pipeline.config").write_text("no such thing {")
    assert from_tensors(small, class_names=NAMES).checkpoint.config.class_names == NAMES
    with pytest.raises(ssdlite.CheckpointError, match="the names of its 3 classes are not in the file"):
        from_tensors(small)
