"""TensorFlow's SAME padding as an attribute of the convolutions, where torch can only write an operator before them."""

from __future__ import annotations

import onnx
from onnx import helper, numpy_helper


def merge_padding(model: onnx.ModelProto) -> None:
    """Every Pad with zeros whose only reader is a Conv becomes that Conv's ``pads``; CoreML has no Pad."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    readers = [name for node in graph.node for name in node.input]
    pads = {node.output[0]: node for node in graph.node if node.op_type == "Pad"}
    for conv in list(graph.node):  # which loses nodes on the way
        pad = pads.get(conv.input[0]) if conv.op_type == "Conv" else None
        if pad is None or readers.count(pad.output[0]) != 1 or not _is_of_zeros(pad, constants):
            continue
        before, after = numpy_helper.to_array(constants[pad.input[1]]).reshape(2, -1)[:, 2:].tolist()
        own = next((attribute for attribute in conv.attribute if attribute.name == "pads"), None)
        inner = list(own.ints) if own else [0] * 4
        if own:
            conv.attribute.remove(own)
        conv.attribute.append(
            helper.make_attribute("pads", [a + b for a, b in zip(inner, before + after, strict=True)])
        )
        conv.input[0] = pad.input[0]
        graph.node.remove(pad)


def _is_of_zeros(pad: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    """Whether ``pad`` adds a constant number of zeros to rows and columns alone."""
    if pad.input[1] not in constants or any(a.name == "mode" and a.s != b"constant" for a in pad.attribute):
        return False
    if len(pad.input) > 2 and pad.input[2]:
        value = constants.get(pad.input[2])
        if value is None or numpy_helper.to_array(value).any():
            return False
    amounts = numpy_helper.to_array(constants[pad.input[1]]).reshape(2, -1)
    return amounts.shape[1] == 4 and not amounts[:, :2].any() and bool((amounts >= 0).all())
