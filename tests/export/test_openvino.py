"""OpenVINO files: what they answer, what the contract says of them, and what goes wrong."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from ssdlite.errors import ContractError, ExportError
from ssdlite.export import ExportOptions, export_bundle
from ssdlite.export.bundle import write_contract
from ssdlite.export.targets.openvino import convert_to_openvino, openvino_spec
from ssdlite.export.verify.bundle import verify_bundle
from ssdlite.export.verify.golden import write_golden
from ssdlite.images.reading import read_image
from ssdlite.runtime import load_model, read_contract
from ssdlite.runtime.backends.openvino import OpenVinoBackend
from ssdlite.runtime.contract import Contract, ModelSpec
from ssdlite.tools.lint_model import main as lint
from tests.export.faults import FAULTS, Graph
from tests.export.golden_models import DECODED, NMS, step_of

pytestmark = [
    pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed (the extra ssdlite[openvino])"),
    pytest.mark.usefixtures("traced_once"),
]


def converted(file: str) -> str:
    return f"{Path(file).stem}.xml"


def convert(source: Path, file: str, contract: Contract, folder: Path, change: Callable[[Graph], None]) -> ModelSpec:
    """The .onnx ``file`` of the bundle ``source``, changed, as OpenVINO files in ``folder``; ``contract`` knows it."""
    model = onnx.load(source / file)
    change(model.graph)
    spec = next(one for one in contract.models if one.file in (file, converted(file)))
    artifact = convert_to_openvino(model, openvino_spec(replace(spec, file=converted(file))))
    artifact.save(folder, replace(contract.for_model(spec.file), models=(artifact.spec,)))
    return artifact.spec


@pytest.fixture(scope="module")
def exported(golden_bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle ``stretch`` for OpenVINO, with reference vectors of its own; not to be changed."""
    folder, source = tmp_path_factory.mktemp("openvino"), golden_bundles / "stretch"
    contract = read_contract(source)
    specs = [convert(source, model.file, contract, folder, lambda graph: None) for model in contract.models]
    contract = replace(contract, models=tuple(specs))
    write_contract(folder, contract)
    pictures = [read_image(source / "golden" / f"image_{number}.png") for number in range(3)]
    write_golden(folder, contract, pictures)
    return folder


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


def test_files_answer_as_onnx_runtime_does_on_the_same_graph(exported: Path, golden_bundles: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (1, 3, 96, 96), np.uint8)
    for file in ("raw.uint8_NCHW", "decoded.uint8_NCHW"):
        session = onnxruntime.InferenceSession(str(golden_bundles / "stretch" / f"{file}.onnx"))
        expected = session.run(None, {"images": images})
        model = load_model(exported, f"{file}.xml", threads=1)
        assert model.model.files == (f"{file}.xml", f"{file}.bin")
        for name, right in zip([output.name for output in session.get_outputs()], expected, strict=True):
            np.testing.assert_allclose(model.backend.run(images)[name], right, atol=1e-4 * np.abs(right).max())


def test_a_file_alone_and_a_pickled_one_find_the_same(exported: Path) -> None:
    picture = read_image(exported / "golden" / "image_2.png")
    (expected,) = load_model(exported, converted(NMS)).predict(picture)
    assert len(expected) >= 5
    alone = load_model(exported / converted(NMS), threads=2)
    for model in (alone, pickle.loads(pickle.dumps(alone))):
        (found,) = model.predict(picture)
        assert found.labels.tolist() == expected.labels.tolist()
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


def test_threads_and_float32_are_what_the_network_is_compiled_for(exported: Path) -> None:
    backend = OpenVinoBackend(exported / converted(DECODED), exported / "decoded.uint8_NCHW.bin", threads=1)
    compiled = backend._request.get_compiled_model()
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"


