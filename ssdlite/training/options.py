"""Every option of a training run, by part. Needs no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from ssdlite.config import Amp, AnchorsName, AssignerName, BoxLossName, ClassLossName, ImageSize
from ssdlite.datasets.formats.options import LoadOptions
from ssdlite.errors import ConfigError, quote
from ssdlite.training.recipes import AUTO, RECIPES, Recipe, as_given
from ssdlite.validation import Config, convert, require, require_known

BatchNormMode = Literal["train", "reestimate", "frozen"]

# 1: one flat table of options; 2: by part
OPTIONS_VERSION = 2
SHAPES = "shapes"
NO_WEIGHTS = "none"
SHAPES_PRESET = "ssdlite192_mobilenet_v2_050"
DATA_PRESET = "ssdlite320_mobilenet_v2"
# what a run computes does not depend on these
MAY_CHANGE_ON_RESUME = ("data", "unlabelled", "device", "workers", "cache", "logger", "report")
MAY_MOVE = ("weights", "backbone_weights", "teacher")  # to another place, where they have to be the same tensors


def _require_at_least(least: int, options: Config, *names: str) -> None:
    """Raises ConfigError for a number among the named options that is less, infinite or none; None is not given."""
    for name in names:
        value = getattr(options, name)
        if value is not None and not least <= value < math.inf:
            raise ConfigError(f"--{name.replace('_', '-')}: expected {least} or more, got {value}")


LONGEST_DURATION = 20  # characters
DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.ASCII)


def parse_duration(text: str) -> int:
    """Seconds of "1h30m", "20m" or "90s"; 0 of anything else."""
    match = DURATION.fullmatch(text.strip().lower().replace(" ", "")) if len(text) <= LONGEST_DURATION else None
    hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0)
    return 3600 * hours + 60 * minutes + seconds


class DatasetOptions(LoadOptions, frozen=True, kw_only=True):
    """The data set."""

    data: str = SHAPES
    """Folder or annotation file of a data set in any known format (docs/data.md); also --annotations, or the first
    argument. `shapes` is the built-in one."""
    train_split: str | None = None
    """Split to train on, e.g. train2017 or trainval. Default: the customary one."""
    val_split: str | None = None
    """Split to validate on. Default: the customary one; a single split is divided, with --seed."""
    overfit: int | None = None
    """Train and validate on the first so many training images alone, to see that the detector can overfit them.
    Default: all of the splits."""

    def check(self) -> None:
        super().check()
        _require_at_least(1, self, "overfit")


class DetectorOptions(Config, frozen=True, kw_only=True):
    """The detector."""

    preset: str | None = None
    """Name of the detector (ssdlite.list_detectors()). Default: ssdlite320_mobilenet_v2; for shapes the small
    ssdlite192_mobilenet_v2_050."""
    width_mult: float | None = None
    """Channels, as a factor of the published network's. Default: the preset's."""
    image_size: ImageSize | None = None
    """Side of the square network input in pixels, or its height and width. Default: the preset's."""
    resize: Literal["stretch", "letterbox"] | None = None
    """How a picture becomes the input: stretched, or padded to keep its shape. Default: the preset's."""
    finest_stride: Literal[8, 16] | None = None
    """Stride in pixels of the finest feature map; 8 adds one for small objects. Default: the recipe's,
    else the preset's, 16 (litepan320: 8)."""
    anchors: AnchorsName | None = None
    """The preset's anchors (default), or anchors fitted to the boxes of the training split. Default: the recipe's."""
    anchor_budget: int | None = None
    """Most anchors that a fit may use. Default: as many as the preset has."""
    deepen_heads: bool | None = None
    """Predictors that are 1x1 convolutions get a depthwise 3x3 before; with weights one that changes nothing at first.
    Default: the recipe's."""

    def check(self) -> None:
        _require_at_least(1, self, "anchor_budget")


