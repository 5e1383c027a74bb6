"""pytorch-ssd's three MobileNet layouts, under the published names: the outputs that their own arithmetic gives."""

from __future__ import annotations

import runpy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ssdlite
from ssdlite.anchors import generate_anchors
from ssdlite.checkpoint import save_checkpoint
from ssdlite.detector import Detector
from ssdlite.errors import CheckpointError, ConfigError
from ssdlite.weights import Imported, ImportOptions
from ssdlite.weights.pytorch.ssd import is_pytorch_ssd, pytorch_ssd_anchors, read_pytorch_ssd

reference: Any = runpy.run_path(str(Path(__file__).with_name("pytorch_ssd_layouts.py")))
State = dict[str, Tensor]
LAYOUTS = ("mb1-ssd", "mb1-ssd-lite", "mb2-ssd-lite")
NAMES = ("cat", "dog", "bird")
PICTURES = torch.randint(0, 256, (1, 3, 300, 300), generator=torch.Generator().manual_seed(3)).to(torch.uint8)


@dataclass(frozen=True)
class Case:
    layout: str
    state: State
    imported: Imported

    @property
    def detector(self) -> Detector:
        return self.imported.checkpoint.build_detector().eval()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four, to measure restored norms on: the built-in scenes take longer."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(4):
        noise = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), noise)
    return folder


@pytest.fixture(scope="module", params=LAYOUTS)
def case(request: pytest.FixtureRequest, pictures: Path) -> Case:
    state = reference["make_state"](request.param, slots=4)
    options = ImportOptions(class_names=NAMES, pictures=None if request.param == "mb2-ssd-lite" else pictures)
    return Case(request.param, state, read_pytorch_ssd(state, "x.pth", options))


NO_NORM = {"weight", "running_mean", "running_var", "num_batches_tracked"}  # that such a convolution gets
COUNTS = {
    "mb1-ssd": 202,
    "mb1-ssd-lite": 6 + 13 * 12 + 4 * 6 + 2 * (5 * 4 + 2),
    "mb2-ssd-lite": 312 + 72 + 2 * (45 + 2),
}


@torch.no_grad()
def test_outputs_and_boxes_are_those_of_the_layouts_arithmetic(case: Case) -> None:
    assert len(case.state) == COUNTS[case.layout]
    confidences, locations = reference["run"](case.layout, case.state, PICTURES)
    assert confidences.shape == (1, 3000, 4) and confidences.std() > 0.1
    detector = case.detector
    outputs = detector(PICTURES)
    size = max(float(confidences.abs().max()), float(locations.abs().max()))
    torch.testing.assert_close(outputs.class_logits, confidences, rtol=0, atol=1e-5 * size)
    torch.testing.assert_close(outputs.box_deltas, locations, rtol=0, atol=1e-5 * size)

    small = outputs.box_deltas / size
    found = detector.head.box_code.decode(small, detector.anchors) / 300
    torch.testing.assert_close(found, reference["boxes"](small, reference["priors"](300)), rtol=0, atol=1e-6)


def test_the_configuration_is_that_of_the_projects(case: Case) -> None:
    config = case.imported.checkpoint.config
    assert (config.input.size, config.class_names, config.input.resize) == ((300, 300), NAMES, "stretch")
    assert (config.input.mean, config.input.std, config.layers.norm_eps) == ((127.0,) * 3, (128.0,) * 3, 1e-5)
    assert (config.head.score_function, config.postprocess.score_threshold, config.postprocess.nms_threshold) == (
        "softmax",
        0.01,
        0.45,
    )
    assert config.postprocess.candidates_per_class == 200
    activations = {type(module) for module in case.detector.modules() if isinstance(module, (nn.ReLU, nn.ReLU6))}
    assert activations == ({nn.ReLU6} if case.layout == "mb2-ssd-lite" else {nn.ReLU})


def test_every_tensor_is_accounted_for(case: Case) -> None:
    imported = case.imported
    taken = {theirs for _, theirs in imported.matched} | {theirs for theirs, _ in imported.left}
    assert taken == set(case.state)
    assert bool(imported.left) == (case.layout == "mb2-ssd-lite")  # biases that a norm's mean takes up
    made = {name.rpartition(".")[2] for name, _ in imported.made}
    assert made == (set() if case.layout == "mb2-ssd-lite" else NO_NORM)


@torch.no_grad()
def test_training_mode_gives_about_the_same(case: Case, pictures: Path) -> None:
    """On what the restored norms were measured on; identity norms as they stand would change everything."""
    if case.layout == "mb2-ssd-lite":
        return  # its norms are its own, with statistics that are not of these pictures
    detector = case.detector
    files = sorted(pictures.iterdir())
    batch = np.stack([cv2.resize(cv2.imread(str(file))[..., ::-1], (300, 300)) for file in files])
    images = torch.from_numpy(batch).permute(0, 3, 1, 2)
    expected = detector(images).class_logits
    found = detector.train()(images).class_logits
    assert (found - expected).abs().mean() < 0.1 * expected.std()


def test_it_is_an_ordinary_checkpoint(case: Case, tmp_path: Path) -> None:
    save_checkpoint(case.imported.checkpoint, tmp_path / "model.pt")
    loaded = ssdlite.load_detector(tmp_path / "model.pt")
    assert loaded.config == case.detector.config
    assert torch.equal(loaded.anchors, case.detector.anchors)


