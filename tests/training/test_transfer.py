"""What a detector takes over from a checkpoint with other classes, anchors, maps and scores."""

import math

import numpy as np
import pytest
import torch

from ssdlite import build_detector
from ssdlite.anchors import AnchorConfig, square_anchors
from ssdlite.checkpoint import Checkpoint
from ssdlite.config import PRESETS, HeadConfig, NeckConfig, override
from ssdlite.datasets.index import match_classes
from ssdlite.detector import Detector, detector_from_config
from ssdlite.errors import CheckpointError, ConfigError
from ssdlite.training.finetune import config_for_transfer, transfer_weights
from ssdlite.training.head_transfer import convert_box_rows, convert_class_rows, nearest_shapes
from tests.cells import OF_CELLS

SMALL = {"width_mult": 0.25, "image_size": 96}  # maps of 6, 3, 2 and 1 cells a side: 36 * 3 + (9 + 4 + 1) * 6 anchors
ON_STRIDE_16 = 108


def make_source(seed: int = 1, **changes) -> Checkpoint:
    """A random detector of cats, dogs and birds whose predictors and norms have something to say."""
    torch.manual_seed(seed)
    options = {**SMALL, "class_names": ["cat", "dog", "bird"], **changes}
    detector = build_detector("ssdlite192_mobilenet_v2_050", **options)
    for tensor in detector.head.parameters():
        torch.nn.init.normal_(tensor, 0, 0.3)
    for module in detector.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    return Checkpoint(detector.config, detector.state_dict(), path="source.pt")


def fine_tuned(source: Checkpoint, new_classes: str = "mean", anchors: AnchorConfig | None = None, **changes):
    """(the detector to fine-tune, the report)"""
    torch.manual_seed(9)
    config = config_for_transfer(source, **changes)
    detector = detector_from_config(config if anchors is None else override(config, anchors=anchors))
    return detector, transfer_weights(detector, source, new_classes=new_classes)


def outputs(detector: Detector, side: int = 96):
    images = torch.randint(0, 256, (2, 3, side, side), generator=torch.Generator().manual_seed(4), dtype=torch.uint8)
    with torch.no_grad():
        return detector.eval()(images)


# --- names, shapes and rows, by hand


def test_classes_match_by_name_whatever_the_case_and_spacing():
    theirs = ("person", "Traffic light", "t-shirt", "T shirt", "cup")
    ours = ("Cup", "T shirt", "traffic_light", "TShirt", "mug")
    assert match_classes(ours, theirs) == [4, 3, 1, 2, None]


def test_nearest_shape_is_the_one_with_the_largest_iou():
    theirs = np.array([[30.0, 30], [60, 30], [30, 60]])
    ours = np.array([[50.0, 40], [20, 70], [10, 10], [31, 30]])
    assert nearest_shapes(ours, theirs) == [1, 2, 0, 0]
    assert nearest_shapes(np.array([[5.0, 5], [5, 5]]), np.array([[5.0, 5], [5, 5]])) == [0, 1]


def test_box_rows_of_an_anchor_of_another_shape_and_code():
    rows = torch.tensor([[[1.0, 0.5], [2.0, 0.5], [3.0, 0.5], [4.0, 0.5]]]).double()  # (weight, bias) of x, y, w, h
    ours, theirs = np.array([[10.0, 80.0]]), np.array([[20.0, 40.0]])
    same_code = convert_box_rows(rows.clone(), ours, theirs, (10, 10, 5, 5), (10, 10, 5, 5))
    ln2 = 5 * math.log(2)
    assert same_code[0].numpy() == pytest.approx(np.array([[2, 1], [1, 0.25], [3, 0.5 + ln2], [4, 0.5 - ln2]]))
    plain_code = convert_box_rows(rows.clone(), theirs, theirs, (1, 1, 1, 1), (10, 10, 5, 5))
    assert plain_code[0].numpy() == pytest.approx(np.array([[0.1, 0.05], [0.2, 0.05], [0.6, 0.1], [0.8, 0.1]]))


ROWS = torch.tensor([[[1.0, 0.0], [3.0, 1.0], [0.0, -2.0]]]).double()  # background, and two classes


@pytest.mark.parametrize(
    ("theirs", "ours", "expected"),
    [
        ("softmax", "sigmoid", [[0, 0], [-1, -2], [0.5, -0.5], [2, 1]]),
        ("softmax", "softmax", [[1, 0], [0, -2], [1.5, -0.5], [3, 1]]),
        ("sigmoid", "softmax", [[0, 0], [0, -2], [1.5, -0.5], [3, 1]]),
        ("sigmoid", "sigmoid", [[0, 0], [0, -2], [1.5, -0.5], [3, 1]]),
    ],
)
def test_class_rows_move_as_log_odds_against_background(theirs, ours, expected):
    rows = convert_class_rows(ROWS, [1, None, 0], ours=ours, theirs=theirs, new_classes="mean")
    assert rows[0].tolist() == expected


