"""Backbones against torchvision's modules, the papers' tables, and convolutions worked out by hand."""

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ssdlite.backbones import BACKBONES, DepthwiseSeparableConv, InvertedResidual, LayerConfig, build_backbone
from ssdlite.backbones.layers import AutocastConv2d, SamePadConv2d, build_conv, round_channels
from ssdlite.errors import ConfigError


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def count_macs(network: nn.Module, side: int) -> float:
    """Multiply-adds; torch counts two operations for each."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.empty(1, 3, side, side, device="meta"))
    return counter.get_total_flops() / 2


def on_meta(name: str, width_mult: float = 1.0):
    with torch.device("meta"):
        return build_backbone(name, width_mult)


def settle_norms(network: nn.Module) -> nn.Module:
    """Random norms with the statistics of what reaches them. With initial ones, the signal dies out on its way."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.weight.data.uniform_(0.6, 1.4)
        norm.bias.data.normal_(0, 0.2)
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.randn(4, 3, 64, 64))
    return network.eval()


# -- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "width_mult", "side", "millions_of_parameters", "millions_of_macs"),
    [
        # arXiv 1704.04861, tables 6 and 7
        ("mobilenet_v1", 1.0, 224, 4.2, 569),
        ("mobilenet_v1", 0.75, 224, 2.6, 325),
        ("mobilenet_v1", 0.5, 224, 1.3, 149),
        ("mobilenet_v1", 0.25, 224, 0.5, 41),
        ("mobilenet_v1", 1.0, 192, 4.2, 418),
        ("mobilenet_v1", 1.0, 160, 4.2, 290),
        ("mobilenet_v1", 1.0, 128, 4.2, 186),
        # arXiv 1801.04381, table 4 (its 3.4 M leave out the classifier's and norms' biases), and torchvision's 3.5 M
        ("mobilenet_v2", 1.0, 224, 3.5, 300),
        ("mobilenet_v2", 1.4, 224, 6.1, 585),
    ],
)
def test_classifiers_have_the_published_sizes(name, width_mult, side, millions_of_parameters, millions_of_macs):
    network = on_meta(name, width_mult)
    assert count_parameters(network) / 1e6 == pytest.approx(millions_of_parameters, abs=0.05)
    assert count_macs(network, side) / 1e6 == pytest.approx(millions_of_macs, rel=0.006)


def test_parameter_counts_are_exact():
    assert count_parameters(on_meta("mobilenet_v1")) == 4_231_976
    assert count_parameters(on_meta("mobilenet_v2")) == 3_504_872
    assert count_parameters(on_meta("mobilenet_v3_large")) == 5_483_032


@pytest.mark.parametrize("width_mult", [0.25, 0.35, 0.5, 0.75, 1.0, 1.4])
def test_v2_widths_are_torchvisions(width_mult):
    with torch.device("meta"):
        theirs = torchvision.models.mobilenet_v2(weights=None, width_mult=width_mult)
    ours = on_meta("mobilenet_v2", width_mult).state_dict()
    assert {name: tensor.shape for name, tensor in ours.items()} == {
        name: tensor.shape for name, tensor in theirs.state_dict().items()
    }


@pytest.mark.parametrize(
    ("channels", "rounded"), [(32 * 0.35, 16), (24 * 0.35, 8), (16 * 0.75, 16), (24 * 0.75, 24), (11.9, 16), (3, 8)]
)
def test_round_channels_never_loses_more_than_a_tenth(channels, rounded):
    assert round_channels(channels) == rounded


# -- architecture ----------------------------------------------------------------------------------------------------


