"""Anchors against MediaPipe's golden file, torchvision's generator, and by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList

from ssdlite.anchors import (
    AnchorConfig,
    generate_anchors,
    stride_anchors,
    tensorflow_anchors,
    torchvision_anchors,
    with_finer_level,
)
from ssdlite.config import DetectorConfig
from ssdlite.errors import ConfigError

GOLDEN = Path(__file__).parent / "data" / "tf_ssd300_anchors_cxcywh.txt"


def grids(image_size: tuple[int, int], levels: int = 6) -> tuple[tuple[int, int], ...]:
    return tuple(tuple(math.ceil(side / (16 << level)) for side in image_size) for level in range(levels))


def to_cxcywh(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)


def test_tensorflow_anchors_are_mediapipes_golden_ones():
    golden = np.loadtxt(GOLDEN)
    anchors = generate_anchors(tensorflow_anchors(), (300, 300), ((19, 19), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)))
    assert golden.shape == anchors.shape == (1917, 4)
    np.testing.assert_allclose(to_cxcywh(anchors / 300), golden, rtol=1e-7, atol=3e-6)  # written in six digits


def test_tensorflow_anchors_at_320():
    anchors = generate_anchors(tensorflow_anchors(), (320, 320), grids((320, 320)))
    assert len(anchors) == 2034
    # first cell's centre (8, 8); sides 0.1, then 0.2 * sqrt(2) and 0.2 / sqrt(2), of 320
    np.testing.assert_allclose(
        to_cxcywh(anchors[:3]), [[8, 8, 32, 32], [8, 8, 90.50967, 45.254834], [8, 8, 45.254834, 90.50967]], atol=1e-4
    )
    # the last is the only cell's geometric mean of 0.95 and 1
    np.testing.assert_allclose(to_cxcywh(anchors[-1:]), [[160, 160, 311.8974, 311.8974]], atol=1e-4)


def test_tensorflow_anchors_keep_their_shape_on_a_wide_input():
    """TensorFlow takes both sides from the shorter one, so a square anchor is square in pixels."""
    anchors = generate_anchors(tensorflow_anchors(), (192, 320), grids((192, 320)))
    assert len(anchors) == 12 * 20 * 3 + (6 * 10 + 3 * 5 + 2 * 3 + 1 * 2 + 1 * 1) * 6
    np.testing.assert_allclose(to_cxcywh(anchors[:1]), [[8, 8, 19.2, 19.2]], atol=1e-4)
    assert to_cxcywh(anchors[-1:])[0, :2].tolist() == [160, 96]


@pytest.mark.parametrize("image_size", [(320, 320), (192, 320), (480, 256), (321, 321), (97, 233), (300, 300)])
def test_torchvision_anchors_are_torchvisions(image_size):
    feature_grids = grids(image_size)
    generator = DefaultBoxGenerator([[2, 3] for _ in range(6)], min_ratio=0.2, max_ratio=0.95)
    images = ImageList(torch.zeros(1, 3, *image_size), [image_size])
    (theirs,) = generator(images, [torch.zeros(1, 1, *grid) for grid in feature_grids])
    ours = generate_anchors(torchvision_anchors(), image_size, feature_grids)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-4)
    if image_size == (320, 320):
        assert len(ours) == 3234


def test_order_is_rows_columns_shapes():
    config = AnchorConfig((((0.5, 0.5), (0.25, 0.5)),))
    anchors = generate_anchors(config, (40, 80), ((2, 2),))
    assert to_cxcywh(anchors).tolist() == [
        [20, 10, 40, 20],
        [20, 10, 20, 20],
        [60, 10, 40, 20],
        [60, 10, 20, 20],
        [20, 30, 40, 20],
        [20, 30, 20, 20],
        [60, 30, 40, 20],
        [60, 30, 20, 20],
    ]
    assert anchors.dtype == np.float32


def test_relative_to_the_shorter_side():
    config = AnchorConfig((((0.5, 0.25),),), relative_to="shorter_side")
    assert generate_anchors(config, (40, 80), ((1, 1),)).tolist() == [[30, 15, 50, 25]]
    assert generate_anchors(config, (80, 40), ((1, 1),)).tolist() == [[10, 35, 30, 45]]


def test_anchors_may_reach_outside_the_image():
    anchors = generate_anchors(tensorflow_anchors(), (300, 300), grids((300, 300)))
    assert anchors.min() < 0
    assert anchors.max() > 300


def test_count_is_the_number_generated():
    for image_size in ((96, 96), (321, 200)):
        for config in (tensorflow_anchors(), torchvision_anchors()):
            assert config.count(grids(image_size)) == len(generate_anchors(config, image_size, grids(image_size)))


def test_scales_and_ratios_can_be_chosen():
    """The BCCD anchors of the issue: square, lying and standing at 0.1 and 0.2, and the mean of both."""
    config = tensorflow_anchors((0.1, 0.2), (1.0, 2.0, 0.5), reduce_lowest=False)
    assert config.shapes_per_cell == (4,)
    np.testing.assert_allclose(
        config.levels[0],
        [(0.1, 0.1), (0.1414214, 0.0707107), (0.0707107, 0.1414214), (0.1414214, 0.1414214)],
        atol=1e-6,
    )


def test_steps_in_pixels_place_the_centres_but_not_outside():
    config = AnchorConfig((((0.5, 0.5),), ((1.0, 1.0),)), steps=(16.0, 30.0))
    anchors = to_cxcywh(generate_anchors(config, (40, 36), ((3, 3), (2, 2))))
    assert anchors[:9, 0].tolist() == [8, 24, 36] * 3  # the third would be at 40, and the input is 36 wide
    assert anchors[:9:3, 1].tolist() == [8, 24, 40]
    assert anchors[9:, :2].tolist() == [[15, 15], [36, 15], [15, 40], [36, 40]]
    assert anchors[:, 2:].tolist() == [[18, 20]] * 9 + [[36, 40]] * 4


def test_centres_may_lie_elsewhere_in_their_cells():
    """NanoDet-Plus counts from the cells' corners, in strides: 0, 8, 16, ...; its last map may reach outside."""
    corners = AnchorConfig((((0.5, 0.5),),), steps=(16.0,), offset=0)
    assert to_cxcywh(generate_anchors(corners, (40, 40), ((3, 3),)))[:3].tolist() == [
        [0, 0, 20, 20],
        [16, 0, 20, 20],
        [32, 0, 20, 20],
    ]
    quarter = AnchorConfig((((0.5, 0.5),),), offset=0.25)
    assert to_cxcywh(generate_anchors(quarter, (40, 80), ((2, 2),)))[:, :2].tolist() == [
        [10, 5],
        [50, 5],
        [10, 25],
        [50, 25],
    ]
    assert with_finer_level(corners).offset == 0
    assert (
        DetectorConfig.from_dict(
            DetectorConfig().changed(anchors=tensorflow_anchors().changed(offset=0.25)).to_dict()
        ).anchors.offset
        == 0.25
    )


