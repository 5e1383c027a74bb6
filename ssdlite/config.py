"""Everything that defines a detector, by part: what goes into every checkpoint, and the presets. Needs no torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ssdlite.anchors import (
    MAX_ANCHORS,
    SSDLITE_ANCHORS,
    AnchorConfig,
    square_anchors,
    tensorflow_anchors,
    torchvision_anchors,
    with_finer_level,
)
from ssdlite.errors import ConfigError, is_text, quote
from ssdlite.validation import Config, convert, require, require_kind, require_known, suggest

# 1: one flat table of options; 2: by part
CONFIG_VERSION = 2
MAX_IMAGE_SIDE = 4096
MAX_CLASSES = 100_000
MAX_MAPS = 10
MAX_CHANNELS = 8192
LAST_BACKBONE_STRIDE = 32  # of the MobileNets; coarser maps are the neck's

Narrowing = Literal["classifier", "detection_api"]
ScoreFunction = Literal["softmax", "sigmoid"]
# names that options of training may have
ClassLossName = Literal["multibox", "focal", "qfl"]
ActivationName = Literal["relu6", "relu", "leaky_relu", "silu", "hardswish"]
BoxLossName = Literal["smooth_l1", "giou", "diou", "ciou"]
AssignerName = Literal["ssd", "atss", "simota", "tal"]
KernelSize = Literal[3, 5]
JointName = Literal["separable", "separable_pair", "ghost"]
EnlargementName = Literal["nearest", "bilinear"]
AnchorsName = Literal["default", "fit"]
Amp = Literal["auto", "off", "bfloat16", "float16"]
ImageSize = int | tuple[int, int]  # side in pixels, or height and width

# the 80 classes of COCO 2017, in the order of their category ids
COCO_NAMES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone",
    "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear",
    "hair drier", "toothbrush",
)  # fmt: skip


def _require_positive(name: str, values: Sequence[float]) -> None:
    require(all(0 < v < math.inf for v in values), f"{name}: expected positive values, got {values}")


class BackboneConfig(Config, frozen=True, kw_only=True):
    """``name`` is one of ``ssdlite.backbones.BACKBONES``; ``width_mult`` scales its channels and the neck's."""

    name: str = "mobilenet_v2"
    width_mult: float = 1.0

    def check(self) -> None:
        require(0.1 <= self.width_mult <= 4, f"width_mult: expected 0.1 to 4, got {self.width_mult}")


class LayerConfig(Config, frozen=True, kw_only=True):
    """What goes with the origin of the weights, and is the same in every layer of a network.

    Attributes:
        padding: ``symmetric`` pads a 3x3 convolution by 1 on all sides (PyTorch); ``same`` pads a stride-2 one as
            TensorFlow's SAME does, which on even inputs is right and bottom only. Output sizes agree, values do not.
        norm_momentum: PyTorch's (TensorFlow's decay is 1 minus it).
        activation: of all layers but V3's own; relu6 but in weights that were trained with another. ``leaky_relu`` has
            the slope 0.1 below zero, ``silu`` is x * sigmoid(x), also called swish.
        narrowing: how a width below 1 cuts the channels of V1 and V2; ``classifier`` as in the published classifiers,
            ``detection_api`` as in TensorFlow's detectors: at least 16 stay, V2's last layer is cut too.
    """

    padding: Literal["symmetric", "same"] = "symmetric"
    norm_eps: float = 1e-5
    norm_momentum: float = 0.1
    activation: ActivationName = "relu6"
    narrowing: Narrowing = "classifier"

    def check(self) -> None:
        for name in ("norm_eps", "norm_momentum"):
            value = getattr(self, name)
            require(0 < value <= 1, f"{name}: expected more than 0 and at most 1, got {value}")

    @property
    def least_channels(self) -> int:
        return 16 if self.narrowing == "detection_api" else 8