def test_v1_is_the_table_of_the_paper():
    """Table 1 of arXiv 1704.04861: (output channels, stride) of the stem and the 13 separable convolutions."""
    table = [(32, 2), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)]
    table += [(512, 1)] * 5 + [(1024, 2), (1024, 1)]
    network = on_meta("mobilenet_v1")
    stem, *blocks = network.features
    assert (stem[0].out_channels, stem[0].stride[0]) == table[0]
    assert [(block.pointwise[0].out_channels, block.depthwise[0].stride[0]) for block in blocks] == table[1:]
    for block in blocks:
        depthwise, pointwise = block.depthwise[0], block.pointwise[0]
        assert depthwise.kernel_size == (3, 3)
        assert depthwise.groups == depthwise.in_channels == depthwise.out_channels
        assert pointwise.kernel_size == (1, 1)
        assert pointwise.groups == 1
        assert depthwise.bias is None
        assert pointwise.bias is None
        assert isinstance(block.depthwise[1], nn.BatchNorm2d)
        assert isinstance(block.depthwise[2], nn.ReLU6)
        assert isinstance(block.pointwise[2], nn.ReLU6)
    assert len(network.state_dict()) == 164  # timm's mobilenetv1_100 has as many


def test_v1_gives_the_last_map_of_stride_16_and_of_stride_32():
    network = settle_norms(build_backbone("mobilenet_v1", 0.25))
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        fine, coarse = network.forward_features(images)
        assert torch.equal(fine, network.features[:12](images))
        assert torch.equal(coarse, network.features(images))
    assert fine.shape == (1, 128, 4, 6)
    assert coarse.shape == (1, 256, 2, 3)


def test_v1_narrow_widths_keep_eight_channels():
    stem, first, *_ = on_meta("mobilenet_v1", 0.2).features
    assert stem[0].out_channels == 8  # int(32 * 0.2) = 6
    assert first.pointwise[0].out_channels == 12  # int(64 * 0.2), cut and not rounded to eights, as TensorFlow does


