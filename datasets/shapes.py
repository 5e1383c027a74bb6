"""Drawing one synthetic scene: a textured background, overlapping shapes on it, noise over all."""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from ssdlite.errors import DataError
from ssdlite.files import write_json, write_text
from ssdlite.images.geometry import ImageArray

SHAPE_NAMES = ("circle", "square", "triangle")
HUES = (0.0, 240.0, 120.0)  # degrees, of each class: a shape is recognised by its outline and by its colour
HUE_SPREAD = 35.0
MOST_TURN = math.radians(30)
SIZES = (0.15, 0.60)  # a shape's diameter, of the shorter side of the image; log-uniform
MOST_SHAPES = 7
SUB_PIXEL_BITS = 4  # OpenCV draws polygons in 1/16 px
LEAST_VISIBLE = 0.55  # of a shape's pixels, after what hides it and what the border cuts off
PLACES_TRIED = 6
COLORS_TRIED = 12
LEAST_CONTRAST = 70.0  # Euclidean distance in RGB between a shape and what is behind it
BACKGROUND_CONTRAST = 60.0  # at most, between two colours of the background, per channel
FloatImage = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
FloatColor = npt.NDArray[np.float32]


class SceneObject(NamedTuple):
    """``box`` is xyxy, tight around the visible pixels; ``area`` is their number."""

    label: int
    box: tuple[int, int, int, int]
    area: int


@dataclass(frozen=True)
class Scene:
    image: ImageArray
    objects: tuple[SceneObject, ...]


class _Placed(NamedTuple):
    label: int
    pixels: int  # of the whole shape, also outside the image


def draw_scene(rng: np.random.Generator, *, with_objects: bool) -> Scene:
    """One scene of about 256 x 192 to 320 x 320 pixels, either way up, with 1 to 7 shapes, or none."""
    height, width = _scene_size(rng)
    canvas = _background(rng, height, width)
    _scribble(rng, canvas)
    owner = np.full((height, width), -1, np.int16)  # which shape is on top
    placed: list[_Placed] = []
    wanted = int(rng.integers(1, MOST_SHAPES + 1)) if with_objects else 0
    while len(placed) < wanted:
        if (shape := _place(rng, canvas, owner, placed)) is None and placed:
            break
        if shape is not None:
            placed.append(shape)
    objects = tuple(_visible_object(shape.label, owner == i) for i, shape in enumerate(placed))
    return Scene(_photograph(rng, canvas), objects)


def _scene_size(rng: np.random.Generator) -> tuple[int, int]:
    long_side, short_side = int(rng.integers(256, 321)), int(rng.integers(192, 257))
    return (long_side, short_side) if rng.random() < 0.3 else (short_side, long_side)


def _place(
    rng: np.random.Generator, canvas: FloatImage, owner: npt.NDArray[np.int16], placed: list[_Placed]
) -> _Placed | None:
    """Draw one more shape where it and those below stay visible enough; None where no place was found."""
    height, width = owner.shape
    label = int(rng.integers(len(SHAPE_NAMES)))
    for _ in range(PLACES_TRIED):
        diameter = min(height, width) * math.exp(rng.uniform(math.log(SIZES[0]), math.log(SIZES[1])))
        center = rng.uniform((0.0, 0.0), (width, height))
        points = _outline(label, rng) * (diameter / 2) + center
        alpha, x0, y0, pixels = _rasterize(points, height, width)
        mask = alpha >= 0.5
        region = (slice(y0, y0 + mask.shape[0]), slice(x0, x0 + mask.shape[1]))
        if mask.sum() < LEAST_VISIBLE * pixels or not _leaves_visible(owner, region, mask, placed):
            continue
        _paint(rng, canvas[region], alpha, label)
        owner[region][mask] = len(placed)
        return _Placed(label, pixels)
    return None


