"""Post-processing: cases small enough to follow by hand, and torchvision's SSD.postprocess_detections."""

from types import SimpleNamespace

import pytest
import torch
import torchvision
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.ssd import SSD

from ssdlite.anchors import generate_anchors
from ssdlite.config import PRESETS, DetectorConfig, override
from ssdlite.heads import postprocess as module
from ssdlite.heads.base import Outputs
from ssdlite.heads.boxes import CenterSizeCode
from ssdlite.heads.postprocess import DetectionBatch, class_scores, postprocess

V3 = PRESETS["ssdlite320_mobilenet_v3_large"]  # 3234 anchors
ANCHORS_V3 = torch.from_numpy(generate_anchors(V3.anchors, V3.input.size, V3.grid_sizes))
CODE = CenterSizeCode(V3.head.box_code_scales)


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


def assert_same(found: DetectionBatch, expected: list[dict[str, Tensor]]) -> None:
    assert found.counts.tolist() == [len(image["scores"]) for image in expected]
    for i, image in enumerate(expected):
        count = len(image["scores"])
        assert found.labels[i, :count].tolist() == (image["labels"] - 1).tolist()
        torch.testing.assert_close(found.scores[i, :count], image["scores"], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(found.boxes[i, :count], image["boxes"], rtol=1e-5, atol=1e-3)
        assert found.labels[i, count:].eq(-1).all()
        assert found.scores[i, count:].eq(0).all()
        assert found.boxes[i, count:].eq(0).all()


# -- by hand ---------------------------------------------------------------------------------------------------------

# Three anchors; the first two overlap with an IoU of 80/120, the third stands apart.
THREE = torch.tensor([[0.0, 0, 10, 10], [2, 0, 12, 10], [50, 50, 60, 60]])
TINY = override(
    DetectorConfig(),
    class_names=("cat", "dog"),
    score_threshold=0.3,
    nms_threshold=0.5,
    candidates_per_class=10,
    max_detections=4,
)


def probabilities(values: list[list[float]]) -> Outputs:
    """Outputs of one image whose softmax gives ``values`` (background, cat, dog) and whose boxes are the anchors."""
    return Outputs(torch.tensor([values]).log(), torch.zeros(1, len(values), 4))


def listed(found: DetectionBatch) -> list[tuple[int, float, list[float]]]:
    (count,) = found.counts.tolist()
    rows = zip(found.labels[0].tolist(), found.scores[0].tolist(), found.boxes[0].tolist(), strict=True)
    return [(label, round(score, 4), [round(x, 3) for x in box]) for label, score, box in rows][:count]


def test_suppression_is_per_class():
    outputs = probabilities([[0.1, 0.5, 0.4], [0.2, 0.6, 0.2], [0.65, 0.05, 0.3001]])
    # cat: anchor 1 (0.6) suppresses anchor 0 (0.5). dog: anchor 0 (0.4), and anchor 2 just above the threshold
    assert listed(postprocess(outputs, THREE, TINY)) == [
        (0, 0.6, [2, 0, 12, 10]),
        (1, 0.4, [0, 0, 10, 10]),
        (1, 0.3001, [50, 50, 60, 60]),
    ]


def test_a_higher_threshold_of_overlap_keeps_both():
    outputs = probabilities([[0.1, 0.5, 0.4], [0.2, 0.6, 0.2], [0.65, 0.05, 0.3001]])
    found = listed(postprocess(outputs, THREE, override(TINY, nms_threshold=0.67)))
    assert [(label, score) for label, score, _ in found] == [(0, 0.6), (0, 0.5), (1, 0.4), (1, 0.3001)]


def test_a_score_equal_to_the_threshold_is_out():
    outputs = Outputs(torch.zeros(1, 3, 2), torch.zeros(1, 3, 4))  # every score is exactly one half
    config = override(TINY, class_names=("cat",))
    assert postprocess(outputs, THREE, override(config, score_threshold=0.5)).counts.tolist() == [0]
    assert postprocess(outputs, THREE, override(config, score_threshold=0.499)).counts.tolist() == [2]


def test_boxes_are_clipped_before_they_suppress():
    """Out of the image the two boxes differ; what is left of them in it is the same."""
    anchors = torch.tensor([[310.0, 0, 400, 10], [310, 0, 330, 10]])
    found = postprocess(probabilities([[0.2, 0.8, 0], [0.3, 0.7, 0]]), anchors, TINY)
    assert listed(found) == [(0, 0.8, [310, 0, 320, 10])]


def test_deltas_move_the_boxes():
    outputs = probabilities([[0.2, 0.8, 0]])
    outputs.box_deltas[0, 0] = torch.tensor(
        [10.0, 5, 5 * 0.6931472, 0]
    )  # a width right, half a height down, twice as wide
    assert listed(postprocess(outputs, THREE[:1], TINY)) == [(0, 0.8, [5, 5, 25, 15])]


def test_no_detections_give_padding_only():
    found = postprocess(probabilities([[0.98, 0.01, 0.01]] * 3), THREE, TINY)
    assert found.boxes.tolist() == [[[0, 0, 0, 0]] * 4]
    assert found.scores.tolist() == [[0] * 4]
    assert found.labels.tolist() == [[-1] * 4]
    assert found.counts.tolist() == [0]


def test_fewer_candidates_than_places():
    found = postprocess(probabilities([[0.2, 0.8, 0]]), THREE[:1], override(TINY, max_detections=100))
    assert found.boxes.shape == (1, 100, 4)
    assert found.counts.tolist() == [1]


def test_the_cap_per_image_takes_the_best_of_all_classes():
    outputs = probabilities([[0.0, 0.55, 0.45], [0.2, 0.1, 0.7], [0.0, 0.6, 0.4]])
    found = listed(postprocess(outputs, THREE, override(TINY, max_detections=2)))
    assert [(label, score) for label, score, _ in found] == [(1, 0.7), (0, 0.6)]


def test_the_cap_per_class_comes_before_suppression():
    """With one candidate for cat, the box that it suppresses cannot be replaced by a worse one elsewhere."""
    outputs = probabilities([[0.2, 0.8, 0], [0.3, 0.7, 0], [0.4, 0.6, 0]])
    found = listed(postprocess(outputs, THREE, override(TINY, candidates_per_class=2)))
    assert [score for _, score, _ in found] == [0.8]
    found = listed(postprocess(outputs, THREE, override(TINY, candidates_per_class=3)))
    assert [score for _, score, _ in found] == [0.8, 0.6]


def test_a_batch_of_no_images():
    found = postprocess(Outputs(torch.zeros(0, 3, 3), torch.zeros(0, 3, 4)), THREE, TINY)
    assert found.boxes.shape == (0, 4, 4)
    assert found.counts.shape == (0,)


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
    assert found.counts.tolist() == [300] or slots == 2  # a single class has just 300 candidates before suppression


@pytest.mark.parametrize("slots", [2, 21, 91])
def test_detections_of_a_trained_network_are_torchvisions(slots):
    config = config_for(slots)
    outputs = peaked_outputs(6, slots, seed=slots)
    found = postprocess(outputs, ANCHORS_V3, config)
    assert_same(found, torchvision_detections(outputs, ANCHORS_V3, config))
    assert 0 < found.counts.min() < found.counts.max()


def test_suppression_runs_once_on_a_trained_networks_few_candidates(monkeypatch):
    """The cost of going through all 3234 x 90 scores again and again would show in every evaluation."""
    calls = []
    original = module._suppress
    monkeypatch.setattr(module, "_suppress", lambda boxes, *rest: calls.append(len(boxes[0])) or original(boxes, *rest))
    postprocess(peaked_outputs(6, 91, seed=1), ANCHORS_V3, config_for(91))
    assert calls == [73]  # as many as the image with most has


def test_a_mixed_batch_with_an_image_of_nothing():
    config = config_for(21, score_threshold=0.02)
    outputs = peaked_outputs(4, 21, seed=3)
    outputs.class_logits[1] = flat_outputs(1, 21, seed=4).class_logits[0]
    outputs.class_logits[2, :, 0] += 30
    found = postprocess(outputs, ANCHORS_V3, config)
    assert_same(found, torchvision_detections(outputs, ANCHORS_V3, config))
    assert found.counts[2] == 0
    assert found.counts[1] == 300


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
    limited = postprocess(flat_outputs(2, 21, seed=8), ANCHORS_V3, config)
    assert limited.scores.shape != unlimited.scores.shape or not torch.equal(limited.scores, unlimited.scores)


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
        assert found.counts.max() < 100


def test_candidates_that_run_short_in_one_image_only():
    """The other images' results must not change while more candidates are taken for one."""
    config = config_for(6, max_detections=100)
    outputs = flat_outputs(3, 6, seed=13)
    outputs.box_deltas[1, :, 2:] = 15.0
    found = postprocess(outputs, ANCHORS_V3, config)
    assert_same(found, torchvision_detections(outputs, ANCHORS_V3, config))
    assert (found.counts < 100).tolist() == [False, True, False]


def test_another_image_size_is_clipped_to_height_and_width():
    config = config_for(6, image_size=(192, 320))
    anchors = torch.from_numpy(generate_anchors(config.anchors, config.input.size, config.grid_sizes))
    outputs = flat_outputs(2, 6, seed=14, anchors=anchors)
    found = postprocess(outputs, anchors, config)
    assert_same(found, torchvision_detections(outputs, anchors, config))
    assert found.boxes.flatten(0, 1).amax(dim=0)[2:].tolist() == [320, 192]


def test_sigmoid_scores_by_a_loop_over_classes():
    config = config_for(4, score_function="sigmoid", score_threshold=0.6, candidates_per_class=50, max_detections=40)
    outputs = flat_outputs(2, 4, seed=15)
    found = postprocess(outputs, ANCHORS_V3, config)
    for i in range(2):
        boxes = CODE.decode(outputs.box_deltas[i], ANCHORS_V3).clamp(0, 320)
        rows = []
        for label in range(3):
            scores = torch.sigmoid(outputs.class_logits[i, :, label + 1])
            best = [a for a in scores.argsort(descending=True)[:50].tolist() if scores[a] > 0.6]
            kept = torchvision.ops.nms(boxes[best], scores[best], 0.55).tolist()
            rows += [(scores[best[k]].item(), label, boxes[best[k]].tolist()) for k in kept]
        rows = sorted(rows, reverse=True)[:40]
        assert found.counts[i] == len(rows)
        assert found.labels[i, : len(rows)].tolist() == [label for _, label, _ in rows]
        torch.testing.assert_close(found.boxes[i, : len(rows)], torch.tensor([box for *_, box in rows]))


def test_half_precision_outputs():
    config = config_for(21)
    outputs = Outputs(*(tensor.bfloat16().float() for tensor in peaked_outputs(2, 21, seed=16)))
    halved = Outputs(*(tensor.bfloat16() for tensor in outputs))
    for ours, expected in zip(
        postprocess(halved, ANCHORS_V3, config), postprocess(outputs, ANCHORS_V3, config), strict=True
    ):
        assert ours.dtype == expected.dtype
        assert torch.equal(ours, expected)


def test_outputs_that_are_not_numbers_detect_nothing():
    outputs = Outputs(torch.full((1, 3, 3), torch.nan), torch.zeros(1, 3, 4))
    assert postprocess(outputs, THREE, TINY).counts.tolist() == [0]
