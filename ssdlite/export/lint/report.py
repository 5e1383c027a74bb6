"""What a runtime for phones would refuse of a model or leave to the CPU, and what to do about each.

It reads the graph as it is written; a session on the phone fuses and folds further, which changes little in graphs that
``ssdlite export`` wrote.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

from onnx import ModelProto, TensorProto

from ssdlite.export.lint.graph import GraphFacts, Node
from ssdlite.export.lint.rules import Kind, Verdict, check_target, judge, listed_operators, oldest_runtime
from ssdlite.runtime.backends.openvino import openvino_core, reason

MAX_EXAMPLES = 3
ORDER: tuple[Kind, ...] = ("refused", "cpu", "note")
ACCELERATORS = ("nnapi", "coreml")  # each partition costs copies there and back
SILENT = 4
NEEDS = {
    "ncnn": "ncnn",
    "ncnn-vulkan": "ncnn with Vulkan, and net.opt.use_vulkan_compute",
    "openvino": "OpenVINO 2024.6 or newer",
    "executorch": "ExecuTorch 1.5 or newer",
    "litert": "LiteRT",
    "litert-gpu": "LiteRT with its GPU delegate",
}


@dataclass(frozen=True)
class LintFinding:
    """What is amiss with ``count`` nodes of one type, or with the model as a whole (no ``operator``)."""

    kind: Kind
    why: str
    remedy: str
    operator: str = ""
    count: int = 1
    nodes: tuple[str, ...] = ()  # the first few


@dataclass(frozen=True)
class LintReport:
    """What ``target`` makes of a model.

    Attributes:
        nodes: operators that run, constants not counted.
        taken: those that the target runs itself.
        partitions: pieces that the target's nodes fall into; None where pieces cost nothing.
        needs: the oldest runtime that reads the file.
    """

    target: str
    nodes: int
    taken: int
    partitions: int | None
    needs: str
    findings: list[LintFinding]

    @property
    def clean(self) -> bool:
        """Whether nothing is refused or left to the CPU."""
        return all(finding.kind == "note" for finding in self.findings)

    @property
    def refused(self) -> bool:
        """Whether the target does not run the model at all."""
        return any(finding.kind == "refused" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine(model: ModelProto, target: str) -> LintReport:
    """Judge every node of ``model`` for ``target``, one of ``LINT_TARGETS``; the worst findings come first.

    Raises:
        ConfigError: an unknown target; the message lists the known ones.
    """
    check_target(target)
    graph = GraphFacts(model)
    findings = [
        LintFinding(kind, why.format(found), remedy)
        for targets, find, why, remedy, kind in MODEL_RULES
        if target in targets
        for found in find(model, graph)
    ]
    taken, groups = [], dict[tuple[Verdict, str], list[str]]()
    for node in graph.nodes:
        verdict = judge(Node(node, graph), target)
        taken.append(verdict is None)
        if verdict is not None:
            groups.setdefault((verdict, node.op_type), []).append(node.name or node.output[0])
    findings += [
        LintFinding(*verdict, operator=operator, count=len(names), nodes=tuple(names[:MAX_EXAMPLES]))
        for (verdict, operator), names in groups.items()
    ]
    return LintReport(
        target=target,
        nodes=len(taken),
        taken=sum(taken),
        partitions=len(partition_sizes(graph, taken)) if target in ACCELERATORS else None,
        needs=NEEDS.get(target) or oldest_runtime(graph.opset, model.ir_version),
        findings=sorted(findings, key=lambda finding: ORDER.index(finding.kind)),
    )


def partition_sizes(graph: GraphFacts, taken: list[bool]) -> list[int]:
    """Nodes in each piece that a target takes at once (ONNX Runtime's CreateSupportedPartitionNodeGroups)."""
    position = {name: i for i, node in enumerate(graph.nodes) for name in node.output}
    sources = [[position[name] for name in node.input if name in position] for node in graph.nodes]
    users: list[list[int]] = [[] for _ in graph.nodes]
    for i, before in enumerate(sources):
        for source in before:
            users[source].append(i)
    open_inputs = [len(before) for before in sources]
    ready = deque(i for i, count in enumerate(open_inputs) if not count)
    later: deque[int] = deque()
    sizes, border = [0], set[int]()
    while ready or later:
        if not ready:
            sizes.append(0)
            border.clear()
            ready, later = later, deque()
        node = ready.popleft()
        if not taken[node] and node in border:
            later.append(node)
            continue
        if taken[node]:
            sizes[-1] += 1
            border.update(users[node])
        for user in users[node]:
            open_inputs[user] -= 1
            if not open_inputs[user]:
                ready.append(user)
    return [size for size in sizes if size]


# --- What is amiss with a model as a whole, a row each.


def _load_error(model: ModelProto, graph: GraphFacts) -> list[str]:
    """Why ONNX Runtime does not load the model; none where it does."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = SILENT
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a dozen kinds, without a common base
        return [str(error).strip().splitlines()[0]]
    return []


def _openvino_error(model: ModelProto, graph: GraphFacts) -> list[str]:
    """Why OpenVINO does not read the model; none where it does, or is not installed."""
    if find_spec("openvino") is None:
        return []
    try:
        openvino_core().read_model(model.SerializeToString())
    except RuntimeError as error:
        return [reason(error)]
    return []


def _free_input(model: ModelProto, graph: GraphFacts) -> list[str]:
    return [name for name in graph.inputs if not graph.is_fixed(name)][:1]


def _for_ml_program_alone(model: ModelProto, graph: GraphFacts) -> list[str]:
    """The operators that CoreML's older format lacks."""
    lacking = listed_operators("coreml_supported_mlprogram") - listed_operators("coreml_supported_neuralnetwork")
    names = sorted({node.op_type for node in graph.nodes if f"ai.onnx:{node.op_type}".lower() in lacking})
    return [", ".join(names)] if names else []


def _half_precision(model: ModelProto, graph: GraphFacts) -> list[str]:
    return ["float16"] if any(t.data_type == TensorProto.FLOAT16 for t in model.graph.initializer) else []


def _batched(model: ModelProto, graph: GraphFacts) -> list[str]:
    sides = {value.name: value.type.tensor_type.shape.dim for value in model.graph.input}
    return [name for name, own in sides.items() if len(own) == 4 and own[0].dim_value != 1]


ORT_TARGETS = ("ort-mobile", "nnapi", "coreml", "xnnpack")
ModelRule = tuple[tuple[str, ...], Callable[[ModelProto, GraphFacts], Sequence[str]], str, str, Kind]
MODEL_RULES: tuple[ModelRule, ...] = (  # targets, what is found, why, what to do about it, kind
    (ORT_TARGETS, _load_error,
     "the ONNX Runtime installed here does not load it: {}", "--opset 13", "refused"),
    (("coreml",), _for_ml_program_alone,
     "NeuralNetwork, the format that ONNX Runtime takes by default, has no {}",
     "make the session with ModelFormat MLProgram", "note"),
    (("coreml",), _free_input, "CoreML is slow where a shape is free, as that of {} is", "--batch 1", "note"),
    (("ort-mobile",), _half_precision,
     "ONNX Runtime computes {} only on ARM64 processors that have it, and goes through float32 elsewhere",
     "--precision fp32, or int8 where the processor is old", "note"),
    (("openvino",), _openvino_error,
     "the OpenVINO installed here does not read it: {}", "--opset 13", "refused"),
    (("executorch",), _free_input,
     "ExecuTorch files have a fixed batch, and that of {} is free", "--batch 1", "refused"),
    (("ncnn",), _batched, "ncnn has no batch axis, and {} has one that is not 1", "--batch 1", "refused"),
)  # fmt: skip
