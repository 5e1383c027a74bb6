"""What a person would have to know, decided from the data: the plain ``ssdlite train --data X``.

Each rule looks at the training split and gives one option, its value and the reason in a line. What is given on the
command line is never decided. The rules were settled on several data sets at once, docs/results.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from ssdlite.checkpoint import load_checkpoint
from ssdlite.config import preset_config
from ssdlite.datasets.anchor_coverage import COARSE_STRIDES, InputBoxes, input_boxes
from ssdlite.datasets.index import DetectionIndex
from ssdlite.files import counted
from ssdlite.training.options import NO_WEIGHTS, TrainOptions
from ssdlite.training.recipes import AUTO, Recipe
from ssdlite.training.sources import WeightSource

START = "openimages"
INPUT_SIDE = 320  # px; the network that comes along was trained at 300, which is not a multiple of its strides
# arXiv 1811.08883 finds no gain from pretraining in the accuracy reached, from 10,000 COCO pictures (figure 8) on
MOST_FINE_TUNED = 20_000
EVALUATIONS = 25  # in a run
PATIENCE = 10  # of them without a better AP: the cosine takes the learning rate down meanwhile, which helps for long
SMALL_SHARE = 0.05  # of all boxes, or a quarter of a class's, from which a finer map is worth its time
SMALL_SHARE_OF_CLASS = 0.25
COUNTED_CLASS = 10  # boxes, from which a class counts on its own
LARGE_SET = 3_000  # pictures, from which larger batches have enough steps
USUAL_HEADS = ("ssdlite",)  # others say themselves which loss they ask for


class Length(NamedTuple):
    """Of a run: the pictures that are seen, each epoch's again."""

    pictures: int
    least_epochs: int


FINE_TUNING, FROM_SCRATCH = Length(14_400, 20), Length(18_000, 60)


class Decision(NamedTuple):
    """An option that was decided: ``str`` is the line for people."""

    option: str
    value: Any
    reason: str

    def __str__(self) -> str:
        flag = f"--{self.option.replace('_', '-')}"
        return f"{flag} {'none' if self.value is None else self.value}: {self.reason}"


class Decided(NamedTuple):
    options: TrainOptions
    decisions: tuple[Decision, ...]
    source: WeightSource  # what the options start from


def decide(options: TrainOptions, train: DetectionIndex, source: WeightSource = None) -> Decided:
    """``options`` with what is not given named after the data, for the recipe ``auto``; any other is as it says.

    ``source``: the weights that ``options`` name.
    """
    if options.recipe_name != AUTO:
        return Decided(options, (), source)
    decisions: list[Decision] = []
    for rule in (_start, _size, _losses, _finest_stride, _batch, _length, _evaluations):
        for decision in rule(options, train):
            options = options.override(**{decision.option: decision.value})
            decisions.append(decision)
        if source is None and options.start.weights == START:
            source = load_checkpoint(START)
    return Decided(options, tuple(decision for decision in decisions if decision.reason), source)


def _start(options: TrainOptions, train: DetectionIndex) -> Iterator[Decision]:
    """Which weights to begin with."""
    if options.start.weights is not None or options.start.backbone_weights is not None:
        return
    if options.detector.preset is not None or options.detector.width_mult is not None:
        yield Decision("weights", NO_WEIGHTS, "a detector of another shape is asked for, so it starts from scratch")
    elif len(train) > MOST_FINE_TUNED:
        yield Decision("weights", NO_WEIGHTS, f"{len(train)} pictures are enough to learn from alone")
    else:
        yield Decision("weights", START, f"{len(train)} pictures are few; a trained detector learns faster from them")


def _size(options: TrainOptions, train: DetectionIndex) -> Iterator[Decision]:
    if options.start.weights == START and options.detector.image_size is None:
        yield Decision("image_size", INPUT_SIDE, "whole cells of every map up to stride 64, unlike its 300 px")


