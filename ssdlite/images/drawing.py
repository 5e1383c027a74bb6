"""Boxes, names and scores drawn on pictures, and the curves of a training run."""

from __future__ import annotations

import colorsys
import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from ssdlite.files import write_atomically
from ssdlite.images.geometry import ImageArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ssdlite.detections import Detections

Color = tuple[int, int, int]
Rectangle = tuple[float, float, float, float]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

PALETTE: tuple[Color, ...] = (  # told apart at a glance on photographs; further classes walk round the hues
    (255, 64, 64),
    (64, 160, 255),
    (64, 220, 96),
    (255, 200, 0),
    (225, 70, 245),
    (0, 225, 225),
    (255, 130, 30),
    (150, 110, 255),
    (255, 130, 190),
    (160, 235, 30),
    (20, 110, 200),
    (170, 90, 40),
)
GOLDEN_RATIO = (math.sqrt(5) - 1) / 2  # steps of this size round the hue circle never come close to each other
IGNORED_COLOR: Color = (190, 190, 190)
DARKEST_LUMA = 110  # of 255; darker lines are lost in shadows
PAPER: Color = (255, 255, 255)
INK: Color = (25, 25, 25)
LEGEND_GROUND: Color = (95, 95, 95)  # behind the lines of a legend, which are chosen for photographs
GLYPH_TEST_SIZE = 32
SMALLEST_FONT = 10  # pixels; the default face cannot be read below


class GroundTruth(Protocol):
    """The annotated objects of a picture, such as a ``Record`` of an index; ``ignore``: crowds and difficult ones."""

    @property
    def boxes(self) -> npt.NDArray[np.float32]:
        """[N, 4] xyxy pixels."""

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """[N] in 0..K-1."""

    @property
    def ignore(self) -> npt.NDArray[np.bool_]:
        """[N]."""


