"""Our V3-Large exported with its post-processing beside torchvision's own SSDLite export, with the same weights.

``python -m benchmarks.exported_nms [BOUND ...]``, with bounds on the candidates, 2048 by default: ONNX Runtime, one
thread, the files taking turns, so that a change of the machine's speed meets all of them. Two kinds of scores: of an
untrained network, where every one of 3234 anchors is a candidate in every class and 27,000 reach torchvision's
suppression; and trained-like ones, background raised until about 900 pairs of anchor and class are above the threshold
of 0.001.
"""

from __future__ import annotations

import io
import statistics
import sys
import warnings
from collections.abc import Mapping
from functools import partial

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from benchmarks.torchvision_peer import SIDE, copy_of, kinds_of_scores, random_picture, same_detections
from ssdlite.benchmark.timing import take_turns, timed
from ssdlite.detector import Detector
from ssdlite.export.onnx import export_onnx
from ssdlite.export.options import GraphOptions
from ssdlite.heads.losses import class_scores
from ssdlite.heads.postprocess import DetectionBatch

ROUNDS = 40
PICTURE = random_picture()


def torchvision_onnx(model: nn.Module) -> bytes:
    """By the older exporter: the current one fails on this model."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, ([PICTURE[0].float() / 255],), file, dynamo=False, opset_version=17)
    return file.getvalue()


def session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def feed(one: onnxruntime.InferenceSession) -> dict[str, np.ndarray]:
    (entry,) = one.get_inputs()
    return {entry.name: PICTURE.numpy() if entry.type == "tensor(uint8)" else (PICTURE[0].float() / 255).numpy()}


def time_in_turns(sessions: Mapping[str, onnxruntime.InferenceSession]) -> dict[str, float]:
    """Median milliseconds of each."""
    calls = {name: timed(partial(one.run, None, feed(one))) for name, one in sessions.items()}
    return {name: statistics.median(values) for name, values in take_turns(calls, ROUNDS).items()}


def agreement(theirs: onnxruntime.InferenceSession, ours: onnxruntime.InferenceSession) -> str:
    """How many of torchvision's detections ours has too."""
    boxes, scores, labels = (torch.from_numpy(value) for value in theirs.run(None, feed(theirs)))
    if scores.dtype != torch.float32:  # their order in the file
        scores, labels = labels, scores
    own_boxes, own_scores, own_labels, count = (torch.from_numpy(value) for value in ours.run(None, feed(ours)))
    found = DetectionBatch(own_boxes * SIDE, own_scores, own_labels, count)
    return same_detections([{"boxes": boxes, "scores": scores, "labels": labels}], found)


def candidates(detector: Detector) -> int:
    scores: Tensor = class_scores(detector(PICTURE).class_logits, "softmax")
    return int((scores > 0.001).sum(dim=1).clamp(max=300).sum())


@torch.no_grad()
def main(bounds: list[int]) -> None:
    for kind, model in kinds_of_scores().items():
        detector = copy_of(model)
        sessions = {"torchvision": session(torchvision_onnx(model))}
        for variant in ("raw", "decoded"):
            sessions[variant] = session(export_onnx(detector, GraphOptions(variant=variant)).SerializeToString())
        for bound in bounds:
            exported = export_onnx(detector, GraphOptions(variant="nms", max_candidates=bound))
            sessions[f"nms, {bound} candidates"] = session(exported.SerializeToString())
        times = time_in_turns(sessions)
        print(f"{kind}: {candidates(detector)} candidates reach torchvision's suppression")
        for name, value in times.items():
            against = f"{times['torchvision'] / value:5.2f} x as fast as torchvision"
            print(f"  {name:<22}{value:8.2f} ms   {against}   {value / times['raw']:5.2f} x raw")
        for bound in bounds:
            print(f"  {bound}: {agreement(sessions['torchvision'], sessions[f'nms, {bound} candidates'])}")


if __name__ == "__main__":
    main([int(bound) for bound in sys.argv[1:]] or [2048])