@pytest.mark.parametrize("size", [300, 320, 512, 608])
def test_anchors_are_the_projects_priors(size: int) -> None:
    """At 300 pixels qfgaohao's, at others those of the fork's --resolution."""
    grids = [(cells, cells) for cells, *_ in reference["specs"](size)]
    placed = torch.from_numpy(generate_anchors(pytorch_ssd_anchors(size), (size, size), grids)) / size
    found = torch.cat([(placed[:, :2] + placed[:, 2:]) / 2, placed[:, 2:] - placed[:, :2]], dim=1)
    torch.testing.assert_close(found, reference["priors"](size), rtol=0, atol=1e-6)
    assert bool(pytorch_ssd_anchors(size).steps) == (size != 512)  # which the steps divide evenly


def test_another_size_of_the_input() -> None:
    state = reference["make_state"]("mb2-ssd-lite", slots=4)
    options = ImportOptions(class_names=NAMES, image_size=512)
    detector = read_pytorch_ssd(state, "x.pth", options).checkpoint.build_detector().eval()
    assert (detector.config.input.size, detector.config.num_anchors) == ((512, 512), 6 * (1024 + 256 + 64 + 16 + 4 + 1))


def test_old_files_without_counters() -> None:
    state = {k: v for k, v in reference["make_state"]("mb2-ssd-lite", slots=4).items() if "num_batches" not in k}
    imported = read_pytorch_ssd(state, "x.pth", ImportOptions(class_names=NAMES))
    assert {why for _, why in imported.made} == {"PyTorch before 0.4.1 did not count"}


def test_import_weights_reads_the_file(tmp_path: Path) -> None:
    """Through the public function, old format of PyTorch and labels with background, as the projects write them."""
    state = reference["make_state"]("mb2-ssd-lite", slots=4)
    torch.save(state, tmp_path / "mb2-ssd-lite.pth", _use_new_zipfile_serialization=False)
    imported = ssdlite.import_weights(tmp_path / "mb2-ssd-lite.pth", class_names=["BACKGROUND", *NAMES])
    assert (imported.source, imported.checkpoint.config.class_names) == ("pytorch-ssd mb2-ssd-lite", NAMES)


@pytest.mark.parametrize(
    ("layout", "changes", "names", "message"),
    [
        ("mb1-ssd", {}, None, "the names of its 3 classes are not in the file; give class_names=.*--labels FILE"),
        ("mb1-ssd", {}, ("a", "b"), "3 classes and background, but got 2 class names"),
        ("mb1-ssd", {"extras.2.0.bias": None}, NAMES, "missing keys: extras.2.0.bias -> neck.2.0.1.bias"),
        ("mb1-ssd-lite", {"extras.9.x": torch.zeros(1)}, NAMES, "unused keys: extras.9.x"),
        ("mb2-ssd-lite", {"classification_headers.1.0.bias": torch.zeros(3)}, NAMES, "unused keys: classification_h"),
        (
            "mb2-ssd-lite",
            {"base_net.18.0.weight": torch.zeros(9, 1)},
            NAMES,
            r"base_net.18.0.weight -> backbone.features.18.0.weight: expected \[1280, 320, 1, 1\], got \[9, 1\]",
        ),
        ("mb2-ssd-lite", {"extras.0.conv.0.weight": None}, NAMES, "expected .* one of extras.0.2.weight .mb1-ssd."),
        ("mb2-ssd-lite", {"classification_headers.5.bias": torch.zeros(5)}, NAMES, r"expected 6 values .* got \[5\]"),
    ],
)
def test_what_does_not_fit_is_named(
    layout: str, changes: dict[str, Tensor | None], names: tuple[str, ...] | None, message: str
) -> None:
    state = reference["make_state"](layout, slots=4) | changes
    state = {name: tensor for name, tensor in state.items() if tensor is not None}
    with pytest.raises(CheckpointError, match=rf"x\.pth: .*{message}"):
        read_pytorch_ssd(state, "x.pth", ImportOptions(class_names=names))


def test_a_narrower_network_is_refused() -> None:
    """--mb2-width-mult of the fork cuts channels as we do not."""
    state = reference["make_state"]("mb2-ssd-lite", slots=4) | {"base_net.0.0.weight": torch.zeros(16, 3, 3, 3)}
    with pytest.raises(
        CheckpointError, match=r"base_net.0.0.weight -> .*: expected \[32, 3, 3, 3\], got \[16, 3, 3, 3\]"
    ):
        read_pytorch_ssd(state, "x.pth", ImportOptions(class_names=NAMES))


def test_pictures_have_no_use_where_there_are_norms() -> None:
    state = reference["make_state"]("mb2-ssd-lite", slots=4)
    with pytest.raises(ConfigError, match=r"x.pth: read as pytorch-ssd mb2-ssd-lite, .* \(--pictures p\); leave them"):
        read_pytorch_ssd(state, "x.pth", ImportOptions(class_names=NAMES, pictures=Path("p")))


def test_layouts_are_recognised() -> None:
    for layout in LAYOUTS:
        assert is_pytorch_ssd(reference["make_state"](layout, slots=2).keys())
    assert not is_pytorch_ssd(["base_net.0.weight", "extras.0.weight"])