class LossOptions(Config, frozen=True, kw_only=True):
    """The loss and the label assignment."""

    loss: ClassLossName | None = None
    """multibox (softmax with hard negatives 3:1), focal (sigmoid), or qfl (sigmoid; the score learns the box's IoU).
    With auto litepan320 presets have their own loss, box loss and matcher. Default: the recipe's."""
    box_loss: BoxLossName | None = None
    """smooth_l1 on the box code, or the overlap of the boxes themselves: giou, diou, ciou. Default: the recipe's."""
    box_weight: float | None = None
    """Weight of the box loss beside the classification loss. Default: the recipe's, else one that goes with the two."""
    matcher: AssignerName | None = None
    """Label assignment: ssd (IoU of 0.5), atss, or by what is predicted: simota, tal. Default: the recipe's."""

    assignment_guide: bool = False
    """A heavier head, of training alone, chooses the anchors (tal, simota). A step takes several times as long."""

    def check(self) -> None:
        _require_at_least(0, self, "box_weight")


class StartOptions(Config, frozen=True, kw_only=True):
    """Initial weights, and which of them are frozen."""

    weights: str | None = None
    """Detector to start from: openimages, which comes along, a checkpoint, or what `ssdlite import-weights` wrote; none
    starts from scratch. Its shape is kept unless --preset names another, every tensor that fits is loaded, and classes
    of the same name keep theirs. Default: openimages, unless a preset, a recipe or very many pictures speak against it.
    """
    backbone_weights: str | None = None
    """Backbone to start from: imagenet, or a file of torchvision's or timm's weights. Default: imagenet for a preset
    whose weights a package has that is installed, unless --weights, a recipe or very many pictures speak against it;
    else random weights."""
    freeze_stages: int = 0
    """Backbone stages, from the picture on, that keep their weights: 1 is all up to stride 2, 2 up to stride 4, ..."""
    batch_norm: BatchNormMode | None = None
    """Batch-norm statistics: train (they follow the batches), reestimate (first measured anew on the training pictures,
    leaving the function as it is, then train), frozen. Default: reestimate with --weights, else train."""

    def check(self) -> None:
        _require_at_least(0, self, "freeze_stages")
        require(
            self.detector_weights is None or self.backbone_weights is None,
            "--backbone-weights does not go with --weights, which hold a backbone already",
        )

    def require_weights(self) -> None:
        """Raises ConfigError where there is nothing to keep that an option would keep; once weights are decided."""
        require(
            self.has_weights or not (self.freeze_stages or self.batch_norm in ("reestimate", "frozen")),
            "--freeze-stages and --batch-norm reestimate or frozen keep what weights brought along; "
            "they go with --weights or --backbone-weights",
        )

    @property
    def detector_weights(self) -> str | None:
        return None if self.weights == NO_WEIGHTS else self.weights

    @property
    def has_weights(self) -> bool:
        return self.detector_weights is not None or self.backbone_weights is not None

    @property
    def batch_norm_mode(self) -> BatchNormMode:
        return self.batch_norm or ("train" if self.detector_weights is None else "reestimate")


class DistillationOptions(Config, frozen=True, kw_only=True):
    """A larger detector that teaches this one."""

    teacher: str | None = None
    """Detector of the same classes, such as best.pt of a larger preset, whose scores and boxes are learned beside the
    annotations; its input and anchors have to be those of the detector to train, as all litepan320 presets have them.
    Its anchors are taken where they would be fitted. Default: none."""
    distillation_weight: float = 0.5  # of 0.5, 1 and 2 the best on two data sets (docs/notes/frontier.md)
    """Weight of what the teacher says, beside the losses on annotations; 0: it labels pictures only, and may be any
    detector of these classes."""
    unlabelled: str | None = None
    """Folder of pictures without annotations, which the teacher labels when the run begins, to be trained on with the
    others. Default: none."""
    unlabelled_score: float | None = None
    """Score from which what the teacher finds in them is an object; from half of it on it is ignored. Default: of each
    class that with the best F1 on the teacher's own validation data; without it the median of the others', or 0.3."""

    def check(self) -> None:
        _require_at_least(0, self, "distillation_weight")
        require(
            self.unlabelled is None or self.teacher is not None,
            f"--unlabelled {self.unlabelled}: expected --teacher as well, a detector that labels these pictures",
        )
        require(
            self.teacher is None or self.distillation_weight > 0 or self.unlabelled is not None,
            f"--teacher {self.teacher} teaches nothing with --distillation-weight 0 and without --unlabelled",
        )
        score = self.unlabelled_score
        require(score is None or 0 < score <= 1, f"--unlabelled-score: expected above 0, to 1, got {score}")
        require(score is None or self.unlabelled is not None, "--unlabelled-score goes with --unlabelled")

    @property
    def compares_outputs(self) -> bool:
        """Whether the teacher says something of each anchor, and does not label pictures alone."""
        return self.teacher is not None and self.distillation_weight > 0


