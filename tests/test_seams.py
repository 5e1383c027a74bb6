"""Each part of the network can be another: toys that are defined here alone are trained, stored, asked and exported."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ssdlite
from ssdlite.anchors import AnchorConfig
from ssdlite.backbones import BACKBONES, Backbone, FeatureMap, LayerConfig
from ssdlite.backbones.base import group_by_stride
from ssdlite.cli import main
from ssdlite.config import PRESETS, BackboneConfig, DetectorConfig, HeadConfig, InputConfig, NeckConfig
from ssdlite.datasets.shapes import generate_shapes
from ssdlite.errors import ConfigError
from ssdlite.heads import HEADS, NECKS, BoxCode, Head, Neck, Outputs
from ssdlite.runtime import load_model


class ThreeLayers(Backbone):
    """Strides of 4, 8 and 16, the last two given to the detector."""

    def __init__(
        self,
        *,
        width_mult: float,
        num_classes: int | None,
        dropout: float = 0.0,
        strides: Collection[int],
        layers: LayerConfig,
    ) -> None:
        super().__init__()
        width = int(32 * width_mult)
        self.features = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, width, 4, stride=4), nn.BatchNorm2d(width), nn.ReLU()),
            nn.Sequential(nn.Conv2d(width, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU()),
            nn.Sequential(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.BatchNorm2d(2 * width)),
        )
        self.classifier = nn.Identity()
        self.stages = group_by_stride([4, 2, 2])
        self.taps = (1,)
        self.feature_maps = (FeatureMap(width, 8, activated=True), FeatureMap(2 * width, 16, activated=False))


class TopDown(Neck):
    """The coarse map, brought to the channels of all and added to the finer one (arXiv 1612.03144, figure 3)."""

    def __init__(self, inputs: Sequence[FeatureMap], config: DetectorConfig) -> None:
        super().__init__()
        (channels,) = config.neck.channels
        self.lateral = nn.ModuleList(nn.Conv2d(one.channels, channels, 1) for one in inputs)
        self.feature_maps = tuple(FeatureMap(channels, one.stride, activated=False) for one in inputs)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        fine, coarse = (lateral(one) for lateral, one in zip(self.lateral, maps, strict=True))
        return [fine + nn.functional.interpolate(coarse, scale_factor=2.0), coarse]


class CornerCode(BoxCode):
    """How far each corner is from the anchor's, in sides of the anchor."""

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        return (boxes - anchors) / self._sides(anchors)

    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        return anchors + deltas * self._sides(anchors)

    def _sides(self, anchors: Tensor) -> Tensor:
        size = anchors[..., 2:] - anchors[..., :2]
        return torch.cat([size, size], dim=-1)


class OneAnchorHead(Head):
    """One convolution for all maps and both tasks."""

    default_loss = "focal"
    default_assigner = "ssd"

    def __init__(self, inputs: Sequence[FeatureMap], config: DetectorConfig) -> None:
        super().__init__()
        self.box_code = CornerCode()
        self.columns = config.num_classes + 1 + 4
        self.both = nn.Conv2d(inputs[0].channels, self.columns, 1)

    def forward(self, maps: Sequence[Tensor]) -> Outputs:
        values = torch.cat([self.both(one).flatten(2).transpose(1, 2) for one in maps], dim=1)
        return Outputs(values[..., :-4], values[..., -4:])


