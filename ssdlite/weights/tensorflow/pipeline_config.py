"""What a ``pipeline.config`` beside a checkpoint of the TensorFlow Object Detection API says, and its label maps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from ssdlite.anchors import AnchorConfig, tensorflow_anchors
from ssdlite.config import ScoreFunction
from ssdlite.errors import CheckpointError, ConfigError
from ssdlite.protobuf import MAX_CHARACTERS, DamagedError, Message, parse_label_map, parse_textproto

FILE_NAME = "pipeline.config"


@dataclass(frozen=True)
class PipelineConfig:
    """None for what the file does not say; ``anchors`` need the number of maps, see ``pipeline_anchors``."""

    image_size: tuple[int, int] | None
    norm_eps: float
    score_function: ScoreFunction
    box_code_scales: tuple[float, float, float, float]
    score_threshold: float
    nms_threshold: float
    anchors: AnchorConfig


def read_pipeline(folder: Path) -> PipelineConfig | None:
    """The pipeline.config in ``folder``; None where there is none.

    Raises:
        CheckpointError: it is damaged, or describes what is not an SSD on pictures of one size.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return None
    text = _text(path)
    try:
        return _pipeline(_one(_one(parse_textproto(text), "model"), "ssd"))
    except (DamagedError, ValueError, OverflowError) as error:  # CheckpointError among them
        raise CheckpointError(f"{path}: {error}") from None


def _pipeline(ssd: Message) -> PipelineConfig:
    if not ssd:
        raise ValueError("expected a model of the kind ssd")
    resizer = _one(ssd, "image_resizer")
    fixed = _one(resizer, "fixed_shape_resizer")
    if resizer and not fixed:
        raise ValueError(f"expected pictures resized to a fixed shape, got {', '.join(resizer)}")
    extractor = _one(ssd, "feature_extractor")
    if _word(extractor, "use_explicit_padding", "false") == "true":
        raise ValueError("use_explicit_padding is not supported")
    norm = _one(_one(extractor, "conv_hyperparams"), "batch_norm")
    coder = _one(_one(ssd, "box_coder"), "faster_rcnn_box_coder")
    post = _one(ssd, "post_processing")
    suppression = _one(post, "batch_non_max_suppression")
    converter = _word(post, "score_converter", "IDENTITY")
    if converter not in ("SIGMOID", "SOFTMAX"):
        raise ValueError(f"expected a score_converter SIGMOID or SOFTMAX, got {converter}")
    return PipelineConfig(
        (int(_number(fixed, "height", 300)), int(_number(fixed, "width", 300))) if fixed else None,
        _number(norm, "epsilon", 0.001),
        "sigmoid" if converter == "SIGMOID" else "softmax",
        (
            _number(coder, "x_scale", 10),
            _number(coder, "y_scale", 10),
            _number(coder, "width_scale", 5),
            _number(coder, "height_scale", 5),
        ),
        _number(suppression, "score_threshold", 0),
        _number(suppression, "iou_threshold", 0.6),
        _anchors(_one(_one(ssd, "anchor_generator"), "ssd_anchor_generator")),
    )


def _anchors(generator: Message) -> AnchorConfig:
    """The defaults are those of ssd_anchor_generator.proto."""
    levels = int(_number(generator, "num_layers", 6))
    if not 2 <= levels <= 10:
        raise ValueError(f"num_layers: expected 2 to 10, got {levels}")
    low, high = _number(generator, "min_scale", 0.2), _number(generator, "max_scale", 0.95)
    scales = [_to_number(value, "scales") for value in generator.get("scales", [])]
    if not scales:
        scales = [low + (high - low) * level / (levels - 1) for level in range(levels)]
    ratios = [_to_number(value, "aspect_ratios") for value in generator.get("aspect_ratios", [])]
    for name in ("base_anchor_height", "base_anchor_width", "interpolated_scale_aspect_ratio"):
        if _number(generator, name, 1) != 1:
            raise ValueError(f"{name} other than 1 is not supported")
    if min([*scales, *ratios]) <= 0:
        raise ValueError(f"expected positive scales and aspect ratios, got {scales} and {ratios}")
    try:
        return tensorflow_anchors(
            [*scales, 1.0],
            ratios or (1.0, 2.0, 0.5, 3.0, 1 / 3),
            reduce_lowest=_word(generator, "reduce_boxes_in_lowest_layer", "true") == "true",
        )
    except ConfigError as error:
        raise ValueError(str(error)) from None


def read_label_map(path: Path) -> tuple[str, ...]:
    """The names in a label map (.pbtxt) by id from 1 on; an id that is left out has the name ``???``.

    Raises:
        CheckpointError: it is damaged, or its ids are not usable.
    """
    text = _text(path)
    try:
        names = parse_label_map(text)
    except DamagedError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return tuple(names.get(number, "???") for number in range(1, max(names) + 1))


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig") as file:
            return file.read(MAX_CHARACTERS + 1)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise CheckpointError(f"{path}: expected text in UTF-8") from None


def _one(message: Message, name: str) -> Message:
    """The message called ``name``, empty where there is none."""
    value = message.get(name, [{}])[-1]
    return value if isinstance(value, dict) else {}


def _word(message: Message, name: str, default: str) -> str:
    value = message.get(name, [default])[-1]
    return value if isinstance(value, str) else default


def _number(message: Message, name: str, default: float) -> float:
    return _to_number(message[name][-1], name) if name in message else default


def _to_number(value: Message | str, name: str) -> float:
    try:
        number = float(value) if isinstance(value, str) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name}: expected a number, got {value if isinstance(value, str) else 'a message'}")
    return number
