"""What XNNPACK, on the CPU, and the GPU delegate take of a LiteRT file.

XNNPACK is asked: LiteRT's interpreter hands it what it takes. The GPU delegate is on no desktop; its rules are those of
tflite/tools/versioning/gpu_compatibility.cc of https://github.com/google-ai-edge/LiteRT, which it goes by itself, as
far as they concern kinds of operators, casts and the axes of slices. (The check of GPU compatibility in the package
ai-edge-litert 2.3 calls every file compatible, custom operators included.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from ssdlite.export.lint.report import MAX_EXAMPLES, NEEDS, LintFinding, LintReport
from ssdlite.export.lint.rules import Verdict
from ssdlite.runtime.backends.base import TensorInfo
from ssdlite.runtime.backends.litert import LiteRtBackend, LiteRtOperator

DELEGATE = "DELEGATE"
GPU_OPERATORS = frozenset(
    (
        *("ABS", "ADD", "ADD_N", "AVERAGE_POOL_2D", "BATCH_MATMUL", "CAST", "CEIL", "CONCATENATION", "CONV_2D", "COS"),
        *("CUMSUM", "DENSIFY", "DEPTHWISE_CONV_2D", "DEPTH_TO_SPACE", "DEQUANTIZE", "DIV", "ELU", "EQUAL", "EXP"),
        *("FLOOR", "FLOOR_DIV", "FLOOR_MOD", "FULLY_CONNECTED", "GATHER", "GELU", "GREATER", "GREATER_EQUAL"),
        *("HARD_SWISH", "LEAKY_RELU", "LESS", "LESS_EQUAL", "LOG", "LOGICAL_AND", "LOGICAL_NOT", "LOGICAL_OR"),
        *("LOGISTIC", "LSTM", "MAXIMUM", "MAX_POOL_2D", "MEAN", "MINIMUM", "MIRROR_PAD", "MUL", "NEG", "NOT_EQUAL"),
        *("ONE_HOT", "PACK", "PAD", "PADV2", "POW", "PRELU", "QUANTIZE", "REDUCE_ALL", "REDUCE_ANY", "REDUCE_MAX"),
        *("REDUCE_MIN", "REDUCE_PROD", "RELU", "RELU6", "RELU_N1_TO_1", "RESHAPE", "RESIZE_BILINEAR"),
        *("RESIZE_NEAREST_NEIGHBOR", "REVERSE_V2", "ROUND", "RSQRT", "SELECT", "SELECT_V2", "SIGN", "SIN", "SLICE"),
        *("SOFTMAX", "SPACE_TO_DEPTH", "SPLIT", "SPLIT_V", "SQRT", "SQUARE", "SQUARED_DIFFERENCE", "STRIDED_SLICE"),
        *("SUB", "SUM", "TANH", "TILE", "TOPK_V2", "TRANSPOSE", "TRANSPOSE_CONV"),
    )
)
GPU_CASTS = (  # from, to
    *(("float32", "int32"), ("int32", "float32"), ("float32", "float32"), ("int32", "int32")),
    *(("bool", "float32"), ("bool", "float16"), ("float32", "bool"), ("float16", "bool")),
)
SLICES = ("SLICE", "STRIDED_SLICE")  # of tensors with 3 or 4 axes


class LiteRtGraph(NamedTuple):
    """``operators`` of the file, the pieces that XNNPACK has taken, and the tensors by number."""

    operators: list[LiteRtOperator]
    pieces: list[LiteRtOperator]
    tensors: dict[int, TensorInfo]


def _read(path: Path) -> LiteRtGraph:
    backend = LiteRtBackend(path, threads=1)
    everything = backend.operators()
    operators = [one for one in everything if one.name != DELEGATE]
    return LiteRtGraph(operators, [one for one in everything if one.name == DELEGATE], backend.tensors())


def examine_with_xnnpack(path: Path) -> LintReport:
    """On the CPU. Raises ContractError: the file is damaged, or ai-edge-litert is not installed."""
    graph = _read(path)
    taken = taken_by(graph.pieces, graph.operators)
    return _report(
        "litert", graph, lambda number: None if number in taken else _outside(graph.operators[number], graph)
    )


def taken_by(pieces: Iterable[LiteRtOperator], operators: list[LiteRtOperator]) -> set[int]:
    """The places of ``operators`` that are inside ``pieces``: from what a piece writes back to what it reads."""
    makers = {tensor: number for number, one in enumerate(operators) for tensor in one.outputs}
    inside: set[int] = set()
    for piece in pieces:
        waiting = list(piece.outputs)
        while waiting:
            tensor = waiting.pop()
            number = makers.get(tensor)
            if tensor not in piece.inputs and number is not None and number not in inside:
                inside.add(number)
                waiting += operators[number].inputs
    return inside


def examine_on_gpu(path: Path) -> LintReport:
    """On a phone's GPU. Raises ContractError: the file is damaged, or ai-edge-litert is not installed."""
    graph = _read(path)
    report = _report("litert-gpu", graph, lambda number: gpu_verdict(graph.operators[number], graph))
    if any(info.type in ("int8", "uint8") for one in graph.operators for info in _infos(one.outputs, graph)):
        why = (
            "the GPU computes int8 in floating point, where the delegate allows quantised models, as it does by default"
        )
        report.findings.append(LintFinding("note", why, "--precision fp16"))
    return report


