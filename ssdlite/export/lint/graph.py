"""What a rule wants to know of an ONNX graph and of a node in it: types, shapes, constants, who makes what."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

Shape = tuple[int | None, ...]
QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


class GraphFacts:
    """A model with inferred shapes.

    Attributes:
        nodes: those that are left to run, in order: ONNX Runtime computes what depends on constants alone once.
        inputs: names of what the app gives.
        opset: of the ONNX domain; 0 where the model names none.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        with contextlib.suppress(onnx.shape_inference.InferenceError):  # unknown shapes: each rule says what they mean
            model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        graph = model.graph
        self.opset = max((int(i.version) for i in model.opset_import if i.domain in ("", "ai.onnx")), default=0)
        self._constants: dict[str, TensorProto | None] = {tensor.name: tensor for tensor in graph.initializer}
        self._values: dict[str, ValueInfoProto] = {
            value.name: value for value in (*graph.value_info, *graph.input, *graph.output)
        }
        self.inputs = [value.name for value in graph.input if value.name not in self._constants]
        self.nodes: list[NodeProto] = []
        self.producers: dict[str, NodeProto] = {}
        self.consumers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            self._add(node)

    def _add(self, node: NodeProto) -> None:
        given = [name for name in node.input if name]
        if node.op_type == "Constant":
            self._constants[node.output[0]] = next((a.t for a in node.attribute if a.name == "value"), None)
        elif given and all(name in self._constants for name in given) and node.op_type not in QUANTIZERS:
            self._constants.update(dict.fromkeys(node.output))
        else:
            self.nodes.append(node)
            self.producers.update(dict.fromkeys(node.output, node))
            for name in given:
                self.consumers.setdefault(name, []).append(node)

    def is_constant(self, name: str) -> bool:
        """Whether the value is known before the first image, dequantised constants included."""
        producer = self.producers.get(name)
        if producer is not None and producer.op_type == "DequantizeLinear":
            return self.is_constant(producer.input[0])
        return name in self._constants

    def constant(self, name: str) -> npt.NDArray[Any] | None:
        tensor = self._constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def type_of(self, name: str) -> str:
        """``FLOAT``, ``UINT8``, ...; ``UNDEFINED`` where nothing says so."""
        tensor, value = self._constants.get(name), self._values.get(name)
        own = value.type.tensor_type.elem_type if value is not None else TensorProto.UNDEFINED
        number = own if tensor is None else tensor.data_type
        known = number in TensorProto.DataType.values()
        return str(TensorProto.DataType.Name(number)) if known else f"TYPE {number}"

    def shape_of(self, name: str) -> Shape | None:
        """None where not even the rank is known; None in place of a side that is free."""
        tensor, value = self._constants.get(name), self._values.get(name)
        if tensor is not None:
            return tuple(tensor.dims)
        if value is None or not value.type.tensor_type.HasField("shape"):
            return None
        return tuple(d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim)

    def is_fixed(self, name: str) -> bool:
        shape = self.shape_of(name)
        return self.is_constant(name) or (shape is not None and None not in shape)


class Node:
    """A node of a graph, its inputs in lists by position.

    Attributes:
        key: as ONNX Runtime's lists have it, ``ai.onnx:conv``.
        inputs: their names, empty where one is not given.
        types: ``FLOAT`` and so on.
        stored_types: the integer types that dequantised inputs had; None for those that were not quantised.
        shapes: None where not even the rank is known.
        is_first: whether its first input is one of the model.
    """

    def __init__(self, proto: NodeProto, graph: GraphFacts) -> None:
        self.graph = graph
        self.operator, self.domain = proto.op_type, proto.domain or "ai.onnx"
        self.key = f"{self.domain}:{self.operator}".lower()
        self.inputs, self.outputs = list(proto.input), list(proto.output)
        self.attributes = {own.name: helper.get_attribute_value(own) for own in proto.attribute}
        self.types = [graph.type_of(name) for name in self.inputs]
        self.shapes = [graph.shape_of(name) for name in self.inputs if name]
        self.is_first = bool(self.inputs) and self.inputs[0] in graph.inputs
        makers = [graph.producers.get(name) for name in self.inputs]
        self.stored_types = [
            graph.type_of(maker.input[0]) if maker is not None and maker.op_type == "DequantizeLinear" else None
            for maker in makers
        ]

    @property
    def shape(self) -> Shape | None:
        """Of the first input."""
        return self.graph.shape_of(self.inputs[0])

    @property
    def sides(self) -> list[int | None]:
        """Of all inputs."""
        return [side for shape in self.shapes for side in shape or ()]

    @property
    def type(self) -> str:
        """Of what it computes with."""
        return next(iter(self.types[1 if self.operator == "Where" else 0 :]), "UNDEFINED")

    def is_constant(self, position: int) -> bool:
        """Whether an input is known before the first image, or is not given."""
        return not any(self.inputs[position : position + 1]) or self.graph.is_constant(self.inputs[position])

    @property
    def users(self) -> list[NodeProto]:
        """Of the first output."""
        return self.graph.consumers.get(self.outputs[0], [])
