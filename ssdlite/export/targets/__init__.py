"""What a detector can be exported for: one entry of the dict for each runtime, and the module that it names."""

from __future__ import annotations

from typing import get_args

from ssdlite.export.options import LintName
from ssdlite.export.targets.base import Target

ALL_LINTS: tuple[LintName, ...] = get_args(LintName)  # of files with an ONNX model inside

TARGETS: dict[str, Target] = {  # by the runtime's name in ``ssdlite.runtime.backends.BACKENDS``; the first can do most
    "onnxruntime": Target(
        module="ssdlite.export.targets.onnxruntime",
        variants=("nms", "decoded", "raw"),
        precisions=("fp32", "fp16", "int8"),
        activation_types=("uint8", "int8"),
        lint=ALL_LINTS,
        heeds=("opset", "max_candidates", "ort"),
        known_as=("onnx", "ort"),
    ),
    "openvino": Target(
        module="ssdlite.export.targets.openvino",
        variants=("nms", "decoded", "raw"),
        precisions=("fp32", "fp16", "int8"),
        activation_types=("uint8", "int8"),
        lint=("openvino",),
        heeds=("max_candidates",),
        known_as=("xml",),
    ),
    "litert": Target(
        module="ssdlite.export.targets.litert",
        variants=("nms", "anchors", "decoded", "raw"),
        precisions=("fp32", "fp16", "int8"),
        layouts=("NHWC",),
        input_types=("uint8", "float32", "int8"),
        batches=("1",),
        activation_types=("int8",),
        known_as=("tflite", "tensorflow", "mediapipe"),
    ),
    "executorch": Target(
        module="ssdlite.export.targets.executorch",
        variants=("decoded", "raw"),
        precisions=("fp32",),
        layouts=("NCHW",),
        batches=("1", "2 to 1024"),
        lint=("executorch",),
        known_as=("pte",),
    ),
    "ncnn": Target(
        module="ssdlite.export.targets.ncnn",
        variants=("decoded",),
        precisions=("fp32", "fp16"),
        layouts=("NCHW",),
        batches=("1",),
        known_as=("param",),
    ),
    "coreml": Target(
        module="ssdlite.export.targets.coreml",
        variants=("nms", "decoded"),
        precisions=("fp16", "fp32", "int8"),
        layouts=("NHWC",),
        input_types=("uint8",),
        batches=("1",),
        known_as=("mlpackage", "mlmodel"),
    ),
    "web": Target(
        module="ssdlite.export.targets.web",
        variants=("decoded", "nms", "raw"),
        precisions=("fp32", "fp16", "int8"),
        batches=("1", "dynamic"),
        activation_types=("uint8", "int8"),
        lint=ALL_LINTS,
        heeds=("opset", "max_candidates", "web_runtime"),
        known_as=("html", "browser"),
    ),
}
