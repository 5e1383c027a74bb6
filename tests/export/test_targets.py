"""A new format is one target and one backend, and nothing else: here JSON, known to this file alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
from google.protobuf import json_format

import ssdlite
from ssdlite.errors import ConfigError, ContractError
from ssdlite.export import ExportOptions, export_bundle
from ssdlite.export.graphs import model_spec
from ssdlite.export.onnx import attach_contract
from ssdlite.export.options import GraphOptions
from ssdlite.export.plan import left_out, plan_graphs
from ssdlite.export.targets import TARGETS
from ssdlite.export.targets.base import Target
from ssdlite.export.targets.job import Artifact, ExportJob
from ssdlite.export.verify.bundle import verify_bundle
from ssdlite.runtime import load_model, read_contract
from ssdlite.runtime.backends import BACKENDS
from ssdlite.runtime.backends.base import Array, Backend
from ssdlite.runtime.backends.onnxruntime import OnnxBackend
from ssdlite.runtime.contract import Contract, ModelSpec

JSON_TARGET = Target(module=__name__, variants=("decoded",), precisions=("fp32",), layouts=("NCHW",))


def export(job: ExportJob, graphs: Sequence[GraphOptions]) -> list[Artifact]:
    """The decoded graph as one JSON document, weights and contract included."""
    (options,) = graphs
    model = job.onnx_model(options)

    def save(folder: Path, contract: Contract) -> None:
        attach_contract(model, contract)
        (folder / contract.models[0].file).write_text(json_format.MessageToJson(model))

    return [Artifact(replace(model_spec(job.detector, options, "decoded.json"), runtime="json"), save)]


class JsonBackend:
    suffixes: ClassVar[tuple[str, ...]] = (".json",)
    package: ClassVar[str] = "onnx"
    unsupported: ClassVar[str] = ""
    has_weights_file: ClassVar[bool] = False
    carries_contract: ClassVar[bool] = True

    def __init__(self, path: Path) -> None:
        model = json_format.Parse(path.read_text(), onnx.ModelProto())
        self._network = OnnxBackend(model.SerializeToString(), 1, name=str(path))
        self.metadata: Mapping[str, str] = self._network.metadata

    @classmethod
    def open(cls, path: Path, model: ModelSpec | None, threads: int | None) -> Backend:
        return cls(path)

    def check(self, model: ModelSpec) -> None:
        self._network.check(model)

    def run(self, inputs: Array) -> dict[str, Array]:
        return self._network.run(inputs)


INT8: dict[str, Any] = {"precision": ("int8",), "data": Path("data")}


@pytest.mark.usefixtures("traced_once")
def test_a_format_of_ones_own(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TARGETS, "json", JSON_TARGET)
    monkeypatch.setitem(BACKENDS, "json", JsonBackend)
    bundle = tmp_path / "bundle"
    contract = export_bundle(ExportOptions(checkpoint=checkpoint, output=bundle, target=("json",)))

    (spec,) = contract.models
    assert (spec.file, spec.runtime, spec.variant) == ("decoded.json", "json", "decoded")
    assert sorted(path.name for path in bundle.iterdir()) == ["README.md", "contract.json", "decoded.json", "golden"]
    assert read_contract(bundle) == contract
    assert spec.difference_from_pytorch is not None and spec.difference_from_pytorch < 1e-4
    assert spec.latency is not None and spec.latency.runtime == f"json {onnx.__version__}"

    picture = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    (expected,) = ssdlite.load_detector(checkpoint).predict(picture, score_threshold=0.0)
    assert len(expected) > 20
    for path in (bundle, bundle / "decoded.json"):
        (found,) = load_model(path).predict(picture, score_threshold=0.0)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.05)

    report = verify_bundle(bundle)
    assert report.passed and report.runtimes["json"] == onnx.__version__
    document = json.loads((bundle / "decoded.json").read_text())
    weights = next(one for one in document["graph"]["initializer"] if "classification.0" in one["name"])
    weights["rawData"] = "A" * len(weights["rawData"].rstrip("=")) + "=" * weights["rawData"].count("=")
    (bundle / "decoded.json").write_text(json.dumps(document))
    steps = {step.step: step.status for step in verify_bundle(bundle).models[0].steps}
    assert (steps["contract"], steps["outputs"]) == ("pass", "fail")

    monkeypatch.delitem(BACKENDS, "json")
    with pytest.raises(ContractError, match=r"runtime: expected one of 'onnxruntime', .*'web', got 'json'"):
        load_model(bundle)


def asked_for(**options: Any) -> ExportOptions:
    return ExportOptions(checkpoint=Path("best.pt"), output=Path("bundle"), **options)


def planned(**options: Any) -> dict[str, list[tuple[str, str]]]:
    graphs = plan_graphs(asked_for(**options))
    return {name: [(one.variant, one.precision) for one in own] for name, own in graphs.items()}


def test_each_target_writes_of_what_is_asked_for_that_which_it_has() -> None:
    assert planned() == {"onnxruntime": [("nms", "fp32")]}
    assert planned(target=("ncnn", "onnxruntime")) == {"onnxruntime": [("nms", "fp32")], "ncnn": [("decoded", "fp32")]}
    both = {"target": ("onnxruntime", "ncnn"), "variant": ("raw", "decoded"), "precision": ("fp16", "int8")}
    assert planned(**both, data=Path("data")) == {
        "onnxruntime": [("raw", "fp16"), ("raw", "int8"), ("decoded", "fp16"), ("decoded", "int8")],
        "ncnn": [("decoded", "fp16")],
    }


def test_what_a_target_does_not_heed_is_said_where_another_does() -> None:
    options = asked_for(target=("onnxruntime", "litert", "ncnn"), layout="NHWC", opset=17, max_candidates=100, ort=True)
    graphs = plan_graphs(options)
    assert {name: [(one.layout, one.opset) for one in own] for name, own in graphs.items()} == {
        "onnxruntime": [("NHWC", 17)],
        "litert": [("NHWC", None)],
        "ncnn": [("NCHW", None)],
    }
    assert left_out(options, graphs) == [
        "--layout NHWC changes nothing for ncnn",
        "--opset changes nothing for litert and ncnn",
        "--max-candidates changes nothing for litert and ncnn",
    ]
    judged = asked_for(target=("onnxruntime", "litert", "openvino"), lint=("nnapi", "openvino"))
    assert left_out(judged, plan_graphs(judged)) == []  # of files of ONNX Runtime, which are judged
    signed = asked_for(**INT8, target=("onnxruntime", "litert", "coreml"), activation_type="int8")
    assert left_out(signed, plan_graphs(signed)) == ["--activation-type int8 changes nothing for coreml"]
    plain = asked_for(target=("onnxruntime", "litert", "ncnn"))
    assert left_out(plain, plan_graphs(plain)) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": ("coreml",), "layout": "NCHW"},
         ("--layout NCHW: is for onnxruntime, openvino, executorch, ncnn and web, "
         "none of which is among --target coreml")),
        ({"target": ("coreml", "litert"), "opset": 17},
         "--opset: is for onnxruntime and web, none of which is among --target coreml litert"),
        ({"target": ("litert",), "max_candidates": 100},
         "--max-candidates: is for onnxruntime, openvino and web, none of which is among --target litert"),
        ({"variant": ("decoded",), "max_candidates": 100},
         "--max-candidates: is for files of variant nms, and none of them is asked for"),
        (INT8 | {"target": ("litert",), "activation_type": "uint8"},
         "--activation-type uint8: is for onnxruntime, openvino and web, none of which is among --target litert"),
        ({"activation_type": "int8"}, "--activation-type: is for --precision int8, which is not asked for"),
        ({"calibration_images": 3}, "--calibration-images: is for --precision int8, which is not asked for"),
        (INT8 | {"target": ("coreml",), "calibration_split": "train"},
         "--calibration-split: nothing is calibrated, since int8 of coreml is of weights alone"),
        (INT8 | {"calibration_split": "train", "calibration_folder": Path()},
         "--calibration-split, --calibration-folder: expected one of them, since either calibrates"),
        ({"split": "test"}, "--split needs --data, whose split it names"),
        ({"target": ("ncnn",), "ort": True}, "--ort: is for the target onnxruntime, which is not among --target ncnn"),
        ({"target": ("litert",), "lint": ("nnapi",)},
         "--lint nnapi: is for onnxruntime and web, none of which is among --target litert"),
        ({"target": ("openvino",), "lint": ("openvino", "executorch")},
         "--lint executorch: is for onnxruntime, executorch and web, none of which is among --target openvino"),
        ({"web_runtime": "npm"}, "--web-runtime: is for the target web, which is not among --target onnxruntime"),
        ({"target": ("litert",), "input_type": "int8"},
         "--input-type int8: is for int8 files: ask for --precision int8 alone"),
    ],
)  # fmt: skip
def test_an_option_that_nothing_heeds_is_an_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        planned(**options)
    assert str(caught.value) == message


def test_what_a_new_target_is_like_stands_in_its_entry_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"precisions": ("fp32", "int8"), "activation_types": ("int8",), "heeds": ("opset",), "layouts": ("NHWC",)}
    monkeypatch.setitem(TARGETS, "json", replace(JSON_TARGET, **facts))
    with pytest.raises(ConfigError, match="--precision int8 is calibrated on real pictures"):
        planned(target=("json",), precision=("int8",))
    options = asked_for(**INT8, target=("json", "litert"), opset=17, activation_type="int8", layout="NHWC")
    assert left_out(options, plan_graphs(options)) == ["--opset changes nothing for litert"]
    with pytest.raises(ConfigError, match=r"--layout NCHW: is for .* web, none of which is among --target json"):
        planned(target=("json",), layout="NCHW")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": ("ncnn",), "precision": ("fp32", "int8")}, "--precision: got int8, but ncnn has fp32, fp16"),
        ({"target": ("ncnn",), "variant": ("nms",)}, "--variant: got nms, but ncnn has decoded"),
        ({"target": ("onnxruntime", "ncnn"), "variant": ("nms",)}, "--variant: got nms, but ncnn has decoded"),
        ({"target": ("nnapi",)}, "got 'nnapi'; --lint nnapi says what it refuses of a file"),
        ({"target": ("onnxruntime", "tflite")}, "got 'tflite'; --target litert writes .tflite files"),
        ({"target": (".TFLite",)}, "got '.TFLite'; --target litert writes .tflite files"),
        ({"target": ("onnx",)}, "got 'onnx'; --target onnxruntime writes .onnx files"),
        ({"target": ("ort",)}, "got 'ort'; --target onnxruntime --ort writes .ort files"),
        ({"target": ("mlmodel",)}, "got 'mlmodel'; --target coreml writes .mlpackage files"),
        ({"target": ("mlpackage",)}, "got 'mlpackage'; --target coreml writes .mlpackage files"),
        ({"target": ("pte",)}, "got 'pte'; --target executorch writes .pte files"),
        ({"target": ("html",)}, "got 'html'; --target web writes .html files"),
        ({"target": ("xml",)}, "got 'xml'; --target openvino writes .xml files"),
        ({"target": ("param",)}, "got 'param'; --target ncnn writes .param files"),
        ({"target": ("onnxruntime", "litert", "executorch"), "batch": "dynamic"},
         "--batch: got dynamic, but litert takes 1; executorch takes 1 or 2 to 1024"),
        ({"target": ("onnxruntime", "web", "ncnn", "executorch"), "batch": "4"},
         "--batch: got 4, but ncnn takes 1; web takes 1 or dynamic"),
        ({"target": ("coreml",), "input_type": "float32"}, "--input-type: got float32, but coreml has uint8"),
        (INT8 | {"target": ("litert", "web"), "input_type": "int8"}, "got int8, but web has uint8, float32"),
    ],
)  # fmt: skip
def test_what_a_target_lacks_is_an_error_that_names_what_it_has(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        planned(**options)
    assert str(caught.value).endswith(message)