def test_export_writes_every_variant_and_precision(golden_bundles: Path, small_data: Path, tmp_path: Path) -> None:
    options = ExportOptions(
        checkpoint=golden_bundles / "stretch.pt",
        output=tmp_path / "bundle",
        target=("openvino",),
        variant=("decoded", "nms"),
        precision=("fp32", "fp16", "int8"),
        calibration_folder=small_data / "bccd",
        calibration_images=4,
    )
    contract = export_bundle(options)
    assert [model.file for model in contract.models] == [
        f"{variant}_{precision}.xml" for variant in ("decoded", "nms") for precision in ("fp32", "fp16", "int8")
    ]
    assert {model.runtime for model in contract.models} == {"openvino"}
    report = verify_bundle(tmp_path / "bundle")
    assert report.passed
    assert {step.status for model in report.models for step in model.steps} == {"pass"}
    sizes = [(tmp_path / "bundle" / str(model.weights_file)).stat().st_size for model in contract.models[:3]]
    assert sizes[1] / sizes[0] == pytest.approx(0.5, abs=0.02)
    assert sizes[2] / sizes[0] < 0.3
    differences = [model.difference_from_pytorch or 0 for model in contract.models[:3]]
    assert differences[0] < 1e-4
    integers = contract.models[2].quantization
    assert integers is not None and integers.quantized_layers == integers.total_layers
    weights = OpenVinoBackend.open(tmp_path / "bundle" / "decoded_int8.xml", contract.models[2], 1)
    kinds = [str(one.get_rt_info()["runtimePrecision"].astype(str)) for one in _executed(weights)]
    assert kinds and set(kinds) <= {"u8", "i8"}  # convolutions are computed in integers


def _executed(backend: OpenVinoBackend) -> list:
    """The convolutions of what really runs."""
    graph = backend._request.get_compiled_model().get_runtime_model()
    return [op for op in graph.get_ops() if "onvolution" in str(op.get_rt_info()["layerType"].astype(str))]


@pytest.mark.parametrize(("file", "change", "likely"), FAULTS)
def test_verify_names_the_step_of_a_planted_fault(
    bundle: Path, golden_bundles: Path, file: str, change: Callable[[Graph], None], likely: str
) -> None:
    spec = convert(golden_bundles / "stretch", file, read_contract(bundle), bundle, change)
    document = json.loads((bundle / "contract.json").read_text())
    for model in document["models"]:  # as an export with this fault would have written it
        if model["file"] == spec.file:
            model["sha256"] = spec.sha256
    (bundle / "contract.json").write_text(json.dumps(document))
    report = verify_bundle(bundle, model=spec.file)
    assert report.failed_steps() == {spec.file: ["outputs"]}
    assert (step_of(report, spec.file, "outputs").likely or "").startswith(likely)
    (model,) = report.models
    assert "not the file that the reference vectors were made with" in model.notes[0]


