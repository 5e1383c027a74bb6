"""NanoDet-Plus-m under the published names: the outputs that its own arithmetic gives, and files of every kind."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import ssdlite
from ssdlite.checkpoint import save_checkpoint
from ssdlite.cli import main
from ssdlite.config import COCO_NAMES
from ssdlite.detector import detector_from_config
from ssdlite.errors import CheckpointError, ConfigError
from ssdlite.heads.assigners import build_assigner
from ssdlite.heads.losses import LOSSES
from ssdlite.weights import Imported, ImportOptions, import_weights
from ssdlite.weights.pytorch.nanodet import read_nanodet_plus

reference: Any = runpy.run_path(str(Path(__file__).with_name("nanodet_layout.py")))
State = dict[str, Tensor]
NAMES = ("cat", "dog", "bird")


def pictures(side: int) -> Tensor:
    """One, RGB, of coarse blocks."""
    blocks = torch.randint(0, 256, (1, 3, side // 8, side // 8), generator=torch.Generator().manual_seed(3))
    return blocks.to(torch.uint8).repeat_interleave(8, 2).repeat_interleave(8, 3)


@pytest.fixture(scope="module")
def state() -> State:
    found: State = reference["make_state"]("1.0x", 3)
    return found


def read(state: State, **options: Any) -> Imported:
    return read_nanodet_plus(state, "x.pth", ImportOptions(**{"class_names": NAMES} | options))


def answers(imported: Imported, side: int) -> tuple[Tensor, Tensor]:
    """Class logits without background, and boxes."""
    detector = imported.checkpoint.build_detector().eval()
    outputs = detector(pictures(side))
    return outputs.class_logits[..., 1:], detector.head.box_code.decode(outputs.box_deltas, detector.anchors)


@pytest.mark.parametrize(("size", "side"), [("1.0x", 320), ("1.5x", 160), ("1.0x", 224)])
@torch.no_grad()
def test_logits_and_boxes_are_those_of_the_published_arithmetic(size: str, side: int, tmp_path: Path) -> None:
    """Read from a file through the public API; 64 does not divide the last two sides."""
    published = reference["make_state"](size, 80)
    torch.save({"state_dict": published}, tmp_path / "nanodet-plus-m.pth")
    logits, boxes = reference["run"](published, pictures(side))
    assert logits.shape == (1, sum((-(-side // stride)) ** 2 for stride in (8, 16, 32, 64)), 80)
    assert logits.std() > 0.5 and (boxes[..., 2:] - boxes[..., :2]).std() > 5  # worth comparing

    imported = import_weights(tmp_path / "nanodet-plus-m.pth", image_size=side)
    found_logits, found_boxes = answers(imported, side)
    torch.testing.assert_close(found_logits, logits, rtol=0, atol=1e-4)
    torch.testing.assert_close(found_boxes / side, boxes / side, rtol=0, atol=1e-5)
    assert imported.checkpoint.config.class_names == COCO_NAMES


@pytest.mark.parametrize(
    ("size", "side", "millions_of_parameters", "billions_of_operations"),
    [("1.0x", 320, 1.17, 0.9), ("1.0x", 416, 1.17, 1.52), ("1.5x", 320, 2.44, 1.75), ("1.5x", 416, 2.44, 2.97)],
)
def test_sizes_are_those_of_the_published_table(
    size: str, side: int, millions_of_parameters: float, billions_of_operations: float
) -> None:
    """README.md of the repository, which counts the parameters of convolutions, and a multiply-add as two."""
    config = read(reference["make_state"](size, 80), class_names=COCO_NAMES, image_size=side).checkpoint.config
    detector = detector_from_config(config).eval()
    convolutions = [module for module in detector.modules() if isinstance(module, nn.Conv2d)]
    parameters = sum(one.numel() for module in convolutions for one in module.parameters())
    assert parameters / 1e6 == pytest.approx(millions_of_parameters, abs=0.006)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        detector(torch.zeros(1, 3, side, side))
    assert counter.get_total_flops() / 1e9 == pytest.approx(billions_of_operations, rel=0.006)


def test_the_configuration_is_the_published_one(state: State) -> None:
    imported = read(state)
    config = imported.checkpoint.config
    assert (config.input.size, config.input.resize) == ((320, 320), "stretch")
    assert (config.input.mean, config.input.std) == ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    assert (config.layers.activation, config.layers.norm_eps, config.layers.norm_momentum) == ("leaky_relu", 1e-5, 0.1)
    assert (config.neck.channels, config.neck.kernel_size, config.neck.joint) == ((96,), 5, "ghost")
    assert (config.head.depth, config.head.kernel_size, config.head.bins) == (2, 5, 8)
    assert config.postprocess.to_dict() == {
        "score_threshold": 0.05,
        "nms_threshold": 0.6,
        "candidates_per_class": 300,
        "max_detections": 100,
    }
    detector = imported.checkpoint.build_detector()
    assert {module.negative_slope for module in detector.modules() if isinstance(module, nn.LeakyReLU)} == {0.1}
    assert detector.anchors[[0, 1, -1]].tolist() == [[-4, -4, 4, 4], [4, -4, 12, 4], [224, 224, 288, 288]]
    assert imported.notes == (
        "the file does not say the size of its input: taken as 320 x 320, --image-size 416 gives another",
    )
    assert config.anchors.steps == (8, 16, 32, 64)


def test_every_tensor_is_accounted_for(state: State) -> None:
    imported = read(state)
    assert {theirs for _, theirs in imported.matched} == set(state) - {"head.distribution_project.project"}
    assert imported.left == (("head.distribution_project.project", "the numbers of the bins"),)
    assert imported.made == ()


# -- what a training leaves ------------------------------------------------------------------------------------------


@torch.no_grad()
def test_of_a_trainings_checkpoint_the_averaged_weights_are_taken(state: State, tmp_path: Path) -> None:
    torch.save(reference["lightning_checkpoint"]("1.0x", 3), tmp_path / "model_best.ckpt")
    imported = import_weights(tmp_path / "model_best.ckpt", class_names=NAMES, image_size=96)
    for found, expected in zip(answers(imported, 96), reference["run"](state, pictures(96)), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    reasons = dict(imported.left)
    assert reasons["avg_model.aux_head.gfl_cls.weight"] == "guides the training's assignment"
    assert reasons["model.backbone.conv1.0.weight"] == "not averaged, as the weights taken are"
    assert not any(name.startswith(("model.", "avg_model.aux_")) for _, name in imported.matched)


@torch.no_grad()
def test_without_averages_the_weights_themselves_are_taken(tmp_path: Path) -> None:
    checkpoint = reference["lightning_checkpoint"]("1.0x", 3)
    trained = {name: value for name, value in checkpoint["state_dict"].items() if name.startswith("model.")}
    torch.save(checkpoint | {"state_dict": trained}, tmp_path / "model_last.ckpt")
    imported = import_weights(tmp_path / "model_last.ckpt", class_names=NAMES, image_size=96)
    expected = reference["run"](reference["make_state"]("1.0x", 3, seed=7), pictures(96))
    torch.testing.assert_close(answers(imported, 96)[0], expected[0], rtol=0, atol=1e-4)


def test_a_checkpoint_that_keeps_callbacks_by_their_classes_is_read(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As PyTorch Lightning did before 1.5. The class is not imported: here it is gone when the file is read."""
    module = ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    key = type("ModelCheckpoint", (), {"__module__": module.__name__})
    module.ModelCheckpoint = key  # type: ignore[attr-defined]
    with monkeypatch.context() as patched:
        for name in ("pytorch_lightning", "pytorch_lightning.callbacks"):
            patched.setitem(sys.modules, name, ModuleType(name))
        patched.setitem(sys.modules, module.__name__, module)
        content = {"callbacks": {key: {"best_model_score": torch.tensor(0.3)}}, "state_dict": state}
        torch.save(content, tmp_path / "old.ckpt")
    assert import_weights(tmp_path / "old.ckpt", class_names=NAMES).source == "NanoDet-Plus"


