"""TensorFlow Lite Model Metadata, as MediaPipe Tasks' ObjectDetector reads it: how to feed the file and what it says.

The tables are those of metadata_schema.fbs and object_detector_metadata_schema.fbs of MediaPipe (mediapipe/tasks/
metadata): each is written here as a dict from the number of a field to its value. The labels are a file in a zip
archive that is appended to the flatbuffer.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flatbuffers
import numpy as np

from ssdlite.errors import ExportError
from ssdlite.runtime.contract import LABELS_KEY, AnchorSpec, Contract, InputSpec

METADATA_NAME = "TFLITE_METADATA"
OLDEST = (1980, 1, 1, 0, 0, 0)  # of a zip archive: the same file from the same model
METADATA_MARK, DETECTOR_MARK = b"M001", b"V001"
MODEL_PARSER, DETECTOR_PARSER = "1.2.0", "1.0.0"  # versions of MediaPipe's readers
RGB = 1  # ColorSpaceType
BOUNDARIES, RATIO = 1, 0  # BoundingBoxType, CoordinateType
LEFT_TOP_RIGHT_BOTTOM = [1, 0, 3, 2]  # where these are in ymin, xmin, ymax, xmax
FEATURE, IMAGE, BOUNDING_BOX = 1, 2, 3  # ContentProperties
NORMALIZATION, SCORE_THRESHOLDING = 1, 3  # ProcessUnitOptions
AXIS_LABELS, VALUE_LABELS = 2, 3  # AssociatedFileType
BYTE, UINT, INT, FLOAT, BOOL = "Byte", "Uint32", "Int32", "Float32", "Bool"
Table = Mapping[int, Any]


class Scalar(NamedTuple):
    """A number with the type that the schema gives it."""

    type: str
    value: Any


class NumberVector(NamedTuple):
    """A vector of numbers."""

    values: Sequence[float]
    type: type[np.generic] = np.float32


def detections_metadata(contract: Contract, score_threshold: float) -> bytes:
    """For a file with the four outputs of ``TFLite_Detection_PostProcess``."""
    labels = {0: LABELS_KEY, 1: "Names of the classes, by number", 2: Scalar(BYTE, VALUE_LABELS)}
    location = _tensor("location", BOUNDING_BOX, _boxes(), value_range=(2, 2))
    category = _tensor("category", FEATURE, {}, files=[labels])
    score = _tensor("score", FEATURE, {}, units=[_threshold(score_threshold)])
    count = _tensor("number of detections", FEATURE, {})
    group = {0: "detection_result", 1: ["location", "category", "score"]}
    outputs = {3: [location, category, score, count], 8: [group]}
    return _model(contract, outputs)


def anchors_metadata(contract: Contract, anchors: AnchorSpec, score_threshold: float) -> bytes:
    """For a file with scores and box deltas (dy, dx, dh, dw), which MediaPipe decodes by the anchors in here."""
    labels = {0: LABELS_KEY, 1: "Names of the classes, by number", 2: Scalar(BYTE, AXIS_LABELS)}
    location = _tensor("location", BOUNDING_BOX, _boxes())
    score = _tensor("score", FEATURE, {}, units=[_threshold(score_threshold)], files=[labels])
    decoding = {0: "DETECTOR_METADATA", 1: NumberVector(list(_detector_options(contract, anchors)), np.uint8)}
    return _model(contract, {3: [location, score], 9: [decoding]})


def append_labels(model: bytes, class_names: Sequence[str]) -> bytes:
    """The file with its labels: a zip archive behind it, whose offsets count from the file's own start.

    Raises:
        ExportError: a class name with a line break, which would be two.
    """
    broken = [name for name in class_names if len(name.splitlines()) > 1]
    if broken:
        raise ExportError(f"LiteRT: labels stand on a line each, so the class {broken[0]!r} cannot be written")
    file = io.BytesIO(model)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(LABELS_KEY, OLDEST), "\n".join(class_names) + "\n")
    return file.getvalue()


def check_for_mediapipe(contract: Contract, image: InputSpec) -> None:
    """Raises ExportError for what MediaPipe's ObjectDetector cannot be told."""
    if contract.resize.mode != "stretch":
        raise ExportError(
            "MediaPipe stretches pictures, and this detector expects a letterbox: export --variant decoded, or train "
            "with --resize stretch"
        )
    if contract.anchors is not None and contract.anchors.box_code != "center_size":
        raise ExportError(
            "anchors: MediaPipe decodes centres and sizes, this head predicts distances: export --variant nms"
        )
    if image.type == "int8":
        raise ExportError("MediaPipe takes uint8 or float32 pixels: use --input-type uint8, or --variant decoded")
    if len({*zip(image.mean, image.std, strict=True)}) > 1:
        raise ExportError(
            "MediaPipe normalises all channels alike, and this detector's differ: use --input-type uint8, which has "
            "the normalisation inside"
        )


