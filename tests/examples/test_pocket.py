"""A bundle laid out for the benchmark tools of LiteRT and ONNX Runtime, and what they answer brought back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from ssdlite.export.verify.bundle import verify_bundle

POCKET = Path(__file__).resolve().parents[2] / "examples" / "pocket" / "pocket.py"
TOOL = f"""#!{sys.executable}
# Takes the options of LiteRT's benchmark_model, and computes with LiteRT.
import sys
from pathlib import Path
import numpy as np
from ai_edge_litert.interpreter import Interpreter

options = dict(option.removeprefix("--").split("=", 1) for option in sys.argv[1:])
interpreter = Interpreter(options["graph"], num_threads=int(options.get("num_threads", 1)))
interpreter.allocate_tensors()
(image,) = interpreter.get_input_details()
assert image["name"] == options["input_layer"]
name, file = options["input_layer_value_files"].split(":")
shape = [int(side) for side in options["input_layer_shape"].split(",")]
interpreter.set_tensor(image["index"], np.fromfile(file, image["dtype"]).reshape(shape))
interpreter.invoke()
if "output_filepath" in options:
    values = [interpreter.get_tensor(output["index"]).tobytes() for output in interpreter.get_output_details()]
    Path(options["output_filepath"]).write_bytes(b"".join(values))
print("Inference timings in us: num_threads", options.get("num_threads"))
"""


def pocket(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, POCKET, *arguments]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)


def test_litert_files_go_to_the_tool_and_their_outputs_come_back(litert_bundle: Path, tmp_path: Path) -> None:
    bundle, folder = litert_bundle, tmp_path / "pocket"
    assert pocket("pack", bundle, folder).returncode == 0
    (folder / "benchmark_model").write_text(TOOL)
    (folder / "benchmark_model").chmod(0o755)
    environment = os.environ | {"THREADS": "1 2"}
    subprocess.run(["sh", folder / "run.sh"], env=environment, cwd=tmp_path, capture_output=True, check=True)
    figures = (folder / "out" / "figures.txt").read_text()
    assert figures.count("num_threads 1") == figures.count("num_threads 2") == 4  # a time for each file
    assert "not here: ./onnxruntime_perf_test" in figures and "failed" not in figures
    result = pocket("unpack", bundle, folder / "out", tmp_path / "dump")
    assert result.returncode == 0, result.stderr
    report = verify_bundle(bundle, dump=tmp_path / "dump")
    assert report.passed, report.failed_steps()
    steps = {model.file: [one.step for one in model.steps] for model in report.models}
    assert steps == {f"{variant}_fp32.tflite": ["outputs"] for variant in ("nms", "anchors", "decoded", "raw")}

    short = folder / "out" / "image_1.nms_fp32.tflite.outputs"
    short.write_bytes(short.read_bytes()[:-1])
    result = pocket("unpack", bundle, folder / "out", tmp_path / "again")
    assert result.returncode == 1
    assert result.stderr == "image_1, nms_fp32.tflite: expected 7204 bytes, got 7203\n"
    short.unlink()
    result = pocket("unpack", bundle, folder / "out", tmp_path / "part")
    assert result.returncode == 0 and "nms_fp32.tflite: passed over, " in result.stdout
    assert len(list((tmp_path / "part").glob("*.raw_fp32.tflite.*"))) == 6
    assert len(list((tmp_path / "part").iterdir())) == 18  # two outputs of three files for three pictures
    result = pocket("unpack", bundle, tmp_path / "nowhere", tmp_path / "none")
    assert result.stderr == f"{tmp_path / 'nowhere'}: expected outputs of LiteRT's benchmark_model, found none\n"


def test_onnx_files_are_laid_out_as_onnx_lays_out_its_tests(golden_bundles: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pocket"
    assert pocket("pack", golden_bundles / "stretch", folder).returncode == 0
    models = sorted(path.parent for path in folder.glob("*/model.onnx"))
    assert [path.name for path in models] == [
        "decoded.float32_NHWC", "decoded.uint8_NCHW", "nms.uint8_NCHW", "raw.uint8_NCHW",
    ]  # fmt: skip
    for model in models:
        session = onnxruntime.InferenceSession(str(model / "model.onnx"), providers=["CPUExecutionProvider"])
        cases = sorted(model.glob("test_data_set_*"))
        assert [case.name for case in cases] == ["test_data_set_0", "test_data_set_1", "test_data_set_2"]
        for case in cases:
            image = onnx.load_tensor(str(case / "input_0.pb"))
            results = session.run(None, {image.name: numpy_helper.to_array(image)})
            for place, (output, own) in enumerate(zip(session.get_outputs(), results, strict=True)):
                expected = onnx.load_tensor(str(case / f"output_{place}.pb"))
                assert expected.name == output.name
                np.testing.assert_allclose(own, numpy_helper.to_array(expected), atol=1e-4)


def test_a_bundle_for_other_runtimes_is_refused(golden_bundles: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    (bundle / "golden").mkdir(parents=True)
    contract = (golden_bundles / "letterbox" / "contract.json").read_text()
    (bundle / "contract.json").write_text(contract.replace('"runtime": "onnxruntime"', '"runtime": "ncnn"'))
    (bundle / "golden" / "golden.json").write_bytes((golden_bundles / "letterbox/golden/golden.json").read_bytes())
    result = pocket("pack", bundle, tmp_path / "pocket")
    assert result.returncode == 1 and "expected models for LiteRT or ONNX Runtime" in result.stderr
    assert not (tmp_path / "pocket").exists()
