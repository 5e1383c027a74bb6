"""Global average pooling as the operator that mobile runtimes have for it; torch's exporter writes a mean over axes."""

from __future__ import annotations

import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper


def pool_globally(model: onnx.ModelProto) -> None:
    """Every ReduceMean over rows and columns of a map, dimensions kept, becomes GlobalAveragePool.

    ONNX Runtime has that one for its blocked float layout and in integers, and ReduceMean for neither.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    shapes = onnx.shape_inference.infer_shapes(model).graph.value_info
    ranks = {info.name: len(info.type.tensor_type.shape.dim) for info in shapes}
    for node in model.graph.node:
        if node.op_type == "ReduceMean" and ranks.get(node.input[0]) == 4 and _is_over_map(node, constants):
            del node.input[1:]
            del node.attribute[:]
            node.op_type = "GlobalAveragePool"
            node.name = node.name.replace("ReduceMean", "GlobalAveragePool")


def _is_over_map(node: NodeProto, constants: dict[str, TensorProto]) -> bool:
    attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    axes = attributes.get("axes", [])
    if len(node.input) > 1 and node.input[1] in constants:
        axes = numpy_helper.to_array(constants[node.input[1]]).tolist()
    return attributes.get("keepdims", 1) == 1 and sorted(axis % 4 for axis in axes) == [2, 3]
