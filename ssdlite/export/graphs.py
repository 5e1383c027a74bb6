"""The networks that are exported: a detector with what stands before and behind it inside the graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ssdlite.boxes import MAX_LOG_SCALE
from ssdlite.contract import Precision, Variant
from ssdlite.detector import Detector
from ssdlite.export.suppress import suppress
from ssdlite.fold import fold_batch_norms
from ssdlite.postprocess import class_scores

MAX_CANDIDATES = 1024  # pairs of anchor and class that reach non-maximum suppression (docs/performance.md)


@dataclass(frozen=True, kw_only=True)
class GraphOptions:
    """What is inside an exported graph.

    Attributes:
        variant: ``raw`` ends with logits and deltas, ``decoded`` with scores and boxes, ``nms`` with detections.
        input_type: ``uint8`` is normalised inside, ``float32`` comes normalised from the app.
        batch: images per call; None leaves it free.
        opset: of ONNX; None takes the lowest that serves.
        max_candidates: bound on what reaches non-maximum suppression in the ``nms`` variant.
    """

    variant: Variant = "decoded"
    input_type: Literal["uint8", "float32"] = "uint8"
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    batch: int | None = 1
    precision: Precision = "fp32"
    opset: int | None = None
    max_candidates: int = MAX_CANDIDATES


def build_graph(detector: Detector, options: GraphOptions) -> nn.Module:
    """The network to export: ``images`` as the options say -> the tensors of ``contract.OUTPUTS[variant]``."""
    network = InputStage(detector, options)
    if options.variant == "raw":
        return network
    if options.variant == "decoded":
        return DecodedGraph(network)
    return NmsGraph(network, options.max_candidates)


class InputStage(nn.Module):
    """The variant ``raw``: images -> class logits [B, A, K + 1] and box deltas [B, A, 4], batch norms folded."""

    def __init__(self, detector: Detector, options: GraphOptions) -> None:
        super().__init__()
        self.detector = fold_batch_norms(detector)
        if options.variant == "decoded":
            use_plain_activations(self.detector)
        self.options = options
        self.body_type = torch.float16 if options.precision == "fp16" else torch.float32
        if options.precision == "fp16":
            for part in (self.detector.backbone, self.detector.extra_layers, self.detector.head):
                part.half()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        images = images.float()  # first of all: NNAPI and CoreML do nothing with uint8
        if self.options.layout == "NHWC":
            images = images.permute(0, 3, 1, 2)
        normalised = self.detector.normalise(images) if self.options.input_type == "uint8" else images
        logits, deltas = self.detector.forward_normalised(normalised.to(self.body_type))
        return logits.float(), deltas.float()


class DecodedGraph(nn.Module):
    """images -> scores [B, A, K] without background, boxes [B, A, 4] xyxy as fractions of the input, within it."""

    def __init__(self, network: InputStage) -> None:
        super().__init__()
        self.network = network
        self.decode = BoxDecoder(network.detector)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits, deltas = self.network(images)
        scores = class_scores(logits, self.network.detector.config.score_function)
        return scores, self.decode(deltas, self.decode.centres, self.decode.sizes)


class BoxDecoder(nn.Module):
    """Deltas to boxes in fractions of the input; the box code's scales are part of the constants.

    Written in what NNAPI and CoreML both have: they clip to 0..6 alone, and know no minimum.
    """

    centres: Tensor
    sizes: Tensor
    centre_scales: Tensor
    size_scales: Tensor

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        height, width = detector.config.image_size
        corners = detector.anchors / detector.anchors.new_tensor([width, height, width, height])
        low, high = corners[:, :2], corners[:, 2:]
        scales = torch.tensor(detector.config.box_code_scales)
        self.register_buffer("centres", 6 * (low + high) / 2)
        self.register_buffer("sizes", 6 * (high - low))
        self.register_buffer("centre_scales", 1 / scales[:2])
        self.register_buffer("size_scales", 1 / scales[2:])

    def forward(self, deltas: Tensor, centres: Tensor, sizes: Tensor) -> Tensor:
        """deltas [..., N, 4], anchors' centres and sizes [..., N, 2] -> boxes [..., N, 4] xyxy, clipped to 0..1."""
        centre = centres + deltas[..., :2] * self.centre_scales * sizes
        growth = MAX_LOG_SCALE - torch.relu(MAX_LOG_SCALE - deltas[..., 2:] * self.size_scales)
        half = 0.5 * sizes * torch.exp(growth)
        return torch.cat([centre - half, centre + half], dim=-1).clamp(0.0, 6.0) * (1 / 6)


