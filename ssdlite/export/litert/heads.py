"""What comes behind class logits and box deltas in a LiteRT file: scores, boxes, or finished detections."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ssdlite.export.litert.convert import NONE, RELU, SWAPPED_BOXES
from ssdlite.export.litert.writer import Array, ModelWriter
from ssdlite.runtime.contract import AnchorSpec, PostprocessSpec

POSTPROCESS = b"TFLite_Detection_PostProcess"


class RawOutputs(NamedTuple):
    """The tensors of class logits [1, A, K + 1], background first, and box deltas [1, A, 4]."""

    logits: int
    deltas: int


def add_scores(writer: ModelWriter, logits: int, score_function: str, name: str) -> int:
    """logits [1, A, K + 1] -> scores [1, A, K] without background."""
    if score_function == "softmax":
        everything = _all_scores(writer, logits, score_function)
        return _columns(writer, everything, 1, writer.shape(logits)[2], name)
    objects = _columns(writer, logits, 1, writer.shape(logits)[2], f"{name}.logits")
    return writer.apply("LOGISTIC", [objects], name, writer.shape(objects))


def add_boxes(writer: ModelWriter, deltas: int, anchors: AnchorSpec, name: str) -> int:
    """deltas [1, A, 4] -> boxes [1, A, 4] xyxy as fractions of the input, within it: ``CenterSizeCode.decode``."""
    values, scales = anchors.array, np.array(anchors.box_code_scales, np.float32)
    centers, sizes = values[:, :2], values[:, 2:]
    shape = (1, len(values), 2)

    def step(kind: str, source: int, constant: Array, label: str, activation: int = NONE) -> int:
        other = writer.constant(f"{name}.{label}.by", constant.astype(np.float32))
        options = None if kind == "MINIMUM" else {"fusedActivationFunction": activation}
        return writer.apply(kind, [source, other], f"{name}.{label}", writer.shape(source), options)

    moves = _columns(writer, deltas, 0, 2, f"{name}.moves")
    offsets = step("MUL", moves, (sizes / scales[:2])[None], "offsets")
    middle = step("ADD", offsets, centers[None], "centers")
    growth = step("MUL", _columns(writer, deltas, 2, 4, f"{name}.size_deltas"), 1 / scales[2:], "growth")
    limited = step("MINIMUM", growth, np.full(1, anchors.max_log_scale, np.float32), "limited")
    factors = writer.apply("EXP", [limited], f"{name}.factors", shape)
    half = step("MUL", factors, (sizes / 2)[None], "half_sizes")
    corners = [
        writer.apply(kind, [middle, half], f"{name}.{label}", shape, {"fusedActivationFunction": RELU})
        for kind, label in (("SUB", "low"), ("ADD", "high"))
    ]
    joined = writer.apply("CONCATENATION", corners, f"{name}.corners", (1, len(values), 4), {"axis": 2})
    limit = writer.constant(f"{name}.limit", np.ones(1, np.float32))
    return writer.apply("MINIMUM", [joined, limit], name, (1, len(values), 4))


def add_detections(
    writer: ModelWriter, raw: RawOutputs, spec: PostprocessSpec, anchors: AnchorSpec, names: tuple[str, str, str, str]
) -> list[int]:
    """``TFLite_Detection_PostProcess``: -> boxes [1, D, 4] yxyx as fractions, labels [1, D], scores [1, D], count [1],
    all float32, of these names. The deltas come in the order dy, dx, dh, dw.

    Its non-maximum suppression is ours, class by class, but that all scores above the threshold enter it: there is no
    limit to the candidates of a class. Sizes are not limited before they are exponentiated, nor boxes to the picture.
    """
    from flatbuffers import flexbuffers

    x_scale, y_scale, w_scale, h_scale = map(float, anchors.box_code_scales)
    scores = _all_scores(writer, raw.logits, spec.score_function)
    builder = flexbuffers.Builder()
    with builder.Map():
        builder.Int("max_detections", spec.max_detections)
        builder.Int("max_classes_per_detection", 1)  # of the quick suppression, which regards all classes as one
        builder.Int("detections_per_class", spec.max_detections)
        builder.Int("num_classes", writer.shape(raw.logits)[2] - 1)
        builder.Bool("use_regular_nms", True)
        builder.Float("nms_score_threshold", spec.score_threshold)
        builder.Float("nms_iou_threshold", spec.nms_threshold)
        for axis, scale in (("y", y_scale), ("x", x_scale), ("h", h_scale), ("w", w_scale)):
            builder.Float(f"{axis}_scale", scale)
    limit = spec.max_detections
    shapes = ((1, limit, 4), (1, limit), (1, limit), (1,))
    outputs = [writer.tensor(name, shape) for name, shape in zip(names, shapes, strict=True)]
    table = writer.constant("anchors", anchors.array[:, SWAPPED_BOXES])
    options = (POSTPROCESS, bytes(builder.Finish()))
    writer.operator("CUSTOM", [raw.deltas, scores, table], outputs, custom=options)
    return outputs


def _all_scores(writer: ModelWriter, logits: int, score_function: str) -> int:
    shape = writer.shape(logits)
    if score_function == "softmax":
        return writer.apply("SOFTMAX", [logits], "all_scores", shape, {"beta": 1.0})
    return writer.apply("LOGISTIC", [logits], "all_scores", shape)


def _columns(writer: ModelWriter, source: int, start: int, end: int, name: str) -> int:
    batch, rows, _ = writer.shape(source)
    begin = writer.constant(f"{name}.begin", np.array([0, 0, start], np.int32))
    shape = (batch, rows, end - start)
    size = writer.constant(f"{name}.size", np.array(shape, np.int32))
    return writer.apply("SLICE", [source, begin, size], name, shape)
