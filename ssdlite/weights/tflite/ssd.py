"""SSD and SSDLite MobileNets from TensorFlow Lite files, float32 or float16, as detectors of ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssdlite.backbones.batch_norm import identity_norm
from ssdlite.config import ScoreFunction
from ssdlite.errors import CheckpointError
from ssdlite.weights.class_names import ClassRows, name_rows
from ssdlite.weights.mapping import ConvLayer, Imported, WeightMapping, calibrate_restored_norms, detector_layers
from ssdlite.weights.source import ImportOptions
from ssdlite.weights.tensorflow.anchors import choose_anchors
from ssdlite.weights.tensorflow.ssd import (
    TENSORFLOW_SSD,
    Layout,
    backbone_scopes,
    box_rows,
    count_predictions,
    detector_config,
    trunk_taps,
)
from ssdlite.weights.tflite.file import TfliteGraph, packed_labels, read_tflite
from ssdlite.weights.tflite.graph import BOXES, CLASSES, Convolution, SsdNetwork, find_network, read_detections

TFLITE_SSD = f"{TENSORFLOW_SSD}, a TensorFlow Lite file"

Convert = Callable[[Tensor], Tensor]


def read_tflite_ssd(path: Path, options: ImportOptions) -> Imported:
    """The SSD in a .tflite file, its folded batch norms restored.

    Raises:
        CheckpointError: the file is damaged, quantised, or of another network, or its classes have no names.
        ConfigError: the package that reads such files is not installed, or another size of the input was asked for.
    """
    graph = read_tflite(path)
    network = find_network(graph)
    layout = _layout(graph, network)
    image_size = _image_size(graph)
    options.check_image_size(image_size, str(path))
    found = read_detections(graph, network, image_size, layout.anchors_per_cell)
    score_function: ScoreFunction = network.score_function or "sigmoid"
    classes = _classes(path, layout.num_logits, found.num_classes, score_function, options)
    anchors = choose_anchors(layout.anchors_per_cell, found.anchors, None, options, str(path))
    config = detector_config(
        layout,
        image_size=image_size,
        classes=classes,
        score_function=score_function,
        path=str(path),
        anchors=anchors.config,
        changes=found.changes,
    )
    _check_taps(graph, network, layout)

    names_of = _unique_names(graph)
    mapping = WeightMapping(_read_tensors(graph, network, names_of), str(path), TFLITE_SSD)
    layers = detector_layers(config).all
    if len(network.layers) != len(layers):
        raise CheckpointError(f"{path}: {len(network.layers)} layers where {layout.backbone} has {len(layers)}")
    for theirs, ours in zip(network.layers, layers, strict=True):
        _check_alike(theirs, ours, str(path))
        rows = _row_order(ours, classes)
        mapping.move(names_of[theirs.weights], f"{ours.conv}.weight", _filters(theirs, rows))
        _move_bias(mapping, names_of[theirs.bias] if theirs.bias >= 0 else None, ours, rows, config.layers.norm_eps)
    imported = calibrate_restored_norms(mapping.complete(config), options.pictures)
    return replace(imported, notes=classes.notes + anchors.notes(imported.checkpoint, options.pictures))


def _classes(
    path: Path,
    rows: int,
    num_classes: int | None,
    score_function: ScoreFunction,
    options: ImportOptions,
) -> ClassRows:
    """Names of the classifier's rows; the post-processing says by its ``num_classes`` if one of them is background."""
    background = num_classes is None or num_classes != rows or score_function == "softmax"
    names = options.class_names or packed_labels(path)
    num_logits = rows if background else rows + 1
    return name_rows(num_logits, names, score_function, str(path), beside=path, background=background)


def _move_bias(mapping: WeightMapping, theirs: str | None, ours: ConvLayer, rows: Convert, eps: float) -> None:
    """Into the convolution's own bias, or into the norm behind it, which then only adds it."""
    target = f"{ours.norm or ours.conv}.bias"
    empty = torch.zeros(ours.shape[0])
    if theirs is None:
        mapping.make(target, empty, "the layer has none in the file")
    else:
        mapping.move(theirs, target, rows)
    if ours.norm is not None:
        for entry, value in identity_norm(empty, eps).items():
            if entry != "bias":
                mapping.make(f"{ours.norm}.{entry}", value, "was folded into the convolution, restored")


def _row_order(ours: ConvLayer, classes: ClassRows) -> Convert:
    """Of a predictor's last layer, whose rows stand in TensorFlow's order; other layers stay as they are."""
    if ours.norm is not None:
        return lambda tensor: tensor
    if ".regression." in ours.conv:
        return box_rows
    return classes.select


