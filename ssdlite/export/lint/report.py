"""What a runtime for phones would refuse of a model or leave to the CPU, and what to do about each.

It reads the graph as it is written; a session on the phone fuses and folds further, which changes little in graphs that
``ssdlite export`` wrote.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import onnx
from onnx import NodeProto, TensorProto

from ssdlite.export.lint.graph import GraphFacts
from ssdlite.export.lint.rules import RULES, TARGETS, Kind, Verdict, check_target, listed_operators, oldest_runtime

EXAMPLES = 3
ORDER: tuple[Kind, ...] = ("refused", "cpu", "note")
ACCELERATORS = ("nnapi", "coreml")  # each partition costs copies there and back
SILENT = 4


@dataclass(frozen=True)
class Finding:
    """What is amiss with ``count`` nodes of one type, or with the model as a whole (no ``operator``)."""

    kind: Kind
    why: str
    remedy: str
    operator: str = ""
    count: int = 1
    nodes: tuple[str, ...] = ()  # the first few


@dataclass(frozen=True)
class Report:
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
    findings: list[Finding]

    @property
    def clean(self) -> bool:
        """Whether nothing is refused or left to the CPU."""
        return all(finding.kind == "note" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def lint(model: onnx.ModelProto, target: str) -> list[Finding]:
    """The findings for one target, the worst first. Raises ConfigError for an unknown target."""
    return examine(model, target).findings


def examine(model: onnx.ModelProto, target: str) -> Report:
    """Judge every node of ``model`` for ``target``, one of ``TARGETS``.

    Raises:
        ConfigError: an unknown target; the message lists the known ones.
    """
    check_target(target)
    facts = GraphFacts(model)
    verdicts = [RULES[target](node, facts) for node in facts.nodes]
    findings = [*_judge_model(model, facts, target), *_group(facts.nodes, verdicts)]
    taken = [verdict is None for verdict in verdicts]
    return Report(
        target=target,
        nodes=len(taken),
        taken=sum(taken),
        partitions=len(partition_sizes(facts, taken)) if target in ACCELERATORS else None,
        needs="ncnn" if target == "ncnn" else oldest_runtime(facts.opset, model.ir_version),
        findings=sorted(findings, key=lambda finding: ORDER.index(finding.kind)),
    )


def partition_sizes(facts: GraphFacts, taken: list[bool]) -> list[int]:
    """Nodes in each piece that a target takes at once (ONNX Runtime's CreateSupportedPartitionNodeGroups)."""
    position = {name: i for i, node in enumerate(facts.nodes) for name in node.output}
    sources = [[position[name] for name in node.input if name in position] for node in facts.nodes]
    users: list[list[int]] = [[] for _ in facts.nodes]
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


def _group(nodes: list[NodeProto], verdicts: list[Verdict | None]) -> list[Finding]:
    groups: dict[tuple[Verdict, str], list[str]] = {}
    for node, verdict in zip(nodes, verdicts, strict=True):
        if verdict is not None:
            groups.setdefault((verdict, node.op_type), []).append(node.name or node.output[0])
    return [
        Finding(*verdict, operator=operator, count=len(names), nodes=tuple(names[:EXAMPLES]))
        for (verdict, operator), names in groups.items()
    ]


def _judge_model(model: onnx.ModelProto, facts: GraphFacts, target: str) -> Iterator[Finding]:
    if target == "ncnn":
        yield from _judge_ncnn(model)
        return
    refusal = _refusal(model)
    if refusal is not None:
        yield Finding("refused", f"the ONNX Runtime installed here does not load it: {refusal}", "--opset 13")
    free = [name for name in facts.inputs if not facts.is_fixed(name)]
    if target == "coreml":
        yield from _judge_coreml(facts)
        if free:
            yield Finding("note", f"CoreML is slow where a shape is free, as that of {free[0]} is", "--batch 1")
    if target == "ort-mobile" and any(t.data_type == TensorProto.FLOAT16 for t in model.graph.initializer):
        yield Finding(
            "note",
            "ONNX Runtime computes float16 only on ARM64 processors that have it, and goes through float32 elsewhere",
            "--precision fp32, or int8 where the processor is old",
        )


def _judge_coreml(facts: GraphFacts) -> Iterator[Finding]:
    listed = {file: listed_operators(f"coreml_supported_{file}_ops.md") for file in ("mlprogram", "neuralnetwork")}
    names = sorted({node.op_type for node in facts.nodes})
    missing = [
        name
        for name in names
        if f"ai.onnx:{name}".lower() in listed["mlprogram"] and f"ai.onnx:{name}".lower() not in listed["neuralnetwork"]
    ]
    if missing:
        yield Finding(
            "note",
            f"NeuralNetwork, the format that ONNX Runtime takes by default, has no {', '.join(missing)}",
            "make the session with ModelFormat MLProgram",
        )


def _judge_ncnn(model: onnx.ModelProto) -> Iterator[Finding]:
    for value in model.graph.input:
        sides = value.type.tensor_type.shape.dim
        if len(sides) == 4 and sides[0].dim_value != 1:
            yield Finding("refused", f"ncnn has no batch axis, and {value.name} has one that is not 1", "--batch 1")


def _refusal(model: onnx.ModelProto) -> str | None:
    """Why ONNX Runtime does not load the model; None where it does."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = SILENT
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a dozen kinds, without a common base
        return str(error).strip().splitlines()[0]
    return None


__all__ = ["TARGETS", "Finding", "Report", "examine", "lint", "partition_sizes"]