def _model(contract: Contract, outputs: Table) -> bytes:
    image = contract.models[0].input
    subgraph = {2: [_image(image)], **outputs}
    table = {
        0: contract.name,
        1: "Object detector, exported by ssdlite",
        2: "1",
        3: [subgraph],
        5: contract.provenance.license,
        7: MODEL_PARSER,
    }
    return _write(table, METADATA_MARK)


def _image(spec: InputSpec) -> Table:
    content = {0: Scalar(BYTE, IMAGE), 1: {0: Scalar(BYTE, RGB)}}
    table: dict[int, Any] = {0: "image", 1: "The picture, stretched to the input", 3: content}
    low, high = spec.value_range
    if spec.type == "float32":
        normalization = {0: NumberVector(spec.mean[:1]), 1: NumberVector(spec.std[:1])}
        table[4] = [{0: Scalar(BYTE, NORMALIZATION), 1: normalization}]
        low, high = ((value - spec.mean[0]) / spec.std[0] for value in (low, high))
    table[5] = {0: NumberVector([high]), 1: NumberVector([low])}
    return table


def _tensor(
    name: str,
    kind: int,
    properties: Table,
    *,
    value_range: tuple[int, int] | None = None,
    units: Sequence[Table] = (),
    files: Sequence[Table] = (),
) -> Table:
    content: dict[int, Any] = {0: Scalar(BYTE, kind), 1: properties}
    if value_range is not None:
        content[2] = {0: Scalar(INT, value_range[0]), 1: Scalar(INT, value_range[1])}
    table: dict[int, Any] = {0: name, 3: content}
    return table | ({4: list(units)} if units else {}) | ({6: list(files)} if files else {})


def _boxes() -> Table:
    return {0: NumberVector(LEFT_TOP_RIGHT_BOTTOM, np.uint32), 1: Scalar(BYTE, BOUNDARIES), 2: Scalar(BYTE, RATIO)}


def _threshold(score: float) -> Table:
    return {0: Scalar(BYTE, SCORE_THRESHOLDING), 1: {0: Scalar(FLOAT, score)}}


def _detector_options(contract: Contract, anchors: AnchorSpec) -> bytes:
    """Of MediaPipe's own decoder: the anchors, and the box code's scales."""
    x_scale, y_scale, w_scale, h_scale = anchors.box_code_scales
    fixed = [{place: Scalar(FLOAT, value) for place, value in enumerate(one)} for one in anchors.values]
    counts = (len(contract.class_names), len(anchors.values), 4, 0, 0, 2)
    decoding = {place: Scalar(INT, value) for place, value in enumerate(counts)}
    decoding |= {6 + place: Scalar(FLOAT, value) for place, value in enumerate((x_scale, y_scale, w_scale, h_scale))}
    decoding |= {10: Scalar(BOOL, True), 11: Scalar(BOOL, False)}  # sizes are exponents; scores are scores already
    return _write({0: DETECTOR_PARSER, 1: {0: {0: fixed}}, 2: decoding}, DETECTOR_MARK)


# --- Tables as dicts into a flatbuffer.


def _write(table: Table, mark: bytes) -> bytes:
    builder = flatbuffers.Builder(1024)
    builder.Finish(_add_table(builder, table), mark)
    return bytes(builder.Output())


def _add_table(builder: flatbuffers.Builder, table: Table) -> int:
    """Fields of 0 are written as well: no default of the schema is relied on."""
    offsets = {field: _add(builder, value) for field, value in table.items() if not isinstance(value, Scalar)}
    builder.StartObject(max(table, default=-1) + 1)
    for field, value in table.items():
        if isinstance(value, Scalar):
            builder.ForceDefaults(True)
            getattr(builder, f"Prepend{value.type}Slot")(field, value.value, 0)
            builder.ForceDefaults(False)
        else:
            builder.PrependUOffsetTRelativeSlot(field, offsets[field], 0)
    return int(builder.EndObject())


def _add(builder: flatbuffers.Builder, value: Any) -> int:
    if isinstance(value, str):
        return int(builder.CreateString(value))
    if isinstance(value, NumberVector):
        if value.type is np.uint8:
            return _add_bytes(builder, value)
        return int(builder.CreateNumpyVector(np.asarray(value.values, value.type)))
    if isinstance(value, Mapping):
        return _add_table(builder, value)
    offsets = [_add(builder, one) for one in value]
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _add_bytes(builder: flatbuffers.Builder, value: NumberVector) -> int:
    """Aligned to 16, as the schema asks of a flatbuffer within a flatbuffer."""
    content = bytes(bytearray(map(int, value.values)))
    builder.StartVector(1, len(content), 16)
    builder.head = builder.head - len(content)
    builder.Bytes[builder.head : builder.head + len(content)] = content
    return int(builder.EndVector())
