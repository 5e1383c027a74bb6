"""Named training recipes: the values of options of ``ssdlite train`` that the user does not give. Needs no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import tyro

from ssdlite.config import AnchorsName, AssignerName, BoxLossName, ClassLossName
from ssdlite.device import Amp
from ssdlite.errors import ConfigError
from ssdlite.validation import require_known, suggest


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Defaults of the options of the same names (``ssdlite.training.options``)."""

    anchors: AnchorsName = "default"
    finest_stride: Literal[8, 16] | None = None
    deepen_heads: bool = False
    loss: ClassLossName = "multibox"
    box_loss: BoxLossName = "smooth_l1"
    box_weight: float | None = None
    matcher: AssignerName = "ssd"
    epochs: int = 60
    batch_size: int = 16
    augment: str = "ssdlite"
    mosaic: float = 0.0
    backbone_lr: float = 1.0


RECIPES: dict[str, Recipe] = {
    # arXiv 1512.02325 with the optimiser of today: the reference that the others are measured against
    "ssd": Recipe(),
    # for the built-in shapes, of which there are as many as one likes
    "shapes": Recipe(epochs=10, augment="flip"),
    # a few hundred pictures and no weights; chosen on BCCD's validation split, docs/results.md
    "scratch": Recipe(anchors="fit", finest_stride=8, matcher="atss", batch_size=8),
    # a few hundred pictures and the weights of a detector; chosen on BCCD's validation split, docs/results.md
    "small-data": Recipe(
        anchors="fit",
        finest_stride=8,
        deepen_heads=True,
        loss="qfl",
        box_loss="giou",
        box_weight=6.0,
        matcher="simota",
        batch_size=8,
        epochs=30,
    ),
}


def find_recipe(name: str) -> Recipe:
    """Raises ConfigError for an unknown name, listing the known ones."""
    if name not in RECIPES:
        raise ConfigError(f"unknown recipe {name!r}{suggest(name, RECIPES)}")
    return RECIPES[name]


# --- Every option of a training run as one dataclass: command line, ``config.json`` and checkpoint all hold it.

BatchNormMode = Literal["train", "reestimate", "frozen"]

