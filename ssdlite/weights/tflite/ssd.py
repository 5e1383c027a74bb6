"""SSD and SSDLite MobileNets from TensorFlow Lite files, float32 or float16, as detectors of ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ssdlite.backbones.batch_norm import identity_norm
from ssdlite.errors import CheckpointError
from ssdlite.weights.mapping import (
    ClassSlots,
    Imported,
    ImportOptions,
    Layer,
    WeightMapping,
    calibrate_restored_norms,
    detector_layers,
    name_slots,
)
from ssdlite.weights.tensorflow.ssd import Layout, backbone_scopes, box_rows, detector_config, trunk_taps
from ssdlite.weights.tflite.file import TfliteGraph, labels_hint, packed_labels, read_tflite
from ssdlite.weights.tflite.graph import BOXES, CLASSES, Convolution, Network, find_network, read_detections

SOURCE = "TensorFlow Object Detection API SSD, a TensorFlow Lite file"
FLOAT32 = 0  # TensorType of the schema

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
    score_function: Literal["sigmoid", "softmax"] = network.score_function or "sigmoid"
    classes = _classes(path, layout.slots, found.num_classes, score_function, options)
    config = detector_config(
        layout,
        image_size=image_size,
        classes=classes,
        score_function=score_function,
        path=str(path),
        anchors=found.anchors,
        changes=found.changes,
    )
    _check_taps(graph, network, layout)

    names_of = _unique_names(graph)
    mapping = WeightMapping(_read_tensors(graph, network, names_of), str(path), SOURCE)
    layers = detector_layers(config)
    if len(network.trunk) != len(layers.trunk):
        raise CheckpointError(f"{path}: {len(network.trunk)} layers where {layout.backbone} has {len(layers.trunk)}")
    pairs = [*zip(network.trunk, network.reaches, layers.trunk, strict=True)]
    pairs += _head_pairs(network.heads[BOXES], layers.boxes) + _head_pairs(network.heads[CLASSES], layers.classes)
    for theirs, reach, ours in pairs:
        _check_alike(theirs, reach, ours, str(path))
        rows = _row_order(ours, classes)
        mapping.move(names_of[theirs.weights], f"{ours.conv}.weight", _filters(theirs, rows))
        _move_bias(mapping, names_of[theirs.bias] if theirs.bias >= 0 else None, ours, rows, config.layers.norm_eps)
    return calibrate_restored_norms(mapping.close(config), options)


def _classes(
    path: Path,
    rows: int,
    num_classes: int | None,
    score_function: Literal["sigmoid", "softmax"],
    options: ImportOptions,
) -> ClassSlots:
    """Names of the classifier's rows; the post-processing says by its ``num_classes`` if one of them is background."""
    background = num_classes is None or num_classes != rows or score_function == "softmax"
    names = options.class_names or packed_labels(path)
    classes = name_slots(rows if background else rows + 1, names, score_function, str(path), labels_hint(path))
    return replace(classes, background=background)


def _move_bias(mapping: WeightMapping, theirs: str | None, ours: Layer, rows: Convert, eps: float) -> None:
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


def _head_pairs(
    theirs: tuple[tuple[Convolution, ...], ...], ours: tuple[tuple[Layer, ...], ...]
) -> list[tuple[Convolution, int, Layer]]:
    return [
        (convolution, 0, layer)
        for own, predictor in zip(theirs, ours, strict=True)
        for convolution, layer in zip(own, predictor, strict=True)
    ]


def _row_order(ours: Layer, classes: ClassSlots) -> Convert:
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


def _check_alike(theirs: Convolution, reach: int, ours: Layer, path: str) -> None:
    found = (theirs.depthwise, theirs.stride, theirs.activated, reach)
    expected = (ours.depthwise, ours.stride, ours.activated, ours.reach)
    if found != expected:
        raise CheckpointError(f"{path}: {theirs.name} is {_describe(*found)}, expected {_describe(*expected)}")


def _describe(depthwise: bool, stride: int, activated: bool, reach: int) -> str:
    kind = "a depthwise convolution" if depthwise else "a convolution"
    then = "with ReLU6" if activated else "without activation"
    return f"{kind} of stride {stride} {then}" + (f" and a sum over {reach} layers" if reach else "")


def _convolutions(network: Network) -> list[Convolution]:
    return [*network.trunk, *(layer for heads in network.heads for head in heads for layer in head)]


def _unique_names(graph: TfliteGraph) -> list[str]:
    """The tensors' names, without what a converter has merged into them; numbered where several are the same."""
    short = [tensor.name.split(";")[0] for tensor in graph.tensors]
    count = Counter(short)
    return [name if count[name] == 1 else f"{name} #{number}" for number, name in enumerate(short)]


def _read_tensors(graph: TfliteGraph, network: Network, names: list[str]) -> dict[str, Tensor]:
    """Weights and biases of all convolutions."""
    wanted = list(
        dict.fromkeys(
            number for layer in _convolutions(network) for number in (layer.weights, layer.bias) if number >= 0
        )
    )
    values = zip(wanted, graph.read(wanted), strict=True)
    return {names[number]: torch.from_numpy(tensor) for number, tensor in values}


def _layout(graph: TfliteGraph, network: Network) -> Layout:
    """What the shapes of the layers say."""
    trunk = [_shape(graph, layer) for layer in network.trunk]
    linear = len(trunk) > 2 and not network.trunk[2].activated
    backbone: Literal["mobilenet_v1", "mobilenet_v2"] = "mobilenet_v2" if linear else "mobilenet_v1"
    length = len(backbone_scopes(backbone))
    levels = len(network.taps)
    extra = max(levels - 2, 0)
    separable = extra > 0 and len(trunk) - length == 3 * extra
    first = network.heads[CLASSES][0]
    boxes = [_shape(graph, head[-1])[0] for head in network.heads[BOXES]]
    rows = [_shape(graph, head[-1])[0] for head in network.heads[CLASSES]]
    slots = rows[0] * 4 // boxes[0] if boxes[0] else 0
    if slots < 2 or any(box % 4 or box == 0 or box // 4 * slots != row for box, row in zip(boxes, rows, strict=True)):
        raise CheckpointError(
            f"{graph.path}: its predictors give {boxes} and {rows} values per cell: not 4 and one number of classes "
            f"for each anchor"
        )
    step = 3 if separable else 2
    return Layout(
        backbone,
        tuple(trunk[:length]),
        tuple(shape[0] for shape in trunk[length + step - 1 :: step]),
        "separable" if separable else "plain",
        "separable" if len(first) > 1 else "pointwise" if _shape(graph, first[0])[2] == 1 else "plain",
        tuple(box // 4 for box in boxes),
        slots,
    )


def _shape(graph: TfliteGraph, layer: Convolution) -> tuple[int, ...]:
    """Of a convolution's filters, as ours."""
    shape = graph.tensors[layer.weights].shape
    if len(shape) != 4 or min(shape) < 1:
        raise CheckpointError(f"{graph.path}: the filters of {layer.name} are {list(shape)}, expected four dimensions")
    return (shape[3], shape[0], *shape[1:3]) if layer.depthwise else (shape[0], shape[3], *shape[1:3])


def _check_taps(graph: TfliteGraph, network: Network, layout: Layout) -> None:
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
    if len(tensor.shape) != 4 or tensor.shape[3] != 3 or tensor.kind != FLOAT32:
        raise CheckpointError(
            f"{graph.path}: expected a float32 input [1, height, width, 3], got {list(tensor.shape)}"
            + ("" if tensor.kind == FLOAT32 else " of another type; is it a quantised model?")
        )
    return tensor.shape[1], tensor.shape[2]
