"""Anchors of TensorFlow's SSDs: out of a frozen graph, the usual ones, in the order that their training had.

Until autumn 2017 ``create_ssd_anchors`` put the square between two scales right behind the one of ratio 1; since then
it comes last. Neither a checkpoint nor a pipeline.config says which. The constants of a graph do, and outputs show it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ssdlite.anchors import (
    SSDLITE_SCALES,
    AnchorConfig,
    AnchorShape,
    anchor_shape,
    generate_anchors,
    tensorflow_anchors,
)
from ssdlite.checkpoint import Checkpoint
from ssdlite.config import DetectorConfig
from ssdlite.errors import CheckpointError, ConfigError
from ssdlite.heads.base import class_scores
from ssdlite.weights.mapping import LEAST_PICTURES, picture_batches
from ssdlite.weights.source import ImportOptions
from ssdlite.weights.tensorflow.files import ANCHOR_GENERATOR, TensorFlowFile

ROOT = re.compile(rf"(?:.*/)?{ANCHOR_GENERATOR}Sqrt(?:_(\d{{1,9}}))?")  # one for each map: of its aspect ratios
SIZE_OPERATORS = ("RealDiv", "Div", "Mul")  # scales / roots are the heights, scales * roots the widths
SURER_CELLS = 64  # whose boxes are compared: those with the highest scores on the pictures
MUCH_CLOSER = 0.6  # the variance of the other order by this one's, where the other is likely to be right


@dataclass(frozen=True)
class ChosenAnchors:
    """``other`` is what they would be in the other order, where nothing says which one is right."""

    config: AnchorConfig
    other: AnchorConfig | None = None
    other_order: str = ""

    def notes(self, checkpoint: Checkpoint, pictures: Path | None) -> tuple[str, ...]:
        """What the boxes on ``pictures``, or on synthetic scenes, say against this order.

        The shapes of one cell look at the same object, so their boxes have about one size where each is decoded from
        the anchor that it was trained with. Noticed is an order that makes the sizes much more alike; a network that
        is sure of nothing on these pictures, or was hardly trained, goes unnoticed.
        """
        if self.other is None:
            return ()
        own, other = _size_variances(checkpoint, (self.config, self.other), pictures)
        if other >= MUCH_CLOSER * own:
            return ()
        note = (
            f"the boxes of one place differ less in size with anchors in the order {self.other_order} (variance of the "
            f"log {other:.3f}, as imported {own:.3f}): import again with --anchor-order {self.other_order}"
        )
        return (note,)


def choose_anchors(
    anchors_per_cell: Sequence[int],
    held: AnchorConfig | None,
    pipeline: AnchorConfig | None,
    options: ImportOptions,
    path: str,
) -> ChosenAnchors:
    """Those that the file holds; else the options', the pipeline.config's, TensorFlow's usual ones.

    Raises:
        CheckpointError: there are none of these.
        ConfigError: anchors were given for a file that holds its own.
    """
    if held is not None:
        options.refuse_anchors(path)
        return ChosenAnchors(held)
    if options.anchors is not None:
        return ChosenAnchors(options.anchors)
    last = pipeline or standard_anchors(anchors_per_cell, path)
    second = interpolated_second(last)
    if second == last:
        return ChosenAnchors(last)
    if options.anchor_order == "interpolated_second":
        return ChosenAnchors(second, last, "interpolated_last")
    return ChosenAnchors(last, second, "interpolated_second")


def standard_anchors(anchors_per_cell: Sequence[int], path: str) -> AnchorConfig:
    """TensorFlow's ``ssd_anchor_generator`` with scales .2 to .95, as all published configurations have it."""
    maps = len(anchors_per_cell)
    scales = [0.2 + 0.75 * i / max(maps - 1, 1) for i in range(maps)] + [1.0]
    for reduced in (True, False):
        anchors = tensorflow_anchors(SSDLITE_SCALES if maps == 6 else scales, reduce_lowest=reduced)
        if anchors.shapes_per_cell == tuple(anchors_per_cell):
            return anchors
    raise CheckpointError(
        f"{path}: its anchors are not TensorFlow's usual ones (per cell of each map 3 or 6, then 6; here "
        f"{', '.join(map(str, anchors_per_cell))}), and the file does not hold them; give anchors=..., or on the "
        "command line --anchors FILE"
    )


