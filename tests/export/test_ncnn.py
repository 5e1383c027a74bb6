"""ncnn files: what they answer, what the contract says of them, and what goes wrong (every preset: test_onnx.py)."""

from __future__ import annotations

import copy
import importlib.util
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import ssdlite
from ssdlite.cli import discard_native_errors
from ssdlite.detector import Detector
from ssdlite.errors import ContractError, ExportError
from ssdlite.export.bundle import build_contract
from ssdlite.export.onnx import export_onnx, take_floats
from ssdlite.export.options import GraphOptions
from ssdlite.export.targets import ncnn as ncnn_export
from ssdlite.export.targets.ncnn import convert_to_ncnn, ncnn_spec
from ssdlite.runtime.backends.base import opening_in
from ssdlite.runtime.backends.ncnn import NcnnBackend
from ssdlite.runtime.contract import ModelSpec, Provenance
from tests.export.detectors import lively

HAS_NCNN = all(importlib.util.find_spec(name) is not None for name in ("ncnn", "pnnx"))
needs_ncnn = pytest.mark.skipif(not HAS_NCNN, reason="ncnn and pnnx are not installed (the extra ssdlite[ncnn])")


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(0)
    return lively(
        ssdlite.build_detector(
            "ssdlite192_mobilenet_v2_050", num_classes=3, width_mult=0.25, image_size=(64, 96), mean=(120, 110, 100)
        )
    )


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (1, 3, 64, 96)).astype(np.float32)


@pytest.fixture(scope="module")
def raw_model(detector: Detector) -> onnx.ModelProto:
    """Floats of 0..255 in, logits and deltas out: what a conversion starts from."""
    model = export_onnx(detector, GraphOptions(variant="raw"))
    take_floats(model)
    return model


def convert(model: onnx.ModelProto, detector: Detector, spec: ModelSpec, folder: Path) -> NcnnBackend:
    """The two files in ``folder``, opened."""
    provenance = Provenance(checkpoint="best.pt", checkpoint_sha256="0", license="MIT")
    convert_to_ncnn(model, spec).save(folder, build_contract(detector, [spec], provenance, 100))
    return NcnnBackend.open(folder / spec.file, spec, threads=1)


@pytest.fixture(scope="module")
def exported(
    detector: Detector, raw_model: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, ModelSpec]:
    folder, spec = tmp_path_factory.mktemp("ncnn"), ncnn_spec(detector, GraphOptions(variant="raw"), "raw-fp32")
    convert(raw_model, detector, spec, folder)
    return folder, spec


@needs_ncnn
def test_raw_files_take_pixel_values_and_answer_as_pytorch(
    exported: tuple[Path, ModelSpec], detector: Detector, image: np.ndarray
) -> None:
    folder, spec = exported
    assert sorted(path.name for path in folder.iterdir()) == ["raw-fp32.bin", "raw-fp32.param"]
    assert (spec.file, spec.weights_file, spec.runtime) == ("raw-fp32.param", "raw-fp32.bin", "ncnn")
    assert spec.input.name == "in0" and spec.input.type == "float32" and spec.input.shape == (1, 3, 64, 96)
    assert (spec.input.mean, spec.input.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # the graph normalises
    assert [(o.name, o.meaning) for o in spec.outputs] == [("out0", "class_logits"), ("out1", "box_deltas")]
    answers = NcnnBackend(folder / spec.file, folder / "raw-fp32.bin", spec, threads=1).run(image)
    with torch.no_grad():
        expected = detector(torch.from_numpy(image))
    assert answers["out0"].shape == expected.class_logits.shape
    assert np.abs(answers["out0"] - expected.class_logits.numpy()).max() < 1e-4
    assert np.abs(answers["out1"] - expected.box_deltas.numpy()).max() < 1e-4


@needs_ncnn
def test_half_precision_halves_the_file_and_stays_close(
    exported: tuple[Path, ModelSpec],
    detector: Detector,
    raw_model: onnx.ModelProto,
    image: np.ndarray,
    tmp_path: Path,
) -> None:
    folder, full = exported
    half = ncnn_spec(detector, GraphOptions(variant="raw", precision="fp16"), "half")
    backend = convert(raw_model, detector, half, tmp_path)
    sizes = (tmp_path / "half.bin").stat().st_size / (folder / "raw-fp32.bin").stat().st_size
    assert 0.5 < sizes < 0.55
    exact = NcnnBackend(folder / full.file, folder / "raw-fp32.bin", full).run(image)
    rounded = backend.run(image)
    difference = np.abs(exact["out0"] - rounded["out0"]).max()
    assert 1e-6 < difference < 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (GraphOptions(variant="nms"), "use the variant decoded, or raw"),
        (GraphOptions(precision="int8"), "fp32 and fp16"),
        (GraphOptions(batch=None), "use --batch 1, got dynamic"),
        (GraphOptions(batch=4), "use --batch 1, got 4"),
        (GraphOptions(layout="NHWC"), "the layout NCHW, got NHWC"),
    ],
)
def test_what_ncnn_cannot_do_is_refused_at_once(detector: Detector, options: GraphOptions, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        ncnn_spec(detector, options, "model")


@pytest.mark.parametrize("missing", ["ncnn", "pnnx"])
def test_missing_package_says_what_to_install(
    missing: str, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    if missing == "pnnx":
        pytest.importorskip("ncnn")
    with pytest.raises(ExportError, match=rf'{missing} is not installed: pip install "ssdlite\[ncnn\]"'):
        convert_to_ncnn(_tiny_model(), ncnn_spec(detector, GraphOptions(), "model"))


@needs_ncnn
@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo one; echo two >&2; exit 3", "(?s)status 3.*one\ntwo"),
        ("exit 0", "status 0"),  # and nothing written
        ("sleep 20", "did not finish within 0.3 seconds"),
    ],
)
def test_failing_converter(
    script: str, message: str, detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "pnnx"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(ncnn_export, "find_pnnx", lambda: str(program))
    monkeypatch.setattr(ncnn_export, "TIME_LIMIT", 0.3)
    with pytest.raises(ExportError, match=message):
        convert_to_ncnn(_tiny_model(), ncnn_spec(detector, GraphOptions(), "model"))


def _tiny_model() -> Any:
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Relu", ["floats"], ["y"]),
    ]
    image = helper.make_tensor_value_info("images", TensorProto.UINT8, [1, 3, 4, 4])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 4, 4])
    return helper.make_model(helper.make_graph(nodes, "g", [image], [output]))


