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
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

from onnx import NodeProto, TensorProto

from ssdlite.errors import ConfigError
from ssdlite.export.lint.graph import QUANTISERS, GraphFacts, attribute, clip_limits
from ssdlite.validation import suggest

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


# --- Per target: why it does not take a node, and what to do about it. The facts are those of targets.py.

Kind = Literal["refused", "cpu", "note"]
SELECTORS = ("TopK", "NonMaxSuppression", "NonZero")
IMAGE_OPERATORS = ("AveragePool", "Conv", "GlobalAveragePool", "GlobalMaxPool", "MaxPool")  # 4-D alone
MATRIX_OPERATORS = ("Conv", "Gemm", "MatMul")  # what NNAPI computes in integers with constant int8 weights
DECODED = "--variant decoded: it ends before boxes are selected, and the app does that (docs/deploy.md)"


class Verdict(NamedTuple):
    """``refused``: the runtime does not load such a model. ``cpu``: it does, and the accelerator has no part in it."""

    kind: Kind
    why: str
    remedy: str


Rule = Callable[[NodeProto, GraphFacts], Verdict | None]


def judge_ort_mobile(node: NodeProto, facts: GraphFacts) -> Verdict | None:
    if node.domain in ORT_DOMAINS:
        return None
    return Verdict(
        "refused", f"operators of the domain {node.domain!r} are not part of ONNX Runtime", _remedy(node, facts)
    )


def judge_nnapi(node: NodeProto, facts: GraphFacts) -> Verdict | None:
    if _key(node) not in listed_operators("nnapi_supported_ops.md"):
        return Verdict("cpu", "not among the operators of NNAPI's execution provider", _remedy(node, facts))
    if not all(facts.is_fixed(name) for name in node.input if name):
        return Verdict("cpu", "NNAPI takes fixed shapes alone, and an input's is not", _shape_remedy(facts))
    if _highest_rank(node, facts) > NNAPI_MAX_RANK:
        return Verdict("cpu", f"NNAPI takes tensors of up to {NNAPI_MAX_RANK} axes", _selection_remedy(facts))
    return (
        _missing_constant("nnapi", node, facts)
        or _nnapi_type(node, facts)
        or _image_rank("NNAPI", node, facts)
        or _nnapi_form(node, facts)
    )


def judge_coreml(node: NodeProto, facts: GraphFacts) -> Verdict | None:
    if _key(node) not in listed_operators("coreml_supported_mlprogram_ops.md"):
        return Verdict("cpu", "not among the operators of CoreML's execution provider", _remedy(node, facts))
    shapes = [facts.shape_of(name) for name in node.input if name]
    if any(shape is None for shape in shapes):
        return Verdict("cpu", "CoreML needs the shapes of all inputs, and one is unknown", _shape_remedy(facts))
    if _highest_rank(node, facts) > COREML_MAX_RANK:
        return Verdict("cpu", f"CoreML takes tensors of up to {COREML_MAX_RANK} axes", _selection_remedy(facts))
    sides = [side for shape in shapes if shape is not None for side in shape]
    if any(side is not None and side > COREML_MAX_SIDE for side in sides):
        return Verdict("cpu", f"CoreML takes sides of up to {COREML_MAX_SIDE}", "a smaller image_size, fewer anchors")
    if 0 in sides:
        return Verdict("cpu", "CoreML takes no empty tensors", _selection_remedy(facts))
    return (
        _missing_constant("coreml", node, facts)
        or _coreml_type(node, facts)
        or _image_rank("CoreML", node, facts)
        or _split_form("CoreML", node, facts)
    )


def judge_xnnpack(node: NodeProto, facts: GraphFacts) -> Verdict | None:
    if node.op_type in XNNPACK_FUSED and _fuses(node, facts):
        return None
    if node.domain not in ("", "ai.onnx") or node.op_type not in XNNPACK_OPERATORS:
        return Verdict(
            "note",
            "not among XNNPACK's operators; ONNX Runtime's own CPU kernels do it in the same memory, without copies",
            "nothing has to be done",
        )
    return _missing_constant("xnnpack", node, facts) or _xnnpack_type(node, facts) or _xnnpack_form(node, facts)


