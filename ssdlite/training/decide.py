"""What a person would have to know, decided from the data: the plain ``ssdlite train --data X``.

Each rule looks at the training split and gives one option, its value and the reason in a line. What is given on the
command line is never decided. The rules were settled on several data sets at once, docs/results.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from ssdlite.checkpoint import Checkpoint
from ssdlite.config import input_size, preset_config
from ssdlite.datasets.anchor_coverage import COARSE_STRIDES, input_boxes
from ssdlite.datasets.index import DetectionIndex, match_classes
from ssdlite.device import names_gpu
from ssdlite.files import counted
from ssdlite.training.options import NO_WEIGHTS, TrainOptions
from ssdlite.training.recipes import AUTO, RECIPES, Recipe, as_given
from ssdlite.training.sources import WeightSource, base_config, read_weights
from ssdlite.weights.backbones import IMAGENET, PUBLISHED, imagenet_is_installed

START = "openimages"
INPUT_SIDES = (320, 416, 512)  # px; the network that comes along was trained at 300, no multiple of its strides
LEAST_SIDE = 24  # px at the input, below which objects gain by a larger one
GAINING_SHARE = 0.25  # of all boxes being below it, or half of a class's, from which a larger one is worth its time
GAINING_SHARE_OF_CLASS = 0.5
KNOWN_AP = 0.15  # from which a detector that knows all the classes is kept as it is, and taught gently
GENTLE_LR = 3e-5
# arXiv 1811.08883 finds no gain from pretraining in the accuracy reached, from 10,000 COCO pictures (figure 8) on
MOST_FINE_TUNED = 20_000
EVALUATIONS = 25  # in a run
PATIENCE = (
    8  # of them that bring no more than chance: the cosine takes the learning rate down meanwhile, which helps for long
)
LEAST_GAIN = 0.005  # in AP; less is chance
SMALL_SHARE = 0.05  # of all boxes, or a quarter of a class's, from which a finer map is worth its time
SMALL_SHARE_OF_CLASS = 0.25
COUNTED_CLASS = 10  # boxes, from which a class counts on its own
LARGE_SET = 3_000  # pictures, from which larger batches have enough steps
USUAL_PARTS = ("ssdlite", "extra_layers")  # a detector with another head or neck says itself which losses it asks for
USUAL_BATCH = 8
GUIDED_ASSIGNER = "tal"
LEAST_OF_PROCESS = 4  # pictures in its part of a batch, whose statistics batch norm takes
# With more than MOST_FINE_TUNED pictures: as NanoDet-Plus is trained on COCO, which has our optimizer and weight decay
# (RangiLyu/nanodet, config/nanodet-plus-m_320.yml). PicoDet-S has the same length and average (PaddleDetection,
# configs/picodet); SSDLite was given 600 epochs and more, with batches of 192 (torchvision, mmdetection).
LONG_EPOCHS = 300
LONG_BATCH, LONG_BATCH_OF_GPU = 96, 32
LONG_RATE = 0.001  # of AdamW with such a batch; others have it with the root of their size (arXiv 2205.10287)
LONG_WARMUP = 500  # steps
LONG_AVERAGE = 0.9998
LONG_AUGMENT = "ssdlite"


class Length(NamedTuple):
    """Of a run: the pictures that are seen, each epoch's again."""

    pictures: int
    least_epochs: int


# what two CPU cores see in about 20 minutes
FINE_TUNING, FINE_TUNING_LARGE, FROM_SCRATCH = Length(20_000, 20), Length(12_000, 20), Length(18_000, 60)


class Decision(NamedTuple):
    """An option that was decided: ``str`` is the line for people."""

    option: str
    value: Any
    reason: str

    def __str__(self) -> str:
        flag = f"--{self.option.replace('_', '-')}"
        return f"{flag} {'none' if self.value is None else as_given(self.value)}: {self.reason}"


class Decided(NamedTuple):
    options: TrainOptions
    decisions: tuple[Decision, ...]
    source: WeightSource  # what the options start from


