"""The content of a ``.mlpackage``: an ML program, alone or with non-maximum suppression behind it, and its metadata.

The pipeline is laid out as Apple's own exporter of detectors does it (Turi Create, ``export_object_detector_model`` in
neural_net_models_exporter.cpp), so that Vision knows it for a detector: ``VNCoreMLRequest`` answers with
``VNRecognizedObjectObservation``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ssdlite.export.coreml.program import build_program, coremltools_tools
from ssdlite.files import write_atomically
from ssdlite.runtime.contract import METADATA_KEY, Contract, ModelSpec
from ssdlite.runtime.mlpackage import MANIFEST_FILE, SPECIFICATION_FILE, WEIGHTS_FILE, manifest_text
from ssdlite.runtime.plain import to_json

IMAGE, IOU_THRESHOLD, CONFIDENCE_THRESHOLD = "image", "iouThreshold", "confidenceThreshold"
CONFIDENCE, COORDINATES = "confidence", "coordinates"
RAW = {CONFIDENCE: "raw_confidence", COORDINATES: "raw_coordinates"}  # between program and suppression
BOX_DECODER = "decode."  # how the names of its operators begin, which are computed in float32
BOXES = (BOX_DECODER, "boxes", RAW[COORDINATES])
LARGE_WEIGHT = 512  # values; smaller weights stay floats in int8, as they save nothing


@dataclass(frozen=True)
class Package:
    """A package before it is a folder: its specification, a ``Model`` of coremltools' protobuf, and its weights."""

    specification: Any
    weights: bytes

    def save(self, folder: Path, contract: Contract) -> None:
        """Write it into ``folder``, the ``contract`` of it alone inside; the same content gives the same bytes."""
        (spec,) = contract.models
        describe(self.specification, contract)
        specification: bytes = self.specification.SerializeToString(deterministic=True)
        parts = {WEIGHTS_FILE: self.weights, SPECIFICATION_FILE: specification, MANIFEST_FILE: manifest_text().encode()}
        for name, content in parts.items():
            write_atomically(folder / spec.file / name, partial(_write, content))


def _write(content: bytes, file: Any) -> None:
    file.write(content)


@dataclass(frozen=True, kw_only=True)
class Suppression:
    """Of the stage behind the program: what it takes where the app says nothing."""

    iou_threshold: float
    confidence_threshold: float
    class_names: tuple[str, ...]


def build_package(model: onnx.ModelProto, spec: ModelSpec, suppression: Suppression) -> Package:
    """``model`` is the decoded graph of float32 images [1, 3, H, W] in 0..255; ``spec`` says how far the package goes.

    Raises:
        ExportError: coremltools is missing or fails, or the graph has an operator that is not translated.
    """
    with coremltools_tools() as tools:
        program = _convert(tools, model, spec)
        weights = Path(program.weights_dir, "weight.bin").read_bytes()
        specification = program.get_spec()
        specification.description.metadata.Clear()  # of coremltools: the date, which would make every export differ
        if spec.variant == "nms":
            specification = _pipeline(tools, specification, suppression)
    return Package(specification, weights)


def _convert(tools: Any, model: onnx.ModelProto, spec: ModelSpec) -> Any:
    """The program as coremltools' ``MLModel``.

    fp16 is what the Neural Engine computes in; boxes are decoded in float32 nevertheless, as in our ONNX files: rounded
    to 11 bits, anchors alone would be off by a tenth of a pixel in 320. int8 is fp16 with the convolutions' weights in
    8 bits, scaled per channel, which iOS 16 is the first to read.
    """
    target = tools.target.iOS16 if spec.precision == "int8" else tools.target.iOS15
    shape = (1, 3, spec.input.height, spec.input.width)
    finish = _finish_detector if spec.variant == "nms" else _finish_decoded
    precision = tools.precision.FLOAT32
    if spec.precision != "fp32":
        precision = tools.transform.FP16ComputePrecision(lambda op: not op.name.startswith(BOXES))
    converted = tools.convert(
        build_program(model, finish, target),
        source="milinternal",
        convert_to="mlprogram",
        inputs=[tools.ImageType(name=IMAGE, shape=shape, color_layout=tools.colorlayout.RGB)],
        minimum_deployment_target=target,
        compute_precision=precision,
        skip_model_load=True,
    )
    if spec.precision == "int8":
        quantizer = tools.optimize.coreml.OpLinearQuantizerConfig(weight_threshold=LARGE_WEIGHT)
        config = tools.optimize.coreml.OptimizationConfig(op_type_configs={"conv": quantizer})
        converted = tools.optimize.coreml.linear_quantize_weights(converted, config)
    return converted


def _finish_decoded(mb: Any, outputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: mb.identity(x=value, name=name) for name, value in outputs.items()}


