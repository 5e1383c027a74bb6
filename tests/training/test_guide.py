"""The head that guides assignment in training: whose word counts, what learns from it, and that no file has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

import ssdlite
from ssdlite.checkpoint import load_checkpoint
from ssdlite.config import HeadConfig, override
from ssdlite.datasets.shapes import generate_shapes
from ssdlite.detector import Detector, detector_from_config
from ssdlite.errors import CheckpointError, ConfigError
from ssdlite.heads.assigners import TaskAlignedAssigner
from ssdlite.heads.base import Outputs
from ssdlite.heads.boxes import DistanceCode
from ssdlite.heads.losses import QualityFocalLoss
from ssdlite.training.guide import AssignmentGuide, GuidedDetector
from ssdlite.training.options import TrainOptions
from ssdlite.training.runs import resume, train
from ssdlite.training.step import TrainingStep
from ssdlite.training.trainer import Trainer
from tests.cells import CELLS

pytestmark = pytest.mark.usefixtures("without_pictures")
SMALL = {"preset": "litepan320_small", "width_mult": 0.25, "image_size": 64, "batch_size": 8, "amp": "off"}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    generate_shapes(folder, train_images=16, val_images=4, seed=3)
    return folder


def options(shapes: Path, output: Path, **changes: Any) -> TrainOptions:
    given = {**SMALL, "data": str(shapes), "output": str(output), "workers": 0, "epochs": 2, "recipe": "auto"}
    return TrainOptions().override(**{**given, "weights": "none", "assignment_guide": True, **changes})


def small_detector(bins: int = 0) -> Detector:
    torch.manual_seed(0)
    head = HeadConfig(name="distances", score_function="sigmoid", bins=bins)
    names = ("a", "b")
    return detector_from_config(override(CELLS, width_mult=0.25, image_size=(64, 64), class_names=names, head=head))


def one_step(detector: Detector, **changes: Any) -> TrainingStep:
    given = {"loss": "qfl", "matcher": "tal", "box_loss": "giou", "recipe": "ssd", "amp": "off", "device": "cpu"}
    return TrainingStep(detector, TrainOptions().override(**{**given, "assignment_guide": True, **changes}))


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    boxes = torch.tensor([[[8.0, 8, 40, 40]], [[20.0, 10, 60, 50]]])
    return images, boxes, torch.tensor([[0], [1]])


def test_the_guide_chooses_the_anchor_and_the_detector_answers_there() -> None:
    """One anchor may answer for the box. The detector's own boxes are right at the first and half of it at the second;
    the guide's are the other way round."""
    anchors = torch.tensor([[0.0, 0, 10, 10], [10, 10, 20, 20]])  # centres (5, 5) and (15, 15)
    box = torch.tensor([[[0.0, 0, 20, 20]]])
    label = torch.tensor([[0]])
    right = torch.tensor([[0.5, 0.5, 1.5, 1.5], [1.5, 1.5, 0.5, 0.5]])  # left, top, right, bottom in sides of 10
    half = torch.tensor([[0.5, 0.5, 0.5, 1.5], [1.5, 1.5, -0.5, 0.5]])  # [0, 0, 10, 20]
    own = Outputs(torch.zeros(1, 2, 2), torch.stack([right[0], half[1]])[None])
    guide = Outputs(torch.zeros(1, 2, 2), torch.stack([half[0], right[1]])[None])
    loss = QualityFocalLoss(anchors, DistanceCode(), matcher=TaskAlignedAssigner(most=1), box_loss="giou")
    assert loss(own, box, label).box.item() == pytest.approx(0, abs=1e-5)
    assert loss(own, box, label, guide).box.item() == pytest.approx(0.5, abs=1e-5)  # 1 - GIoU of a half
    assert loss(guide, box, label).box.item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("bins", [0, 8])
def test_the_neck_learns_from_the_guide_while_it_is_attached(bins: int) -> None:
    detector = small_detector(bins)
    guided = GuidedDetector(detector, AssignmentGuide(detector))
    images, _, _ = batch()
    for attached in (False, True):
        outputs, guide = guided(images, attached)
        assert guide.box_deltas.shape == outputs.box_deltas.shape
        assert guide.class_logits.shape == outputs.class_logits.shape
        assert (guide.distributions is None) == (bins == 0)
        detector.zero_grad(set_to_none=True)
        guide.class_logits.sum().backward()
        assert all(one.grad is None for one in detector.head.parameters())
        assert any(one.grad is not None for one in detector.neck.parameters()) == attached
        assert all(one.grad is not None for one in guided.guide.tower.parameters())