def class_color(label: int) -> Color:
    """The colour of a class, the same in every picture."""
    if label < len(PALETTE):
        return PALETTE[label]
    step = label - len(PALETTE)
    hue, saturation, value = step * GOLDEN_RATIO % 1, (0.85, 0.55)[step % 2], (1.0, 0.75)[step // 2 % 2]
    red, green, blue = (round(channel * 255) for channel in colorsys.hsv_to_rgb(hue, saturation, value))
    white = max(0.0, (DARKEST_LUMA - _luma((red, green, blue))) / 255)
    return _towards_white(red, white), _towards_white(green, white), _towards_white(blue, white)


def draw_detections(image: ImageArray, detections: Detections) -> ImageArray:
    """image [H, W, 3] RGB -> a copy with a box, the class name and the score of each detection."""
    picture = Image.fromarray(image)
    draw_detections_on(picture, detections)
    return np.array(picture)


def draw_detections_on(picture: Image.Image, detections: Detections) -> None:
    """The same in place."""
    labels = detections.labels.tolist()
    captions = [f"{name} {score:.2f}" for name, score in zip(detections.names, detections.scores.tolist(), strict=True)]
    _draw_boxes_on(picture, detections.boxes, captions, [class_color(label) for label in labels])


def draw_ground_truth(image: ImageArray, ground_truth: GroundTruth, class_names: Sequence[str]) -> ImageArray:
    """image [H, W, 3] RGB -> a copy with each annotated object; crowds and ``difficult`` ones in grey."""
    labels, ignored = ground_truth.labels.tolist(), ground_truth.ignore.tolist()
    captions = [
        class_names[label] + (" (ignored)" if ignore else "") for label, ignore in zip(labels, ignored, strict=True)
    ]
    colors = [IGNORED_COLOR if ignore else class_color(label) for label, ignore in zip(labels, ignored, strict=True)]
    return draw_boxes(image, ground_truth.boxes, captions, colors)


def side_by_side(panes: Sequence[ImageArray]) -> ImageArray:
    """Pictures [H, W, 3] of one height, from left to right."""
    gap = np.full((panes[0].shape[0], max(2, panes[0].shape[1] // 100), 3), PAPER, np.uint8)
    return np.concatenate([part for pane in panes for part in (gap, pane)][1:], axis=1)


def add_caption(image: ImageArray, text: str, style: Style | None = None) -> ImageArray:
    """image [H, W, 3] -> the image below a strip with ``text``, shortened where it is too wide."""
    style = style or Style.for_size(image.shape[0], image.shape[1])
    margin = max(2, style.font_size // 3)
    text = drawable(text)
    strip = Image.new("RGB", (image.shape[1], style.font_size + 3 * margin), PAPER)
    draw = ImageDraw.Draw(strip)
    while len(text) > 1 and draw.textlength(text, style.font) > strip.width - 2 * margin:
        text = text[:-2] + "…"
    draw.text((margin, margin), text, INK, style.font)
    return np.concatenate([np.asarray(strip), image])


def add_legend(image: ImageArray, title: str, entries: Mapping[str, Outline], style: Style) -> ImageArray:
    """image [H, W, 3] -> the image below ``title`` and what its lines mean, in as many rows as that takes."""
    sample, space = 3 * style.font_size, style.font_size
    margin, row = space // 2, 2 * style.font_size
    places, x, y = [], margin, 0
    for text in (title, *entries):
        width = (0 if text == title else sample + margin) + math.ceil(_text_width(text, style.font_size))
        if x > margin and (x + width > image.shape[1] - margin or y == 0):
            x, y = margin, y + row
        places.append((x, y))
        x += width + 2 * space
    strip = Image.new("RGB", (image.shape[1], y + row), PAPER)
    draw = ImageDraw.Draw(strip)
    draw.text((places[0][0], row / 2), title, INK, style.font, anchor="lm")
    for (x, y), (text, line) in zip(places[1:], entries.items(), strict=True):
        draw.rectangle((x, y + 2, x + sample, y + row - 3), fill=LEGEND_GROUND)
        _draw_rectangle(draw, (x + 5, y + 6, x + sample - 5, y + row - 7), line, style.line)
        draw.text((x + sample + margin, y + row / 2), text, INK, style.font, anchor="lm")
    return np.concatenate([np.asarray(strip), image])


def contact_sheet(images: Sequence[ImageArray], columns: int, cell: int = 480) -> ImageArray:
    """Pictures of any size -> one picture, ``columns`` to a row.

    Each is resized to a longer side of ``cell`` pixels; a row is as high as its highest picture.
    """
    if columns < 1:
        raise ValueError(f"expected at least one column, got {columns}")
    gap = max(2, cell // 60)
    columns = max(1, min(columns, len(images)))
    tiles = [_fit(image, cell) for image in images]
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    heights = [max(tile.height for tile in row) for row in rows]
    sheet = Image.new("RGB", (columns * (cell + gap) + gap, sum(heights) + (len(rows) + 1) * gap), PAPER)
    top = gap
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            left = gap + column * (cell + gap)
            sheet.paste(tile, (left + (cell - tile.width) // 2, top + (height - tile.height) // 2))
        top += height + gap
    return np.array(sheet)


def draw_boxes(
    image: ImageArray,
    boxes: npt.NDArray[np.float32],
    captions: Sequence[str],
    colors: Sequence[Color | Outline],
    style: Style | None = None,
) -> ImageArray:
    """image [H, W, 3] RGB -> a copy with boxes [N, 4] xyxy pixels, each in its colour under its caption.

    Give the most important box first: it is drawn on top and its caption chooses its place first. Without a
    ``style`` lines and letters grow with the picture.
    """
    picture = Image.fromarray(image)
    _draw_boxes_on(picture, boxes, captions, colors, style)
    return np.array(picture)


def _draw_boxes_on(
    picture: Image.Image,
    boxes: npt.NDArray[np.float32],
    captions: Sequence[str],
    colors: Sequence[Color | Outline],
    style: Style | None = None,
) -> None:
    captions = [drawable(caption) for caption in captions]
    lines = [color if isinstance(color, Outline) else Outline(color) for color in colors]
    draw = ImageDraw.Draw(picture)
    style = style or Style.for_size(picture.height, picture.width)
    edges = [_visible(box, picture.size) for box in boxes.tolist()]
    for edge, line in reversed(list(zip(edges, lines, strict=True))):
        _draw_rectangle(draw, edge, line, style.line)
    places: list[Rectangle] = []
    for edge, caption in zip(edges, captions, strict=True):
        places.append(_place_caption(edge, style.caption_size(caption), picture.size, style.line, places))
    for place, caption, line in reversed(list(zip(places, captions, lines, strict=True))):
        draw.rectangle(place, fill=line.color)
        middle = (place[1] + place[3]) / 2
        draw.text((place[0] + style.padding, middle), caption, _ink_on(line.color), style.font, anchor="lm")


def _draw_rectangle(draw: ImageDraw.ImageDraw, edge: Rectangle, line: Outline, width: int) -> None:
    """Its outermost pixels are those of ``edge``; dashes lie on a dark line, so that they are seen on any ground."""
    draw.rectangle(edge, outline=INK if line.dash else line.color, width=width)
    if line.dash is None:
        return
    on, off = line.dash
    x0, y0, x1, y1 = edge
    for start in range(round(x0), round(x1) + 1, on + off):
        end = min(start + on - 1, x1)
        draw.rectangle((start, y0, end, min(y0 + width - 1, y1)), fill=line.color)
        draw.rectangle((start, max(y1 - width + 1, y0), end, y1), fill=line.color)
    for start in range(round(y0), round(y1) + 1, on + off):
        end = min(start + on - 1, y1)
        draw.rectangle((x0, start, min(x0 + width - 1, x1), end), fill=line.color)
        draw.rectangle((max(x1 - width + 1, x0), start, x1, end), fill=line.color)


class Outline(NamedTuple):
    """How a box is drawn: ``dash`` is (drawn, left out) pixels, None for a solid line."""

    color: Color
    dash: tuple[int, int] | None = None


@dataclass(frozen=True)
class Style:
    """Line width, letter size and space beside a caption, in pixels, for a picture of one size."""

    line: int
    font_size: int
    padding: int

    @classmethod
    def for_size(cls, height: int, width: int) -> Style:
        side = math.sqrt(height * width)
        font_size = max(SMALLEST_FONT, round(side / 42))
        return cls(line=max(1, round(side / 260)), font_size=font_size, padding=max(2, font_size // 5))

    @property
    def font(self) -> Font:
        return _font(self.font_size)

    def caption_size(self, caption: str) -> tuple[float, float]:
        return _text_width(caption, self.font_size) + 2 * self.padding, self.font_size * 1.3


@lru_cache(maxsize=16)
def _font(size: int) -> Font:
    """DejaVu Sans of matplotlib (Latin, Greek, Cyrillic, ...); Pillow's own has little beyond ASCII."""
    path = _wide_font()
    return ImageFont.load_default(size) if path is None else ImageFont.truetype(path, size)


@lru_cache(maxsize=1)
def _wide_font() -> str | None:
    found = importlib.util.find_spec("matplotlib")
    path = Path(found.origin or "").parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf" if found else Path("none")
    return str(path) if path.is_file() else None


def drawable(text: str) -> str:
    """``text`` with what the font lacks, such as Chinese characters, written by its number: ``U+7C7B``."""
    if text.isascii():
        return text
    return "".join(character if _has_glyph(character) else f"U+{ord(character):04X} " for character in text)


@lru_cache(maxsize=4096)
def _has_glyph(character: str) -> bool:
    if character.isascii():
        return True
    font, missing = _font(GLYPH_TEST_SIZE), "\U0010fffe"  # a number that is no character: the font's empty box
    masks = [font.getmask(one) for one in (character, missing)] if character.isprintable() else []
    return bool(masks) and (masks[0].size, bytes(masks[0])) != (masks[1].size, bytes(masks[1]))


@lru_cache(maxsize=4096)
def _text_width(text: str, font_size: int) -> float:
    return _font(font_size).getlength(text)


def _visible(box: list[float], picture_size: tuple[int, int]) -> Rectangle:
    """box xyxy -> the pixels to draw, inside a picture of (width, height), at least one."""
    width, height = picture_size
    x0, y0 = (min(max(round(value), 0), side - 1) for value, side in zip(box[:2], (width, height), strict=True))
    x1, y1 = (min(max(round(value) - 1, 0), side - 1) for value, side in zip(box[2:], (width, height), strict=True))
    return x0, y0, max(x0, x1), max(y0, y1)


def _place_caption(
    box: Rectangle,
    size: tuple[float, float],
    picture_size: tuple[int, int],
    line: int,
    taken: Sequence[Rectangle],
) -> Rectangle:
    """The rectangle of a caption of (width, height): above its box, or where it fits and hides no other."""
    width, height = size
    right = max(0.0, picture_size[0] - width)
    bottom = max(0.0, picture_size[1] - height)
    corners = (
        (box[0], box[1] - height),
        (box[0] + line, box[1] + line),
        (box[0], box[3] + 1),
        (box[2] + 1 - width, box[1] - height),
        (box[0] + line, box[3] - line - height),
    )
    places = [(x, y, x + width, y + height) for x, y in ((min(max(x, 0.0), right), y) for x, y in corners)]
    inside = [place for place in places if 0 <= place[1] <= bottom]
    free = [place for place in inside if not any(_overlap(place, other) for other in taken)]
    if free or inside:
        return (free or inside)[0]
    x, y = places[1][0], min(max(places[1][1], 0.0), bottom)
    return x, y, x + width, y + height


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _ink_on(color: Color) -> Color:
    """Black or white, whichever is easier to read on ``colour``."""
    return (0, 0, 0) if _luma(color) > 120 else (255, 255, 255)


def _luma(color: Color) -> float:
    """Rec. 601 brightness, 0..255."""
    return 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]


def _towards_white(channel: int, share: float) -> int:
    return round(channel + (255 - channel) * share)


def _fit(image: ImageArray, side: int) -> Image.Image:
    picture = Image.fromarray(image)
    scale = side / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)


LOSS_CURVES = ("loss", "class_loss", "box_loss")  # in this order; other keys with "loss" in them follow
AP_CURVES = ("AP", "AP50", "AP75")


def plot_curves(history: Sequence[Mapping[str, Any]], path: Path | str) -> None:
    """Draw losses (left) and average precision (right) over the epochs; ``path`` ends in .png, .svg or .pdf.

    ``history`` has one mapping an epoch, as in ``metrics.jsonl``: ``epoch`` (counted from 1 where it is
    missing), any keys that contain ``loss``, and ``AP``, ``AP50``, ``AP75``. None is passed over.
    """
    from matplotlib.figure import Figure

    losses = [key for key in LOSS_CURVES if _has(history, key)]
    losses += sorted({key for row in history for key in row if "loss" in key and _has(history, key)} - set(losses))
    figure = Figure(figsize=(11, 4), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw(left, history, losses, "loss")
    _draw(right, history, [key for key in AP_CURVES if _has(history, key)], "average precision")
    right.set_ylim(0, 1)
    kind = Path(path).suffix.lstrip(".") or "png"
    write_atomically(path, lambda file: figure.savefig(file, format=kind))


def _draw(axes: Axes, history: Sequence[Mapping[str, Any]], keys: Sequence[str], title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    for key in keys:
        points = [
            (row.get("epoch", number), row[key])
            for number, row in enumerate(history, start=1)
            if _is_number(row.get(key))
        ]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, linewidth=1.5, label=key)
    axes.set_title(title)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if keys:
        axes.legend(loc="best", frameon=False)


def _has(history: Sequence[Mapping[str, Any]], key: str) -> bool:
    return any(_is_number(row.get(key)) for row in history)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