def interpolated_second(anchors: AnchorConfig) -> AnchorConfig:
    """Later anchors in the order of mid-2017: on each map the last square goes right behind the one of ratio 1."""
    return anchors.changed(levels=tuple(_last_square_moved(level) for level in anchors.levels))


def _last_square_moved(level: tuple[AnchorShape, ...]) -> tuple[AnchorShape, ...]:
    *others, last = level
    square = next((number for number, (width, height) in enumerate(others) if width == height), None)
    if square is None or last[0] != last[1]:
        return level
    return (*others[: square + 1], last, *others[square + 1 :])


def graph_anchors(file: TensorFlowFile) -> AnchorConfig | None:
    """Those that the constants of a graph's ``MultipleGridAnchorGenerator`` say; None where they are not there.

    Raises:
        CheckpointError: the constants are damaged, or no anchors.
    """
    roots = {
        int(match[1] or 0): name
        for name, operator in file.operators.items()
        if operator == "Sqrt" and (match := ROOT.fullmatch(name))
    }
    scales = {
        inputs[1]: inputs[0]
        for name, inputs in file.inputs.items()
        if len(inputs) == 2 and file.operators[name] in SIZE_OPERATORS and inputs[0] in file.variables
    }
    constants = [(scales.get(roots[number], ""), *file.inputs[roots[number]][:1]) for number in sorted(roots)]
    names = [name for pair in constants for name in pair]
    if not roots or len(names) != 2 * len(roots) or not all(name in file.variables for name in names):
        return None
    values = file.read(names)
    try:
        levels = tuple(_shapes(*pair) for pair in zip(values[::2], values[1::2], strict=True))
        return AnchorConfig(levels, relative_to="shorter_side")
    except (ValueError, ConfigError) as error:
        raise CheckpointError(f"{file.path}: damaged: the constants of {ANCHOR_GENERATOR[:-1]}: {error}") from None


def _shapes(scales: npt.NDArray[np.float32], ratios: npt.NDArray[np.float32]) -> tuple[AnchorShape, ...]:
    if scales.ndim != 1 or scales.shape != ratios.shape or not min(*scales, *ratios) > 0:
        raise ValueError(f"expected a scale for each aspect ratio, got {scales.shape} and {ratios.shape}")
    return tuple(anchor_shape(float(scale), float(ratio)) for scale, ratio in zip(scales, ratios, strict=True))


@torch.no_grad()
def _size_variances(checkpoint: Checkpoint, candidates: Sequence[AnchorConfig], pictures: Path | None) -> list[float]:
    """For each of the ``candidates``, the variance of log width and height among the boxes of a cell.

    The mean of the surest cells of those maps on which the candidates differ.
    """
    detector = checkpoint.build_detector().eval()
    config = detector.config
    anchors = [torch.from_numpy(generate_anchors(one, config.input.size, config.grid_sizes)) for one in candidates]
    surest: list[Tensor] = []  # [cells] for each map of each batch
    variances: list[Tensor] = []  # [candidates, cells]
    for batch in picture_batches(config, pictures, LEAST_PICTURES):
        outputs = detector(batch)
        scores = class_scores(outputs.class_logits, config.head.score_function).amax(dim=2)
        sizes = [_log_sizes(detector.head.box_code.decode(outputs.box_deltas, one)) for one in anchors]
        for span, shapes in _differing_maps(config, candidates):
            surest.append(scores[:, span].reshape(-1, shapes).amax(dim=1))
            cells = torch.stack([one[:, span].reshape(-1, shapes, 2) for one in sizes])
            variances.append(cells.var(dim=2, correction=0).mean(dim=2))
    best = torch.cat(surest).topk(min(SURER_CELLS, sum(map(len, surest)))).indices
    means: list[float] = torch.cat(variances, dim=1)[:, best].mean(dim=1).tolist()
    return means


def _log_sizes(boxes: Tensor) -> Tensor:
    """[..., 4] xyxy -> log of width and height [..., 2]."""
    return (boxes[..., 2:] - boxes[..., :2]).log()


def _differing_maps(config: DetectorConfig, candidates: Sequence[AnchorConfig]) -> Iterator[tuple[slice, int]]:
    """(anchors of a map, shapes per cell) for each map on which the candidates differ."""
    start = 0
    levels = zip(*(one.levels for one in candidates), strict=True)
    for (rows, columns), (level, *others) in zip(config.grid_sizes, levels, strict=True):
        end = start + rows * columns * len(level)
        if any(other != level for other in others):
            yield slice(start, end), len(level)
        start = end
