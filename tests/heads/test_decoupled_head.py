"""YOLOX's parts (tests/weights/test_yolox.py has its weights): the neck, the head, and the logit of a product."""

import pytest
import torch
from torch import nn

from ssdlite.anchors import square_anchors
from ssdlite.backbones import FeatureMap, LayerConfig
from ssdlite.config import DetectorConfig, HeadConfig, NeckConfig, override
from ssdlite.detector import Detector, detector_from_config
from ssdlite.errors import ConfigError
from ssdlite.heads import LOSSES, build_assigner
from ssdlite.heads.csp_pan import CspPathAggregation
from ssdlite.heads.decoupled_head import joint_logits

INPUTS = [FeatureMap(12, 8, activated=True), FeatureMap(20, 16, activated=False), FeatureMap(40, 32, activated=True)]


def config_of(**options) -> DetectorConfig:
    base = override(
        DetectorConfig(),
        backbone="csp_darknet",
        width_mult=0.125,
        neck=NeckConfig(name="csp_pan", channels=()),
        head=HeadConfig(name="decoupled", score_function="sigmoid", box_code_scales=(1, 1, 1, 1)),
        image_size=(96, 96),
        strides=(8, 16, 32),
        anchors=square_anchors((1 / 12, 1 / 6, 1 / 3)),
        class_names=("ant", "bee"),
        activation="silu",
    )
    return override(base, **options)


def build(**options) -> Detector:
    torch.manual_seed(0)
    return detector_from_config(config_of(**options))


def neck(conv: str = "separable") -> CspPathAggregation:
    return CspPathAggregation(INPUTS, conv=conv, layers=LayerConfig(activation="silu")).eval()


def maps_of(*sizes: tuple[int, int]) -> list[torch.Tensor]:
    return [torch.randn(2, one.channels, *size) for one, size in zip(INPUTS, sizes, strict=True)]


@pytest.mark.parametrize("sizes", [((16, 12), (8, 6), (4, 3)), ((13, 19), (7, 10), (4, 5)), ((1, 1), (1, 1), (1, 1))])
@torch.no_grad()
def test_maps_keep_their_widths_and_sizes_odd_ones_too(sizes):
    shapes = [tuple(one.shape) for one in neck()(maps_of(*sizes))]
    assert shapes == [(2, channels, *size) for channels, size in zip((12, 20, 40), sizes, strict=True)]
    assert [one.stride for one in neck().feature_maps] == [8, 16, 32]


@torch.no_grad()
def test_every_map_hears_of_every_other():
    torch.manual_seed(0)
    network, maps = neck("plain"), maps_of((16, 16), (8, 8), (4, 4))
    before = network(maps)
    for changed in range(3):
        after = network([one + (number == changed) for number, one in enumerate(maps)])
        assert all(not torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_separable_parts_have_no_dense_convolution_but_1x1_and_the_stem():
    detector = build(
        backbone="csp_darknet_separable",
        neck=NeckConfig(name="csp_pan", channels=()),
        head=HeadConfig(name="decoupled", score_function="sigmoid"),
    )
    dense = {one.kernel_size for one in detector.modules() if isinstance(one, nn.Conv2d) and one.groups == 1}
    assert dense == {(1, 1), (6, 6)}


@torch.no_grad()
def test_a_fresh_head_says_background_and_its_anchors():
    detector = build().eval()
    outputs = detector(torch.full((1, 3, 96, 96), 127.5))  # what the network takes for zeros
    assert outputs.class_logits.shape == (1, 144 + 36 + 9, 3)
    assert outputs.class_logits[..., 1:].sigmoid().mean() == pytest.approx(0.01, rel=0.2)
    assert outputs.class_logits[..., 0].sigmoid().mean() == pytest.approx(0.9, rel=0.1)  # that there is no object
    boxes = detector.head.box_code.decode(outputs.box_deltas, detector.anchors)[0]
    torch.testing.assert_close(boxes, detector.anchors, rtol=0, atol=2)


def test_a_few_steps_of_its_own_losses_bring_boxes_nearer():
    """The loss of scores rises first: they are to be the overlaps, which start near 0."""
    detector = build().train()
    head = detector.head
    matcher = build_assigner(head.default_assigner, detector.config, torch.device("cpu"))
    criterion = LOSSES[head.default_loss](
        detector.anchors, head.box_code, matcher=matcher, box_loss=head.default_box_loss
    )
    optimizer = torch.optim.SGD(detector.parameters(), lr=0.02, momentum=0.9)
    images = torch.randint(0, 256, (4, 3, 96, 96), dtype=torch.uint8)
    boxes = torch.tensor([[[8.0, 8, 60, 60]], [[30, 30, 90, 90]], [[0, 40, 50, 90]], [[0, 0, 0, 0]]])
    labels = torch.tensor([[0], [1], [0], [-1]])
    losses = []
    while len(losses) < 40 and (not losses or losses[-1] > 0.7 * losses[0]):
        loss = criterion(detector(images), boxes, labels)
        optimizer.zero_grad()
        loss.total.backward()
        assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in detector.parameters())
        optimizer.step()
        losses.append(loss.box.item())
    assert losses[-1] <= 0.7 * losses[0]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (
            {"neck": NeckConfig(name="csp_pan")},
            r"channels: csp_pan adds no maps, so expected \(\), got \(512, ",
        ),
        ({"head_conv": "pointwise"}, "conv: decoupled expects separable or plain, got 'pointwise'"),
        (
            {"score_function": "softmax"},
            r"score_function: decoupled expects sigmoid \(--loss qfl or focal\), got 'softmax'",
        ),
    ],
)
def test_what_the_parts_cannot_be_is_refused(part, message):
    with pytest.raises(ConfigError, match=message):
        build(**part)


@pytest.mark.parametrize(
    ("logit", "other", "expected"),
    [
        (0.0, 0.0, -1.0986123),  # a quarter: ln(1/3)
        (2.0, -1.0, -1.1698460),
        (30.0, 1.5, 1.5),
        (-40.0, 3.0, -40.0485873),
        (9.0, 9.0, 8.3067911),  # 1 - p is 2.5e-4, which one minus a float32 product would round
        (-6.0, -6.0, -12.0049451),
        (-100.0, -100.0, -110.0000454),  # the other is taken for -10
    ],
)
def test_the_logit_of_a_product_of_scores(logit, other, expected):
    found = joint_logits(torch.tensor([logit]), torch.tensor([other]))
    assert found.item() == pytest.approx(expected, rel=1e-6)
    assert joint_logits(torch.tensor([other]), torch.tensor([logit])).item() == pytest.approx(expected, rel=1e-6)
    half = joint_logits(torch.tensor([logit]).half(), torch.tensor([other]).half())
    assert half.item() == pytest.approx(expected, abs=2e-3 * max(1, abs(expected)))


def test_the_logit_of_a_product_has_a_gradient_everywhere():
    logits = torch.tensor([-100.0, -3.0, 0.0, 50.0], requires_grad=True)
    objects = torch.tensor([-100.0, 4.0, 0.0, 60.0], requires_grad=True)
    joint_logits(logits, objects).sum().backward()
    for one in (logits, objects):
        assert torch.isfinite(one.grad).all() and (one.grad >= 0).all()
    assert (logits.grad[:3] > 0).all() and objects.grad[2] > 0