class OptimizationOptions(Config, frozen=True, kw_only=True):
    """Length of the training, optimizer and learning rate."""

    time: str | None = None
    """Time for the epochs with their evaluations, in place of --epochs, such as 20m, 90s or 1h30m: as many as fit.
    Start-up, scoring of the start, and the report come on top. Default: no limit."""
    epochs: int | None = None
    """Passes over the training images; also -e. Default: the recipe's."""
    batch_size: int | None = None
    """Images per step, over all processes together; also -b. Default: the recipe's."""
    optimizer: Literal["sgd", "adamw"] = "adamw"
    """SGD with Nesterov momentum 0.9, or AdamW."""
    lr: float | None = None
    """Peak learning rate. Default: 0.002 for adamw, 0.05 for sgd, for batches of 16 (scaled with their root), half of
    it with --weights; 0.0057 for adamw where few pictures teach without them; decided from the data where there are
    very many."""
    backbone_lr: float | None = None
    """Learning rate of the backbone as a factor of --lr. Default: that of the recipe with --weights, else 1."""
    weight_decay: float | None = None
    """Weight decay; batch norm and biases have none. Default: 0.05 for adamw, 4e-5 for sgd."""
    warmup_steps: int | None = None
    """Steps over which the learning rate rises to its peak (at most a tenth of all); a cosine takes it down to 0.
    Default: 200; decided from the data where there are very many pictures."""
    clip_norm: float = 10.0
    """Largest norm of the whole gradient; 0 for no limit."""
    ema_decay: float | None = None
    """Decay of the weights' moving average (EMA), which is evaluated and saved; 0: none. Shorter at the start.
    Default: 0.998; decided from the data where there are very many pictures."""

    def check(self) -> None:
        _require_at_least(1, self, "epochs", "batch_size")
        require(
            self.time is None or parse_duration(self.time) > 0,
            f"--time: expected a time such as 20m, 90s or 1h30m, got {quote(self.time)}",
        )
        _require_at_least(0, self, "lr", "backbone_lr", "weight_decay", "warmup_steps", "clip_norm")
        require(self.time is None or self.epochs is None, "--time does not go with --epochs: it decides them")
        require(0 <= self.average_decay < 1, f"--ema-decay: expected 0 to below 1, got {self.ema_decay}")

    @property
    def decay(self) -> float:
        if self.weight_decay is not None:
            return self.weight_decay
        return 0.05 if self.optimizer == "adamw" else 4e-5

    @property
    def average_decay(self) -> float:
        return 0.998 if self.ema_decay is None else self.ema_decay

    @property
    def warmup(self) -> int:
        return 200 if self.warmup_steps is None else self.warmup_steps


class AugmentationOptions(Config, frozen=True, kw_only=True):
    """Augmentation of the pictures."""

    augment: str | None = None
    """Augmentation: none, flip, ssdlite (crop, flip), ssd (also zoom-out, colour), topdown (also any orientation),
    lsj and lsj-topdown (scale jitter in place of the crop). Default: the recipe's."""
    mosaic: float | None = None
    """Share of the samples that show up to four pictures; none in the last epochs. Default: the recipe's."""
    reduced_decoding: bool = False
    """Decode JPEGs of at least twice the input's size at 1/2, 1/4 or 1/8 of theirs, if the crop window needs
    no more. Faster; such pictures are smoother than those that the detector is then given."""

    def check(self) -> None:
        require(
            self.mosaic is None or 0 <= self.mosaic <= 1,
            f"--mosaic: expected a share of the samples, 0 to 1, got {self.mosaic}",
        )


