"""PicoDet of PaddleDetection: a re-creation of its published arithmetic, and the detector that its files become."""

from __future__ import annotations

import pickle
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import ssdlite
from ssdlite.checkpoint import save_checkpoint
from ssdlite.config import COCO_NAMES
from ssdlite.errors import CheckpointError, ConfigError
from ssdlite.tools import import_weights as command
from ssdlite.weights import from_tensors, import_weights

layout: Any = runpy.run_path(str(Path(__file__).with_name("picodet_layout.py")))
NAMES = ("cat", "dog", "bird")
PICTURE = torch.randint(0, 256, (1, 3, 128, 128), generator=torch.Generator().manual_seed(3)).to(torch.uint8)


def state_of(width: float = 0.35, channels: int = 32, depth: int = 2, num_classes: int = 3) -> dict[str, Any]:
    return dict(layout["make_state"](width, channels, depth, num_classes))


def saved(path: Path, state: dict[str, Any]) -> Path:
    path.write_bytes(pickle.dumps(state | {"StructuredToParameterName@@": dict.fromkeys(state, "w_0")}, protocol=4))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return saved(tmp_path / "picodet.pdparams", state_of())


@torch.no_grad()
@pytest.mark.parametrize(
    ("shape", "side"),
    [((0.75, 96, 2, 80), 320), ((0.35, 96, 2, 80), 320), ((0.35, 40, 4, 3), 192), ((1.5, 32, 1, 2), 224)],
    ids=["S", "XS", "deep", "wide"],
)
def test_scores_and_boxes_are_those_of_the_published_arithmetic(
    tmp_path: Path, shape: tuple[float, int, int, int], side: int
) -> None:
    """In float64, as random layers make much of rounding. 224 is no multiple of 64: some cells reach outside."""
    state, num_classes = state_of(*shape), shape[3]
    names = None if num_classes == 80 else NAMES[:num_classes]
    imported = import_weights(
        saved(tmp_path / "a.pdparams", state), class_names=names, image_size=None if side == 320 else side
    )
    config = imported.checkpoint.config
    assert config.class_names == (names or COCO_NAMES)
    detector = imported.checkpoint.build_detector().double().eval()
    picture = torch.randint(0, 256, (1, 3, side, side), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    scores, boxes = layout["run"]({name: array.astype(np.float64) for name, array in state.items()}, picture)
    assert scores.std() > 0.05 and scores.max() > 0.3
    outputs = detector(picture)
    found = outputs.class_logits[..., 1:].sigmoid()
    torch.testing.assert_close(found.double(), scores, rtol=0, atol=1e-4)
    decoded = detector.head.box_code.decode(outputs.box_deltas.double(), detector.anchors.double())
    torch.testing.assert_close(decoded, boxes, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("width", "channels", "depth", "millions_of_parameters", "billions_of_flops"),
    [
        # configs/picodet/README.md: 0.70, 1.18, 3.46 and 5.80 M, cut; GFLOPs of two for each multiply-add
        (0.35, 96, 2, 0.704, 0.67),
        (0.75, 96, 2, 1.186, 0.97),
        (1.5, 128, 4, 3.465, 2.57),
        (2.0, 160, 4, 5.804, 4.20),
    ],
)
def test_published_sizes(
    width: float, channels: int, depth: int, millions_of_parameters: float, billions_of_flops: float
) -> None:
    network = from_tensors(state_of(width, channels, depth, 80)).checkpoint.build_detector().eval().to("meta")
    background = 4 * (channels + 1)  # a row of the classifier on each map that theirs has not
    assert sum(one.numel() for one in network.parameters()) - background == pytest.approx(
        millions_of_parameters * 1e6, abs=1000
    )
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, 3, 320, 320, device="meta"))
    assert counter.get_total_flops() / 1e9 == pytest.approx(billions_of_flops, rel=0.015)