def decide(
    options: TrainOptions,
    train: DetectionIndex,
    source: WeightSource = None,
    score: Callable[[Checkpoint], float | None] | None = None,
    processes: int = 1,
) -> Decided:
    """``options`` with what is not given named after the data, for the recipe ``auto``; any other is as it says.

    Args:
        source: the weights that ``options`` name.
        score: AP of the detector of a checkpoint on training pictures, before it is trained on them.
        processes: that train as one.
    """
    if options.recipe_name != AUTO:
        return Decided(options, (), source)
    decisions: list[Decision] = []

    def take(rule: Iterable[Decision]) -> TrainOptions:
        found = [decision for decision in rule if options.get(decision.option) is None]
        decisions.extend(found)
        return options.override(**{decision.option: decision.value for decision in found})

    given = options.start
    options = take(_start(options, train))
    if options.start != given:
        source = read_weights(options)
    if isinstance(source, Checkpoint) and score is not None:
        options = take(_keep(options, train, source, score))
    of_ssdlite = () if _asks_for_its_own_losses(options, source) else (_losses, _finest_stride)
    for rule in (_size, _augmentation, _guided, *of_ssdlite):
        options = take(rule(options, train))
    options = take(_batch(options, train, processes))
    for rule in (_large_steps, _schedule, _length, _evaluations):
        options = take(rule(options, train))
    return Decided(options, tuple(decision for decision in decisions if decision.reason), source)


def _start(options: TrainOptions, train: DetectionIndex) -> Iterator[Decision]:
    """Which weights to begin with."""
    if options.start.weights is not None or options.start.backbone_weights is not None:
        return
    if options.detector.preset is not None or options.detector.width_mult is not None:
        yield _start_of_another_shape(options, train)
    elif len(train) > MOST_FINE_TUNED:
        yield Decision("weights", NO_WEIGHTS, f"{len(train)} pictures are enough to learn from alone")
    else:
        yield Decision("weights", START, f"{len(train)} pictures are few; a trained detector learns faster from them")


def _start_of_another_shape(options: TrainOptions, train: DetectionIndex) -> Decision:
    """ImageNet's backbone, where it is there: it is worth twice the pictures (docs/notes/frontier.md)."""
    backbone = preset_config(options.preset_name, width_mult=options.detector.width_mult).backbone
    another = "a detector of another shape is asked for, so it starts from scratch"
    if _is_very_large(train) or (backbone.name, backbone.width_mult) not in PUBLISHED:
        return Decision("weights", NO_WEIGHTS, another)
    if not imagenet_is_installed(backbone.name, backbone.width_mult):
        return Decision("weights", NO_WEIGHTS, f"{another}; --backbone-weights {IMAGENET} gives it trained layers")
    reason = f"{len(train)} pictures are few; trained layers learn more from them (--weights none for none)"
    return Decision("backbone_weights", IMAGENET, reason)


def _keep(
    options: TrainOptions, train: DetectionIndex, source: Checkpoint, score: Callable[[Checkpoint], float | None]
) -> Iterator[Decision]:
    """A detector that finds all of these classes already loses by what others gain by: another shape, large steps."""
    config = source.config
    if options.start.weights != START or options.detector.preset is not None:
        return
    if None in match_classes(train.class_names, config.class_names):
        return
    ap = score(source) or 0.0
    if ap < KNOWN_AP:
        return
    found = f"{START} finds these classes already, AP {ap:.3f} on training pictures"
    yield Decision("lr", GENTLE_LR, f"{found}: small steps, and its own input size, anchors and maps")
    yield Decision("image_size", config.input.size, "")
    yield Decision("anchors", "default", "")
    yield Decision("deepen_heads", False, "")
    yield Decision("finest_stride", 8 if config.strides[0] == 8 else 16, "")