def test_new_class_that_knows_nothing_scores_one_in_a_hundred():
    rows = convert_class_rows(ROWS, [None], ours="sigmoid", theirs="softmax", new_classes="prior")
    assert rows[0, 1].tolist() == pytest.approx([0, -4.59511985], abs=1e-7)
    softmax = convert_class_rows(ROWS, [None], ours="softmax", theirs="softmax", new_classes="prior")
    assert softmax[0, 1].tolist() == pytest.approx([1, -4.59511985], abs=1e-7)


# --- whole detectors: the source's own outputs are the reference


def test_the_same_detector_is_loaded_bit_for_bit():
    source = make_source()
    detector, report = fine_tuned(source, class_names=("cat", "dog", "bird"))
    state = detector.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in source.weights.items())
    assert [(part.resized, part.new, part.left) for part in report.parts] == [(0, 0, 0)] * 6
    assert sum(part.loaded for part in report.parts) == 260 + 2 * 15 + 4 * 14


def test_classes_of_the_same_name_keep_their_scores_in_another_place():
    source = make_source()
    detector, report = fine_tuned(source, class_names=("Bird", "zebra", "CAT"))
    before, after = outputs(source.build_detector()), outputs(detector)
    assert torch.allclose(after.class_logits[..., [0, 1, 3]], before.class_logits[..., [0, 3, 1]], atol=1e-5)
    mean = before.class_logits[..., 1:].mean(dim=-1)
    assert torch.allclose(after.class_logits[..., 2], mean, atol=1e-5)
    assert torch.equal(after.box_deltas, before.box_deltas)
    assert (report.kept_classes, report.new_classes, report.left_classes) == (("Bird", "CAT"), ("zebra",), ("dog",))
    assert {(part.loaded, part.resized) for part in report.parts[2:]} == {(12, 2)}


@pytest.mark.parametrize("backbone", ["mobilenet_v1", "mobilenet_v2"])
def test_deeper_predictors_compute_what_the_source_did(backbone):
    source = make_source(backbone=backbone, head_conv="pointwise")
    config = override(config_for_transfer(source), head_conv="separable")
    detector = detector_from_config(config)
    report = transfer_weights(detector, source)
    before, after = outputs(source.build_detector()), outputs(detector)
    assert torch.allclose(after.class_logits, before.class_logits, atol=1e-5)
    assert torch.allclose(after.box_deltas, before.box_deltas, atol=1e-5)
    assert {(part.loaded, part.new) for part in report.parts[2:]} == {(4, 10)}
    assert "head.classification.0" in report.loaded_layers


def test_predictors_on_maps_that_may_be_negative_are_not_deepened():
    source = make_source(head_conv="pointwise", extra_output="linear")
    detector = detector_from_config(override(config_for_transfer(source), head_conv="separable"))
    loaded = [part.loaded for part in transfer_weights(detector, source).parts[2:]]
    assert [count > 0 for count in loaded] == [True, True, False, False]  # the backbone's maps are activated


def test_softmax_scores_become_sigmoids_of_the_odds_and_back():
    source = make_source()
    probabilities = outputs(source.build_detector()).class_logits.softmax(dim=-1)
    odds = (probabilities[..., 1:] / probabilities[..., :1]).log()
    detector, report = fine_tuned(source, class_names=("dog", "cat"), score_function="sigmoid")
    assert torch.allclose(outputs(detector).class_logits[..., 1:], odds[..., [1, 0]], atol=1e-4)
    assert report.notes == ("class scores: softmax there, sigmoid here; rows are the log-odds against background",)

    sigmoid = make_source(score_function="sigmoid")
    logits = outputs(sigmoid.build_detector()).class_logits
    detector, _ = fine_tuned(sigmoid, class_names=("dog", "cat"), score_function="softmax")
    probabilities = outputs(detector).class_logits.softmax(dim=-1)
    assert torch.allclose((probabilities[..., 1:] / probabilities[..., :1]).log(), logits[..., [2, 1]], atol=1e-4)


