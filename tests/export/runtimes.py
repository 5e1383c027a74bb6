"""One detector's answers in every runtime that is installed, from the same pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from ssdlite.detector import Detector
from ssdlite.export.bundle import anchor_spec, build_contract
from ssdlite.export.graphs import model_spec
from ssdlite.export.onnx import take_floats
from ssdlite.export.options import GraphOptions
from ssdlite.runtime.backends.onnxruntime import OnnxBackend
from ssdlite.runtime.contract import Contract, Precision, Provenance, Variant
from tests.made_once import Trace

Answers = dict[str, np.ndarray]  # by the contract's meaning
PROVENANCE = Provenance(checkpoint="best.pt", checkpoint_sha256="0", license="MIT")


# By runtime: the package that it needs, and the variants that are written for it.
RUNTIMES: dict[str, tuple[str, tuple[Variant, ...]]] = {
    "litert": ("ai_edge_litert", ("raw", "decoded")),
    "openvino": ("openvino", ("raw", "decoded")),
    "ncnn": ("pnnx", ("raw", "decoded")),
    "coreml": ("coremltools", ("decoded",)),
}


def open_as_written(model: bytes) -> onnxruntime.InferenceSession:
    """A session without fused operators: the sums of integers of x86 without VNNI saturate."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class OneDetector:
    """Graphs of uint8 planes, one picture at a time; ``folder`` is for files."""

    def __init__(self, detector: Detector, trace: Trace, folder: Path) -> None:
        self.detector = detector
        self.raw = trace(detector, GraphOptions(variant="raw"))
        self.decoded = trace(detector, GraphOptions(variant="decoded"))
        self.folder = folder

    def graph(self, variant: Variant) -> onnx.ModelProto:
        copy = onnx.ModelProto()
        copy.CopyFrom(self.raw if variant == "raw" else self.decoded)
        return copy

    def answers(self, runtime: str, variant: Variant, pixels: np.ndarray) -> Answers:
        """Of the runtime of this name; pixels [1, 3, H, W] uint8."""
        found: Answers = getattr(self, runtime)(variant, pixels)
        return found

    def onnxruntime(self, variant: Variant, pixels: np.ndarray) -> Answers:
        """pixels [1, 3, H, W] uint8 -> what every runtime is compared with."""
        return OnnxBackend(self.graph(variant).SerializeToString(), threads=1).run(pixels)

    def litert(self, variant: Variant, pixels: np.ndarray) -> Answers:
        return self.litert_of(self.raw, variant, pixels)

    def litert_of(
        self, model: onnx.ModelProto, variant: Variant, pixels: np.ndarray, precision: Precision = "fp32"
    ) -> Answers:
        """Of another raw graph, such as a quantised one."""
        from ssdlite.export.targets.litert import build_litert
        from ssdlite.runtime.backends.litert import LiteRtBackend

        options = GraphOptions(variant=variant, precision=precision, layout="NHWC")
        contract = self._contract(replace(model_spec(self.detector, options, "model.tflite"), runtime="litert"))
        backend = LiteRtBackend(build_litert(model, contract, anchor_spec(self.detector)), threads=1)
        backend.check(contract.models[0])
        return backend.run(np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)))

    def openvino(self, variant: Variant, pixels: np.ndarray) -> Answers:
        from ssdlite.export.targets.openvino import convert_to_openvino, openvino_spec
        from ssdlite.runtime import load_model

        spec = openvino_spec(model_spec(self.detector, GraphOptions(variant=variant), f"{variant}.xml"))
        artifact = convert_to_openvino(self.graph(variant), spec)
        artifact.save(self.folder, self._contract(artifact.spec))
        return load_model(self.folder / spec.file, threads=1).backend.run(pixels)

    def ncnn(self, variant: Variant, pixels: np.ndarray) -> Answers:
        from ssdlite.export.targets.ncnn import convert_to_ncnn, ncnn_spec
        from ssdlite.runtime.backends.ncnn import NcnnBackend

        model = self.graph(variant)
        take_floats(model)
        spec = ncnn_spec(self.detector, GraphOptions(variant=variant), f"{variant}-ncnn")
        convert_to_ncnn(model, spec).save(self.folder, self._contract(spec))
        answers = NcnnBackend.open(self.folder / spec.file, spec, threads=1).run(pixels.astype(np.float32))
        return {one.meaning: answers[one.name] for one in spec.outputs}

    def coreml(self, variant: Variant, pixels: np.ndarray) -> Answers:
        """By ``mil_evaluator``; of ``decoded``, which is what is written for Core ML."""
        from ssdlite.export.coreml.package import Suppression, build_package
        from tests.export.coreml.mil_evaluator import Program

        model = self.graph(variant)
        take_floats(model)
        spec = model_spec(self.detector, GraphOptions(variant=variant), "model.mlpackage")
        suppression = Suppression(iou_threshold=0.5, confidence_threshold=0.3, class_names=self.detector.class_names)
        package = build_package(model, spec, suppression)
        data = self.folder / "Data" / "com.apple.CoreML"
        (data / "weights").mkdir(parents=True)
        (data / "model.mlmodel").write_bytes(package.specification.SerializeToString())
        (data / "weights" / "weight.bin").write_bytes(package.weights)
        return Program(self.folder).run(pixels[0].transpose(1, 2, 0))

    def _contract(self, spec: Any) -> Contract:
        return build_contract(self.detector, [spec], PROVENANCE, 100)
