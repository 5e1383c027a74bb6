"""The same graph in an older ONNX operator set, where its operators allow it: old runtimes still run in phones."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from ssdlite.errors import ExportError
from ssdlite.export.options import LOWEST_OPSET

EXPORT_OPSET = 18  # what torch's exporter has translations for
HARMLESS = {"allowzero": 0, "noop_with_empty_axes": 0, "reduction": b"none"}
IR_VERSIONS = {13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}  # ONNX's Versioning.md


def lower_opset(model: onnx.ModelProto, opset: int) -> None:
    """Rewrite ``model`` in place for an older ``opset``; the result is checked by ``onnx.checker`` in full.

    Raises:
        ExportError: an operator, or a way of using it, is newer than that.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        try:
            schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
        except onnx.defs.SchemaError:
            raise ExportError(f"it has no operator {node.op_type}") from None
        if len(node.input) > schema.max_input:
            _axes_to_attribute(node, constants)
        _drop_harmless_attributes(node, schema)
    (entry,) = (entry for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    entry.version = opset
    model.ir_version = IR_VERSIONS[opset]
    _drop_unused_initialisers(model)


def lowest_opset(model: onnx.ModelProto) -> int:
    """The lowest operator set, from ``LOWEST_OPSET`` on, that has all that ``model`` uses."""
    for opset in range(LOWEST_OPSET, EXPORT_OPSET):
        candidate = onnx.ModelProto()
        candidate.CopyFrom(model)
        try:
            lower_opset(candidate, opset)
            onnx.checker.check_model(candidate, full_check=True)
        except (ExportError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
            continue
        return opset
    return EXPORT_OPSET


def _axes_to_attribute(node: NodeProto, constants: Mapping[str, TensorProto]) -> None:
    """Reductions took their axes as an attribute once."""
    axes = constants.get(node.input[1]) if node.op_type.startswith("Reduce") else None
    if axes is None:
        raise ExportError(f"{node.op_type} has an input more")
    node.attribute.append(helper.make_attribute("axes", numpy_helper.to_array(axes).tolist()))
    del node.input[1:]


def _drop_harmless_attributes(node: NodeProto, schema: onnx.defs.OpSchema) -> None:
    for attribute in list(node.attribute):
        if attribute.name in schema.attributes:
            continue
        if attribute.name not in HARMLESS or helper.get_attribute_value(attribute) != HARMLESS[attribute.name]:
            raise ExportError(f"{node.op_type} has no attribute {attribute.name} there")
        node.attribute.remove(attribute)


def _drop_unused_initialisers(model: onnx.ModelProto) -> None:
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
