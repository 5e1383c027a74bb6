"""The structure of an SSD in a TensorFlow Lite graph, found by following the data from its outputs to its input.

Names are not looked at: converters change them, and constants of equal value share one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ssdlite.anchors import AnchorConfig
from ssdlite.config import ScoreFunction
from ssdlite.errors import CheckpointError, ConfigError
from ssdlite.weights.raw_tensors import DAMAGE
from ssdlite.weights.tensorflow.ssd import LEAST_SCORE
from ssdlite.weights.tflite.file import Operator, TfliteGraph

RELU6, LINEAR, SAME = 3, 0, 0  # ActivationFunctionType and Padding of the schema
RESHAPING = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS")
SCORING: dict[str, ScoreFunction] = {"LOGISTIC": "sigmoid", "SOFTMAX": "softmax"}
DETECTIONS = "TFLite_Detection_PostProcess"
BOXES, CLASSES = 0, 1


@dataclass(frozen=True)
class Convolution:
    """A convolution with what follows it. Numbers are of tensors; ``bias`` is -1 where there is none.

    ``residual`` is the number of the tensor that is added to what it gives, -1 for none; ``residual_span`` counts the
    layers between the two, itself included.
    """

    name: str
    weights: int
    bias: int
    source: int
    depthwise: bool
    stride: int
    activated: bool
    residual: int = -1
    residual_span: int = 0


@dataclass(frozen=True)
class SsdNetwork:
    """An SSD: convolutions from the input to the coarsest map, in order, and what predicts on the maps.

    Attributes:
        taps: for each map, finest first, how many convolutions of the trunk lead to it.
        heads: for boxes and for classes, the predictor on each map: one convolution, or a depthwise one and one more.
        score_function: what the graph applies to the classes; None where it leaves that to others.
        detections: the operator that the outputs go through, where the graph has it.
        anchors: the stored tensor that it takes them from.
    """

    trunk: tuple[Convolution, ...]
    taps: tuple[int, ...]
    heads: tuple[tuple[tuple[Convolution, ...], ...], tuple[tuple[Convolution, ...], ...]]
    score_function: ScoreFunction | None
    detections: Operator | None
    anchors: int | None

    @property
    def layers(self) -> list[Convolution]:
        """All of them: the trunk, what predicts boxes, what predicts classes."""
        return [*self.trunk, *(layer for heads in self.heads for head in heads for layer in head)]


@dataclass
class _GraphWalk:
    """From outputs to the input; it comes to an end, as every operator uses what stands before it in the file."""

    graph: TfliteGraph
    used: set[int] = field(default_factory=set)
    score_function: ScoreFunction | None = None

    def __post_init__(self) -> None:
        self.producers = {
            tensor: number for number, operator in enumerate(self.graph.operators) for tensor in operator.outputs
        }

    def fail(self, message: str) -> CheckpointError:
        return CheckpointError(f"{self.graph.path}: not an SSD of MobileNets as it is known here: {message}")

    def name(self, tensor: int) -> str:
        return self.graph.tensors[tensor].name.split(";")[0]

    def producer(self, tensor: int) -> Operator:
        if tensor not in self.producers:
            raise self.fail(f"{self.name(tensor) if tensor >= 0 else 'an input'} is not computed by a layer")
        self.used.add(self.producers[tensor])
        return self.graph.operators[self.producers[tensor]]

    def predictors(self, tensor: int) -> list[int]:
        """The tensors that ``tensor`` puts together, in order, in front of what only changes their shape."""
        operator = self.producer(tensor)
        while operator.name in SCORING or operator.name in RESHAPING:
            if operator.name == "SOFTMAX" and not operator.options.get("plain"):
                raise self.fail("its softmax has a beta other than 1")
            self.score_function = SCORING.get(operator.name, self.score_function)
            tensor = operator.inputs[0]
            operator = self.producer(tensor)
        parts = operator.inputs if operator.name == "CONCATENATION" else (tensor,)
        return [self._before_reshaping(part) for part in parts]

    def _before_reshaping(self, tensor: int) -> int:
        while tensor in self.producers and self.graph.operators[self.producers[tensor]].name in RESHAPING:
            tensor = self.producer(tensor).inputs[0]
        return tensor

    def convolution(self, tensor: int) -> Convolution:
        """The convolution that gives ``tensor``, with the activation behind it and the sum it goes into."""
        operator, residual, activated = self.producer(tensor), -1, False
        name = self.name(tensor)
        if operator.name == "RELU6":
            activated = True
            operator = self.producer(operator.inputs[0])
        if operator.name == "ADD":
            if activated or operator.options.get("activation") != LINEAR:
                raise self.fail(f"{name} has an activation behind a sum")
            tensor, residual = self._split_sum(operator)
            operator = self.producer(tensor)
        options = operator.options
        if operator.name not in ("CONV_2D", "DEPTHWISE_CONV_2D") or not options or len(operator.inputs) < 2:
            raise self.fail(f"{name} comes from {operator.name}, expected a convolution")
        if options["activation"] not in (RELU6, LINEAR):
            raise self.fail(f"the activation of {name} is not ReLU6")
        if options["padding"] != SAME or not options["square"] or options["dilation"] != 1:
            raise self.fail(f"{name} is not padded as SAME, is dilated, or has unequal strides")
        return Convolution(
            name,
            self.constant(operator.inputs[1]),
            self.constant(operator.inputs[2]) if len(operator.inputs) > 2 and operator.inputs[2] >= 0 else -1,
            operator.inputs[0],
            operator.name == "DEPTHWISE_CONV_2D",
            options["stride"],
            activated or options["activation"] == RELU6,
            residual,
        )

    def _split_sum(self, operator: Operator) -> tuple[int, int]:
        """(what a linear convolution gives, what is added to it): that which comes later in the file, and the other."""
        if len(operator.inputs) != 2:
            raise self.fail(f"a sum of {len(operator.inputs)} tensors")
        first, second = sorted(operator.inputs, key=lambda tensor: self.producers.get(tensor, -1))
        return second, first

    def constant(self, tensor: int) -> int:
        """The stored tensor that ``tensor`` is, or is widened from."""
        if tensor < 0:
            raise self.fail("a layer has no weights")
        if tensor in self.producers:
            operator = self.producer(tensor)
            if operator.name != "DEQUANTIZE":
                raise self.fail(f"{self.name(tensor)} comes from {operator.name}, expected weights")
            return operator.inputs[0]
        return tensor


def find_network(graph: TfliteGraph) -> SsdNetwork:
    """The SSD in ``graph``.

    Raises:
        CheckpointError: it is none, or has more in it than that; names the place.
    """
    walk = _GraphWalk(graph)
    detections, outputs = _raw_outputs(walk)
    predictors = [walk.predictors(tensor) for tensor in outputs]
    if len(predictors[BOXES]) != len(predictors[CLASSES]):
        raise walk.fail(f"{len(predictors[BOXES])} box predictors, but {len(predictors[CLASSES])} of classes")
    boxes, box_maps = _heads(walk, predictors[BOXES])
    classes, class_maps = _heads(walk, predictors[CLASSES])
    if box_maps != class_maps:
        raise walk.fail("boxes and classes are not predicted from the same maps")
    trunk, taps = _trunk(walk, box_maps)
    anchors = walk.constant(detections.inputs[2]) if detections else None
    unused = [operator.name for number, operator in enumerate(graph.operators) if number not in walk.used]
    if any(name != "DEQUANTIZE" for name in unused):
        raise walk.fail(f"there are operators that are none of it: {', '.join(sorted(set(unused)))}")
    return SsdNetwork(trunk, taps, (boxes, classes), walk.score_function, detections, anchors)


def _raw_outputs(walk: _GraphWalk) -> tuple[Operator | None, tuple[int, int]]:
    """The tensors of box encodings and of classes."""
    graph = walk.graph
    for number, operator in enumerate(graph.operators):
        if operator.name == DETECTIONS:
            if len(operator.inputs) != 3:
                raise walk.fail(f"{DETECTIONS} has {len(operator.inputs)} inputs, expected boxes, scores and anchors")
            walk.used.add(number)
            return operator, (operator.inputs[0], operator.inputs[1])
    if len(graph.outputs) != 2:
        raise walk.fail(f"expected two outputs, box encodings and class predictions, got {len(graph.outputs)}")
    first, second = graph.outputs
    swapped = graph.tensors[first].shape[-1:] != (4,) or "class" in walk.name(first).lower()
    return None, (second, first) if swapped else (first, second)


def _heads(walk: _GraphWalk, tensors: list[int]) -> tuple[tuple[tuple[Convolution, ...], ...], list[int]]:
    """For each level its predictor, and the map that it reads."""
    heads, maps = [], []
    for tensor in tensors:
        last = walk.convolution(tensor)
        layers: tuple[Convolution, ...] = (last,)
        producer = walk.producers.get(last.source)
        if producer is not None and walk.graph.operators[producer].name == "DEPTHWISE_CONV_2D":
            depthwise = walk.convolution(last.source)
            if depthwise.stride == 1:  # with another stride it is a layer of the trunk
                layers = (depthwise, last)
        heads.append(layers)
        maps.append(layers[0].source)
    return tuple(heads), maps


def _trunk(walk: _GraphWalk, maps: list[int]) -> tuple[tuple[Convolution, ...], tuple[int, ...]]:
    """From the coarsest map back to the input -> layers, and how many of them lead to each map."""
    source = walk.graph.inputs[0]
    layers: list[Convolution] = []
    places = {}  # tensor: how many layers stand behind it
    tensor = maps[-1]
    while tensor != source:
        places[tensor] = len(layers)
        layers.append(walk.convolution(tensor))
        tensor = layers[-1].source
    places[tensor] = len(layers)
    for tensor in maps:
        if tensor not in places:
            raise walk.fail(f"the map {walk.name(tensor)} is not on the way from the input to the last")
    for number, layer in enumerate(layers):
        if layer.residual >= 0:
            if layer.residual not in places:
                raise walk.fail(f"{layer.name} adds something that is no layer before it")
            layers[number] = replace(layer, residual_span=places[layer.residual] - number)
    taps = tuple(len(layers) - places[tensor] for tensor in maps)
    return tuple(reversed(layers)), taps


# --- What ``TFLite_Detection_PostProcess`` says of a detector: its anchors, the scales of its box code, its thresholds.

TOLERANCE = 2e-3  # of the image, between an anchor and its place on the grid: anchors may be stored as float16
MAX_OPTION_BYTES = 4096
DETECTION_OPTIONS = (
    "x_scale",
    "y_scale",
    "w_scale",
    "h_scale",
    "nms_score_threshold",
    "nms_iou_threshold",
    "num_classes",
)


@dataclass(frozen=True)
class DetectionFacts:
    """``anchors`` where the file holds them; ``changes`` to our configuration; ``num_classes`` without background."""

    anchors: AnchorConfig | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    num_classes: int | None = None


def read_detections(
    graph: TfliteGraph, network: SsdNetwork, image_size: tuple[int, int], anchors_per_cell: Sequence[int]
) -> DetectionFacts:
    """The facts in the operator behind the predictions; none where there is no such operator.

    Raises:
        CheckpointError: it is damaged, or its anchors stand on no grid.
    """
    if network.detections is None or network.anchors is None:
        return DetectionFacts()
    options = _options(network.detections.custom_options, graph.path)
    changes: dict[str, Any] = {
        "box_code_scales": tuple(options.get(f"{axis}_scale", 10.0 if axis in "xy" else 5.0) for axis in "xywh"),
        "score_threshold": max(options.get("nms_score_threshold", 0.0), LEAST_SCORE),
        "nms_threshold": options.get("nms_iou_threshold", 0.6),
    }
    grids = [
        (-(-image_size[0] // stride), -(-image_size[1] // stride))
        for stride in (16 << level for level in range(len(anchors_per_cell)))
    ]
    anchors = _anchors(graph.read([network.anchors])[0], grids, anchors_per_cell, graph.path)
    return DetectionFacts(anchors, changes, int(options["num_classes"]) if "num_classes" in options else None)


def _options(content: bytes, path: str) -> dict[str, float]:
    from flatbuffers import flexbuffers

    try:
        if not 3 <= len(content) <= MAX_OPTION_BYTES:
            raise ValueError(f"{len(content)} bytes")
        values = flexbuffers.GetRoot(content).AsMap
        found = {bytes(key.AsKeyBytes).decode(): number for number, key in enumerate(values.Keys)}
        options = {name: float(values.Values[found[name]].AsFloat) for name in DETECTION_OPTIONS if name in found}
    except DAMAGE:
        raise CheckpointError(f"{path}: the options of its post-processing are damaged") from None
    if not all(math.isfinite(value) for value in options.values()):
        raise CheckpointError(f"{path}: the options of its post-processing are not finite: {options}")
    return options


def _anchors(
    boxes: npt.NDArray[np.float32], grids: list[tuple[int, int]], anchors_per_cell: Sequence[int], path: str
) -> AnchorConfig:
    """boxes [A, 4] (y, x, height, width) in fractions of the image -> the shapes on each map."""
    count = sum(rows * columns * shapes for (rows, columns), shapes in zip(grids, anchors_per_cell, strict=True))
    if boxes.shape != (count, 4):
        raise CheckpointError(f"{path}: its anchors are {list(boxes.shape)}, the maps have room for [{count}, 4]")
    levels, start = [], 0
    for (rows, columns), shapes in zip(grids, anchors_per_cell, strict=True):
        end = start + rows * columns * shapes
        level = boxes[start:end].astype(np.float64).reshape(rows, columns, shapes, 4)
        start = end
        centres_y = (np.arange(rows)[:, None, None] + 0.5) / rows
        centres_x = (np.arange(columns)[None, :, None] + 0.5) / columns
        sides = np.median(level[..., 2:], axis=(0, 1))
        worst = max(
            np.abs(level[..., 0] - centres_y).max(),
            np.abs(level[..., 1] - centres_x).max(),
            np.abs(level[..., 2:] - sides).max(),
        )
        if not worst <= TOLERANCE:
            raise CheckpointError(f"{path}: its anchors do not stand on a grid of {rows} x {columns} cells")
        levels.append(tuple((float(width), float(height)) for height, width in sides))
    try:
        return AnchorConfig(tuple(levels))
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None