class RunOptions(Config, frozen=True, kw_only=True):
    """The run and its folder."""

    output: str | None = None
    """Run folder. Default: the next free runs/train-NNN."""
    seed: int = 0
    """Seed of all random choices: initial weights, order, augmentation, division of the data."""
    eval_interval: int | None = None
    """Epochs between evaluations; the last epoch is always evaluated. Default: decided from the data; with --recipe
    1."""
    patience: int | None = None
    """Evaluations that bring no 0.005 more AP, after which training ends; 0 for never. Default: decided from the data;
    with --recipe 0."""
    logger: Literal["tensorboard", "wandb", "mlflow", "none"] | None = None
    """Where the figures of the epochs go beside metrics.jsonl: tensorboard (the run folder), wandb (Weights & Biases),
    mlflow, or none. Default: tensorboard where it is installed."""

    report: bool = True
    """At the end write report.html, which shows in pictures what best.pt does wrong on the validation data, and the
    same as report.json into the run folder."""

    def check(self) -> None:
        _require_at_least(0, self, "seed", "patience")
        _require_at_least(1, self, "eval_interval")


class SystemOptions(Config, frozen=True, kw_only=True):
    """Devices, precision and processes."""

    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto is the GPU where there is one."""
    amp: Amp = "auto"
    """Mixed precision; auto is bfloat16 where the hardware computes in it, else float16 on GPUs, else none."""
    workers: int = 2
    """Processes that load and augment images; 0 for none."""
    cache: bool = False
    """Decode every picture once and keep it in a temporary file, which the loading processes share."""

    def check(self) -> None:
        _require_at_least(0, self, "workers")


class TrainOptions(Config, frozen=True, kw_only=True):
    """A training run. With nothing given it trains a small detector on the built-in shapes.

    No two parts have an option of the same name: it is that of the command line's flag.
    """

    recipe: str | None = None
    """Values for all options below that say so. auto: decided from the data, each decision being said; others are the
    same for all data: ssd (the baseline), and for a few hundred pictures small-data with --weights, scratch without.
    Default: auto; shapes for the built-in data."""
    dataset: DatasetOptions = DatasetOptions()
    detector: DetectorOptions = DetectorOptions()
    loss: LossOptions = LossOptions()
    start: StartOptions = StartOptions()
    distillation: DistillationOptions = DistillationOptions()
    optimization: OptimizationOptions = OptimizationOptions()
    augmentation: AugmentationOptions = AugmentationOptions()
    run: RunOptions = RunOptions()
    system: SystemOptions = SystemOptions()

    def check(self) -> None:
        require_known([self.recipe_name], RECIPES, "recipe")
        require(
            self.detector.anchor_budget is None or self.settings.anchors == "fit",
            "--anchor-budget goes with --anchors fit",
        )
        require(
            self.distillation.unlabelled is None or self.dataset.overfit is None,
            "--overfit trains on a few annotated pictures alone; it does not go with --unlabelled",
        )

    @property
    def recipe_name(self) -> str:
        return self.recipe or ("shapes" if self.dataset.data == SHAPES else AUTO)

    @property
    def settings(self) -> Recipe:
        """The recipe, with the options that were given in place of its own.

        Its weight of the box loss belongs to its two losses: with another one it is that one's own.
        """
        recipe = RECIPES[self.recipe_name]
        given = {name: self.get(name) for name in Recipe.__struct_fields__}
        mixed = recipe.changed(**{name: value for name, value in given.items() if value is not None})
        if self.loss.box_weight is None and (mixed.loss, mixed.box_loss) != (recipe.loss, recipe.box_loss):
            return mixed.changed(box_weight=None)
        return mixed

    @property
    def backbone_lr_factor(self) -> float:
        given = self.start.has_weights or self.optimization.backbone_lr is not None
        return self.settings.backbone_lr if given else 1.0

    @property
    def peak_lr(self) -> float:
        if self.optimization.lr is not None:
            return self.optimization.lr
        is_adamw, is_new = self.optimization.optimizer == "adamw", self.start.detector_weights is None
        recipe = RECIPES[self.recipe_name]
        rate, size = (0.002 if is_adamw else 0.05) * (1 if is_new else 0.5), 16
        if recipe.lr is not None and is_adamw and is_new:
            rate, size = recipe.lr, recipe.batch_size
        return float(rate * (self.settings.batch_size / size) ** 0.5)

    @property
    def preset_name(self) -> str:
        return self.detector.preset or (SHAPES_PRESET if self.dataset.data == SHAPES else DATA_PRESET)

    @property
    def summary(self) -> str:
        """What is learned from, and how, in a line."""
        of = self.settings
        mosaic = f", {of.mosaic:.0%} mosaics" if of.mosaic else ""
        weight = "" if of.box_weight is None else f" (weight {of.box_weight:g})"
        return (
            f"recipe {self.recipe_name}: loss {of.loss}, boxes by {of.box_loss}{weight}, anchors chosen by "
            f"{of.matcher}; augmentation {of.augment}{mosaic}; {self.optimization.optimizer}, "
            f"learning rate {self.peak_lr:.2g}, batches of {of.batch_size}"
        )

    def get(self, name: str) -> Any:
        """The value of an option of any part."""
        return getattr(getattr(self, PART_OF[name]), name)

    def override(self, **changes: Any) -> TrainOptions:
        """A copy with other values of options of any part: ``options.override(data="pictures", epochs=30)``.

        Raises:
            ConfigError: an unknown name, listing the known ones, or a value that is refused.
        """
        require_known(changes, ["recipe", *PART_OF], "option")
        parts: dict[str, Any] = {}
        for name, value in changes.items():
            if name == "recipe":
                parts[name] = value
            else:
                parts.setdefault(PART_OF[name], {})[name] = value
        return self.changed(
            **{
                part: getattr(self, part).changed(**values) if isinstance(values, dict) else values
                for part, values in parts.items()
            }
        )

    def spelled_out(self) -> TrainOptions:
        """The same run with everything named, so that it stays the same when a recipe changes."""
        return self.override(
            **msgspec.structs.asdict(self.settings)
            | {
                "recipe": self.recipe_name,
                "backbone_lr": self.backbone_lr_factor,
                "batch_norm": self.start.batch_norm_mode,
                "lr": self.peak_lr,
                "weight_decay": self.optimization.decay,
                "warmup_steps": self.optimization.warmup,
                "ema_decay": self.optimization.average_decay,
                "patience": self.run.patience or 0,
            }
        )

    def require_same_run(self, stored: TrainOptions) -> None:
        """Raises ConfigError for the first option that would make it another run than the ``stored`` one."""
        require(
            self.run.output == stored.run.output,
            f"--output {self.run.output} does not go with --resume: a run stays in its folder",
        )
        for name, value in {"recipe": self.recipe, **{name: self.get(name) for name in PART_OF}}.items():
            kept = stored.recipe if name == "recipe" else stored.get(name)
            moved = name in MAY_MOVE and None not in (value, kept)
            if value != kept and name not in MAY_CHANGE_ON_RESUME and not moved:
                option = f"--{name.replace('_', '-')}"
                raise ConfigError(
                    f"{option} {as_given(value)} cannot be changed on resuming: the run has {as_given(kept)}; "
                    f"leave {option} out, or begin a new run from its best.pt with --weights"
                )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and checkpoints."""
        return {"version": OPTIONS_VERSION, **super().to_dict()}

    @staticmethod
    def from_dict(values: Any) -> TrainOptions:
        """The inverse of ``to_dict``, also for what earlier versions wrote.

        Raises:
            ConfigError: unknown names, values of a wrong type or out of range, or a version to come.
        """
        return convert(upgrade_options(values), TrainOptions, "training options")


# an option, as its flag is called -> its part
PART_OF = {
    name: part.name
    for part in msgspec.structs.fields(TrainOptions)
    if isinstance(part.type, type) and issubclass(part.type, Config)
    for name in part.type.__struct_fields__
}


def upgrade_options(values: Any) -> Any:
    """What any version wrote -> what the newest does, without its version number; not checked otherwise."""
    if not isinstance(values, Mapping):
        return values
    version = values.get("version", 1)
    if version == OPTIONS_VERSION:
        return {name: value for name, value in values.items() if name != "version"}
    if version != 1:
        raise ConfigError(
            f"training options: version {version!r}; this version of ssdlite reads up to {OPTIONS_VERSION}"
        )
    try:
        require_known(values, ["recipe", "resume", *PART_OF], "option")
    except ConfigError as error:
        raise ConfigError(f"training options: {error}") from None
    upgraded: dict[str, Any] = {"recipe": values.get("recipe")}  # without "resume", which is of one call
    for name in values.keys() & PART_OF.keys():
        upgraded.setdefault(PART_OF[name], {})[name] = values[name]
    return upgraded
