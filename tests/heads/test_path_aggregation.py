"""The path-aggregation neck and the head of distances: literal layer facts, shapes, and what a fresh head says."""

import pytest
import torch
from torch import nn

import ssdlite
from ssdlite.anchors import square_anchors
from ssdlite.backbones import FeatureMap, LayerConfig
from ssdlite.config import override
from ssdlite.detector import detector_from_config
from ssdlite.errors import ConfigError
from ssdlite.heads import DistanceHead, PathAggregation
from ssdlite.heads.pan import enlarge
from tests.cells import CELLS

INPUTS = [FeatureMap(12, 8, activated=True), FeatureMap(20, 16, activated=False), FeatureMap(40, 32, activated=True)]


def neck(added: int = 1) -> PathAggregation:
    return PathAggregation(INPUTS, 16, added=added, kernel_size=5, layers=LayerConfig()).eval()


def maps_of(*sizes: tuple[int, int]) -> list[torch.Tensor]:
    return [torch.randn(2, one.channels, *size) for one, size in zip(INPUTS, sizes, strict=True)]


@pytest.mark.parametrize(
    ("sizes", "added"),
    [(((16, 12), (8, 6), (4, 3)), (2, 2)), (((13, 19), (7, 10), (4, 5)), (2, 3)), (((1, 1), (1, 1), (1, 1)), (1, 1))],
)
@torch.no_grad()
def test_all_maps_are_of_one_width_and_keep_their_sizes_odd_ones_too(sizes, added):
    found = neck()(maps_of(*sizes))
    assert [tuple(one.shape) for one in found] == [(2, 16, *size) for size in (*sizes, added)]
    assert [one.stride for one in neck(2).feature_maps] == [8, 16, 32, 64, 128]


@torch.no_grad()
def test_every_map_hears_of_every_other():
    """Up and down again: a change of any map reaches all."""
    torch.manual_seed(0)
    network, maps = neck(), maps_of((16, 16), (8, 8), (4, 4))
    before = network(maps)
    for changed in range(3):
        after = network([one + (number == changed) for number, one in enumerate(maps)])
        assert all(not torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_layers_are_depthwise_and_pointwise_alone():
    convolutions = [module for module in neck().modules() if isinstance(module, nn.Conv2d)]
    assert {(one.kernel_size, one.groups == one.in_channels) for one in convolutions} == {
        ((1, 1), False),
        ((5, 5), True),
    }
    assert sum(one.stride == (2, 2) for one in convolutions) == 4  # two between the maps, two for the one added


def test_ghost_joints_halve_the_work_of_the_pointwise_convolutions():
    """NanoDet-Plus' neck: of 32 channels two ghost modules make 8 + 8 each, and the shortcut has the kernel of 5."""
    network = PathAggregation(INPUTS, 16, added=1, kernel_size=5, joint="ghost", layers=LayerConfig())
    shapes = [tuple(module.weight.shape) for module in network.top_down[0].modules() if isinstance(module, nn.Conv2d)]
    assert shapes == [
        *((8, 32, 1, 1), (8, 1, 3, 3)),
        *((8, 16, 1, 1), (8, 1, 3, 3)),
        *((32, 1, 5, 5), (16, 32, 1, 1)),
    ]
    assert sum(isinstance(module, nn.ReLU6) for module in network.top_down[0].modules()) == 2  # of the first alone
    assert not any(one.activated for one in network.feature_maps)
    found = network.eval()(maps_of((13, 19), (7, 10), (4, 5)))
    assert [tuple(one.shape) for one in found] == [(2, 16, 13, 19), (2, 16, 7, 10), (2, 16, 4, 5), (2, 16, 2, 3)]


def test_two_separable_convolutions_at_a_joint_narrow_in_the_second():
    network = PathAggregation(INPUTS, 16, added=1, kernel_size=5, joint="separable_pair", layers=LayerConfig())
    shapes = [tuple(module.weight.shape) for module in network.bottom_up[1].modules() if isinstance(module, nn.Conv2d)]
    assert shapes == [(32, 1, 5, 5), (32, 32, 1, 1), (32, 1, 5, 5), (16, 32, 1, 1)]
    assert [one.activated for one in network.feature_maps] == [True, True, True, False]


def test_a_map_may_be_enlarged_between_its_pixels():
    coarse = torch.tensor([0.0, 4.0, 8.0]).view(1, 1, 1, 3)
    assert enlarge(coarse, torch.empty(1, 1, 1, 5), "bilinear").tolist() == [[[[0.0, 1.0, 3.0, 5.0, 7.0]]]]


@torch.no_grad()
def test_a_fresh_head_says_background_and_its_anchors():
    torch.manual_seed(0)
    detector = detector_from_config(override(CELLS, image_size=(64, 64))).eval()
    outputs = detector(torch.full((1, 3, 64, 64), 127.5))  # what the network takes for zeros
    torch.testing.assert_close(outputs.box_deltas, torch.full_like(outputs.box_deltas, 0.5), rtol=0.2, atol=0)
    assert outputs.class_logits.sigmoid().mean() == pytest.approx(0.01, rel=0.2)
    boxes = detector.head.box_code.decode(torch.full((85, 4), 0.5), detector.anchors)
    torch.testing.assert_close(boxes, detector.anchors)
    assert detector.anchors[0].tolist() == pytest.approx([0.8, 0.8, 7.2, 7.2])  # a tenth of 64, around 4, 4


def test_distances_are_never_without_bounds():
    head = DistanceHead([8], [1], 2, depth=0, kernel_size=3, layers=LayerConfig()).eval()
    for value, expected in ((1e6, 403.4288), (-1e6, 0.0024788)):
        head.regression.set_bias(torch.full((4,), value))
        deltas = head([torch.zeros(1, 8, 1, 1)]).box_deltas
        torch.testing.assert_close(deltas, torch.full((1, 1, 4), expected))


def test_separate_towers_have_nothing_in_common():
    head = detector_from_config(override(CELLS, image_size=(64, 64))).head.eval()
    outputs = head([torch.rand(1, 96, side, side) for side in (8, 4, 2, 1)])
    for wanted, learning in ((outputs.class_logits, "towers"), (outputs.box_deltas, "box_towers")):
        head.zero_grad()
        wanted.sum().backward()
        reached = {name.split(".")[0] for name, parameter in head.named_parameters() if parameter.grad is not None}
        assert reached & {"towers", "box_towers"} == {learning}


def test_a_neck_without_a_width_is_refused():
    with pytest.raises(
        ConfigError, match=r"channels: pan expects those of at least one map that it adds, all equal, got \(\)"
    ):
        ssdlite.build_detector("litepan320_small", extra_channels=(), anchors=square_anchors((0.1, 0.2, 0.4)))