def _outline(label: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Corner points [P, 2] of a shape of radius 1, turned and slightly squeezed by chance."""
    points = _on_circle({"circle": 60, "square": 4, "triangle": 3}[SHAPE_NAMES[label]])
    squeeze = math.exp(rng.uniform(-0.12, 0.12))
    angle = -math.pi / 2 + rng.uniform(-MOST_TURN, MOST_TURN)  # a corner up, more or less
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return np.asarray(points * (squeeze, 1 / squeeze) @ turn.T)


def _on_circle(count: int) -> npt.NDArray[np.float64]:
    angles = np.arange(count) * (2 * math.pi / count)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _rasterize(points: npt.NDArray[np.float64], height: int, width: int) -> tuple[FloatImage, int, int, int]:
    """The part of a polygon inside the image, alpha [h, w] in 0..1, its corner, and the shape's pixels."""
    low, high = np.floor(points.min(axis=0)).astype(int) - 1, np.ceil(points.max(axis=0)).astype(int) + 2
    patch = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
    corners = np.rint((points - low) * (1 << SUB_PIXEL_BITS)).astype(np.int32)
    cv2.fillPoly(patch, [corners], 255, lineType=cv2.LINE_AA, shift=SUB_PIXEL_BITS)
    x0, y0 = max(int(low[0]), 0), max(int(low[1]), 0)
    x1, y1 = min(int(high[0]), width), min(int(high[1]), height)
    inside = patch[y0 - low[1] : max(y1 - low[1], 0), x0 - low[0] : max(x1 - low[0], 0)]
    return np.divide(inside, 255, dtype=np.float32), x0, y0, int((patch >= 128).sum())


def _leaves_visible(
    owner: npt.NDArray[np.int16], region: tuple[slice, slice], mask: Mask, placed: list[_Placed]
) -> bool:
    hidden = owner[region][mask]
    for below in np.unique(hidden[hidden >= 0]):
        visible = (owner == below).sum() - (hidden == below).sum()
        if visible < LEAST_VISIBLE * placed[below].pixels:
            return False
    return True


def _visible_object(label: int, visible: Mask) -> SceneObject:
    columns, rows = np.flatnonzero(visible.any(axis=0)), np.flatnonzero(visible.any(axis=1))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return SceneObject(label, box, int(visible.sum()))


def _paint(rng: np.random.Generator, patch: FloatImage, alpha: FloatImage, label: int) -> None:
    """Blend a shape of its class's colour, plain, shaded or striped, into ``patch``, some with a darker rim."""
    behind = np.average(patch.reshape(-1, 3), axis=0, weights=alpha.reshape(-1) + 1e-6)
    color = _contrasting(rng, behind, label)
    height, width = alpha.shape
    fill: npt.NDArray[np.floating] = np.broadcast_to(color, (height, width, 3))
    style = rng.random()
    if style < 0.35:
        fill = color + rng.uniform(15, 40) * _wave(rng, height, width, max(height, width) * 2.0)[..., None]
    elif style < 0.55:
        fill = color + rng.uniform(15, 30) * np.sign(_wave(rng, height, width, rng.uniform(5, 14)))[..., None]
    if rng.random() < 0.3:
        core = cv2.erode(alpha, np.ones((3, 3), np.uint8), iterations=int(rng.integers(1, 3)))
        fill = fill * (0.55 + 0.45 * core[..., None])
    patch += (np.clip(fill, 0, 255).astype(np.float32) - patch) * alpha[..., None]


def _contrasting(rng: np.random.Generator, behind: npt.NDArray[np.floating], label: int) -> FloatColor:
    """A colour of the class that stands out from ``behind``; the best of some tries."""
    low, high = (HUES[label] - HUE_SPREAD, 0.45, 0.35), (HUES[label] + HUE_SPREAD, 1.0, 1.0)
    hsv = rng.uniform(low, high, (1, COLORS_TRIED, 3)).astype(np.float32)
    colors = cv2.cvtColor(hsv % np.array([360.0, 2.0, 2.0], np.float32), cv2.COLOR_HSV2RGB)[0] * 255
    distances = np.linalg.norm(colors - behind, axis=1)
    enough = np.flatnonzero(distances >= LEAST_CONTRAST)
    return np.asarray(colors[enough[0] if len(enough) else distances.argmax()])


def _background(rng: np.random.Generator, height: int, width: int) -> FloatImage:
    """One of: gradient, stripes, clouds, blotches, in two related colours."""
    first = rng.uniform(20, 235, 3).astype(np.float32)
    second = np.clip(first + rng.uniform(-BACKGROUND_CONTRAST, BACKGROUND_CONTRAST, 3).astype(np.float32), 0, 255)
    kind = int(rng.integers(4))
    if kind == 0:
        blend = _wave(rng, height, width, 2.5 * max(height, width))
    elif kind == 1:
        blend = _wave(rng, height, width, rng.uniform(8, 60))
    elif kind == 2:
        blend = _clouds(rng, height, width)
    else:
        blend = _blotches(rng, height, width)
    return np.asarray(first + (second - first) * (0.5 + 0.5 * blend[..., None]), np.float32)


def _wave(rng: np.random.Generator, height: int, width: int, period: float) -> FloatImage:
    """A sine wave [H, W] in -1..1 along a random direction; ``period`` in px."""
    angle, phase = rng.uniform(0, 2 * math.pi, 2)
    rows = np.arange(height, dtype=np.float32)[:, None] * np.float32(math.sin(angle))
    columns = np.arange(width, dtype=np.float32)[None] * np.float32(math.cos(angle))
    return np.asarray(np.sin((rows + columns) * np.float32(2 * math.pi / period) + np.float32(phase)))


def _clouds(rng: np.random.Generator, height: int, width: int) -> FloatImage:
    """Value noise [H, W] in -1..1: random grids, each twice as fine and half as strong as the one before."""
    total = np.zeros((height, width), np.float32)
    for octave in range(4):
        grid = rng.uniform(-1, 1, (3 << octave, 4 << octave)).astype(np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) / (1 << octave)
    return np.clip(total, -1, 1)


def _blotches(rng: np.random.Generator, height: int, width: int) -> FloatImage:
    """Soft ellipses [H, W] in -1..1."""
    blend = np.full((height, width), -1, np.float32)
    for _ in range(int(rng.integers(8, 30))):
        center = (int(rng.integers(width)), int(rng.integers(height)))
        axes = (int(rng.integers(6, 60)), int(rng.integers(6, 60)))
        cv2.ellipse(blend, center, axes, rng.uniform(0, 180), 0, 360, rng.uniform(-1, 1), -1)
    return np.asarray(cv2.GaussianBlur(blend, (0, 0), rng.uniform(2, 8)))


def _scribble(rng: np.random.Generator, canvas: FloatImage) -> None:
    """Thin lines that belong to no class."""
    height, width = canvas.shape[:2]
    for _ in range(int(rng.integers(0, 6))):
        ends = rng.integers((0, 0), (width, height), (2, 2))
        color = rng.uniform(0, 255, 3).tolist()
        cv2.line(canvas, ends[0].tolist(), ends[1].tolist(), color, int(rng.integers(1, 3)), cv2.LINE_AA)


def _photograph(rng: np.random.Generator, canvas: FloatImage) -> ImageArray:
    """Light, blur and sensor noise."""
    if rng.random() < 0.3:
        canvas = np.asarray(cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.4, 1.2)))
    canvas = (canvas - 128) * rng.uniform(0.75, 1.1) + 128 + rng.uniform(-20, 20)
    noise = rng.standard_normal(canvas.shape, np.float32) * np.float32(rng.uniform(0, 12))
    return np.asarray(np.clip(np.rint(canvas + noise), 0, 255), np.uint8)