def test_other_anchors_on_a_map_give_the_boxes_of_the_nearest_there():
    source = make_source()
    first = source.config.anchors.levels[0]  # shares of 96 px: 9.6 x 9.6; 27.2 x 13.6; 13.6 x 27.2
    anchors = AnchorConfig((((0.3, 0.2), (0.1, 0.1), (0.28, 0.12)), *source.config.anchors.levels[1:]), "shorter_side")
    assert first[1] == pytest.approx((0.2 * math.sqrt(2), 0.2 / math.sqrt(2)))
    detector, report = fine_tuned(source, class_names=("cat", "dog", "bird"), anchors=anchors)
    assert report.parts[2].anchors == "3 from 2 of 3"
    assert (report.parts[2].loaded, report.parts[2].resized) == (10, 4)

    theirs, ours = source.build_detector(), detector
    before, after = outputs(theirs), outputs(ours)
    their_boxes = theirs.head.box_code.decode(before.box_deltas, theirs.anchors)[:, :ON_STRIDE_16].view(2, 36, 3, 4)
    our_boxes = ours.head.box_code.decode(after.box_deltas, ours.anchors)[:, :ON_STRIDE_16].view(2, 36, 3, 4)
    assert torch.allclose(our_boxes, their_boxes[:, :, [1, 0, 1]], atol=1e-3)
    logits = after.class_logits[:, :ON_STRIDE_16].view(2, 36, 3, 4)
    assert torch.equal(logits, before.class_logits[:, :ON_STRIDE_16].view(2, 36, 3, 4)[:, :, [1, 0, 1]])
    assert torch.equal(after.class_logits[:, ON_STRIDE_16:], before.class_logits[:, ON_STRIDE_16:])


def test_a_finer_map_in_front_leaves_the_others_what_they_were():
    source = make_source()
    detector, report = fine_tuned(source, finest_stride=8)
    finest = 12 * 12 * 3
    before, after = outputs(source.build_detector()), outputs(detector)
    assert torch.equal(after.class_logits[:, finest:], before.class_logits)
    assert torch.equal(after.box_deltas[:, finest:], before.box_deltas)
    assert [(part.part, part.loaded, part.new) for part in report.parts[2:4]] == [
        ("predictors, stride 8", 0, 14),
        ("predictors, stride 16", 14, 0),
    ]

    finer = Checkpoint(detector.config, detector.state_dict(), path="finer.pt")
    coarse, report = fine_tuned(finer, finest_stride=16)
    assert coarse.config == source.config
    assert torch.equal(outputs(coarse).class_logits, before.class_logits)
    assert (report.parts[-1].part, report.parts[-1].left) == ("predictors, stride 8", 14)


def test_random_rows_differ_and_do_not_disturb_the_kept():
    source = make_source(score_function="sigmoid")
    detector, _ = fine_tuned(source, "random", class_names=("zebra", "cat", "gnu"))
    before, after = outputs(source.build_detector()), outputs(detector)
    assert torch.allclose(after.class_logits[..., 2], before.class_logits[..., 1], atol=1e-5)
    assert not torch.allclose(after.class_logits[..., 1], after.class_logits[..., 3])


def test_layers_of_another_kind_are_new_and_said_to_be():
    """SSD's plain extra layers and pointwise heads from SSDLite's separable ones: only the backbone is left."""
    source = make_source()
    detector, report = fine_tuned(source, preset="ssd300_mobilenet_v2", class_names=("cat",), width_mult=0.25)
    assert [part.new for part in report.parts] == [0, 40, 4, 4, 4, 4, 4, 4]
    assert [part.left for part in report.parts] == [0, 30, 14, 14, 14, 14, 0, 0]
    assert report.parts[0].loaded == 260
    state = detector.state_dict()
    backbone = [name for name in source.weights if name.startswith("backbone.")]
    assert all(torch.equal(state[name], source.weights[name]) for name in backbone)


def test_nothing_is_taken_over_behind_a_new_layer():
    """Predictors of random features would be worse than new ones."""
    source = make_source(extra_hidden=(64, 64))  # the preset's halves: 128, 128
    torch.manual_seed(9)
    detector = build_detector("ssdlite192_mobilenet_v2_050", **SMALL, class_names=["cat", "dog", "bird"])
    report = transfer_weights(detector, source)
    assert [(part.loaded, part.new) for part in report.parts] == [(260, 0), (0, 30), (14, 0), (14, 0), (0, 14), (0, 14)]

    torch.manual_seed(9)
    options = {"width_mult": 0.5, "image_size": 96, "class_names": ["cat"]}
    reduced = build_detector("ssdlite320_mobilenet_v3_large", **options)
    whole = build_detector("ssdlite320_mobilenet_v3_large", **options, backbone="mobilenet_v3_large", finest_stride=8)
    checkpoint = Checkpoint(reduced.config, reduced.state_dict(), path="v3.pt")
    report = transfer_weights(whole, checkpoint)
    names = [f"backbone.features.{i}" for i in range(13)]
    assert report.loaded_layers == tuple(names)
    assert [part.loaded for part in report.parts[1:]] == [0] * 8
    finer = build_detector("ssdlite320_mobilenet_v3_large", **options, finest_stride=8)
    report = transfer_weights(whole, Checkpoint(finer.config, finer.state_dict(), path="v3.pt"))
    assert report.loaded_layers == (*names, "head.classification.0", "head.regression.0")