# -- what does not fit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fpn.downsamples.1.pwnorm.bias": None}, "missing keys: fpn.downsamples.1.pwnorm.bias -> neck.halve.1.pointw"),
        (
            {"backbone.stage2.0.branch1.2.weight": None},
            "with ShuffleNetV2, but missing keys: backbone.stage2.0.branch1",
        ),
        ({"fpn.top_down_blocks.0.reduce_conv.conv.weight": torch.zeros(96, 192, 1, 1)}, "unused keys: fpn.top_down_"),
        ({"head.gfl_cls.4.bias": torch.zeros(35)}, r"unused keys: head.gfl_cls.4.bias"),
        (
            {"head.gfl_cls.1.bias": torch.zeros(36)},
            r"head.gfl_cls.1.bias -> head.regression.1.0.bias: expected \[32\], got \[33\] \(\[36\] in the file\)",
        ),
        (
            {"backbone.conv1.0.weight": torch.zeros(24, 4, 3, 3)},
            r"features.0.0.weight: expected \[24, 3, 3, 3\], got \[",
        ),
        (
            {"backbone.stage2.0.branch1.2.weight": torch.zeros(60, 24, 1, 1)},
            r"expected 24 \(width 0.5\), 58 .*, got 60",
        ),
        ({"fpn.downsamples.0.depthwise.weight": torch.zeros(96, 1, 7, 7)}, r"a kernel of 3 or 5, got \[96, 1, 7, 7\]"),
        ({"fpn.reduce_layers.0.conv.weight": torch.zeros(96)}, r"fpn.reduce_layers.0.conv.weight: expected filters"),
        (
            {"head.gfl_cls.0.bias": torch.zeros(20)},
            r"gfl_cls.0.bias: expected 1 values for each class and 32 for boxes, got \[20\]$",
        ),
        ({"head.gfl_cls.0.bias": torch.zeros(32)}, r"for each class and 32 for boxes, got \[32\]$"),
        ({"head.gfl_cls.0.weight": torch.tensor(1.0)}, r"gfl_cls.0.weight -> .*: expected \[4, 96, 1, 1\], got \[\]"),
        ({"head.distribution_project.project": torch.ones(8)}, "expected 0, 1, 2 ..., got other numbers"),
        (
            {"head.distribution_project.project": torch.arange(1.0)},
            "the model has 31 classes, but got 3 class names; expected 31$",
        ),
        ({"backbone.conv1.1.bias": torch.full((24,), torch.nan)}, "not finite in backbone.conv1.1.bias -> "),
    ],
)
def test_what_does_not_fit_is_named(state: State, changes: dict[str, Tensor | None], message: str) -> None:
    changed = {name: tensor for name, tensor in (state | changes).items() if tensor is not None}
    with pytest.raises(CheckpointError, match=message):
        read(changed)