def edit(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(("suffix", "change", "message"), [
    ("xml", lambda content: content[:5000], r"decoded\.uint8_NCHW\.xml: OpenVINO cannot load it \(.+\)$"),
    ("xml", lambda content: b"no graph", r"xml: OpenVINO cannot load it \(.+\)$"),
    ("xml", lambda content: content.replace(b'type="Convolution"', b'type="Surprise"', 1), r"xml: .*Surprise"),
    ("xml", lambda content: content.replace(b"images", b"pixels"), r"xml: the contract promises one input, 'im"),
    ("xml", lambda content: b"", r"xml: expected a model of 1 to"),
    ("bin", lambda content: content[:-1], r"bin"),
    ("bin", lambda content: content[:1000], r"OpenVINO cannot load it \(Incorrect weights in bin file!\)"),
    ("bin", lambda content: content[:5000] + b"\x80" + content[5001:], r"bin: damaged, or not the file that was"),
    ("bin", lambda content: b"", r"bin: expected a model of 1 to"),
])  # fmt: skip
def test_damaged_files_are_contract_errors(
    bundle: Path, suffix: str, change: Callable[[bytes], bytes], message: str
) -> None:
    edit(bundle / f"decoded.uint8_NCHW.{suffix}", change)
    with pytest.raises(ContractError, match=message) as caught:
        load_model(bundle, converted(DECODED))
    assert "\n" not in str(caught.value)
    assert list(verify_bundle(bundle, model=converted(DECODED)).failed_steps()) == [converted(DECODED)]


def test_opening_a_file_reports_to_nobody(exported: Path, tmp_path: Path) -> None:
    """Importing openvino as it is calls Google Analytics and writes an identifier into the home folder."""
    program = (
        "import sys; from ssdlite.runtime import load_model; load_model(sys.argv[1]); "
        "assert 'openvino' in sys.modules; "
        "assert not [name for name in sys.modules if name.startswith('openvino_telemetry')]"
    )
    environment = {**os.environ, "HOME": str(tmp_path), "CI": ""}
    command = [sys.executable, "-c", program, str(exported / converted(DECODED))]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert not list(tmp_path.iterdir())


LET_GO_ELSEWHERE = """
import signal, sys, threading
from ssdlite.runtime import load_model
signal.signal(signal.SIGTERM, lambda *_: print("told"))
models = [load_model(sys.argv[1])]
thread = threading.Thread(target=models.clear)
thread.start()
thread.join()
signal.raise_signal(signal.SIGTERM)
"""


def test_a_model_that_another_thread_lets_go_leaves_the_process_able_to_take_signals(exported: Path) -> None:
    """With a ``Core`` for each model OpenVINO freed the stack on which signals arrive: the system ended the process."""
    environment = {**os.environ, "PYTHONFAULTHANDLER": "1"}  # as pytest: without a stack for signals there is no fault
    command = [sys.executable, "-c", LET_GO_ELSEWHERE, str(exported / converted(DECODED))]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "told\n"), result.stderr


def test_wrong_inputs_are_refused(exported: Path) -> None:
    backend = load_model(exported, converted(DECODED)).backend
    for wrong in (np.zeros((1, 3, 64, 96), np.uint8), np.zeros((1, 3, 96, 96), np.float32)):
        with pytest.raises(ContractError, match=r"expected the input 'images' uint8 \[1, 3, 96, 96\], got"):
            backend.run(wrong)


def test_an_operator_that_openvino_lacks_is_named_with_its_module(exported: Path) -> None:
    node = helper.make_node("Whirl", ["images"], ["y"], domain="my.ops", name="head.classification.0.Whirl")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("images", "y")]
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("my.ops", 1)]
    with pytest.raises(ExportError, match=r"OpenVINO .*: it has no Whirl \(head\.classification\.0\.Whirl\)$"):
        convert_to_openvino(helper.make_model(graph, opset_imports=opsets), read_contract(exported).models[0])


def test_a_missing_package_says_what_to_install(
    exported: Path, golden_bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ContractError, match=r'running it needs openvino: pip install "ssdlite\[openvino\]"'):
        load_model(exported)
    options = ExportOptions(checkpoint=golden_bundles / "stretch.pt", output=tmp_path / "bundle", target=("openvino",))
    with pytest.raises(ExportError, match=r'^openvino is not installed: pip install "ssdlite\[openvino\]"$'):
        export_bundle(options)
    assert not list(tmp_path.iterdir())


def test_lint_says_that_openvino_takes_its_own_files(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lint([str(bundle / converted(DECODED)), "--strict"]) == 0
    assert re.match(r"decoded\.uint8_NCHW\.xml on openvino: takes (\d{3}) of \1 operators\n", capsys.readouterr().out)
    (bundle / "decoded.uint8_NCHW.bin").write_bytes(b"other weights")
    assert lint([str(bundle)]) == 2
    assert "OpenVINO cannot load it (Incorrect weights in bin file!)" in " ".join(capsys.readouterr().err.split())
