"""Protobuf's text format, as TensorFlow's pipeline.config and label maps have it, without their schema."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Union

from ssdlite.anchors import AnchorConfig, tensorflow_anchors
from ssdlite.config import ScoreFunction
from ssdlite.errors import CheckpointError, ConfigError

MAX_CHARACTERS = 2**21
MAX_MESSAGE_DEPTH = 50
TOKEN = re.compile(
    r"\s+|#[^\n]*"  # passed over
    r"|(?P<word>[A-Za-z_][\w.]*|[-+]?(?:\d[\w.+-]*|\.\d[\w+-]*))"
    r"|(?P<text>\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*')"
    r"|(?P<mark>[{}<>:\[\],;])"
)
ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|[xX]([\da-fA-F]{1,2})|u([\da-fA-F]{4})|U([\da-fA-F]{8})|([abfnrtv\\'\"?]))?")
SINGLE_ESCAPES = dict(zip("abfnrtv\\'\"?", b"\a\b\f\n\r\t\v\\'\"?", strict=True))

Message = dict[str, list[Union["Message", str]]]


def parse_textproto(text: str, where: str) -> Message:
    """Field names to lists of messages and words (numbers, names and texts alike, as they stand).

    Raises:
        CheckpointError: it is not that format; the message begins with ``where``.
    """
    if len(text) > MAX_CHARACTERS:
        raise CheckpointError(f"{where}: {len(text)} characters, more than the {MAX_CHARACTERS} that are read")
    try:
        return _parse_message(_tokens(text), "", 0)
    except ValueError as error:
        raise CheckpointError(f"{where}: not protobuf's text format, or damaged ({error})") from None


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    """(kind, token) of each; at the end empty ones without end."""
    position = 0
    while position < len(text):
        match = TOKEN.match(text, position)
        if match is None or match.end() == position:
            raise ValueError(f"unexpected {text[position]!r} at character {position}")
        position = match.end()
        if match.lastgroup:
            yield match.lastgroup, match.group()
    yield from itertools.repeat(("", ""))


def _parse_message(tokens: Iterator[tuple[str, str]], end: str, depth: int) -> Message:
    """The fields up to the token ``end``."""
    if depth > MAX_MESSAGE_DEPTH:
        raise ValueError(f"messages {depth} deep")
    fields: Message = {}
    for kind, name in tokens:
        if name == end:
            break
        if name in (",", ";"):
            continue
        if kind != "word":
            raise ValueError(f"expected a field, got {name or 'the end'!r}")
        values = fields.setdefault(name, [])
        first = next(tokens)
        if first[1] == ":":
            first = next(tokens)
        if first[1] == "[":
            listed = itertools.takewhile(lambda token: token[1] != "]", tokens)
            values += [_parse_value(tokens, *token, depth) for token in listed if token[1] != ","]
        else:
            values.append(_parse_value(tokens, *first, depth))
    return fields


def _parse_value(tokens: Iterator[tuple[str, str]], kind: str, token: str, depth: int) -> Message | str:
    """What begins with ``token``: a message, a text without its quotes, or a word."""
    if token in ("{", "<"):
        return _parse_message(tokens, "}" if token == "{" else ">", depth + 1)
    if kind == "text":
        return _unquoted(token)
    if kind == "word":
        return token
    raise ValueError(f"expected a value, got {token or 'the end'!r}")


def _unquoted(token: str) -> str:
    """A text in quotes -> what it says. Its escapes stand for bytes of UTF-8, but for those of Unicode."""
    inner, content, position = token[1:-1], bytearray(), 0
    for match in ESCAPE.finditer(inner):
        content += inner[position : match.start()].encode() + _escaped_bytes(match)
        position = match.end()
    return (content + inner[position:].encode()).decode()


def _escaped_bytes(escape: re.Match[str]) -> bytes:
    octal, hexadecimal, short, long, one = escape.groups()
    if octal or hexadecimal:
        return bytes([int(octal, 8) & 0xFF if octal else int(hexadecimal, 16)])
    if short or long:
        return chr(int(short or long, 16)).encode()
    if not one:
        raise ValueError(f"an unknown escape {escape.string[escape.start() : escape.start() + 2]!r}")
    return bytes([SINGLE_ESCAPES[one]])


# --- What a ``pipeline.config`` beside a checkpoint of the TensorFlow Object Detection API says, and its label maps.

FILE_NAME = "pipeline.config"
MAX_ID = 100_000


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
    root = parse_textproto(_text(path), str(path))
    try:
        return _pipeline(_one(_one(root, "model"), "ssd"))
    except (ValueError, OverflowError) as error:  # CheckpointError among them
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
    names: dict[int, str] = {}
    for item in parse_textproto(_text(path), str(path)).get("item", []):
        fields = item if isinstance(item, dict) else {}
        try:
            number = int(_number(fields, "id", -1))
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from None
        name = _word(fields, "display_name", "") or _word(fields, "name", "")
        if not 0 <= number <= MAX_ID or number in names:
            raise CheckpointError(f"{path}: {name!r} has the id {number}: expected different ones from 1 on")
        names[number] = name
    names.pop(0, None)  # background, where it is listed
    if not names:
        raise CheckpointError(f"{path}: expected items with a name and an id, found none")
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
