"""Predictors made from those of another detector, and the report of what became of its weights."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn

from ssdlite.backbones.batch_norm import BATCH_COUNTER, identity_norm
from ssdlite.backbones.layers import IDEMPOTENT_ACTIVATIONS
from ssdlite.config import ScoreFunction
from ssdlite.console import print_line, print_table
from ssdlite.datasets.anchor_coverage import Floats, shape_iou
from ssdlite.detector import Detector
from ssdlite.files import listing
from ssdlite.heads.base import Head
from ssdlite.heads.boxes import CenterSizeCode
from ssdlite.heads.distance_head import LOG_STEP
from ssdlite.heads.ssd_head import FOREGROUND_LOGIT, PredictionHead, SSDLiteHead

MOST_NAMES = 12  # classes that a line names


@dataclass(frozen=True)
class PartReport:
    """Tensors of one part of the detector: taken as they are, made from the source's, new, and of no use here.

    ``anchors`` says which anchor shapes a predictor got its rows from.
    """

    part: str
    loaded: int = 0
    resized: int = 0
    new: int = 0
    left: int = 0
    anchors: str = ""


@dataclass(frozen=True)
class TransferReport:
    """What became of the weights of the file ``path``.

    Attributes:
        parts: backbone, extra layers, and the predictors of each map.
        kept_classes: ours whose rows come from the source's class of that name.
        new_classes: ours that the source does not know.
        left_classes: the source's that are none of ours.
        loaded_layers: names (prefixes in the state dict) of what came over, whole or resized.
        notes: what else was done.
    """

    path: str
    parts: tuple[PartReport, ...]
    kept_classes: tuple[str, ...]
    new_classes: tuple[str, ...]
    left_classes: tuple[str, ...]
    loaded_layers: tuple[str, ...]
    notes: tuple[str, ...] = ()


def count_tensors(names: Iterable[str]) -> int:
    """Tensors that a person would count, of the names of a state dict."""
    return sum(not name.endswith(BATCH_COUNTER) for name in names)


def print_transfer(report: TransferReport, to: Console) -> None:
    """The table of the tensors that a fine-tuning begins with, and the classes below it."""
    table = Table(title=escape(f"weights of {report.path}"), title_justify="left")
    table.add_column("tensors")
    for name in ("loaded", "resized", "new", "unused"):
        table.add_column(name, justify="right")
    table.add_column("anchor shapes")
    for part in report.parts:
        counts = (str(count) if count else "-" for count in (part.loaded, part.resized, part.new, part.left))
        table.add_row(part.part, *counts, part.anchors)
    print_table(table, to)
    print_line(f"classes kept: {_some(report.kept_classes)}", to)
    print_line(f"classes new: {_some(report.new_classes)}", to)
    print_line(f"classes unused: {_some(report.left_classes)}", to)
    for note in report.notes:
        print_line(note, to)


def _some(names: Sequence[str]) -> str:
    return f"{len(names)} ({listing(names, MOST_NAMES)})" if names else "none"


# --- The predictors of one detector made from those of another with other anchors and classes: algebra on their rows.

NewClasses = Literal["mean", "prior", "random"]

RANDOM_STD = 0.03  # as TensorFlow's and torchvision's SSDLite start their predictors


def transfer_head(
    detector: Detector,
    source: Detector,
    intact: Collection[int],
    matches: Sequence[int | None],
    new_classes: NewClasses,
) -> tuple[list[PartReport], list[str]]:
    """One report for each map of ours, then for those that only the source has; and the names of what came over.

    ``intact`` are the strides of the maps that are the source's; ``matches`` gives for each of our classes its label
    there, or None.
    """
    if not (isinstance(detector.head, SSDLiteHead) and isinstance(source.head, SSDLiteHead)):
        if set(intact) == set(detector.config.strides) and _is_alike(detector, source):
            return _transfer_whole(detector, source, matches, new_classes)
        new, left = (count_tensors(of.head.state_dict()) for of in (detector, source))
        return [PartReport("head", new=new, left=left)], []
    reports, loaded = [], []
    places = {stride: level for level, stride in enumerate(source.config.strides)}
    for level, stride in enumerate(detector.config.strides):
        part, theirs = f"predictors, stride {stride}", places.pop(stride, None)
        if theirs is not None and stride in intact and _fits(detector, level, source, theirs):
            reports.append(_transfer_level(part, (detector, level), (source, theirs), matches, new_classes))
            loaded += [f"head.classification.{level}", f"head.regression.{level}"]
        else:
            left = 0 if theirs is None else count_predictors(source, theirs)
            reports.append(PartReport(part, new=count_predictors(detector, level), left=left))
    reports += [
        PartReport(f"predictors, stride {stride}", left=count_predictors(source, i)) for stride, i in places.items()
    ]
    return reports, loaded


CLASSES = "classification"  # of a head, the predictors whose rows belong to classes


def _is_alike(detector: Detector, source: Detector) -> bool:
    """Whether both have the same head on the same maps, but for the classes and for sides of anchors."""
    ours, theirs = detector.head, source.head
    if type(ours) is not type(theirs) or not isinstance(getattr(ours, CLASSES, None), PredictionHead):
        return False
    if detector.config.strides != source.config.strides or detector.config.head != source.config.head:
        return False
    shapes, their_shapes = (
        {name: tensor.shape for name, tensor in head.state_dict().items() if not name.startswith(f"{CLASSES}.")}
        for head in (ours, theirs)
    )
    return shapes == their_shapes and all(own.shape == other.shape for own, other in _sides(detector, source))


def _sides(detector: Detector, source: Detector) -> list[tuple[Floats, Floats]]:
    """(width, height) [shapes, 2] px of the anchors of both on each map."""
    ours, theirs = (one.config.anchors.sides(one.config.input.size) for one in (detector, source))
    return list(zip(ours, theirs, strict=True))


def _transfer_whole(
    detector: Detector, source: Detector, matches: Sequence[int | None], new_classes: NewClasses
) -> tuple[list[PartReport], list[str]]:
    """All tensors of a head that is alike; rows of classes, and of boxes from anchors of other sides, are converted."""
    ours, theirs = detector.head, source.head
    state = theirs.state_dict()
    same_classes = list(matches) == list(range(source.config.num_classes))
    taken = {name: tensor for name, tensor in state.items() if same_classes or not name.startswith(f"{CLASSES}.")}
    ours.load_state_dict(taken, strict=False)
    resized = 0
    for level, (sides, their_sides) in enumerate(_sides(detector, source)):
        if not same_classes:
            _transfer_classes(ours, theirs, level, matches, new_classes)
            resized += 2
        if not (detector.config.head.bins or np.array_equal(sides, their_sides)):  # bins are strides of the map
            resized += _convert_boxes(ours, level, sides, their_sides, detector.config.head.box_code_scales)
    loaded = count_tensors(state) - resized
    return [PartReport("head", loaded, resized)], [f"head.{name}" for name, _ in ours.named_children()]


def _convert_boxes(head: Head, level: int, sides: Floats, their_sides: Floats, scales: Sequence[float]) -> int:
    """Box predictors on one map, made for anchors of ``their_sides`` -> how many tensors change."""
    boxes = last_conv(cast(PredictionHead, head.regression)[level])
    rows = read_rows(boxes, 4)
    if isinstance(head.box_code, CenterSizeCode):
        write_rows(boxes, convert_box_rows(rows, sides, their_sides, scales, scales))
        return 2
    write_rows(boxes, convert_distance_rows(rows, sides, their_sides))
    return 1


def _transfer_classes(
    ours: Head, theirs: Head, level: int, matches: Sequence[int | None], new_classes: NewClasses
) -> None:
    """Predictors of classes on one map, whose scores are sigmoids, with a row for background or without."""
    heads = [cast(PredictionHead, getattr(head, CLASSES)) for head in (ours, theirs)]
    own, other = (last_conv(head[level]) for head in heads)
    rows = read_rows(other, heads[1].columns)
    background = heads[0].columns > len(matches)
    if not background:
        rows = torch.cat([torch.zeros_like(rows[:, :1]), rows], dim=1)
    converted = convert_class_rows(rows, matches, ours="sigmoid", theirs="sigmoid", new_classes=new_classes)
    write_rows(own, converted if background else converted[:, 1:])


def _predictors(detector: Detector, level: int) -> tuple[nn.Module, nn.Module]:
    head = cast(SSDLiteHead, detector.head)
    return head.classification[level], head.regression[level]


def count_predictors(detector: Detector, level: int) -> int:
    """Tensors of one map's predictors."""
    return sum(count_tensors(predictor.state_dict()) for predictor in _predictors(detector, level))