class NmsGraph(nn.Module):
    """images -> detections of fixed size D = ``max_detections``, best first: boxes [B, D, 4] as of ``DecodedGraph``,
    scores [B, D] padded with 0, labels [B, D] int32 padded with -1, count [B] int32.

    The result of ``postprocess``, except that only the ``max_candidates`` best pairs of anchor and class are looked
    at. The anchors that hold these pairs are chosen first, by their best class, so that the large sort is over a part.
    """

    def __init__(self, network: InputStage, max_candidates: int) -> None:
        super().__init__()
        self.network = network
        self.decode = BoxDecoder(network.detector)
        config = network.detector.config
        self.config = config
        self.num_anchors = min(max_candidates, config.num_anchors)
        self.num_candidates = min(max_candidates, self.num_anchors * config.num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        logits, deltas = self.network(images)
        scores = class_scores(logits, self.config.score_function)
        anchors = scores.amax(dim=2).topk(self.num_anchors, dim=1).indices  # [B, R]
        scores, index = _take_rows(scores, anchors).flatten(1).topk(self.num_candidates, dim=1)  # [B, P]
        labels = index % self.config.num_classes
        anchors = anchors.gather(1, index // self.config.num_classes)
        boxes = self.decode(_take_rows(deltas, anchors), self.decode.centres[anchors], self.decode.sizes[anchors])
        keep = suppress(boxes, self._eligible(scores, labels), self.config.nms_threshold)
        return self._best(boxes, torch.where(keep, scores, 0.0), labels)

    def _eligible(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Scores and labels [B, P], best first -> [B, K, P], each score in the row of its class, 0 elsewhere.

        A class's candidates beyond its limit, and those below the threshold, are 0 as well.
        """
        classes = torch.arange(self.config.num_classes, device=labels.device)
        own = labels[:, None, :] == classes[:, None]
        if self.num_candidates > self.config.candidates_per_class:
            own &= own.to(torch.int32).cumsum(dim=2, dtype=torch.int32) <= self.config.candidates_per_class
        return torch.where(own & (scores > self.config.score_threshold)[:, None, :], scores[:, None, :], 0.0)

    def _best(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        limit = self.config.max_detections
        scores, order = scores.topk(min(limit, self.num_candidates), dim=1)
        found = scores > 0
        boxes = torch.where(found[:, :, None], _take_rows(boxes, order), 0.0)
        labels = torch.where(found, labels.gather(1, order), -1).to(torch.int32)
        count = found.to(torch.int32).sum(dim=1, dtype=torch.int32)
        padding = limit - order.shape[1]
        if padding:
            boxes = nn.functional.pad(boxes, (0, 0, 0, padding))
            scores = nn.functional.pad(scores, (0, padding))
            labels = nn.functional.pad(labels, (0, padding), value=-1)
        return boxes, scores, labels, count


def _take_rows(values: Tensor, index: Tensor) -> Tensor:
    """values [B, N, C], index [B, M] -> [B, M, C]."""
    batch, count, _ = values.shape
    first = torch.arange(batch, device=index.device)[:, None] * count
    return values.flatten(0, 1)[index + first]


def use_plain_activations(network: nn.Module) -> None:
    """Put hard-swish and hard-sigmoid into operators that NNAPI and CoreML have.

    In the decoded variant alone: on a CPU MobileNetV3 takes a seventh more time with them (docs/performance.md).
    """
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Hardswish):
                setattr(parent, name, PlainHardSwish())
            elif isinstance(child, nn.Hardsigmoid):
                setattr(parent, name, PlainHardSigmoid())


class PlainHardSigmoid(nn.Module):
    """``relu6(x + 3) / 6``; NNAPI has no HardSigmoid."""

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs + 3.0).clamp(0.0, 6.0) * (1 / 6)


class PlainHardSwish(nn.Module):
    """``x * relu6(x + 3) / 6``; neither NNAPI nor CoreML has HardSwish."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * ((inputs + 3.0).clamp(0.0, 6.0) * (1 / 6))