def judge_ncnn(node: NodeProto, facts: GraphFacts) -> Verdict | None:
    if node.domain in ("", "ai.onnx") and node.op_type in NCNN_OPERATORS:
        return None
    if node.op_type == "Cast" and node.input[0] in facts.inputs:
        return Verdict(
            "refused", "ncnn has no uint8 tensors", "ssdlite export --ncnn: floats of 0..255, normalised inside"
        )
    return Verdict("refused", "pnnx has no ncnn layer for it", _remedy(node, facts))


RULES: dict[str, Rule] = {
    "ort-mobile": judge_ort_mobile,
    "nnapi": judge_nnapi,
    "coreml": judge_coreml,
    "xnnpack": judge_xnnpack,
    "ncnn": judge_ncnn,
}


def _key(node: NodeProto) -> str:
    return f"{node.domain or 'ai.onnx'}:{node.op_type}".lower()


def _remedy(node: NodeProto, facts: GraphFacts) -> str:
    if node.op_type in QUANTISERS:
        return "--precision fp32 or fp16"
    if node.op_type in ("HardSwish", "HardSigmoid", "BatchNormalization", "Pad"):
        return "ssdlite export: it writes this in Add, Clip, Mul and Conv"
    return _selection_remedy(facts)


def _selection_remedy(facts: GraphFacts) -> str:
    if any(node.op_type in SELECTORS for node in facts.nodes):
        return DECODED
    return "another operator in the network, or the CPU"


def _shape_remedy(facts: GraphFacts) -> str:
    return _selection_remedy(facts) if all(facts.is_fixed(name) for name in facts.inputs) else "--batch 1"


def _highest_rank(node: NodeProto, facts: GraphFacts) -> int:
    return max((len(facts.shape_of(name) or ()) for name in node.input if name), default=0)


def _missing_constant(target: str, node: NodeProto, facts: GraphFacts) -> Verdict | None:
    positions = CONSTANT_INPUTS[target].get(node.op_type, ())
    for position in positions:
        if position < len(node.input) and node.input[position] and not facts.is_constant(node.input[position]):
            return Verdict("cpu", f"input {position} has to be a constant here", _shape_remedy(facts))
    return None


def _image_rank(name: str, node: NodeProto, facts: GraphFacts) -> Verdict | None:
    shape = facts.shape_of(node.input[0])
    if node.op_type in IMAGE_OPERATORS and shape is not None and len(shape) != 4:
        return Verdict("cpu", f"{name} does this on [B, C, H, W] alone", "another operator in the network")
    return None


def _wrong_type(name: str, found: str, node: NodeProto, facts: GraphFacts) -> Verdict:
    remedy = _selection_remedy(facts)
    if found == "UINT8" and node.input[0] in facts.inputs:
        remedy = "--input-type float32"
    elif found == "FLOAT16":
        remedy = "--precision fp32"
    return Verdict("cpu", f"{name} does not do this on {found.lower()}", remedy)


def _nnapi_type(node: NodeProto, facts: GraphFacts) -> Verdict | None:
    if node.op_type in QUANTISERS:
        return _nnapi_quantiser(node, facts)
    stored = facts.stored_type(node.input[0])
    if stored not in (None, "UINT8"):
        return _nnapi_unsigned(node)
    found = facts.type_of(node.input[0])
    return None if found == "FLOAT" else _wrong_type("NNAPI", found, node, facts)


def _nnapi_quantiser(node: NodeProto, facts: GraphFacts) -> Verdict | None:
    if node.op_type == "DequantizeLinear" and facts.is_constant(node.input[0]):
        users = facts.consumers.get(node.output[0], [])
        if all(user.op_type in MATRIX_OPERATORS for user in users):
            return None  # weights and biases, one scale per channel or not
        return Verdict("cpu", "NNAPI takes quantised constants as weights alone", "--precision fp32")
    zero_point = node.input[2] if len(node.input) > 2 else ""
    quantised = facts.type_of(node.input[0]) if node.op_type == "DequantizeLinear" else facts.type_of(zero_point)
    return None if quantised == "UINT8" else _nnapi_unsigned(node)