def _report(target: str, graph: LiteRtGraph, judge: Callable[[int], Verdict | None]) -> LintReport:
    groups: dict[tuple[Verdict, str], list[str]] = {}
    for number, one in enumerate(graph.operators):
        verdict = judge(number)
        if verdict is not None:
            groups.setdefault((verdict, one.name), []).append(graph.tensors[one.outputs[0]].name)
    findings = [
        LintFinding(*verdict, operator=operator, count=len(names), nodes=tuple(names[:MAX_EXAMPLES]))
        for (verdict, operator), names in groups.items()
    ]
    left = sum(finding.count for finding in findings)
    pieces = len(graph.pieces) if target == "litert" else None
    return LintReport(target, len(graph.operators), len(graph.operators) - left, pieces, NEEDS[target], findings)


def _infos(numbers: Iterable[int], graph: LiteRtGraph) -> list[TensorInfo]:
    return [graph.tensors[number] for number in numbers if number in graph.tensors]


def _outside(one: LiteRtOperator, graph: LiteRtGraph) -> Verdict:
    why = "outside XNNPACK; LiteRT's own CPU kernels do it in the same memory, without copies"
    return Verdict("note", why, "--input-type float32" if _casts_bytes(one, graph) else "nothing has to be done")


def _casts_bytes(one: LiteRtOperator, graph: LiteRtGraph) -> bool:
    return one.name == "CAST" and any(info.type == "uint8" for info in _infos(one.inputs, graph))


def gpu_verdict(one: LiteRtOperator, graph: LiteRtGraph) -> Verdict | None:
    """None where the GPU delegate takes the operator."""
    inputs, outputs = _infos(one.inputs, graph), _infos(one.outputs, graph)
    if one.name not in GPU_OPERATORS:
        remedy = (
            "--variant decoded" if one.name == "TFLite_Detection_PostProcess" else "another operator in the network"
        )
        return Verdict("cpu", "not among the operators of LiteRT's GPU delegate", remedy)
    if one.name == "CAST" and (inputs[0].type, outputs[0].type) not in GPU_CASTS:
        remedy = "--input-type float32" if _casts_bytes(one, graph) else "another operator in the network"
        return Verdict("cpu", f"the GPU delegate does not cast {inputs[0].type} to {outputs[0].type}", remedy)
    if one.name in SLICES and len(outputs[0].shape) not in (3, 4):
        return Verdict("cpu", "the GPU delegate slices tensors of 3 or 4 axes alone", "another operator in the network")
    return None