def test_the_configuration_is_that_of_the_project(file: Path) -> None:
    config = import_weights(file, class_names=NAMES).checkpoint.config
    assert (config.backbone.name, config.backbone.width_mult) == ("lcnet", 0.35)
    assert (config.input.size, config.input.resize) == ((320, 320), "stretch")
    assert (config.input.mean, config.input.std) == ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    assert (config.layers.norm_eps, config.layers.activation) == (1e-5, "hardswish")
    assert (config.strides, config.num_anchors) == ((8, 16, 32, 64), 1600 + 400 + 100 + 25)
    after = config.postprocess
    assert (after.score_threshold, after.nms_threshold, after.max_detections) == (0.025, 0.6, 100)
    assert config.head.score_function == "sigmoid"


def test_every_tensor_is_accounted_for(file: Path) -> None:
    state = state_of()
    imported = import_weights(file, class_names=NAMES)
    taken = {theirs for _, theirs in imported.matched} | {theirs for theirs, _ in imported.left}
    assert taken == set(state)
    assert sorted(name for name, _ in imported.left) == [
        "head.distribution_project.project",
        *(f"head.p{level}_feat.scale_reg" for level in (3, 4, 5, 6)),
    ]
    assert {why for _, why in imported.made} == {"PaddlePaddle does not count batches"}


def test_predictors_may_stand_in_the_file_twice_or_by_their_other_name(file: Path) -> None:
    """Since release 2.5 they are entries of a list as well."""
    plain = import_weights(file, class_names=NAMES).checkpoint.weights
    state = state_of()
    listed = {
        f"head.head_{kind}_list.{level}.{entry}": state[f"head.head_{kind}{level}.{entry}"]
        for kind in ("cls", "reg")
        for level in range(4)
        for entry in ("weight", "bias")
    }
    first = [name for name in state if name.startswith(("head.head_cls", "head.head_reg"))]
    for entries in (state | listed, {name: state[name] for name in state if name not in first} | listed):
        found = import_weights(saved(file, entries), class_names=NAMES).checkpoint.weights
        assert all(torch.equal(found[name], plain[name]) for name in plain)
    listed["head.head_cls_list.2.bias"] = listed["head.head_cls_list.2.bias"] + 1
    with pytest.raises(CheckpointError, match=r"head.head_cls_list.2.bias and head.head_cls2.bias are one layer and"):
        import_weights(saved(file, state | listed), class_names=NAMES)


def test_a_size_that_nobody_gave_is_told(file: Path) -> None:
    note = "the file does not say the size of its input: taken as 320 x 320, --image-size 416 gives another"
    assert import_weights(file, class_names=NAMES).notes == (note,)
    assert import_weights(file, class_names=NAMES, image_size=416).notes == ()


def test_it_is_a_whole_detector_and_no_backbone(file: Path) -> None:
    with pytest.raises(CheckpointError, match="weights of a whole detector, expected those of a backbone"):
        ssdlite.build_detector(num_classes=2, image_size=96, backbone_weights=file)
    file.write_bytes(pickle.dumps({"fc.weight": np.zeros(2, np.float32)}, protocol=4))
    with pytest.raises(CheckpointError, match=r"expected the state dict of torchvision's .* such as fc.weight"):
        ssdlite.build_detector(num_classes=2, image_size=96, backbone_weights=file)