# --- what the run's detector is


def test_the_shape_is_that_of_the_weights_unless_a_preset_says_otherwise():
    source = make_source(norm_eps=1e-5, mean=(123.0, 117.0, 104.0), std=(58.0, 57.0, 57.0), category_ids=(1, 5, 9))
    kept = config_for_transfer(source, class_names=("a", "b"), image_size=128, resize="letterbox")
    assert (kept.backbone.name, kept.backbone.width_mult, kept.neck.channels) == ("mobilenet_v2", 0.25, (256, 256))
    assert (kept.class_names, kept.category_ids) == (("a", "b"), ())
    assert (kept.input.size, kept.input.resize, kept.anchors) == ((128, 128), "letterbox", source.config.anchors)
    assert (kept.layers.norm_eps, kept.input.mean, kept.head.score_function) == (1e-5, (123.0, 117.0, 104.0), "softmax")

    other = config_for_transfer(source, preset="ssdlite320_mobilenet_v2", width_mult=0.25, class_names=("a",))
    assert (other.input.size, other.neck.channels) == ((320, 320), (512, 256, 256, 128))
    assert (other.layers.norm_eps, other.input.mean, other.input.std) == (
        1e-5,
        (123.0, 117.0, 104.0),
        (58.0, 57.0, 57.0),
    )


def test_a_narrow_backbone_of_the_detection_api_keeps_its_channels_under_a_preset():
    source = make_source(narrowing="detection_api", width_mult=0.35)
    _, report = fine_tuned(source, preset="ssdlite320_mobilenet_v2", width_mult=0.35, class_names=("a",))
    assert (report.parts[0].loaded, report.parts[0].new) == (260, 0)


def test_anchor_steps_stay_with_their_image_size():
    levels = make_source().config.anchors.levels
    source = make_source(anchors=AnchorConfig(levels, steps=(16, 32, 64, 100)))
    assert config_for_transfer(source).anchors.steps == (16, 32, 64, 100)
    assert config_for_transfer(source, finest_stride=8).anchors.steps == (8, 16, 32, 64, 100)
    assert config_for_transfer(source, image_size=128).anchors.steps == ()
    of_strides = make_source(anchors=AnchorConfig(levels, steps=(16, 32, 64, 128)))  # cells are where they were
    assert config_for_transfer(of_strides, image_size=128).anchors.steps == (16, 32, 64, 128)


def test_another_backbone_is_refused_by_name():
    source = make_source()
    with pytest.raises(ConfigError, match=r"the backbone mobilenet_v2 of width 0\.25, this detector mobilenet_v1 of"):
        config_for_transfer(source, preset="ssdlite320_mobilenet_v1", width_mult=0.25)
    with pytest.raises(
        ConfigError, match=r"of width 0\.25, this detector mobilenet_v2 of width 0\.5; leave out --preset"
    ):
        config_for_transfer(source, width_mult=0.5)
    other = build_detector("ssdlite192_mobilenet_v2_050", width_mult=1.0, image_size=96)
    other.backbone.features[0] = torch.nn.Identity()
    with pytest.raises(ConfigError, match=r"source\.pt: none of its backbone's layers fits"):
        transfer_weights(other, source)


def test_a_checkpoint_that_is_not_whole_is_refused_by_tensor():
    source = make_source()
    missing = "neck.1.0.0.weight"
    weights = {name: tensor for name, tensor in source.weights.items() if name != missing}
    with pytest.raises(CheckpointError, match=rf"source\.pt: .*missing {missing}"):
        transfer_weights(source.build_detector(), Checkpoint(source.config, weights, path="source.pt"))


WHOLE_HEADS = {
    "distances": {"preset": "litepan320_small", "image_size": 96, "width_mult": 0.25, **OF_CELLS},
    "decoupled": {
        "width_mult": 0.125,
        "backbone": "csp_darknet_separable",
        "neck": NeckConfig(name="csp_pan", channels=()),
        "head": HeadConfig(name="decoupled", score_function="sigmoid", box_code_scales=(1, 1, 1, 1)),
        "strides": (8, 16, 32),
        "anchors": square_anchors((8 / 96, 16 / 96, 32 / 96)).changed(offset=0.0),
        "image_size": 96,
    },
}