NAMES = ("circle", "square", "triangle")
TOY = DetectorConfig(
    backbone=BackboneConfig(name="three_layers"),
    neck=NeckConfig(name="top_down", channels=(24,)),
    head=HeadConfig(name="one_anchor", score_function="sigmoid"),
    input=InputConfig(size=(64, 96)),
    strides=(8, 16),
    anchors=AnchorConfig((((0.2, 0.2),), ((0.5, 0.5),))),
    class_names=NAMES,
)


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What somebody adds: three entries, and a preset that names them."""
    monkeypatch.setitem(BACKBONES, "three_layers", ThreeLayers)
    monkeypatch.setitem(NECKS, "top_down", TopDown)
    monkeypatch.setitem(HEADS, "one_anchor", OneAnchorHead)
    monkeypatch.setitem(PRESETS, "toy", TOY)
    return


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    generate_shapes(tmp_path / "shapes", train_images=16, val_images=4, seed=3)
    return tmp_path / "shapes"


def test_toys_go_all_the_way(shapes: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ["--data", str(shapes), "--preset", "toy", "--epochs", "2", "--batch-size", "8"]
    assert main(["train", *arguments, "--workers", "0", "--amp", "off", "--output", str(run)]) == 0

    detector = ssdlite.load_detector(run / "best.pt")
    assert isinstance(detector.backbone, ThreeLayers)
    assert isinstance(detector.neck, TopDown)
    assert isinstance(detector.head.box_code, CornerCode)
    assert detector.config.backbone.name == "three_layers"
    assert detector.anchors.shape == (8 * 12 + 4 * 6, 4)

    picture = np.random.default_rng(0).integers(0, 256, (100, 80, 3), np.uint8)
    (plain,) = detector.predict(picture, score_threshold=0.0)
    (quick,) = ssdlite.Predictor(detector).predict(picture, score_threshold=0.0)
    assert len(plain) > 3
    np.testing.assert_allclose(quick.scores, plain.scores, atol=1e-5)

    bundle = tmp_path / "bundle"
    assert main(["export", str(run / "best.pt"), "--output", str(bundle), "--variant", "decoded", "nms"]) == 0
    for file in ("decoded_fp32.onnx", "nms_fp32.onnx"):
        (exported,) = load_model(bundle, file).predict(picture, score_threshold=0.0)
        np.testing.assert_allclose(exported.scores[:20], plain.scores[:20], atol=1e-4)
        np.testing.assert_allclose(exported.boxes[:20], plain.boxes[:20], atol=0.05)
        assert exported.labels[:20].tolist() == plain.labels[:20].tolist()

    tuned = ["--weights", str(run / "best.pt"), "--freeze-stages", "3", "--epochs", "1", "--batch-size", "8"]
    more = ["--workers", "0", "--amp", "off", "--output", str(tmp_path / "tuned")]
    assert main(["train", "--data", str(shapes), *tuned, *more]) == 0
    after = ssdlite.load_detector(tmp_path / "tuned" / "last.pt").state_dict()
    before = detector.state_dict()
    kept = {name for name, tensor in before.items() if torch.equal(tensor, after[name])}
    assert {name for name in before if name.startswith("backbone.features.1.")} <= kept  # of the stage of stride 8
    assert "backbone.features.2.0.weight" not in kept
    assert "neck.lateral.0.weight" not in kept


def test_deltas_of_another_box_code_are_not_exported_raw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ssdlite.checkpoint import Checkpoint, save_checkpoint
    from ssdlite.detector import detector_from_config

    save_checkpoint(Checkpoint(TOY, detector_from_config(TOY).state_dict()), tmp_path / "toy.pt")
    assert main(["export", str(tmp_path / "toy.pt"), "--output", str(tmp_path / "b"), "--variant", "raw"]) == 2
    assert "raw: expected a head with the CenterSizeCode or DistanceCode, got CornerCode" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (
            {"backbone": BackboneConfig(name="three_layer")},
            "unknown backbone .three_layer.; did you mean .three_layers",
        ),
        ({"neck": NeckConfig(name="top_dwn")}, "unknown neck 'top_dwn'; did you mean 'top_down'"),
        ({"head": HeadConfig(name="two_anchors")}, "unknown head 'two_anchors'"),
        ({"strides": (8, 32)}, r"strides: expected maps of \(8, 32\), but three_layers and top_down give \(8, 16\)"),
    ],
)
def test_parts_that_are_not_there_or_do_not_fit_are_named(part: dict[str, object], message: str) -> None:
    from ssdlite.detector import detector_from_config

    with pytest.raises(ConfigError, match=message):
        detector_from_config(TOY.changed(**part))
