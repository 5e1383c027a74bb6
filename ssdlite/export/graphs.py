"""The networks that are exported: a detector with what stands before and behind it inside the graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnxscript import opset18
from torch import Tensor, nn
from torchvision.ops import nms

from ssdlite.backbones.batch_norm import fold_batch_norms
from ssdlite.detector import Detector
from ssdlite.export.options import GraphOptions
from ssdlite.heads.base import class_scores
from ssdlite.heads.boxes import MAX_LOG_SCALE, BoxCode, CenterSizeCode, DistanceCode
from ssdlite.runtime.contract import INTEGER_MEANS, OUTPUTS, InputSpec, ModelSpec, OutputSpec

INPUT_NAME = "images"
NO_LIMIT = 1 << 30
op: Any = opset18  # typed for values, used here for the symbols of a trace


def build_graph(detector: Detector, options: GraphOptions) -> nn.Module:
    """The network to export: ``images`` as the options say -> the tensors of ``contract.OUTPUTS[variant]``."""
    network = RawGraph(detector, options)
    if options.variant == "raw":
        return network
    if options.variant == "decoded":
        return DecodedGraph(network)
    if options.variant == "anchors":
        return ScoredGraph(network)
    return NmsGraph(network, options.max_candidates)


class RawGraph(nn.Module):
    """The variant ``raw``: images -> class logits [B, A, K + 1] and box deltas [B, A, 4], batch norms folded."""

    def __init__(self, detector: Detector, options: GraphOptions) -> None:
        super().__init__()
        self.detector = fold_batch_norms(detector)
        if options.variant == "decoded":
            use_plain_activations(self.detector)
        self.options = options
        self.body_type = torch.float16 if options.precision == "fp16" else torch.float32
        if options.precision == "fp16":
            for part in (self.detector.backbone, self.detector.neck, self.detector.head):
                part.half()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        images = images.float()  # first of all: NNAPI and CoreML do nothing with uint8
        if self.options.layout == "NHWC":
            images = images.permute(0, 3, 1, 2)
        normalised = self.detector.normalise(images) if self.options.input_type == "uint8" else images
        outputs = self.detector.forward_normalised(normalised.to(self.body_type))
        return outputs.class_logits.float(), outputs.box_deltas.float()


class ScoredGraph(nn.Module):
    """The variant ``anchors``: images -> scores [B, A, K] without background, deltas [B, A, 4] as dy, dx, dh, dw."""

    def __init__(self, network: RawGraph) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits, deltas = self.network(images)
        return class_scores(logits, self.network.detector.config.head.score_function), deltas[..., [1, 0, 3, 2]]


class DecodedGraph(nn.Module):
    """images -> scores [B, A, K] without background, boxes [B, A, 4] xyxy as fractions of the input, within it."""

    def __init__(self, network: RawGraph) -> None:
        super().__init__()
        self.network = network
        self.decode = build_box_decoder(network.detector)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits, deltas = self.network(images)
        scores = class_scores(logits, self.network.detector.config.head.score_function)
        return scores, self.decode(deltas)


def build_box_decoder(detector: Detector) -> nn.Module:
    """Called with deltas [B, A, 4], or those [B, N, 4] of chosen anchors [B, N] and these: their boxes [..., 4] xyxy,
    as fractions of the input, clipped to it."""
    return BOX_DECODERS.get(type(detector.head.box_code), AnyBoxDecoder)(detector)


class AnyBoxDecoder(nn.Module):
    """By the operators that the head's own box code is written in."""

    anchors: Tensor
    sides: Tensor

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        height, width = detector.config.input.size
        self.box_code = detector.head.box_code
        self.register_buffer("anchors", detector.anchors)
        self.register_buffer("sides", detector.anchors.new_tensor([width, height, width, height]))

    def forward(self, deltas: Tensor, chosen: Tensor | None = None) -> Tensor:
        anchors = self.anchors if chosen is None else self.anchors[chosen]
        boxes: Tensor = self.box_code.decode(deltas, anchors)
        return (boxes / self.sides).clamp(0.0, 1.0)