def _filters(theirs: Convolution, rows: Convert) -> Convert:
    """OHWI, or 1HWC of a depthwise convolution -> ours."""
    order = (3, 0, 1, 2) if theirs.depthwise else (0, 3, 1, 2)
    return lambda tensor: rows(tensor.permute(order))


def _check_alike(theirs: Convolution, ours: ConvLayer, path: str) -> None:
    if _describe(theirs) != _describe(ours):
        raise CheckpointError(f"{path}: {theirs.name} is {_describe(theirs)}, expected {_describe(ours)}")


def _describe(layer: Convolution | ConvLayer) -> str:
    kind = "a depthwise convolution" if layer.depthwise else "a convolution"
    then = "with ReLU6" if layer.activated else "without activation"
    span = f" and a sum over {layer.residual_span} layers" if layer.residual_span else ""
    return f"{kind} of stride {layer.stride} {then}{span}"


def _unique_names(graph: TfliteGraph) -> list[str]:
    """The tensors' names, without what a converter has merged into them; numbered where several are the same."""
    short = [tensor.name.split(";")[0] for tensor in graph.tensors]
    count = Counter(short)
    return [name if count[name] == 1 else f"{name} #{number}" for number, name in enumerate(short)]


def _read_tensors(graph: TfliteGraph, network: SsdNetwork, names: list[str]) -> dict[str, Tensor]:
    """Weights and biases of all convolutions; some share one."""
    numbers = {number for layer in network.layers for number in (layer.weights, layer.bias) if number >= 0}
    wanted = sorted(numbers)
    return {names[i]: torch.from_numpy(values) for i, values in zip(wanted, graph.read(wanted), strict=True)}


def _layout(graph: TfliteGraph, network: SsdNetwork) -> Layout:
    """What the shapes of the layers say."""
    trunk = [_shape(graph, layer) for layer in network.trunk]
    linear = len(trunk) > 2 and not network.trunk[2].activated
    backbone = "mobilenet_v2" if linear else "mobilenet_v1"
    length = len(backbone_scopes(backbone))
    levels = len(network.taps)
    extra = max(levels - 2, 0)
    separable = extra > 0 and len(trunk) - length == 3 * extra
    first = network.heads[CLASSES][0]
    boxes = [_shape(graph, head[-1])[0] for head in network.heads[BOXES]]
    rows = [_shape(graph, head[-1])[0] for head in network.heads[CLASSES]]
    anchors_per_cell, num_logits = count_predictions(boxes, rows, graph.path)
    step = 3 if separable else 2
    return Layout(
        backbone,
        tuple(trunk[:length]),
        tuple(shape[0] for shape in trunk[length + step - 1 :: step]),
        "separable" if separable else "plain",
        "separable" if len(first) > 1 else "pointwise" if _shape(graph, first[0])[2] == 1 else "plain",
        anchors_per_cell,
        num_logits,
    )


def _shape(graph: TfliteGraph, layer: Convolution) -> tuple[int, ...]:
    """Of a convolution's filters, as ours."""
    shape = graph.tensors[layer.weights].shape
    if len(shape) != 4 or min(shape) < 1:
        raise CheckpointError(f"{graph.path}: the filters of {layer.name} are {list(shape)}, expected four dimensions")
    return (shape[3], shape[0], *shape[1:3]) if layer.depthwise else (shape[0], shape[3], *shape[1:3])


def _check_taps(graph: TfliteGraph, network: SsdNetwork, layout: Layout) -> None:
    expected = trunk_taps(layout)
    if network.taps != expected:
        raise CheckpointError(
            f"{graph.path}: read as {layout.backbone}, but it predicts from behind layers {list(network.taps)}, "
            f"expected {list(expected)}"
        )


def _image_size(graph: TfliteGraph) -> tuple[int, int]:
    if len(graph.inputs) != 1:
        raise CheckpointError(f"{graph.path}: expected one input, got {len(graph.inputs)}")
    tensor = graph.tensors[graph.inputs[0]]
    if len(tensor.shape) != 4 or tensor.shape[3] != 3 or tensor.dtype != np.float32:
        raise CheckpointError(
            f"{graph.path}: expected a float32 input [1, height, width, 3], got {list(tensor.shape)}"
            + ("" if tensor.dtype == np.float32 else " of another type; is it a quantised model?")
        )
    return tensor.shape[1], tensor.shape[2]
