"""Whether integers give here what a file in integers states: on x86 without VNNI, ONNX Runtime's overflow."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from ssdlite.runtime.backends.onnxruntime import OnnxBackend
from ssdlite.runtime.backends.web import read_page_model
from ssdlite.runtime.model import RuntimeDetector


def as_stated(detector: RuntimeDetector, path: Path) -> RuntimeDetector | None:
    """The model of the file ``path`` as phones compute it; None where ``detector`` does so already.

    Of an .ort file, in whose kernels operators are fused already, the .onnx file beside it.
    """
    model = detector.model
    if model.runtime not in ("onnxruntime", "web") or model.precision != "int8" or not integers_saturate():
        return None
    source = read_page_model(path) if model.runtime == "web" else path.with_suffix(".onnx")
    return RuntimeDetector(detector.contract, model, OnnxBackend(source, as_written=True))


@cache
def integers_saturate() -> bool:
    """Whether ONNX Runtime multiplies matrices of the largest uint8 and int8 values with another result than theirs."""
    left, right = np.full((1, 64), 255, np.uint8), np.full((64, 16), 127, np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["left", "right"], ["product"])],
        "saturation",
        [helper.make_tensor_value_info("left", TensorProto.UINT8, left.shape)],
        [helper.make_tensor_value_info("product", TensorProto.INT32, (1, 16))],
        [numpy_helper.from_array(right, "right")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    found = OnnxBackend(model.SerializeToString(), threads=1).run(left)["product"]
    return bool((found != left.astype(np.int32) @ right.astype(np.int32)).any())
