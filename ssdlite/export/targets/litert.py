"""For LiteRT (TensorFlow Lite): .tflite files that MediaPipe Tasks' ObjectDetector takes as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import onnx

from ssdlite.errors import ExportError
from ssdlite.export.bundle import BOX_CODE_NAMES, anchor_spec
from ssdlite.export.graphs import model_spec
from ssdlite.export.litert.convert import BodyConverter
from ssdlite.export.litert.heads import RawOutputs, add_boxes, add_detections, add_scores, put_rows_first
from ssdlite.export.litert.metadata import (
    METADATA_NAME,
    anchors_metadata,
    append_labels,
    check_for_mediapipe,
    detections_metadata,
)
from ssdlite.export.litert.writer import ModelWriter, import_schema
from ssdlite.export.options import GraphOptions
from ssdlite.export.targets.job import Artifact, ExportJob
from ssdlite.files import write_atomically
from ssdlite.runtime.contract import METADATA_KEY, AnchorSpec, BoxSpec, Contract, ModelSpec
from ssdlite.runtime.plain import to_json

LOGITS, DELTAS = "class_logits", "box_deltas"
ROWS_FIRST = BoxSpec(format="yxyx")  # as MediaPipe has boxes and their deltas
# From lower scores on the suppression inside nms files is slow: on the Open Images detector 26 ms from 0.001 on, 1 ms
# from 0.01 on, beside a network of 17 (docs/performance.md).
LEAST_QUICK_THRESHOLD = 0.01


def export(job: ExportJob, graphs: Sequence[GraphOptions]) -> list[Artifact]:
    """``nms`` has MediaPipe's four outputs, ``anchors`` its two; ``decoded`` and ``raw`` are for apps that do the rest.

    All are made from one graph, the raw one. int8 takes over the scales of our own calibration, signed, so that the
    file computes what ONNX Runtime computes. fp16 stores the weights in half the space.
    """
    import_schema()
    box_code = job.detector.head.box_code
    if type(box_code) not in BOX_CODE_NAMES:
        raise ExportError(f"LiteRT: expected a head of a known box code, got {type(box_code).__name__}")
    quantizer = job.quantizer("int8")
    artifacts = []
    for options in graphs:
        job.notify(f"exporting {options.variant}, {options.precision}, for litert")
        spec = litert_spec(job, options)
        if spec.score_threshold is not None:
            job.notify(
                f"  scores above {spec.score_threshold:g} alone: from lower ones on the suppression in the file "
                "takes longer than the network; --score-threshold sets another"
            )
        input_type = "uint8" if options.input_type == "int8" else options.input_type
        raw = replace(options, variant="raw", layout="NCHW", precision="fp32", input_type=input_type)
        model = job.onnx_model(raw)
        if options.precision == "int8":
            model, facts = quantizer.quantize(model, raw)
            spec = replace(spec, quantization=facts)
        artifacts.append(Artifact(spec, partial(_save, model, anchor_spec(job.detector))))
    return artifacts


def litert_spec(job: ExportJob, options: GraphOptions) -> ModelSpec:
    """The contract's entry of one file. Raises ExportError for what LiteRT, or MediaPipe, cannot do."""
    spec = model_spec(job.detector, options, f"{options.variant}_{options.precision}.tflite")
    spec = replace(spec, runtime="litert")
    if options.variant in ("nms", "anchors"):
        outputs = tuple(replace(one, type="float32") for one in spec.outputs)  # also labels and count
        spec = replace(spec, boxes=ROWS_FIRST, outputs=outputs)
        check_for_mediapipe(job.contract([spec]), spec.input)
    asked, own = job.options.score_threshold, job.detector.config.postprocess.score_threshold
    quick = min(LEAST_QUICK_THRESHOLD, job.contract([spec]).postprocess.operating_threshold)  # what is shown stays in
    if options.variant == "nms" and asked is None and own < quick:
        spec = replace(spec, score_threshold=quick)
    return spec


def build_litert(model: onnx.ModelProto, contract: Contract, anchors: AnchorSpec) -> bytes:
    """The file of the contract's one model, from the ``raw`` graph in float32 or QDQ int8, planes, batch 1."""
    (spec,) = contract.models
    writer = ModelWriter()
    converter = BodyConverter(
        writer, model, half_weights=spec.precision == "fp16", signed_input=spec.input.type == "int8"
    )
    image = converter.convert()
    raw = RawOutputs(converter.floats[LOGITS], converter.floats[DELTAS])
    outputs = _add_head(writer, spec, contract, raw, anchors)
    writer.metadata(METADATA_KEY, to_json(contract).encode())
    threshold = contract.postprocess.operating_threshold
    if spec.variant == "nms":
        writer.metadata(METADATA_NAME, detections_metadata(contract, threshold))
    elif spec.variant == "anchors":
        writer.metadata(METADATA_NAME, anchors_metadata(contract, anchors, threshold))
    return append_labels(writer.finish([image], outputs, contract.name), contract.class_names)


def _add_head(
    writer: ModelWriter, spec: ModelSpec, contract: Contract, raw: RawOutputs, anchors: AnchorSpec
) -> list[int]:
    """What comes behind the body. -> the outputs, in the order in which the file has them."""
    score_function = contract.postprocess.score_function
    if spec.variant == "raw":
        return list(raw)
    if spec.variant == "nms":
        return add_detections(
            writer, raw, contract.postprocess_of(spec), anchors, ("boxes", "labels", "scores", "count")
        )
    scores = add_scores(writer, raw.logits, score_function, "scores")
    if spec.variant == "anchors":
        writer.rename(raw.deltas, f"{DELTAS}.columns_first")
        return [put_rows_first(writer, raw.deltas, DELTAS), scores]
    return [scores, add_boxes(writer, raw.deltas, anchors, "boxes")]


def _save(model: onnx.ModelProto, anchors: AnchorSpec, folder: Path, contract: Contract) -> None:
    content = build_litert(model, contract, anchors)
    write_atomically(folder / contract.models[0].file, lambda file: file.write(content))
