"""YOLOX-Nano and Tiny, under the published names: the scores and boxes that their own arithmetic gives."""

from __future__ import annotations

import runpy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import ssdlite
from ssdlite.checkpoint import save_checkpoint
from ssdlite.config import COCO_NAMES
from ssdlite.detector import Detector, detector_from_config
from ssdlite.errors import CheckpointError, ConfigError
from ssdlite.heads.base import class_scores
from ssdlite.weights import Imported, ImportOptions, from_tensors
from ssdlite.weights.pytorch.yolox import read_yolox, unfold_focus

reference: Any = runpy.run_path(str(Path(__file__).with_name("yolox_layouts.py")))
State = dict[str, Tensor]
STEMS = {"YOLOX-Nano": 16, "YOLOX-Tiny": 24, "YOLOX-S": 32}
NAMES = ("cat", "dog", "bird")
STEM = "backbone.backbone.stem.conv.conv.weight"


@cache
def make_state(name: str, classes: int = 3) -> State:
    state: State = reference["make_state"](STEMS[name], depthwise=name == "YOLOX-Nano", classes=classes)
    return state


def read(state: State, **options: Any) -> Imported:
    return read_yolox(state, "x.pth", ImportOptions(**{"class_names": NAMES} | options))


@dataclass(frozen=True)
class Case:
    name: str
    state: State
    imported: Imported

    @property
    def detector(self) -> Detector:
        return self.imported.checkpoint.build_detector().eval()


@pytest.fixture(scope="module", params=["YOLOX-Nano", "YOLOX-Tiny"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Through the file that the project's training writes, and the public function."""
    state, path = make_state(request.param), tmp_path_factory.mktemp("yolox") / "x.pth"
    momentum = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.01, "params": [0]}]}
    torch.save({"start_epoch": 300, "model": state, "optimizer": momentum, "best_ap": np.float64(0.258)}, path)
    return Case(request.param, state, ssdlite.import_weights(path, class_names=NAMES))


@torch.no_grad()
def test_scores_and_boxes_are_those_of_the_layouts_arithmetic(case: Case) -> None:
    detector = case.detector
    pictures = torch.randint(0, 256, (2, 3, 416, 416), generator=torch.Generator().manual_seed(3)).to(torch.uint8)
    pictures[:, 0] //= 2  # so that the order of colours shows
    scores, boxes = reference["run"](case.state, pictures)
    assert scores.shape == (2, 3549, 3) and scores.std() > 0.1
    outputs = detector(pictures)
    torch.testing.assert_close(class_scores(outputs.class_logits, "sigmoid"), scores, rtol=0, atol=2e-5)
    found = detector.head.box_code.decode(outputs.box_deltas, detector.anchors)
    assert (boxes[..., 2:] - boxes[..., :2]).max() > 100
    torch.testing.assert_close(found / 416, boxes / 416, rtol=0, atol=5e-6)


@pytest.mark.parametrize(
    ("name", "parameters", "gigaflops"),
    [("YOLOX-Nano", 0.91, 1.08), ("YOLOX-Tiny", 5.06, 6.45), ("YOLOX-S", 8.97, 26.80)],
)
def test_published_sizes(name: str, parameters: float, gigaflops: float) -> None:
    """The table in the project's README (S: 9.0 and 26.8). Its counter, thop, takes a batch norm for two operations a
    value, and the project counts a multiplication and an addition as two."""
    config = read(make_state(name, 80), class_names=None).checkpoint.config
    assert config.class_names == COCO_NAMES
    with torch.device("meta"):
        detector = detector_from_config(config).eval()
        assert round(sum(one.numel() for one in detector.parameters()) / 1e6, 2) == parameters
        of_norms = 0

        def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
            nonlocal of_norms
            of_norms += 2 * output.numel()

        for module in detector.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.register_forward_hook(count)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            detector(torch.empty(1, 3, *config.input.size))
    assert round((counter.get_total_flops() + 2 * of_norms) / 1e9, 2) == gigaflops


def test_the_configuration_is_that_of_the_project(case: Case) -> None:
    config = case.imported.checkpoint.config
    assert case.imported.source == case.name
    assert (config.input.size, config.input.resize, config.class_names) == ((416, 416), "letterbox", NAMES)
    assert (config.input.mean, config.input.std) == ((0.0,) * 3, (1.0,) * 3)
    assert (config.layers.norm_eps, config.layers.norm_momentum) == (1e-3, 0.03)
    assert (config.postprocess.score_threshold, config.postprocess.nms_threshold) == (0.01, 0.65)
    assert config.num_anchors == 52**2 + 26**2 + 13**2
    detector = case.detector
    anchors = (detector.anchors[[0, 1, 52, 52**2, -1]]).tolist()
    assert anchors == [[-4, -4, 4, 4], [4, -4, 12, 4], [-4, 4, 4, 12], [-8, -8, 8, 8], [368, 368, 400, 400]]
    assert {type(module) for module in detector.modules() if "activation" in type(module).__module__} == {nn.SiLU}


def test_every_tensor_is_accounted_for(case: Case) -> None:
    assert {theirs for _, theirs in case.imported.matched} == set(case.state)
    assert not case.imported.left and not case.imported.made