def test_a_guide_of_wide_maps_is_no_wider_than_256_channels() -> None:
    """SSDLite's maps have up to 1280: 236 M weights where this has 3.5."""
    guide = AssignmentGuide(ssdlite.build_detector(num_classes=3, image_size=96))
    assert guide.tower[0][0].weight.shape == (256, 256, 3, 3)  # type: ignore[index, union-attr]


def test_a_guide_is_attached_for_a_thirtieth_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    step = one_step(small_detector())
    seen: list[bool] = []
    forward = GuidedDetector.forward

    def noted(self: GuidedDetector, images: torch.Tensor, attached: bool) -> tuple[Outputs, Outputs]:
        seen.append(attached)
        return forward(self, images, attached)

    monkeypatch.setattr(GuidedDetector, "forward", noted)
    for progress in (0.0, 9 / 300, 10 / 300, 0.9):
        step.progress = progress
        step(*batch())
    assert seen == [True, True, False, False]


def test_the_guide_and_the_detector_are_trained_and_the_detector_is_saved() -> None:
    plain, guided = one_step(small_detector(), assignment_guide=False), one_step(small_detector())
    assert guided.guide is not None
    before = [one.detach().clone() for one in guided.guide.parameters()]
    losses, own = guided(*batch()), plain(*batch())
    assert losses.total.item() > own.total.item()  # the guide's own losses beside
    changed = [not torch.equal(old, new) for old, new in zip(before, guided.guide.parameters(), strict=True)]
    assert sum(changed) > len(changed) / 2
    assert guided.evaluated.state_dict().keys() == plain.evaluated.state_dict().keys()
    assert plain.state()["guide"] is None


def test_processes_share_the_gradients_of_both(tmp_path: Path) -> None:
    alone, shared = one_step(small_detector()), one_step(small_detector())
    assert alone.guide is not None and shared.guide is not None
    shared.guide.load_state_dict(alone.guide.state_dict())
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        shared.share_gradients()
        for progress in (0.0, 0.5):
            alone.progress = shared.progress = progress
            assert shared(*batch()).total.item() == pytest.approx(alone(*batch()).total.item(), rel=1e-5)
    finally:
        distributed.destroy_process_group()


def test_a_stopped_and_resumed_run_ends_with_the_same_weights(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(options(shapes, tmp_path / "whole"))
    finish = Trainer._finish_epoch

    def stop(self: Trainer, row: dict[str, Any], metrics: Any) -> None:
        finish(self, row, metrics)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_finish_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            train(options(shapes, tmp_path / "broken"))
    torch.manual_seed(99)
    resume(tmp_path / "broken")
    whole, resumed = (load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "broken"))
    assert all(torch.equal(resumed.weights[name], whole.weights[name]) for name in whole.weights)
    for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        own = row["class_loss"] + 2 * row["box_loss"] + 0.25 * row["distribution_loss"]
        assert row["loss"] == pytest.approx(own + row["guide_loss"], rel=1e-4)
    guides = whole.training["guide"], resumed.training["guide"]
    assert guides[0] and all(torch.equal(guides[0][name], guides[1][name]) for name in guides[0])

    best = load_checkpoint(tmp_path / "whole" / "best.pt")
    fresh = ssdlite.build_detector("litepan320_small", width_mult=0.25, image_size=64, num_classes=3)
    assert best.weights.keys() == fresh.state_dict().keys()
    assert "guide" not in best.training
    assert json.loads((tmp_path / "whole" / "config.json").read_text())["options"]["loss"]["assignment_guide"] is True

    content = torch.load(tmp_path / "whole" / "last.pt", weights_only=True)
    content["training"]["guide"] = None
    torch.save(content, tmp_path / "whole" / "last.pt")
    with pytest.raises(CheckpointError, match="`guide`: expected its weights of an assignment guide, got no weights"):
        resume(tmp_path / "whole")


def test_an_assigner_that_looks_at_no_predictions_is_refused_before_there_is_a_folder(
    shapes: Path, tmp_path: Path
) -> None:
    message = "--assignment-guide: expected an assigner that looks at predictions, simota or tal, got atss; ask for one"
    with pytest.raises(ConfigError, match=message):
        train(options(shapes, tmp_path / "run", matcher="atss"))
    assert not (tmp_path / "run" / "config.json").exists()