class NeckConfig(Config, frozen=True, kw_only=True):
    """What stands between backbone and head; ``name`` is one of ``ssdlite.heads.NECKS``.

    Attributes:
        channels: of the maps that it adds, at width 1; scaled to ``max(int(c * width_mult), 16)``.
        hidden: channels inside each of these layers, scaled likewise; empty where it is half of what they give.
        conv: their 3x3 convolution, depthwise-separable as in SSDLite or plain as in SSD; also those of ``csp_pan``,
            which adds no maps.
        output: whether these layers end with an activation.
        kernel_size: of the depthwise convolutions of ``pan``, all of whose maps have as many channels as the first that
            it adds.
        joint: in ``pan``, what makes one map of two: a separable convolution, two of them as in LC-PAN, or GhostNet's
            bottleneck.
        enlargement: in ``pan``, how a map is enlarged twofold; ``bilinear`` between the pixels' middles.
    """

    name: str = "extra_layers"
    channels: tuple[int, ...] = (512, 256, 256, 128)
    hidden: tuple[int, ...] = ()
    conv: Literal["separable", "plain"] = "separable"
    output: Literal["activated", "linear"] = "activated"
    kernel_size: KernelSize = 3
    joint: JointName = "separable"
    enlargement: EnlargementName = "nearest"

    def check(self) -> None:
        count = len(self.channels)
        require(
            count <= MAX_MAPS - 2 and all(1 <= c <= MAX_CHANNELS for c in self.channels),
            f"channels: expected up to {MAX_MAPS - 2} maps of 1 to {MAX_CHANNELS} channels, got {self.channels}",
        )
        require(
            len(self.hidden) in (0, count) and all(1 <= c <= MAX_CHANNELS for c in self.hidden),
            f"hidden: expected none, or one of 1 to {MAX_CHANNELS} for each of {count} maps, got {self.hidden}",
        )


class HeadConfig(Config, frozen=True, kw_only=True):
    """What predicts on every map; ``name`` is one of ``ssdlite.heads.HEADS``.

    Attributes:
        conv: of the predictors; of ``decoupled``, whose predictors are 1x1, the 3x3 convolutions in front of them.
        last_conv: ``pointwise`` where the predictor of the coarsest map is a 1x1 convolution, whatever the others are.
        box_code_scales: the deltas' (x, y, width, height) multipliers.
        score_function: ``softmax`` goes with the multibox loss, ``sigmoid`` with the focal losses (``focal``, ``qfl``).
        depth, kernel_size: of the separable convolutions in front of the predictors of ``distances``, which are 1x1
            behind them and separable where there are none; ``decoupled`` has so many in each of its two rows.
        towers: whether those of ``distances`` are ``shared`` by classes and boxes, or each has its own.
        bins: in ``distances``, of the distribution whose mean a distance is: 0 to ``bins`` - 1 strides, so that with 8
            a map of stride 64 reaches boxes of 896 pixels. None (0) where a distance is predicted as one number.
    """

    name: str = "ssdlite"
    conv: Literal["separable", "pointwise", "plain"] = "separable"
    last_conv: Literal["as_others", "pointwise"] = "as_others"
    box_code_scales: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    score_function: ScoreFunction = "softmax"
    depth: int = 2
    kernel_size: KernelSize = 3
    towers: Literal["shared", "separate"] = "shared"
    bins: int = 0

    def check(self) -> None:
        _require_positive("box_code_scales", self.box_code_scales)
        require(0 <= self.depth <= 8, f"depth: expected 0 to 8, got {self.depth}")
        require(self.bins == 0 or 2 <= self.bins <= 64, f"bins: expected none (0), or 2 to 64, got {self.bins}")
        require(
            self.bins == 0 or self.name.endswith("distances"),
            f"bins: {self.name} predicts no distributions; expected none (0), got {self.bins}",
        )


class InputConfig(Config, frozen=True, kw_only=True):
    """The network's input: its (height, width), how a picture becomes it, mean and std of its 0..255 RGB values."""

    size: tuple[int, int] = (320, 320)
    resize: Literal["stretch", "letterbox"] = "stretch"
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    std: tuple[float, float, float] = (127.5, 127.5, 127.5)

    def check(self) -> None:
        require(
            all(32 <= side <= MAX_IMAGE_SIDE for side in self.size),
            f"size: expected sides of 32 to {MAX_IMAGE_SIDE} pixels, got {self.size}",
        )
        require(all(map(math.isfinite, self.mean)), f"mean: expected finite values, got {self.mean}")
        _require_positive("std", self.std)


class PostprocessConfig(Config, frozen=True, kw_only=True):
    """What of the network's outputs becomes a detection.

    Attributes:
        candidates_per_class: best-scoring boxes of each class that enter non-maximum suppression.
    """

    score_threshold: float = 0.001
    nms_threshold: float = 0.55
    candidates_per_class: int = 300
    max_detections: int = 300

    def check(self) -> None:
        for name in ("score_threshold", "nms_threshold"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"{name}: expected 0 to 1, got {value}")
        for name in ("candidates_per_class", "max_detections"):
            value = getattr(self, name)
            require(1 <= value <= 100_000, f"{name}: expected 1 to 100000, got {value}")


