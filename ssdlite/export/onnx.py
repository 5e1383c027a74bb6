"""A detector as an ONNX model: traced, cleaned of what only the tracer needs, lowered to the oldest operator set that
serves, checked, and loaded once."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Mapping

import onnx
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper

from ssdlite.detector import Detector, require_finite
from ssdlite.errors import ExportError
from ssdlite.export.graphs import INPUT_NAME, TRANSLATIONS, build_graph, input_spec
from ssdlite.export.options import HIGHEST_OPSET, LOWEST_OPSET, GraphOptions
from ssdlite.runtime.backends.base import quiet
from ssdlite.runtime.contract import METADATA_KEY, OUTPUTS, Contract
from ssdlite.runtime.plain import to_json

EXPORT_OPSET = 18  # what torch's exporter has translations for
ERRORS_ONLY = 3  # of ONNX Runtime's levels
HARMLESS = {"allowzero": 0, "noop_with_empty_axes": 0, "reduction": b"none"}
IR_VERSIONS = {13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}  # ONNX's Versioning.md
TORCH_TYPES = {"uint8": torch.uint8, "float32": torch.float32}


def export_onnx(detector: Detector, options: GraphOptions) -> onnx.ModelProto:
    """The graph that ``options`` describe, checked by ``onnx.checker`` and loaded by ONNX Runtime.

    Inputs and outputs have the names of their meanings (``images``; ``contract.OUTPUTS``), convolutions those of
    their modules. Nothing of the machine that traced it is left in the file.

    Raises:
        ExportError: an operator set that is not there, or too old for this network.
        CheckpointError: weights are not finite.
    """
    require_finite(detector.state_dict(), "the detector")
    if options.opset is not None and not LOWEST_OPSET <= options.opset <= HIGHEST_OPSET:
        raise ExportError(f"opset: expected {LOWEST_OPSET} to {HIGHEST_OPSET}, got {options.opset}")
    spec = input_spec(detector, options)
    example = torch.zeros([2 if side is None else side for side in spec.shape], dtype=TORCH_TYPES[spec.type])
    names = list(OUTPUTS[options.variant])
    with quiet("torch.onnx", "onnxscript", "torch._dynamo", "torch.export"):
        program = torch.onnx.export(
            build_graph(detector, options).eval(),
            (example,),
            dynamo=True,
            verbose=False,
            opset_version=max(options.opset or EXPORT_OPSET, EXPORT_OPSET),
            input_names=[INPUT_NAME],
            output_names=names,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=1024)},) if options.batch is None else None,
            custom_translation_table=TRANSLATIONS,
        )
    assert program is not None  # only the exporter that writes files returns nothing
    model = program.model_proto
    _name_nodes(model)
    _strip(model)
    _drop_allowzero(model)
    merge_padding(model)
    pool_globally(model)
    _drop_unused_initializers(model)
    set_opset(model, options.opset)
    _check(model)
    return model


def attach_contract(model: onnx.ModelProto, contract: Contract) -> None:
    """Write the contract of this one file into its metadata, and beside it what people look for by name."""
    (spec,) = contract.models
    entries = {
        METADATA_KEY: to_json(contract),
        "name": contract.name,
        "class_names": ", ".join(contract.class_names),
        "variant": spec.variant,
        "precision": spec.precision,
        "operating_threshold": f"{contract.postprocess.operating_threshold:g}",
        "license": contract.provenance.license,
    }
    helper.set_model_props(model, entries)


def take_floats(model: onnx.ModelProto) -> None:
    """Have a graph that begins with the cast of its uint8 input take float32 of 0..255 instead."""
    graph = model.graph
    (image,) = graph.input
    (cast,) = (node for node in graph.node if image.name in node.input)
    if cast.op_type != "Cast":
        raise ExportError(f"expected the graph to begin with the Cast of its input, got {cast.op_type}")
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name == cast.output[0]:
                node.input[position] = image.name
    graph.node.remove(cast)
    image.type.tensor_type.elem_type = onnx.TensorProto.FLOAT


def opset_of(model: onnx.ModelProto) -> int:
    """0 where it names none."""
    return max((int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def _name_nodes(model: onnx.ModelProto) -> None:
    """``backbone.features.3.conv.0.0.Conv`` in place of ``node_conv2d_7``: the module's path and the operator."""
    taken: Counter[str] = Counter()
    for node in model.graph.node:
        scopes = next((entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"), "[]")
        modules = [scope for scope in ast.literal_eval(scopes)[:-1] if scope and not scope.startswith("_")]
        path = modules[-1].removeprefix("network.").removeprefix("detector.") if modules else "graph"
        name = f"{path}.{node.op_type}"
        taken[name] += 1
        node.name = name if taken[name] == 1 else f"{name}_{taken[name]}"


def _strip(model: onnx.ModelProto) -> None:
    """Remove the tracer's notes: they hold stack traces with the paths of this machine, and double a small file."""
    graph = model.graph
    for element in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        del element.metadata_props[:]
        element.doc_string = ""
    del graph.value_info[:]
    graph.name = "ssdlite"
    model.producer_name, model.producer_version = "ssdlite", ""


def _drop_allowzero(model: onnx.ModelProto) -> None:
    """From every Reshape to a constant shape without a zero, where it says nothing, and mobile runtimes refuse it."""
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Reshape" and node.input[1] in shapes and shapes[node.input[1]].all():
            kept = [attribute for attribute in node.attribute if attribute.name != "allowzero"]
            del node.attribute[:]
            node.attribute.extend(kept)


def set_opset(model: onnx.ModelProto, opset: int | None) -> None:
    """Rewrite ``model`` in place for ``opset``, by default the lowest that serves.

    Raises:
        ExportError: it needs a newer one; the message says which.
    """
    wanted = lowest_opset(model) if opset is None else opset
    if wanted < EXPORT_OPSET:
        try:
            lower_opset(model, wanted)
        except ExportError as error:
            raise ExportError(f"opset {wanted}: this graph needs {lowest_opset(model)} or newer ({error})") from None
    model.ir_version = IR_VERSIONS[opset_of(model)]


def _check(model: onnx.ModelProto) -> None:
    """Raises ExportError where the ONNX checker or ONNX Runtime does not take the model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        onnx.checker.check_model(model, full_check=True)
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # each library raises what it likes
        raise ExportError(f"the exported model is not valid at opset {opset_of(model)}: {error}") from error


# --- The same graph in an older operator set, where its operators allow it: old runtimes still run in phones.


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
    _drop_unused_initializers(model)


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


def _drop_unused_initializers(model: onnx.ModelProto) -> None:
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


# --- TensorFlow's SAME padding as an attribute of the convolutions, where torch can only write an operator before them.


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


# --- Global average pooling as the operator that mobile runtimes have for it; torch's exporter writes a mean over axes.


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
