"""What is read of a node of an exported ONNX graph."""

from __future__ import annotations

from typing import Any

from onnx import NodeProto, helper


def module_of(node: NodeProto) -> str:
    """The part of the network that a node was traced from, as far as the exporter noted it."""
    notes = {own.key: own.value for own in node.metadata_props}
    return str(notes.get("pkg.torch.onnx.name_scopes", node.name or node.output[0]))


def attributes_of(node: NodeProto) -> dict[str, Any]:
    return {own.name: helper.get_attribute_value(own) for own in node.attribute}