def test_it_is_an_ordinary_checkpoint(tmp_path: Path) -> None:
    checkpoint = read(make_state("YOLOX-Nano"), image_size=96).checkpoint
    save_checkpoint(checkpoint, tmp_path / "model.pt")
    loaded = ssdlite.load_detector(tmp_path / "model.pt")
    assert loaded.config == checkpoint.config and torch.equal(loaded.anchors, checkpoint.build_detector().anchors)
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 96, 96), np.uint8)
    expected, found = loaded.infer_batch(images), ssdlite.Predictor(loaded).infer_batch(images)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_focus_is_a_convolution_of_six_by_six() -> None:
    """One weight at a time: where it sits in the blocks of 2x2 pixels, and in the picture."""
    for place, (red, row, column) in {
        (2, 1, 1): (0, 2, 2),  # red is the third of BGR; the upper left corner of the middle block
        (3, 1, 1): (2, 3, 2),  # lower left, blue
        (7, 0, 2): (1, 0, 5),  # upper right, green
        (11, 2, 0): (0, 5, 1),  # lower right, red
    }.items():
        weight = torch.zeros(1, 12, 3, 3)
        weight[(0, *place)] = 1
        assert unfold_focus(weight).nonzero().tolist() == [[0, red, row, column]]


def test_another_size_of_the_input(tmp_path: Path) -> None:
    detector = read(make_state("YOLOX-Nano"), image_size=320).checkpoint.build_detector().eval()
    assert (detector.config.input.size, detector.config.num_anchors) == ((320, 320), 40**2 + 20**2 + 10**2)
    assert detector.anchors[-1].tolist() == [272, 272, 304, 304]
    pictures = torch.randint(0, 256, (1, 3, 320, 320), dtype=torch.uint8)
    with torch.no_grad():
        outputs = detector(pictures)
    scores, _ = reference["run"](make_state("YOLOX-Nano"), pictures)
    torch.testing.assert_close(class_scores(outputs.class_logits, "sigmoid"), scores, rtol=0, atol=2e-5)


def test_a_row_without_a_name_is_left_out() -> None:
    state = make_state("YOLOX-Nano")
    weights = read(state, class_names=("cat", "???", "bird")).checkpoint.weights
    expected = state["head.cls_preds.1.weight"][[0, 2]]
    assert torch.equal(weights["head.classification.1.0.weight"], expected)


def test_arrays_by_name_are_read_too() -> None:
    arrays = {name: tensor.numpy() for name, tensor in make_state("YOLOX-Nano").items()}
    assert from_tensors(arrays, class_names=NAMES).source == "YOLOX-Nano"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone.C3_p4.conv1.bn.bias": None}, "missing keys: backbone.C3_p4.conv1.bn.bias -> neck.top_down.0.main."),
        ({"head.reg_preds.3.bias": torch.zeros(4)}, "unused keys: head.reg_preds.3.bias"),
        ({"head.obj_preds.1.bias": torch.zeros(3)}, r"head.obj_preds.1.bias -> .*: expected \[1\], got \[3\]"),
        ({"head.cls_preds.1.bias": torch.zeros(9)}, r"head.cls_preds.1.bias -> .*: expected \[3\], got \[9\]"),
        ({STEM: torch.zeros(16, 12, 5, 5)}, r"stem.* -> .*: expected \[16, 3, 6, 6\], got \[16, 12, 5, 5\]"),
        ({STEM: torch.zeros(16, 3, 3, 3)}, r"stem.* -> .*: expected \[16, 3, 6, 6\], got \[16, 3, 3, 3\]"),
        ({STEM: None}, "missing keys: backbone.backbone.stem.conv.conv.weight"),
        ({STEM: torch.zeros(48, 12, 3, 3)}, r"a stem of 16 channels, depthwise \(YOLOX-Nano\), .* got 48"),
        ({STEM: torch.tensor(1.0)}, "got 0 channels, depthwise"),
        ({"backbone.backbone.dark2.1.m.1.conv1.conv.weight": torch.zeros(1)}, "got 16 channels, depthwise, deeper by"),
        ({"head.cls_preds.0.weight": torch.tensor(1.0)}, r"s.0.weight -> .*: expected \[3, 64, 1, 1\], got \[\]$"),
        ({"head.cls_preds.0.bias": torch.zeros(0)}, r"expected 1 values for each class, got \[0\]"),
        ({"head.stems.0.bn.weight": torch.full((64,), torch.nan)}, "not finite in head.stems.0.bn.weight -> head.s"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(changes: dict[str, Tensor | None], message: str) -> None:
    state = {name: tensor for name, tensor in (make_state("YOLOX-Nano") | changes).items() if tensor is not None}
    with pytest.raises(CheckpointError, match=rf"x\.pth: .*{message}"):
        read(state)


def test_a_plain_network_of_nanos_width_is_none_of_them() -> None:
    state = reference["make_state"](16, depthwise=False, classes=3)
    with pytest.raises(CheckpointError, match=r"expected a stem of .*, got 16 channels$"):
        read(state)


def test_options_of_no_use_are_refused() -> None:
    state = make_state("YOLOX-Nano")
    with pytest.raises(ConfigError, match=r"x\.pth: .* multiples of 32, .* is 300; the nearest are 288 and 320$"):
        read(state, image_size=300)
    with pytest.raises(ConfigError, match=r"read as YOLOX-Nano, which has its batch norms' own statistics"):
        read(state, pictures=Path("p"))
    with pytest.raises(ConfigError, match=r"leave out anchor_order"):
        read(state, anchor_order="interpolated_last")
    with pytest.raises(CheckpointError, match=r"the model has 3 classes, but got 2 class names; expected 3$"):
        read(state, class_names=("a", "b"))
