"""Anchor shapes fitted to the boxes of a data set, under a budget of anchors.

What counts is not only whether a shape resembles a box but on which map it stands: where the stride is
large compared with the box, no position may come near enough, and dense neighbours compete for one anchor.
So the fit maximises the mean, over boxes, of ``1 - exp(-positives)`` on the level that serves the box best,
with the expected number of matching positions from ``anchor_coverage``: 0.95 for three positions, 0.63 for
one. Classes weigh alike (a class with few boxes a little less), as they do in the mean average precision.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ssdlite.anchors import AnchorConfig
from ssdlite.config import DetectorConfig
from ssdlite.datasets.anchor_coverage import PERFECT_FIT, Floats, InputBoxes, expected_positives, shape_iou
from ssdlite.errors import ConfigError

SEED = 0
MAX_BOXES = 2000  # fitted to, shared evenly by the classes
COPIES = 6  # of the boxes of a class that has few, all but one perturbed: shapes fitted to the few do worse on others
PERTURBATION = 0.15  # of the perturbation: standard deviation of the logarithm of width and height
CANDIDATES = 40  # cluster centres of the boxes that a shape starts from
MAX_SHAPES = 8  # on one level: head channels grow with it
ENOUGH_BOXES = 50  # of a class, for half of a full class's weight
PRICE = 0.01  # share of the objective that a shape must add if it took the whole budget, else in proportion
MIN_GAIN = 0.0002  # share of the objective that any shape must add
CLOSENESS = 0.2  # weight of the shape's IoU, which guides the fit where no position matches
TOO_FINE = 7.0  # strides per box side from which the next level, of twice the stride, offers three positions too
TOO_SMALL = 2.0  # strides per side of a shape below which it misses many boxes: left to the finest level
FILLER = 3.0  # side of the shape on a level that serves no box, in strides
_STEPS = np.exp(0.06 * np.array([[x, y] for x in (-1, 0, 1) for y in (-1, 0, 1) if x or y]))  # for refinement

LevelShape = tuple[int, tuple[float, float]]  # level, (width, height) px


def fit_anchors(
    boxes_wh: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    image_size: tuple[int, int],
    strides: Sequence[int],
    budget: int,
) -> AnchorConfig:
    """Shapes per level for boxes [T, 2] (width, height) px at the network's resolution with labels [T].

    image_size is (height, width). At most ``budget`` anchors stand on all the maps together; every level has
    at least one shape, since it has a head. The same boxes give the same anchors.

    Raises:
        ConfigError: no box to fit to, or a budget that does not hold one shape per level.
    """
    boxes, weights = _sample(boxes_wh, labels, image_size)
    cells = [-(-image_size[0] // stride) * -(-image_size[1] // stride) for stride in strides]
    if sum(cells) > budget:
        raise ConfigError(f"a budget of {budget} anchors is too small: one shape per level takes {sum(cells)}")
    fit = _Fit(boxes=boxes, weights=weights, strides=strides, cells=cells, image_size=image_size, budget=budget)
    most_finest = min(MAX_SHAPES, (budget - sum(cells[1:])) // cells[0])
    best = fit.build(1)
    for finest in range(2, most_finest + 1):
        layout = fit.build(finest)
        if fit.net_objective(layout) <= fit.net_objective(best):
            break
        best = layout
    return _as_config(best, len(strides), image_size)


class _Fit:
    """The objective over the sampled boxes, and the search for the layout that maximises it."""

    def __init__(
        self,
        *,
        boxes: Floats,
        weights: Floats,
        strides: Sequence[int],
        cells: Sequence[int],
        image_size: tuple[int, int],
        budget: int,
    ) -> None:
        self.boxes, self.weights = boxes, weights
        self.sides = np.sqrt(boxes.prod(1))
        self.strides, self.cells, self.budget = strides, cells, budget
        self.limit = np.array([image_size[1], image_size[0]], np.float64)
        self.candidates = np.minimum(_cluster(boxes, weights, CANDIDATES), self.limit)
        self.candidate_values = [self.values(level, self.candidates) for level in range(len(strides))]

    def values(self, level: int, shapes: Floats) -> Floats:
        """What shapes [S, 2] on a level are worth to every box -> [T, S]."""
        stride = self.strides[level]
        fineness = np.ones_like(self.sides)
        if level + 1 < len(self.strides):
            fineness = np.minimum(1, TOO_FINE * stride / self.sides)
        attainable = 1 - np.exp(-PERFECT_FIT * (self.sides / stride) ** 2)
        missed = np.exp(-expected_positives(self.boxes, shapes, stride))
        value = 1 - missed * (1 - CLOSENESS * attainable[:, None] * shape_iou(self.boxes, shapes))
        allowed = (level == 0) | (np.sqrt(shapes.prod(1)) >= TOO_SMALL * stride)
        return np.asarray(value * fineness[:, None] * allowed)

    def columns(self, layout: Sequence[LevelShape]) -> Floats:
        """What every shape of a layout is worth to every box -> [T, shapes]."""
        return np.concatenate([self.values(level, np.array([shape])) for level, shape in layout], axis=1)

    def objective(self, layout: Sequence[LevelShape]) -> float:
        return float(self.weights @ self.columns(layout).max(1))

    def net_objective(self, layout: Sequence[LevelShape]) -> float:
        """The objective less the price of the anchors."""
        return self.objective(layout) * (1 - sum(self.least_gain(level) for level, _ in layout))

    def least_gain(self, level: int) -> float:
        """The share of the objective that a shape on ``level`` must add."""
        return max(MIN_GAIN, PRICE * self.cells[level] / self.budget)

    def build(self, finest: int) -> list[LevelShape]:
        """A layout with ``finest`` shapes on level 0 and at least one on every other level."""
        quota = [finest, *[1] * (len(self.strides) - 1)]
        layout = self._polish(self._fill(quota))
        layout = self._polish(self._spend(layout))
        return self._with_fillers(layout)

    def _fill(self, quota: Sequence[int]) -> list[LevelShape]:
        """The shapes of the quota, one after the other by gain."""
        layout: list[LevelShape] = []
        left, best = list(quota), np.zeros(len(self.boxes))
        while any(left):
            levels = [level for level, count in enumerate(left) if count]
            _, entry, value = max((self._best_candidate(level, best) for level in levels), key=lambda x: x[0])
            left[entry[0]] -= 1
            layout.append(entry)
            best = np.maximum(best, value)
        return layout

    def _spend(self, layout: list[LevelShape]) -> list[LevelShape]:
        """More shapes on the coarser levels while budget and gain last, by gain per anchor."""
        layout, best = list(layout), self.columns(layout).max(1)
        left = self.budget - sum(self.cells[level] for level, _ in layout)
        while True:
            counts = [sum(level == other for other, _ in layout) for level in range(len(self.strides))]
            levels = [i for i in range(1, len(counts)) if self.cells[i] <= left and counts[i] < MAX_SHAPES]
            options = [self._best_candidate(level, best) for level in levels]
            total = float(self.weights @ best)
            options = [option for option in options if option[0] > self.least_gain(option[1][0]) * total]
            if not options:
                return layout
            _, entry, value = max(options, key=lambda option: option[0] / self.cells[option[1][0]])
            layout.append(entry)
            best, left = np.maximum(best, value), left - self.cells[entry[0]]

    def _best_candidate(self, level: int, best: Floats) -> tuple[float, LevelShape, Floats]:
        values = self.candidate_values[level]
        gains = self.weights @ np.maximum(values - best[:, None], 0)
        choice = int(gains.argmax())
        shape = self.candidates[choice]
        return float(gains[choice]), (level, (float(shape[0]), float(shape[1]))), values[:, choice]

    def _polish(self, layout: list[LevelShape], passes: int = 4) -> list[LevelShape]:
        """Every shape in turn moves to the best candidate, then in small steps, with the others fixed."""
        layout, columns = list(layout), self.columns(layout)
        for _ in range(passes):
            before = list(layout)
            for i, entry in enumerate(layout):
                others = np.delete(columns, i, axis=1).max(1, initial=0)
                layout[i] = self._improve(entry, others)
                columns[:, i : i + 1] = self.columns([layout[i]])
            if layout == before:
                break
        return layout

    def _improve(self, entry: LevelShape, others: Floats) -> LevelShape:
        level, shape = entry
        gain = self._gains(level, np.array([shape]), others)[0]
        jump, jumped, _ = self._best_candidate(level, others)
        if jump > gain + 1e-9:
            gain, (_, shape) = jump, jumped
        for _ in range(40):
            nearby = np.minimum(np.array([shape]) * _STEPS, self.limit)
            gains = self._gains(level, nearby, others)
            if gains.max() <= gain + 1e-9:
                break
            gain, chosen = float(gains.max()), nearby[int(gains.argmax())]
            shape = (float(chosen[0]), float(chosen[1]))
        return level, shape

    def _gains(self, level: int, shapes: Floats, others: Floats) -> Floats:
        return np.asarray(self.weights @ np.maximum(self.values(level, shapes) - others[:, None], 0))

    def _with_fillers(self, layout: list[LevelShape]) -> list[LevelShape]:
        """Without the shapes that hardly any box needs, and with a plain shape on each level left without."""
        kept, columns = list(layout), self.columns(layout)
        for entry in sorted(layout, key=lambda entry: -entry[0]):
            i = kept.index(entry)
            rest = np.delete(columns, i, axis=1)
            whole, without = (float(self.weights @ values.max(1, initial=0)) for values in (columns, rest))
            if whole - without < self.least_gain(entry[0]) * whole:
                kept, columns = kept[:i] + kept[i + 1 :], rest
        for level, stride in enumerate(self.strides):
            if not any(other == level for other, _ in kept):
                side = np.minimum(FILLER * stride, self.limit)
                kept.append((level, (float(side[0]), float(side[1]))))
        return kept


def _sample(boxes_wh: npt.ArrayLike, labels: npt.ArrayLike, image_size: tuple[int, int]) -> tuple[Floats, Floats]:
    """About MAX_BOXES usable boxes [T, 2] at most, drawn evenly from the classes, and their weights, sum 1."""
    boxes = np.asarray(boxes_wh, np.float64).reshape(-1, 2)
    classes = np.asarray(labels).reshape(-1)
    if len(boxes) != len(classes):
        raise ConfigError(f"expected a label for every box, got {len(boxes)} boxes and {len(classes)} labels")
    usable = np.isfinite(boxes).all(1) & (boxes > 0).all(1)
    boxes, classes = boxes[usable], classes[usable]
    if not len(boxes):
        raise ConfigError("anchors cannot be fitted to a data set without boxes; use the preset's own anchors")
    names, counts = np.unique(classes, return_counts=True)
    share = counts / (counts + ENOUGH_BOXES)
    generator = np.random.default_rng(SEED)
    quota = max(1, MAX_BOXES // len(names))
    parts = [_fill_up(boxes[classes == name], quota, generator) for name in names]
    weights = [np.full(len(part), weight / len(part)) for part, weight in zip(parts, share / share.sum(), strict=True)]
    return np.clip(np.concatenate(parts), 1, [image_size[1], image_size[0]]), np.concatenate(weights)


def _fill_up(boxes: Floats, quota: int, generator: np.random.Generator) -> Floats:
    """``quota`` of the boxes [T, 2] of a class, or all of them and perturbed copies."""
    if len(boxes) >= quota:
        return boxes[np.sort(generator.choice(len(boxes), quota, replace=False))]
    copies = min(COPIES, quota // len(boxes)) - 1
    noise = np.exp(PERTURBATION * generator.standard_normal((copies, *boxes.shape)))
    return np.concatenate([boxes, *(boxes * noise)])


def _cluster(boxes: Floats, weights: Floats, count: int) -> Floats:
    """Weighted k-means on the logarithms of width and height -> at most ``count`` centres [C, 2]."""
    points = np.log(boxes)
    distinct = np.unique(points, axis=0)
    if len(distinct) <= count:
        return np.asarray(np.exp(distinct))
    centers = points[[int(weights.argmax())]]
    distance = ((points - centers[0]) ** 2).sum(1)
    for _ in range(count - 1):  # the next centre lies where most weighted distance is left
        centers = np.vstack([centers, points[int((distance * weights).argmax())]])
        distance = np.minimum(distance, ((points - centers[-1]) ** 2).sum(1))
    for _ in range(10):
        nearest = ((points[:, None] - centers[None]) ** 2).sum(2).argmin(1)
        mass = np.bincount(nearest, weights, len(centers))
        sums = np.stack([np.bincount(nearest, weights * points[:, i], len(centers)) for i in (0, 1)], 1)
        centers = np.where(mass[:, None] > 0, sums / np.maximum(mass, 1e-300)[:, None], centers)
    return np.asarray(np.exp(centers))


def _as_config(layout: Sequence[LevelShape], level_count: int, image_size: tuple[int, int]) -> AnchorConfig:
    """Fractions of the image's sides, small shapes first on every level."""
    height, width = image_size
    levels: list[list[tuple[float, float]]] = [[] for _ in range(level_count)]
    for level, (w, h) in layout:
        levels[level].append((round(min(w / width, 1.0), 4), round(min(h / height, 1.0), 4)))
    return AnchorConfig(
        levels=tuple(tuple(sorted(shapes, key=lambda s: s[0] * s[1])) for shapes in levels),
        relative_to="sides",
    )


def fit_to_boxes(boxes: InputBoxes, config: DetectorConfig, budget: int | None = None) -> AnchorConfig:
    """Anchors for these boxes on the maps of ``config``; ``budget`` anchors at most, by default as many as it has.

    Their centres lie in their cells where those of ``config`` do.

    Raises:
        ConfigError: see ``fit_anchors``.
    """
    fitted = fit_anchors(
        boxes.sides,
        boxes.labels,
        image_size=config.input.size,
        strides=config.strides,
        budget=config.num_anchors if budget is None else budget,
    )
    return fitted.changed(offset=config.anchors.offset)