def test_leading_cast_becomes_a_float_input() -> None:
    model = _tiny_model()
    take_floats(model)
    assert [(node.op_type, list(node.input)) for node in model.graph.node] == [("Relu", ["images"])]
    assert model.graph.input[0].type.tensor_type.elem_type == 1  # FLOAT


@needs_ncnn
def test_unconverted_operators_and_wrong_numbers_are_found(
    exported: tuple[Path, ModelSpec], raw_model: onnx.ModelProto, tmp_path: Path
) -> None:
    param = tmp_path / "model.param"
    param.write_text("7767517\n2 2\nInput in0 0 1 in0\ntorch.topk topk_0 1 1 in0 out0\n")
    with pytest.raises(ExportError, match=r"no ncnn layers for torch\.topk"):
        ncnn_export._check_layers(param)

    folder, spec = exported
    backend = NcnnBackend(folder / spec.file, folder / "raw-fp32.bin", spec)
    model = copy.deepcopy(raw_model)
    ncnn_export._compare(model, backend, spec)
    bias = next(tensor for tensor in model.graph.initializer if "regression.0" in tensor.name and len(tensor.dims) == 1)
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.5), bias.name))
    with pytest.raises(ExportError, match=r"ncnn's box_deltas differ from ONNX Runtime's by 0\.\d+ on a random image"):
        ncnn_export._compare(model, backend, spec)


@needs_ncnn
def test_damaged_files_and_wrong_inputs_are_contract_errors(
    exported: tuple[Path, ModelSpec], image: np.ndarray, tmp_path: Path
) -> None:
    folder, spec = exported
    param, weights = folder / spec.file, folder / "raw-fp32.bin"
    short, text = tmp_path / "short.bin", tmp_path / "text.param"
    short.write_bytes(weights.read_bytes()[:100_000])
    text.write_text("not a graph\n")
    with pytest.raises(ContractError, match=r"short\.bin: ncnn cannot load it"):
        NcnnBackend(param, short, spec)
    with pytest.raises(ContractError, match=r"text\.param: expected 7767517 in its first line, got"):
        NcnnBackend(text, weights, spec)
    with pytest.raises(ContractError, match=r"gone\.bin: no such model file"):
        NcnnBackend(param, tmp_path / "gone.bin", spec)
    renamed = replace(spec, input=replace(spec.input, name="images"))
    with pytest.raises(ContractError, match="expected the blobs images, out0, out1, found in0, out0, out1"):
        NcnnBackend(param, weights, renamed)
    backend = NcnnBackend(param, weights, spec)
    with pytest.raises(ContractError, match=r"expected float32 \[1, 3, 64, 96\], got uint8 \[1, 3, 64, 96\]"):
        backend.run(image.astype(np.uint8))
    with pytest.raises(ContractError, match=r"got float32 \[1, 3, 96, 64\]"):
        backend.run(np.zeros((1, 3, 96, 64), np.float32))


@needs_ncnn
def test_a_command_shows_its_own_line_of_damaged_weights_alone(
    exported: tuple[Path, ModelSpec], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, spec = exported
    (tmp_path / "short.bin").write_bytes((folder / "raw-fp32.bin").read_bytes()[:100_000])
    for surroundings, lines in ((nullcontext, 1), (discard_native_errors, 0)):
        with opening_in(surroundings), pytest.raises(ContractError, match=r"short\.bin: ncnn cannot load it"):
            NcnnBackend(folder / spec.file, tmp_path / "short.bin", spec)
        assert capfd.readouterr().err.count("load_model") == lines


@needs_ncnn
def test_running_ncnn_needs_no_torch(exported: tuple[Path, ModelSpec]) -> None:
    code = "import sys; import ncnn, ssdlite.runtime.backends.ncnn; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_ncnn_running_says_what_to_install(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ncnn", None)
    spec = ncnn_spec(detector, GraphOptions(), "model")
    with pytest.raises(ContractError, match=r'needs ncnn: pip install "ssdlite\[ncnn\]"'):
        NcnnBackend(tmp_path / "a", tmp_path / "b", spec)
