"""A detector as an ONNX model: traced, cleaned of what only the tracer needs, checked, and loaded once."""

from __future__ import annotations

import ast
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import torch
from onnx import helper

from ssdlite.contract import METADATA_KEY, OUTPUTS, Contract, InputSpec, OutputSpec
from ssdlite.detector import Detector
from ssdlite.errors import ExportError
from ssdlite.export.graphs import build_graph
from ssdlite.export.opset import EXPORT_OPSET, IR_VERSIONS, lower_opset, lowest_opset
from ssdlite.export.options import HIGHEST_OPSET, LOWEST_OPSET, GraphOptions
from ssdlite.export.padding import merge_padding
from ssdlite.export.pooling import pool_globally
from ssdlite.export.suppress import TRANSLATIONS
from ssdlite.plain import to_json

INPUT_NAME = "images"
TYPES = {"uint8": torch.uint8, "float32": torch.float32}


def export_onnx(detector: Detector, options: GraphOptions) -> onnx.ModelProto:
    """The graph that ``options`` describe, checked by ``onnx.checker`` and loaded by ONNX Runtime.

    Inputs and outputs have the names of their meanings (``images``; ``contract.OUTPUTS``), convolutions those of
    their modules. Nothing of the machine that traced it is left in the file.

    Raises:
        ExportError: an operator set that is not there, or too old for this network.
    """
    if options.opset is not None and not LOWEST_OPSET <= options.opset <= HIGHEST_OPSET:
        raise ExportError(f"opset: expected {LOWEST_OPSET} to {HIGHEST_OPSET}, got {options.opset}")
    spec = input_spec(detector, options)
    example = torch.zeros([2 if side is None else side for side in spec.shape], dtype=TYPES[spec.type])
    names = list(OUTPUTS[options.variant])
    with _quiet():
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
    merge_padding(model)
    pool_globally(model)
    _set_opset(model, options.opset)
    _check(model)
    return model


def input_spec(detector: Detector, options: GraphOptions) -> InputSpec:
    """What the exported graph expects of the app."""
    config = detector.config
    height, width = config.image_size
    normalised_outside = options.input_type == "float32"
    return InputSpec(
        name=INPUT_NAME,
        type=options.input_type,
        layout=options.layout,
        batch=options.batch,
        height=height,
        width=width,
        mean=config.mean if normalised_outside else (0.0, 0.0, 0.0),
        std=config.std if normalised_outside else (1.0, 1.0, 1.0),
    )


def output_specs(detector: Detector, options: GraphOptions) -> tuple[OutputSpec, ...]:
    """What the exported graph answers, in order."""
    config, batch = detector.config, options.batch
    shapes: dict[str, tuple[int | None, ...]] = {
        "class_logits": (batch, config.num_anchors, config.num_classes + 1),
        "box_deltas": (batch, config.num_anchors, 4),
        "scores": (batch, config.num_anchors, config.num_classes),
        "boxes": (batch, config.num_anchors, 4),
    }
    if options.variant == "nms":
        limit = config.max_detections
        shapes = {"boxes": (batch, limit, 4), "scores": (batch, limit), "labels": (batch, limit), "count": (batch,)}
    return tuple(
        OutputSpec(
            name=meaning,
            meaning=meaning,
            shape=shapes[meaning],
            type="int32" if meaning in ("labels", "count") else "float32",
        )
        for meaning in OUTPUTS[options.variant]
    )


def attach_contract(model: onnx.ModelProto, contract: Contract) -> None:
    """Write the contract of this one file into its metadata, and beside it what people look for by name."""
    (spec,) = contract.models
    entries = {
        METADATA_KEY: to_json(contract),
        "name": contract.name,
        "class_names": ", ".join(contract.class_names),
        "variant": spec.variant,
        "precision": spec.precision,
        "licence": contract.provenance.licence,
    }
    helper.set_model_props(model, entries)


def opset_of(model: onnx.ModelProto) -> int:
    return next(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter explains its inner life on every call; errors still come through as exceptions."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch._dynamo", "torch.export")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


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


def _set_opset(model: onnx.ModelProto, opset: int | None) -> None:
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
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        onnx.checker.check_model(model, full_check=True)
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # each library raises what it likes
        raise ExportError(f"the exported model is not valid at opset {opset_of(model)}: {error}") from error