def _finish_detector(mb: Any, outputs: Mapping[str, Any]) -> dict[str, Any]:
    """scores [1, A, K] and boxes [1, A, 4] xyxy -> confidence [A, K], coordinates [A, 4] centre x, y, width, height.

    Of each anchor only the best class keeps its score: whether a reader adds an anchor's scores up, as Vision does for
    an observation's confidence (NonMaximumSuppression.proto), or takes the largest, it finds the score that we mean.
    """
    scores = mb.squeeze(x=outputs["scores"], axes=[0])
    boxes = mb.squeeze(x=outputs["boxes"], axes=[0], name=f"{BOX_DECODER}squeeze")
    if scores.shape[1] > 1:
        best = mb.reduce_max(x=scores, axes=[1], keep_dims=True)
        scores = mb.select(cond=mb.greater_equal(x=scores, y=best), a=scores, b=np.float32(0))
    low, high = (
        mb.slice_by_index(
            x=boxes, begin=[0, first], end=[boxes.shape[0], first + 2], name=f"{BOX_DECODER}corner_{first}"
        )
        for first in (0, 2)
    )
    sizes = mb.sub(x=high, y=low, name=f"{BOX_DECODER}size")
    both = mb.add(x=low, y=high, name=f"{BOX_DECODER}corners")
    centers = mb.mul(x=both, y=np.float32(0.5), name=f"{BOX_DECODER}center")
    return {
        RAW[CONFIDENCE]: mb.identity(x=scores, name=RAW[CONFIDENCE]),
        RAW[COORDINATES]: mb.concat(values=[centers, sizes], axis=1, name=RAW[COORDINATES]),
    }


def _pipeline(tools: Any, program: Any, suppression: Suppression) -> Any:
    """The program, and non-maximum suppression of what it answers."""
    version = program.specificationVersion
    model = tools.proto.Model_pb2.Model(specificationVersion=version)
    stages = model.pipeline
    stages.models.add().CopyFrom(program)
    stage = stages.models.add(specificationVersion=version)
    stages.names.extend(["program", "nonMaximumSuppression"])

    nms = stage.nonMaximumSuppression
    nms.pickTop.perClass = True
    nms.iouThreshold, nms.confidenceThreshold = suppression.iou_threshold, suppression.confidence_threshold
    nms.stringClassLabels.vector.extend(suppression.class_names)
    nms.iouThresholdInputFeatureName, nms.confidenceThresholdInputFeatureName = IOU_THRESHOLD, CONFIDENCE_THRESHOLD
    nms.confidenceInputFeatureName, nms.coordinatesInputFeatureName = RAW[CONFIDENCE], RAW[COORDINATES]
    nms.confidenceOutputFeatureName, nms.coordinatesOutputFeatureName = CONFIDENCE, COORDINATES

    by_name = {feature.name: feature for feature in program.description.output}
    stage.description.input.extend(by_name[name] for name in RAW.values())
    model.description.input.extend(program.description.input)
    for name in (IOU_THRESHOLD, CONFIDENCE_THRESHOLD):
        stage.description.input.add(name=name).type.doubleType.SetInParent()
        feature = model.description.input.add(name=name)
        feature.type.doubleType.SetInParent()
        feature.type.isOptional = True
    for name, columns in ((CONFIDENCE, len(suppression.class_names)), (COORDINATES, 4)):
        array = stage.description.output.add(name=name).type.multiArrayType
        array.dataType = tools.proto.FeatureTypes_pb2.ArrayFeatureType.FLOAT32
        array.shapeRange.sizeRanges.add(lowerBound=0, upperBound=-1)  # any number of rows
        array.shapeRange.sizeRanges.add(lowerBound=columns, upperBound=columns)
    model.description.output.extend(stage.description.output)
    return model


# --- What Xcode shows of a package, and what programs read in it.


def describe(specification: Any, contract: Contract) -> None:
    """Write texts and metadata into the specification, the ``contract`` of it alone among them."""
    (spec,) = contract.models
    description = specification.description
    names = ", ".join(contract.class_names)
    texts = {
        IMAGE: f"RGB picture of {spec.input.width} x {spec.input.height}, {_RESIZING[contract.resize.mode]}",
        CONFIDENCE: "[N, K] scores: of each object that of its class, 0 for the other classes",
        COORDINATES: "[N, 4] centre x, centre y, width, height as fractions of the picture, from its upper left",
        "scores": "[1, A, K] scores of all anchors",
        "boxes": "[1, A, 4] left, top, right, bottom of all anchors as fractions of the picture",
    }
    if spec.variant == "nms":
        nms = specification.pipeline.models[1].nonMaximumSuppression
        texts[IOU_THRESHOLD] = (
            f"overlap above which the lower-scoring of two objects goes; {nms.iouThreshold:g} if not given"
        )
        texts[CONFIDENCE_THRESHOLD] = f"least score; {nms.confidenceThreshold:g} if not given"
    for feature in (*description.input, *description.output):
        feature.shortDescription = texts[feature.name]
    metadata = description.metadata
    metadata.shortDescription = f"{contract.name}: finds {names}"
    metadata.author = "ssdlite"
    metadata.license = contract.provenance.license
    metadata.versionString = contract.provenance.checkpoint_sha256[:12]
    metadata.userDefined.clear()
    metadata.userDefined.update({METADATA_KEY: to_json(contract), "classes": names, "precision": spec.precision})
    metadata.userDefined["score_threshold"] = f"{contract.postprocess.score_threshold:g}"
    metadata.userDefined["checkpoint"] = contract.provenance.checkpoint


_RESIZING = {
    "stretch": "stretched to that size (Vision: scaleFill)",
    "letterbox": "letterboxed by the app, since Vision has no such padding",
}
