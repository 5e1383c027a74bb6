"""Post-processing of thousands of anchors against torchvision's SSD.postprocess_detections.

Cases small enough to follow by hand stand in a table: tests/test_postprocess_cases.py.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.ssd import SSD

from ssdlite.anchors import generate_anchors
from ssdlite.config import PRESETS, DetectorConfig, override
from ssdlite.detections import Detections
from ssdlite.heads import postprocess as module
from ssdlite.heads.base import Outputs, class_scores
from ssdlite.heads.boxes import BoxCode
from ssdlite.heads.postprocess import postprocess

V3 = PRESETS["ssdlite320_mobilenet_v3_large"]  # 3234 anchors
ANCHORS_V3 = torch.from_numpy(generate_anchors(V3.anchors, V3.input.size, V3.grid_sizes))


def config_for(slots: int, **changes) -> DetectorConfig:
    return override(V3, class_names=tuple(f"class_{i}" for i in range(slots - 1)), **changes)


def flat_outputs(images: int, slots: int, seed: int, anchors: Tensor = ANCHORS_V3) -> Outputs:
    """As an untrained network's: every class of every anchor scores about as much as any other."""
    generator = torch.Generator().manual_seed(seed)
    return Outputs(
        torch.randn(images, len(anchors), slots, generator=generator) * 0.3,
        torch.randn(images, len(anchors), 4, generator=generator),
    )


def peaked_outputs(images: int, slots: int, seed: int, anchors: Tensor = ANCHORS_V3) -> Outputs:
    """As a trained network's: background nearly everywhere, and some objects, each on several anchors."""
    outputs = flat_outputs(images, slots, seed, anchors)
    generator = torch.Generator().manual_seed(seed + 1)
    outputs.class_logits[..., 0] += 9
    for i in range(images):
        chosen = torch.randint(len(anchors), (12 * (i + 1),), generator=generator)
        label = torch.randint(1, slots, chosen.shape, generator=generator)
        outputs.class_logits[i, chosen, label] += 8 + 3 * torch.rand(chosen.shape, generator=generator)
    return outputs


def torchvision_detections(outputs: Outputs, anchors: Tensor, config: DetectorConfig) -> list[dict[str, Tensor]]:
    stand_in = SimpleNamespace(
        box_coder=BoxCoder(weights=config.head.box_code_scales),
        score_thresh=config.postprocess.score_threshold,
        nms_thresh=config.postprocess.nms_threshold,
        topk_candidates=config.postprocess.candidates_per_class,
        detections_per_img=config.postprocess.max_detections,
    )
    images = len(outputs.class_logits)
    heads = {"cls_logits": outputs.class_logits, "bbox_regression": outputs.box_deltas}
    return SSD.postprocess_detections(stand_in, heads, [anchors] * images, [config.input.size] * images)