class DetectorConfig(Config, frozen=True, kw_only=True):
    """A detector, fully described: it goes into every checkpoint and exported file.

    Attributes:
        strides: input pixels per cell of each map that is predicted on, finest first.
        anchors: shapes per map, finest first.
        class_names: by label; background is not among them.
        category_ids: of the data that it was trained on, by label; empty where nobody said.
    """

    backbone: BackboneConfig = BackboneConfig()
    layers: LayerConfig = LayerConfig(norm_eps=1e-3, norm_momentum=0.03)
    neck: NeckConfig = NeckConfig()
    head: HeadConfig = HeadConfig()
    input: InputConfig = InputConfig()
    postprocess: PostprocessConfig = PostprocessConfig()
    strides: tuple[int, ...] = (16, 32, 64, 128, 256, 512)
    anchors: AnchorConfig = SSDLITE_ANCHORS
    class_names: tuple[str, ...] = COCO_NAMES
    category_ids: tuple[int, ...] = ()

    def check(self) -> None:
        count = len(self.class_names)
        require(1 <= count <= MAX_CLASSES, f"class_names: expected 1 to {MAX_CLASSES} names, got {count}")
        for name in self.class_names:
            require(is_text(name), f"class_names: expected text, got {name!a}")
        repeated = sorted(name for name, times in Counter(self.class_names).items() if times > 1)
        require(not repeated, f"class_names: names must differ, but there are several of {quote(repeated)}")
        require(
            len(self.category_ids) in (0, count),
            f"category_ids: expected one for each of {count} classes, got {len(self.category_ids)}",
        )
        require(
            1 <= len(self.strides) <= MAX_MAPS
            and all(1 <= stride <= MAX_IMAGE_SIDE for stride in self.strides)
            and list(self.strides) == sorted(set(self.strides)),
            f"strides: expected 1 to {MAX_MAPS} whole numbers of pixels, finest map first, got {self.strides}",
        )
        require(
            len(self.anchors.levels) == len(self.strides),
            f"anchors: the network has {len(self.strides)} maps from stride {self.strides[0]} on, got shapes for "
            f"{len(self.anchors.levels)}; finest_stride and the neck's channels decide how many maps there are",
        )
        require(
            self.num_anchors <= MAX_ANCHORS,
            f"anchors: there would be {self.num_anchors}, more than the {MAX_ANCHORS} allowed",
        )

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def grid_sizes(self) -> tuple[tuple[int, int], ...]:
        """(rows, columns) of each map, finest first."""
        height, width = self.input.size
        return tuple((-(-height // stride), -(-width // stride)) for stride in self.strides)

    @property
    def num_anchors(self) -> int:
        return self.anchors.count(self.grid_sizes)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, for JSON and checkpoints."""
        return {"version": CONFIG_VERSION, **super().to_dict()}

    @staticmethod
    def from_dict(values: Any) -> DetectorConfig:
        """The inverse of ``to_dict``, also for what earlier versions wrote.

        Raises:
            ConfigError: unknown names, values of a wrong type, or a version to come.
        """
        return convert(upgrade_config(values), DetectorConfig, WHAT)


WHAT = "detector configuration"

# An option as Python and the command line give it, and as it stood in files of version 1 -> its part and name there.
OPTIONS: dict[str, tuple[str, str]] = {
    "backbone": ("backbone", "name"),
    "width_mult": ("backbone", "width_mult"),
    **{name: ("layers", name) for name in LayerConfig.__struct_fields__},
    "extra_channels": ("neck", "channels"),
    "extra_hidden": ("neck", "hidden"),
    "extra_conv": ("neck", "conv"),
    "extra_output": ("neck", "output"),
    "head_conv": ("head", "conv"),
    "last_head_conv": ("head", "last_conv"),
    "box_code_scales": ("head", "box_code_scales"),
    "score_function": ("head", "score_function"),
    "image_size": ("input", "size"),
    **{name: ("input", name) for name in ("resize", "mean", "std")},
    **{name: ("postprocess", name) for name in PostprocessConfig.__struct_fields__},
}
FLAT_DEFAULTS = {"norm_eps": 1e-3, "norm_momentum": 0.03}  # of version 1, where a part of version 2 has others


def upgrade_config(values: Any) -> Any:
    """What any version wrote -> what the newest does, without its version number; not checked otherwise."""
    if not isinstance(values, Mapping):
        return values
    version = values.get("version", 1)
    if version == CONFIG_VERSION:
        return {name: value for name, value in values.items() if name != "version"}
    if version != 1:
        raise ConfigError(f"{WHAT}: version {quote(version)}; this version of ssdlite reads up to {CONFIG_VERSION}")
    finest = values.get("finest_stride", 16)
    channels = values.get("extra_channels", NeckConfig().channels)
    known = [*OPTIONS, "finest_stride", "anchors", "class_names", "category_ids"]
    try:
        require_known(values, known, "option")
        require(finest in (8, 16), f"finest_stride: expected 8 or 16, got {quote(finest)}")
        require(isinstance(channels, (list, tuple)), f"extra_channels: expected a list, got {quote(channels)}")
    except ConfigError as error:
        raise ConfigError(f"{WHAT}: {error}") from None
    upgraded: dict[str, Any] = {"strides": standard_strides(finest, len(channels))}
    for name, value in (FLAT_DEFAULTS | dict(values)).items():
        if name in OPTIONS:
            part, own = OPTIONS[name]
            upgraded.setdefault(part, {})[own] = value
        elif name != "finest_stride":
            upgraded[name] = value
    return upgraded


def standard_strides(finest_stride: int, added: int) -> tuple[int, ...]:
    """Of the maps of a backbone from ``finest_stride`` on, and of as many ``added`` behind it, each half as fine."""
    count = (LAST_BACKBONE_STRIDE // finest_stride).bit_length() + added
    return tuple(finest_stride << level for level in range(count))


# What may be changed of a detector: single options, and whole parts
KNOWN_OPTIONS = (*OPTIONS, "finest_stride", *(name for name in DetectorConfig.__struct_fields__ if name not in OPTIONS))


def override(config: DetectorConfig, **changes: Any) -> DetectorConfig:
    """A copy with other values: of whole parts, by their names, or of single options, by those of ``OPTIONS``.

    ``finest_stride`` and ``extra_channels`` add or take away maps; ``anchors`` have to suit them.

    Raises:
        ConfigError: an unknown name, listing the known ones, or a wrong value.
    """
    fields = DetectorConfig.__struct_fields__
    require_known(changes, KNOWN_OPTIONS, "option")
    parts: dict[str, Any] = {}
    options: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        if name in fields and (name not in OPTIONS or isinstance(value, Config)):
            parts[name] = value
        elif name != "finest_stride":
            part, own = OPTIONS[name]
            options.setdefault(part, {})[own] = value
    for part, values in options.items():
        base = parts.get(part, getattr(config, part))
        try:
            parts[part] = require_kind(part, base, type(getattr(config, part))).changed(**values)
        except ConfigError as error:
            raise ConfigError(_with_option_name(str(error), part)) from None
    if "strides" not in parts and changes.keys() & {"finest_stride", "extra_channels"}:
        parts["strides"] = _strides_for(config, parts.get("neck", config.neck), changes.get("finest_stride"))
    return config.changed(**parts)


def get_option(config: DetectorConfig, name: str) -> Any:
    """The value of an option by its name in ``OPTIONS``."""
    part, own = OPTIONS[name]
    return getattr(getattr(config, part), own)


def _with_option_name(message: str, part: str) -> str:
    """A part's complaint about its field, about the option that gave it."""
    own, _, rest = message.partition(":")
    option = next((name for name, place in OPTIONS.items() if place == (part, own)), own)
    return f"{option}:{rest}"


def _strides_for(config: DetectorConfig, neck: NeckConfig, finest_stride: int | None) -> tuple[int, ...]:
    finest = config.strides[0] if finest_stride is None else finest_stride
    require(finest in (8, 16), f"finest_stride: expected 8 or 16, got {quote(finest)}")
    return standard_strides(finest, len(neck.channels))


# The trained detectors that come along, and their licence (assets/NOTICE).
SHIPPED_LICENSE = "Apache-2.0"
SHIPPED = {"openimages": Path(__file__).parent / "assets" / "openimages.safetensors"}


def shipped_file(path: Path) -> Path:
    """Of the name of a detector that comes along its file; any other path as it is."""
    return path if path.exists() else SHIPPED.get(str(path), path)


def no_such_checkpoint(path: Path) -> str:
    """What to say of a path at which there is nothing, and which is no name of ``SHIPPED``."""
    if str(path) in PRESETS:
        return f"a preset, which has no weights; expected a checkpoint file, as `ssdlite train --preset {path}` makes"
    return f"no such checkpoint file, nor one of the detectors that come along: {', '.join(SHIPPED)}"


# The named detectors. To add one is to add an entry here; every entry passes the same contract test.
_SSDLITE = DetectorConfig()
_SSD300 = {"image_size": (300, 300), "extra_conv": "plain", "head_conv": "pointwise", "padding": "same"}
_LITEPAN = override(
    _SSDLITE,
    backbone="mobilenet_v4_conv_small",
    neck=NeckConfig(name="pan", channels=(128,), kernel_size=5),
    head=HeadConfig(name="distances", score_function="sigmoid", depth=0, bins=8),
    activation="relu",
    strides=(8, 16, 32, 64),
    anchors=square_anchors((0.1, 0.2, 0.4, 0.8)),
    nms_threshold=0.6,
)
PRESETS: dict[str, DetectorConfig] = {
    # arXiv 1801.04381 table 6; ssdlite_mobilenet_v1/v2_coco.config of the TensorFlow Object Detection API
    "ssdlite320_mobilenet_v1": override(_SSDLITE, backbone="mobilenet_v1"),
    "ssdlite320_mobilenet_v2": _SSDLITE,
    # torchvision's model of that name
    "ssdlite320_mobilenet_v3_large": override(
        _SSDLITE, backbone="mobilenet_v3_large_reduced", anchors=torchvision_anchors()
    ),
    # ssd_mobilenet_v1_coco.config, and the SSD V2 that MediaPipe ships: 1x1 heads, TensorFlow's padding
    "ssd300_mobilenet_v1": override(_SSDLITE, backbone="mobilenet_v1", **_SSD300),
    "ssd300_mobilenet_v2": override(_SSDLITE, **_SSD300),
    # what SSDLite adds to it is that of MobileNetV2
    "ssdlite320_efficientnet_lite0": override(_SSDLITE, backbone="efficientnet_lite0"),
    # separable PAN on strides 8 to 64 (PP-PicoDet, arXiv 2111.00902), in a cell one prediction, of distributions
    "litepan320_small": override(_LITEPAN, width_mult=0.75),
    "litepan320_medium": _LITEPAN,
    "litepan320_large": override(_LITEPAN, backbone="efficientnet_lite0"),
    # for trying things on a laptop: a seventh of the work of ssdlite320_mobilenet_v2
    "ssdlite192_mobilenet_v2_050": override(
        _SSDLITE,
        width_mult=0.5,
        image_size=(192, 192),
        extra_channels=(256, 256),
        anchors=tensorflow_anchors((0.2, 0.4, 0.65, 0.95, 1.0)),
    ),
}


def preset_config(
    preset: str,
    *,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    image_size: ImageSize | None = None,
    **options: Any,
) -> DetectorConfig:
    """The configuration of a preset with changes, as ``build_detector`` takes them; None leaves the preset's value."""
    if not isinstance(preset, str) or preset not in PRESETS:
        raise ConfigError(f"unknown preset {preset!r}{suggest(str(preset), PRESETS)}")
    require_known(options, ("num_classes", *KNOWN_OPTIONS), "option")
    if options.get("anchors") is None:
        finest, begins = options.get("finest_stride"), PRESETS[preset].strides[0]
        require(
            finest != 16 or begins == 16, f"finest_stride: the maps of {preset} begin at {begins}, expected 8, got 16"
        )
        if finest == 8 < begins:
            options["anchors"] = with_finer_level(PRESETS[preset].anchors)
    changes: dict[str, Any] = {
        "class_names": _class_names(num_classes, class_names),
        "image_size": None if image_size is None else input_size(image_size),
        **options,
    }
    return override(PRESETS[preset], **{name: value for name, value in changes.items() if value is not None})


def input_size(given: ImageSize) -> tuple[int, int]:
    """(height, width) of a side or of both."""
    return (int(given), int(given)) if isinstance(given, (int, np.integer)) else given


def _class_names(num_classes: int | None, class_names: Sequence[str] | None) -> tuple[str, ...] | None:
    if class_names is not None:
        if isinstance(class_names, str):
            raise ConfigError(f"class_names: expected a sequence of names, got the string {class_names!r}")
        if num_classes not in (None, len(class_names)):
            raise ConfigError(f"num_classes is {num_classes}, but class_names has {len(class_names)} names")
        return tuple(class_names)
    if num_classes is None:
        return None
    if not isinstance(num_classes, (int, np.integer)) or not 1 <= num_classes <= MAX_CLASSES:
        raise ConfigError(f"num_classes: expected 1 to {MAX_CLASSES} (background is not counted), got {num_classes!r}")
    return tuple(f"class_{i}" for i in range(num_classes))