def _nnapi_unsigned(node: NodeProto) -> Verdict:
    return Verdict("cpu", "NNAPI's execution provider takes unsigned activations alone", "--activation-type uint8")


def _nnapi_form(node: NodeProto, facts: GraphFacts) -> Verdict | None:
    if node.op_type == "Clip" and clip_limits(node, facts) not in NNAPI_CLIPS:
        low, high = clip_limits(node, facts)
        return Verdict("cpu", f"NNAPI clips to 0..6 and -1..1 alone, not to {low:g}..{high:g}", "ssdlite export")
    if node.op_type == "Cast" and attribute(node, "to", 0) not in (TensorProto.FLOAT, TensorProto.INT32):
        return Verdict("cpu", "NNAPI casts to float32 and int32 alone", _selection_remedy(facts))
    if node.op_type == "Pad" and attribute(node, "mode", b"constant") != b"constant":
        return Verdict("cpu", "NNAPI pads with constants alone", "ssdlite export")
    if node.op_type == "Split" and len({facts.shape_of(name) for name in node.output}) > 1:
        return Verdict("cpu", "NNAPI splits into equal parts alone", "ssdlite export")
    return _split_form("NNAPI", node, facts)


def _split_form(name: str, node: NodeProto, facts: GraphFacts) -> Verdict | None:
    if node.op_type == "Split" and facts.opset < 13:
        return Verdict("cpu", f"{name} takes Split from opset 13 on, this is {facts.opset}", "--opset 13")
    return None


def _coreml_type(node: NodeProto, facts: GraphFacts) -> Verdict | None:
    found = facts.type_of(node.input[1 if node.op_type == "Where" else 0])
    if node.op_type == "Cast" and found in COREML_CAST_TYPES:
        if node.input[0] in facts.inputs:
            return Verdict("cpu", "CoreML casts no input of the model", "--input-type float32")
        return None
    if found in COREML_TYPES.get(node.op_type, ("FLOAT", "FLOAT16")):
        return None
    return _wrong_type("CoreML", found, node, facts)


def _fuses(node: NodeProto, facts: GraphFacts) -> bool:
    """Whether XNNPACK does this activation inside the convolution or pooling before it."""
    before = facts.producers.get(node.input[0])
    constant = all(facts.is_constant(name) for name in node.input[1:] if name)
    if before is None or before.op_type not in ("AveragePool", "Conv", "MaxPool") or not constant:
        return False
    return len(facts.consumers[node.input[0]]) == 1 and judge_xnnpack(before, facts) is None


def _xnnpack_type(node: NodeProto, facts: GraphFacts) -> Verdict | None:
    stored = facts.stored_type(node.input[0])
    if stored is not None and node.op_type in ("Conv", "ConvTranspose"):
        weights = facts.stored_type(node.input[1])
        if (stored, weights) in XNNPACK_CONV_TYPES:
            return None
        kinds = f"{stored.lower()} activations with {str(weights).lower()} weights"
        return Verdict("cpu", f"XNNPACK has no convolution of {kinds}", "--activation-type int8, or --precision fp32")
    found = facts.type_of(node.input[0])
    return None if found == "FLOAT" else _wrong_type("XNNPACK", found, node, facts)


def _xnnpack_form(node: NodeProto, facts: GraphFacts) -> Verdict | None:
    shape = facts.shape_of(node.input[0])
    if shape is None:
        return Verdict("cpu", "XNNPACK needs the input's shape, and it is unknown", _shape_remedy(facts))
    if node.op_type in XNNPACK_IMAGE_OPERATORS and (len(shape) != 4 or None in shape[1:]):
        return Verdict("cpu", "XNNPACK does this on [B, C, H, W] with fixed C, H and W", _shape_remedy(facts))
    if node.op_type == "Softmax" and facts.opset >= 13 and attribute(node, "axis", -1) not in (-1, len(shape) - 1):
        return Verdict("cpu", "XNNPACK does Softmax over the last axis alone", "ssdlite export")
    return None
