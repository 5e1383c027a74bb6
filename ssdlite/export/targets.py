"""What each runtime for phones takes: facts with their sources, no judgement about a model.

NNAPI and CoreML: the lists of operators that ONNX Runtime ships in its Python package, and what its execution
providers check beyond them (core/providers/{nnapi,coreml}/**/*_op_builder.cc of the ONNX Runtime sources).
XNNPACK: https://onnxruntime.ai/docs/execution-providers/Xnnpack-ExecutionProvider.html and
core/providers/xnnpack/detail/node_support_checker.cc.
Operator sets: https://onnxruntime.ai/docs/reference/compatibility.html.
ncnn: one-operator models put through pnnx 20261020 and run; these came out right or with layers that ncnn has.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

from ssdlite.config import suggest
from ssdlite.errors import ConfigError

TARGETS = {
    "ort-mobile": "ONNX Runtime on the phone's CPU",
    "nnapi": "ONNX Runtime's NNAPI execution provider, Android (Google advises against NNAPI from Android 15 on)",
    "coreml": "ONNX Runtime's CoreML execution provider with ModelFormat MLProgram, iOS 15 and macOS 12 or newer",
    "xnnpack": "ONNX Runtime's XNNPACK execution provider, fast kernels for the CPU",
    "ncnn": "ncnn, converted by pnnx",
}

ORT_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
ORT_RELEASES = (  # (ONNX Runtime, highest opset, highest IR version), where these rose
    ("1.6", 13, 7),
    ("1.8", 14, 7),
    ("1.9", 15, 8),
    ("1.11", 16, 8),
    ("1.12", 17, 8),
    ("1.14", 18, 8),
    ("1.15", 19, 8),
    ("1.16", 19, 9),
    ("1.17", 20, 9),
    ("1.18", 21, 10),
)

NNAPI_MAX_RANK = 4
NNAPI_CLIPS = ((0.0, 6.0), (-1.0, 1.0))  # RELU6 and RELU1
COREML_MAX_RANK = 5
COREML_MAX_SIDE = 16384
COREML_CAST_TYPES = ("FLOAT", "FLOAT16", "INT32", "INT64", "BOOL")
COREML_TYPES: dict[str, tuple[str, ...]] = {  # of what is not for floats alone
    "And": ("BOOL",),
    **dict.fromkeys(
        ("Identity", "Reshape", "Shape", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
        ("FLOAT", "FLOAT16", "INT32", "INT64"),
    ),
}

CONSTANT_INPUTS: dict[str, dict[str, tuple[int, ...]]] = {  # inputs, by position, that must be constants if given
    "nnapi": {
        "Conv": (1, 2),
        "Clip": (1, 2),
        "Reshape": (1,),
        "Slice": (1, 2, 3, 4),
        "Split": (1,),
        "Squeeze": (1,),
        "Unsqueeze": (1,),
        "ReduceMean": (1,),
        "Pad": (1, 2),
        "BatchNormalization": (1, 2, 3, 4),
        "QuantizeLinear": (1, 2),
        "DequantizeLinear": (1, 2),
    },
    "coreml": {
        "Conv": (2,),
        "Clip": (1, 2),
        "Reshape": (1,),
        "Slice": (1, 2, 3, 4),
        "Split": (1,),
        "Squeeze": (1,),
        "Unsqueeze": (1,),
        "ReduceMean": (1,),
        "ReduceSum": (1,),
        "ReduceMax": (1,),
        "Gemm": (1,),
    },
    "xnnpack": {"Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (1, 2), "MatMul": (1,)},
}

XNNPACK_OPERATORS = ("AveragePool", "Conv", "ConvTranspose", "Gemm", "MatMul", "MaxPool", "Resize", "Softmax")
XNNPACK_IMAGE_OPERATORS = ("AveragePool", "Conv", "ConvTranspose", "MaxPool")  # 4-D, channels and sides fixed
XNNPACK_FUSED = ("Clip", "Relu")  # behind one of these: Conv, MaxPool, AveragePool
XNNPACK_CONV_TYPES = (("INT8", "INT8"), ("UINT8", "UINT8"))  # activations and weights of a quantised convolution

NCNN_OPERATORS = frozenset(
    (
        *("Abs", "Add", "Ceil", "Clip", "Cos", "Div", "Erf", "Exp", "Floor", "Identity", "Log", "Max", "Min", "Mul"),
        *("Neg", "Pow", "Reciprocal", "Round", "Sin", "Sqrt", "Sub"),
        *("Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "PRelu", "Relu", "Sigmoid", "Softmax"),
        *("Softplus", "Tanh"),
        *("AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "Gemm", "GlobalAveragePool", "GlobalMaxPool"),
        *("MatMul", "MaxPool", "ReduceMean", "ReduceSum", "Resize"),
        *("Concat", "Flatten", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"),
    )
)


def check_target(name: str) -> None:
    """Raises ConfigError for an unknown target, listing the known ones."""
    if name not in TARGETS:
        raise ConfigError(f"unknown target {name!r}{suggest(name, TARGETS)}")


@cache
def listed_operators(file: str) -> frozenset[str]:
    """The operators of one of ONNX Runtime's lists, such as ``nnapi_supported_ops.md``, as ``ai.onnx:conv``.

    In lower case, since the lists themselves waver (``Argmax``).

    Raises:
        ConfigError: onnxruntime is not installed.
    """
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("the lists of operators come with ONNX Runtime: pip install onnxruntime")
    path = Path(spec.submodule_search_locations[0], "tools", "mobile_helpers", file)
    rows = [line.split("|") for line in path.read_text("utf-8").splitlines() if line.startswith(("|ai.", "|com."))]
    return frozenset(row[1].strip().lower().replace("ai.onnx.", "ai.onnx:") for row in rows)


def oldest_runtime(opset: int, ir_version: int) -> str:
    """The first release of ONNX Runtime that takes both, as a person writes it."""
    for release, highest_opset, highest_ir in ORT_RELEASES:
        if opset <= highest_opset and ir_version <= highest_ir:
            return f"ONNX Runtime {release} or newer"
    return f"an ONNX Runtime newer than {ORT_RELEASES[-1][0]}"
