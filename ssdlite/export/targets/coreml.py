"""For Core ML: packages for apps on Apple's systems, where Vision knows them for detectors. Written on any system.

Core ML itself runs on Apple's systems only. The reference vectors beside a package are what the same graph answers in
ONNX Runtime, so that ``ssdlite verify`` on a Mac has something to compare with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ssdlite.errors import ExportError
from ssdlite.export.coreml.package import IMAGE, Suppression, build_package
from ssdlite.export.graphs import model_spec
from ssdlite.export.onnx import take_floats
from ssdlite.export.options import GraphOptions
from ssdlite.export.targets.job import Artifact, ExportJob
from ssdlite.nms import Groups, grouped_nms
from ssdlite.runtime.backends.base import Array, Network
from ssdlite.runtime.backends.coreml import OUTPUTS_OF_DETECTOR, to_contract
from ssdlite.runtime.backends.onnxruntime import OnnxBackend
from ssdlite.runtime.contract import ModelSpec, PostprocessSpec


def export(job: ExportJob, graphs: Sequence[GraphOptions]) -> list[Artifact]:
    """``nms``: a detector for Vision, non-maximum suppression included; ``decoded``: scores and boxes of all anchors.

    Both take the picture itself, as pixels. fp16 comes first, since the Neural Engine computes in nothing else; int8 is
    fp16 with the weights in 8 bits, not calibrated.
    """
    artifacts = []
    for options in graphs:
        job.notify(f"exporting {options.variant}, {options.precision}, for coreml")
        spec = coreml_spec(job, options)
        postprocess = job.contract([spec]).postprocess
        model = job.onnx_model(GraphOptions(variant="decoded"))
        stand_in = StandIn(OnnxBackend(model.SerializeToString(), threads=1), spec, postprocess)
        take_floats(model)
        suppression = Suppression(
            iou_threshold=postprocess.nms_threshold,
            confidence_threshold=postprocess.operating_threshold,
            class_names=job.detector.config.class_names,
        )
        package = build_package(model, spec, suppression)
        artifacts.append(Artifact(spec, package.save, stand_in=stand_in))
    return artifacts


def coreml_spec(job: ExportJob, options: GraphOptions) -> ModelSpec:
    """The contract's entry for a package. Raises ExportError for what Core ML or Vision cannot do."""
    if options.variant == "nms" and job.detector.config.input.resize == "letterbox":
        raise ExportError(
            "coreml: Vision stretches pictures (scaleFill) or pads them with black (scaleFit), and this detector was "
            "trained with letterboxes of gray: export --variant decoded and letterbox in the app, or train with "
            "--resize stretch"
        )
    spec = model_spec(job.detector, options, f"{options.variant}_{options.precision}.mlpackage")
    return replace(spec, runtime="coreml", input=replace(spec.input, name=IMAGE))


class StandIn:
    """Computes what a package should, where Core ML is not: the decoded graph, then ``pickTop`` as Apple describes it.

    Args:
        network: the decoded graph of uint8 images [1, 3, H, W].
        spec: of the package.
        postprocess: of the contract.
    """

    def __init__(self, network: Network, spec: ModelSpec, postprocess: PostprocessSpec) -> None:
        self._network = network
        self._spec = spec
        self._postprocess = postprocess

    def run(self, inputs: Array) -> dict[str, Array]:
        """Pixels [1, H, W, 3] uint8 -> the contract's outputs by name."""
        answer = self._network.run(np.ascontiguousarray(inputs.transpose(0, 3, 1, 2)))
        if self._spec.variant != "nms":
            return answer
        return to_contract(pick_top(answer["scores"][0], answer["boxes"][0], self._postprocess), self._spec)


def pick_top(scores: Array, boxes: Array, spec: PostprocessSpec) -> dict[str, Array]:
    """scores [A, K], boxes [A, 4] xyxy -> what non-maximum suppression in Core ML leaves, by its outputs' names.

    ``pickTop`` with ``perClass`` (NonMaximumSuppression.proto): an anchor has one class, that with its best score. Of
    the anchors from the score threshold on, a box falls to a better one of its class that it overlaps by more than the
    IoU threshold.
    """
    labels, best = scores.argmax(axis=1), scores.max(axis=1)
    order = np.argsort(-best, kind="stable")
    order = order[best[order] >= spec.score_threshold]
    groups = Groups(labels[order], limit=max(len(order), 1))
    left = np.sort(groups.order[grouped_nms(boxes[order][groups.order].astype(np.float64), groups, spec.nms_threshold)])
    chosen = order[left]
    confidence = np.zeros((len(chosen), scores.shape[1]), np.float32)
    confidence[np.arange(len(chosen)), labels[chosen]] = best[chosen]
    low, high = boxes[chosen, :2], boxes[chosen, 2:]
    return dict(
        zip(OUTPUTS_OF_DETECTOR, (confidence, np.concatenate([(low + high) / 2, high - low], axis=1)), strict=True)
    )
