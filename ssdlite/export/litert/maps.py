"""Operators that choose or move the values of a map, in LiteRT's own: enlargement, pooling, the channel shuffle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import NodeProto

from ssdlite.errors import ExportError
from ssdlite.export.litert.nodes import attributes_of, module_of
from ssdlite.export.litert.writer import ModelWriter

if TYPE_CHECKING:
    from ssdlite.export.litert.convert import BodyConverter

# ONNX's mode, places of pixels and rounding, which PyTorch has -> LiteRT's operator and options of the same values
ENLARGEMENTS = {
    (b"nearest", b"asymmetric", b"floor"): ("RESIZE_NEAREST_NEIGHBOR", {}),
    (b"linear", b"half_pixel", b"floor"): ("RESIZE_BILINEAR", {"halfPixelCenters": True}),
}
LOWEST = {"float32": np.finfo(np.float32).min, "int8": np.iinfo(np.int8).min}
SHUFFLE = [0, 2, 1, 3]  # a transposition of [B, groups, channels of each, pixels]
TURN = [0, 1, 3, 2]  # the same of [B, pixels, groups, channels of each]


def enlarge(converter: BodyConverter, node: NodeProto) -> None:
    """A Resize by constant factors."""
    attributes, factors = attributes_of(node), converter.value(node.input[2])
    kind = tuple(attributes.get(name) for name in ("mode", "coordinate_transformation_mode", "nearest_mode"))
    if kind not in ENLARGEMENTS or factors is None or factors[:2].tolist() != [1, 1]:
        raise ExportError(
            f"LiteRT: expected an enlargement to the nearest pixel or between pixels' middles, got another in "
            f"{module_of(node)}"
        )
    (source,), integer = converter.operands(node, node.input[:1])
    batch, height, width, channels = converter.writer.shape(source)
    sides = [int(height * factors[2]), int(width * factors[3])]
    result, _ = converter.result(node, (batch, *sides, channels), integer)
    size = converter.writer.constant(f"{node.name}.size", np.array(sides, np.int32))
    operator, options = ENLARGEMENTS[kind]
    if integer:
        source = converter.rescaled(source, result)
    converter.writer.operator(operator, [source, size], [result], options)


def pool_maxima(converter: BodyConverter, node: NodeProto) -> None:
    """A MaxPool; where its padding is none of LiteRT's own, the lowest number stands around the map."""
    attributes, writer = attributes_of(node), converter.writer
    (source,), integer = converter.operands(node, node.input[:1])
    kind = writer.facts[source].type
    kernel = attributes["kernel_shape"]
    filler = np.full(1, LOWEST[kind], kind)
    if attributes.get("ceil_mode") or set(attributes.get("dilations", [1])) != {1}:
        raise ExportError(f"LiteRT: expected a plain maximum pooling, got another in {module_of(node)}")
    source, padding = converter.pad(node, source, kernel, attributes, filler)
    sides = converter.sides(source, padding, kernel, attributes)
    result, _ = converter.result(node, (1, *sides, writer.shape(source)[3]), integer)
    if integer:
        source = converter.rescaled(source, result)
    strides = attributes["strides"]
    options = {"padding": padding, "strideH": strides[0], "strideW": strides[1]}
    writer.operator("MAX_POOL_2D", [source], [result], options | {"filterHeight": kernel[0], "filterWidth": kernel[1]})


def shuffle_channels(converter: BodyConverter, node: NodeProto) -> bool:
    """Whether ``node`` is the Reshape that begins a channel shuffle, which is written then.

    Planes are parted into [B, groups, channels of each, pixels], these transposed and put together again. Of pixels the
    channels are the last axis, so the same is done to [B, pixels, groups, channels of each].
    """
    transpose = converter.only_reader(node.output[0])
    last = None if transpose is None else converter.only_reader(transpose.output[0])
    if transpose is None or last is None or (transpose.op_type, last.op_type) != ("Transpose", "Reshape"):
        return False
    parted, joined = (converter.value(one.input[1]) for one in (node, last))
    if attributes_of(transpose)["perm"] != SHUFFLE or parted is None or joined is None or len(joined) != 4:
        return False
    (source,), integer = converter.operands(last, node.input[:1])
    shape = converter.writer.shape(source)
    result, _ = converter.result(last, shape, integer)
    _write_shuffle(converter.writer, converter.rescaled(source, result) if integer else source, result, int(parted[1]))
    converter.fused.update((transpose.output[0], last.output[0]))
    return True


def _write_shuffle(writer: ModelWriter, source: int, result: int, groups: int) -> None:
    """Three operators from ``source`` to ``result`` [B, H, W, C], of one type and scale."""
    facts = writer.facts[source]
    batch, height, width, channels = facts.shape
    sides = (batch, height * width, groups, channels // groups)
    parts, turned = (
        writer.tensor(f"{facts.name}.{name}", shape, facts.type, facts.quantization)
        for name, shape in (("parts", sides), ("turned", (*sides[:2], sides[3], sides[2])))
    )
    order = writer.constant(f"{facts.name}.order", np.array(TURN, np.int32))
    write_reshape(writer, source, parts)
    writer.operator("TRANSPOSE", [parts, order], [turned])
    write_reshape(writer, turned, result)


def write_reshape(writer: ModelWriter, source: int, result: int) -> None:
    """``source`` in the shape of the tensor ``result``."""
    shape = np.array(writer.shape(result), np.int32)
    table = writer.constant(f"{writer.facts[result].name}.shape", shape)
    writer.operator("RESHAPE", [source, table], [result], {"newShape": shape})
