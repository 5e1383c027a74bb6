"""Every preset under one contract; the published sizes; torchvision's weights in our network."""

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ssdlite import build_detector, list_detectors
from ssdlite.backbones.layers import SamePadConv2d
from ssdlite.config import COCO_NAMES, PRESETS
from ssdlite.detector import Detector
from ssdlite.heads.losses import FocalLoss, MultiBoxLoss

V1_AND_V2 = [name for name, preset in PRESETS.items() if preset.backbone.name in ("mobilenet_v1", "mobilenet_v2")]


def on_meta(preset: str, **options) -> Detector:
    """A detector of shapes only: building and running it costs next to nothing."""
    with torch.device("meta"):
        return build_detector(preset, **options).eval()


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def count_macs(detector: Detector) -> float:
    """Multiply-adds; torch counts two operations for each."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        detector(torch.empty(1, 3, *detector.config.input.size, device="meta"))
    return counter.get_total_flops() / 2


def test_no_published_preset_is_missing():
    """Others may be added (tests/test_docs.py compares them with the README); files name these."""
    published = {
        "ssdlite320_mobilenet_v1",
        "ssdlite320_mobilenet_v2",
        "ssdlite320_mobilenet_v3_large",
        "ssd300_mobilenet_v1",
        "ssd300_mobilenet_v2",
        "ssdlite320_efficientnet_lite0",
        "ssdlite192_mobilenet_v2_050",
    }
    assert published <= set(list_detectors())
    assert len(COCO_NAMES) == 80


# -- published sizes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "num_classes", "image_size", "millions_of_parameters", "billions_of_macs"),
    [
        ("ssdlite320_mobilenet_v1", 80, 320, 5.101, 1.309),  # arXiv 1801.04381, table 6: 5.1 M, 1.3 B
        ("ssdlite320_mobilenet_v2", 80, 320, 4.337, 0.789),  # same table: 4.3 M, 0.8 B
        ("ssdlite320_mobilenet_v2", 90, 300, 4.501, 0.750),
        ("ssd300_mobilenet_v1", 90, 300, 6.820, 1.237),  # arXiv 1704.04861, table 13: 6.8 M, 1.2 B
        ("ssdlite320_mobilenet_v3_large", 90, 320, 3.440, 0.583),  # torchvision's documentation: 3440060, 0.58 G
    ],
)
def test_published_sizes(preset, num_classes, image_size, millions_of_parameters, billions_of_macs):
    detector = on_meta(preset, num_classes=num_classes, image_size=image_size)
    assert round(count_parameters(detector) / 1e6, 3) == millions_of_parameters
    assert count_macs(detector) / 1e9 == pytest.approx(billions_of_macs, abs=0.0006)


@pytest.mark.parametrize(
    ("preset", "millions_of_parameters", "billions_of_macs", "most"),
    [
        ("litepan320_small", 1.004, 0.325, 0.35),
        ("litepan320_medium", 1.715, 0.549, 0.6),
        ("litepan320_large", 3.962, 1.028, 1.2),
    ],
)
def test_litepan_keeps_its_limits_of_work(preset, millions_of_parameters, billions_of_macs, most):
    detector = on_meta(preset)
    assert round(count_parameters(detector) / 1e6, 3) == millions_of_parameters
    assert count_macs(detector) / 1e9 == pytest.approx(billions_of_macs, abs=0.0006)
    assert billions_of_macs <= most
    assert detector.config.num_anchors == 40**2 + 20**2 + 10**2 + 5**2


def test_v3_has_exactly_torchvisions_parameters():
    assert count_parameters(on_meta("ssdlite320_mobilenet_v3_large", num_classes=90)) == 3_440_060


def test_the_small_preset_is_a_seventh_of_the_work():
    assert count_macs(on_meta("ssdlite192_mobilenet_v2_050")) < count_macs(on_meta("ssdlite320_mobilenet_v2")) / 7


@pytest.mark.parametrize(
    ("preset", "anchors"),
    [
        ("ssdlite320_mobilenet_v1", 2034),
        ("ssdlite320_mobilenet_v2", 2034),
        ("ssdlite320_mobilenet_v3_large", 3234),
        ("ssd300_mobilenet_v1", 1917),
        ("ssd300_mobilenet_v2", 1917),
    ],
)
def test_published_numbers_of_anchors(preset, anchors):
    assert PRESETS[preset].num_anchors == anchors


def test_taps_and_extra_layers_of_the_published_networks():
    v1 = on_meta("ssdlite320_mobilenet_v1")
    v2 = on_meta("ssdlite320_mobilenet_v2")
    assert v1.backbone.feature_channels == (512, 1024)
    assert v2.backbone.feature_channels == (576, 1280)
    for detector in (v1, v2):
        maps = detector.neck([torch.empty(1, detector.backbone.feature_channels[-1], 10, 10, device="meta")])[1:]
        assert [tuple(m.shape[1:]) for m in maps] == [(512, 5, 5), (256, 3, 3), (256, 2, 2), (128, 1, 1)]
    narrow = on_meta("ssdlite320_mobilenet_v2", width_mult=0.1)
    assert [layer[1].pointwise[0].out_channels for layer in narrow.neck] == [51, 25, 25, 16]


# -- one contract for all --------------------------------------------------------------------------------------------


def assert_contract(detector: Detector, images: torch.Tensor) -> None:
    config = detector.config
    with torch.no_grad():
        outputs = detector(images)
    count = config.num_anchors
    assert detector.anchors.shape == (count, 4)
    assert outputs.class_logits.shape == (len(images), count, config.num_classes + 1)
    assert outputs.box_deltas.shape == (len(images), count, 4)


@pytest.mark.parametrize("preset", V1_AND_V2)
@pytest.mark.parametrize(
    ("width_mult", "image_size"),
    [(0.25, 96), (0.35, 160), (0.75, 321), (1.4, 640), (0.25, (192, 320)), (1.4, (97, 211))],
)
def test_shapes_at_other_widths_and_sizes(preset, width_mult, image_size):
    detector = on_meta(preset, num_classes=5, width_mult=width_mult, image_size=image_size)
    assert_contract(detector, torch.empty(1, 3, *detector.config.input.size, device="meta"))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("image_size", [33, (100, 193)])
def test_outputs_are_finite_in_evaluation_and_training(preset, image_size):
    torch.manual_seed(0)
    detector = build_detector(preset, num_classes=3, width_mult=0.25, image_size=image_size)
    images = torch.randint(0, 256, (3, 3, *detector.config.input.size), dtype=torch.uint8)
    assert_contract(detector.eval(), images)
    for mode in (False, True):
        outputs = detector.train(mode)(images)
        assert all(torch.isfinite(tensor).all() for tensor in outputs[:2])
    sum(tensor.sum() for tensor in outputs[:2]).backward()
    assert all(torch.isfinite(p.grad).all() for p in detector.parameters() if p.grad is not None)
    assert all(p.grad is not None for name, p in detector.named_parameters() if name.startswith("head"))


@pytest.mark.parametrize("preset", ["ssdlite192_mobilenet_v2_050", "ssd300_mobilenet_v1"])
@pytest.mark.parametrize("kind", [MultiBoxLoss, FocalLoss])
def test_a_few_steps_lower_the_loss(preset, kind):
    torch.manual_seed(0)
    score_function = "sigmoid" if kind is FocalLoss else "softmax"
    detector = build_detector(
        preset, num_classes=2, width_mult=0.25, image_size=96, score_function=score_function
    ).train()
    criterion = kind(detector.anchors, detector.head.box_code)
    optimizer = torch.optim.SGD(detector.parameters(), lr=0.02, momentum=0.9)
    images = torch.randint(0, 256, (4, 3, 96, 96), dtype=torch.uint8)
    boxes = torch.tensor([[[8.0, 8, 60, 60]], [[30, 30, 90, 90]], [[0, 40, 50, 90]], [[0, 0, 0, 0]]])
    labels = torch.tensor([[0], [1], [0], [-1]])
    losses = []
    for _ in range(8):
        loss = criterion(detector(images), boxes, labels).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("preset", PRESETS)
def test_padding_and_norm_settings_arrive(preset):
    detector = on_meta(preset, norm_eps=0.0123, norm_momentum=0.045)
    norms = [module for module in detector.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(0.0123, 0.045)}
    default = {(m.eps, m.momentum) for m in on_meta(preset).modules() if isinstance(m, nn.BatchNorm2d)}
    assert default == {(0.001, 0.03)}
    same_padded = [module for module in detector.modules() if isinstance(module, SamePadConv2d)]
    assert len(same_padded) == (9 if preset.startswith("ssd300") else 0)  # five in the backbone, four behind it


@pytest.mark.parametrize("preset", V1_AND_V2)
def test_padding_style_changes_values_and_not_shapes(preset):
    torch.manual_seed(0)
    options = {"num_classes": 2, "width_mult": 0.25, "image_size": 96}
    symmetric = build_detector(preset, padding="symmetric", **options).train()
    same = build_detector(preset, padding="same", **options).train()
    same.load_state_dict(symmetric.state_dict())
    images = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    ours, theirs = symmetric(images), same(images)
    assert ours.class_logits.shape == theirs.class_logits.shape
    assert not torch.allclose(ours.class_logits, theirs.class_logits)


def test_normalisation_is_inside_the_network():
    """uint8 and float 0..255 are one thing, and -1..1 is what the backbone sees."""
    detector = build_detector("ssdlite192_mobilenet_v2_050", num_classes=2, image_size=64).eval()
    seen = []
    detector.backbone.features[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    with torch.no_grad():
        from_bytes, from_floats = detector(images), detector(images.float())
    assert torch.equal(from_bytes.class_logits, from_floats.class_logits)
    torch.testing.assert_close(seen[0][0, :, 0, 0], torch.tensor([-1.0, -0.6, 1.0]))


def test_the_sigmoid_head_starts_at_a_score_of_one_percent():
    torch.manual_seed(0)
    detector = build_detector(num_classes=3, width_mult=0.25, image_size=96, score_function="sigmoid").eval()
    with torch.no_grad():
        scores = torch.sigmoid(detector(torch.zeros(1, 3, 96, 96)).class_logits[..., 1:])
    assert scores.median().item() == pytest.approx(0.01, rel=0.2)


# -- torchvision's network in ours -----------------------------------------------------------------------------------


def settle_norms(network: nn.Module) -> None:
    """Random norms with the statistics of what reaches them. With initial ones, the image hardly reaches the head."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momentum = norms[0].momentum
    for norm in norms:
        norm.weight.data.uniform_(0.6, 1.4)
        norm.bias.data.normal_(0, 0.1)
        norm.momentum = 1.0
    network.train()
    with torch.no_grad():
        network.head(list(network.backbone(torch.rand(4, 3, 320, 320) * 2 - 1).values()))
    for norm in norms:
        norm.momentum = momentum
    network.eval()


