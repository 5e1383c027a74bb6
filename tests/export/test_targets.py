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
import torch
from google.protobuf import json_format

import ssdlite
from ssdlite.checkpoint import Checkpoint, save_checkpoint
from ssdlite.errors import ConfigError, ContractError
from ssdlite.export import ExportOptions, export_bundle
from ssdlite.export.graphs import model_spec
from ssdlite.export.onnx import attach_contract
from ssdlite.export.options import GraphOptions
from ssdlite.export.pipeline import plan_graphs
from ssdlite.export.targets import TARGETS
from ssdlite.export.targets.base import Artifact, ExportJob
from ssdlite.export.verify.bundle import verify_bundle
from ssdlite.runtime import load_model, read_contract
from ssdlite.runtime.backends import BACKENDS
from ssdlite.runtime.backends.base import Array, Backend
from ssdlite.runtime.backends.onnxruntime import OnnxBackend
from ssdlite.runtime.contract import Contract, ModelSpec, Precision, Variant


class JsonTarget:
    """The decoded graph as one JSON document, weights and contract included."""

    variants: ClassVar[tuple[Variant, ...]] = ("decoded",)
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32",)

    def export(self, job: ExportJob, graphs: Sequence[GraphOptions]) -> list[Artifact]:
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


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random detector that finds some objects in noise."""
    torch.manual_seed(0)
    detector = ssdlite.build_detector(
        "ssdlite320_mobilenet_v1", class_names=("cat", "dog"), width_mult=0.1, image_size=64
    )
    for module in detector.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    path = tmp_path_factory.mktemp("run") / "best.pt"
    save_checkpoint(Checkpoint(detector.config, detector.state_dict()), path)
    return path


def test_a_format_of_ones_own(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TARGETS, "json", JsonTarget())
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


def planned(**options: Any) -> dict[str, list[tuple[str, str]]]:
    graphs = plan_graphs(ExportOptions(checkpoint=Path("best.pt"), output=Path("bundle"), **options))
    return {name: [(one.variant, one.precision) for one in own] for name, own in graphs.items()}


def test_each_target_writes_of_what_is_asked_for_that_which_it_has() -> None:
    assert planned() == {"onnxruntime": [("nms", "fp32")]}
    assert planned(target=("ncnn", "onnxruntime")) == {"onnxruntime": [("nms", "fp32")], "ncnn": [("decoded", "fp32")]}
    assert planned(target=("onnxruntime", "ncnn"), variant=("raw", "decoded"), precision=("fp16", "int8")) == {
        "onnxruntime": [("raw", "fp16"), ("raw", "int8"), ("decoded", "fp16"), ("decoded", "int8")],
        "ncnn": [("decoded", "fp16")],
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": ("ncnn",), "precision": ("fp32", "int8")}, "--precision: got int8, but ncnn has fp32, fp16"),
        ({"target": ("ncnn",), "variant": ("nms",)}, "--variant: got nms, but ncnn has decoded"),
        ({"target": ("onnxruntime", "ncnn"), "variant": ("nms",)}, "--variant: got nms, but ncnn has decoded"),
        ({"target": ("nnapi",)}, "got 'nnapi'; --lint nnapi says what it refuses of a file"),
    ],
)
def test_what_a_target_lacks_is_an_error_that_names_what_it_has(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        planned(**options)
    assert str(caught.value).endswith(message)
