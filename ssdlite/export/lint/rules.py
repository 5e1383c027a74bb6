"""What each runtime for phones takes: facts with their sources, and a row for everything that it does not take.

NNAPI and CoreML: the lists of operators that ONNX Runtime ships in its Python package, and what its execution
providers check beyond them (core/providers/{nnapi,coreml}/**/*_op_builder.cc of the ONNX Runtime sources).
XNNPACK: https://onnxruntime.ai/docs/execution-providers/Xnnpack-ExecutionProvider.html and
core/providers/xnnpack/detail/node_support_checker.cc.
Operator sets: https://onnxruntime.ai/docs/reference/compatibility.html.
ExecuTorch: what its XNNPACK partitioner takes of the graphs of all presets (executorch 1.5.1).
ncnn: one-operator models put through pnnx 20261020 and run; these came out right or with layers that ncnn has.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from onnx import TensorProto

from ssdlite.errors import ConfigError
from ssdlite.export.lint.graph import QUANTIZERS, Node
from ssdlite.validation import suggest

LINT_TARGETS = {
    "ort-mobile": "ONNX Runtime on the phone's CPU",
    "nnapi": "ONNX Runtime's NNAPI execution provider, Android (Google advises against NNAPI from Android 15 on)",
    "coreml": "ONNX Runtime's CoreML execution provider with ModelFormat MLProgram, iOS 15 and macOS 12 or newer",
    "xnnpack": "ONNX Runtime's XNNPACK execution provider, fast kernels for the CPU",
    "openvino": "OpenVINO on the CPU, which reads the file as it is",
    "executorch": "ExecuTorch with XNNPACK, as ssdlite export --target executorch writes this graph",
    "ncnn": "ncnn, converted by pnnx",
}

FILE_TARGETS = {  # by the ending of a runtime's own files, what these are judged for
    ".xml": ("openvino",),
    ".pte": ("executorch",),
    ".tflite": ("litert", "litert-gpu"),
    ".param": ("ncnn-vulkan",),
    ".mlpackage": ("coreml-package",),
}
ONNX_ENDINGS = (".onnx", ".html")  # pages have an ONNX model inside
FILE_TARGET_WORDS = {
    "litert": "LiteRT on the CPU with XNNPACK, as the ai-edge-litert installed here says",
    "litert-gpu": "LiteRT's GPU delegate, Android and iOS, by its published rules: no GPU was asked",
    "ncnn-vulkan": "ncnn on the GPU, as the ncnn installed here says",
    "coreml-package": "Core ML and Vision, by the package's own specification",
}
ORT_DOMAINS = ("ai.onnx", "ai.onnx.ml", "com.microsoft")
ORT_RELEASES = (  # (ONNX Runtime, highest opset, highest IR version), where these rose
    ("1.6", 13, 7), ("1.8", 14, 7), ("1.9", 15, 8), ("1.11", 16, 8), ("1.12", 17, 8),
    ("1.14", 18, 8), ("1.15", 19, 8), ("1.16", 19, 9), ("1.17", 20, 9), ("1.18", 21, 10),
)  # fmt: skip
FLOAT32 = float(np.finfo(np.float32).min), float(np.finfo(np.float32).max)
NNAPI_CLIPS = ((0.0, 6.0), (-1.0, 1.0))  # RELU6 and RELU1
COREML_FLOATS = ("FLOAT", "FLOAT16")
COREML_TYPES: dict[str, tuple[str, ...]] = {  # of what is not for floats alone
    "And": ("BOOL",),
    "Cast": ("FLOAT", "FLOAT16", "INT32", "INT64", "BOOL"),
    **dict.fromkeys(
        ("Identity", "Reshape", "Shape", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
        ("FLOAT", "FLOAT16", "INT32", "INT64"),
    ),
}
CONSTANT_INPUTS: dict[str, dict[str, tuple[int, ...]]] = {  # inputs, by position, that must be constants if given
    "nnapi": {
        **dict.fromkeys(("Reshape", "Split", "Squeeze", "Unsqueeze", "ReduceMean"), (1,)),
        **dict.fromkeys(("Conv", "Clip", "Pad", "QuantizeLinear", "DequantizeLinear"), (1, 2)),
        **dict.fromkeys(("Slice", "BatchNormalization"), (1, 2, 3, 4)),
    },
    "coreml": {
        **dict.fromkeys(("Reshape", "Split", "Squeeze", "Unsqueeze", "ReduceMean", "ReduceSum", "ReduceMax"), (1,)),
        "Gemm": (1,),
        "Conv": (2,),
        "Clip": (1, 2),
        "Slice": (1, 2, 3, 4),
    },
    "xnnpack": {"Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (1, 2), "MatMul": (1,)},
}
XNNPACK_OPERATORS = ("AveragePool", "Conv", "ConvTranspose", "Gemm", "MatMul", "MaxPool", "Resize", "Softmax")
XNNPACK_IMAGE_OPERATORS = ("AveragePool", "Conv", "ConvTranspose", "MaxPool")  # 4-D, channels and sides fixed
XNNPACK_FUSED, XNNPACK_FUSING = ("Clip", "Relu"), ("AveragePool", "Conv", "MaxPool")  # the former behind the latter
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
EXECUTORCH_OPERATORS = frozenset(  # ends in XNNPACK
    (
        *("Add", "AveragePool", "Clip", "Concat", "Conv", "Div", "Exp", "Gemm", "GlobalAveragePool", "HardSwish"),
        *("Identity", "MatMul", "MaxPool", "Mul", "ReduceMean", "Relu", "Reshape", "Sigmoid", "Slice", "Softmax"),
        *("Split", "Sub", "Transpose", "Unsqueeze"),
    )
)
SELECTORS = ("TopK", "NonMaxSuppression", "NonZero")
IMAGE_OPERATORS = ("AveragePool", "Conv", "GlobalAveragePool", "GlobalMaxPool", "MaxPool")  # 4-D alone
MATRIX_OPERATORS = ("Conv", "Gemm", "MatMul")  # what NNAPI computes in integers with constant int8 weights


def check_target(name: str, *, also_of_files: bool = False) -> None:
    """Raises ConfigError for an unknown target, listing the known ones: of ONNX models, ``also_of_files`` of others."""
    known = {**LINT_TARGETS, **FILE_TARGET_WORDS} if also_of_files else LINT_TARGETS
    if name not in known:
        raise ConfigError(f"unknown target {name!r}{suggest(name, known)}")


def targets_of(file: Path) -> tuple[str, ...]:
    """Those that judge a file of this name."""
    return FILE_TARGETS.get(file.suffix.lower(), tuple(LINT_TARGETS))


def endings_for(target: str) -> list[str]:
    """Of the files that it judges."""
    own = [ending for ending, judging in FILE_TARGETS.items() if target in judging]
    return [*ONNX_ENDINGS, *own] if target in LINT_TARGETS else own


@cache
def listed_operators(name: str) -> frozenset[str]:
    """The operators of one of ONNX Runtime's lists, such as ``nnapi_supported``, as ``ai.onnx:conv``.

    In lower case, since the lists themselves waver (``Argmax``).

    Raises:
        ConfigError: onnxruntime is not installed.
    """
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("the lists of operators come with ONNX Runtime: pip install onnxruntime")
    path = Path(spec.submodule_search_locations[0], "tools", "mobile_helpers", f"{name}_ops.md")
    rows = [line.split("|") for line in path.read_text("utf-8").splitlines() if line.startswith(("|ai.", "|com."))]
    return frozenset(row[1].strip().lower().replace("ai.onnx.", "ai.onnx:") for row in rows)


def oldest_runtime(opset: int, ir_version: int) -> str:
    """The first release of ONNX Runtime that takes both, as a person writes it."""
    for release, highest_opset, highest_ir in ORT_RELEASES:
        if opset <= highest_opset and ir_version <= highest_ir:
            return f"ONNX Runtime {release} or newer"
    return f"an ONNX Runtime newer than {ORT_RELEASES[-1][0]}"


# --- What to do about it.

DECODED = "--variant decoded: it ends before boxes are selected, and the app does that (docs/deploy.md)"


def selection_remedy(node: Node) -> str:
    selects = any(other.op_type in SELECTORS for other in node.graph.nodes)
    return DECODED if selects else "another operator in the network, or the CPU"


def operator_remedy(node: Node) -> str:
    if node.operator in QUANTIZERS:
        return "--precision fp32 or fp16"
    if node.operator in ("HardSwish", "HardSigmoid", "BatchNormalization", "Pad"):
        return "ssdlite export: it writes this in Add, Clip, Mul and Conv"
    return selection_remedy(node)


def shape_remedy(node: Node) -> str:
    return selection_remedy(node) if all(map(node.graph.is_fixed, node.graph.inputs)) else "--batch 1"


def type_remedy(node: Node) -> str:
    if node.type == "UINT8" and node.is_first:
        return "--input-type float32"
    return "--precision fp32" if node.type == "FLOAT16" else selection_remedy(node)


# --- The rules, a row each.

Kind = Literal["refused", "cpu", "note"]


class Rule(NamedTuple):
    """A target does not take nodes of some operators (none: of any) where ``found`` says so.

    ``found`` gives False, or what ``why`` is to mention. ``refused``: the runtime does not load such a model. ``cpu``:
    it does, and the accelerator has no part in the node.
    """

    target: str
    operators: tuple[str, ...]
    found: Callable[[Node], bool | str]
    why: str
    remedy: str | Callable[[Node], str]
    kind: Kind = "cpu"


class Verdict(NamedTuple):
    kind: Kind
    why: str
    remedy: str


def judge(node: Node, target: str) -> Verdict | None:
    """The first rule of the target that the node breaks; None where the target takes it."""
    for rule in RULES:
        if rule.target == target and (not rule.operators or node.operator in rule.operators):
            found = rule.found(node)
            if found:
                remedy = rule.remedy if isinstance(rule.remedy, str) else rule.remedy(node)
                return Verdict(rule.kind, rule.why.format(found), remedy)
    return None


def _variable_input(target: str) -> Callable[[Node], bool | str]:
    """The position of an input that has to be a constant and is none."""
    constants = CONSTANT_INPUTS[target]
    return lambda n: next((str(i) for i in constants.get(n.operator, ()) if not n.is_constant(i)), False)


def _rank_above(limit: int) -> Callable[[Node], bool]:
    return lambda n: any(len(shape or ()) > limit for shape in n.shapes)


def _no_image(node: Node) -> bool:
    return node.shape is not None and len(node.shape) != 4


def _old_split(node: Node) -> bool | str:
    return node.graph.opset < 13 and str(node.graph.opset)


def _other_clip(node: Node) -> bool | str:
    """What a Clip clips to that NNAPI has no operator for."""
    limits = [node.graph.constant(name) for name in (*node.inputs[1:3], "", "")[:2]]
    low, high = (default if limit is None else float(limit) for limit, default in zip(limits, FLOAT32, strict=True))
    return (low, high) not in NNAPI_CLIPS and f"{low:g}..{high:g}"


def _signed(node: Node) -> bool:
    """Whether the quantised activations that a node makes or takes are other than uint8."""
    if node.operator == "QuantizeLinear":
        return node.types[2:] != ["UINT8"]
    if node.operator == "DequantizeLinear":
        return not node.is_constant(0) and node.type != "UINT8"
    return node.stored_types[0] not in (None, "UINT8")


def _no_xnnpack_kernel(node: Node) -> bool:
    """Whether XNNPACK neither has the operator nor does it inside the convolution or pooling before it."""
    before = node.graph.producers.get(node.inputs[0])
    if node.operator in XNNPACK_FUSED and before is not None and before.op_type in XNNPACK_FUSING:
        alone = len(node.graph.consumers[node.inputs[0]]) == 1
        if alone and node.is_constant(1) and node.is_constant(2):
            return judge(Node(before, node.graph), "xnnpack") is not None
    return node.domain != "ai.onnx" or node.operator not in XNNPACK_OPERATORS


def _no_xnnpack_convolution(node: Node) -> bool | str:
    kinds = tuple(node.stored_types[:2])
    text = f"{kinds[0]} activations with {kinds[-1]} weights".lower()
    return kinds[0] is not None and kinds not in XNNPACK_CONV_TYPES and text


def _not_float_in_xnnpack(node: Node) -> bool | str:
    quantized = node.operator in ("Conv", "ConvTranspose") and node.stored_types[0] is not None
    return not quantized and node.type != "FLOAT" and node.type.lower()


def _other_axis(node: Node) -> bool:
    last = len(node.shape or ()) - 1
    return node.graph.opset >= 13 and node.attributes.get("axis", -1) not in (-1, last)


RULES = (
    Rule("ort-mobile", (), lambda n: n.domain not in ORT_DOMAINS and repr(n.domain),
         "operators of the domain {} are not part of ONNX Runtime", operator_remedy, "refused"),

    Rule("nnapi", (), lambda n: n.key not in listed_operators("nnapi_supported"),
         "not among the operators of NNAPI's execution provider", operator_remedy),
    Rule("nnapi", (), lambda n: not all(map(n.graph.is_fixed, filter(None, n.inputs))),
         "NNAPI takes fixed shapes alone, and an input's is not", shape_remedy),
    Rule("nnapi", (), _rank_above(4), "NNAPI takes tensors of up to 4 axes", selection_remedy),
    Rule("nnapi", (), _variable_input("nnapi"), "input {} has to be a constant here", shape_remedy),
    Rule("nnapi", ("DequantizeLinear",),
         lambda n: n.is_constant(0) and any(user.op_type not in MATRIX_OPERATORS for user in n.users),
         "NNAPI takes quantised constants as weights alone", "--precision fp32"),
    Rule("nnapi", (), _signed,
         "NNAPI's execution provider takes unsigned activations alone", "--activation-type uint8"),
    Rule("nnapi", (), lambda n: n.operator not in QUANTIZERS and n.type != "FLOAT" and n.type.lower(),
         "NNAPI does not do this on {}", type_remedy),
    Rule("nnapi", IMAGE_OPERATORS, _no_image,
         "NNAPI does this on [B, C, H, W] alone", "another operator in the network"),
    Rule("nnapi", ("Clip",), _other_clip,
         "NNAPI clips to 0..6 and -1..1 alone, not to {}", "ssdlite export"),
    Rule("nnapi", ("Cast",), lambda n: n.attributes.get("to") not in (TensorProto.FLOAT, TensorProto.INT32),
         "NNAPI casts to float32 and int32 alone", selection_remedy),
    Rule("nnapi", ("Pad",), lambda n: n.attributes.get("mode", b"constant") != b"constant",
         "NNAPI pads with constants alone", "ssdlite export"),
    Rule("nnapi", ("Split",), lambda n: len(set(map(n.graph.shape_of, n.outputs))) > 1,
         "NNAPI splits into equal parts alone", "ssdlite export"),
    Rule("nnapi", ("Split",), _old_split, "NNAPI takes Split from opset 13 on, this is {}", "--opset 13"),

    Rule("coreml", (), lambda n: n.key not in listed_operators("coreml_supported_mlprogram"),
         "not among the operators of CoreML's execution provider", operator_remedy),
    Rule("coreml", (), lambda n: None in n.shapes,
         "CoreML needs the shapes of all inputs, and one is unknown", shape_remedy),
    Rule("coreml", (), _rank_above(5), "CoreML takes tensors of up to 5 axes", selection_remedy),
    Rule("coreml", (), lambda n: any((side or 0) > 16384 for side in n.sides),
         "CoreML takes sides of up to 16384", "a smaller image_size, fewer anchors"),
    Rule("coreml", (), lambda n: 0 in n.sides, "CoreML takes no empty tensors", selection_remedy),
    Rule("coreml", (), _variable_input("coreml"), "input {} has to be a constant here", shape_remedy),
    Rule("coreml", ("Cast",), lambda n: n.type in COREML_TYPES["Cast"] and n.is_first,
         "CoreML casts no input of the model", "--input-type float32"),
    Rule("coreml", (), lambda n: n.type not in COREML_TYPES.get(n.operator, COREML_FLOATS) and n.type.lower(),
         "CoreML does not do this on {}", type_remedy),
    Rule("coreml", IMAGE_OPERATORS, _no_image,
         "CoreML does this on [B, C, H, W] alone", "another operator in the network"),
    Rule("coreml", ("Split",), _old_split, "CoreML takes Split from opset 13 on, this is {}", "--opset 13"),

    Rule("xnnpack", (), _no_xnnpack_kernel,
         "not among XNNPACK's operators; ONNX Runtime's own CPU kernels do it in the same memory, without copies",
         "nothing has to be done", "note"),
    Rule("xnnpack", (), _variable_input("xnnpack"), "input {} has to be a constant here", shape_remedy),
    Rule("xnnpack", ("Conv", "ConvTranspose"), _no_xnnpack_convolution,
         "XNNPACK has no convolution of {}", "--activation-type int8, or --precision fp32"),
    Rule("xnnpack", XNNPACK_OPERATORS, _not_float_in_xnnpack,
         "XNNPACK does not do this on {}", type_remedy),
    Rule("xnnpack", XNNPACK_OPERATORS, lambda n: n.shape is None,
         "XNNPACK needs the input's shape, and it is unknown", shape_remedy),
    Rule("xnnpack", XNNPACK_IMAGE_OPERATORS, lambda n: _no_image(n) or None in (n.shape or ())[1:],
         "XNNPACK does this on [B, C, H, W] with fixed C, H and W", shape_remedy),
    Rule("xnnpack", ("Softmax",), _other_axis,
         "XNNPACK does Softmax over the last axis alone", "ssdlite export"),

    Rule("openvino", (), lambda n: n.domain not in ORT_DOMAINS and repr(n.domain),
         "OpenVINO has no operators of the domain {}", operator_remedy, "refused"),

    Rule("executorch", SELECTORS, lambda n: True,
         "ExecuTorch has no non-maximum suppression", selection_remedy, "refused"),
    Rule("executorch", QUANTIZERS, lambda n: True,
         "int8 programs do not load in ExecuTorch 1.5", "--precision fp32", "refused"),
    Rule("executorch", (), lambda n: n.type == "FLOAT16",
         "files are written in float32 alone", "--precision fp32", "refused"),
    Rule("executorch", (), lambda n: n.domain != "ai.onnx" and repr(n.domain),
         "ExecuTorch has no operators of the domain {}", operator_remedy, "refused"),
    Rule("executorch", ("Cast",), lambda n: n.is_first and n.type == "UINT8",
         "XNNPACK does not cast bytes: ExecuTorch's own kernel does", "--input-type float32"),
    Rule("executorch", ("HardSigmoid",), lambda n: True,
         "XNNPACK has none, and it is written as add, clamp and multiply", "nothing has to be done", "note"),
    Rule("executorch", (), lambda n: n.operator not in EXECUTORCH_OPERATORS,
         "not seen in XNNPACK: ExecuTorch's own kernels do it, if they have it", operator_remedy),

    Rule("ncnn", ("Cast",), lambda n: n.is_first, "ncnn has no uint8 tensors",
         "ssdlite export --target ncnn: floats of 0..255, normalised inside", "refused"),
    Rule("ncnn", (), lambda n: n.domain != "ai.onnx" or n.operator not in NCNN_OPERATORS,
         "pnnx has no ncnn layer for it", operator_remedy, "refused"),
)  # fmt: skip