def _losses(options: TrainOptions, train: DetectionIndex) -> Iterator[Decision]:
    """Those of the recipe that goes with the start, and what else it says that does not depend on the data."""
    if _asks_for_its_own_losses(options):
        return
    name = "small-data" if options.start.detector_weights else "scratch"
    recipe = options.changed(recipe=name).settings
    which = "fine-tuning" if name == "small-data" else "training from scratch"
    reasons = {
        "anchors": f"shapes fitted to the {int((~train.ignore).sum())} boxes to learn from",
        "loss": f"with {recipe.box_loss} and {recipe.matcher}, what goes best with {which}",
    }
    for option in Recipe.__struct_fields__:
        if options.get(option) is None and option not in ("finest_stride", "epochs", "batch_size"):
            yield Decision(option, getattr(recipe, option), reasons.get(option, ""))


def _finest_stride(options: TrainOptions, train: DetectionIndex) -> Iterator[Decision]:
    """A map of stride 8 for objects that stride 16 cannot tell apart; else none, as it costs a tenth of the time."""
    if options.detector.finest_stride is not None or _asks_for_its_own_losses(options):
        return
    boxes = _boxes(options, train)
    limit = COARSE_STRIDES * 16
    small = boxes.sides.min(axis=1, initial=math.inf) < limit
    share = float(small.mean()) if len(small) else 0.0
    names = [
        name
        for label, name in enumerate(train.class_names)
        if (own := boxes.labels == label).sum() >= COUNTED_CLASS and small[own].mean() >= SMALL_SHARE_OF_CLASS
    ]
    if share >= SMALL_SHARE or names:
        of = f", most of all {', '.join(names[:3])}" if names else ""
        reason = f"{share:.0%} of the boxes have a side of less than {limit:g} px at the input{of}"
        yield Decision("finest_stride", 8, reason)
    elif options.start.weights in (START, NO_WEIGHTS):
        yield Decision("finest_stride", 16, f"{1 - share:.0%} of the boxes have sides of {limit:g} px and more")


def _batch(options: TrainOptions, train: DetectionIndex) -> Iterator[Decision]:
    if options.optimization.batch_size is None:
        size = 8 if len(train) < LARGE_SET else 16
        yield Decision("batch_size", size, f"more steps from {len(train)} pictures" if size == 8 else "")


def _length(options: TrainOptions, train: DetectionIndex) -> Iterator[Decision]:
    """By the pictures that are seen: a small set needs more epochs."""
    if options.optimization.epochs is None and options.optimization.time is None:
        length = FINE_TUNING if options.start.detector_weights else FROM_SCRATCH
        epochs = max(length.least_epochs, math.ceil(length.pictures / len(train)))
        yield Decision("epochs", epochs, f"{epochs * len(train)} pictures are seen")


def _evaluations(options: TrainOptions, train: DetectionIndex) -> Iterator[Decision]:
    epochs = options.optimization.epochs
    if options.run.eval_interval is None and epochs is not None:
        interval = evaluation_interval(epochs)
        yield Decision("eval_interval", interval, f"{counted(math.ceil(epochs / interval), 'evaluation')} in the run")
    if options.run.patience is None:
        yield Decision("patience", PATIENCE, "evaluations without a better AP end the run")


def evaluation_interval(epochs: int) -> int:
    return math.ceil(epochs / EVALUATIONS)


def _asks_for_its_own_losses(options: TrainOptions) -> bool:
    preset = options.detector.preset
    return preset is not None and preset_config(preset).head.name not in USUAL_HEADS


def _boxes(options: TrainOptions, train: DetectionIndex) -> InputBoxes:
    """At the network's size, as far as it is known before the detector is."""
    config = preset_config(options.preset_name)
    side = options.detector.image_size
    size = config.input.size if side is None else (side, side)
    return input_boxes(train, size, options.detector.resize or config.input.resize)
