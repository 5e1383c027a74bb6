"""What a rule wants to know of an ONNX graph: types, shapes, constants, who makes what."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

Shape = tuple[int | None, ...]
QUANTISERS = ("QuantizeLinear", "DequantizeLinear")


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
        elif given and all(name in self._constants for name in given) and node.op_type not in QUANTISERS:
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

    def constant_input(self, node: NodeProto, position: int) -> npt.NDArray[Any] | None:
        return self.constant(node.input[position]) if position < len(node.input) else None

    def type_of(self, name: str) -> str:
        """``FLOAT``, ``UINT8``, ...; ``UNDEFINED`` where nothing says so."""
        tensor = self._constants.get(name)
        if tensor is not None:
            return str(TensorProto.DataType.Name(tensor.data_type))
        value = self._values.get(name)
        return str(TensorProto.DataType.Name(value.type.tensor_type.elem_type if value is not None else 0))

    def stored_type(self, name: str) -> str | None:
        """The integer type that a dequantised tensor had; None where it was not quantised."""
        producer = self.producers.get(name)
        if producer is None or producer.op_type != "DequantizeLinear":
            return None
        return self.type_of(producer.input[0])

    def shape_of(self, name: str) -> Shape | None:
        """None where not even the rank is known; None in place of a side that is free."""
        tensor = self._constants.get(name)
        if tensor is not None:
            return tuple(tensor.dims)
        value = self._values.get(name)
        if value is None or not value.type.tensor_type.HasField("shape"):
            return None
        return tuple(d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim)

    def is_fixed(self, name: str) -> bool:
        shape = self.shape_of(name)
        return self.is_constant(name) or (shape is not None and None not in shape)


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """The value of an attribute, ``default`` where it is not given."""
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def clip_limits(node: NodeProto, facts: GraphFacts) -> tuple[float, float]:
    """What a Clip with constant limits clips to."""
    low, high = (facts.constant_input(node, position) for position in (1, 2))
    limits = np.finfo(np.float32)
    return float(limits.min if low is None else low), float(limits.max if high is None else high)