def _fits(detector: Detector, level: int, source: Detector, their_level: int) -> bool:
    """Whether the predictors differ in the rows of their last convolution at most, or ours can be deepened theirs."""
    is_idempotent = detector.config.layers.activation in IDEMPOTENT_ACTIVATIONS
    activated = detector.neck.feature_maps[level].activated and is_idempotent
    return all(
        (_shapes_before_last(ours) == _shapes_before_last(theirs) or (activated and _can_deepen(theirs, ours)))
        and last_conv(ours).weight.shape[1:] == last_conv(theirs).weight.shape[1:]
        for ours, theirs in zip(_predictors(detector, level), _predictors(source, their_level), strict=True)
    )


def _shapes_before_last(predictor: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in _before_last(predictor).items()}


def _before_last(predictor: nn.Module) -> dict[str, Tensor]:
    """The state of a predictor without its last convolution."""
    *_, last = dict(predictor.named_children())
    return {name: tensor for name, tensor in predictor.state_dict().items() if not name.startswith(f"{last}.")}


def _transfer_level(
    part: str,
    ours: tuple[Detector, int],
    theirs: tuple[Detector, int],
    matches: Sequence[int | None],
    new_classes: NewClasses,
) -> PartReport:
    """Fill the two predictors of one map."""
    config, their_config = ours[0].config, theirs[0].config
    sides = config.anchors.sides(config.input.size)[ours[1]]
    their_sides = their_config.anchors.sides(their_config.input.size)[theirs[1]]
    nearest = nearest_shapes(sides, their_sides)
    same_anchors = np.array_equal(sides, their_sides)
    same_code = same_anchors and config.head.box_code_scales == their_config.head.box_code_scales
    same_scores = config.head.score_function == their_config.head.score_function
    same_classes = same_scores and list(matches) == list(range(their_config.num_classes))

    (classes, boxes), (their_classes, their_boxes) = _predictors(*ours), _predictors(*theirs)
    kept = new = 0
    for predictor, other in ((classes, their_classes), (boxes, their_boxes)):
        before = _before_last(other)
        predictor.load_state_dict(before, strict=False)
        kept += count_tensors(before)
        if more := count_tensors(_before_last(predictor)) - count_tensors(before):
            _start_as_identity(predictor)
            new += more

    rows = read_rows(last_conv(their_boxes), 4)[nearest]
    if not same_code:
        rows = convert_box_rows(
            rows, sides, their_sides[nearest], config.head.box_code_scales, their_config.head.box_code_scales
        )
    write_rows(last_conv(boxes), rows)
    rows = read_rows(last_conv(their_classes), their_config.num_classes + 1)[nearest]
    if not same_classes:
        rows = convert_class_rows(
            rows,
            matches,
            ours=config.head.score_function,
            theirs=their_config.head.score_function,
            new_classes=new_classes,
        )
    write_rows(last_conv(classes), rows)

    resized = 2 * (not same_code) + 2 * (not (same_classes and same_anchors))  # a weight and a bias each
    return PartReport(
        part, kept + 4 - resized, resized, new, anchors=f"{len(nearest)} from {len(set(nearest))} of {len(their_sides)}"
    )


