"""Ours beside torchvision's SSDLite with the same weights: prediction, post-processing, loss, exported."""

from __future__ import annotations

import io
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.ops import box_iou

from benchmarks import BenchmarksOptions
from ssdlite.benchmark.comparison import Comparison, Contestant
from ssdlite.benchmark.timing import Apart
from ssdlite.config import COCO_NAMES
from ssdlite.detections import Detections
from ssdlite.detector import Detector
from ssdlite.export.onnx import export_onnx
from ssdlite.export.options import GraphOptions
from ssdlite.heads.base import Outputs, class_scores
from ssdlite.heads.losses import MultiBoxLoss
from ssdlite.heads.postprocess import postprocess
from ssdlite.predictor import Predictor
from ssdlite.weights import ImportOptions
from ssdlite.weights.pytorch.ssd import read_torchvision_ssd

SIDE = 320
WITH_BACKGROUND = 91  # classes
CANDIDATES = 900  # pairs of anchor and class above the threshold, as trained networks have
THRESHOLD = 0.001


def random_picture(seed: int = 1) -> Tensor:
    """uint8 [1, 3, 320, 320]."""
    return torch.randint(0, 256, (1, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def torchvision_model() -> nn.Module:
    """Random weights, with norms that have the statistics of what reaches them, as training would leave them."""
    torch.manual_seed(0)
    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=WITH_BACKGROUND)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momentum = norms[0].momentum
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train().head(list(model.backbone(torch.rand(4, 3, SIDE, SIDE) * 2 - 1).values()))
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
    logits = copy_of(model)(random_picture()).class_logits
    low, high = 0.0, 30.0
    for _ in range(40):
        shift = (low + high) / 2
        moved = torch.cat([logits[..., :1] + shift, logits[..., 1:]], dim=-1)
        many = int((class_scores(moved, "softmax") > THRESHOLD).sum()) > CANDIDATES
        low, high = (shift, high) if many else (low, shift)
    for layer in model.head.classification_head.module_list:
        layer[-1].bias[::WITH_BACKGROUND] += low


def kinds_of_scores() -> dict[str, nn.Module]:
    """torchvision's model, untrained and as if trained."""
    untrained, trained = torchvision_model(), torchvision_model()
    raise_background(trained)
    return {"realistic scores": trained, "untrained scores": untrained}


def same_detections(theirs: Sequence[Mapping[str, Tensor]], ours: Sequence[Detections]) -> str:
    """How many of torchvision's detections ours has too: label, IoU above 0.99, score within 1e-3."""
    found = total = 0
    for one, own in zip(theirs, ours, strict=True):
        boxes, scores, labels = map(torch.from_numpy, (own.boxes, own.scores, own.labels))
        same = box_iou(boxes, one["boxes"]) > 0.99
        same &= labels[:, None] == one["labels"] - 1
        same &= (scores[:, None] - one["scores"]).abs() < 1e-3
        found += int(same.any(dim=0).sum())
        total += len(one["boxes"])
    return f"{found} of torchvision's {total} detections are ours too; we have {sum(map(len, ours))}"


# --- The comparisons.


def prediction(options: BenchmarksOptions) -> Iterator[Comparison]:
    """One picture in, detections out: ``Predictor.predict`` beside torchvision's model in eager mode."""
    targets = {"realistic scores": 1.8, "untrained scores": 2.2}
    picture = random_picture()
    pixels = picture[0].permute(1, 2, 0).contiguous().numpy()
    for kind, model in kinds_of_scores().items():
        detector = copy_of(model)
        torchvision = _torchvision(model, picture[0])
        contestants = [
            Contestant("torchvision", torchvision),
            Contestant("Predictor.predict", partial(Predictor(detector).predict, pixels, score_threshold=0.0)),
            Contestant("its network", partial(Predictor(detector).infer_batch, picture.numpy())),
        ]
        if shutil.which("c++"):
            compiled = Predictor(detector, compile_options={})
            predict = partial(compiled.predict, pixels, score_threshold=0.0)
            contestants.append(Contestant("Predictor.predict, compiled", predict))
        ours = postprocess(detector.infer_batch(picture.numpy()), detector.anchors, detector.config)
        yield Comparison(
            f"prediction of one picture of 320 x 320, {kind}",
            contestants,
            reference="torchvision",
            targets={"Predictor.predict": targets[kind]},
            threads=options.threads,
            notes=[same_detections(torchvision(), ours)],
        )


def _torchvision(model: torch.nn.Module, picture: torch.Tensor) -> Callable[[], list[dict[str, torch.Tensor]]]:
    values = picture.float() / 255

    def call() -> list[dict[str, torch.Tensor]]:
        with torch.inference_mode():
            return model([values])  # type: ignore[no-any-return]

    return call


@torch.no_grad()
def postprocessing(options: BenchmarksOptions) -> Iterator[Comparison]:
    """From the network's outputs to detections, beside torchvision's ``postprocess_detections``."""
    targets = {"realistic scores": 3.5, "untrained scores": 2.0}
    for kind, model in kinds_of_scores().items():
        for batch in (1, 16):
            pictures = torch.cat([random_picture(seed) for seed in range(1, batch + 1)])
            detector = copy_of(model)
            outputs = detector(pictures)
            theirs = torchvision_postprocess(model, outputs)
            ours = f"ours, batch {batch}"
            yield Comparison(
                f"post-processing, {kind}, batch {batch}",
                [
                    Contestant("torchvision", theirs, batch),
                    Contestant(ours, lambda: postprocess(outputs, detector.anchors, detector.config), batch),  # noqa: B023
                ],
                reference="torchvision",
                targets={ours: targets[kind]} if batch == 1 else {},
                threads=options.threads,
                rounds=40,
                notes=[same_detections(theirs(), postprocess(outputs, detector.anchors, detector.config))],
            )


def torchvision_postprocess(model: nn.Module, outputs: Outputs) -> Callable[[], list[dict[str, Tensor]]]:
    """torchvision's post-processing of the same outputs."""
    batch = len(outputs.class_logits)
    heads = {"cls_logits": outputs.class_logits, "bbox_regression": outputs.box_deltas}
    images = type("Images", (), {"tensors": torch.zeros(batch, 3, SIDE, SIDE), "image_sizes": [(SIDE, SIDE)] * batch})
    features = [torch.zeros(batch, 1, side, side) for side in (20, 10, 5, 3, 2, 1)]
    anchors = model.anchor_generator(images, features)  # type: ignore[operator]

    def call() -> list[dict[str, Tensor]]:
        with torch.no_grad():
            return model.postprocess_detections(heads, anchors, images.image_sizes)  # type: ignore[operator,no-any-return]

    return call


class LikeTorchvision(MultiBoxLoss):
    """Pictures without objects teach nothing there."""

    negatives_per_empty_image = 0


IMAGES, OBJECTS = 16, 20


def loss(options: BenchmarksOptions) -> Iterator[Comparison]:
    """Matching, loss and their backward on the same outputs, with the same losses."""
    makers = {"torchvision": torchvision_loss, "ours": our_loss}
    yield Comparison(
        f"matching, loss and backward, {IMAGES} images, {OBJECTS} objects each, {WITH_BACKGROUND - 1} classes",
        [Contestant(name, Apart(options.threads, make), IMAGES) for name, make in makers.items()],
        reference="torchvision",
        targets={"ours": 1.0},
        threads=options.threads,
        notes=["losses: " + " and ".join(f"{float(make()()):.5f}" for make in makers.values())],
    )


def annotated_outputs(anchors: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits [B, A, K + 1], deltas [B, A, 4], boxes [B, M, 4] and labels [B, M], the same ones each time."""
    torch.manual_seed(0)
    corners = torch.rand(IMAGES, OBJECTS, 2) * 220
    boxes = torch.cat([corners, corners + 20 + torch.rand(IMAGES, OBJECTS, 2) * 80], dim=2)
    labels = torch.randint(0, WITH_BACKGROUND - 1, (IMAGES, OBJECTS))
    return torch.randn(IMAGES, anchors, WITH_BACKGROUND), torch.randn(IMAGES, anchors, 4) * 0.1, boxes, labels


def our_loss() -> Callable[[], Tensor]:
    detector = copy_of(torchvision_model())
    logits, deltas, boxes, labels = annotated_outputs(len(detector.anchors))
    criterion = LikeTorchvision(detector.anchors, detector.head.box_code)

    def call() -> Tensor:
        outputs = Outputs(logits.clone().requires_grad_(), deltas.clone().requires_grad_())
        total = criterion(outputs, boxes, labels).total
        total.backward()
        return total.detach()

    return call


def torchvision_loss() -> Callable[[], Tensor]:
    model: Any = torchvision_model()
    anchors = copy_of(model).anchors
    logits, deltas, boxes, labels = annotated_outputs(len(anchors))
    targets = [{"boxes": own, "labels": names + 1} for own, names in zip(boxes, labels, strict=True)]

    def call() -> Tensor:
        heads = {"cls_logits": logits.clone().requires_grad_(), "bbox_regression": deltas.clone().requires_grad_()}
        matches = [model.proposal_matcher(box_iou(own["boxes"], anchors)) for own in targets]
        losses = model.compute_loss(targets, heads, [anchors] * IMAGES, matches)
        total: Tensor = losses["classification"] + losses["bbox_regression"]
        total.backward()  # type: ignore[no-untyped-call]
        return total.detach()

    return call


# --- Exported.


@torch.no_grad()
def exported_nms(options: BenchmarksOptions) -> Iterator[Comparison]:
    """V3-Large exported with its post-processing, for each bound on the candidates, in ONNX Runtime on one thread.

    Of an untrained network every one of 3234 anchors is a candidate in every class, and 27,000 reach torchvision's
    suppression. Beside torchvision's own export, and beside the network alone.
    """
    for kind, model in kinds_of_scores().items():
        detector = copy_of(model)
        sessions = {"torchvision": session(torchvision_onnx(model))}
        for variant in ("raw", "decoded"):
            sessions[variant] = session(export_onnx(detector, GraphOptions(variant=variant)).SerializeToString())
        bounded = {f"nms, {bound} candidates": bound for bound in options.bounds or (2048,)}
        for name, bound in bounded.items():
            exported = export_onnx(detector, GraphOptions(variant="nms", max_candidates=bound))
            sessions[name] = session(exported.SerializeToString())
        contestants = [Contestant(name, partial(one.run, None, feed(one))) for name, one in sessions.items()]
        notes = [f"{candidates(detector)} candidates reach torchvision's suppression"]
        notes += [f"{name}: {agreement(sessions['torchvision'], sessions[name])}" for name in bounded]
        yield Comparison(
            f"V3-Large in ONNX Runtime, {kind}", contestants, reference="torchvision", rounds=40, notes=notes
        )
        yield Comparison(
            f"what post-processing adds in ONNX Runtime, {kind}", contestants[1:], reference="raw", rounds=40
        )


def torchvision_onnx(model: nn.Module) -> bytes:
    """By the older exporter: the current one fails on this model."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, ([random_picture()[0].float() / 255],), file, dynamo=False, opset_version=17)
    return file.getvalue()


def session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def feed(one: onnxruntime.InferenceSession) -> dict[str, np.ndarray]:
    """The random picture, as the session takes it."""
    (entry,) = one.get_inputs()
    picture = random_picture()
    return {entry.name: picture.numpy() if entry.type == "tensor(uint8)" else (picture[0].float() / 255).numpy()}


def agreement(theirs: onnxruntime.InferenceSession, ours: onnxruntime.InferenceSession) -> str:
    """How many of torchvision's detections ours has too."""
    boxes, scores, labels = (torch.from_numpy(value) for value in theirs.run(None, feed(theirs)))
    if scores.dtype != torch.float32:  # their order in the file
        scores, labels = labels, scores
    own_boxes, own_scores, own_labels, count = (value[0] for value in ours.run(None, feed(ours)))
    found = Detections(own_boxes * SIDE, own_scores, own_labels, COCO_NAMES)[:count]
    return same_detections([{"boxes": boxes, "scores": scores, "labels": labels}], [found])


def candidates(detector: Detector) -> int:
    """Pairs of anchor and class, of each class the best 300."""
    scores: Tensor = class_scores(detector(random_picture()).class_logits, "softmax")
    return int((scores > THRESHOLD).sum(dim=1).clamp(max=300).sum())
