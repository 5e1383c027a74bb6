"""What comes behind class logits and box deltas in a LiteRT file: scores, boxes, or finished detections."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ssdlite.export.litert.convert import NONE, RELU
from ssdlite.export.litert.writer import Array, ModelWriter
from ssdlite.runtime.contract import AnchorSpec, PostprocessSpec

POSTPROCESS = b"TFLite_Detection_PostProcess"
SMALLEST_SIDE = 1e-9  # of a box, as a fraction: without a side there is no logarithm


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


def put_rows_first(writer: ModelWriter, source: int, name: str) -> int:
    """[1, A, 4] boxes x0, y0, x1, y1 or deltas dx, dy, dw, dh -> y0, x0, y1, x1 or dy, dx, dh, dw."""
    columns = [_columns(writer, source, place, place + 1, f"{name}.column_{place}") for place in (1, 0, 3, 2)]
    return writer.apply("CONCATENATION", columns, name, writer.shape(source), {"axis": 2})


def add_boxes(writer: ModelWriter, deltas: int, anchors: AnchorSpec, name: str) -> int:
    """deltas [1, A, 4] -> boxes [1, A, 4] xyxy as fractions of the input, within it: as ``anchors`` say."""
    decode = _corners_at_distances if anchors.box_code == "distances" else _corners
    corners = decode(writer, deltas, anchors, name)
    joined = writer.apply("CONCATENATION", corners, f"{name}.corners", (1, len(anchors.values), 4), {"axis": 2})
    return _combine(writer, "MINIMUM", joined, np.ones(1), name)


def _corners_at_distances(writer: ModelWriter, deltas: int, anchors: AnchorSpec, name: str) -> list[int]:
    """``DistanceCode.decode``, not below 0: low corners and high ones, [1, A, 2] each."""
    values = anchors.array
    corners = []
    for start, label, sign in ((0, "low", -1), (2, "high", 1)):
        distances = _columns(writer, deltas, start, start + 2, f"{name}.{label}_distances")
        moves = _combine(writer, "MUL", distances, (sign * values[:, 2:])[None], f"{name}.{label}_moves")
        corners.append(_combine(writer, "ADD", moves, values[None, :, :2], f"{name}.{label}", activation=RELU))
    return corners


def _corners(writer: ModelWriter, deltas: int, anchors: AnchorSpec, name: str) -> list[int]:
    """``CenterSizeCode.decode``, not below 0: low corners and high ones, [1, A, 2] each."""
    values, scales = anchors.array, np.array(anchors.box_code_scales, np.float32)
    centers, sizes = values[:, :2], values[:, 2:]
    moves = _columns(writer, deltas, 0, 2, f"{name}.moves")
    offsets = _combine(writer, "MUL", moves, (sizes / scales[:2])[None], f"{name}.offsets")
    middle = _combine(writer, "ADD", offsets, centers[None], f"{name}.centers")
    growth = _combine(
        writer, "MUL", _columns(writer, deltas, 2, 4, f"{name}.changes"), 1 / scales[2:], f"{name}.growth"
    )
    limited = _combine(writer, "MINIMUM", growth, np.full(1, anchors.max_log_scale), f"{name}.limited")
    shape = writer.shape(limited)
    factors = writer.apply("EXP", [limited], f"{name}.factors", shape)
    half = _combine(writer, "MUL", factors, (sizes / 2)[None], f"{name}.half_sizes")
    return [
        writer.apply(kind, [middle, half], f"{name}.{label}", shape, {"fusedActivationFunction": RELU})
        for kind, label in (("SUB", "low"), ("ADD", "high"))
    ]


def add_detections(
    writer: ModelWriter, raw: RawOutputs, spec: PostprocessSpec, anchors: AnchorSpec, names: tuple[str, str, str, str]
) -> list[int]:
    """``TFLite_Detection_PostProcess``: -> boxes [1, D, 4] yxyx as fractions, labels [1, D], scores [1, D], count [1],
    all float32, of these names.

    The operator decodes boxes itself, but neither limits their sizes nor clips them to the picture, so it would compare
    other boxes than we do. It is given finished ones, as deltas from anchors of the whole picture at its corner. Its
    suppression is ours then, class by class, but that all scores above the threshold enter it: there is no limit to the
    candidates of a class.
    """
    from flatbuffers import flexbuffers

    boxes = put_rows_first(writer, add_boxes(writer, raw.deltas, anchors, "all_boxes"), "all_boxes.rows_first")
    count, limit = len(anchors.values), spec.max_detections
    builder = flexbuffers.Builder()
    with builder.Map():
        builder.Int("max_detections", limit)
        builder.Int("max_classes_per_detection", 1)  # of the quick suppression, which regards all classes as one
        builder.Int("detections_per_class", limit)
        builder.Int("num_classes", writer.shape(raw.logits)[2] - 1)
        builder.Bool("use_regular_nms", True)
        builder.Float("nms_score_threshold", spec.score_threshold)
        builder.Float("nms_iou_threshold", spec.nms_threshold)
        for scale in ("y_scale", "x_scale", "h_scale", "w_scale"):
            builder.Float(scale, 1.0)
    shapes = ((1, limit, 4), (1, limit), (1, limit), (1,))
    outputs = [writer.tensor(name, shape) for name, shape in zip(names, shapes, strict=True)]
    picture = writer.constant("anchors", np.tile(np.array([0, 0, 1, 1], np.float32), (count, 1)))
    inputs = [_as_deltas(writer, boxes), _all_scores(writer, raw.logits, spec.score_function), picture]
    writer.operator("CUSTOM", inputs, outputs, custom=(POSTPROCESS, bytes(builder.Finish())))
    return outputs


def _as_deltas(writer: ModelWriter, boxes: int) -> int:
    """Corners [1, A, 4] low, high -> centres and the logarithms of sizes."""
    low, high = (_columns(writer, boxes, start, start + 2, f"all_boxes.from_{start}") for start in (0, 2))
    shape = writer.shape(low)
    total = writer.apply("ADD", [low, high], "all_boxes.sums", shape)
    sizes = writer.apply("SUB", [high, low], "all_boxes.sizes", shape)
    positive = _combine(writer, "MAXIMUM", sizes, np.full(1, SMALLEST_SIDE), "all_boxes.positive_sizes")
    parts = [
        _combine(writer, "MUL", total, np.full(1, 0.5), "all_boxes.middles"),
        writer.apply("LOG", [positive], "all_boxes.log_sizes", shape),
    ]
    return writer.apply("CONCATENATION", parts, "all_boxes.deltas", writer.shape(boxes), {"axis": 2})


def _combine(writer: ModelWriter, kind: str, source: int, constant: Array, name: str, *, activation: int = NONE) -> int:
    other = writer.constant(f"{name}.by", constant.astype(np.float32))
    options = {"fusedActivationFunction": activation} if activation else None
    return writer.apply(kind, [source, other], name, writer.shape(source), options)


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