# --- The built-in data set: synthetic scenes of shapes in COCO's layout, the same on every machine.

VERSION = 2  # of the scenes; another one is generated afresh
MARKER = "shapes.json"  # says with which settings a folder was completed
TRAIN_IMAGES, VAL_IMAGES = 800, 200
EMPTY_EVERY = 25  # one scene in so many has no objects
JPEG_QUALITY = 90


def generate_shapes(
    folder: Path, *, train_images: int = TRAIN_IMAGES, val_images: int = VAL_IMAGES, seed: int = 0
) -> None:
    """Write ``train/``, ``val/`` and ``annotations/instances_{train,val}.json`` below ``folder``.

    Does nothing where the same data set is complete already. The folder appears whole or not at all.

    Raises:
        DataError: ``folder`` holds something else.
    """
    folder = Path(folder).resolve()  # a link stays one: what it points to is replaced
    settings = {"version": VERSION, "train_images": train_images, "val_images": val_images, "seed": seed}
    if _settings_of(folder) == settings:
        return
    if folder.exists() and _settings_of(folder) is None and not (folder.is_dir() and not any(folder.iterdir())):
        raise DataError(f"{folder}: expected a new folder or generated shapes, found other files; not touched")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        new = Path(temporary) / "new"
        for split, name, count in ((0, "train", train_images), (1, "val", val_images)):
            content = _write_images(new / name, [seed, split], count)
            write_text(new / "annotations" / f"instances_{name}.json", json.dumps(content))
        write_json(new / MARKER, settings)
        _put_in_place(new, folder, settings, Path(temporary) / "old")


def _write_images(folder: Path, seed: list[int], count: int) -> dict[str, Any]:
    """Draw and write ``count`` scenes, each from seed and number alone, and list them as COCO does."""
    folder.mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(count):
        rng = np.random.default_rng([*seed, number])
        scene = draw_scene(rng, with_objects=number % EMPTY_EVERY != EMPTY_EVERY - 1)
        file_name = f"{number:06d}.jpg"
        quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        if not cv2.imwrite(str(folder / file_name), scene.image[:, :, ::-1], quality):
            raise OSError(f"{folder / file_name}: could not be written")
        height, width = scene.image.shape[:2]
        images.append({"id": number + 1, "file_name": file_name, "width": width, "height": height, "license": 1})
        for item in scene.objects:
            annotations.append(_annotation(len(annotations) + 1, number + 1, item))
    return {
        "info": {"description": "ssdlite built-in shapes", "version": str(VERSION), "seed": seed},
        "licenses": [{"id": 1, "name": "CC0 1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}],
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": label + 1, "name": name, "supercategory": "shape"} for label, name in enumerate(SHAPE_NAMES)
        ],
    }


def _annotation(annotation_id: int, image_id: int, item: SceneObject) -> dict[str, Any]:
    x0, y0, x1, y1 = item.box
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": item.label + 1,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": item.area,
        "iscrowd": 0,
    }


def _settings_of(folder: Path) -> Any:
    """The settings that a folder was completed with; None where it is not one of ours."""
    try:
        return json.loads((folder / MARKER).read_bytes())
    except (OSError, ValueError):
        return None


def _put_in_place(new: Path, folder: Path, settings: dict[str, int], old: Path) -> None:
    """Make ``new`` the folder; another process that was faster with the same settings is just as good."""
    if _settings_of(folder) == settings:
        return
    try:
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    except OSError:
        if _settings_of(folder) != settings:
            raise
