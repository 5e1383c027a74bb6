"""Which part of an exported graph is the network's body: what is worth computing in integers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx
from onnx import NodeProto

from ssdlite.errors import ExportError

BODY_OPERATORS = {"Conv", "Clip", "Relu", "Add", "Mul", "GlobalAveragePool"}
ACTIVATIONS = {"Clip", "Relu"}  # become part of the convolution before them, as the limits of its integers


@dataclass(frozen=True)
class Body:
    """The nodes to quantise, in the graph's order; convolutions are those of them with op_type Conv."""

    nodes: tuple[NodeProto, ...]

    @property
    def convolutions(self) -> tuple[str, ...]:
        """Their node names."""
        return tuple(node.name for node in self.nodes if node.op_type == "Conv")


def find_body(model: onnx.ModelProto) -> Body:
    """Convolutions, and what stands between them. What decodes and selects boxes behind the last ones stays float,
    and so does what normalises pictures before the first.

    Raises:
        ExportError: there is no convolution, or two nodes of one name.
    """
    nodes = model.graph.node
    if not any(node.op_type == "Conv" for node in nodes):
        raise ExportError("quantisation: the model has no convolution")
    repeated = sorted(name for name, count in Counter(node.name for node in nodes).items() if count > 1)
    if repeated:
        raise ExportError(f"quantisation: nodes must have different names, but there are several of {repeated[:3]}")
    behind = _reached(nodes, forward=True)
    before = _reached(reversed(nodes), forward=False)
    between = behind & before
    return Body(
        tuple(
            node
            for node in nodes
            if node.op_type == "Conv" or (node.op_type in BODY_OPERATORS and node.name in between)
        )
    )


def _reached(nodes: Iterable[NodeProto], *, forward: bool) -> set[str]:
    """Names of the nodes that a convolution's result reaches, or backward, that reach a convolution."""
    tensors: set[str] = set()
    names: set[str] = set()
    for node in nodes:
        sources, targets = (node.input, node.output) if forward else (node.output, node.input)
        hit = any(name in tensors for name in sources)
        if hit:
            names.add(node.name)
        if hit or node.op_type == "Conv":
            tensors.update(name for name in targets if name)
    return names


def activations_to_quantise(model: onnx.ModelProto, body: Body) -> tuple[str, ...]:
    """Names of the tensors that integers will stand for, weights and biases apart, each once.

    A convolution's result before the activation that becomes part of it is not among them.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    hidden = set(folded_activations(model, body))
    names: dict[str, None] = {}
    for node in body.nodes:
        inputs = node.input if node.op_type in ("Add", "Mul") else node.input[:1]
        names.update(dict.fromkeys(name for name in (*inputs, node.output[0]) if name not in constants | hidden))
    return tuple(names)


def folded_activations(model: onnx.ModelProto, body: Body) -> Mapping[str, str]:
    """Result of a node -> result of the Clip or Relu that is its only reader, where both are of the body."""
    readers = Counter(name for node in model.graph.node for name in node.input)
    outputs = {output.name for output in model.graph.output}
    made = {name for node in body.nodes for name in node.output}
    return {
        node.input[0]: node.output[0]
        for node in body.nodes
        if node.op_type in ACTIVATIONS
        and node.input[0] in made
        and readers[node.input[0]] == 1
        and node.input[0] not in outputs
    }
