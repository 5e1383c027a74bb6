"""Our V3-Large exported with its post-processing beside torchvision's own SSDLite export, with the same weights.

``python benchmarks/exported_nms.py [BOUND ...]``, with bounds on the candidates, 2048 by default: ONNX Runtime, one
thread, the files taking turns, so that a change of the machine's speed meets all of them. Two kinds of scores: of an
untrained network, where every one of 3234 anchors is a candidate in every class and 27,000 reach torchvision's
suppression; and trained-like ones, background raised until about 900 pairs of anchor and class are above the threshold
of 0.001.
"""

from __future__ import annotations

import io
import statistics
import sys
import time
import warnings
from collections.abc import Mapping

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.ops import box_iou

from ssdlite.detector import Detector
from ssdlite.export.onnx_export import export_onnx
from ssdlite.export.options import GraphOptions
from ssdlite.postprocess import class_scores
from ssdlite.weights.options import ImportOptions
from ssdlite.weights.torchvision_ssd import read_torchvision_ssd

WARM_UP, ROUNDS = 5, 40
CANDIDATES = 900
PICTURE = torch.randint(0, 256, (1, 3, 320, 320), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def torchvision_model() -> nn.Module:
    """Random weights, with norms that have the statistics of what reaches them, as training would leave them."""
    torch.manual_seed(0)
    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=91)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momentum = norms[0].momentum
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train().head(list(model.backbone(torch.rand(4, 3, 320, 320) * 2 - 1).values()))
    for norm in norms:
        norm.momentum = momentum
    return model.eval()


def copy_of(model: nn.Module) -> Detector:
    """The same network of ours."""
    imported = read_torchvision_ssd(model.state_dict(), "torchvision's model", ImportOptions())
    return imported.checkpoint.build_detector().eval()


@torch.no_grad()
def raise_background(model: nn.Module) -> None:
    """Make scores like trained ones: shift the background's bias until about ``CANDIDATES`` pairs are candidates."""
    logits = copy_of(model)(PICTURE).class_logits
    low, high = 0.0, 30.0
    for _ in range(40):
        shift = (low + high) / 2
        moved = torch.cat([logits[..., :1] + shift, logits[..., 1:]], dim=-1)
        many = int((class_scores(moved, "softmax") > 0.001).sum()) > CANDIDATES
        low, high = (shift, high) if many else (low, shift)
    for layer in model.head.classification_head.module_list:
        layer[-1].bias[::91] += low


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
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for round_number in range(WARM_UP + ROUNDS):
        for name, one in sessions.items():
            inputs = feed(one)
            start = time.perf_counter()
            one.run(None, inputs)
            if round_number >= WARM_UP:
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def agreement(theirs: onnxruntime.InferenceSession, ours: onnxruntime.InferenceSession) -> str:
    """How many of torchvision's detections ours has too: class, IoU above 0.99, score within 1e-3."""
    boxes, scores, labels = (torch.from_numpy(value) for value in theirs.run(None, feed(theirs)))
    if scores.dtype != torch.float32:  # their order in the file
        scores, labels = labels, scores
    own_boxes, own_scores, own_labels, count = (torch.from_numpy(value) for value in ours.run(None, feed(ours)))
    number = int(count[0])
    same = box_iou(own_boxes[0, :number] * 320, boxes) > 0.99
    same &= own_labels[0, :number, None] == labels - 1
    same &= (own_scores[0, :number, None] - scores).abs() < 1e-3
    return f"{int(same.any(dim=0).sum())} of torchvision's {len(scores)} found by ours, which has {number}"


def candidates(detector: Detector) -> int:
    scores: Tensor = class_scores(detector(PICTURE).class_logits, "softmax")
    return int((scores > 0.001).sum(dim=1).clamp(max=300).sum())


@torch.no_grad()
def main(bounds: list[int]) -> None:
    for kind in ("untrained", "trained-like"):
        model = torchvision_model()
        if kind == "trained-like":
            raise_background(model)
        detector = copy_of(model)
        sessions = {"torchvision": session(torchvision_onnx(model))}
        for variant in ("raw", "decoded"):
            sessions[variant] = session(export_onnx(detector, GraphOptions(variant=variant)).SerializeToString())
        for bound in bounds:
            exported = export_onnx(detector, GraphOptions(variant="nms", max_candidates=bound))
            sessions[f"nms, {bound} candidates"] = session(exported.SerializeToString())
        times = time_in_turns(sessions)
        print(f"{kind} scores: {candidates(detector)} candidates reach torchvision's suppression")
        for name, value in times.items():
            against = f"{times['torchvision'] / value:5.2f} x as fast as torchvision"
            print(f"  {name:<22}{value:8.2f} ms   {against}   {value / times['raw']:5.2f} x raw")
        for bound in bounds:
            print(f"  {bound}: {agreement(sessions['torchvision'], sessions[f'nms, {bound} candidates'])}")


if __name__ == "__main__":
    main([int(bound) for bound in sys.argv[1:]] or [2048])
