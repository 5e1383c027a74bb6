"""Extra layers and predictors: literal layer facts, and the order in which the outputs are laid out."""

import pytest
import torch
from torch import nn

from ssdlite.backbones import ConvNormActivation, DepthwiseSeparableConv, FeatureMap, LayerConfig
from ssdlite.backbones.layers import SamePadConv2d
from ssdlite.config import PRESETS, NeckConfig
from ssdlite.detector import detector_from_config
from ssdlite.errors import ConfigError
from ssdlite.heads import CenterSizeCode, ExtraLayers, PredictionHead, SSDLiteHead
from ssdlite.heads.base import initialize_normal


def test_a_neck_of_other_maps_than_the_anchors_is_refused() -> None:
    config = PRESETS["ssdlite320_mobilenet_v2"]
    neck = NeckConfig(name="pan", channels=(96,), kernel_size=5)
    with pytest.raises(ConfigError, match=r"strides: expected maps of \(16, 32, .*, but mobilenet_v2 and pan give \("):
        detector_from_config(config.changed(neck=neck))


INPUTS = [FeatureMap(24, 32, activated=True)]


def extra_layers(conv: str, **options) -> ExtraLayers:
    return ExtraLayers(INPUTS, (16, 8, 8), conv=conv, layers=LayerConfig(**options))


@pytest.mark.parametrize("conv", ["separable", "plain"])
@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_extra_layers_halve_the_map_and_round_up(conv, padding):
    layers = extra_layers(conv, padding=padding).eval()
    with torch.no_grad():
        maps = layers([torch.randn(2, 24, 10, 7)])[1:]
    assert [tuple(features.shape) for features in maps] == [(2, 16, 5, 4), (2, 8, 3, 2), (2, 8, 2, 1)]


def test_extra_layers_survive_a_map_of_one_cell():
    with torch.no_grad():
        maps = extra_layers("separable").eval()([torch.randn(1, 24, 1, 1)])[1:]
    assert [tuple(features.shape[2:]) for features in maps] == [(1, 1)] * 3


def test_separable_extra_layer_is_that_of_ssdlite():
    """1x1 to half the depth, 3x3 depthwise of stride 2, 1x1 to the depth; norm and ReLU6 behind each."""
    squeeze, separable = extra_layers("separable")[0]
    assert isinstance(separable, DepthwiseSeparableConv)
    convolutions = [squeeze[0], separable.depthwise[0], separable.pointwise[0]]
    assert [(c.in_channels, c.out_channels, c.kernel_size[0], c.stride[0], c.groups) for c in convolutions] == [
        (24, 8, 1, 1, 1),
        (8, 8, 3, 2, 8),
        (8, 16, 1, 1, 1),
    ]
    for block in (squeeze, separable.depthwise, separable.pointwise):
        assert [type(layer) for layer in list(block)[1:]] == [nn.BatchNorm2d, nn.ReLU6]


def test_plain_extra_layer_is_that_of_ssd():
    squeeze, halve = extra_layers("plain", padding="same")[1]
    convolutions = [squeeze[0], halve[0]]
    assert [(c.in_channels, c.out_channels, c.kernel_size[0], c.stride[0], c.groups) for c in convolutions] == [
        (16, 4, 1, 1, 1),
        (4, 8, 3, 2, 1),
    ]
    assert isinstance(halve[0], SamePadConv2d)


def test_linear_extra_layers_of_given_width():
    """The inverted residuals of pytorch-ssd's mb2-ssd-lite end with a norm; 64 channels inside one of 16 here."""
    layers = ExtraLayers(INPUTS, (16, 8), conv="separable", hidden=(64, 8), output="linear", layers=LayerConfig())
    squeeze, separable = layers[0]
    assert [squeeze[0].out_channels, separable.depthwise[0].groups, separable.pointwise[0].in_channels] == [64] * 3
    assert [type(layer) for layer in separable.pointwise] == [nn.Conv2d, nn.BatchNorm2d]
    assert isinstance(separable.depthwise[2], nn.ReLU6)
    plain = ExtraLayers(INPUTS, (16,), conv="plain", output="linear", layers=LayerConfig())[0][1]
    assert [type(layer) for layer in plain] == [nn.Conv2d, nn.BatchNorm2d]


def test_norm_settings_reach_extra_layers_and_heads():
    layers = LayerConfig(norm_eps=0.0123, norm_momentum=0.045)
    for network in (
        ExtraLayers(INPUTS, (16, 8), conv="separable", layers=layers),
        ExtraLayers(INPUTS, (16, 8), conv="plain", layers=layers),
        SSDLiteHead((24, 16), (3, 6), 5, conv="separable", box_code=CenterSizeCode(), layers=layers),
    ):
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        assert len(norms) >= 4
        assert {(norm.eps, norm.momentum) for norm in norms} == {(0.0123, 0.045)}