def assert_same(found: list[Detections], expected: list[dict[str, Tensor]]) -> None:
    assert [len(own) for own in found] == [len(image["scores"]) for image in expected]
    for own, image in zip(found, expected, strict=True):
        assert own.labels.tolist() == (image["labels"] - 1).tolist()
        np.testing.assert_allclose(own.scores, image["scores"], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(own.boxes, image["boxes"], rtol=1e-5, atol=1e-3)


def test_results_are_plain_arrays_with_the_names_of_the_classes():
    config = config_for(3, max_detections=7)
    first, second = postprocess(flat_outputs(2, 3, seed=0), ANCHORS_V3, config)
    assert (first.boxes.shape, second.boxes.shape) == ((7, 4), (7, 4))
    assert (first.boxes.dtype, first.scores.dtype, first.labels.dtype) == (np.float32, np.float32, np.int64)
    assert first.class_names == ("class_0", "class_1")
    assert first.boxes.flags.owndata  # not a part of what all anchors have


def test_a_batch_of_no_images_and_an_image_of_nothing():
    config = config_for(3)
    assert postprocess(Outputs(torch.zeros(0, 3234, 3), torch.zeros(0, 3234, 4)), ANCHORS_V3, config) == []
    background = Outputs(torch.tensor([20.0, 0, 0]).expand(1, 3234, 3), torch.zeros(1, 3234, 4))
    (nothing,) = postprocess(background, ANCHORS_V3, config)
    assert (nothing.boxes.shape, nothing.scores.shape, nothing.labels.shape) == ((0, 4), (0,), (0,))


def test_another_box_code():
    """The deltas are the sides themselves."""

    class Corners(BoxCode):
        def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
            return anchors + deltas

    outputs = Outputs(torch.tensor([[[0.0, 2]]]), torch.tensor([[[1.0, 2, 3, 4]]]))
    (found,) = postprocess(outputs, torch.tensor([[10.0, 20, 30, 40]]), config_for(2), Corners())
    assert found.boxes.tolist() == [[11, 22, 33, 44]]


def test_a_threshold_of_1_which_nothing_is_above():
    outputs = Outputs(torch.full((1, 3234, 2), 90.0), torch.zeros(1, 3234, 4))
    config = config_for(2, score_function="sigmoid", score_threshold=1.0)
    assert list(map(len, postprocess(outputs, ANCHORS_V3, config))) == [0]


def test_scores():
    logits = torch.tensor([[[0.0, 1.0, 2.0]]])
    torch.testing.assert_close(class_scores(logits, "softmax"), torch.tensor([[[0.24472847, 0.66524096]]]))
    torch.testing.assert_close(class_scores(logits, "sigmoid"), torch.tensor([[[0.7310586, 0.880797]]]))


# -- against torchvision ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slots", [2, 21, 91])
def test_detections_of_an_untrained_network_are_torchvisions(slots):
    config = config_for(slots)
    outputs = flat_outputs(1, slots, seed=slots)
    if slots == 91:
        assert (class_scores(outputs.class_logits, "softmax") > 0.001).sum() > 200_000
    found = postprocess(outputs, ANCHORS_V3, config)
    assert_same(found, torchvision_detections(outputs, ANCHORS_V3, config))
    assert len(found[0]) == 300 or slots == 2  # a single class has just 300 candidates before suppression


@pytest.mark.parametrize("slots", [2, 21, 91])
def test_detections_of_a_trained_network_are_torchvisions(slots):
    config = config_for(slots)
    outputs = peaked_outputs(6, slots, seed=slots)
    found = postprocess(outputs, ANCHORS_V3, config)
    assert_same(found, torchvision_detections(outputs, ANCHORS_V3, config))
    assert 0 < min(map(len, found)) < max(map(len, found))


def test_suppression_runs_once_on_a_trained_networks_few_candidates(monkeypatch):
    """The cost of going through all 3234 x 90 scores again and again would show in every evaluation."""
    calls = []
    original = module._suppress
    monkeypatch.setattr(module, "_suppress", lambda boxes, *rest: calls.append(len(boxes[0])) or original(boxes, *rest))
    postprocess(peaked_outputs(6, 91, seed=1), ANCHORS_V3, config_for(91))
    assert calls == [73]  # as many as the image with most has


def test_a_higher_threshold_that_is_asked_for_leaves_the_rest_behind(monkeypatch):
    calls = []
    original = module._suppress
    monkeypatch.setattr(module, "_suppress", lambda boxes, *rest: calls.append(len(boxes[0])) or original(boxes, *rest))
    outputs = flat_outputs(1, 91, seed=1)
    outputs.class_logits[0, 7, 5] += 6
    (found,) = postprocess(outputs, ANCHORS_V3, config_for(91), score_threshold=0.3)
    assert calls == [1]
    assert found.names == ["class_4"]


def test_a_mixed_batch_with_an_image_of_nothing():
    config = config_for(21, score_threshold=0.02)
    outputs = peaked_outputs(4, 21, seed=3)
    outputs.class_logits[1] = flat_outputs(1, 21, seed=4).class_logits[0]
    outputs.class_logits[2, :, 0] += 30
    found = postprocess(outputs, ANCHORS_V3, config)
    assert_same(found, torchvision_detections(outputs, ANCHORS_V3, config))
    assert len(found[2]) == 0
    assert len(found[1]) == 300


@pytest.mark.parametrize(
    "limits",
    [
        {"candidates_per_class": 5},
        {"max_detections": 7},
        {"candidates_per_class": 20, "max_detections": 150},
        {"nms_threshold": 0.1},
        {"score_threshold": 0.12},
        {"candidates_per_class": 1},
    ],
)
def test_limits_are_torchvisions(limits):
    config = config_for(21, **limits)
    for outputs in (flat_outputs(2, 21, seed=8), peaked_outputs(2, 21, seed=9)):
        found = postprocess(outputs, ANCHORS_V3, config)
        assert_same(found, torchvision_detections(outputs, ANCHORS_V3, config))
    unlimited = postprocess(flat_outputs(2, 21, seed=8), ANCHORS_V3, config_for(21))
    assert postprocess(flat_outputs(2, 21, seed=8), ANCHORS_V3, config) != unlimited


@pytest.mark.parametrize("first", [1, 16, 1000, 10**9])
@pytest.mark.parametrize("kind", ["flat", "peaked", "stacked"])
def test_the_number_of_first_candidates_changes_nothing(monkeypatch, first, kind):
    """``stacked`` boxes nearly all suppress one another, so that candidates run short and are taken again and again."""
    config = config_for(6, max_detections=100)
    outputs = peaked_outputs(3, 6, seed=11) if kind == "peaked" else flat_outputs(3, 6, seed=12)
    if kind == "stacked":
        outputs.box_deltas[..., 2:] = 15.0  # e^3 times the anchor's sides
    monkeypatch.setattr(module, "FIRST_CANDIDATES", first)
    found = postprocess(outputs, ANCHORS_V3, config)
    assert_same(found, torchvision_detections(outputs, ANCHORS_V3, config))
    if kind == "stacked":
        assert max(map(len, found)) < 100


def test_candidates_that_run_short_in_one_image_only():
    """The other images' results must not change while more candidates are taken for one."""
    config = config_for(6, max_detections=100)
    outputs = flat_outputs(3, 6, seed=13)
    outputs.box_deltas[1, :, 2:] = 15.0
    found = postprocess(outputs, ANCHORS_V3, config)
    assert_same(found, torchvision_detections(outputs, ANCHORS_V3, config))
    assert [len(one) < 100 for one in found] == [False, True, False]


def test_another_image_size_is_clipped_to_height_and_width():
    config = config_for(6, image_size=(192, 320))
    anchors = torch.from_numpy(generate_anchors(config.anchors, config.input.size, config.grid_sizes))
    outputs = flat_outputs(2, 6, seed=14, anchors=anchors)
    found = postprocess(outputs, anchors, config)
    assert_same(found, torchvision_detections(outputs, anchors, config))
    assert np.concatenate([one.boxes for one in found]).max(axis=0)[2:].tolist() == [320, 192]


def test_half_precision_outputs():
    config = config_for(21)
    outputs = Outputs(*(tensor.bfloat16().float() for tensor in peaked_outputs(2, 21, seed=16)[:2]))
    halved = Outputs(*(tensor.bfloat16() for tensor in outputs[:2]))
    assert postprocess(halved, ANCHORS_V3, config) == postprocess(outputs, ANCHORS_V3, config)