def whole(name: str, **changes) -> Detector:
    torch.manual_seed(1)
    return build_detector(**WHOLE_HEADS[name] | changes).eval()


@pytest.mark.parametrize("name", WHOLE_HEADS)
def test_a_head_without_shapes_of_anchors_comes_over_whole(name):
    """Its classes by their names, a new one as the mean of all; the boxes are the source's."""
    source = whole(name, class_names=("cat", "dog", "bird"))
    torch.manual_seed(2)
    detector = build_detector(**WHOLE_HEADS[name] | {"class_names": ("Dog", "cow", "cat")}).eval()
    report = transfer_weights(detector, Checkpoint(source.config, source.state_dict()))
    assert report.kept_classes == ("Dog", "cat") and report.new_classes == ("cow",)
    levels = len(source.config.strides)
    (head,) = report.parts[2:]
    assert (head.part, head.resized, head.new, head.left) == ("head", 2 * levels, 0, 0)
    images = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    with torch.no_grad():
        expected, found = source(images), detector(images)
    torch.testing.assert_close(found.box_deltas, expected.box_deltas)
    torch.testing.assert_close(found.class_logits[..., [3, 1]], expected.class_logits[..., 1:3], rtol=1e-5, atol=1e-5)

    same = build_detector(**WHOLE_HEADS[name] | {"class_names": ("cat", "dog", "bird")}).eval()
    transfer_weights(same, Checkpoint(source.config, source.state_dict()))
    assert all(torch.equal(tensor, source.state_dict()[key]) for key, tensor in same.state_dict().items())


def test_cells_of_another_share_of_the_input_give_the_same_boxes():
    """Anchors are shares of the input: at 128 pixels those of 96 are a third larger, and the cells as they were."""
    source = whole("decoupled", class_names=("cat",))
    detector = whole("decoupled", class_names=("cat",), image_size=128)
    report = transfer_weights(detector, Checkpoint(source.config, source.state_dict()))
    assert report.parts[2].resized == 2 * 3 and report.parts[2].new == 0
    maps = [torch.randn(1, 32 << level, 4, 4) for level in range(3)]
    deltas = [one.head(maps).box_deltas[0] for one in (source, detector)]
    corners = [torch.tensor([[-s / 2, -s / 2, s / 2, s / 2]]) for s in (8, 16, 32) for _ in range(16)]
    anchors = torch.cat(corners)
    boxes = [source.head.box_code.decode(deltas[0], anchors), source.head.box_code.decode(deltas[1], anchors * 4 / 3)]
    torch.testing.assert_close(boxes[1], boxes[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("head", [OF_CELLS["head"], PRESETS["litepan320_small"].head], ids=["exponentials", "bins"])
def test_distances_are_the_same_at_another_size(head):
    """In pixels, of the first cell of each map: whatever share of the input the anchors' sides are."""
    source = whole("distances", class_names=("cat",), head=head)
    detector = whole("distances", class_names=("cat",), head=head, image_size=128)
    report = transfer_weights(detector, Checkpoint(source.config, source.state_dict()))
    assert (report.parts[2].resized, report.parts[2].new, report.kept_classes) == (0 if head.bins else 4, 0, ("cat",))
    places = [torch.randn(1, feature.channels, 1, 1) for feature in source.neck.feature_maps]
    first = []
    for one in (source, detector):
        grids = one.config.grid_sizes
        deltas = one.head([place.expand(-1, -1, *grid) for place, grid in zip(places, grids, strict=True)]).box_deltas
        starts = [sum(rows * columns for rows, columns in grids[:level]) for level in range(4)]
        sides = [float(sides[0, 0]) for sides in one.config.anchors.sides(one.config.input.size)]
        first.append(deltas[0, starts] * torch.tensor(sides)[:, None])
    torch.testing.assert_close(first[1], first[0], rtol=1e-4, atol=1e-4)


def test_a_head_of_another_depth_is_new():
    source = whole("distances", class_names=("cat",))
    head = source.config.head.changed(depth=1)
    report = transfer_weights(
        whole("distances", class_names=("cat",), head=head), Checkpoint(source.config, source.state_dict())
    )
    assert report.parts[2].loaded == 0 and report.parts[2].new > 0
    assert (report.kept_classes, report.new_classes, report.left_classes) == ((), ("cat",), ("cat",))