def test_torchvisions_ssdlite_and_ours_are_one_network():
    """Its weights, in the order of its state dict, give the same head outputs and the same detections.

    In float64, since a random network makes much of rounding: the two normalise in another order.
    """
    torch.manual_seed(0)
    theirs = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=91
    ).eval()
    settle_norms(theirs)
    theirs.double()
    ours = build_detector("ssdlite320_mobilenet_v3_large", num_classes=90).double().eval()
    names, tensors = list(ours.state_dict()), list(theirs.state_dict().values())
    assert len(names) == len(tensors)
    ours.load_state_dict(dict(zip(names, tensors, strict=True)))

    picture = torch.randint(0, 256, (1, 3, 320, 320), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    head_outputs = []
    theirs.head.register_forward_hook(lambda module, inputs, output: head_outputs.append(output))
    with torch.no_grad():
        (expected,) = theirs([picture[0].double() / 255])
        outputs = ours(picture)
    torch.testing.assert_close(outputs.class_logits, head_outputs[0]["cls_logits"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(outputs.box_deltas, head_outputs[0]["bbox_regression"], rtol=1e-5, atol=1e-5)

    (found,) = ours.detect(picture)
    assert len(found) == len(expected["scores"]) == 300
    assert len(np.unique(found.scores)) > 290
    assert found.labels.tolist() == (expected["labels"] - 1).tolist()
    np.testing.assert_allclose(found.scores, expected["scores"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.boxes, expected["boxes"], rtol=1e-5, atol=1e-3)