def _can_deepen(theirs: nn.Module, ours: nn.Module) -> bool:
    """Whether theirs is a 1x1 convolution and ours the same behind a depthwise one, which activated maps can pass."""
    depths = len(list(theirs.children())), len(list(ours.children()))
    return depths == (1, 2) and last_conv(theirs).kernel_size == (1, 1)


@torch.no_grad()
def _start_as_identity(predictor: nn.Module) -> None:
    """Let the depthwise layer give what it gets, which activations left as it is a second time.

    A deeper network that computes what the shallower did: Net2DeeperNet (arXiv 1511.05641, section 2.4).
    """
    for module in predictor.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.load_state_dict(identity_norm(torch.zeros_like(module.bias), module.eps))
        elif isinstance(module, nn.Conv2d) and module.groups > 1:
            nn.init.dirac_(module.weight, groups=module.groups)


def last_conv(predictor: nn.Module) -> nn.Conv2d:
    """The convolution that one map's predictor ends in, whose rows belong to anchors."""
    return cast(nn.Conv2d, list(predictor.children())[-1])


def read_rows(conv: nn.Conv2d, columns: int) -> Tensor:
    """A convolution with ``columns`` outputs for each anchor -> rows."""
    assert conv.bias is not None  # predictors have one
    rows = torch.cat([conv.weight.detach().flatten(1), conv.bias.detach()[:, None]], dim=1)
    return rows.double().view(-1, columns, rows.shape[1])