def test_rows_of_no_class_are_dropped(file: Path) -> None:
    """As of every sigmoid classifier; the numbers of the rows become category ids."""
    whole = import_weights(file, class_names=NAMES).checkpoint.weights
    part = import_weights(file, class_names=("cat", "???", "bird")).checkpoint
    assert (part.config.class_names, part.config.category_ids) == (("cat", "bird"), (1, 3))
    name = "head.classification.0.0.weight"
    assert torch.equal(part.weights[name], whole[name][[0, 1, 3]])
    assert not whole[name][0].any()  # background


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"neck.first_top_conv.bn1._mean": None},
            "missing keys: neck.first_top_conv.bn1._mean -> neck.add_entering.0.d",
        ),
        ({"head.extra": np.zeros(2, np.float32)}, "unused keys: head.extra"),
        (
            {"head.cls_align.1.dwconv.weight": np.zeros((1, 32, 3, 3), np.float32)},
            r"head.cls_align.1.dwconv.weight -> head.alignments.1.0.0.weight: expected \[1, 32, 5, 5\], got \[1, 32, 3",
        ),
        (
            {"head.head_cls3.bias": np.zeros(2, np.float32)},
            r"head.head_cls3.bias -> head.classification.3.0.bias: expected \[4\], got \[2\]",
        ),
        ({"backbone.conv1.conv.weight": None}, "missing keys: backbone.conv1.conv.weight"),
        ({"head.head_cls0.bias": None}, "missing keys: head.head_cls0.bias"),
        (
            {"backbone.conv1.conv.weight": np.zeros((20, 3, 3, 3), np.float32)},
            "have 20 and 176 channels; expected LCNet",
        ),
        (
            {"neck.conv_t.convs.0.conv.weight": np.array(1, np.float32)},
            r"of another shape: neck.conv_t.convs.0.conv.weight: expected filters, got \[\]$",
        ),
        (
            {"backbone.conv1.conv.weight": np.zeros(16, np.float32)},
            r"backbone.conv1.conv.weight: expected filters, got \[16",
        ),
        (
            {"head.head_cls1.weight": np.array(1, np.float32)},
            r"head.head_cls1.weight -> .*: expected \[4, 32, 1, 1\], got \[\]",
        ),
        ({"head.head_reg0.bias": np.zeros(4, np.float32)}, "read as PaddleDetection's PicoDet, but bins: .* got 1$"),
        (
            {f"head.conv_feat.cls_conv_dw0.{number}.conv.weight": np.zeros(1, np.float32) for number in range(12)},
            "read as PaddleDetection's PicoDet, but depth: .* got 12$",
        ),
        (
            {"neck.conv_t.convs.0.conv.weight": np.zeros((9000, 176, 1, 1), np.float32)},
            "read as PaddleDetection's PicoDet, but channels: ",
        ),
        (
            {"backbone.blocks3.0.pw_conv.bn._variance": np.full(24, np.nan, np.float32)},
            "values that are not finite in ",
        ),
        (
            {"neck.conv_t.convs.2.bn.bias": np.zeros(32, np.int64)},
            "no floats, so quantised or something else: neck.conv",
        ),
    ],
)
def test_what_does_not_fit_is_named(file: Path, changes: dict[str, Any], message: str) -> None:
    state = {name: value for name, value in (state_of() | changes).items() if value is not None}
    with pytest.raises(CheckpointError, match=rf"picodet\.pdparams: .*{message}"):
        import_weights(saved(file, state), class_names=NAMES)


def test_what_has_no_use_is_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"which has its batch norms' own statistics"):
        import_weights(file, class_names=NAMES, pictures=tmp_path)
    with pytest.raises(ConfigError, match="leave out anchor_order"):
        import_weights(file, class_names=NAMES, anchor_order="interpolated_last")
    with pytest.raises(
        CheckpointError, match=r"the names of its 3 classes are not in the file; give class_names=.*--labels"
    ):
        import_weights(file)


def test_the_command_recognises_it_and_the_checkpoint_is_an_ordinary_one(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        command.main([str(file), "--class-names", *NAMES, "--image-size", "128", "--output", str(tmp_path / "m.pt")])
        == 0
    )
    assert "PaddleDetection's PicoDet" in capsys.readouterr().out
    detector = ssdlite.load_detector(tmp_path / "m.pt")
    (found,) = detector.predict(PICTURE[0].permute(1, 2, 0).numpy(), score_threshold=0.3)
    assert len(found) > 3 and set(found.labels.tolist()) <= {0, 1, 2}


def test_it_trains_on(file: Path, tmp_path: Path) -> None:
    """A step with finite gradients everywhere."""
    imported = import_weights(file, class_names=NAMES, image_size=64)
    save_checkpoint(imported.checkpoint, tmp_path / "m.pt")
    detector = ssdlite.load_detector(tmp_path / "m.pt").train()
    outputs = detector(PICTURE[..., :64, :64].expand(2, -1, -1, -1))
    (outputs.class_logits.mean() + outputs.box_deltas.mean()).backward()
    missing = [name for name, one in detector.named_parameters() if one.grad is None or not one.grad.isfinite().all()]
    assert missing == []
    assert any(isinstance(module, nn.Hardswish) for module in detector.head.modules())