@pytest.mark.parametrize("offset", [-0.1, 1.5, float("nan")])
def test_an_offset_outside_the_cell_is_refused(offset):
    with pytest.raises(ConfigError, match="anchor offset: expected 0 to 1, a share of the cell's sides, got"):
        AnchorConfig((((0.5, 0.5),),), offset=offset)


def test_a_finer_level_halves_the_step():
    config = with_finer_level(AnchorConfig((((0.5, 0.5),), ((1.0, 1.0),)), steps=(16.0, 32.0)))
    assert (config.levels[0], config.steps) == (((0.25, 0.25),), (8.0, 16.0, 32.0))


@pytest.mark.parametrize("steps", [(16.0,), (16.0, 0.0), (16.0, float("nan")), (16.0, 5000.0)])
def test_impossible_steps_are_refused(steps):
    with pytest.raises(ConfigError, match="anchor steps: expected none, or one of up to 4096 pixels for each of the 2"):
        AnchorConfig((((0.5, 0.5),), ((1.0, 1.0),)), steps=steps)


@pytest.mark.parametrize("shape", [(0.0, 0.1), (0.1, -0.1), (float("nan"), 0.1), (0.1, float("inf")), (5.0, 0.1)])
def test_impossible_shapes_are_refused(shape):
    with pytest.raises(ConfigError, match="level 1"):
        AnchorConfig((((0.1, 0.1),), (shape,)))


def test_a_level_without_shapes_is_refused():
    with pytest.raises(ConfigError, match="level 0 has no shapes"):
        AnchorConfig(((), ((0.1, 0.1),)))


def test_levels_and_maps_must_agree_in_number():
    with pytest.raises(ConfigError, match=r"1 levels.*2 maps"):
        generate_anchors(AnchorConfig((((0.1, 0.1),),)), (32, 32), ((2, 2), (1, 1)))
    with pytest.raises(ConfigError, match=r"6 maps.*5"):
        DetectorConfig(anchors=AnchorConfig(tensorflow_anchors().levels[:5]))


def test_absurd_numbers_of_anchors_are_refused_without_making_them():
    crowded = AnchorConfig((((0.1, 0.1),) * 1000,), relative_to="sides")
    with pytest.raises(ConfigError, match="900000 anchors"):
        generate_anchors(crowded, (480, 480), ((30, 30),))
    levels = (((0.1, 0.1),) * 2000, *tensorflow_anchors().levels[1:])
    with pytest.raises(ConfigError, match="more than the 500000 allowed"):
        DetectorConfig(anchors=AnchorConfig(levels))


def test_anchors_of_heads_that_count_in_strides_are_their_cells():
    """An input of 72 pixels has two cells and a bit at stride 32."""
    anchors = stride_anchors((16, 32), 72)
    found = to_cxcywh(generate_anchors(anchors, (72, 72), ((5, 5), (3, 3))))
    assert found[:2] == pytest.approx(np.array([[8, 8, 16, 16], [24, 8, 16, 16]]))
    assert found[-3:] == pytest.approx(np.array([[16, 72, 32, 32], [48, 72, 32, 32], [72, 72, 32, 32]]))
    assert stride_anchors((16, 32), 72, offset=0.0).offset == 0