MAX_STAGES = 5  # the backbones end at stride 32
SHAPES = "shapes"
SHAPES_PRESET = "ssdlite192_mobilenet_v2_050"
DATA_PRESET = "ssdlite320_mobilenet_v2"
MAY_CHANGE_ON_RESUME = ("data", "device", "workers", "resume")


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of ``train_det.py``. With none given it trains a small detector on the built-in shapes."""

    data: str = SHAPES
    """Folder of a COCO or VOC data set, recognised by looking; `shapes` is the built-in one."""
    train_split: str | None = None
    """Split to train on, e.g. train2017 or trainval. Default: the customary one."""
    val_split: str | None = None
    """Split to validate on. Default: the customary one; a single split is divided, with --seed."""
    classes: tuple[str, ...] | None = None
    """Names of the classes to learn. Default: all of the data."""
    overfit: int | None = None
    """Train and validate on the first so many training images alone, to see that they can be learned by heart."""
    skip_bad: bool = False
    """Leave out images and annotations that cannot be used, counting them, instead of stopping."""

    recipe: str | None = None
    """Values for all options below that say so: ssd (the reference); for a few hundred pictures small-data with
    --weights, scratch without. Default: ssd; shapes for the built-in data."""
    preset: str | None = None
    """Which detector (ssdlite.list_detectors()). Default: ssdlite320_mobilenet_v2; a small one for shapes."""
    width_mult: float | None = None
    """Channels, as a factor of the published network's. Default: the preset's."""
    image_size: int | None = None
    """Side of the square network input in pixels. Default: the preset's."""
    resize: Literal["stretch", "letterbox"] | None = None
    """How a picture becomes the input: stretched, or padded to keep its shape. Default: the preset's."""
    finest_stride: Literal[8, 16] | None = None
    """Input pixels per cell of the first map; 8 adds a map for small objects. Default: the recipe's,
    else the preset's, 16."""
    anchors: AnchorsName | None = None
    """The preset's anchors (default), or anchors fitted to the boxes of the training split. Default: the recipe's."""
    anchor_budget: int | None = None
    """Most anchors that a fit may use. Default: as many as the preset has."""
    deepen_heads: bool | None = None
    """Predictors that are 1x1 convolutions get a depthwise 3x3 before; with weights one that changes nothing at first.
    Default: the recipe's."""
    loss: ClassLossName | None = None
    """multibox (softmax with hard negatives 3:1), focal (sigmoid), or qfl (sigmoid; the score learns the box's IoU).
    Default: the recipe's; with --weights and no --recipe, one that goes with their scores."""
    box_loss: BoxLossName | None = None
    """smooth_l1 on the box code, or the overlap of the boxes themselves: giou, diou, ciou. Default: the recipe's."""
    box_weight: float | None = None
    """Weight of the box loss beside the classification loss. Default: the recipe's, else one that goes with the two."""
    matcher: AssignerName | None = None
    """Which anchors answer for an object: ssd (IoU of 0.5), atss, or simota (by cost). Default: the recipe's."""

    weights: str | None = None
    """Detector to start from, a checkpoint or what `ssdlite import-weights` wrote: its shape is kept unless --preset
    names another, every tensor that fits is loaded, and classes of the same name keep theirs."""
    backbone_weights: str | None = None
    """Backbone to start from: imagenet, or a file of torchvision's or timm's weights."""
    freeze_stages: int = 0
    """Backbone stages, from the picture on, that keep their weights: 1 is all up to stride 2, 2 up to stride 4, ..."""
    backbone_lr: float | None = None
    """Learning rate of the backbone as a factor of --lr. Default: the recipe's with weights, 1 without."""
    batch_norm: BatchNormMode | None = None
    """Batch-norm statistics: train (they follow the batches), reestimate (first measured anew on the training pictures,
    leaving the function as it is, then train), frozen. Default: reestimate with --weights, else train."""

    epochs: Annotated[int | None, tyro.conf.arg(aliases=["-e"])] = None
    """Passes over the training images. Default: the recipe's, 60; 10 for shapes."""
    batch_size: Annotated[int | None, tyro.conf.arg(aliases=["-b"])] = None
    """Images per step, over all processes together. Default: the recipe's, 16."""
    optimizer: Literal["sgd", "adamw"] = "adamw"
    """SGD with Nesterov momentum 0.9, or AdamW."""
    lr: float | None = None
    """Peak learning rate. Default: 0.002 for adamw, 0.05 for sgd, for batches of 16 (scaled with their root); half of
    it with --weights."""
    weight_decay: float | None = None
    """Default: 0.05 for adamw, 4e-5 for sgd. Norms and biases have none."""
    warmup_steps: int = 200
    """Steps over which the learning rate rises to its peak (at most a tenth of all); a cosine takes it down to 0."""
    clip_norm: float = 10.0
    """Largest norm of the whole gradient; 0 for no limit."""
    ema_decay: float = 0.998
    """Decay of the weight average that is evaluated and saved; 0 for none. Shorter at the start of a run."""
    augment: str | None = None
    """Augmentation: none, flip, ssdlite (crop, flip), ssd (also zoom-out, colour), topdown (also any orientation),
    lsj and lsj-topdown (scale jitter in place of the crop). Default: the recipe's."""
    mosaic: float | None = None
    """Share of the samples that show up to four pictures; none in the last epochs. Default: the recipe's, 0."""

    output: str | None = None
    """Run folder. Default: the next free runs/train-NNN."""
    resume: str | None = None
    """Run folder to continue, with its own options; the result is that of a run that was never stopped."""
    seed: int = 0
    """Of everything random: initial weights, order, augmentation, division of the data."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto is the GPU where there is one."""
    amp: Amp = "auto"
    """Mixed precision; auto is bfloat16 where the hardware computes in it, else float16 on GPUs, else none."""
    workers: int = 2
    """Processes that load and augment images; 0 for none."""
    cache: bool = False
    """Decode every picture once and keep it in a temporary file, which the loading processes share."""
    reduced_decoding: bool = False
    """Decode JPEGs of at least twice the input's size at 1/2, 1/4 or 1/8 of theirs, where what is shown of them needs
    no more. Faster; such pictures are smoother than those that the detector is then given."""
    eval_interval: int = 1
    """Epochs between evaluations; the last epoch is always evaluated."""

    def __post_init__(self) -> None:
        positive = ("epochs", "batch_size", "eval_interval", "overfit", "anchor_budget")
        not_negative = (
            "warmup_steps",
            "clip_norm",
            "workers",
            "seed",
            "lr",
            "weight_decay",
            "backbone_lr",
            "box_weight",
            "freeze_stages",
        )
        for name in positive:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')}: expected 1 or more, got {value}")
        for name in not_negative:
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ConfigError(f"--{name.replace('_', '-')}: expected 0 or more, got {value}")
        if self.freeze_stages > MAX_STAGES:
            raise ConfigError(
                f"--freeze-stages: expected 0 to {MAX_STAGES} (all of the backbone), got {self.freeze_stages}"
            )
        if (
            self.resume is None
            and not self.has_weights
            and (self.freeze_stages or self.batch_norm in ("reestimate", "frozen"))
        ):
            raise ConfigError(
                "--freeze-stages and --batch-norm reestimate or frozen keep what weights brought along; "
                "they go with --weights or --backbone-weights"
            )
        if self.weights is not None and self.backbone_weights is not None:
            raise ConfigError("--backbone-weights does not go with --weights, which hold a backbone already")
        find_recipe(self.recipe_name)
        if self.anchor_budget is not None and self.settings.anchors != "fit":
            raise ConfigError("--anchor-budget goes with --anchors fit")
        if self.mosaic is not None and not 0 <= self.mosaic <= 1:
            raise ConfigError(f"--mosaic: expected a share of the samples, 0 to 1, got {self.mosaic}")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"--ema-decay: expected 0 to below 1, got {self.ema_decay}")

    @property
    def has_weights(self) -> bool:
        return self.weights is not None or self.backbone_weights is not None

    @property
    def recipe_name(self) -> str:
        return self.recipe or ("shapes" if self.data == SHAPES else "ssd")

    @property
    def settings(self) -> Recipe:
        """The recipe, with the options that were given in place of its own.

        Its weight of the box loss belongs to its two losses: with another one it is that one's own.
        """
        recipe = find_recipe(self.recipe_name)
        given = {field.name: getattr(self, field.name) for field in fields(Recipe)}
        mixed = replace(recipe, **{name: value for name, value in given.items() if value is not None})
        if self.box_weight is None and (mixed.loss, mixed.box_loss) != (recipe.loss, recipe.box_loss):
            return replace(mixed, box_weight=None)
        return mixed

    @property
    def backbone_lr_factor(self) -> float:
        return self.settings.backbone_lr if self.has_weights or self.backbone_lr is not None else 1.0

    @property
    def batch_norm_mode(self) -> BatchNormMode:
        return self.batch_norm or ("train" if self.weights is None else "reestimate")

    @property
    def peak_lr(self) -> float:
        if self.lr is not None:
            return self.lr
        rate = 0.002 if self.optimizer == "adamw" else 0.05
        share = 1.0 if self.weights is None else 0.5
        return float(rate * share * (self.settings.batch_size / 16) ** 0.5)

    @property
    def decay(self) -> float:
        if self.weight_decay is not None:
            return self.weight_decay
        return 0.05 if self.optimizer == "adamw" else 4e-5

    @property
    def preset_name(self) -> str:
        return self.preset or (SHAPES_PRESET if self.data == SHAPES else DATA_PRESET)

    @property
    def summary(self) -> str:
        """What is learned from, and how, in a line."""
        of = self.settings
        mosaic = f", {of.mosaic:.0%} mosaics" if of.mosaic else ""
        weight = "" if of.box_weight is None else f" (weight {of.box_weight:g})"
        boxes = of.box_loss + weight
        return (
            f"recipe {self.recipe_name}: loss {of.loss}, boxes by {boxes}, anchors chosen by {of.matcher}; "
            f"augmentation {of.augment}{mosaic}; "
            f"{self.optimizer}, learning rate {self.peak_lr:.2g}, batches of {of.batch_size}"
        )

    def spelled_out(self) -> TrainOptions:
        """The same run with everything named, so that it stays the same when a recipe changes."""
        own = {
            "recipe": self.recipe_name,
            "backbone_lr": self.backbone_lr_factor,
            "batch_norm": self.batch_norm_mode,
            "lr": self.peak_lr,
            "weight_decay": self.decay,
        }
        return replace(self, **(vars(self.settings) | own))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and checkpoints."""
        values = asdict(self)
        values["classes"] = None if self.classes is None else list(self.classes)
        return values

    @staticmethod
    def from_dict(values: Any) -> TrainOptions:
        try:
            require_known(values, (field.name for field in fields(TrainOptions)), "option")
            return msgspec.convert(values, TrainOptions, strict=True)
        except (ConfigError, msgspec.ValidationError, TypeError) as error:
            raise ConfigError(f"training options: {error}") from None

    def resumed(self, stored: TrainOptions) -> TrainOptions:
        """The options of the run being resumed, with what may differ taken from here.

        Raises:
            ConfigError: an option was given that would make it another run.
        """
        if self.output is not None:
            raise ConfigError(f"--output {self.output} does not go with --resume: a run stays in its folder")
        default, given, kept = TrainOptions().to_dict(), self.to_dict(), stored.to_dict()
        for name, value in given.items():
            if value == default[name]:
                continue
            if name not in MAY_CHANGE_ON_RESUME and value != kept[name]:
                option = f"--{name.replace('_', '-')}"
                raise ConfigError(
                    f"{option} {value} cannot be changed on resuming: the run has {kept[name]}; leave {option} out"
                )
            kept[name] = value
        return TrainOptions.from_dict({**kept, "resume": self.resume})


def next_run_folder(parent: Path = Path("runs")) -> Path:
    """runs/train-001, or the number behind the highest one there."""
    numbers = [int(path.name[6:]) for path in parent.glob("train-*") if path.name[6:].isdigit()]
    return parent / f"train-{max(numbers, default=0) + 1:03d}"