def test_separable_predictor_has_a_biased_last_layer_without_norm():
    head = PredictionHead((8,), (3,), 5, conv="separable", layers=LayerConfig())
    depthwise, last = head[0]
    assert isinstance(depthwise, ConvNormActivation)
    assert (depthwise[0].groups, depthwise[0].kernel_size, depthwise[0].bias) == (8, (3, 3), None)
    assert (last.out_channels, last.kernel_size) == (15, (1, 1))
    assert last.bias is not None


def test_pointwise_predictor_is_one_convolution():
    head = PredictionHead((8,), (3,), 5, conv="pointwise", layers=LayerConfig())
    (last,) = head[0]
    assert (last.kernel_size, last.out_channels) == ((1, 1), 15)


def test_plain_predictor_is_one_padded_convolution():
    head = PredictionHead((8,), (3,), 5, conv="plain", layers=LayerConfig())
    (last,) = head[0]
    assert (last.kernel_size, last.padding, last.out_channels) == ((3, 3), (1, 1), 15)
    assert last.bias is not None


def test_the_last_map_may_have_a_pointwise_predictor():
    for conv, layers in (("separable", [2, 2, 1]), ("plain", [1, 1, 1])):
        head = PredictionHead((8, 8, 4), (3, 6, 6), 5, conv=conv, last_conv="pointwise", layers=LayerConfig())
        assert [len(predictor) for predictor in head] == layers
        assert head[-1][-1].kernel_size == (1, 1)


def test_outputs_run_over_maps_rows_columns_and_shapes():
    """The last layers copy a coded input, so that each output tells its map, row, column and anchor."""
    head = PredictionHead((1, 1), (3, 2), 2, conv="pointwise", layers=LayerConfig())
    for (last,), shapes in zip(head, (3, 2), strict=True):
        last.weight.data = torch.ones_like(last.weight)
        last.bias.data = torch.tensor([10.0 * shape + column for shape in range(shapes) for column in range(2)])
    first = torch.arange(6.0).view(1, 1, 2, 3) * 100  # cell i holds 100 i
    second = torch.full((1, 1, 1, 1), 1000.0)
    with torch.no_grad():
        outputs = head([first, second])
    expected = [[100.0 * cell + 10 * shape + c for c in (0, 1)] for cell in range(6) for shape in range(3)]
    expected += [[1000.0, 1001.0], [1010.0, 1011.0]]
    assert outputs.tolist() == [expected]


def test_head_gives_logits_and_deltas_for_the_same_anchors():
    head = SSDLiteHead((8, 4), (3, 6), 21, conv="separable", box_code=CenterSizeCode(), layers=LayerConfig()).eval()
    with torch.no_grad():
        logits, deltas, _ = head([torch.randn(2, 8, 5, 4), torch.randn(2, 4, 3, 2)])
    assert logits.shape == (2, 5 * 4 * 3 + 3 * 2 * 6, 21)
    assert deltas.shape == (2, 5 * 4 * 3 + 3 * 2 * 6, 4)


def test_maps_share_no_weights():
    head = SSDLiteHead((8, 8), (3, 3), 2, conv="separable", box_code=CenterSizeCode(), layers=LayerConfig())
    pointers = [parameter.data_ptr() for parameter in head.parameters()]
    assert len(set(pointers)) == len(pointers) == 2 * 2 * 5  # kernel, norm's two, kernel, bias


def test_set_bias_repeats_for_every_anchor():
    head = PredictionHead((4, 4), (3, 2), 3, conv="separable", layers=LayerConfig())
    head.set_bias(torch.tensor([1.0, 2.0, 3.0]))
    assert head[0][-1].bias.tolist() == [1.0, 2.0, 3.0] * 3
    assert head[1][-1].bias.tolist() == [1.0, 2.0, 3.0] * 2


def test_initialize_normal_has_the_published_spread():
    torch.manual_seed(0)
    head = PredictionHead((256,), (6,), 21, conv="separable", layers=LayerConfig())
    head.set_bias(torch.ones(21))
    initialize_normal(head)
    weights = head[0][-1].weight
    assert weights.std().item() == pytest.approx(0.03, rel=0.02)
    assert weights.mean().item() == pytest.approx(0, abs=0.001)
    assert head[0][-1].bias.eq(0).all()


@pytest.mark.parametrize(("preset", "asked_for"), [
    ("ssdlite320_mobilenet_v2", ("multibox", "ssd", "smooth_l1")), ("litepan320_small", ("qfl", "tal", "giou")),
])  # fmt: skip
def test_what_a_head_learns_by_goes_with_its_scores(preset, asked_for):
    with torch.device("meta"):
        head = detector_from_config(PRESETS[preset]).head
    assert (head.default_loss, head.default_assigner, head.default_box_loss) == asked_for