def _size(options: TrainOptions, train: DetectionIndex) -> Iterator[Decision]:
    """The smallest at which few objects are too small to be seen."""
    if options.start.weights != START:
        return
    shares = ((side, _small(options.override(image_size=side), train, LEAST_SIDE)) for side in INPUT_SIDES)
    large_enough = (
        side for side, share in shares if share.all < GAINING_SHARE and share.of_class < GAINING_SHARE_OF_CLASS
    )
    side = next(large_enough, INPUT_SIDES[-1])
    if side == INPUT_SIDES[0]:
        yield Decision("image_size", side, "large enough for these objects")
        return
    small = _small(options.override(image_size=INPUT_SIDES[0]), train, LEAST_SIDE)
    cost = (side / INPUT_SIDES[0]) ** 2
    of = f", {small.of_class:.0%} of those of {small.name}" if small.of_class >= GAINING_SHARE_OF_CLASS else ""
    reason = f"at {INPUT_SIDES[0]} px {small.all:.0%} of the boxes{of} have a side below {LEAST_SIDE} px"
    yield Decision("image_size", side, f"{reason}; {cost:.1f} times the computing")


def _losses(options: TrainOptions, train: DetectionIndex) -> Iterator[Decision]:
    """Those of the recipe that goes with the start, and what else it says that does not depend on the data."""
    name = "small-data" if options.start.detector_weights else "scratch"
    recipe = options.changed(recipe=name).settings
    which = "fine-tuning" if name == "small-data" else "training from scratch"
    reasons = {
        "anchors": f"shapes fitted to the {int((~train.ignore).sum())} boxes to learn from",
        "loss": f"with {recipe.box_loss} and {recipe.matcher}, what goes best with {which}",
    }
    for option in Recipe.__struct_fields__:
        if option not in ("finest_stride", "epochs", "batch_size", "lr", "backbone_lr", "mosaic"):
            yield Decision(option, getattr(recipe, option), reasons.get(option, ""))


def _guided(options: TrainOptions, train: DetectionIndex) -> Iterator[Decision]:
    if options.loss.assignment_guide:
        yield Decision("matcher", GUIDED_ASSIGNER, "by what the guide predicts")


def _large_steps(options: TrainOptions, train: DetectionIndex) -> Iterator[Decision]:
    if _starts_from_few(options, train) and options.optimization.optimizer == "adamw":
        yield Decision("lr", float(f"{options.changed(recipe='scratch').peak_lr:.2g}"), "few pictures teach sooner so")


def _finest_stride(options: TrainOptions, train: DetectionIndex) -> Iterator[Decision]:
    """A map of stride 8 for objects that stride 16 cannot tell apart; else none, as it costs a tenth of the time."""
    limit = COARSE_STRIDES * 16
    small = _small(options, train, limit)
    if small.all >= SMALL_SHARE or small.of_class >= SMALL_SHARE_OF_CLASS:
        of = f", most of all {small.name}" if small.of_class >= SMALL_SHARE_OF_CLASS else ""
        reason = f"{small.all:.0%} of the boxes have a side of less than {limit:g} px at the input{of}"
        yield Decision("finest_stride", 8, reason)
    elif options.start.weights in (START, NO_WEIGHTS):
        yield Decision("finest_stride", 16, f"{1 - small.all:.0%} of the boxes have sides of {limit:g} px and more")


def _batch(options: TrainOptions, train: DetectionIndex, processes: int) -> Iterator[Decision]:
    least = LEAST_OF_PROCESS * processes if processes > 1 else 1
    if _is_very_large(train) and names_gpu(options.system.device):
        size = max(LONG_BATCH, LONG_BATCH_OF_GPU * processes)
        yield Decision("batch_size", size, f"{size // processes} on {'each' if processes > 1 else 'the'} GPU")
    elif len(train) < LARGE_SET:
        yield Decision("batch_size", max(USUAL_BATCH, least), f"more steps from {len(train)} pictures")
    else:
        yield Decision("batch_size", max(16, least), "")


def _augmentation(options: TrainOptions, train: DetectionIndex) -> Iterator[Decision]:
    if _is_very_large(train):
        yield Decision("augment", LONG_AUGMENT, "crops and flips are enough for small networks and many pictures")
    elif _starts_from_few(options, train) and options.augmentation.augment is None:
        mosaic = RECIPES["scratch"].mosaic
        yield Decision("mosaic", mosaic, "few pictures are seen often; every second sample shows up to four of them")