class ConstantAnchorsDecoder(nn.Module):
    """With centres and sizes of the anchors among the constants, 6 being the input's sides.

    Written in what NNAPI and CoreML both have: they clip to 0..6 alone, and know no minimum.
    """

    centers: Tensor
    sizes: Tensor

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        height, width = detector.config.input.size
        corners = detector.anchors / detector.anchors.new_tensor([width, height, width, height])
        low, high = corners[:, :2], corners[:, 2:]
        self.register_buffer("centers", 6 * (low + high) / 2)
        self.register_buffer("sizes", 6 * (high - low))

    def forward(self, deltas: Tensor, chosen: Tensor | None = None) -> Tensor:
        centers, sizes = self.centers, self.sizes
        if chosen is not None:
            centers, sizes = centers[chosen], sizes[chosen]
        return torch.cat(self.corners(deltas, centers, sizes), dim=-1).clamp(0.0, 6.0) * (1 / 6)

    def corners(self, deltas: Tensor, centers: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """deltas [..., 4] of anchors with these centres and sizes [..., 2] -> low and high corners [..., 2]."""
        raise NotImplementedError(f"{type(self).__name__}.corners")


class DistanceDecoder(ConstantAnchorsDecoder):
    """``DistanceCode.decode``."""

    def corners(self, deltas: Tensor, centers: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        return centers - deltas[..., :2] * sizes, centers + deltas[..., 2:] * sizes


class BoxDecoder(ConstantAnchorsDecoder):
    """``CenterSizeCode.decode`` with its scales among the constants."""

    center_scales: Tensor
    size_scales: Tensor

    def __init__(self, detector: Detector) -> None:
        super().__init__(detector)
        scales = torch.tensor(detector.config.head.box_code_scales)
        self.register_buffer("center_scales", 1 / scales[:2])
        self.register_buffer("size_scales", 1 / scales[2:])

    def corners(self, deltas: Tensor, centers: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        center = centers + deltas[..., :2] * self.center_scales * sizes
        growth = MAX_LOG_SCALE - torch.relu(MAX_LOG_SCALE - deltas[..., 2:] * self.size_scales)
        half = 0.5 * sizes * torch.exp(growth)
        return center - half, center + half


BOX_DECODERS: dict[type[BoxCode], Callable[[Detector], nn.Module]] = {
    CenterSizeCode: BoxDecoder,
    DistanceCode: DistanceDecoder,
}


class NmsGraph(nn.Module):
    """images -> detections of fixed size D = ``max_detections``, best first: boxes [B, D, 4] as of ``DecodedGraph``,
    scores [B, D] padded with 0, labels [B, D] int32 padded with -1, count [B] int32.

    The result of ``postprocess``, except that only the ``max_candidates`` best pairs of anchor and class are looked
    at: P of them, fewer where there are fewer pairs.
    """

    def __init__(self, network: RawGraph, max_candidates: int) -> None:
        super().__init__()
        self.network = network
        self.decode = build_box_decoder(network.detector)
        self.config = network.detector.config
        num_pairs = len(network.detector.anchors) * self.config.num_classes
        self.num_candidates = min(max_candidates, num_pairs)
        self.block = _block_length(num_pairs, self.num_candidates)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        logits, deltas = self.network(images)
        scores, pairs = self._best_pairs(class_scores(logits, self.config.head.score_function).flatten(1))
        labels, anchors = pairs % self.config.num_classes, pairs // self.config.num_classes
        scores = torch.where(scores > self.config.postprocess.score_threshold, scores, 0.0)
        if self.num_candidates > self.config.postprocess.candidates_per_class:
            scores = self._limit_classes(scores, labels)
        boxes = self.decode(_take_rows(deltas, anchors), anchors)
        keep = suppress(boxes, self._by_class(scores, labels), self.config.postprocess.nms_threshold)
        return self._best(boxes, torch.where(keep, scores, 0.0), labels)

    def _best_pairs(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """scores [B, A * K] -> the P best and their places, both [B, P], in the order of the places.

        In that order whatever chooses among equal scores later takes the first of them, as ``postprocess`` does. P
        blocks hold the P best pairs for certain: those with the best maxima. They are found first, which leaves the
        costlier choice a fraction of the pairs.
        """
        if self.block == 1:
            best, places = scores.topk(self.num_candidates, dim=1, sorted=False)
        else:
            blocks = scores.view(scores.shape[0], -1, self.block)
            chosen = blocks.amax(dim=2).topk(self.num_candidates, dim=1, sorted=False).indices
            best, place = _take_rows(blocks, chosen).flatten(1).topk(self.num_candidates, dim=1, sorted=False)
            places = chosen.gather(1, place // self.block) * self.block + place % self.block
        places, order = places.sort(dim=1)
        return best.gather(1, order), places

    def _limit_classes(self, scores: Tensor, labels: Tensor) -> Tensor:
        """The scores [B, P] of candidates, with 0 behind their class's own limit."""
        key = labels - 0.5 * scores.double()  # exact: 24 bits of a score and 17 of a label fit into 53
        order = key.topk(self.num_candidates, dim=1, largest=False).indices  # by class and score
        position = torch.arange(self.num_candidates, device=labels.device)
        counts = torch.zeros_like(labels[:, :1]).expand(-1, self.config.num_classes)
        counts = counts.scatter_add(1, labels, torch.ones_like(labels))
        rank = position - (counts.cumsum(dim=1) - counts).gather(1, labels.gather(1, order))
        limit = self.config.postprocess.candidates_per_class
        return torch.where(rank.scatter(1, order, rank) < limit, scores, 0.0)

    def _by_class(self, scores: Tensor, labels: Tensor) -> Tensor:
        """scores and labels [B, P] -> [B, K, P]: each score in the row of its class, 0 elsewhere."""
        zero = (scores[:, :1] < 0).to(scores.dtype)  # computed, or K * P zeros would be folded into the file
        rows = zero[:, None].expand(-1, self.config.num_classes, self.num_candidates)
        return rows.scatter(1, labels[:, None], scores[:, None])

    def _best(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        limit = self.config.postprocess.max_detections
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


def _block_length(num_pairs: int, num_candidates: int) -> int:
    """A divisor of ``num_pairs`` near 18; 1 where there is none, or so few pairs that blocks save nothing."""
    divisors = [length for length in range(8, 33) if num_pairs % length == 0]
    if not divisors or num_pairs < 32 * num_candidates:
        return 1
    return min(divisors, key=lambda length: abs(length - 18))


def _take_rows(values: Tensor, index: Tensor) -> Tensor:
    """values [B, N, C], index [B, M] -> [B, M, C]."""
    batch, count, _ = values.shape
    first = torch.arange(batch, device=index.device)[:, None] * count
    return values.flatten(0, 1)[index + first]


def use_plain_activations(
    network: nn.Module, kinds: Sequence[type[nn.Module]] = (nn.Hardswish, nn.Hardsigmoid)
) -> None:
    """Put hard-swish and hard-sigmoid, or those of these ``kinds``, into operators that NNAPI and CoreML have.

    In the decoded variant alone: on a CPU MobileNetV3 takes a seventh more time with them (docs/notes/performance.md).
    XNNPACK has a hard-swish, and no hard-sigmoid.
    """
    plain = {nn.Hardswish: PlainHardSwish, nn.Hardsigmoid: PlainHardSigmoid}
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if type(child) in kinds:
                setattr(parent, name, plain[type(child)]())


class PlainHardSigmoid(nn.Module):
    """``relu6(x + 3) / 6``; NNAPI has no HardSigmoid."""

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs + 3.0).clamp(0.0, 6.0) * (1 / 6)


class PlainHardSwish(nn.Module):
    """``x * relu6(x + 3) / 6``; neither NNAPI nor CoreML has HardSwish."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * ((inputs + 3.0).clamp(0.0, 6.0) * (1 / 6))


# --- Non-maximum suppression as one operator with a fixed output shape, so that ``torch.export`` can trace it.


@torch.library.custom_op("ssdlite::suppress", mutates_args=())
def suppress(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Non-maximum suppression within each image and class.

    boxes [B, P, 4] xyxy and scores [B, K, P], each candidate with a score above 0 in its own class's row alone
    -> [B, P] bool, what is left.
    """
    keep = torch.zeros(boxes.shape[:2], dtype=torch.bool, device=boxes.device)
    for image, classes in enumerate(scores):
        for row in classes:
            candidates = row.nonzero().squeeze(1)
            keep[image, candidates[nms(boxes[image, candidates], row[candidates], iou_threshold)]] = True
    return keep


@suppress.register_fake
def _(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    return boxes.new_empty(boxes.shape[:2], dtype=torch.bool)


def suppress_in_onnx(boxes: Any, scores: Any, iou_threshold: float) -> Any:
    """The same in ONNX's operators; NonMaxSuppression answers (image, class, candidate) for each that is left."""
    limit = op.Constant(value_ints=[NO_LIMIT])
    selected = op.NonMaxSuppression(
        boxes, scores, limit, op.Constant(value_floats=[iou_threshold]), op.Constant(value_floats=[0.0])
    )
    places = op.Gather(selected, op.Constant(value_ints=[0, 2]), axis=1)
    first, second = op.Constant(value_ints=[0]), op.Constant(value_ints=[2])
    nothing = op.ConstantOfShape(op.Slice(op.Shape(boxes), first, second, first))
    zeros = op.ConstantOfShape(op.Slice(op.Shape(places), first, op.Constant(value_ints=[1]), first))
    return op.Cast(op.ScatterND(nothing, places, zeros + op.Constant(value_float=1.0)), to=9)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {torch.ops.ssdlite.suppress.default: suppress_in_onnx}


# --- What a contract says of them.


def model_spec(detector: Detector, options: GraphOptions, file: str) -> ModelSpec:
    """What the contract says of ``file`` with the graph of ``options``."""
    return ModelSpec(
        file=file,
        variant=options.variant,
        precision=options.precision,
        input=input_spec(detector, options),
        outputs=output_specs(detector, options),
    )


def input_spec(detector: Detector, options: GraphOptions) -> InputSpec:
    """What the exported graph expects of the app."""
    config = detector.config
    height, width = config.input.size
    integer_mean = INTEGER_MEANS.get(options.input_type)
    return InputSpec(
        name=INPUT_NAME,
        type=options.input_type,
        layout=options.layout,
        batch=options.batch,
        height=height,
        width=width,
        mean=config.input.mean if integer_mean is None else (integer_mean,) * 3,
        std=config.input.std if integer_mean is None else (1.0, 1.0, 1.0),
    )


def output_specs(detector: Detector, options: GraphOptions) -> tuple[OutputSpec, ...]:
    """What the exported graph answers, in order."""
    config, batch = detector.config, options.batch
    shapes: dict[str, tuple[int | None, ...]] = {
        "class_logits": (batch, config.num_anchors, config.num_classes + 1),
        "box_deltas": (batch, config.num_anchors, 4),
        "scores": (batch, config.num_anchors, config.num_classes),
        "boxes": (batch, config.num_anchors, 4),
    }
    if options.variant == "nms":
        limit = config.postprocess.max_detections
        shapes = {"boxes": (batch, limit, 4), "scores": (batch, limit), "labels": (batch, limit), "count": (batch,)}
    return tuple(
        OutputSpec(
            name=meaning,
            meaning=meaning,
            shape=shapes[meaning],
            type="int32" if meaning in ("labels", "count") else "float32",
        )
        for meaning in OUTPUTS[options.variant]
    )