def test_options_without_a_use_are_refused(state: State, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="its batch norms' own statistics: nothing to measure on pictures"):
        read(state, pictures=tmp_path)
    with pytest.raises(ConfigError, match="leave out anchor_order"):
        read(state, anchor_order="interpolated_second")
    with pytest.raises(CheckpointError, match="the names of its 3 classes are not in the file; give class_names"):
        read(state, class_names=None)


def test_it_is_a_whole_detector_and_no_backbone(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="weights of a whole detector, expected those of a backbone"):
        ssdlite.build_detector(num_classes=2, image_size=96, backbone_weights=tmp_path / "weights.pth")


# -- an ordinary checkpoint ------------------------------------------------------------------------------------------


def test_the_command_writes_a_checkpoint(state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": state}, tmp_path / "nanodet.pth")
    (tmp_path / "labels.txt").write_text("cat\ndog\nbird\n")
    output = tmp_path / "nanodet.pt"
    assert main(["import-weights", str(tmp_path / "nanodet.pth"), "--image-size", "96", "--output", str(output)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "NanoDet-Plus" in said and "shufflenet_v2" in said and "pan, distances" in said
    detector = ssdlite.load_detector(output)
    assert (detector.class_names, detector.config.input.size) == (NAMES, (96, 96))
    picture = pictures(96)[0].permute(1, 2, 0).numpy()
    (plain,) = detector.predict(picture, score_threshold=0.05)
    (quick,) = ssdlite.Predictor(detector).predict(picture, score_threshold=0.05)
    assert len(plain) > 5
    torch.testing.assert_close(torch.from_numpy(quick.scores), torch.from_numpy(plain.scores), rtol=0, atol=1e-5)


def test_it_can_be_trained_further(state: State, tmp_path: Path) -> None:
    save_checkpoint(read(state, image_size=96).checkpoint, tmp_path / "nanodet.pt")
    detector = ssdlite.load_detector(tmp_path / "nanodet.pt").train()
    criterion = LOSSES[detector.head.default_loss](
        detector.anchors,
        detector.head.box_code,
        matcher=build_assigner(detector.head.default_assigner, detector.config, detector.anchors.device),
        box_loss=detector.head.default_box_loss,
    )
    outputs = detector(pictures(96).expand(2, -1, -1, -1))
    boxes = torch.tensor([[[8.0, 8, 60, 60]], [[30, 30, 90, 90]]])
    criterion(outputs, boxes, torch.tensor([[0], [2]])).total.backward()
    assert all(bool(torch.isfinite(one.grad).all()) for one in detector.parameters() if one.grad is not None)
    assert sum(one.grad is None for one in detector.parameters()) == 0
