"""Faults to plant in the graphs of the bundles with reference vectors, and what ``ssdlite verify`` says of each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.export.golden_models import DECODED, NMS, RAW

Graph = onnx.GraphProto


def gather_output(name: str, axis: int, places: list[int]) -> Callable[[Graph], None]:
    """An output with its columns in another order."""

    def change(graph: Graph) -> None:
        for node in graph.node:
            node.output[:] = ["before" if output == name else output for output in node.output]
            node.input[:] = ["before" if value == name else value for value in node.input]
        graph.initializer.append(numpy_helper.from_array(np.array(places, np.int64), "places"))
        graph.node.append(helper.make_node("Gather", ["before", "places"], [name], axis=axis))

    return change


def swap_channels(graph: Graph) -> None:
    name = graph.input[0].name
    for node in graph.node:
        node.input[:] = ["swapped" if value == name else value for value in node.input]
    graph.initializer.append(numpy_helper.from_array(np.array([2, 1, 0], np.int64), "order"))
    graph.node.insert(0, helper.make_node("Gather", [name, "order"], ["swapped"], axis=1))


def shift_mean(graph: Graph) -> None:
    """20 is added to the pixels before they are normalised, as if the mean were 20 less."""
    cast = next(node for node in graph.node if node.op_type == "Cast" and node.input[0] == graph.input[0].name)
    for node in graph.node:
        node.input[:] = ["shifted" if value == cast.output[0] else value for value in node.input]
    graph.initializer.append(numpy_helper.from_array(np.float32(20), "twenty"))
    place = list(graph.node).index(cast) + 1
    graph.node.insert(place, helper.make_node("Add", [cast.output[0], "twenty"], ["shifted"]))


def add_one_to_labels(graph: Graph) -> None:
    for node in graph.node:
        node.output[:] = ["before" if output == "labels" else output for output in node.output]
    graph.initializer.append(numpy_helper.from_array(np.int32(1), "one"))
    graph.node.append(helper.make_node("Add", ["before", "one"], ["labels"]))


def softmax_to_sigmoid(graph: Graph) -> None:
    softmax = next(node for node in graph.node if node.op_type == "Softmax")
    softmax.op_type = "Sigmoid"
    del softmax.attribute[:]


def keep_background(graph: Graph) -> None:
    """The scores with background, column 0, one column more."""
    softmax = next(node for node in graph.node if node.op_type == "Softmax")
    for node in graph.node:
        node.output[:] = ["dropped" if output == "scores" else output for output in node.output]
    graph.node.append(helper.make_node("Identity", [softmax.output[0]], ["scores"]))
    output = next(value for value in graph.output if value.name == "scores")
    output.CopyFrom(helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 192, 4]))


def damage_weights(graph: Graph) -> None:
    """Another sign on one weight in a hundred of the first large tensor."""
    tensor = next(one for one in graph.initializer if np.prod(one.dims) > 1000)
    values = numpy_helper.to_array(tensor).copy()
    values.reshape(-1)[::100] *= -1
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


FAULTS: list[tuple[str, Callable[[Graph], None], str]] = [  # the file, the fault, the likely reason that is named
    (DECODED, swap_channels, "the network takes: channels in the order BGR instead of RGB"),
    (NMS, swap_channels, "the network takes: channels in the order BGR instead of RGB"),
    (DECODED, shift_mean, "another mean inside the network: about 20 grey levels too low"),
    (DECODED, gather_output("boxes", 2, [1, 0, 3, 2]), "boxes in the order y0, x0, y1, x1 instead of x0, y0, x1, y1"),
    (NMS, gather_output("boxes", 2, [1, 0, 3, 2]), "boxes in the order y0, x0, y1, x1 instead of x0, y0, x1, y1"),
    (RAW, gather_output("box_deltas", 2, [1, 0, 3, 2]), "box deltas in the order y, x, height, width"),
    (DECODED, gather_output("scores", 2, [2, 0, 1]), "labels off by one (+1)"),
    (RAW, gather_output("class_logits", 2, [1, 2, 3, 0]), "labels off by one (-1)"),
    (NMS, add_one_to_labels, "labels off by one (+1)"),
    (DECODED, softmax_to_sigmoid, "sigmoid instead of softmax"),
    (DECODED, keep_background, "background not removed"),
    (DECODED, damage_weights, "none of the usual mistakes: other or damaged weights"),
    (NMS, damage_weights, "none of the usual mistakes: other or damaged weights"),
]  # fmt: skip