def test_v2_has_torchvisions_keys_weights_and_features():
    torch.manual_seed(0)
    theirs = settle_norms(torchvision.models.mobilenet_v2(weights=None))
    ours = build_backbone("mobilenet_v2").eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 96, 128)
    expanded = []
    theirs.features[14].conv[0].register_forward_hook(lambda module, inputs, output: expanded.append(output))
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)
        fine, coarse = ours.forward_features(images)
        torch.testing.assert_close(fine, expanded[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(coarse, theirs.features(images), rtol=1e-5, atol=1e-5)
    assert fine.shape == (2, 576, 6, 8)
    assert coarse.shape == (2, 1280, 3, 4)


@pytest.mark.parametrize("reduced", [False, True])
def test_v3_has_torchvisions_keys_weights_and_features(reduced):
    torch.manual_seed(0)
    theirs = settle_norms(torchvision.models.mobilenet_v3_large(weights=None, reduced_tail=reduced))
    name = "mobilenet_v3_large_reduced" if reduced else "mobilenet_v3_large"
    ours = build_backbone(name, norm_eps=1e-3).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 96, 128)
    expanded = []
    theirs.features[13].block[0].register_forward_hook(lambda module, inputs, output: expanded.append(output))
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)
        fine, coarse = ours.forward_features(images)
        torch.testing.assert_close(fine, expanded[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(coarse, theirs.features(images), rtol=1e-5, atol=1e-5)
    assert fine.shape == (2, 672, 6, 8)
    assert coarse.shape == (2, 480 if reduced else 960, 3, 4)


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("size", [(96, 96), (161, 225), (33, 321)])
def test_maps_have_the_declared_channels_and_strides(name, size):
    network = on_meta(name, 0.5).eval()
    maps = network.forward_features(torch.empty(1, 3, *size, device="meta"))
    for features, channels, stride in zip(maps, network.feature_channels, network.feature_strides, strict=True):
        assert features.shape == (1, channels, -(-size[0] // stride), -(-size[1] // stride))


@pytest.mark.parametrize("name", BACKBONES)
def test_stages_are_all_layers_by_the_stride_of_their_output(name):
    network = on_meta(name, 0.5).eval()
    rows = []
    for layer in network.features:
        layer.register_forward_hook(lambda module, inputs, output: rows.append(output.shape[2]))
    network.features(torch.empty(1, 3, 256, 256, device="meta"))
    assert network.layer_names == [f"features.{i}" for i in range(len(network.features))]
    assert [len(stage) for stage in network.stages] == [rows.count(side) for side in (128, 64, 32, 16, 8)]


@pytest.mark.parametrize("name", BACKBONES)
def test_classifier_gives_logits_or_pooled_features(name):
    with torch.device("meta"):
        classifier = build_backbone(name, 0.5, num_classes=7).eval()
        bare = build_backbone(name, 0.5, num_classes=None).eval()
        images = torch.empty(2, 3, 64, 64)
    assert classifier(images).shape == (2, 7)
    assert bare(images).shape == (2, bare.feature_channels[-1])
    assert not any(key.startswith("classifier") for key in bare.state_dict())


def test_dropout_is_set():
    for name in BACKBONES:
        drops = [m.p for m in build_backbone(name, 0.25, dropout=0.35).classifier.modules() if type(m) is nn.Dropout]
        assert drops == [0.35]


def test_unknown_names_and_widths_are_refused():
    with pytest.raises(ConfigError, match=r"mobilenet_v4.*mobilenet_v1, mobilenet_v2, mobilenet_v3_large"):
        build_backbone("mobilenet_v4")
    for width in (0, -1, float("nan"), 100):
        with pytest.raises(ConfigError, match="width_mult"):
            build_backbone("mobilenet_v2", width)
    with pytest.raises(ConfigError, match="symmetric"):
        build_backbone("mobilenet_v3_large", padding="same")


# -- blocks ----------------------------------------------------------------------------------------------------------


def test_depthwise_separable_convolution_by_hand():
    """Two channels of ones, 3x3 depthwise of ones and twos, pointwise (1, -1) and (0.1, 0)."""
    block = DepthwiseSeparableConv(2, 2, layers=LayerConfig(norm_eps=1e-30)).eval()
    block.depthwise[0].weight.data = torch.tensor([1.0, 0.5]).view(2, 1, 1, 1).expand(2, 1, 3, 3).clone()
    block.pointwise[0].weight.data = torch.tensor([[1.0, -1.0], [0.1, 0.0]]).view(2, 2, 1, 1)
    with torch.no_grad():
        outputs = block(torch.ones(1, 2, 3, 3))
    # depthwise, then ReLU6: corners (4, 2), edges (6, 3), centre (9 -> 6, 4.5)
    expected = torch.tensor(
        [[[2.0, 3.0, 2.0], [3.0, 1.5, 3.0], [2.0, 3.0, 2.0]], [[0.4, 0.6, 0.4], [0.6, 0.6, 0.6], [0.4, 0.6, 0.4]]]
    )
    torch.testing.assert_close(outputs[0], expected)


def test_inverted_residual_ends_linear_and_adds_its_input():
    block = InvertedResidual(1, 1, expansion=2, layers=LayerConfig(norm_eps=1e-30)).eval()
    centre = torch.zeros(2, 1, 3, 3)
    centre[:, :, 1, 1] = 1.0
    block.conv[0][0].weight.data = torch.tensor([2.0, -1.0]).view(2, 1, 1, 1)
    block.conv[1][0].weight.data = centre
    block.conv[2].weight.data = torch.tensor([[-3.0, 1.0]]).view(1, 2, 1, 1)
    with torch.no_grad():
        outputs = block(torch.tensor([1.0, 5.0]).view(1, 1, 1, 2))
        expanded, same = block.forward_with_expansion(torch.tensor([1.0, 5.0]).view(1, 1, 1, 2))
    # expanded: (2, 10 -> 6) and (-1 -> 0, -5 -> 0); projected: -3 * (2, 6), not cut at zero; plus the input
    assert outputs.flatten().tolist() == [-5.0, -13.0]
    assert torch.equal(same, outputs)
    assert expanded.flatten().tolist() == [2.0, 6.0, 0.0, 0.0]


def test_inverted_residual_adds_only_where_shapes_agree():
    assert InvertedResidual(8, 8).has_residual
    assert not InvertedResidual(8, 16).has_residual
    assert not InvertedResidual(8, 8, stride=2).has_residual
    assert len(InvertedResidual(8, 8, expansion=1).conv) == 3  # nothing to expand


# -- padding and norms -----------------------------------------------------------------------------------------------


def same_pad(stride: int = 2) -> SamePadConv2d:
    convolution = SamePadConv2d(1, 1, 3, stride, bias=False)
    convolution.weight.data = torch.arange(1.0, 10.0).view(1, 1, 3, 3)
    return convolution


def test_same_padding_of_an_even_side_is_right_and_bottom_only():
    image = torch.arange(16.0).view(1, 1, 4, 4)
    with torch.no_grad():
        outputs = same_pad()(image)
        by_hand = nn.functional.conv2d(nn.functional.pad(image, (0, 1, 0, 1)), same_pad().weight, stride=2)
    # the upper left window is rows and columns 0..2: 0*1 + 1*2 + 2*3 + 4*4 + 5*5 + 6*6 + 8*7 + 9*8 + 10*9 = 303
    # the lower right one is 10 11 . / 14 15 . / . . . : 10*1 + 11*2 + 14*4 + 15*5 = 163
    assert outputs[0, 0, 0, 0] == 303
    assert outputs[0, 0, 1, 1] == 163
    assert torch.equal(outputs, by_hand)


def test_same_padding_of_an_odd_side_is_symmetric():
    image = torch.arange(25.0).view(1, 1, 5, 5)
    with torch.no_grad():
        outputs = same_pad()(image)
        by_hand = nn.functional.conv2d(image, same_pad().weight, stride=2, padding=1)
    # the upper left window is . . . / . 0 1 / . 5 6 : 0*5 + 1*6 + 5*8 + 6*9 = 100
    assert outputs[0, 0, 0, 0] == 100
    assert torch.equal(outputs, by_hand)


def test_same_padding_treats_each_side_alone():
    image = torch.randn(1, 1, 4, 5)
    with torch.no_grad():
        by_hand = nn.functional.conv2d(nn.functional.pad(image, (1, 1, 0, 1)), same_pad().weight, stride=2)
        torch.testing.assert_close(same_pad()(image), by_hand)


@pytest.mark.parametrize("side", [1, 2, 3, 7, 8, 75, 150, 300, 321])
def test_both_paddings_give_maps_of_one_size(side):
    shapes = set()
    for padding in ("symmetric", "same"):
        with torch.device("meta"):
            shapes.add(
                build_conv(1, 1, 3, 2, layers=LayerConfig(padding=padding))(torch.empty(1, 1, side, side + 1)).shape
            )
    assert shapes == {(1, 1, -(-side // 2), -(-(side + 1) // 2))}


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2"])
def test_padding_style_reaches_every_strided_convolution(name):
    same, symmetric = settle_norms(build_backbone(name, 0.25, padding="same")), build_backbone(name, 0.25).eval()
    strided = [m for m in same.modules() if isinstance(m, nn.Conv2d) and m.stride[0] == 2]
    assert len(strided) == 5
    assert all(isinstance(module, SamePadConv2d) for module in strided)
    assert not any(isinstance(module, SamePadConv2d) for module in symmetric.modules())
    symmetric.load_state_dict(same.state_dict())
    with torch.no_grad():
        odd = torch.randn(1, 3, 33, 33)  # 33 -> 17 -> 9 -> 5 -> 3: every side odd, so the styles agree
        torch.testing.assert_close(same(odd), symmetric(odd))
        even = torch.randn(1, 3, 64, 64)
        assert not torch.allclose(same(even), symmetric(even))


@pytest.mark.parametrize("name", BACKBONES)
def test_norm_settings_reach_every_norm(name):
    network = build_backbone(name, 0.25, norm_eps=0.0123, norm_momentum=0.045)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(0.0123, 0.045)}


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2"])
def test_another_activation_reaches_every_layer(name):
    kinds = [type(module) for module in build_backbone(name, 0.25, activation="relu").modules()]
    assert nn.ReLU in kinds and nn.ReLU6 not in kinds
    with pytest.raises(
        ConfigError, match="activation: expected one of relu6, relu, leaky_relu, silu, hardswish, got 'gelu'"
    ):
        build_backbone(name, 0.25, activation="gelu")


def test_a_layer_may_end_without_activation():
    layer = DepthwiseSeparableConv(1, 1, linear=True)
    assert [type(part) for part in layer.pointwise] == [nn.Conv2d, nn.BatchNorm2d]
    assert isinstance(layer.depthwise[2], nn.ReLU6)


def test_strided_depthwise_trains_in_float32_under_bfloat16_autocast() -> None:
    torch.manual_seed(0)
    block = DepthwiseSeparableConv(8, 16, 2).train()
    images = torch.randn(2, 8, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        ours = block.depthwise[0](images.bfloat16())
    theirs = torch.nn.functional.conv2d(images.bfloat16().float(), block.depthwise[0].weight, None, 2, 1, 1, 8)
    assert ours.dtype == torch.bfloat16
    assert torch.equal(ours, theirs.bfloat16())
    assert torch.equal(
        block.eval().depthwise[0](images),
        torch.nn.functional.conv2d(images, block.depthwise[0].weight, None, 2, 1, 1, 8),
    )


def test_v3_trains_its_wide_and_its_strided_depthwise_layers_in_float32() -> None:
    backbone = build_backbone("mobilenet_v3_large").train()
    layers = [module for module in backbone.modules() if isinstance(module, nn.Conv2d) and module.groups > 1]
    assert len(layers) == 15
    for layer in layers:
        images = torch.randn(1, layer.in_channels, 16, 16).bfloat16()
        exact = torch.nn.functional.conv2d(
            images.float(), layer.weight, None, layer.stride, layer.padding, 1, layer.groups
        )
        with torch.autocast("cpu", torch.bfloat16):
            found = layer(images)
        is_exact = torch.equal(found, exact.bfloat16())
        assert is_exact == (layer.stride != (1, 1) or layer.kernel_size == (5, 5)), layer


def test_a_copy_for_autocast_has_the_whole_geometry():
    conv = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4, padding_mode="reflect")
    own = AutocastConv2d.like(conv)
    image = torch.randn(1, 4, 16, 16)
    with torch.no_grad():
        assert own(image).shape == (1, 4, 16, 16)
        torch.testing.assert_close(own(image), conv(image))


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("mobilenet_v1", [2, 2, 2, 6, 2]),
        ("mobilenet_v2", [2, 2, 3, 7, 5]),
        ("mobilenet_v3_large", [2, 2, 3, 6, 4]),
    ],
)
def test_stages_are_the_layers_by_the_stride_of_their_output(name, layers):
    """Counted in the papers' tables; the image is halved once a stage."""
    backbone = build_backbone(name, 0.25).eval()
    assert [len(stage) for stage in backbone.stages] == layers
    assert backbone.layer_names == [f"features.{i}" for i in range(len(backbone.features))]
    outputs = torch.zeros(1, 3, 64, 64)
    with torch.no_grad():
        for number, stage in enumerate(backbone.stages):
            for layer in stage:
                outputs = backbone.get_submodule(layer)(outputs)
                assert outputs.shape[2] == 64 >> (number + 1)


def test_maps_say_whether_another_activation_would_change_them():
    assert [m.activated for m in build_backbone("mobilenet_v2", finest_stride=8).feature_maps] == [True] * 3
    assert [m.activated for m in build_backbone("mobilenet_v3_large").feature_maps] == [False] * 2