@torch.no_grad()
def write_rows(conv: nn.Conv2d, rows: Tensor) -> None:
    assert conv.bias is not None
    flat = rows.flatten(0, 1)
    conv.weight.copy_(flat[:, :-1].view_as(conv.weight))
    conv.bias.copy_(flat[:, -1])


def nearest_shapes(ours: Floats, theirs: Floats) -> list[int]:
    """For each (width, height) of ours [N, 2] the place in theirs [M, 2] of the shape with the largest IoU.

    In pixels, not in shares of the input: what a convolution sees of an object does not depend on the input's size.
    """
    if np.array_equal(ours, theirs):
        return list(range(len(ours)))  # a shape may be there twice
    choices: list[int] = shape_iou(ours, theirs).argmax(axis=1).tolist()
    return choices


def convert_box_rows(
    rows: Tensor, ours: Floats, theirs: Floats, our_scales: Sequence[float], their_scales: Sequence[float]
) -> Tensor:
    """Rows [N, 4, C] made for anchors theirs [N, 2] px -> rows that give the same boxes from anchors ours [N, 2] px.

    Deltas are in units of the anchor: with sides a there and b here, x' = x a / b and w' = w + ln(a / b).
    """
    ratio = torch.from_numpy(theirs / ours)
    our_scale, their_scale = torch.tensor(our_scales).double(), torch.tensor(their_scales).double()
    result = rows * (our_scale / their_scale)[:, None]
    result[:, :2] *= ratio[:, :, None]
    result[:, 2:, -1] += our_scale[2:] * ratio.log()
    return result


def convert_distance_rows(rows: Tensor, ours: Floats, theirs: Floats) -> Tensor:
    """Rows [N, 4, C] of distances exp(x LOG_STEP) in sides of anchors theirs [N, 2] px -> the same from ours."""
    result = rows.clone()
    result[:, :, -1] += torch.from_numpy(theirs / ours).log().repeat(1, 2) / LOG_STEP
    return result


def convert_class_rows(
    rows: Tensor,
    matches: Sequence[int | None],
    *,
    ours: ScoreFunction,
    theirs: ScoreFunction,
    new_classes: NewClasses,
) -> Tensor:
    """Rows [N, K + 1, C] of the source's columns (0 is background) -> rows [N, len(matches) + 1, C] of ours.

    ``matches`` gives for each of our classes its label there, or None for a class that is new.

    What moves is the log-odds of a class against background. That is a sigmoid's logit, whose column 0 has no meaning,
    and with softmax the difference of two logits: so ``ln(p / p_background)`` of a class of the same name stays what it
    was, whichever of the two is ours.
    """
    background = rows[:, :1] if theirs == "softmax" else torch.zeros_like(rows[:, :1])
    odds = rows[:, 1:] - background
    unknown = _rows_of_a_new_class(odds, new_classes, matches.count(None))
    parts, used = [], 0
    for match in matches:
        if match is None:
            parts.append(unknown[:, used])
            used += 1
        else:
            parts.append(odds[:, match])
    slot = background if ours == "softmax" else torch.zeros_like(background)
    return torch.cat([slot, torch.stack(parts, dim=1) + slot], dim=1)


def _rows_of_a_new_class(odds: Tensor, kind: NewClasses, count: int) -> Tensor:
    """Log-odds of classes that the source does not know: its rows [N, K, C] -> [N, count, C].

    ``mean`` of all classes is a detector of anything that was of interest there, and as rare on background as its
    classes were; ``prior`` has FOREGROUND_LOGIT everywhere; ``random`` does so about that.
    """
    anchors, _, inputs = odds.shape
    if kind == "mean":
        return odds.mean(dim=1, keepdim=True).repeat(1, count, 1)
    rows = torch.zeros(anchors, count, inputs, dtype=odds.dtype)
    if kind == "random":
        rows.normal_(0, RANDOM_STD)
    rows[:, :, -1] = FOREGROUND_LOGIT
    return rows
