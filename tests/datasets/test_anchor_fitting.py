"""The matches of an anchor shape in closed form, and the anchors fitted with it."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from ssdlite.datasets.anchor_coverage import expected_positives, shape_iou
from ssdlite.datasets.anchor_fitting import fit_anchors
from ssdlite.errors import ConfigError

STRIDES = (16, 32, 64, 128, 256, 512)
CELLS = (400, 100, 25, 9, 4, 1)  # of the maps at 320 px: 20 x 20, 10 x 10, 5 x 5, 3 x 3, 2 x 2, 1
BUDGET = 2034  # anchors of ssdlite_mobilenet_v2 at 320 px


def wh(*shapes: tuple[float, float]) -> np.ndarray:
    return np.array(shapes, np.float64)


def fit(boxes: Any, labels: Any, budget: int = BUDGET, image_size: tuple[int, int] = (320, 320)) -> list[np.ndarray]:
    """The shapes per level in pixels."""
    config = fit_anchors(boxes, labels, image_size=image_size, strides=STRIDES, budget=budget)
    assert config.relative_to == "sides"
    return [np.array(level) * (image_size[1], image_size[0]) for level in config.levels]


def spread(centre: tuple[float, float], count: int, seed: int = 0) -> np.ndarray:
    """Boxes of about this width and height: 10 % spread."""
    return np.array(centre) * np.exp(0.1 * np.random.default_rng(seed).standard_normal((count, 2)))


def test_shape_iou() -> None:
    iou = shape_iou(wh((10, 10), (20, 10)), wh((20, 10), (10, 20)))
    assert np.allclose(iou, [[0.5, 0.5], [1.0, 1 / 3]])


def test_a_perfect_shape_matches_at_a_quarter_of_the_positions_under_the_box() -> None:
    # IoU >= 1/2 for a unit square shifted by (x, y) where (1 - |x|)(1 - |y|) >= 2/3; the area of that is
    # 4 * integral from 0 to 1/3 of 1 - (2/3) / (1 - x) = 4/3 - 8/3 ln(3/2) = 0.2521
    square = wh((55, 55))
    assert expected_positives(square, square, 1)[0, 0] == pytest.approx(55**2 * (4 / 3 - 8 / 3 * math.log(1.5)))
    assert expected_positives(square, square, 16)[0, 0] == pytest.approx(2.979, abs=1e-3)
    assert expected_positives(square, square, 32)[0, 0] == pytest.approx(0.745, abs=1e-3)
    oblong = wh((110, 27.5))
    assert expected_positives(oblong, oblong, 16)[0, 0] == pytest.approx(2.979, abs=1e-3)


def test_a_shape_of_half_the_area_never_matches() -> None:
    assert expected_positives(wh((40, 40)), wh((40, 19), (28, 28)), 16).tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("box", "shape", "stride"),
    [((50, 67), (54, 69), 16), ((20, 27), (32, 32), 16), ((58, 58), (64, 90), 32), ((100, 30), (80, 40), 16)],
)
def test_closed_forms_agree_with_anchors_laid_out_on_a_grid(
    box: tuple[float, float], shape: tuple[float, float], stride: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    steps = torch.arange(-8, 9) * float(stride)
    centres = torch.cartesian_prod(steps, steps)
    anchors = torch.cat([centres - torch.tensor(shape) / 2, centres + torch.tensor(shape) / 2], 1)
    places = (torch.rand(4000, 2, generator=generator) - 0.5) * stride
    boxes = torch.cat([places - torch.tensor(box) / 2, places + torch.tensor(box) / 2], 1)
    matches = (box_iou(boxes, anchors) >= 0.5).sum(1)
    assert expected_positives(wh(box), wh(shape), stride)[0, 0] == pytest.approx(
        matches.float().mean().item(), abs=0.05
    )


def test_cells_of_55_pixels_are_given_to_the_stride_16_map() -> None:
    levels = fit(spread((55, 55), 500), np.zeros(500))
    best = expected_positives(wh((55, 55)), levels[0], 16).max()
    assert best > 2.5
    assert all(
        expected_positives(wh((55, 55)), level, s).max() < 0.7 for level, s in zip(levels[1:], STRIDES[1:], strict=True)
    )


def test_small_and_large_boxes_get_the_fine_and_the_coarse_map() -> None:
    boxes = np.concatenate([spread((40, 60), 900), spread((160, 120), 100, seed=1)])
    levels = fit(boxes, np.repeat([0, 1], [900, 100]))
    assert expected_positives(wh((40, 60)), levels[0], 16).max() > 2
    assert shape_iou(wh((160, 120)), levels[1]).max() > 0.7
    assert shape_iou(wh((160, 120)), levels[0]).max() < 0.4  # would cost 400 anchors where 100 do


def test_a_rare_class_counts() -> None:
    boxes = np.concatenate([spread((55, 65), 2000), spread((22, 26), 100, seed=1)])
    labels = np.repeat([0, 1], [2000, 100])
    levels = fit(boxes, labels)
    assert shape_iou(wh((22, 26)), levels[0]).max() > 0.7
    assert shape_iou(wh((55, 65)), levels[0]).max() > 0.7


@pytest.mark.parametrize("budget", [539, 600, 1000, 2034])
def test_the_budget_holds(budget: int) -> None:
    generator = np.random.default_rng(0)
    levels = fit(generator.lognormal(4, 0.7, (400, 2)), generator.integers(0, 5, 400), budget)
    assert all(len(level) for level in levels)
    assert sum(cells * len(level) for cells, level in zip(CELLS, levels, strict=True)) <= budget


def test_the_same_boxes_give_the_same_anchors() -> None:
    boxes, labels = np.random.default_rng(0).lognormal(4, 0.7, (6000, 2)), np.arange(6000) % 3
    first, second = (fit_anchors(boxes, labels, image_size=(320, 320), strides=STRIDES, budget=1000) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("boxes", "image_size"),
    [
        ([(50, 50)], (320, 320)),
        ([(50, 50)] * 100, (320, 320)),
        ([(3, 3)], (96, 96)),
        ([(0.01, 300)] * 3, (320, 320)),
        ([(1e6, 1e6)], (320, 320)),
        ([(400, 300), (20, 20)], (480, 640)),
        ([(5, 900)], (1024, 64)),
    ],
)
def test_odd_data_still_give_sound_anchors(boxes: list[tuple[float, float]], image_size: tuple[int, int]) -> None:
    levels = fit(boxes, [0] * len(boxes), 50_000, image_size)
    for level, stride in zip(levels, STRIDES, strict=True):
        assert len(level)
        assert (level > 0).all()
        assert (level <= np.array([image_size[1], image_size[0]]) + 1e-6).all()
        if stride > 16:  # never the layout that leaves small boxes to a coarse map
            filler = math.prod(min(3 * stride, side) for side in image_size)
            assert (np.sqrt(level.prod(1)) >= min(1.9 * stride, 0.99 * math.sqrt(filler))).all()


def test_a_map_without_boxes_has_one_shape_of_three_strides() -> None:
    levels = fit([(40, 40)] * 50, [0] * 50)
    assert [level.round().tolist() for level in levels[1:4]] == [[[96, 96]], [[192, 192]], [[320, 320]]]


def test_few_and_broken_boxes() -> None:
    levels = fit([(50, 50), (np.nan, 50), (0, 50), (-5, 50), (np.inf, 50)], [0, 0, 0, 0, 0])
    assert shape_iou(wh((50, 50)), levels[0]).max() > 0.8


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(ConfigError, match="without boxes"):
        fit(np.empty((0, 2)), [])
    with pytest.raises(ConfigError, match="538 anchors is too small: one shape per level takes 539"):
        fit([(50, 50)], [0], 538)
    with pytest.raises(ConfigError, match="2 boxes and 1 labels"):
        fit([(50, 50), (60, 60)], [0])
