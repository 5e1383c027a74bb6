"""A new format is one target and one backend, and nothing else: here JSON, known to this file alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import pytest
import torch
from google.protobuf import json_format

import ssdlite
from ssdlite.checkpoint import Checkpoint, save_checkpoint
from ssdlite.errors import ContractError
from ssdlite.export import ExportOptions, export_bundle
from ssdlite.export.graphs import model_spec
from ssdlite.export.onnx import attach_contract
from ssdlite.export.targets import TARGETS
from ssdlite.export.targets.base import Artifact, ExportJob
from ssdlite.export.verify.bundle import verify_bundle
from ssdlite.runtime import load_model, read_contract
from ssdlite.runtime.backends import BACKENDS
from ssdlite.runtime.backends.base import Array, Backend
from ssdlite.runtime.backends.onnxruntime import OnnxBackend
from ssdlite.runtime.contract import Contract, ModelSpec


class JsonTarget:
    """The decoded graph as one JSON document, weights and contract included."""

    def export(self, job: ExportJob) -> list[Artifact]:
        options = job.options.graph("decoded", "fp32")
        model = job.onnx_model(options)

        def save(folder: Path, contract: Contract) -> None:
            attach_contract(model, contract)
            (folder / contract.models[0].file).write_text(json_format.MessageToJson(model))

        return [Artifact(replace(model_spec(job.detector, options, "decoded.json"), runtime="json"), save)]


class JsonBackend:
    suffixes: ClassVar[tuple[str, ...]] = (".json",)
    package: ClassVar[str] = "onnx"
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
    contract = export_bundle(ExportOptions(checkpoint=checkpoint, output=bundle, runtime=("json",)))

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
    with pytest.raises(ContractError, match="runtime: expected one of 'onnxruntime', 'ncnn', got 'json'"):
        load_model(bundle)
