"""The 80 classes of COCO 2017, in the order of their category ids."""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec
import numpy as np

from ssdlite.anchors import (
    MAX_ANCHORS,
    SSDLITE_ANCHORS,
    AnchorConfig,
    tensorflow_anchors,
    torchvision_anchors,
    with_finer_level,
)
from ssdlite.errors import ConfigError

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


# --- Everything that defines a detector, as one frozen dataclass. Needs no torch.

T = TypeVar("T")

BACKBONE_STRIDES = (8, 16, 32)  # of the maps that a backbone can give; the finest is left out by default
MAX_IMAGE_SIDE = 4096
MAX_CLASSES = 100_000


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """A detector, fully described: it goes into every checkpoint and exported file.

    Attributes:
        image_size: the network's input, (height, width).
        class_names: by label; background is not among them.
        category_ids: of the data that it was trained on, by label; empty where nobody said.
        anchors: shapes per map, finest first.
        finest_stride: input pixels per cell of the first map; 8 adds a map for small objects.
        extra_channels: of the stride-64, -128, ... maps at width 1; scaled to ``max(int(c * width_mult), 16)``.
        extra_hidden: channels inside each of these layers, scaled likewise; empty where it is half of what they give.
        extra_output: whether these layers end with an activation.
        last_head_conv: ``pointwise`` where the head of the coarsest map is a 1x1 convolution, whatever the others are.
        activation: of all layers but V3's own.
        narrowing: how a ``width_mult`` below 1 cuts the backbone's channels; see ``LayerOptions``.
        mean, std: of the input's 0..255 RGB values.
        box_code_scales: the deltas' (x, y, width, height) multipliers.
        score_function: ``softmax`` goes with the multibox loss, ``sigmoid`` with the focal loss.
        resize: how a picture becomes the input.
        candidates_per_class: best-scoring boxes of each class that enter non-maximum suppression.
    """

    backbone: str = "mobilenet_v2"
    width_mult: float = 1.0
    image_size: tuple[int, int] = (320, 320)
    class_names: tuple[str, ...] = COCO_NAMES
    category_ids: tuple[int, ...] = ()
    anchors: AnchorConfig = SSDLITE_ANCHORS
    finest_stride: Literal[8, 16] = 16
    extra_channels: tuple[int, ...] = (512, 256, 256, 128)
    extra_conv: Literal["separable", "plain"] = "separable"
    extra_hidden: tuple[int, ...] = ()
    extra_output: Literal["activated", "linear"] = "activated"
    head_conv: Literal["separable", "pointwise", "plain"] = "separable"
    last_head_conv: Literal["as_others", "pointwise"] = "as_others"
    padding: Literal["symmetric", "same"] = "symmetric"
    norm_eps: float = 1e-3
    norm_momentum: float = 0.03
    activation: Literal["relu6", "relu"] = "relu6"
    narrowing: Literal["classifier", "detection_api"] = "classifier"
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    std: tuple[float, float, float] = (127.5, 127.5, 127.5)
    box_code_scales: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    score_function: Literal["softmax", "sigmoid"] = "softmax"
    resize: Literal["stretch", "letterbox"] = "stretch"
    score_threshold: float = 0.001
    nms_threshold: float = 0.55
    candidates_per_class: int = 300
    max_detections: int = 300

    def __post_init__(self) -> None:
        _check(
            all(32 <= side <= MAX_IMAGE_SIDE for side in self.image_size),
            f"image_size: expected sides of 32 to {MAX_IMAGE_SIDE} pixels, got {self.image_size}",
        )
        _check(0.1 <= self.width_mult <= 4, f"width_mult: expected 0.1 to 4, got {self.width_mult}")
        _check(
            1 <= len(self.class_names) <= MAX_CLASSES,
            f"class_names: expected 1 to {MAX_CLASSES} names, got {len(self.class_names)}",
        )
        repeated = sorted(name for name, count in Counter(self.class_names).items() if count > 1)
        _check(not repeated, f"class_names: names must differ, but there are several of {repeated}")
        _check(
            len(self.category_ids) in (0, len(self.class_names)),
            f"category_ids: expected one for each of {len(self.class_names)} classes, got {len(self.category_ids)}",
        )
        _check(
            len(self.extra_channels) <= 8 and all(1 <= c <= 8192 for c in self.extra_channels),
            f"extra_channels: expected up to 8 maps of 1 to 8192 channels, got {self.extra_channels}",
        )
        _check(
            len(self.extra_hidden) in (0, len(self.extra_channels)) and all(1 <= c <= 8192 for c in self.extra_hidden),
            f"extra_hidden: expected none, or one of 1 to 8192 for each of {len(self.extra_channels)} maps, "
            f"got {self.extra_hidden}",
        )
        _check(
            len(self.anchors.levels) == len(self.strides),
            f"anchors: the network has {len(self.strides)} maps, got shapes for {len(self.anchors.levels)}",
        )
        _check(
            self.num_anchors <= MAX_ANCHORS,
            f"anchors: there would be {self.num_anchors}, more than the {MAX_ANCHORS} allowed",
        )
        _check(all(map(math.isfinite, self.mean)), f"mean: expected finite values, got {self.mean}")
        for name in ("std", "box_code_scales"):
            values = getattr(self, name)
            _check(all(0 < v < math.inf for v in values), f"{name}: expected positive values, got {values}")
        for name in ("norm_eps", "norm_momentum"):
            value = getattr(self, name)
            _check(0 < value <= 1, f"{name}: expected more than 0 and at most 1, got {value}")
        for name in ("score_threshold", "nms_threshold"):
            value = getattr(self, name)
            _check(0 <= value <= 1, f"{name}: expected 0 to 1, got {value}")
        for name in ("candidates_per_class", "max_detections"):
            value = getattr(self, name)
            _check(1 <= value <= 100_000, f"{name}: expected 1 to 100000, got {value}")

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def strides(self) -> tuple[int, ...]:
        """Input pixels per cell of each map, finest first."""
        backbone = tuple(stride for stride in BACKBONE_STRIDES if stride >= self.finest_stride)
        return backbone + tuple(backbone[-1] << (i + 1) for i in range(len(self.extra_channels)))

    @property
    def grid_sizes(self) -> tuple[tuple[int, int], ...]:
        """(rows, columns) of each map, finest first."""
        height, width = self.image_size
        return tuple((-(-height // stride), -(-width // stride)) for stride in self.strides)

    @property
    def num_anchors(self) -> int:
        return self.anchors.count(self.grid_sizes)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, for JSON and checkpoints."""
        return dict(msgspec.to_builtins(self))

    @staticmethod
    def from_dict(values: Any) -> DetectorConfig:
        """The inverse of ``to_dict``. Raises ConfigError for unknown names and values of a wrong type."""
        return convert(values, DetectorConfig, "detector configuration")


def convert(values: Any, kind: type[T], what: str) -> T:
    """Plain values as the dataclass ``kind``, types checked, unknown names refused.

    Raises:
        ConfigError: names the offending place.
    """
    for name, hint in get_type_hints(kind).items():
        choices = get_args(hint) if get_origin(hint) is Literal else ()
        if isinstance(values, dict) and choices and values.get(name, choices[0]) not in choices:
            raise ConfigError(f"{what}: {name}: expected one of {choices}, got {values[name]!r}")
    try:
        result = msgspec.convert(values, kind, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{what}: {error}") from None
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise ConfigError(f"{what}: unknown option {name!r}{suggest(name, known)}")
    return result


def override(config: DetectorConfig, **changes: Any) -> DetectorConfig:
    """A copy with other values. Raises ConfigError for an unknown name, listing the known ones, or a wrong value."""
    known = [field.name for field in fields(config)]
    for name in changes:
        if name not in known:
            raise ConfigError(f"unknown option {name!r}{suggest(name, known)}")
    values = {name: getattr(config, name) for name in known} | changes
    try:
        plain = msgspec.to_builtins(values, enc_hook=_numpy_to_builtin)
    except TypeError as error:
        raise ConfigError(f"detector configuration: {error}") from None
    return convert(plain, DetectorConfig, "detector configuration")


def _numpy_to_builtin(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a value of type {type(value).__name__} does not belong there")


def suggest(name: str, known: Iterable[str]) -> str:
    """``; did you mean ...? Known: ...`` for an error about an unknown name."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return (f"; did you mean {close[0]!r}?" if close else ";") + f" Known: {', '.join(known)}"


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


# --- The named detectors. To add one is to add an entry here; every entry passes the same contract test.

PRESETS: dict[str, DetectorConfig] = {
    # arXiv 1801.04381 table 6; ssdlite_mobilenet_v1/v2_coco.config of the TensorFlow Object Detection API
    "ssdlite320_mobilenet_v1": DetectorConfig(backbone="mobilenet_v1"),
    "ssdlite320_mobilenet_v2": DetectorConfig(backbone="mobilenet_v2"),
    # torchvision's model of that name
    "ssdlite320_mobilenet_v3_large": DetectorConfig(
        backbone="mobilenet_v3_large_reduced", anchors=torchvision_anchors()
    ),
    # ssd_mobilenet_v1_coco.config, and the SSD V2 that MediaPipe ships: 1x1 heads, TensorFlow's padding
    "ssd300_mobilenet_v1": DetectorConfig(
        backbone="mobilenet_v1", image_size=(300, 300), extra_conv="plain", head_conv="pointwise", padding="same"
    ),
    "ssd300_mobilenet_v2": DetectorConfig(
        backbone="mobilenet_v2", image_size=(300, 300), extra_conv="plain", head_conv="pointwise", padding="same"
    ),
    # for trying things on a laptop: a seventh of the work of ssdlite320_mobilenet_v2
    "ssdlite192_mobilenet_v2_050": DetectorConfig(
        backbone="mobilenet_v2",
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
    image_size: int | tuple[int, int] | None = None,
    **options: Any,
) -> DetectorConfig:
    """The configuration of a preset with changes, as ``build_detector`` takes them; None leaves the preset's value."""
    if not isinstance(preset, str) or preset not in PRESETS:
        raise ConfigError(f"unknown preset {preset!r}{suggest(str(preset), PRESETS)}")
    if options.get("finest_stride") == 8 and options.get("anchors") is None:
        options["anchors"] = with_finer_level(PRESETS[preset].anchors)
    changes: dict[str, Any] = {
        "class_names": _class_names(num_classes, class_names),
        "image_size": (image_size, image_size) if isinstance(image_size, (int, np.integer)) else image_size,
        **options,
    }
    return override(PRESETS[preset], **{name: value for name, value in changes.items() if value is not None})


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


# --- Named training recipes: the values of options of ``ssdlite train`` that the user does not give. Needs no torch.

ClassLossName = Literal["multibox", "focal", "qfl"]
BoxLossName = Literal["smooth_l1", "giou", "diou", "ciou"]
AssignerName = Literal["ssd", "atss", "simota"]
AnchorsName = Literal["default", "fit"]
