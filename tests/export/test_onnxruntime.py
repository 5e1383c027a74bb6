"""``.ort`` files say and compute what the ONNX files said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from ssdlite.errors import ExportError
from ssdlite.export.targets.onnxruntime import Optimization, to_ort_format, write_required_operators
from ssdlite.runtime.contract import METADATA_KEY

RNG = np.random.default_rng(0)


def _save(graph: onnx.GraphProto, path: Path) -> Path:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    helper.set_model_props(model, {METADATA_KEY: '{"a": "contract with ümlauts"}'})
    onnx.save(model, str(path))
    return path


@pytest.fixture
def float_file(tmp_path: Path) -> Path:
    """Convolution and Clip, which ONNX Runtime fuses, and a Softmax."""
    weights = RNG.normal(size=(8, 3, 3, 3)).astype(np.float32)
    constants = {"w": weights, "low": np.float32(0), "high": np.float32(6)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], kernel_shape=[3, 3]),
        helper.make_node("Clip", ["a", "low", "high"], ["c"]),
        helper.make_node("Softmax", ["c"], ["y"], axis=-1),
    ]
    return _save(_graph(nodes, constants), tmp_path / "float.onnx")


@pytest.fixture
def int8_file(tmp_path: Path) -> Path:
    """A quantised convolution with signed weights, one scale per channel."""
    constants = {
        "s": np.float32(0.02),
        "z": np.uint8(128),
        "w": RNG.integers(-63, 64, (8, 3, 3, 3)).astype(np.int8),  # of 7 bits: x86 without VNNI saturates with more
        "ws": np.linspace(0.001, 0.01, 8).astype(np.float32),
        "wz": np.zeros(8, np.int8),
        "os": np.float32(0.1),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=0),
        helper.make_node("Conv", ["d", "wd"], ["a"], kernel_shape=[3, 3]),
        helper.make_node("QuantizeLinear", ["a", "os", "z"], ["qa"]),
        helper.make_node("DequantizeLinear", ["qa", "os", "z"], ["y"]),
    ]
    return _save(_graph(nodes, constants), tmp_path / "int8.onnx")


def _graph(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> onnx.GraphProto:
    return helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 10, 10])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 8, 8])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )


def _run(path: Path, image: np.ndarray) -> tuple[np.ndarray, dict[str, str]]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (value,) = session.run(None, {"x": image})
    return value, dict(session.get_modelmeta().custom_metadata_map)


@pytest.mark.parametrize("optimization", [None, "fixed", "runtime"])
@pytest.mark.parametrize("kind", ["float", "int8"])
def test_same_numbers_and_same_contract(
    kind: str, optimization: Optimization | None, float_file: Path, int8_file: Path, tmp_path: Path
) -> None:
    source = float_file if kind == "float" else int8_file
    target = tmp_path / "out" / "model.ort"
    to_ort_format(source, target, optimization=optimization)
    assert target.read_bytes()[4:8] == b"ORTM"
    assert [path.name for path in target.parent.iterdir()] == ["model.ort"]
    image = RNG.normal(size=(1, 3, 10, 10)).astype(np.float32)
    (expected, metadata), (got, kept) = _run(source, image), _run(target, image)
    assert expected.std() > 0.01
    step = 0.1 if kind == "int8" else 0.0  # of the output's quantisation: a value on the edge may go either way
    np.testing.assert_allclose(got, expected, atol=step + 1e-6)
    assert np.abs(got - expected).mean() < 1e-3
    assert kept == metadata == {METADATA_KEY: '{"a": "contract with ümlauts"}'}


def test_quantised_models_are_fused_and_others_keep_their_operators(
    float_file: Path, int8_file: Path, tmp_path: Path
) -> None:
    to_ort_format(int8_file, tmp_path / "int8.ort")
    assert b"QLinearConv" in (tmp_path / "int8.ort").read_bytes()
    to_ort_format(float_file, tmp_path / "float.ort")
    assert b"Clip" in (tmp_path / "float.ort").read_bytes()
    to_ort_format(float_file, tmp_path / "fixed.ort", optimization="fixed")
    fused = (tmp_path / "fixed.ort").read_bytes()
    assert b"FusedConv" in fused and len(fused) < (tmp_path / "float.ort").stat().st_size


def test_required_operators_of_several_models(
    float_file: Path, int8_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "required_operators.config"
    write_required_operators([float_file, int8_file], config)
    first, *lines = config.read_text().splitlines()
    assert first == "# operators of float.onnx, int8.onnx"
    assert str(tmp_path) not in config.read_text()
    operators = {line.split(";")[0] + ";" + line.split(";")[1]: line.split(";")[2] for line in lines if line}
    assert "Conv" in operators["ai.onnx;11"]
    assert all(name in operators["ai.onnx;13"] for name in ("Clip", "Softmax", "QuantizeLinear", "DequantizeLinear"))
    assert "QLinearConv" in operators["ai.onnx;10"]
    assert "FusedConv" in operators["com.microsoft;1"]


def test_what_is_no_model_leaves_nothing_behind(tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    graph = _graph([helper.make_node("NoSuchOperator", ["x"], ["y"])], {})
    _save(graph, source)
    with pytest.raises(ExportError, match=r"model\.onnx: cannot be converted to \.ort: .*NoSuchOperator"):
        to_ort_format(source, tmp_path / "out" / "model.ort")
    assert not (tmp_path / "out").exists()