def _schedule(options: TrainOptions, train: DetectionIndex) -> Iterator[Decision]:
    """Of learning rate and average, where there are pictures for long runs."""
    if not _is_very_large(train):
        return
    size, share = options.settings.batch_size, 1.0 if options.start.detector_weights is None else 0.5
    if options.optimization.optimizer == "adamw":
        rate = float(f"{LONG_RATE * share * math.sqrt(size / LONG_BATCH):.2g}")
        of = f"NanoDet-Plus's {LONG_RATE:g} for batches of {LONG_BATCH}, with the root of their size"
        yield Decision("lr", rate, of + (", halved for trained weights" if share < 1 else ""))
    yield Decision("warmup_steps", LONG_WARMUP, "as NanoDet-Plus")
    pictures = round(size / (1 - LONG_AVERAGE))
    reason = f"the average is over some {pictures} pictures, {pictures / len(train):.1f} epochs"
    yield Decision("ema_decay", LONG_AVERAGE, reason)


def _length(options: TrainOptions, train: DetectionIndex) -> Iterator[Decision]:
    """By the pictures that are seen: a small set needs more epochs."""
    if options.optimization.time is not None:
        return
    if _is_long(options, train):
        seen = f"{LONG_EPOCHS * len(train)} pictures are seen"
        reason = f"{seen}, as NanoDet-Plus and PicoDet see COCO's (SSDLite: twice as many); --time or --epochs for less"
        yield Decision("epochs", LONG_EPOCHS, reason)
        return
    size = input_size(options.detector.image_size or INPUT_SIDES[0])
    fine_tuning = FINE_TUNING if math.prod(size) <= INPUT_SIDES[0] ** 2 else FINE_TUNING_LARGE
    length = fine_tuning if options.start.detector_weights else FROM_SCRATCH
    epochs = max(length.least_epochs, math.ceil(length.pictures / len(train)))
    yield Decision("epochs", epochs, f"{epochs * len(train)} pictures are seen")


def _evaluations(options: TrainOptions, train: DetectionIndex) -> Iterator[Decision]:
    epochs = options.optimization.epochs
    if epochs is not None:
        interval = evaluation_interval(epochs)
        yield Decision("eval_interval", interval, f"{counted(math.ceil(epochs / interval), 'evaluation')} in the run")
    if _is_long(options, train):
        yield Decision("patience", 0, "the published runs go to their end, where the cosine brings most")
    else:
        yield Decision("patience", PATIENCE, f"evaluations without {LEAST_GAIN:g} more AP end the run")


def _is_very_large(train: DetectionIndex) -> bool:
    return len(train) > MOST_FINE_TUNED


def _starts_from_few(options: TrainOptions, train: DetectionIndex) -> bool:
    return not _is_very_large(train) and options.start.detector_weights is None


def _is_long(options: TrainOptions, train: DetectionIndex) -> bool:
    return _is_very_large(train) and options.start.detector_weights is None


def evaluation_interval(epochs: int) -> int:
    return math.ceil(epochs / EVALUATIONS)


def _asks_for_its_own_losses(options: TrainOptions, source: WeightSource) -> bool:
    """The preset, or else the weights, whose shape is kept."""
    config = base_config(options, source)
    return (config.head.name, config.neck.name) != USUAL_PARTS


class _SmallBoxes(NamedTuple):
    """Shares of boxes with a side below a limit: of all boxes, and of the class with the most."""

    all: float
    of_class: float = 0.0
    name: str = ""


def _small(options: TrainOptions, train: DetectionIndex, limit: float) -> _SmallBoxes:
    """``limit`` in pixels of the network's input, as far as it is known before the detector is."""
    config = preset_config(options.preset_name)
    given = options.detector.image_size
    size = config.input.size if given is None else input_size(given)
    boxes = input_boxes(train, size, options.detector.resize or config.input.resize)
    small = boxes.sides.min(axis=1, initial=math.inf) < limit
    classes = (
        (float(small[own].mean()), name)
        for label, name in enumerate(train.class_names)
        if (own := boxes.labels == label).sum() >= COUNTED_CLASS
    )
    return _SmallBoxes(float(small.mean()) if len(small) else 0.0, *max(classes, default=(0.0, "")))
